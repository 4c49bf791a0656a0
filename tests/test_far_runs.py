"""A run that all others contradict is named and left out; honest extremes stay."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import slow_if
from law_tables import mixtures, table_of

from curate.cli import cli
from curate.errors import RecipeError
from curate.laws import LAWS
from curate.laws.law import Array, RunTable
from curate.laws.run_tables.far_runs import far_losses
from curate.laws.run_tables.read import read_runs
from curate.mixture.search.objective import Problem
from curate.mixture.search.optimise import optimise
from curate.mixture.search.simplex_box import whole
from curate.mixture.search.trust_region import support_of
from curate.mixture.search.uncertainty import Resampling, bootstrap
from curate.pipeline.from_run_table import RunTableInputs, request_without_text
from curate.runtime.progress import Observer

NAMES = ("web", "code", "books", "math")


def honest(weights: Array, noise: float = 0.004, seed: int = 0) -> RunTable:
    """Losses that fall with the own share, steeply at its ends, and a little with the others."""
    help_from = np.full((weights.shape[1],) * 2, 0.05) + np.eye(weights.shape[1])
    losses = 1.6 + 1.1 / (0.3 + weights @ help_from) ** 0.6
    losses *= np.exp(noise * np.random.default_rng(seed).standard_normal(losses.shape))
    names, unknown = NAMES[: weights.shape[1]], np.full(len(weights), np.nan)
    runs = tuple(f"r{number}" for number in range(len(weights)))
    return RunTable(names, names, runs, weights, unknown, unknown, losses)


def drawn(runs: int, seed: int, evenness: float = 1.0) -> Array:
    return np.random.default_rng(seed).dirichlet(np.full(4, evenness), runs)


def with_loss(table: RunTable, row: int, target: int, factor: float) -> RunTable:
    losses = table.losses.copy()
    losses[row, target] *= factor
    return replace(table, losses=losses)


def named(table: RunTable) -> list[str]:
    return [table.runs[loss.row] for loss in far_losses(table)]


def write(table: RunTable, path: Path) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            ["run", *(f"w_{n}" for n in table.domains), *(f"loss_{n}" for n in table.targets)]
        )
        for row, run in enumerate(table.runs):
            writer.writerow([run, *table.weights[row], *table.losses[row]])
    return path


@pytest.mark.parametrize("runs", [6, 10, 24, 60])
@pytest.mark.parametrize("factor", [20.0, 1 / 20])
def test_a_diverged_run_is_found_wherever_it_is(runs: int, factor: float, runslow: bool) -> None:
    for seed in range(10 if runslow else 2):
        table = honest(drawn(runs, seed), seed=seed)
        row, target = np.random.default_rng(seed).integers((runs, 4))
        (loss,) = far_losses(with_loss(table, row, target, factor))
        assert (loss.row, loss.target) == (row, target)
        truth = table.losses[row, target]
        assert loss.expected == pytest.approx(truth, rel=0.45)  # six runs, no more is possible


def test_a_lesser_fault_is_found_where_runs_are_many(runslow: bool) -> None:
    found, seeds = 0, 30 if runslow else 12
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        table = honest(drawn(40, seed), noise=0.001, seed=seed)
        row = int(np.argsort(table.weights[:, 1])[rng.integers(5, 40)])  # not least in its domain
        found += named(with_loss(table, row, 1, 1.6)) == [f"r{row}"]
    assert found >= seeds * 2 / 3


def usual_rule(table: RunTable) -> bool:
    """The rule of thumb that a reader might expect: three robust deviations from the median."""
    logs = np.log(table.losses)
    away = np.abs(logs - np.median(logs, axis=0))
    return bool((away > 3 * 1.4826 * np.median(away, axis=0)).any())


def extremes(kind: str, seed: int) -> Array:
    weights = drawn(16, seed, evenness=5.0)
    if kind == "each domain alone":
        weights[:4] = np.eye(4)
    if kind == "each domain absent once":
        weights[:4] *= 1 - np.eye(4)
        weights[:4] /= weights[:4].sum(axis=1, keepdims=True)
    return drawn(16, seed, evenness=0.2) if kind == "sparse" else weights


@pytest.mark.parametrize("kind", ["each domain alone", "each domain absent once", "sparse"])
def test_honest_extremes_stay(kind: str) -> None:
    tables = [honest(extremes(kind, seed), seed=seed) for seed in range(12)]
    assert [named(table) for table in tables] == [[]] * 12
    if kind != "sparse":
        assert sum(map(usual_rule, tables)) >= 8, "the dummy drops honest runs"


def test_early_checkpoints_and_small_models_are_not_far() -> None:
    weights = mixtures(12, 4, 0)
    table = table_of(weights, tokens=(1e6, 1e8, 1e9, 1e10), params=(1e6, 1e9), noise=0.002)
    assert named(table) == []
    worst = int(np.argmax(table.losses.max(axis=1)))
    assert named(with_loss(table, worst, 0, 10)) == [table.runs[worst]]


def test_many_far_runs_are_no_accident() -> None:
    table = honest(drawn(12, 0))
    for row in (1, 4):
        table = with_loss(table, row, row % 4, 15)
    assert named(table) == ["r1", "r4"]
    for row in (2, 7):
        table = with_loss(table, row, row % 4, 15)
    assert named(table) == []


def test_a_far_run_is_left_out_with_all_its_checkpoints(tmp_path: Path) -> None:
    rows = ["run,tokens,w_x,w_y,loss_x,loss_y"]
    for run in range(8):
        for tokens in (1, 2, 3):
            diverged = 30 * (run == 5 and tokens == 3)
            share = 0.1 + 0.1 * run
            rows.append(f"r{run},{tokens},{share},{1 - share},{3 - share + diverged},{2 + share}")
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(rows))
    table, notices = read_runs([path])
    assert "r5" not in table.runs and len(set(table.runs)) == 7 and len(table.runs) == 21
    (notice,) = notices
    assert f"{path}: 1 run far from all others: 'r5' (line 19: loss_x is 32.4, the" in notice
    assert "left out of every fit" in notice and "mixture.evidence.far_runs: keep" in notice
    kept, notices = read_runs([path], far_runs="keep")
    assert len(kept.runs) == 24 and "kept as far_runs says" in notices[0]


def test_commands_leave_out_or_keep(tmp_path: Path) -> None:
    table = honest(drawn(20, 3))
    path = write(with_loss(table, 6, 0, 20), tmp_path / "far.csv")
    without = write(table.take(np.arange(20) != 6), tmp_path / "without.csv")

    def weights(runs: Path, *settings: str) -> dict[str, float]:
        done = CliRunner().invoke(
            cli,
            ["mix", "--runs", str(runs), "--method", "dml", "--json", "--out", str(tmp_path)]
            + [text for setting in settings for text in ("--set", setting)],
        )
        assert done.exit_code == 0, done.output
        shares: dict[str, float] = json.loads(done.stdout)["weights"]
        return shares

    assert weights(path) == weights(without)
    assert weights(path, "mixture.evidence.far_runs=keep")["web"] != weights(path)["web"]
    for choice, count in (("leave_out", 19), ("keep", 20)):
        done = CliRunner().invoke(
            cli,
            ["fit", str(path), "--laws", "mean", "--far-runs", choice, "--json"]
            + ["--workers", "1", "--out", str(tmp_path)],
        )
        fields = json.loads(done.stdout)
        assert fields["table"]["runs"] == count and "'r6' (line 8" in fields["notices"][0]


def test_without_a_recipe_evidence_comes_from_options(tmp_path: Path) -> None:
    path = write(honest(drawn(8, 0)), tmp_path / "runs.csv")
    inputs = RunTableInputs(runs=(path,), overrides=("mixture.evidence.runs=other.csv",))
    with pytest.raises(RecipeError, match="name runs and experts with --runs and --experts"):
        request_without_text(inputs, Observer())


def test_one_name_for_two_mixtures_is_said(tmp_path: Path) -> None:
    table = honest(drawn(8, 1))
    twice = replace(table, runs=("r0", "r1", "r2", "r2", *table.runs[4:]))
    path = write(twice, tmp_path / "runs.csv")
    read, notices = read_runs([path])
    assert notices == (
        f"{path}: one name for several mixtures: 'r2' (lines 4 and 5); each mixture is taken as a "
        "run. Give every run its own name",
    )
    assert read.runs[3] == "r2, mixture 2" and len(set(read.runs)) == 8
    assert np.allclose(read.losses, table.losses)


def spoilt(table: RunTable, fault: str, bad: Array) -> RunTable:
    weights, losses = table.weights.copy(), table.losses.copy()
    if fault == "swapped":
        weights[bad] = np.roll(weights[bad], 1, axis=0)
    elif fault == "column shifted":
        weights[bad] = np.roll(weights[bad], 1, axis=1)
    elif fault == "one target":
        losses[bad, 0] *= 1.3
    else:
        losses[bad] *= float(fault)
    return replace(table, weights=weights, losses=losses)


def best_mixture(table: RunTable) -> tuple[Problem, Array]:
    problem = Problem(
        LAWS["exponential"].fit(table), whole(4), np.full((1, 4), 0.25),
        support=support_of(table.weights), convex=True,
    )  # fmt: skip
    return problem, optimise(problem).weights


@pytest.mark.parametrize(
    "fault",
    slow_if(
        lambda fault: fault not in ("5", "swapped"),
        ["5", "1.3", "one target", "swapped", "column shifted"],
    ),
)
def test_bad_runs_move_the_optimum_by_less_than_its_interval(fault: str) -> None:
    """Of five tables at most one moves further, where honest runs left would be too few."""
    left_out, kept, tables = 0, 0, 0
    for seed in range(2):
        table = honest(drawn(24, seed + 20), seed=seed)
        problem, best = best_mixture(table)
        spread = bootstrap(Resampling(table, LAWS["exponential"].fit, 20), problem, best, {})
        for bad_runs in (2, 4) if fault == "swapped" else (1, 2, 4):
            bad = np.random.default_rng(seed).choice(24, bad_runs, replace=False)
            bad_table = spoilt(table, fault, bad)
            far = named(bad_table)
            assert set(far) <= {f"r{row}" for row in bad}, "no honest run is lost"
            for fitted in (bad_table.take(~np.isin(bad_table.runs, far)), bad_table):
                moved = best_mixture(fitted)[1]
                inside = bool(((moved > spread.low - 2e-3) & (moved < spread.high + 2e-3)).all())
                left_out, kept = (
                    (left_out, kept + inside) if fitted is bad_table else (left_out + inside, kept)
                )
            tables += 1
    assert left_out >= tables - 1
    assert kept <= tables / 2, "the dummy that keeps them moves further"


def test_swapped_mixtures_are_named_as_such(tmp_path: Path) -> None:
    table = honest(drawn(24, 5))
    rows = np.array([int(table.weights[:, 0].argmax()), int(table.weights[:, 1].argmax())])
    first, second = (table.runs[row] for row in rows)
    path = write(spoilt(table, "swapped", rows), tmp_path / "runs.csv")
    notice = read_runs([path])[1][0]
    assert f"its mixture looks swapped with {first}'s" in notice
    assert f"its mixture looks swapped with {second}'s" in notice


def test_the_loss_of_another_checkpoint_is_far() -> None:
    table = table_of(mixtures(16, 4, 0), tokens=(1e8, 1e9, 1e10), noise=0.002)
    losses = table.losses.copy()
    losses[5] = losses[3]  # run 1 at its last checkpoint: the losses of its first
    assert named(table) == [] and named(replace(table, losses=losses)) == ["run1-nan"]


def test_noisy_tables_lose_no_run(runslow: bool) -> None:
    for seed in range(20 if runslow else 8):
        assert named(honest(drawn(24, seed), noise=0.05, seed=seed)) == []
