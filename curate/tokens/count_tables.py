"""Tables of bigram counts: sparse matrices in memory and on disk, added by merging their rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from curate.runtime.compiled import kernel
from curate.runtime.files import append, atomic_directory, hash_file
from curate.runtime.mapping import map_file
from curate.runtime.sealed import SealError, first_damaged, read_sealed, write_sealed

MERGE_ENTRIES = 1 << 18
"""Distinct bigrams in memory while tables are merged into one on disk: few enough to stay in the
processor's caches, where merging takes a quarter of the time."""

FILES = ("row_starts.bin", "second.bin", "count.bin")
INDEX = "table.json"


class TableIndex(msgspec.Struct, frozen=True):
    """Content of `table.json`, which is sealed, in the directory of a table."""

    hashes: tuple[str, ...]
    """Hashes of `FILES`."""
    counted: list[str] = []
    """Names of the entries that were counted, each with the times that it was."""


@dataclass(frozen=True, slots=True)
class CountTable:
    """Bigram counts as a sparse matrix by rows; tables are added with `+`."""

    row_starts: NDArray[np.int64]
    """shape (symbols + 1,), positions at which the entries of each first id begin."""
    second: NDArray[np.uint32]
    """shape (entries,), ascending within a row."""
    count: NDArray[np.int64]
    """shape (entries,), all positive."""

    def __add__(self, other: CountTable) -> CountTable:
        """Add two tables over the same symbols."""
        if self.row_starts.shape != other.row_starts.shape:
            raise ValueError(
                f"tables over {len(self.row_starts) - 1} and {len(other.row_starts) - 1} symbols"
            )
        return _merge(self, other)

    @property
    def memory_bytes(self) -> int:
        """Bytes the table holds."""
        return self.row_starts.nbytes + self.second.nbytes + self.count.nbytes

    @property
    def tokens(self) -> int:
        """Bigrams counted, which is tokens counted."""
        return int(self.count.sum())

    def rows(self, first: int, stop: int) -> CountTable:
        """Return a range of rows as a table."""
        start, end = self.row_starts[first], self.row_starts[stop]
        starts = self.row_starts[first : stop + 1] - start
        return CountTable(starts, self.second[start:end], self.count[start:end])

    def unigrams(self) -> NDArray[np.int64]:
        """Sum rows: shape (symbols,), the times each id occurs as a token of a document."""
        totals = np.zeros(len(self.count) + 1, np.int64)
        np.cumsum(self.count, out=totals[1:])
        return np.diff(totals[self.row_starts])


@dataclass(frozen=True, slots=True)
class StoredTable:
    """A table on disk, read into memory a range of rows at a time."""

    path: Path
    row_starts: NDArray[np.int64]

    @classmethod
    def open(cls, path: Path) -> StoredTable:
        """Read the starts of rows; `table_damage` checks all files."""
        return cls(path, np.fromfile(path / "row_starts.bin", np.int64))

    def rows(self, first: int, stop: int) -> CountTable:
        """Return a range of rows as a memory-mapped table."""
        start, end = int(self.row_starts[first]), int(self.row_starts[stop])
        second = _mapped(self.path / "second.bin", np.uint32, start, end)
        count = _mapped(self.path / "count.bin", np.int64, start, end)
        return CountTable(self.row_starts[first : stop + 1] - start, second, count)


def _mapped(path: Path, dtype: type[np.integer[Any]], start: int, end: int) -> NDArray[Any]:
    """Map a range of a file's entries."""
    return map_file(path, dtype, start * np.dtype(dtype).itemsize, end - start)


def _merge(a: CountTable, b: CountTable) -> CountTable:
    symbols = len(a.row_starts) - 1
    most = len(a.count) + len(b.count)
    row_starts = np.zeros(symbols + 1, np.int64)
    second = np.empty(most, np.uint32)
    count = np.empty(most, np.int64)
    entries = _merge_rows(
        symbols, a.row_starts, a.second, a.count, b.row_starts, b.second, b.count,
        row_starts, second, count,
    )  # fmt: skip
    # Pages beyond the entries were never touched, so they take no memory.
    return CountTable(row_starts, second[:entries], count[:entries])


@kernel
def _merge_rows(  # type: ignore[no-untyped-def]  # noqa: ANN202, PLR0913
    symbols, starts_a, second_a, count_a, starts_b, second_b, count_b, row_starts, second, count,  # noqa: ANN001
):  # fmt: skip
    """Merge two tables row by row, and return the number of entries."""
    entries = 0
    for row in range(symbols):
        a, stop_a = starts_a[row], starts_a[row + 1]
        b, stop_b = starts_b[row], starts_b[row + 1]
        while a < stop_a and b < stop_b:
            id_a, id_b = second_a[a], second_b[b]
            if id_a < id_b:
                second[entries] = id_a
                count[entries] = count_a[a]
                a += 1
            elif id_b < id_a:
                second[entries] = id_b
                count[entries] = count_b[b]
                b += 1
            else:
                second[entries] = id_a
                count[entries] = count_a[a] + count_b[b]
                a += 1
                b += 1
            entries += 1
        while a < stop_a:
            second[entries] = second_a[a]
            count[entries] = count_a[a]
            a += 1
            entries += 1
        while b < stop_b:
            second[entries] = second_b[b]
            count[entries] = count_b[b]
            b += 1
            entries += 1
        row_starts[row + 1] = entries
    return entries


def write_table(path: Path, pieces: Iterable[CountTable], symbols: int) -> None:
    """Write tables over consecutive row ranges as one table on disk, atomically.

    Args:
        path: Directory of the table.
        pieces: Tables of consecutive rows, the first row first.
        symbols: Number of rows of the empty table that is written if there are no pieces.
    """
    with atomic_directory(path) as directory:
        row_starts = [np.zeros(1, np.int64)]
        entries = 0
        seconds, counts = directory / "second.bin", directory / "count.bin"
        append(seconds)
        append(counts)
        for piece in pieces:
            append(seconds, piece.second)
            append(counts, piece.count)
            row_starts.append(piece.row_starts[1:] + entries)
            entries += len(piece.count)
        starts = np.concatenate(row_starts)
        if len(starts) == 1:
            starts = np.zeros(symbols + 1, np.int64)
        append(directory / "row_starts.bin", starts)


def seal_table(path: Path, counted: Sequence[str]) -> None:
    """Write the index of a table that is kept, with the hashes of its files.

    Args:
        path: Directory of the table.
        counted: See `TableIndex.counted`.
    """
    index = TableIndex(tuple(hash_file(path / name) for name in FILES), list(counted))
    write_sealed(path / INDEX, msgspec.json.encode(index))


def table_index(path: Path) -> TableIndex:
    """Read the index of a table, without a look at its other files.

    Raises:
        SealError: The index is damaged or absent.
    """
    try:
        return msgspec.json.decode(read_sealed(path / INDEX), type=TableIndex)
    except FileNotFoundError as error:
        raise SealError(f"{path / INDEX}: absent") from error


def table_damage(path: Path) -> Path | None:
    """Return the first file of a table that is absent or does not match its hash; None if none."""
    try:
        index = table_index(path)
    except SealError:
        return path / INDEX
    return first_damaged(path, FILES, index.hashes)


def read_table(path: Path, most_entries: int = MERGE_ENTRIES) -> Iterator[tuple[int, CountTable]]:
    """Read a table on disk in ranges of rows of about `most_entries` entries.

    Yields:
        The first row of the range, and its rows as a table of their own.
    """
    table = StoredTable.open(path)
    for first, stop in _row_ranges(table.row_starts, most_entries):
        yield first, table.rows(first, stop)


def merge_tables(
    tables: Sequence[CountTable | StoredTable],
    destination: Path,
    symbols: int,
    most_entries: int = MERGE_ENTRIES,
) -> None:
    """Add up tables into one on disk, a range of rows at a time.

    Args:
        tables: Tables over the same symbols.
        destination: Directory of the sum; if it exists, it is kept.
        symbols: One more than the highest id.
        most_entries: Most entries of all tables together in a range of two or more rows.
    """
    combined = np.zeros(symbols + 1, np.int64)
    for table in tables:
        combined += table.row_starts
    pieces = (
        reduce(add, [table.rows(first, stop) for table in tables])
        for first, stop in (_row_ranges(combined, most_entries) if tables else ())
    )
    write_table(destination, pieces, symbols)


def _row_ranges(row_starts: NDArray[np.int64], most_entries: int) -> Iterator[tuple[int, int]]:
    """Cut rows into ranges of at most `most_entries` entries, but at least one row each."""
    rows = len(row_starts) - 1
    start = 0
    while start < rows:
        limit = row_starts[start] + most_entries
        stop = max(start + 1, int(np.searchsorted(row_starts, limit, side="right")) - 1)
        yield start, stop
        start = stop
