"""Reads run tables: one file of ours, or a file of mixtures and a file of losses.

Columns are found by name and rows are joined by run, never by position. What is left out or changed
on the way (rows without a loss, repeated rows, runs of one file only, shares that had to be divided
by their sum) is counted and said in notices. What the numbers mean is `base.RunTable`'s business.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curate.errors import FitError
from curate.laws.base import RunTable

KEYS = ("run", "run_id", "index", "name")
"""Columns that may name a run, the first that both files have is taken."""
PROGRESS = ("params", "tokens", "step", "seed")
"""Columns that are neither a share nor a loss."""
SUM_RANGE = (0.5, 1.5)
"""Where sums of shares lie by rounding or an absent domain; others are no shares."""
SUM_NOTICE = 1e-6
OUTLYING = 1e6
"""Times its target's median, or part of it, beyond which a loss is a slip and no loss."""
ABSENT_SUM = 0.02
"""How far from 1 the shares of a row with an empty share may sum; further off, it is unknown which
domain lacks how much."""


@dataclass(frozen=True, slots=True)
class _File:
    """A CSV file as text cells."""

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    """shape (rows,), the line of the file where each row ends."""

    def number(self, row: int, column: str) -> float:
        """A cell as a number; an empty one or `nan` is NaN."""
        text = self.rows[row][self.header.index(column)].strip()
        try:
            return float(text) if text else math.nan
        except ValueError:
            where = f"{self.path}:{self.lines[row]}: column '{column}'"
            raise FitError(f"{where}: expected a number, found '{text}'") from None


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the parts of a table are: names by column, of one file or of two."""

    weights: _File
    losses: _File
    domains: dict[str, str]
    """domain → its column in `weights`."""
    targets: dict[str, str]
    """target → its column in `losses`."""
    pairs: tuple[tuple[int, int], ...]
    """Row of `weights` and row of `losses` that belong together."""
    key: str


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
        layout, notices = _single(_load(paths[0]))
    elif len(paths) == 2:
        layout, notices = _pair(_load(paths[0]), _load(paths[1]))
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
        layout = _Layout(
            layout.weights, layout.losses, layout.domains, chosen, layout.pairs, layout.key
        )
    table, more = _assemble(layout)
    return table, (*notices, *more)


def _load(path: Path) -> _File:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise FitError(f"{path}: cannot be read: {reason}") from None
    reader = csv.reader(io.StringIO(text, newline=""))
    rows, lines = [], []
    header: tuple[str, ...] = ()
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = tuple(cell.strip() for cell in cells)
            repeated = {name for name in header if name and header.count(name) > 1}
            if repeated:
                raise FitError(f"{path}:1: column '{min(repeated)}' occurs twice")
            continue
        if len(cells) != len(header):
            raise FitError(
                f"{path}:{reader.line_num}: {len(cells)} cells, but {len(header)} columns"
            )
        rows.append(tuple(cells))
        lines.append(reader.line_num)
    if not rows:
        raise FitError(f"{path}: no rows; expected a header and a row for each checkpoint")
    return _File(path, header, tuple(rows), tuple(lines))


def _single(file: _File) -> tuple[_Layout, list[str]]:
    domains = {name[2:]: name for name in file.header if name.startswith("w_")}
    targets = {name[5:]: name for name in file.header if name.startswith("loss_")}
    notices = []
    if not targets:
        targets = {name[4:]: name for name in file.header if name.startswith("bpb_")}
        if targets:
            notices.append(f"{file.path}: no loss_… columns; bpb_… (bits per byte) taken instead")
    key = next((name for name in KEYS if name in file.header), None)
    if key is None or not domains or not targets:
        separator = next((mark for mark in (";", "\t") if mark in "".join(file.header)), None)
        raise FitError(
            f"{file.path}:1: not a run table: expected columns run, w_<domain>…, loss_<domain>…; "
            + (f"cells are separated by {separator!r}: save it with commas" if separator else
               "mixtures and losses in two files are given as two arguments")
        )  # fmt: skip
    rows = tuple((row, row) for row in range(len(file.rows)))
    return _Layout(file, file, domains, targets, rows, key), notices


def _pair(first: _File, second: _File) -> tuple[_Layout, list[str]]:
    key = next((name for name in KEYS if name in first.header and name in second.header), None)
    if key is None:
        raise FitError(
            f"{first.path} and {second.path} have no column in common to join rows on; expected "
            f"one of {', '.join(KEYS)} in both"
        )
    are_shares = [_looks_like_shares(file) for file in (first, second)]
    if are_shares[0] == are_shares[1]:
        which = "both" if are_shares[0] else "neither"
        raise FitError(
            f"{first.path} and {second.path}: {which} of them has rows of shares that sum to 1; "
            "expected one file of mixtures and one of losses"
        )
    weights, losses = (first, second) if are_shares[0] else (second, first)
    numbers = {name: row for row, name in _keyed(losses, key)}
    pairs = tuple((row, numbers[name]) for name, row in _named(weights, key) if name in numbers)
    notices = []
    alone = len({name for name, _ in _named(weights, key)} - set(numbers))
    if alone:
        notices.append(f"{weights.path}: {alone} runs have no losses in {losses.path}; left out")
    alone = len(set(numbers) - {name for name, _ in _named(weights, key)})
    if alone:
        notices.append(f"{losses.path}: {alone} runs have no mixture in {weights.path}; left out")
    if not pairs:
        raise FitError(f"{weights.path} and {losses.path} share no value of '{key}'")
    repeated = len(losses.rows) - len(numbers)
    if repeated:
        notices.append(f"{losses.path}: {repeated} rows repeat a run; the first of each is kept")
    layout = _Layout(
        weights, losses, _plain(weights, _domain_name), _plain(losses, _target_name), pairs, key
    )
    return layout, notices


def _named(file: _File, key: str) -> list[tuple[str, int]]:
    column = file.header.index(key)
    return [(cells[column].strip(), row) for row, cells in enumerate(file.rows)]


def _keyed(file: _File, key: str) -> list[tuple[int, str]]:
    """Row and name, the first row of a name last, so that a dict keeps that one."""
    return [(row, name) for name, row in reversed(_named(file, key))]


def _values(file: _File) -> list[str]:
    return [name for name in file.header if name and name not in (*KEYS, *PROGRESS)]


def _looks_like_shares(file: _File) -> bool:
    columns = _values(file)
    sums = []
    for row in range(len(file.rows)):
        values = [file.number(row, column) for column in columns]
        if any(not 0 <= value <= SUM_RANGE[1] for value in values):
            return False
        sums.append(math.fsum(values))
    return bool(sums) and abs(float(np.median(sums)) - 1) < 0.1


def _domain_name(column: str) -> str:
    return re.sub(r"^(w_|train_the_pile_|train_)", "", column)


def _target_name(column: str) -> str:
    plain = re.sub(r"^metric/(the_pile_)?|^loss_", "", column)
    return re.sub(r"_val_loss$", "", plain)


def _plain(file: _File, rename: Callable[[str], str]) -> dict[str, str]:
    """Short name → column; the columns' own names where short ones would clash."""
    columns = _values(file)
    short = [rename(column) for column in columns]
    return dict(zip(short if len(set(short)) == len(short) else columns, columns, strict=True))


def _assemble(layout: _Layout) -> tuple[RunTable, list[str]]:
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


def _medians(layout: _Layout) -> list[float]:
    """Of each target's losses; NaN where no row has one."""
    found = []
    for column in layout.targets.values():
        losses = [layout.losses.number(row, column) for _, row in layout.pairs]
        known = [loss for loss in losses if math.isfinite(loss) and loss > 0]
        found.append(float(np.median(known)) if known else math.nan)
    return found


def _run_names(layout: _Layout) -> list[str]:
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
    layout: _Layout, cells: list[tuple[str, list[float], float, float, list[float]]]
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


def _shares(layout: _Layout, row: int) -> tuple[list[float], bool]:
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


def _sum_hint(layout: _Layout, total: float) -> str:
    if abs(total - 100) < 2:
        return ": divide percentages by 100"
    if total < 1:
        return f"; is the column of a domain missing? There are {', '.join(layout.domains)}"
    return ""


def _progress(
    layout: _Layout,
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


def _column_reader(file: _File, name: str, position: int) -> Callable[[int, int], float]:
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
