"""Reads run tables: one file of ours, or a file of mixtures and a file of losses.

Columns are found by name and rows are joined by run, never by position. What is left out or changed
on the way (rows without a loss, repeated rows, runs of one file only, shares that had to be divided
by their sum) is counted and said in notices. What the numbers mean is `base.RunTable`'s business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from curate.errors import FitError
from curate.laws.law import RunTable
from curate.laws.run_tables.columns import (
    SUM_RANGE,
    Layout,
    TableFile,
    load_file,
    pair_layout,
    single_layout,
)

SUM_NOTICE = 1e-6

OUTLYING = 1e6
"""Times its target's median, or part of it, beyond which a loss is a slip and no loss."""

ABSENT_SUM = 0.02
"""How far from 1 the shares of a row with an empty share may sum; further off, it is unknown which
domain lacks how much."""


def read_runs(
    paths: Sequence[Path], targets: Sequence[str] | None = None
) -> tuple[RunTable, tuple[str, ...]]:
    """Read one run table (`runs.csv`), or a pair of files with mixtures and losses.

    A single file has columns `run`, `w_<domain>`, `loss_<domain>` (nats per token; or only
    `bpb_<domain>`), and may have `params`, `tokens`, `step`. In a pair, one file has a column of
    shares for each domain and the other a column for each loss, both with one of `run`, `run_id`,
    `index`, `name`; prefixes such as `train_the_pile_` and `metric/the_pile_…_val_loss` are taken
    off, so that a domain and its loss have one name.

    Args:
        paths: One file, or two in any order.
        targets: Names of the losses to keep; None keeps all.

    Returns:
        The table, and what was left out or changed, a sentence each.

    Raises:
        FitError: A file is absent or not such a table; a cell is not a number; a share is negative;
            the shares of a row are far from 1; a target is unknown; no complete row is left.
    """
    if len(paths) == 1:
        layout, notices = single_layout(load_file(paths[0]))
    elif len(paths) == 2:
        layout, notices = pair_layout(load_file(paths[0]), load_file(paths[1]))
    else:
        raise FitError(f"fit: expected one run table or a pair of files, got {len(paths)} files")
    if targets is not None:
        unknown = [name for name in targets if name not in layout.targets]
        if unknown:
            raise FitError(
                f"fit: no loss named '{unknown[0]}' in {layout.losses.path}; there is: "
                + ", ".join(layout.targets)
            )
        chosen = {name: layout.targets[name] for name in targets}
        layout = Layout(
            layout.weights, layout.losses, layout.domains, chosen, layout.pairs, layout.key
        )
    table, more = _assemble(layout)
    return table, (*notices, *more)


def _assemble(layout: Layout) -> tuple[RunTable, list[str]]:
    """Numbers of the rows that are complete and not repeats."""
    progress = _progress(layout)
    names = _run_names(layout)
    cells: list[tuple[str, list[float], float, float, list[float]]] = []
    seen: dict[tuple[str, float, float], list[float]] = {}
    kinds = ("untrained", "incomplete", "outlying", "unknown", "repeated", "contradicting")
    left_out = dict.fromkeys(kinds, 0)
    middle = _medians(layout)
    rescaled, furthest = 0, 0.0
    for (weight_row, loss_row), run in zip(layout.pairs, names, strict=True):
        losses = [layout.losses.number(loss_row, column) for column in layout.targets.values()]
        tokens, params = (read(weight_row, loss_row) for read in progress)
        shares, some_absent = _shares(layout, weight_row)
        total = math.fsum(shares)
        identity = (run, _or_zero(tokens), _or_zero(params))
        if tokens == 0:
            left_out["untrained"] += 1
        elif not all(math.isfinite(value) and value > 0 for value in losses):
            left_out["incomplete"] += 1
        elif any(abs(math.log(loss / m)) > math.log(OUTLYING)
                 for loss, m in zip(losses, middle, strict=True)):  # fmt: skip
            left_out["outlying"] += 1
        elif some_absent and abs(total - 1) > ABSENT_SUM:
            left_out["unknown"] += 1
        elif identity in seen:
            left_out["repeated" if seen[identity] == losses else "contradicting"] += 1
        else:
            seen[identity] = losses
            rescaled += abs(total - 1) > SUM_NOTICE
            furthest = max(furthest, abs(total - 1))
            cells.append((run, [share / total for share in shares], tokens, params, losses))
    where = layout.losses.path
    reasons = {
        "untrained": f"{where}: {{}} rows at 0 tokens; left out",
        "incomplete": f"{where}: {{}} rows without a positive number for every loss; left out",
        "outlying": f"{where}: {{}} rows with a loss a million times its median, or a millionth; "
        "left out",
        "unknown": f"{layout.weights.path}: {{}} rows with empty shares, and others that do not "
        "sum to 1; left out",
        "repeated": f"{where}: {{}} rows repeat a run at the same tokens; left out",
        "contradicting": f"{where}: {{}} rows repeat a run at the same tokens with other losses; "
        "the first of each is kept. Runs of several seeds need names, or a column seed, of their "
        "own",
    }
    notices = [reasons[why].format(rows) for why, rows in left_out.items() if rows]
    if rescaled:
        notices.append(f"{layout.weights.path}: shares of {rescaled} rows did not sum to 1 (off by "
                       f"at most {furthest:.3g}); divided by their sum")  # fmt: skip
    if not cells:
        empty = [name for name, m in zip(layout.targets, middle, strict=True) if math.isnan(m)]
        if empty:
            raise FitError(
                f"{where}: no row has a positive number in column '{layout.targets[empty[0]]}'; "
                "leave it out (curate fit --targets), or remove the column"
            )
        raise FitError(f"no row is complete: {'; '.join(notices)}")
    return _table(layout, cells), notices


def _medians(layout: Layout) -> list[float]:
    """Of each target's losses; NaN where no row has one."""
    found = []
    for column in layout.targets.values():
        losses = [layout.losses.number(row, column) for _, row in layout.pairs]
        known = [loss for loss in losses if math.isfinite(loss) and loss > 0]
        found.append(float(np.median(known)) if known else math.nan)
    return found


def _run_names(layout: Layout) -> list[str]:
    """The run of each pair of rows; runs of one name and several seeds are several runs."""
    weights = layout.weights
    place = weights.header.index(layout.key)
    names = [weights.rows[row][place].strip() for row, _ in layout.pairs]
    if weights is not layout.losses or "seed" not in weights.header:
        return names
    place = weights.header.index("seed")
    seeds = [weights.rows[row][place].strip() for row, _ in layout.pairs]
    seeds_of: dict[str, set[str]] = {}
    for name, seed in zip(names, seeds, strict=True):
        seeds_of.setdefault(name, set()).add(seed)
    return [
        f"{name}, seed {seed}" if len(seeds_of[name]) > 1 else name
        for name, seed in zip(names, seeds, strict=True)
    ]


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _table(
    layout: Layout, cells: list[tuple[str, list[float], float, float, list[float]]]
) -> RunTable:
    runs, shares, tokens, params, losses = zip(*cells, strict=True)
    for name, column in (("tokens", tokens), ("params", params)):
        known = np.isfinite(np.array(column, np.float64))
        if known.any() and not known.all():
            raise FitError(
                f"{layout.weights.path}: '{name}' is given in {int(known.sum())} rows and absent "
                f"in {int((~known).sum())}; give it in all or in none"
            )
    return RunTable(
        domains=tuple(layout.domains), targets=tuple(layout.targets), runs=tuple(runs),
        weights=np.array(shares, np.float64), tokens=np.array(tokens, np.float64),
        params=np.array(params, np.float64), losses=np.array(losses, np.float64),
    )  # fmt: skip


def _shares(layout: Layout, row: int) -> tuple[list[float], bool]:
    """Shares of one row as they stand, and whether some are empty; those count as 0."""
    file = layout.weights
    shares, absent = [], False
    for name, column in layout.domains.items():
        value = file.number(row, column)
        absent |= math.isnan(value)
        value = 0.0 if math.isnan(value) else value
        if not 0 <= value < math.inf:
            raise FitError(
                f"{file.path}:{file.lines[row]}: column '{column}': the share of '{name}' is "
                f"{value:g}; expected at least 0"
            )
        shares.append(value)
    total = math.fsum(shares)
    if not SUM_RANGE[0] <= total <= SUM_RANGE[1] and not (absent and total < 1):
        raise FitError(
            f"{file.path}:{file.lines[row]}: the shares sum to {total:g}; expected shares of "
            "tokens, which sum to 1" + _sum_hint(layout, total)
        )
    return shares, absent


def _sum_hint(layout: Layout, total: float) -> str:
    if abs(total - 100) < 2:
        return ": divide percentages by 100"
    if total < 1:
        return f"; is the column of a domain missing? There are {', '.join(layout.domains)}"
    return ""


def _progress(
    layout: Layout,
) -> tuple[Callable[[int, int], float], Callable[[int, int], float]]:
    """How tokens (steps, where there are only those) and parameters of a row are read."""

    def reader(names: Sequence[str]) -> Callable[[int, int], float]:
        for name in names:
            for position, file in enumerate((layout.losses, layout.weights)):
                if name in file.header and any(
                    math.isfinite(file.number(row, name)) for row in range(len(file.rows))
                ):
                    return _column_reader(file, name, position)
        return lambda weight_row, loss_row: math.nan

    return reader(("tokens", "step")), reader(("params",))


def _column_reader(file: TableFile, name: str, position: int) -> Callable[[int, int], float]:
    def read(weight_row: int, loss_row: int) -> float:
        row = weight_row if position else loss_row
        value = file.number(row, name)
        least = "above 0" if name == "params" else "of at least 0"
        if value < 0 or value == math.inf or (value == 0 and name == "params"):
            raise FitError(
                f"{file.path}:{file.lines[row]}: column '{name}': expected a number {least}, found "
                f"{value:g}"
            )
        return value

    return read
