"""Exact unigram and bigram counts in bounded memory.

One code for every vocabulary: the first id of each bigram is scattered into the bucket of its
second id (a counting sort), each bucket is tallied in one reusable row of counters, and the tallies
are turned around by first id (another counting sort, over distinct bigrams only). Tables are sparse
matrices by row (first id), so they add up by merging rows; past a memory limit they spill to disk
as sorted runs, which are merged at the end a range of rows at a time.

What is counted: the stream of a store, in which every document ends with one end symbol. A bigram
is a token and its successor in the same document, the end symbol included as a successor, so every
token of a document begins exactly one bigram and the unigram counts are the row sums. The end
symbol itself is not counted as a token. No bigram crosses a document border.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from curate.storage import atomic_directory

COUNT_TOKENS = 8 << 20
"""Tokens tallied at once; the scatter buffers take 6 to 8 bytes each."""

MERGE_ENTRIES = 2 << 20
"""Distinct bigrams held at once while runs are merged from disk."""


@dataclass(frozen=True, slots=True)
class CountTable:
    """Bigram counts as a sparse matrix by row; adds up with `+`."""

    row_starts: NDArray[np.int64]
    """shape (symbols + 1,), where each first id's entries begin."""
    second: NDArray[np.uint32]
    """shape (entries,), ascending within a row."""
    count: NDArray[np.int64]
    """shape (entries,), all positive."""

    def __add__(self, other: CountTable) -> CountTable:
        """Counts of both; the tables cover the same symbols."""
        if self.row_starts.shape != other.row_starts.shape:
            raise ValueError(
                f"tables over {len(self.row_starts) - 1} and {len(other.row_starts) - 1} symbols"
            )
        return CountTable(
            *_merge(
                self.row_starts, self.second, self.count,
                other.row_starts, other.second, other.count,
            )
        )  # fmt: skip

    @property
    def memory_bytes(self) -> int:
        """Bytes the table holds."""
        return self.row_starts.nbytes + self.second.nbytes + self.count.nbytes

    @property
    def tokens(self) -> int:
        """Bigrams counted, which is tokens counted."""
        return int(self.count.sum())

    def unigrams(self) -> NDArray[np.int64]:
        """Row sums: shape (symbols,), times each id occurs as a token of a document."""
        totals = np.zeros(len(self.count) + 1, np.int64)
        np.cumsum(self.count, out=totals[1:])
        return np.diff(totals[self.row_starts])


def count_stream(stream: NDArray[Any], end: int, symbols: int) -> CountTable:
    """Count the bigrams of a stream in which each document ends with `end`.

    Args:
        stream: shape (tokens,), unsigned ids below `symbols`.
        end: id of the end symbol; it never begins a bigram.
        symbols: one more than the highest id, the end symbol included.

    Raises:
        ValueError: The stream does not end with `end`, so its last token has no successor.

    Example:
        >>> table = count_stream(np.array([1, 2, 2, 0, 1, 2, 0], np.uint16), end=0, symbols=3)
        >>> table.unigrams().tolist()
        [0, 2, 3]
        >>> [(int(s), int(c)) for s, c in zip(table.second, table.count)]
        [(2, 2), (0, 2), (2, 1)]
    """
    if len(stream) and stream[-1] != end:
        raise ValueError("the stream does not end with the end symbol")
    return CountTable(*_count(stream, end, symbols))


@numba.njit(cache=True, nogil=True)  # type: ignore[misc]
def _count(stream, end, symbols):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    cursor = np.zeros(symbols + 1, np.int32)  # first sizes, then starts, then ends of buckets
    for position in range(len(stream) - 1):
        if stream[position] != end:
            cursor[stream[position + 1]] += 1
    total = 0
    for symbol in range(symbols + 1):
        size = cursor[symbol]
        cursor[symbol] = total
        total += size
    firsts = np.empty(total, stream.dtype)
    for position in range(len(stream) - 1):
        first = stream[position]
        if first != end:
            second = stream[position + 1]
            firsts[cursor[second]] = first
            cursor[second] += 1
    # Each bucket is one second id. Its distinct first ids move to its front, their tallies beside
    # them; turning that around by first id then leaves every row in ascending order unsorted.
    tallies = np.empty(total, np.uint32)
    distinct = np.empty(symbols, np.int64)
    tally = np.zeros(symbols, np.uint32)
    row_starts = np.zeros(symbols + 1, np.int64)
    start = 0
    for second in range(symbols):
        write = start
        for position in range(start, cursor[second]):
            first = firsts[position]
            if tally[first] == 0:
                firsts[write] = first
                write += 1
            tally[first] += 1
        for entry in range(start, write):
            first = firsts[entry]
            tallies[entry] = tally[first]
            tally[first] = 0
            row_starts[first + 1] += 1
        distinct[second] = write
        start = cursor[second]
    for symbol in range(symbols):
        row_starts[symbol + 1] += row_starts[symbol]
    write_at = row_starts[:-1].copy()
    second_ids = np.empty(row_starts[symbols], np.uint32)
    counts = np.empty(row_starts[symbols], np.int64)
    start = 0
    for second in range(symbols):
        for entry in range(start, distinct[second]):
            first = firsts[entry]
            second_ids[write_at[first]] = second
            counts[write_at[first]] = tallies[entry]
            write_at[first] += 1
        start = cursor[second]
    return row_starts, second_ids, counts


@numba.njit(cache=True, nogil=True)  # type: ignore[misc]
def _merge(starts_a, second_a, count_a, starts_b, second_b, count_b):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    """Merge two tables row by row; starts may begin anywhere in their arrays."""
    symbols = len(starts_a) - 1
    most = starts_a[symbols] - starts_a[0] + starts_b[symbols] - starts_b[0]
    second = np.empty(most, np.uint32)
    count = np.empty(most, np.int64)
    row_starts = np.zeros(symbols + 1, np.int64)
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
    return row_starts, second[:entries].copy(), count[:entries].copy()


class BigramCounter:
    """Adds up streams within a memory limit, spilling sorted runs to a directory.

    Tables are kept in a stack in which each is at least twice the one above, so that a bigram is
    merged a logarithmic number of times whatever the number of streams.
    """

    def __init__(self, end: int, symbols: int, memory_bytes: int, spill: Path) -> None:
        """Count up to `symbols` ids; keep `memory_bytes` of tables, the rest under `spill`."""
        self._end = end
        self._symbols = symbols
        self._memory_bytes = memory_bytes
        self._spill = spill
        self._stack: list[CountTable] = []
        self.runs: list[Path] = []

    def add(self, stream: NDArray[Any]) -> None:
        """Count one stream of whole documents, each ending with the end symbol."""
        start = 0
        while start < len(stream):
            stop = min(start + COUNT_TOKENS, len(stream))
            if stop < len(stream):
                stop = self._document_border(stream, stop)
            self.add_table(count_stream(stream[start:stop], self._end, self._symbols))
            start = stop

    def add_table(self, table: CountTable) -> None:
        """Add counts taken elsewhere over the same symbols."""
        self._stack.append(table)
        while len(self._stack) > 1 and (
            self._stack[-2].memory_bytes < 2 * self._stack[-1].memory_bytes
        ):
            self._stack.append(self._stack.pop() + self._stack.pop())
        # A merge holds its two inputs and its output, so the stack itself gets a third.
        if sum(kept.memory_bytes for kept in self._stack) > self._memory_bytes // 3:
            self.flush()

    def flush(self) -> None:
        """Write what is in memory as one sorted run; `runs` then names everything counted."""
        table = self._merged()
        if table is not None:
            path = self._spill / f"run-{len(self.runs):05d}"
            write_table(path, [table], self._symbols)
            self.runs.append(path)

    def finish(self, path: Path) -> None:
        """Write the total of everything added as one table."""
        table = self._merged()
        if self.runs:
            if table is not None:
                self._stack.append(table)
            self.flush()
            merge_tables(self.runs, path, self._symbols)
        else:
            write_table(path, [] if table is None else [table], self._symbols)

    def _merged(self) -> CountTable | None:
        while len(self._stack) > 1:
            self._stack.append(self._stack.pop() + self._stack.pop())
        return self._stack.pop() if self._stack else None

    def _document_border(self, stream: NDArray[Any], position: int) -> int:
        """The first position at or after `position` that follows an end symbol."""
        window = 1 << 16
        for start in range(position - 1, len(stream), window):
            ends = np.flatnonzero(stream[start : start + window] == self._end)
            if len(ends):
                return start + int(ends[0]) + 1
        return len(stream)


def write_table(path: Path, pieces: Iterable[CountTable], symbols: int) -> None:
    """Write tables over consecutive row ranges as one table on disk, atomically."""
    with atomic_directory(path) as directory:
        row_starts = [np.zeros(1, np.int64)]
        entries = 0
        with (directory / "second.bin").open("wb") as seconds:
            with (directory / "count.bin").open("wb") as counts:
                for piece in pieces:
                    piece.second.tofile(seconds)
                    piece.count.tofile(counts)
                    row_starts.append(piece.row_starts[1:] + entries)
                    entries += len(piece.count)
        starts = np.concatenate(row_starts)
        if len(starts) == 1:
            starts = np.zeros(symbols + 1, np.int64)
        starts.tofile(directory / "row_starts.bin")


def read_table(path: Path, most_entries: int = MERGE_ENTRIES) -> Iterator[tuple[int, CountTable]]:
    """Read a table on disk in ranges of rows of about `most_entries` entries.

    Yields:
        The first row of the range, and its rows as a table of their own.
    """
    row_starts = np.fromfile(path / "row_starts.bin", np.int64)
    for start, stop in _row_ranges(row_starts, most_entries):
        yield start, _read_rows(path, row_starts, start, stop)


def merge_tables(paths: Sequence[Path], destination: Path, symbols: int) -> None:
    """Add up tables on disk into one on disk, a range of rows at a time."""
    starts = [np.fromfile(path / "row_starts.bin", np.int64) for path in paths]
    combined = np.sum(starts, axis=0)

    def pieces() -> Iterator[CountTable]:
        for first, stop in _row_ranges(combined, MERGE_ENTRIES):
            total: CountTable | None = None
            for path, row_starts in zip(paths, starts, strict=True):
                piece = _read_rows(path, row_starts, first, stop)
                total = piece if total is None else total + piece
            assert total is not None
            yield total

    write_table(destination, pieces(), symbols)


def _row_ranges(row_starts: NDArray[np.int64], most_entries: int) -> Iterator[tuple[int, int]]:
    """Cut rows into ranges of at most `most_entries` entries, but at least one row each."""
    rows = len(row_starts) - 1
    start = 0
    while start < rows:
        limit = row_starts[start] + most_entries
        stop = max(start + 1, int(np.searchsorted(row_starts, limit, side="right")) - 1)
        yield start, stop
        start = stop


def _read_rows(path: Path, row_starts: NDArray[np.int64], start: int, stop: int) -> CountTable:
    first, last = int(row_starts[start]), int(row_starts[stop])
    second = np.fromfile(path / "second.bin", np.uint32, last - first, offset=4 * first)
    count = np.fromfile(path / "count.bin", np.int64, last - first, offset=8 * first)
    return CountTable(row_starts[start : stop + 1] - first, second, count)
