"""Read the files of a run table, and match columns to shares, losses and names of runs.

Columns are matched by name and rows are joined by run, never by position.

The CSV reader is Python's: Polars fills a row that is too short with nulls, which cannot be told
from empty cells, and does not say which line of the file a row is on. Polars does the rest:
conversion to numbers, and the join of two files. Processes forked afterwards must not use it, since
its threads do not survive a fork.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curate.errors import FitError
from curate.laws.law import Array
from curate.runtime.machine import fault_or
from curate.runtime.registry import counted

if TYPE_CHECKING:
    import polars as pl

RECIPE_SUFFIXES = (".yaml", ".yml")

KEYS = ("run", "run_id", "index", "name")
"""Columns that may name a run; the first that all files have is used."""

PROGRESS = ("params", "tokens", "step", "seed", "stage")
"""Columns that are neither a share nor a loss."""

NAME_LENGTH = 200
"""Longest name of a column; a longer one is text that was taken for a header."""

NO_NAME = f"cannot be a name; expected printable text of at most {NAME_LENGTH} characters"
"""End of the message about a name that `is_name` refuses."""

CELL_CHARACTERS = 131_072
"""Most characters of a cell; a longer one is an open quote."""

QUOTED_LENGTH = 40
"""Most characters of a cell that a message shows."""

SUM_RANGE = (0.5, 1.5)
"""Sums of a row's shares that rounding or an absent domain can explain."""


@dataclass(frozen=True, slots=True)
class TableFile:
    """A CSV file as text cells."""

    path: Path
    header: tuple[str, ...]
    cells: pl.DataFrame
    """Stripped text; columns without a name are left out."""
    lines: NDArray[np.int64]
    """shape (rows,), the line of the file where each row ends."""

    def parse(self, column: str) -> tuple[Array, NDArray[np.bool_]]:
        """Read a column as numbers.

        Returns:
            Numbers, shape (rows,), NaN where a cell is empty, `nan` or no number; and whether a
            cell is no number, shape (rows,).
        """
        import polars as pl

        text = self.cells[column]
        numbers = text.cast(pl.Float64, strict=False)
        wrong = (numbers.is_null() & (text != "")).to_numpy()
        return numbers.fill_null(math.nan).to_numpy(), wrong

    def numbers(self, column: str, rows: NDArray[np.int64]) -> Array:
        """Read these rows of a column as numbers; an empty cell or `nan` is NaN.

        Raises:
            FitError: A cell of these rows is not a number.
        """
        numbers, wrong = self.parse(column)
        if wrong[rows].any():
            raise self.not_a_number(int(rows[wrong[rows].argmax()]), column)
        return np.asarray(numbers[rows])

    def not_a_number(self, row: int, column: str) -> FitError:
        """Return the error that names the line, the column and the cell."""
        text = quoted(self.cells[column][row])
        return FitError(f"{self.where(row)}: column '{column}': expected a number, found {text}")

    def where(self, row: int) -> str:
        """Return the file and line of a row, as `path:line`."""
        return f"{self.path}:{self.lines[row]}"


@dataclass(frozen=True, slots=True)
class TableLayout:
    """Columns of one file, or of two, that hold the parts of a run table."""

    weights: TableFile
    losses: TableFile
    domains: dict[str, str]
    """domain → its column in `weights`."""
    targets: dict[str, str]
    """target → its column in `losses`."""
    weight_rows: NDArray[np.int64]
    """shape (rows,), rows of `weights`."""
    loss_rows: NDArray[np.int64]
    """shape (rows,), rows of `losses` that belong to them."""
    key: str
    """Column that names the run."""
    stage_tokens: dict[str, str] = field(default_factory=dict)
    """Stage → column of its tokens, in order; then domains are `STAGE/DOMAIN`. Empty: no stages."""


def quoted(text: str, length: int = QUOTED_LENGTH) -> str:
    r"""Quote text of a file for a message: in one line, control characters escaped, cut.

    Example:
        >>> quoted("a\n" + "b" * 50, length=6)
        "'a\\nbbbb…'"
    """
    return repr(text if len(text) <= length else text[:length] + "…")


def load_file(path: Path) -> TableFile:
    """Read a CSV file.

    Raises:
        FitError: It is absent, is not CSV, or a row has more or fewer cells than the header.
    """
    import polars as pl

    header: tuple[str, ...] = ()
    rows, lines = [], []
    for cells, line in _cells(path):
        stripped = tuple(cell.strip() for cell in cells)
        if not any(stripped):
            continue
        if not header:
            header = stripped
            _check_header(path, line, header)
            continue
        if len(cells) != len(header):
            expected = counted(len(header), "column")
            raise FitError(f"{path}:{line}: {counted(len(cells), 'cell')}, but {expected}")
        rows.append(stripped)
        lines.append(line)
    if not rows:
        raise FitError(f"{path}: no rows; expected a header and a row for each checkpoint")
    columns = zip(header, zip(*rows, strict=True), strict=True)
    cells_by_name = {name: list(column) for name, column in columns if name}
    return TableFile(path, header, pl.DataFrame(cells_by_name), np.array(lines, np.int64))


def _cells(path: Path) -> Iterator[tuple[list[str], int]]:
    """Yield the cells of each row, and the line where it ends."""
    if path.suffix.lower() in RECIPE_SUFFIXES:
        raise FitError(
            f"{path}: is a recipe, not a run table; name the table itself, as in `curate fit "
            "runs.csv` (a recipe names its own as mixture.evidence.runs)"
        )
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        unreadable = FitError(f"{path}: cannot be read: {error.strerror or error}")
        raise fault_or(unreadable, error, str(path)) from None
    except UnicodeDecodeError:
        raise FitError(f"{path}: is not UTF-8 text; a run table is a CSV file") from None
    csv.field_size_limit(CELL_CHARACTERS)  # of this process, where readers of text may raise it
    reader = csv.reader(io.StringIO(text, newline=""))
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise FitError(f"{path}:{reader.line_num}: is not CSV: {error}") from None
        if cells is None:
            return
        yield cells, reader.line_num


def _check_header(path: Path, line: int, header: tuple[str, ...]) -> None:
    """Refuse names that occur twice, or that no terminal or report could show as they are."""
    separator = next((mark for mark in ";\t" if len(header) == 1 and mark in header[0]), None)
    if separator is not None:
        raise FitError(
            f"{path}:{line}: not a run table: cells are separated by {separator!r}: save it with "
            "commas"
        )
    repeated = {name for name in header if name and header.count(name) > 1}
    if repeated:
        raise FitError(f"{path}:{line}: column {quoted(min(repeated))} occurs twice")
    for number, name in enumerate(header, 1):
        if not is_name(name):
            raise FitError(f"{path}:{line}: column {number}: {quoted(name)} {NO_NAME}")


def is_name(text: str) -> bool:
    """Tell whether terminals, reports and recipes can show this name as it is."""
    return text.isprintable() and len(text) <= NAME_LENGTH


def holds_both(file: TableFile) -> bool:
    """Tell whether a file is a run table by itself: it has shares and losses by their names."""
    return bool(_named(file, "w_")) and bool(_named(file, "loss_") or _named(file, "bpb_"))


def _named(file: TableFile, prefix: str) -> dict[str, str]:
    """Return the columns that begin with a prefix, by the rest of their name."""
    return {name[len(prefix) :]: name for name in file.header if name.startswith(prefix)}


def single_layout(file: TableFile) -> tuple[TableLayout, list[str]]:
    """Find the columns of one file that has everything.

    Returns:
        The layout, and what was left out, one sentence each.

    Raises:
        FitError: It has no column of shares or of losses.
    """
    domains = _named(file, "w_")
    stage_tokens = _named(file, "tokens_")
    if len(stage_tokens) > 1:
        domains = _domains_of_stages(file, domains, tuple(stage_tokens))
    else:
        stage_tokens = {}
    targets = _named(file, "loss_")
    notices = []
    if not targets:
        targets = _named(file, "bpb_")
        if targets:
            notices.append(f"{file.path}: no loss_… columns; bpb_… (bits per byte) taken instead")
    key = next((name for name in KEYS if name in file.header), None)
    if key is None or not domains or not targets:
        absent = [
            name
            for name, is_absent in (
                ("run", key is None),
                ("w_<domain>", not domains),
                ("loss_<domain>", not targets),
            )
            if is_absent
        ]
        raise FitError(
            f"{file.path}:1: not a run table: expected columns run, w_<domain>…, loss_<domain>…; "
            f"there is no {' and no '.join(absent)}. Mixtures and losses in two files are given "
            "next to each other"
        )
    rows = np.arange(len(file.lines))
    layout = TableLayout(
        weights=file,
        losses=file,
        domains=domains,
        targets=targets,
        weight_rows=rows,
        loss_rows=rows,
        key=key,
        stage_tokens=stage_tokens,
    )
    return layout, notices


def _domains_of_stages(
    file: TableFile, columns: dict[str, str], stages: tuple[str, ...]
) -> dict[str, str]:
    """Name the columns `w_<stage>_<domain>` by `STAGE/DOMAIN`.

    Raises:
        FitError: A column of shares is of no stage.
    """
    domains = {}
    for name, column in columns.items():
        # The longest, so that stages `end` and `end_long` are told apart.
        stage = max((s for s in stages if name.startswith(f"{s}_")), key=len, default=None)
        if stage is None:
            raise FitError(
                f"{file.path}:1: column '{column}' is of no stage; the columns tokens_… name "
                f"{', '.join(stages)}, so shares are w_<stage>_<domain>, as in w_{stages[0]}_{name}"
            )
        domains[f"{stage}/{name[len(stage) + 1 :]}"] = column
    return domains


def pair_layout(first: TableFile, second: TableFile) -> tuple[TableLayout, list[str]]:
    """Find the columns of a file of mixtures and one of losses, in any order, and join their rows.

    Returns:
        The layout, and what was left out, one sentence each.

    Raises:
        FitError: They share no column that names runs or no run, or neither holds shares.
    """
    import polars as pl

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
            "expected one file of mixtures and one of losses, next to each other"
        )
    weights, losses = (first, second) if are_shares[0] else (second, first)
    left = weights.cells.select(run=pl.col(key)).with_row_index("weight_row")
    every_loss = losses.cells.select(run=pl.col(key)).with_row_index("loss_row")
    right = every_loss.unique("run", keep="first", maintain_order=True)
    both = left.join(right, on="run", maintain_order="left")
    notices = []
    alone = left.join(right, on="run", how="anti")["run"].n_unique()
    if alone:
        runs = counted(alone, "run has", "runs have")
        notices.append(f"{weights.path}: {runs} no losses in {losses.path}; left out")
    alone = len(right.join(left, on="run", how="anti"))
    if alone:
        runs = counted(alone, "run has", "runs have")
        notices.append(f"{losses.path}: {runs} no mixture in {weights.path}; left out")
    if both.is_empty():
        raise FitError(f"{weights.path} and {losses.path} share no value of '{key}'")
    repeated = len(every_loss) - len(right)
    if repeated:
        rows = counted(repeated, "row repeats", "rows repeat")
        notices.append(f"{losses.path}: {rows} a run; the first of each is kept")
    layout = TableLayout(
        weights=weights,
        losses=losses,
        domains=_short_names(weights, _domain_name),
        targets=_short_names(losses, _target_name),
        weight_rows=both["weight_row"].to_numpy().astype(np.int64),
        loss_rows=both["loss_row"].to_numpy().astype(np.int64),
        key=key,
    )
    return layout, notices


def _value_columns(file: TableFile) -> list[str]:
    return [name for name in file.header if name and name not in (*KEYS, *PROGRESS)]


def _looks_like_shares(file: TableFile) -> bool:
    """Tell whether all cells can be shares and the sums of most rows are near 1.

    Raises:
        FitError: A cell is not a number, and no earlier row rules shares out.
    """
    columns = _value_columns(file)
    if not columns:
        return False
    parsed = [file.parse(column) for column in columns]
    numbers = np.stack([numbers for numbers, _ in parsed], axis=1)
    # NaN is in no range, so a cell without a number rules its row out too.
    out = ~((numbers >= 0) & (numbers <= SUM_RANGE[1]))
    if out.any():
        row = int(out.any(axis=1).argmax())
        for column, (_, wrong) in zip(columns, parsed, strict=True):
            if wrong[row]:
                raise file.not_a_number(row, column)
        return False
    return abs(float(np.median(numbers.sum(axis=1))) - 1) < 0.1


def _domain_name(column: str) -> str:
    return re.sub(r"^(w_|train_the_pile_|train_)", "", column)


def _target_name(column: str) -> str:
    plain = re.sub(r"^metric/(the_pile_)?|^loss_", "", column)
    return re.sub(r"_val_loss$", "", plain)


def _short_names(file: TableFile, rename: Callable[[str], str]) -> dict[str, str]:
    """Map short names to columns, or full names if short ones would clash."""
    columns = _value_columns(file)
    short = [rename(column) for column in columns]
    return dict(zip(short if len(set(short)) == len(short) else columns, columns, strict=True))
