"""A purchase of runs at two sizes: the model behind it, its choice, and the command."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from test_run_groups import two_sizes, write

from curate.cli import cli
from curate.errors import RecipeError
from curate.laws.law import RunTable
from curate.mixture import DomainSupply, Evidence, MixtureOptions, MixtureRequest, SearchOptions
from curate.mixture.purchase import Purchase, RunSize, purchase
from curate.mixture.search.two_sizes import (
    PRIOR_MEAN,
    UNLIKE,
    SizedRuns,
    TwoSizes,
    draw_truths,
    learn,
    simulated_regret,
)

DOMAINS = 4
SIZES = [RunSize(7e7, 1.4e9), RunSize(4e8, 8e9)]


def theta(correlation: float, noise: float) -> np.ndarray:
    parameters = PRIOR_MEAN.copy()
    parameters[UNLIKE] = np.log(max(1 - correlation, 1e-9))
    parameters[-2:] = np.log(noise)
    return parameters


def planted(correlation: float, runs: tuple[int, int], seed: int = 0) -> SizedRuns:
    """Runs of a drawn truth, at different mixtures."""
    rng = np.random.default_rng(seed)
    mixtures = rng.dirichlet(np.ones(DOMAINS), sum(runs))
    truths = draw_truths(TwoSizes(theta(correlation, 0.05)[None]), mixtures, None, rng)
    large = np.arange(sum(runs)) >= runs[0]
    values = np.where(large, truths.values[0, 1], truths.values[0, 0])
    for flag in (False, True):
        values[large == flag] -= values[large == flag].mean()
    return SizedRuns(mixtures, large, values)


def test_the_correlation_between_sizes_is_learnt() -> None:
    rng = np.random.default_rng(0)
    before = learn(None, rng).correlation()
    alike, apart = (learn(planted(value, (40, 25)), rng).correlation() for value in (0.99, 0.2))
    assert alike[0] > 0.95 and alike[1] > 0.8
    assert apart[0] < 0.6
    assert before[2] - before[1] > 2 * (alike[2] - alike[1])


def test_draws_agree_with_the_pilot() -> None:
    """Every draw has the value, level included, of a run that was measured without noise."""
    pilot = planted(0.9, (6, 5))
    exact = TwoSizes(np.repeat(theta(0.9, 1e-4)[None], 8, axis=0))
    truths = draw_truths(exact, pilot.mixtures, pilot, np.random.default_rng(1))
    at = np.arange(11)
    values = truths.values[:, pilot.large.astype(int), at]
    assert np.abs(values - pilot.values).max() < 1e-3
    # At the other size they still differ from draw to draw.
    assert truths.values[:, 1 - pilot.large.astype(int), at].std(axis=0).min() > 5e-4


def test_regret_at_the_limits() -> None:
    rng = np.random.default_rng(2)
    pool = rng.dirichlet(np.ones(DOMAINS), 40)
    every = list(range(40))

    def regret(correlation: float, noise: float, small: list[int], large: list[int]) -> float:
        parameters = theta(correlation, noise)
        model = TwoSizes(np.repeat(parameters[None], 6, axis=0))
        truths = draw_truths(model, pool, None, np.random.default_rng(3))
        return float(simulated_regret(parameters, truths, None, (small, large)).mean())

    nothing = regret(0.9, 1e-3, [], [])
    assert regret(0.0, 1e-3, [], every) < 0.01 * nothing  # everything measured
    assert regret(1.0, 1e-3, every, []) < 0.01 * nothing  # the small size is the large one
    assert regret(0.0, 1e-3, every, []) > 0.5 * nothing  # the small size says nothing
    assert regret(0.9, 1e-3, [], every[:10]) < regret(0.9, 2.0, [], every[:10])  # noise costs


def request_of(table: RunTable | None, **search: object) -> MixtureRequest:
    names = table.domains if table else tuple("abcd")
    domains = tuple(DomainSupply(name, 10**9, float("inf")) for name in names)
    options = MixtureOptions(search=SearchOptions(**search))
    evidence = None if table is None else Evidence(table)
    return MixtureRequest(domains, 10**9, "natural", options, evidence)


def table_of(runs: SizedRuns) -> RunTable:
    size = [SIZES[int(flag)] for flag in runs.large]
    return RunTable(
        domains=tuple("abcd"),
        targets=("x", "y"),
        runs=tuple(f"r{place}" for place in range(len(size))),
        weights=runs.mixtures,
        tokens=np.array([one.tokens for one in size]),
        params=np.array([one.params for one in size]),
        losses=3 * np.exp(runs.values)[:, None] * np.array([[0.9, 1.1]]),
    )


def bought(proposal: Purchase) -> tuple[int, int]:
    pick = proposal.candidates[proposal.best]
    return pick.small, pick.large


def test_as_many_large_runs_as_domains_are_bought_alone() -> None:
    """The pilot's runs count, and it does not matter how alike the sizes are."""
    three, four = (purchase(request_of(None), runs * SIZES[1].flops, SIZES) for runs in (3, 4))
    assert bought(four) == (0, 4) and "with 4 of them, large runs alone" in four.reason
    assert bought(three)[0] > 30 and bought(three)[1] < 3
    pilot = table_of(planted(0.999, (40, 2)))
    with_pilot = purchase(request_of(pilot), 2 * SIZES[1].flops)
    assert with_pilot.model.correlation()[0] > 0.9 and bought(with_pilot) == (0, 2)


def test_fewer_large_runs_than_domains_are_bought_by_expected_regret() -> None:
    for seed, budget in ((0, 3), (1, 3), (2, 2)):
        proposal = purchase(request_of(None, seed=seed), budget * SIZES[1].flops, SIZES)
        pick = proposal.candidates[proposal.best]
        least = min(proposal.candidates, key=lambda row: row.regret)
        alike = least.regret + 2 * least.regret_error
        assert pick.regret <= alike
        assert all(row.regret > alike for row in proposal.candidates if row.large > pick.large)
        assert pick.flops <= budget * SIZES[1].flops and pick.regret < proposal.nothing.regret
        assert len(proposal.sizes()) == len(proposal.design.mixtures) == sum(bought(proposal))
        assert np.allclose(proposal.design.mixtures.sum(axis=1), 1)


def test_a_budget_below_one_large_run_buys_small_ones() -> None:
    proposal = purchase(request_of(None), 0.9 * SIZES[1].flops, SIZES)
    assert bought(proposal)[0] > 10 and bought(proposal)[1] == 0


def test_unlike_sizes_make_small_runs_worth_less() -> None:
    """The expected regret of small runs alone is compared with that of large runs alone."""
    alike, apart = (
        purchase(request_of(table_of(planted(correlation, (40, 8), seed))), 4 * SIZES[1].flops)
        for correlation, seed in ((0.999, 1), (0.0, 5))
    )
    assert alike.model.correlation()[0] > apart.model.correlation()[0] + 0.3
    ratios = [row.candidates[0].regret / row.candidates[-1].regret for row in (alike, apart)]
    assert ratios[0] < 0.6 and ratios[1] > 1


def test_without_a_pilot_the_prior_decides_and_bounds_hold() -> None:
    base = request_of(None)
    capped = replace(base, options=replace(base.options, caps={"a": 0.3}, floors={"b": 0.1}))
    proposal = purchase(capped, 8 * SIZES[1].flops, SIZES)
    assert proposal.pilot == (0, 0) and sum(bought(proposal)) > 0
    mixtures = proposal.design.mixtures
    assert mixtures[:, 0].max() <= 0.3 + 1e-9 and mixtures[:, 1].min() >= 0.1 - 1e-9
    again = purchase(capped, 8 * SIZES[1].flops, SIZES[::-1])
    assert bought(again) == bought(proposal) and np.array_equal(again.design.mixtures, mixtures)
    other = purchase(request_of(None, seed=7), 8 * SIZES[1].flops, SIZES)
    assert not np.array_equal(other.design.mixtures, mixtures)


def test_the_objective_decides_what_regret_is() -> None:
    """A target that only noise moves is none to buy runs for, and another one is."""
    table = two_sizes()
    losses = table.losses.copy()
    losses[:, 0] = 3 * np.exp(0.002 * np.random.default_rng(0).standard_normal(len(losses)))
    table = replace(table, losses=losses)
    still, moved = (
        purchase(request_of(table, objective={name: 1.0}), 1e20) for name in table.targets[:2]
    )
    assert still.nothing.regret < 0.2 * moved.model.effect()
    assert still.model.effect() < 0.5 * moved.model.effect()


@pytest.mark.parametrize(
    ("flops", "sizes", "message"),
    [
        (1e10, SIZES, r"budget of 1e\+10 FLOPs buys no run; one of 7e\+07 parameters"),
        (1e20, None, r"between two sizes, and the runs do not have several.*--sizes 7e7:1.4e9"),
        (1e20, [SIZES[0]] * 2, r"a purchase is between two sizes; --sizes"),
    ],
)
def test_what_cannot_be_bought(flops: float, sizes: list[RunSize] | None, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        purchase(request_of(None), flops, sizes)


def test_the_command_shows_candidates_and_writes_sizes(tmp_path: Path) -> None:
    runs = write(tmp_path / "runs.csv", two_sizes())
    command = ["design", "--runs", str(runs), "--out", str(tmp_path)]
    shown = CliRunner().invoke(cli, [*command, "--flops", "1e20"], env={"COLUMNS": "140"})
    assert shown.exit_code == 0, shown.output
    assert "runs of 70M params, 2B tokens and of 410M params, 8B tokens: expected" in " ".join(
        shown.output.split()
    )
    assert "proposed" in shown.output and "by 40 small and 10 large runs" in shown.output
    fields = json.loads(CliRunner().invoke(cli, [*command, "--flops", "1e20", "--json"]).output)
    pick = fields["purchase"]["candidates"][fields["purchase"]["best"]]
    with (tmp_path / "design.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[:3] == ["run", "params", "tokens"]
    assert [row["params"] for row in rows].count("410000000.0") == pick["large"]
    assert len(rows) == pick["small"] + pick["large"] == len(fields["runs"])
    for wrong, message in (
        (["--flops", "1e20", "-n", "3"], "leave out -n and --strategy"),
        (["--sizes", "1:2,3:4"], "add its budget: --flops 1e20"),
        (["--flops", "1e20", "--sizes", "70M,2"], "expected PARAMS:TOKENS,PARAMS:TOKENS"),
        (["--flops", "nan"], "a budget of nan FLOPs buys no run"),
    ):
        refused = CliRunner().invoke(cli, [*command, *wrong])
        assert message in str(refused.exception), refused.output
