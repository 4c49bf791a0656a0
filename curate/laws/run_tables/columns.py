"""The files of a run table: which column is a share, a loss, a run's name.

Columns are found by name and rows joined by run, never by position; numbers are looked at later.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curate.errors import FitError

KEYS = ("run", "run_id", "index", "name")
"""Columns that may name a run, the first that both files have is taken."""

PROGRESS = ("params", "tokens", "step", "seed")
"""Columns that are neither a share nor a loss."""


SUM_RANGE = (0.5, 1.5)
"""Where sums of shares lie by rounding or an absent domain; others are no shares."""


@dataclass(frozen=True, slots=True)
class TableFile:
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
class Layout:
    """Where the parts of a table are: names by column, of one file or of two."""

    weights: TableFile
    losses: TableFile
    domains: dict[str, str]
    """domain → its column in `weights`."""
    targets: dict[str, str]
    """target → its column in `losses`."""
    pairs: tuple[tuple[int, int], ...]
    """Row of `weights` and row of `losses` that belong together."""
    key: str


def load_file(path: Path) -> TableFile:
    """Read a CSV file.

    Raises:
        FitError: It is absent, is no CSV, or a row has another length than the header.
    """
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
    return TableFile(path, header, tuple(rows), tuple(lines))


def single_layout(file: TableFile) -> tuple[Layout, list[str]]:
    """Columns of one file of ours, and what was left out, a sentence each.

    Raises:
        FitError: It has no column of shares or of losses.
    """
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
    return Layout(file, file, domains, targets, rows, key), notices


def pair_layout(first: TableFile, second: TableFile) -> tuple[Layout, list[str]]:
    """Columns of a file of mixtures and one of losses, in any order; and what was left out.

    Raises:
        FitError: They share no name of runs or no run, or neither holds shares.
    """
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
    layout = Layout(
        weights, losses, _plain(weights, _domain_name), _plain(losses, _target_name), pairs, key
    )
    return layout, notices


def _named(file: TableFile, key: str) -> list[tuple[str, int]]:
    column = file.header.index(key)
    return [(cells[column].strip(), row) for row, cells in enumerate(file.rows)]


def _keyed(file: TableFile, key: str) -> list[tuple[int, str]]:
    """Row and name, the first row of a name last, so that a dict keeps that one."""
    return [(row, name) for name, row in reversed(_named(file, key))]


def _values(file: TableFile) -> list[str]:
    return [name for name in file.header if name and name not in (*KEYS, *PROGRESS)]


def _looks_like_shares(file: TableFile) -> bool:
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


def _plain(file: TableFile, rename: Callable[[str], str]) -> dict[str, str]:
    """Short name → column; the columns' own names where short ones would clash."""
    columns = _values(file)
    short = [rename(column) for column in columns]
    return dict(zip(short if len(set(short)) == len(short) else columns, columns, strict=True))
