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

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError
from curate.kernels import kernel
from curate.storage import atomic_directory

COUNT_TOKENS = 16 << 20
"""Tokens tallied at once; the scatter buffers take 2 to 8 bytes each. Counting 48M tokens
cost 7.8 ns each, merges included, at 16M tokens, 9.2 ns at 8M and 10.4 ns at 4M."""

COUNT_MOST = (1 << 31) - 1
"""Tokens that can be counted at once: places in the scatter are 32 bits wide."""

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
        return _merge(self, other)

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
        ValueError: The stream does not end with `end`, so its last token has no successor, or it
            holds signed numbers, an id outside the symbols, or more than COUNT_MOST tokens.

    Example:
        >>> table = count_stream(np.array([1, 2, 2, 0, 1, 2, 0], np.uint16), end=0, symbols=3)
        >>> table.unigrams().tolist()
        [0, 2, 3]
        >>> [(int(s), int(c)) for s, c in zip(table.second, table.count)]
        [(2, 2), (0, 2), (2, 1)]
    """
    if stream.dtype.kind != "u" or len(stream) > COUNT_MOST:
        raise ValueError(
            f"expected at most {COUNT_MOST} unsigned ids, got {len(stream)} of {stream.dtype}"
        )
    if len(stream):
        highest = int(stream.max())  # an id outside would be counted outside the arrays
        if highest >= symbols:
            raise ValueError(f"expected ids below {symbols}, got {highest}")
        if stream[-1] != end:
            raise ValueError(f"the stream ends with {stream[-1]}, not with the end symbol {end}")
    return _count(stream, end, symbols)


def _count(stream: NDArray[Any], end: int, symbols: int) -> CountTable:
    bucket_stops = np.zeros(symbols + 1, np.int32)
    firsts = np.empty(len(stream), stream.dtype)
    tallies = np.empty(len(stream), np.uint32)  # filled from the front; the rest costs nothing
    tally = np.zeros(symbols, np.uint32)
    distinct_stops = np.empty(symbols, np.int64)
    row_starts = np.zeros(symbols + 1, np.int64)
    entries = _tally_buckets(
        stream, len(stream), end, symbols, bucket_stops, firsts, tallies, tally, distinct_stops,
        row_starts,
    )  # fmt: skip
    second = np.empty(entries, np.uint32)
    count = np.empty(entries, np.int64)
    _turn_around(
        symbols, distinct_stops, firsts, tallies, row_starts[:-1].copy(), second, count
    )  # fmt: skip
    return CountTable(row_starts, second, count)


@kernel
def _tally_buckets(  # type: ignore[no-untyped-def]  # noqa: ANN202, PLR0913
    stream, tokens, end, symbols, bucket_stops, firsts, tallies, tally, distinct_stops,  # noqa: ANN001
    row_starts,  # noqa: ANN001
):  # fmt: skip
    """Scatter first ids by second id and tally each bucket; returns distinct bigrams.

    Distinct first ids end up at the front of `firsts`, those of a bucket up to its
    `distinct_stops`, their tallies beside them: what is written never passes what is still to be
    read. `bucket_stops`, `tally` and `row_starts` come zeroed.
    """
    first = end
    for position in range(tokens):
        second = stream[position]
        if first != end:
            bucket_stops[second] += 1
        first = second
    total = 0
    for symbol in range(symbols):
        size = bucket_stops[symbol]
        bucket_stops[symbol] = total
        total += size
    first = end
    for position in range(tokens):
        second = stream[position]
        if first != end:
            cursor = bucket_stops[second]
            firsts[cursor] = first
            bucket_stops[second] = cursor + 1
        first = second
    start = 0
    distinct = 0
    for bucket in range(symbols):
        bucket_start = distinct
        stop = bucket_stops[bucket]
        for position in range(start, stop):
            first = firsts[position]
            seen = tally[first]
            firsts[distinct] = first  # without a branch, which would be mispredicted too often
            distinct += seen == 0
            tally[first] = seen + 1
        for entry in range(bucket_start, distinct):
            first = firsts[entry]
            tallies[entry] = tally[first]
            tally[first] = 0
            row_starts[first + 1] += 1
        distinct_stops[bucket] = distinct
        start = stop
    for symbol in range(symbols):
        row_starts[symbol + 1] += row_starts[symbol]
    return row_starts[symbols]


@kernel
def _turn_around(  # type: ignore[no-untyped-def]  # noqa: ANN202, PLR0913
    symbols, distinct_stops, firsts, tallies, write_at, second_ids, counts,  # noqa: ANN001
):  # fmt: skip
    """Buckets by second id → rows by first id, ascending within a row without sorting."""
    entry = 0
    for second in range(symbols):
        while entry < distinct_stops[second]:
            row = firsts[entry]
            second_ids[write_at[row]] = second
            counts[write_at[row]] = tallies[entry]
            write_at[row] += 1
            entry += 1
    return 0


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
    # What lies behind the entries was never touched, so it takes no memory.
    return CountTable(row_starts, second[:entries], count[:entries])


@kernel
def _merge_rows(  # type: ignore[no-untyped-def]  # noqa: ANN202, PLR0913
    symbols, starts_a, second_a, count_a, starts_b, second_b, count_b, row_starts, second, count,  # noqa: ANN001
):  # fmt: skip
    """Merge two tables row by row; returns entries."""
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


class BigramCounter:
    """Adds up streams within a memory limit, spilling sorted runs to a directory.

    Tables are kept in a stack in which each is at least twice the one above, so that a bigram is
    merged a logarithmic number of times whatever the number of streams.
    """

    def __init__(self, end: int, symbols: int, memory_bytes: int, spill: Path) -> None:
        """Count up to `symbols` ids; keep `memory_bytes` of tables, the rest under `spill`.

        The directory `spill` is this counter's own.
        """
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
            assert not path.exists(), f"{path} is another counter's"
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

    Raises:
        InputError: The table is damaged.
    """
    row_starts = _read_starts(path)
    for start, stop in _row_ranges(row_starts, most_entries):
        yield start, _read_rows(path, row_starts, start, stop)


def merge_tables(
    paths: Sequence[Path], destination: Path, symbols: int, most_entries: int = MERGE_ENTRIES
) -> None:
    """Add up tables on disk into one on disk, a range of rows at a time.

    Args:
        paths: Tables over the same symbols.
        destination: Where the sum goes; what is there already is kept.
        symbols: One more than the highest id.
        most_entries: Entries of all tables together in a range, but at least one row.

    Raises:
        InputError: A table is damaged.
    """
    starts = [_read_starts(path) for path in paths]
    combined = np.zeros(symbols + 1, np.int64)
    for row_starts in starts:
        combined += row_starts

    def pieces() -> Iterator[CountTable]:
        for first, stop in _row_ranges(combined, most_entries) if paths else ():
            total: CountTable | None = None
            for path, row_starts in zip(paths, starts, strict=True):
                piece = _read_rows(path, row_starts, first, stop)
                total = piece if total is None else total + piece
            assert total is not None
            yield total

    write_table(destination, pieces(), symbols)


def check_table(path: Path) -> None:
    """Look at the sizes of a table's files.

    Raises:
        InputError: It is damaged.
        OSError: It is not there.
    """
    _read_starts(path)


def _row_ranges(row_starts: NDArray[np.int64], most_entries: int) -> Iterator[tuple[int, int]]:
    """Cut rows into ranges of at most `most_entries` entries, but at least one row each."""
    rows = len(row_starts) - 1
    start = 0
    while start < rows:
        limit = row_starts[start] + most_entries
        stop = max(start + 1, int(np.searchsorted(row_starts, limit, side="right")) - 1)
        yield start, stop
        start = stop


def _read_starts(path: Path) -> NDArray[np.int64]:
    """Where rows start, after a look at the sizes of all three files."""
    row_starts = np.fromfile(path / "row_starts.bin", np.int64)
    entries = int(row_starts[-1]) if len(row_starts) else -1
    for name, width in (("second.bin", 4), ("count.bin", 8)):
        found = (path / name).stat().st_size
        if found != entries * width:
            raise InputError(
                f"{path}: a damaged count table ({name} has {found} bytes, not {entries * width}); "
                "remove it and run again"
            )
    return row_starts


def _read_rows(path: Path, row_starts: NDArray[np.int64], start: int, stop: int) -> CountTable:
    first, last = int(row_starts[start]), int(row_starts[stop])
    second = np.fromfile(path / "second.bin", np.uint32, last - first, offset=4 * first)
    count = np.fromfile(path / "count.bin", np.int64, last - first, offset=8 * first)
    return CountTable(row_starts[start : stop + 1] - first, second, count)
