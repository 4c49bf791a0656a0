"""Read run tables: files of ours, or pairs of a file of mixtures and a file of losses.

Columns are matched by name and rows are joined by run, never by position. Whatever is left out or
changed (rows without a loss, repeated rows, runs of one file only, runs far from all others, shares
divided by their sum) is counted and reported in notices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curate.errors import FitError, MissingEvidence
from curate.laws.law import Array, RunTable
from curate.laws.run_tables.columns import (
    SUM_RANGE,
    TableFile,
    TableLayout,
    load_file,
    pair_layout,
    quoted,
    single_layout,
)
from curate.laws.run_tables.far_runs import FarLoss, far_losses
from curate.laws.run_tables.join import Joining, PartTable, join_tables, table_files
from curate.laws.run_tables.lineage import carry_over, check_old_names
from curate.recipe import FarRuns, TableFill
from curate.runtime.registry import counted, list_first, nearest_hint

SUM_NOTICE = 1e-6
"""Distance of a row's sum of shares from 1 above which it is reported."""

OUTLYING = 1e6
"""Factor from its target's median, up or down, beyond which a loss is a mistake."""

LARGEST = 1e9
"""Loss above which, or below the inverse of which, a number is no loss in any unit."""

ABSENT_SUM = 0.02
"""How far from 1 the shares of a row with an empty share may sum; further off, the empty share is
unknown rather than zero."""

SAME_MIXTURE = 5e-3
"""Largest difference of a share between checkpoints of one mixture: rounding, or tokens counted."""


def read_runs(
    paths: Sequence[Path],
    targets: Sequence[str] | None = None,
    far_runs: FarRuns = "leave_out",
    joining: Joining | None = None,
) -> tuple[RunTable, tuple[str, ...]]:
    """Read one run table or several: files such as `runs.csv`, or pairs of mixtures and losses.

    A file with columns `run`, `w_<domain>`, `loss_<domain>` (nats per token; or only
    `bpb_<domain>`) is a table, and may have `params`, `tokens`, `step`. Of the others, each two
    that follow one another are a pair: one file has a column of shares for each domain and the
    other a column for each loss, both with one of `run`, `run_id`, `index`, `name`; prefixes such
    as `train_the_pile_` and `metric/the_pile_…_val_loss` are taken off, so that a domain and its
    loss have one name. Several tables are joined, see `curate.laws.run_tables.join`.

    Args:
        paths: Files, those of a pair in any order.
        targets: Names of the losses to keep; None keeps all.
        far_runs: Whether to leave out runs with a loss that all the others contradict, by the rule
            of `curate.laws.run_tables.far_runs`, or to keep them. They are named in either case.
        joining: What the tables do not say themselves; None: nothing.

    Returns:
        The table, and what was left out or changed, a sentence each.

    Raises:
        FitError: A file is absent or not such a table; a cell is not a number; a share is negative;
            the shares of a row are far from 1; a target is unknown; no complete row is left; or
            several tables cannot be joined.
    """
    joining = joining or Joining()
    tables = table_files([load_file(path) for path in paths])
    fills = joining.by_table([[file.path for file in files] for files in tables])
    parts, notices = [], []
    for files, fill in zip(tables, fills, strict=True):
        layout, of_files = single_layout(*files) if len(files) == 1 else pair_layout(*files)
        layout, of_stage = _rows_of_stage(layout, joining.stage)
        part, of_rows = _read_part(layout, fill, targets, far_runs)
        of_files.extend(of_stage)
        parts.append(part)
        notices.extend([*of_files, *of_rows])
    check_old_names(joining.became, [part.table for part in parts])
    parts = [_carried_over(part, joining) for part in parts]
    if len(parts) == 1:
        return parts[0].table, tuple(notices)
    table, of_join = join_tables(parts, joining.absent_domains)
    return table, (*notices, *of_join)


def _carried_over(part: PartTable, joining: Joining) -> PartTable:
    """Give a table the domains of today."""
    became = {**joining.learnt.get(Path(part.name), {}), **joining.became}
    table = carry_over(part.table, became)
    return replace(part, table=table, carried_over=table is not part.table)


def _rows_of_stage(layout: TableLayout, stage: str | None) -> tuple[TableLayout, list[str]]:
    """Keep the rows of one stage, where a column says which stage each belongs to.

    Args:
        layout: The columns.
        stage: Name of the stage; None: all rows, which must be of one stage.

    Returns:
        The layout, and what was left out, a sentence each.

    Raises:
        FitError: The table has rows of several stages and none is named, or none of that stage.
        MissingEvidence: It has columns of stages, and none of that stage.
    """
    places = ((layout.weights, layout.weight_rows), (layout.losses, layout.loss_rows))
    at = next(((file, rows) for file, rows in places if "stage" in file.header), None)
    if at is None:
        if stage is not None and layout.stage_tokens and stage not in layout.stage_tokens:
            raise MissingEvidence(
                f"mixture.evidence.stage: {layout.weights.path} has no stage '{stage}'"
                f"{nearest_hint(stage, layout.stage_tokens)}; it has "
                f"{', '.join(layout.stage_tokens)}"
            )
        if stage is None or layout.stage_tokens:
            return layout, []
        return layout, [
            f"{layout.losses.path}: no column says a stage; all its runs count for stage '{stage}'"
        ]
    file, rows = at
    cells = file.cells["stage"].to_numpy()[rows]
    names = list(dict.fromkeys(cells.tolist()))
    if stage is None and len(names) == 1:
        return layout, []
    if stage is None or stage not in names:
        listed = list_first([quoted(name) for name in names])
        first = next((name for name in names if name), None)
        remedy = "Fill it in" if first is None else (
            f"Name one: mixture.evidence.stage: {first}, or curate fit --stage {first}"
        )  # fmt: skip
        raise FitError(
            f"{file.path}: "
            + (f"no row is of stage '{stage}'" if stage else "rows are of several stages")
            + f"; column 'stage' has {listed}. {remedy}"
        )
    kept = cells == stage
    notices = []
    if not kept.all():
        others = counted(int((~kept).sum()), "row")
        notices.append(f"{file.path}: {others} of other stages than '{stage}' left out")
    return (
        replace(layout, weight_rows=layout.weight_rows[kept], loss_rows=layout.loss_rows[kept]),
        notices,
    )


def _read_part(
    layout: TableLayout, fill: TableFill, targets: Sequence[str] | None, far_runs: FarRuns
) -> tuple[PartTable, list[str]]:
    """Read the rows of one table; return what was left out or changed, a sentence each.

    Args:
        layout: The columns.
        fill: Sizes and tokens that the table does not say.
        targets: Names of the losses to keep; None keeps all.
        far_runs: Whether runs that all the others contradict are left out.

    Raises:
        FitError: See `read_runs`.
    """
    if targets is not None:
        unknown = [name for name in targets if name not in layout.targets]
        if unknown:
            raise FitError(
                f"fit: no loss named '{unknown[0]}' in {layout.losses.path}; its losses are: "
                + ", ".join(layout.targets)
            )
        layout = replace(layout, targets={name: layout.targets[name] for name in targets})
    numbers, renamed = _one_mixture_a_name(layout, _filled(layout, _read_numbers(layout), fill))
    table, rows, more = _assemble(layout, numbers)
    far = far_losses(table)
    if far:
        more.append(_far_notice(layout, table, (far, rows), far_runs))
        if far_runs == "leave_out":
            names = {table.runs[loss.row] for loss in far}
            table = table.take(np.array([run not in names for run in table.runs]))
    if fill.tokens is not None or layout.stage_tokens:
        column = "tokens"
    else:
        column = _progress_column(layout, ("tokens", "step"))
    return PartTable(str(layout.losses.path), table, column), [*renamed, *more]


def _filled(layout: TableLayout, numbers: _Numbers, fill: TableFill) -> _Numbers:
    """Set the sizes and tokens that the caller gives for all rows of a table.

    Raises:
        FitError: The table has that column.
    """
    for name, value in (("params", fill.params), ("tokens", fill.tokens)):
        if value is not None and _progress_column(layout, (name,)):
            raise FitError(
                f"{layout.losses.path}: has a column '{name}', so fill cannot set it; remove one"
            )
    rows = np.ones(len(numbers.runs))
    return replace(
        numbers,
        params=numbers.params if fill.params is None else fill.params * rows,
        tokens=numbers.tokens if fill.tokens is None else fill.tokens * rows,
    )


@dataclass(frozen=True, slots=True)
class _Numbers:
    """The numbers of a layout's rows."""

    runs: list[str]
    losses: Array
    """shape (rows, targets); NaN where a cell is empty."""
    tokens: Array
    params: Array
    shares: Array
    """shape (rows, domains), as they stand; 0 where a cell is empty."""
    some_absent: NDArray[np.bool_]
    """shape (rows,), whether a share is empty."""
    totals: Array
    """shape (rows,), sums of the shares."""
    typed_sums: Array
    """shape (rows,), sums of the shares as typed; of stages, the sum that is furthest from 1."""


def _read_numbers(layout: TableLayout) -> _Numbers:
    losses = np.stack(
        [layout.losses.numbers(name, layout.loss_rows) for name in layout.targets.values()], axis=1
    )
    params = _progress(layout, ("params",))
    shares = np.stack(
        [layout.weights.numbers(name, layout.weight_rows) for name in layout.domains.values()],
        axis=1,
    )
    empty = np.isnan(shares)
    some_absent = np.asarray(empty.any(axis=1))
    shares[empty] = 0.0
    if layout.stage_tokens:
        shares, tokens, typed_sums = _of_all_tokens(layout, shares)
    else:
        tokens = _progress(layout, ("tokens", "step"))
    # Exactly rounded, so that shares do not depend on the order of the columns.
    totals = np.array([math.fsum(row) for row in shares.tolist()])
    if not layout.stage_tokens:
        typed_sums = totals
    _check_shares(layout, shares, some_absent, totals)
    return _Numbers(
        runs=_run_names(layout),
        losses=losses,
        tokens=tokens,
        params=params,
        shares=shares,
        some_absent=some_absent,
        totals=totals,
        typed_sums=typed_sums,
    )


def _of_all_tokens(layout: TableLayout, shares: Array) -> tuple[Array, Array, Array]:
    """Turn shares within stages into shares of the tokens of all stages.

    Args:
        layout: Columns of stages.
        shares: shape (rows, domains), as they stand.

    Returns:
        Shares of all tokens, shape (rows, domains); all tokens, shape (rows,); and the sum of a
        trained stage's shares that is furthest from 1, shape (rows,).

    Raises:
        FitError: The tokens of a stage are not a number, or its shares do not sum to 1.
    """
    rows = layout.weight_rows
    by_stage = [layout.weights.numbers(column, rows) for column in layout.stage_tokens.values()]
    tokens = np.stack(by_stage, axis=1)
    bad = ~((tokens >= 0) & (tokens < math.inf))
    bad[tokens.sum(axis=1) == 0, 0] = True
    if bad.any():
        row = int(bad.any(axis=1).argmax())
        place = int(bad[row].argmax())
        raise FitError(
            f"{layout.weights.where(int(rows[row]))}: column "
            f"'{list(layout.stage_tokens.values())[place]}': expected the tokens of the stage, at "
            f"least 0 and not 0 in all stages, found {tokens[row, place]:g}"
        )
    stages = [name.partition("/")[0] for name in layout.domains]
    whole, furthest = np.empty_like(shares), np.ones(len(shares))
    for place, stage in enumerate(layout.stage_tokens):
        columns = [at for at, name in enumerate(stages) if name == stage]
        sums = shares[:, columns].sum(axis=1)
        trained = tokens[:, place] > 0
        low, high = SUM_RANGE
        off = trained & ~((sums >= low) & (sums <= high))
        if off.any():
            row = int(off.argmax())
            raise FitError(
                f"{layout.weights.where(int(rows[row]))}: the shares of stage '{stage}' sum to "
                f"{sums[row]:g}; expected shares of the stage's tokens, which sum to 1"
            )
        further = trained & (np.abs(sums - 1) > np.abs(furthest - 1))
        furthest = np.where(further, sums, furthest)
        part = np.where(trained, tokens[:, place] / tokens.sum(axis=1), 0.0)
        whole[:, columns] = shares[:, columns] * (part / np.where(trained, sums, 1.0))[:, None]
    return whole, tokens.sum(axis=1), furthest


def _one_mixture_a_name(layout: TableLayout, numbers: _Numbers) -> tuple[_Numbers, list[str]]:
    """Name runs apart that share a name but not a mixture; say which, a sentence for all.

    Laws fit mixtures, and resampling draws runs by name: taken for one run, the second mixture
    would be a repeat, or move with the first.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = numbers.shares / numbers.totals[:, None]
    mixtures: dict[str, list[int]] = {}
    names = list(numbers.runs)
    apart: list[str] = []
    for row, name in enumerate(numbers.runs):
        firsts = mixtures.setdefault(name, [])
        differences = np.abs(shares[firsts] - shares[row]).max(axis=1)
        same = np.flatnonzero(~(differences > SAME_MIXTURE))
        place = int(same[0]) if len(same) else len(firsts)
        if place == len(firsts):
            firsts.append(row)
            if place:
                lines = [layout.weights.lines[layout.weight_rows[at]] for at in (firsts[0], row)]
                apart.append(f"{quoted(name)} (lines {lines[0]} and {lines[1]})")
        if place:
            names[row] = f"{name}, mixture {place + 1}"
    if not apart:
        return numbers, []
    return replace(numbers, runs=names), [
        f"{layout.weights.path}: one name for several mixtures: {list_first(apart)}; each mixture "
        "is taken as a run. Give every run its own name"
    ]


def _far_notice(
    layout: TableLayout,
    table: RunTable,
    far: tuple[tuple[FarLoss, ...], NDArray[np.int64]],
    far_runs: FarRuns,
) -> str:
    """Name the runs that are far from all others, with the loss that says so.

    Args:
        layout: The columns.
        table: The runs.
        far: The far losses, and the row of the layout for each row of the table.
        far_runs: What becomes of them.
    """
    losses, rows = far
    parts = []
    for loss in losses:
        line = layout.losses.lines[layout.loss_rows[rows[loss.row]]]
        column = layout.targets[table.targets[loss.target]]
        swapped = "" if loss.fits is None else f"; its mixture looks swapped with {loss.fits}'s"
        parts.append(
            f"{quoted(table.runs[loss.row])} (line {line}: {column} is "
            f"{table.losses[loss.row, loss.target]:.4g}, the others predict "
            f"{loss.expected:.4g}{swapped})"
        )
    fate = (
        "left out of every fit; mixture.evidence.far_runs: keep, or curate fit --far-runs keep, "
        "would keep "
        if far_runs == "leave_out"
        else "kept as far_runs says, though one such loss can decide a fit; leave_out drops "
    )
    plural = len(losses) > 1
    return (
        f"{layout.losses.path}: {len(losses)} run{'s' if plural else ''} far from all others: "
        f"{list_first(parts)}; {fate}{'them' if plural else 'it'}"
    )


def _assemble(
    layout: TableLayout, numbers: _Numbers
) -> tuple[RunTable, NDArray[np.int64], list[str]]:
    """Keep the rows that are complete and not repeats; count the others by reason.

    Returns:
        The table; the row of the layout for each of its rows; a sentence for each reason.
    """
    usable = np.isfinite(numbers.losses) & (numbers.losses > 0)
    logs = np.log(np.where(usable, numbers.losses, math.nan))
    medians = _medians(logs, usable)
    distance = np.abs(logs - medians)
    reasons = {
        "untrained": numbers.tokens == 0,
        "incomplete": ~usable.all(axis=1),
        "outlying": ((distance > math.log(OUTLYING)) | (np.abs(logs) > math.log(LARGEST))).any(
            axis=1
        ),
        "unknown": numbers.some_absent & (np.abs(numbers.typed_sums - 1) > ABSENT_SUM),
    }
    left = np.ones(len(numbers.runs), bool)
    left_out: dict[str, list[int]] = {}
    for reason, of_reason in reasons.items():  # a row counts for the first reason that holds
        left_out[reason] = np.flatnonzero(left & of_reason).tolist()
        left &= ~of_reason
    rows, left_out["repeated"], left_out["contradicting"] = _first_of_each(numbers, left)
    off = np.abs(numbers.typed_sums[rows] - 1)
    notices = _notices(layout, left_out)
    if (off > SUM_NOTICE).any():
        worst = layout.weights.where(int(layout.weight_rows[rows[int(off.argmax())]]))
        notices.append(
            f"{layout.weights.path}: shares of {counted(int((off > SUM_NOTICE).sum()), 'row')} "
            f"did not sum to 1 (off by at most {off.max():.3g}, at {worst}); divided by their sum"
        )
    if not len(rows):
        empty = [name for name, m in zip(layout.targets, medians, strict=True) if math.isnan(m)]
        if empty:
            raise FitError(
                f"{layout.losses.path}: no row has a positive number in column "
                f"'{layout.targets[empty[0]]}'; leave it out (curate fit --targets), or remove the "
                "column"
            )
        raise FitError(f"no row is complete: {'; '.join(notices)}")
    return _table(layout, numbers, rows), rows, notices


def _medians(logs: Array, usable: NDArray[np.bool_]) -> Array:
    """Return the median of each target's usable logs, shape (targets,); NaN if there are none."""
    columns = zip(logs.T, usable.T, strict=True)
    return np.array([np.median(column[use]) if use.any() else math.nan for column, use in columns])


def _first_of_each(
    numbers: _Numbers, left: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], list[int], list[int]]:
    """Keep the first row of each run, tokens and parameters.

    Returns:
        The rows; those that repeat one with the same losses; those with other losses.
    """
    first: dict[tuple[str, float, float], int] = {}
    repeated: list[int] = []
    contradicting: list[int] = []
    progress = np.nan_to_num(np.stack([numbers.tokens, numbers.params], axis=1)).tolist()
    for row in np.flatnonzero(left).tolist():
        seen = first.setdefault((numbers.runs[row], *progress[row]), row)
        if seen != row:
            same = bool((numbers.losses[seen] == numbers.losses[row]).all())
            (repeated if same else contradicting).append(row)
    return np.array(list(first.values()), np.int64), repeated, contradicting


def _notices(layout: TableLayout, left_out: dict[str, list[int]]) -> list[str]:
    """Write one sentence for each reason why rows were left out, with the first lines."""
    sentences = {
        "untrained": "{} at 0 tokens; left out",
        "incomplete": "{} without a positive number for every loss; left out",
        "outlying": "{} with a loss a million times its median, a millionth of it, or out of "
        "1e-9 to 1e9; left out",
        "unknown": "{} with empty shares, and others that do not sum to 1; left out",
        "repeated": "{} repeating a run at the same tokens; left out",
        "contradicting": "{} repeating a run at the same tokens with other losses; the first of "
        "each is kept. Runs of several seeds need different names, or a column seed",
    }
    notices = []
    for reason, rows in left_out.items():
        if not rows:
            continue
        by_share = reason == "unknown"
        file, of_file = (
            (layout.weights, layout.weight_rows) if by_share else (layout.losses, layout.loss_rows)
        )
        lines = list_first([str(file.lines[of_file[row]]) for row in rows])
        one = len(rows) == 1
        count = f"{len(rows)} {'row (line' if one else 'rows (lines'} {lines})"
        notices.append(f"{file.path}: {sentences[reason].format(count)}")
    return notices


def _run_names(layout: TableLayout) -> list[str]:
    """Name the run of each row; runs of one name and several seeds are several runs.

    Raises:
        FitError: A name is empty.
    """
    import polars as pl

    empty = (layout.weights.cells[layout.key] == "").to_numpy()[layout.weight_rows]
    if empty.any():
        where = layout.weights.where(int(layout.weight_rows[empty.argmax()]))
        raise FitError(f"{where}: column '{layout.key}' is empty; give every run a name")

    name, seed = pl.col(layout.key), pl.col("seed")
    cells = layout.weights.cells
    if layout.weights is layout.losses and "seed" in cells.columns:
        several = seed.n_unique().over(layout.key) > 1
        name = pl.when(several).then(pl.format("{}, seed {}", name, seed)).otherwise(name)
    names: list[str] = cells.select(run=name)["run"].to_list()
    return [names[row] for row in layout.weight_rows]


def _table(layout: TableLayout, numbers: _Numbers, rows: NDArray[np.int64]) -> RunTable:
    tokens, params = numbers.tokens[rows], numbers.params[rows]
    for name, column in (("tokens", tokens), ("params", params)):
        given = np.isfinite(column)
        if given.any() and not given.all():
            first = layout.losses.where(int(layout.loss_rows[rows[int(given.argmin())]]))
            raise FitError(
                f"{first}: '{name}' is absent here, given in "
                f"{counted(int(given.sum()), 'row')} and absent in {int((~given).sum())}; "
                "give it in all or in none"
            )
    return RunTable(
        domains=tuple(layout.domains),
        targets=tuple(layout.targets),
        runs=tuple(numbers.runs[row] for row in rows),
        weights=numbers.shares[rows] / numbers.totals[rows, None],
        tokens=tokens,
        params=params,
        losses=numbers.losses[rows],
        loss_per_bpb=_loss_per_bpb(layout, numbers.losses, rows),
        stages=tuple(layout.stage_tokens),
    )


def _loss_per_bpb(layout: TableLayout, losses: Array, rows: NDArray[np.int64]) -> float:
    """Return the losses' unit from the table's bits per byte, if it has some; else NaN.

    A pair's columns that do not call themselves losses are taken for bits per byte, as Olmix's are.
    """
    file = layout.losses
    columns = layout.targets.values()
    if all(column.startswith("bpb_") for column in columns):
        return 1.0
    if layout.losses is not layout.weights and not any("loss" in column for column in columns):
        return 1.0
    ratios = []
    for place, target in enumerate(layout.targets):
        if f"bpb_{target}" in file.header:
            bits, _ = file.parse(f"bpb_{target}")
            bits = bits[layout.loss_rows[rows]]
            real = np.isfinite(bits) & (bits > 0)
            ratios.extend((losses[rows, place][real] / bits[real]).tolist())
    return float(np.median(ratios)) if ratios else math.nan


def _check_shares(
    layout: TableLayout, shares: Array, some_absent: NDArray[np.bool_], totals: Array
) -> None:
    """Refuse shares that are negative or do not sum to 1, naming the first line.

    Raises:
        FitError: A share is negative or infinite; or the shares of a row are far from 1.
    """
    wrong = ~((shares >= 0) & (shares < math.inf))
    low, high = SUM_RANGE
    off = ~((totals >= low) & (totals <= high)) & ~(some_absent & (totals < 1))
    bad = wrong.any(axis=1) | off
    if not bad.any():
        return
    row = int(bad.argmax())
    where = layout.weights.where(int(layout.weight_rows[row]))
    if wrong[row].any():
        column = int(wrong[row].argmax())
        name, header = list(layout.domains.items())[column]
        raise FitError(
            f"{where}: column '{header}': the share of '{name}' is {shares[row, column]:g}; "
            "expected at least 0"
        )
    raise FitError(
        f"{where}: the shares sum to {totals[row]:g}; expected shares of tokens, which sum to 1"
        + _sum_hint(layout, float(totals[row]))
    )


def _sum_hint(layout: TableLayout, total: float) -> str:
    if abs(total - 100) < 2:
        return ": divide percentages by 100"
    if total < 1:
        return f"; is the column of a domain missing? There are {', '.join(layout.domains)}"
    return ""


def _progress(layout: TableLayout, names: Sequence[str]) -> Array:
    """Read the first of these columns that has a number, shape (rows,); NaN without one.

    Raises:
        FitError: A cell is not a number or out of range.
    """
    name = _progress_column(layout, names)
    if not name:
        return np.full(len(layout.weight_rows), math.nan)
    file, rows = layout.losses, layout.loss_rows
    if not (name in file.header and _has_numbers(file, name)):
        file, rows = layout.weights, layout.weight_rows
    values = file.numbers(name, rows)
    _check_progress(file, name, rows, values)
    return values


def _progress_column(layout: TableLayout, names: Sequence[str]) -> str:
    """Return the first of these columns that has a number in either file; empty for none.

    Raises:
        FitError: A cell is not a number.
    """
    for name in names:
        for file in (layout.losses, layout.weights):
            if name in file.header and _has_numbers(file, name):
                return name
    return ""


def _has_numbers(file: TableFile, name: str) -> bool:
    """Tell whether a column has a finite number.

    Raises:
        FitError: A cell that is not a number comes before any.
    """
    numbers, wrong = file.parse(name)
    decisive = np.isfinite(numbers) | wrong
    if not decisive.any():
        return False
    row = int(decisive.argmax())
    if wrong[row]:
        raise file.not_a_number(row, name)
    return True


def _check_progress(file: TableFile, name: str, rows: NDArray[np.int64], values: Array) -> None:
    positive = name == "params"
    bad = (values < 0) | (values == math.inf) | ((values == 0) & positive)
    if bad.any():
        row = int(bad.argmax())
        least = "above 0" if positive else "of at least 0"
        raise FitError(
            f"{file.where(int(rows[row]))}: column '{name}': expected a number {least}, found "
            f"{values[row]:g}"
        )
