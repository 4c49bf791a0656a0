"""The Pareto front of groups of targets, against a grid of all mixtures."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import slow_if
from method_contract import NAMES, asked, runs
from mixing_laws import Linear, LogLinear, table_of

import curate
from curate.cli import cli
from curate.errors import RecipeError
from curate.laws import LAWS
from curate.laws.law import Array, FittedLaw, RunTable
from curate.mixture import METHODS, Evidence, MixtureRequest, mix
from curate.mixture.front import front
from curate.mixture.search.law_choice import GROUPS
from curate.report.methods import front_table

pytestmark = pytest.mark.usefixtures("small_search")

STEPS = np.linspace(0, 1, 201)
GRID = np.array([(a, b, 1 - a - b) for a in STEPS for b in STEPS if a + b <= 1])


def groups_of(fields: dict[str, Any]) -> Array:
    return np.array([list(point["losses"].values()) for point in fields["points"]])


def planted(seed: int = 0, **search: Any) -> tuple[LogLinear, MixtureRequest]:
    """Four targets; two gain from domain a, two from c."""
    rates = np.array([[-2.0, -1, 0], [-1.5, -1, 0], [0, -1, -2], [0.2, -0.5, -1.5]])
    law = LogLinear(np.random.default_rng(seed).uniform(1, 2, 4), rates)
    table = table_of(law, np.random.default_rng(3).dirichlet(np.ones(3), 24))
    table = dataclasses.replace(table, targets=("a_1", "a_2", "c_1", "c_2"))
    evidence = Evidence(table, asked("mde").evidence.experts)
    search.setdefault("trust_region", False)
    return law, asked("dml", evidence=evidence, **search)


def test_no_mixture_of_a_grid_is_better_for_both_groups() -> None:
    _, request = planted()
    fields = front(request, ["a_*", "c_*"])
    points = groups_of(fields)
    assert len(points) == 11
    assert np.all(np.diff(points[:, 0]) > 0) and np.all(np.diff(points[:, 1]) < 0)
    fitted = LAWS["exponential"].fit(request.evidence.runs)
    losses = fitted.predict(GRID, np.full(len(GRID), np.nan), np.full(len(GRID), np.nan))
    grid = np.stack([losses[:, :2].mean(axis=1), losses[:, 2:].mean(axis=1)], axis=1)
    for point in points:
        assert not np.any(np.all(grid < point - 1e-6, axis=1))
    # The ends are the best for each group, and points are spread over the front.
    assert points[0, 0] <= grid[:, 0].min() + 1e-3 and points[-1, 1] <= grid[:, 1].min() + 1e-3
    lengths = np.linalg.norm(np.diff(points / np.ptp(points, axis=0), axis=0), axis=1)
    assert lengths.max() < 3 * np.median(lengths)
    assert all(point["optimality_gap"] < 1e-5 for point in fields["points"])
    # A dummy: of most runs, some mixture is better for both groups.
    table = request.evidence.runs.losses
    seen = np.stack([table[:, :2].mean(axis=1), table[:, 2:].mean(axis=1)], axis=1)
    worse = [np.any(np.all(grid < run - 1e-6, axis=1)) for run in seen]
    assert np.mean(worse) > 0.5


def test_a_straight_front_has_its_ends_only() -> None:
    weights = np.random.default_rng(0).dirichlet(np.ones(3), 40)
    law = Linear(np.full(2, 3.0), np.array([[-1.0, 0, 1], [1.0, 0.5, -1]]))
    request = asked("ridge", evidence=Evidence(table_of(law, weights)), trust_region=False)
    fields = front(request, ["t0", "t1"])
    assert len(fields["points"]) == 2
    same = table_of(Linear(np.full(2, 3.0), np.array([[-1.0, 0, 1], [-1.0, 0, 1]])), weights)
    one = front(dataclasses.replace(request, evidence=Evidence(same)), ["t0", "t1"])
    assert len(one["points"]) == 1
    assert "one mixture is best for all groups" in str(front_table(one).title)


def test_bounds_and_the_trust_region_hold_on_the_front() -> None:
    law, request = planted(trust_region=True)
    options = dataclasses.replace(request.options, caps={"a": 0.4}, floors={"b": 0.2})
    bounded = front(dataclasses.replace(request, options=options), ["a_*", "c_*"], 5)
    for point in bounded["points"]:
        assert point["weights"]["a"] <= 0.4 + 1e-12 and point["weights"]["b"] >= 0.2 - 1e-12
        assert sum(point["weights"].values()) == pytest.approx(1)


def test_three_groups_and_weights_within_them() -> None:
    _, request = planted(objective={"a_1": 1.0, "c_1": 1.0, "c_2": 3.0})
    named = dataclasses.replace(request.options.search, groups={"first": ["a_*"], "other": ["c_*"]})
    request = dataclasses.replace(
        request, options=dataclasses.replace(request.options, search=named)
    )
    fields = front(request, ["first", "c_1", "other"], 6)
    assert len(fields["points"]) == 6 and list(fields["natural"]) == ["first", "c_1", "other"]
    fitted = LAWS["exponential"].fit(request.evidence.runs)
    point = fields["points"][2]
    shares = np.array([list(point["weights"].values())])
    losses = fitted.predict(shares, np.full(1, np.nan), np.full(1, np.nan))[0]
    assert point["losses"]["first"] == pytest.approx(losses[0])
    assert point["losses"]["other"] == pytest.approx(losses[2] / 4 + losses[3] * 3 / 4)


@pytest.mark.parametrize(
    "method",
    slow_if(
        lambda name: name not in ("dml", "bimix", "ridge", "mde"),
        [name for name, row in METHODS.items() if row.evidence],
    ),
)
def test_every_method_that_predicts_losses_has_a_front(method: str) -> None:
    of_experts = METHODS[method].evidence == "experts"
    fields = front(asked(method), ["x", "y"] if of_experts else ["a", "c"], 3)
    points = groups_of(fields)
    assert 1 <= len(points) <= 3 and np.all(np.isfinite(points))
    assert (fields["reference"] is None) == of_experts


def test_fronts_that_cannot_be() -> None:
    _, request = planted()
    for groups, points, message in (
        (["a_*"], 11, "a front is between two groups or more, got a_"),
        (["a_*", "a_*"], 11, "between two groups or more"),
        (["a_*", "b_*"], 11, "'b_.' of group 'b_.' selects no target"),
        (["a_*", "c_*"], 1, "--points: a front has at least 2 points, got 1"),
    ):
        with pytest.raises(RecipeError, match=message):
            front(request, groups, points)
    with pytest.raises(RecipeError, match="method natural predicts no losses; take a method"):
        front(dataclasses.replace(request, method="natural"), ["a_*", "c_*"])


def write(table: RunTable, path: Path) -> None:
    names = [*(f"w_{n}" for n in table.domains), *(f"loss_{n}" for n in table.targets)]
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["run", *names])
        for run, shares, losses in zip(table.runs, table.weights, table.losses, strict=True):
            rows.writerow([run, *shares.tolist(), *losses.tolist()])


def test_the_command_and_its_file(tmp_path: Path) -> None:
    write(runs(24), tmp_path / "runs.csv")
    arguments = ["mix", "--runs", str(tmp_path / "runs.csv"), "--method", "bimix", "--out",
                 str(tmp_path)]  # fmt: skip

    def run(*options: str) -> Any:
        return CliRunner().invoke(cli, [*arguments, *options], env={"COLUMNS": "80"})

    done = run("--front", "a,c", "--points", "4")
    assert done.exit_code == 0, done.output
    assert "front of a, c by bimix" in done.output and "natural" in done.output
    assert "the law errs by" in done.output
    lines = [line for line in done.output.splitlines() if not line.startswith(("note ", "wrote "))]
    assert max(map(len, lines)) <= 80
    written = json.loads((tmp_path / "front.json").read_text())
    assert len(written["points"]) == 4 and set(written["points"][0]["weights"]) == set(NAMES)
    result = curate.front(runs=tmp_path / "runs.csv", method="bimix", groups=["a", "c"], points=4)
    assert result.json["points"] == written["points"]
    assert len(result.rows()) == 4 and "loss_a" in result.rows()[0]
    for options, message in (
        (("--points", "5"), "--points: there is no front to trace"),
        (("--front", "a,c", "--compare", "--methods", "dml"), "--front and --compare exclude each"),
    ):
        assert message in str(CliRunner().invoke(cli, [*arguments[:3], *options]).exception)


def test_noise_is_no_trade() -> None:
    table = runs(24)
    noise = np.random.default_rng(1).normal(0, 0.05, table.losses.shape)
    flat = dataclasses.replace(table, losses=3 * np.exp(noise))
    request = asked("dml", evidence=Evidence(flat), replicates=None)
    fields = front(request, ["a", "c"], 3)
    assert "no trade beyond the law's errors" in str(front_table(fields).title)
    clear = front(asked("dml", replicates=None), ["a", "c"], 3)
    assert "no trade" not in str(front_table(clear).title)


def test_a_front_without_errors_of_its_law_says_so() -> None:
    weights = np.c_[0.8 * np.random.default_rng(0).dirichlet(np.ones(2), 8), np.full(8, 0.2)]
    weights[0] = 0.3, 0.3, 0.4  # the only mixture that shows what the share of c does
    evidence = Evidence(dataclasses.replace(runs(8), weights=weights))
    fields = front(asked("bimix", evidence=evidence, replicates=None), ["a", "c"], 2)
    (warning,) = (line for line in fields["warnings"] if line.startswith("no errors of the law"))
    assert "with some mixtures left out the law cannot be fitted: bimix: 'c'" in warning
    assert fields["relative_error"] is None
    assert "the law errs by" not in str(front_table(fields).title)


@pytest.fixture
def fits() -> Iterator[list[int]]:
    """Register law `counting`; yield the rows of each table that it is fitted to."""
    rows, law = [], LAWS["exponential"]

    def fit(table: RunTable) -> FittedLaw:
        rows.append(len(table.runs))
        return law.fit(table)

    LAWS.add(dataclasses.replace(law, name="counting", fit=fit))
    yield rows
    LAWS.remove("counting")


@pytest.mark.parametrize("kl", ["auto", None])
def test_the_law_is_refitted_once(fits: list[int], kl: str | None) -> None:
    """The strength of the pull and the law's errors are judged by the same refits."""
    fields = front(asked("law", law="counting", kl=kl, replicates=None), ["a", "c"], 2)
    assert fields["relative_error"] and len(fits) == 1 + GROUPS


def test_the_same_runs_are_fitted_once(fits: list[int]) -> None:
    """Another pull needs no new fit."""
    first = mix(asked("law", law="counting"))
    once = len(fits)
    assert mix(asked("law", law="counting", kl=0.3)).weights != first.weights
    assert len(fits) == once
