"""Each size and length of runs is measured by what it adds on mixtures that nobody has trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from law_tables import mixtures, table_of

import curate
from curate.cli import cli
from curate.laws import LAWS, RunTable
from curate.laws.run_groups import (
    GroupComparison,
    compare_groups,
    relative_regret,
    run_groups,
    training_flops,
)
from curate.laws.run_tables.join import PartTable, join_tables

LAW = LAWS["additive"]


def two_sizes(noise: float = 0.002, large: int = 10) -> RunTable:
    """Forty mixtures at 70M with two checkpoints, and others at 410M."""
    small = table_of(mixtures(40, 4, 1), (1e9, 2e9), (7e7,), noise, 1)
    small = replace(small, runs=tuple(f"small-{name}" for name in small.runs))
    more = table_of(mixtures(large, 4, 2), (8e9,), (4.1e8,), noise, 2)
    return join_tables(
        [PartTable("small", small, "tokens"), PartTable("large", more, "tokens")], "refuse"
    )[0]


def test_runs_are_grouped_by_size_and_length() -> None:
    table = two_sizes()
    small, large = run_groups(table)
    assert (small.params, small.tokens, small.runs) == (7e7, 2e9, 40)
    assert (large.params, large.tokens, large.runs) == (4.1e8, 8e9, 10)
    assert small.rows.sum() == 80 and small.last.sum() == 40
    assert training_flops(table, small.last) == pytest.approx(40 * 6 * 7e7 * 2e9)
    # The same sizes, but some runs end early: a group of their own.
    early = np.array([run.endswith("0-7e+07") for run in table.runs])
    cut = table.take(~(early & (table.tokens == 2e9)))
    assert [group.runs for group in run_groups(cut)] == [4, 36, 10]
    # Lengths within a tenth of each other are one.
    rough = replace(table, tokens=table.tokens * (1 + 0.05 * (np.arange(90) % 2)))
    assert [group.runs for group in run_groups(rough)] == [40, 10]
    bare = replace(table, tokens=np.full(90, np.nan), params=np.full(90, np.nan))
    assert len(run_groups(bare)) == 1 and np.isnan(training_flops(bare, small.last))


def trial(comparison: GroupComparison, without: int | None) -> object:
    return next(row for row in comparison.trials if row.without == without)


def test_small_runs_that_share_the_effect_help_and_others_do_not() -> None:
    table = two_sizes()
    comparison = compare_groups(table, [(LAW, 0.1)])
    assert comparison.law == "additive" and not comparison.note
    everything, alone, unseen = (trial(comparison, number) for number in (None, 0, 1))
    assert (everything.runs, alone.runs, unseen.runs) == (50, 10, 40)
    assert alone.verdict == "helps"
    assert everything.scores.relative_error.mean() < 0.6 * alone.scores.relative_error.mean()
    assert everything.flops == pytest.approx(alone.flops + unseen.flops)
    # The level of a size that no run has is unknown, though the ranking carries.
    assert unseen.verdict == "helps" and unseen.scores.spearman_of_mean > 0.9
    # A dummy: the same small runs with their losses dealt to other mixtures.
    small = np.flatnonzero(table.params == 7e7)
    dealt = small[np.random.default_rng(0).permutation(len(small))]
    losses = table.losses.copy()
    losses[small] = losses[dealt]
    dummy = compare_groups(replace(table, losses=losses), [(LAW, 0.1)])
    assert trial(dummy, 0).verdict in ("harms", "no difference")


def test_a_mixture_is_predicted_without_its_runs_of_any_size() -> None:
    """A law that looks mixtures up would be perfect if small runs of the same one were there."""
    weights = mixtures(12, 4, 3)
    table = table_of(weights, (1e9,), (7e7, 4.1e8), 0.0)
    comparison = compare_groups(table, [(LAWS["mean"], 0.0)])
    assert trial(comparison, None).scores.r2.mean() < 0.1


def test_regret_by_hand() -> None:
    losses = np.array([[2.0, 2.0], [1.0, 2.0], [4.0, 4.0]])
    assert relative_regret(losses, losses) == 0
    assert relative_regret(losses, -losses) == pytest.approx(4 / 1.5 - 1)
    assert np.isnan(relative_regret(losses, losses * np.nan))


def test_a_slow_law_gives_way_or_is_named() -> None:
    table = two_sizes()
    quick = compare_groups(table, [(LAWS["joint"], 100.0), (LAW, 0.1)])
    assert quick.law == "additive"
    none = compare_groups(table, [(LAWS["joint"], 100.0)], workers=2)
    assert not none.trials
    assert "12 fits of joint would take 600 s, and 60 s is the most" in none.note
    few = compare_groups(two_sizes(large=2), [(LAW, 0.1)])
    assert not few.trials and "the largest has 2 mixtures, and a ranking needs 3" in few.note


def write(path: Path, table: RunTable) -> Path:
    lines = ["run,params,tokens," + ",".join(
        [*(f"w_{name}" for name in table.domains), *(f"loss_{name}" for name in table.targets)]
    )]  # fmt: skip
    for row, run in enumerate(table.runs):
        numbers = [table.params[row], table.tokens[row], *table.weights[row], *table.losses[row]]
        lines.append(",".join([run, *map(repr, map(float, numbers))]))
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def test_fit_shows_and_writes_what_groups_add(tmp_path: Path) -> None:
    path = write(tmp_path / "runs.csv", two_sizes())
    arguments = ["fit", str(path), "--laws", "additive", "--out", str(tmp_path), "--workers", "1"]
    shown = CliRunner().invoke(cli, arguments, env={"COLUMNS": "140"})
    assert shown.exit_code == 0, shown.output
    assert "what each group of runs adds to predictions of 410M params, 8B tokens" in shown.output
    assert "without 70M params, 2B tokens" in shown.output and "it helps" in shown.output
    fields = json.loads((tmp_path / "fit.json").read_text())["groups"]
    assert fields["law"] == "additive" and fields["note"] is None
    assert [group["runs"] for group in fields["groups"]] == [40, 10]
    assert [row["without_group"] for row in fields["trials"]] == [None, 0, 1]
    one = write(tmp_path / "one.csv", table_of(mixtures(12, 4, 1)))
    assert curate.fit(one, laws=["ridge"], workers=1).json["groups"]["trials"] == []
