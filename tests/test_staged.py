"""Stages of training: tables with a mixture for each, the law of them, and whether they pay."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import curate
from curate.cli import cli
from curate.errors import FitError, MissingEvidence, RecipeError
from curate.laws.forms.staged import SHARE_OFFSET, fit_order_blind, fit_staged
from curate.laws.law import Array, RunTable, domains_of_stages, stage_columns
from curate.laws.run_tables.join import Joining
from curate.laws.run_tables.read import read_runs
from curate.mixture.search.staged_optimum import StagedProblem, best_single, best_stages, judge
from curate.recipe import load
from curate.recipe.stages import stage_recipes

pytestmark = pytest.mark.usefixtures("small_search")

HEADER = "run,tokens_pre,tokens_end,w_pre_a,w_pre_b,w_end_a,w_end_b,loss_x\n"
ROWS = """r0,8e8,2e8,0.5,0.5,0.9,0.1,3.1
r1,8e8,2e8,0.2,0.8,0.1,0.9,3.3
r2,1e9,0,0.7,0.3,,,3.2
r3,5e8,5e8,0.1,0.9,0.4,0.6,3.4
"""
BY_ROW = """run,stage,tokens,w_a,w_b,loss_x
r0,pre,1e9,0.5,0.5,3.1
r1,pre,1e9,0.2,0.8,3.3
r2,end,1e8,0.7,0.3,2.8
"""


def write(tmp_path: Path, text: str, name: str = "runs.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return path


def planted(
    seed: int, rates: tuple[float, ...] = (1, 1, 1, 1), runs: int = 60
) -> tuple[RunTable, Array]:
    """Runs with 80 % of the tokens in the first stage, 0.4 % noise, and the truth's transfers."""
    rng = np.random.default_rng(seed)
    transfer = np.exp(rng.normal(0, 1, (3, len(rates))))
    early, late = (rng.dirichlet(np.ones(len(rates)), runs) for _ in range(2))
    weights = np.hstack([0.8 * early, 0.2 * late])
    losses = true_losses(weights, transfer, rates) * np.exp(rng.normal(0, 0.004, (runs, 3)))
    names = tuple(f"{stage}/{d}" for stage in ("pre", "end") for d in "abcdefg"[: len(rates)])
    ones = np.ones(runs)
    table = RunTable(names, ("x", "y", "z"), tuple(f"r{run}" for run in range(runs)), weights,
                     1e9 * ones, 1e8 * ones, losses, stages=("pre", "end"))  # fmt: skip
    return table, transfer


def true_losses(weights: Array, transfer: Array, rates: tuple[float, ...]) -> Array:
    amounts = weights[:, : len(rates)] + np.array(rates) * weights[:, len(rates) :]
    useful = (transfer * (amounts[:, None, :] + 1e-3) ** 0.5).sum(axis=2)
    return np.asarray(1.5 + 1.5 * useful**-0.35)


def problem_of(table: RunTable, high: tuple[float, ...] = (1, 1, 1, 1)) -> StagedProblem:
    columns = stage_columns(table)
    within = table.weights[:, columns] / np.array([[0.8], [0.2]])
    return StagedProblem(
        law=fit_staged(table), columns=columns, goals=np.full((1, 3), 1 / 3),
        fractions=np.array([0.8, 0.2]), most=np.tile(within.max(axis=(0, 1)), (2, 1)),
        low=np.zeros(4), high=np.array(high, float), starts=within.mean(axis=0)[None],
        tokens=1e9, params=1e8,
    )  # fmt: skip


class Truth:
    """The planted losses as a law."""

    def __init__(self, transfer: Array, rates: tuple[float, ...]) -> None:
        self.of = (transfer, rates)

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        return true_losses(weights, *self.of)

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        steps = 1e-6 * np.eye(weights.shape[1])
        both = [self.predict(weights + sign * s, tokens, params) for s in steps for sign in (1, -1)]
        return np.stack([(up - down) / 2e-6 for up, down in zip(*[iter(both)] * 2, strict=True)], 2)


def test_a_table_of_stages_holds_shares_of_all_tokens(tmp_path: Path) -> None:
    table, notices = read_runs([write(tmp_path, HEADER + ROWS)])
    assert notices == () and table.stages == ("pre", "end")
    assert table.domains == ("pre/a", "pre/b", "end/a", "end/b")
    assert domains_of_stages(table) == ("a", "b")
    assert stage_columns(table).tolist() == [[0, 1], [2, 3]]
    assert table.weights[0] == pytest.approx([0.4, 0.4, 0.18, 0.02])
    assert table.weights[2] == pytest.approx([0.7, 0.3, 0, 0])
    assert table.weights.sum(axis=1) == pytest.approx(np.ones(4))
    assert table.tokens.tolist() == [1e9] * 4


def test_shares_of_a_stage_that_are_not_whole_are_told(tmp_path: Path) -> None:
    rounded = HEADER + ROWS + "r8,8e8,2e8,0.5,0.4,0.5,0.5,3\n"
    table, notices = read_runs([write(tmp_path, rounded)])
    assert (
        "r8" in table.runs and "shares of 1 row did not sum to 1 (off by at most 0.1" in notices[0]
    )
    empty = HEADER + ROWS + "r8,8e8,2e8,,0.6,0.5,0.5,3\n"
    table, notices = read_runs([write(tmp_path, empty, "empty.csv")])
    assert "r8" not in table.runs and len(notices) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER.replace("w_end_b", "w_b") + ROWS, r":1: column 'w_b' is of no stage; .*w_pre_b$"),
        (HEADER + "r0,0,0,1,0,1,0,3\n", r":2: column 'tokens_pre': expected the tokens .*found 0$"),
        (HEADER + "r0,1,x,1,0,1,0,3\n", r":2: column 'tokens_end': expected a number, found 'x'"),
        (HEADER + "r0,1,1,1,0,0.1,0.1,3\n", r":2: the shares of stage 'end' sum to 0.2; expected"),
        (BY_ROW, r"rows are of several stages; column 'stage' has 'pre', 'end'. Name one: .*: pre"),
    ],
)
def test_wrong_tables_of_stages_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FitError, match=message):
        read_runs([write(tmp_path, text)])


def test_rows_of_one_stage_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, BY_ROW)
    table, notices = read_runs([path], joining=Joining(stage="pre"))
    assert table.runs == ("r0", "r1") and table.stages == ()
    assert notices == (f"{path}: 1 row of other stages than 'pre' left out",)
    with pytest.raises(
        FitError, match=r"no row is of stage 'mid'; column 'stage' has 'pre', 'end'"
    ):
        read_runs([path], joining=Joining(stage="mid"))
    with pytest.raises(MissingEvidence, match=r"c.csv has no stage 'mid'; it has pre, end$"):
        read_runs([write(tmp_path, HEADER + ROWS, "c.csv")], joining=Joining(stage="mid"))
    with pytest.raises(FitError, match=r"no row is of stage 'pre'; column 'stage' has ''. Fill"):
        empty = BY_ROW.replace("pre,", ",").replace("end,", ",")
        read_runs([write(tmp_path, empty, "e.csv")], joining=Joining(stage="pre"))
    plain = write(
        tmp_path, BY_ROW.replace("stage,", "").replace("pre,", "").replace("end,", ""), "p.csv"
    )
    table, notices = read_runs([plain], joining=Joining(stage="end"))
    assert len(table.runs) == 3 and "all its runs count for stage 'end'" in notices[0]
    both = [path, write(tmp_path, HEADER + ROWS, "two.csv")]
    fill = {"params": 1e6}
    with pytest.raises(FitError, match=r"two.csv: stages \(pre, end\) are not those of .*\(none\)"):
        from curate.laws.run_tables.join import joining

        read_runs(both, joining=joining({"runs.csv": fill, "two.csv": fill}, "zero", {}, "pre"))


def test_domains_of_all_stages_are_carried_over(tmp_path: Path) -> None:
    became = {"b": {"p": 0.25, "q": 0.75}}
    table, _ = read_runs([write(tmp_path, HEADER + ROWS)], joining=Joining(became=became))
    assert domains_of_stages(table) == ("a", "p", "q")
    assert table.weights[0] == pytest.approx([0.4, 0.1, 0.3, 0.18, 0.005, 0.015])
    assert fit_staged(table).predict(table.weights, table.tokens, table.params).shape == (4, 1)


def test_the_law_learns_what_late_tokens_are_worth() -> None:
    table, transfer = planted(0, (1, 1, 1, 4))
    fitted, blind = fit_staged(table), fit_order_blind(table)
    relative = fitted.rates[:, 1] / fitted.rates[:, 1, :3].mean(axis=1, keepdims=True)
    assert (relative[:, 3] > 1.6).all() and (relative[:, :3] < 1.4).all()
    assert blind.rates[:, 1] == pytest.approx(np.repeat(blind.rates[:, 1, :1], 4, axis=1), rel=1e-2)
    truth = true_losses(table.weights, transfer, (1, 1, 1, 4))
    missed = [
        np.abs(law.predict(table.weights, table.tokens, table.params) / truth - 1).mean()
        for law in (fitted, blind)
    ]
    assert missed[0] < 0.0015 and 2 * missed[0] < missed[1]


def test_the_gradient_by_shares_of_stages() -> None:
    table, _ = planted(1, (1, 2, 1, 4))
    law, at = fit_staged(table), table.take(np.arange(5))
    slopes = law.gradient(at.weights, at.tokens, at.params)
    for column, step in enumerate(1e-6 * np.eye(8)):
        ends = [law.predict(at.weights + s, at.tokens, at.params) for s in (step, -step)]
        assert slopes[:, :, column] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-6)
    with pytest.raises(ValueError, match="several stages is no function of one mixture"):
        law.formula(1e8)
    assert SHARE_OFFSET > 0


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_planted_gain_is_recovered_and_pays(seed: int) -> None:
    rates = (1, 1, 1, 4)
    table, transfer = planted(seed, rates)
    problem = problem_of(table)
    real = replace(problem, law=Truth(transfer, rates))
    least, least_single = (
        real.value(best_stages(real)), real.value(np.tile(best_single(real), (2, 1)))
    )  # fmt: skip
    gain = 1 - least / least_single
    assert gain > 0.005
    assert real.value(best_stages(problem)) / least - 1 < gain / 20
    verdict = judge(problem, table, fit_staged, seed)
    assert verdict is not None and verdict.pays and abs(verdict.gain / gain - 1) < 0.3
    assert best_stages(problem)[1, 3] > 2 * best_stages(problem)[0, 3]


def test_without_a_gain_it_does_not_pay_though_the_law_promises(runslow: bool) -> None:
    """A dummy that believes the law would say that it pays in every table."""
    said, promised = [], []
    for seed in range(4 if runslow else 2):
        table, _ = planted(seed, ((1, 1, 1, 1), (3, 3, 3, 3))[seed % 2])
        problem = problem_of(table)
        verdict = judge(problem, table, fit_staged, seed)
        assert verdict is not None
        said.append(verdict.pays)
        single = np.tile(best_single(problem), (2, 1))
        promised.append(problem.value(best_stages(problem)) < problem.value(single) - 1e-6)
    assert all(promised) and not any(said)


def test_optima_keep_bounds_of_all_stages() -> None:
    """A scarce domain goes where it counts most: late."""
    table, _ = planted(2, (3, 3, 3, 3))
    problem = problem_of(table, high=(0.05, 1, 0.1, 1))
    problem = replace(problem, low=np.array([0, 0.1, 0, 0]))
    for mixture in (best_stages(problem), np.tile(best_single(problem), (2, 1))):
        assert mixture.sum(axis=1) == pytest.approx(np.ones(2))
        whole = problem.fractions @ mixture
        assert (whole <= problem.high + 1e-6).all() and (whole >= problem.low - 1e-6).all()
        assert (mixture >= 0).all() and (mixture <= problem.most + 1e-6).all()
    staged = best_stages(problem)
    assert staged[1, 0] > staged[0, 0]
    worst = replace(problem, goals=np.eye(3))
    assert worst.value(best_stages(worst)) < worst.value(staged)
    few = table.take(np.arange(6))
    assert judge(problem, few, fit_staged) is None


def as_csv(table: RunTable) -> str:
    rows = ["run,tokens_pre,tokens_end," + ",".join(
        [f"w_{name.replace('/', '_')}" for name in table.domains]
        + [f"loss_{name}" for name in table.targets]
    )]  # fmt: skip
    for run, weights, losses in zip(table.runs, table.weights, table.losses, strict=True):
        shares = [*(weights[:4] / 0.8), *(weights[4:] / 0.2)]
        rows.append(",".join([run, "8e8", "2e8", *map(repr, map(float, [*shares, *losses]))]))
    return "\n".join(rows) + "\n"


def test_the_command_shows_both_optima_and_the_verdict(tmp_path: Path) -> None:
    path = write(tmp_path, as_csv(planted(0, (1, 1, 1, 4))[0]))
    out = ["--out", str(tmp_path)]
    shown = CliRunner().invoke(cli, ["mix", "--runs", str(path), *out])
    assert shown.exit_code == 0, shown.output
    assert "a mixture for each of pre, end pays: " in shown.stdout
    for heading in ("pre", "end", "single mixture", "part of all tokens", "80.00%"):
        assert heading in shown.stdout
    fields = json.loads((tmp_path / "mixture.json").read_text("utf-8"))
    both = fields["stage_mixtures"]
    assert fields["stages_pay"]["pays"] and fields["stages_pay"]["low"] > 0
    assert fields["predicted_loss"] < fields["single_stage"]["predicted_loss"]
    whole = {d: 0.8 * both["pre"]["weights"][d] + 0.2 * both["end"]["weights"][d] for d in "abcd"}
    assert fields["weights"] == pytest.approx(whole, abs=1e-6)
    settings = {"mixture.evidence.stage": "end"}
    of_end = curate.mix(runs=path, overrides=settings)
    assert of_end.weights == pytest.approx(both["end"]["weights"], abs=1e-6)
    with pytest.raises(MissingEvidence, match="no stage 'ende'; did you mean 'end'"):
        curate.mix(runs=path, overrides={"mixture.evidence.stage": "ende"})
    with pytest.raises(MissingEvidence, match="method 'ridge' has one for all of training; set"):
        curate.mix(runs=path, overrides={"mixture.method": "ridge"})
    with pytest.raises(RecipeError, match=r"mixture\.kl: law staged does not read it where runs"):
        curate.mix(
            runs=path,
            overrides={"mixture.kl": 0.1, "mixture.method": "law", "mixture.law": "staged"},
        )


def test_without_a_gain_the_single_mixture_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path, as_csv(planted(1)[0]))
    mixed = curate.mix(runs=path)
    assert "does not pay beyond noise" in mixed.json["stages_pay"]["verdict"]
    assert mixed.weights == pytest.approx(mixed.json["single_stage"]["weights"], abs=1e-9)


def test_stages_of_a_row_reach_commands(tmp_path: Path) -> None:
    path = write(tmp_path, BY_ROW)
    run = ["fit", str(path), "--laws", "mean", "--folds", "2", "--json", "--out", str(tmp_path)]
    shown = CliRunner().invoke(cli, [*run, "--stage", "pre"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["table"]["runs"] == 2


def test_a_stage_of_a_recipe_reads_its_own_runs(tmp_path: Path) -> None:
    evidence = {"runs": str(write(tmp_path, BY_ROW))}
    recipe = {
        "name": "two",
        "tokenizer": {"train": {"vocab_size": 300}},
        "domains": [{"name": name, "paths": f"{name}.jsonl"} for name in "ab"],
        "mixture": {"method": "ridge", "evidence": evidence},
        "stages": [
            {"name": "pre", "budget_tokens": 1000},
            {"name": "end", "budget_tokens": 100,
             "mixture": {"method": "ridge", "evidence": {**evidence, "stage": "pre"}}},
        ],
    }  # fmt: skip
    path = write(tmp_path, json.dumps(recipe), "two.yaml")
    stages = [one.recipe.mixture.evidence for one in stage_recipes(load(path))]
    assert [one and one.stage for one in stages] == ["pre", "pre"]  # the second says so itself
    del recipe["stages"][1]["mixture"]  # type: ignore[attr-defined]
    path = write(tmp_path, json.dumps(recipe), "two.yaml")
    stages = [one.recipe.mixture.evidence for one in stage_recipes(load(path))]
    assert [one and one.stage for one in stages] == ["pre", "end"]
