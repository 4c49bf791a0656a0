"""Exact unigram and bigram counts in bounded memory.

One algorithm serves every vocabulary. The first id of each bigram is scattered into the bucket of
its second id (a counting sort), each bucket is tallied in one reusable row of counters, and the
tallies are regrouped by first id (another counting sort, over distinct bigrams only). Tables are
sparse matrices by rows (first ids), added by merging rows. Beyond a memory limit they spill to disk
as sorted runs, which are merged at the end, a range of rows at a time.

A stream of the store is counted, in which every document ends with one end symbol. A bigram is a
token and its successor in the same document, which may be the end symbol. So every token of a
document begins exactly one bigram, and the unigram counts are the row sums. The end symbol itself
is not counted as a token. No bigram crosses a document boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.runtime.compiled import kernel, prefetch
from curate.tokens.count_tables import CountTable, StoredTable, merge_tables

COUNT_BYTES = 16 << 20
"""Bytes of ids tallied at once: 8M tokens of two bytes. The scatter needs as much memory again.
Twice as much is no faster, and a quarter makes so many tables that merging them takes longer."""

SMALL_BYTES, SMALL_STREAMS = 16 << 10, 1024
"""Streams below this many bytes are joined, up to this many together: each counted alone would take
290 bytes and 40 us more."""

SCATTER_BLOCK = 512
"""Cache lines prefetched before any is written. Counting takes 4.9 ns a token in all with blocks of
256 to 1,024, 5.6 ns with 64, and 8 ns without prefetching."""

COUNT_MOST = (1 << 31) - 1
"""Most tokens counted at once: positions in the scatter have 32 bits."""


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
    _check(stream, end, symbols)
    return _count([stream], end, symbols, _Scratch())


def _check(stream: NDArray[Any], end: int, symbols: int) -> None:
    if stream.dtype.kind != "u" or len(stream) > COUNT_MOST:
        raise ValueError(
            f"expected at most {COUNT_MOST} unsigned ids, got {len(stream)} of {stream.dtype}"
        )
    if not (stream.flags.c_contiguous and stream.dtype.isnative):
        raise ValueError("expected contiguous ids in this machine's byte order")
    if len(stream):
        highest = int(stream.max())  # a kernel checks no bounds and would write outside its arrays
        if highest >= symbols:
            raise ValueError(f"expected ids below {symbols}, got {highest}")
        if stream[-1] != end:
            raise ValueError(f"the stream ends with {stream[-1]}, not with the end symbol {end}")


@dataclass
class _Scratch:
    """Memory reused by the next count, since clearing new memory takes longer than filling it."""

    firsts: NDArray[Any] = field(default_factory=lambda: np.empty(0, np.uint16))
    tallies: NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32))

    def fit(self, tokens: int, dtype: np.dtype[Any]) -> None:
        """Make room for this many tokens."""
        if len(self.firsts) < tokens or self.firsts.dtype != dtype:
            self.firsts = np.empty(tokens, dtype)
            self.tallies = np.empty(tokens, np.uint32)  # untouched pages take no memory


def _count(
    streams: Sequence[NDArray[Any]], end: int, symbols: int, scratch: _Scratch
) -> CountTable:
    """Count streams that `_check` has passed."""
    sizes, tally = np.zeros((2, symbols), np.uint32)
    for stream in streams:
        _histogram(stream, len(stream), sizes, tally)
    sizes += tally
    tally[:] = 0
    bucket_stops = np.cumsum(sizes, dtype=np.uint32)
    bucket_stops -= sizes  # starts for now; each becomes a stop as its bucket fills
    scratch.fit(sum(map(len, streams)), np.result_type(*streams))
    firsts, tallies = scratch.firsts, scratch.tallies
    places = np.empty(SCATTER_BLOCK, np.uint32)
    for stream in streams:
        _scatter(stream, len(stream), bucket_stops, places, SCATTER_BLOCK, firsts)
    distinct_stops = np.empty(symbols, np.int64)
    row_starts = np.zeros(symbols + 1, np.int64)
    entries = _tally_buckets(
        firsts, end, symbols, bucket_stops, tally, tallies, distinct_stops, row_starts
    )
    second = np.empty(entries, np.uint32)
    count = np.empty(entries, np.int64)
    _turn_around(
        symbols, distinct_stops, firsts, tallies, row_starts[:-1].copy(), second, count
    )  # fmt: skip
    return CountTable(row_starts, second, count)


@kernel
def _histogram(stream, tokens, sizes, others):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Count all ids but the first, alternating between two tables.

    An increment must wait for the one before it if both are of the same id, as in runs of spaces.
    """
    for position in range(1, tokens - 1, 2):
        sizes[stream[position]] += 1
        others[stream[position + 1]] += 1
    if tokens and tokens % 2 == 0:
        sizes[stream[tokens - 1]] += 1
    return 0


@kernel
def _scatter(stream, tokens, bucket_stops, places, block, firsts):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    """Write each id but the last to the end of its successor's bucket."""
    pairs = tokens - 1
    # Writes go all over memory and complete in order, so each would wait for its cache line. The
    # lines of a whole block are prefetched first.
    for start in range(0, pairs, block):
        stop = pairs - start
        if stop > block:
            stop = block
        for offset in range(stop):
            second = stream[start + offset + 1]
            place = bucket_stops[second]
            bucket_stops[second] = place + 1
            places[offset] = place
            prefetch(firsts, place)
        for offset in range(stop):
            firsts[places[offset]] = stream[start + offset]
    return 0


@kernel
def _tally_buckets(  # type: ignore[no-untyped-def]  # noqa: ANN202, PLR0913
    firsts, end, symbols, bucket_stops, tally, tallies, distinct_stops, row_starts,  # noqa: ANN001
):  # fmt: skip
    """Tally each bucket, and return the number of distinct bigrams.

    The distinct first ids of all buckets move to the front of `firsts`, those of a bucket up to its
    `distinct_stops`, with their tallies at the same positions of `tallies`. Writing in place is
    safe because it never overtakes reading. The end symbol begins no bigram. `tally` and
    `row_starts` must be zero.
    """
    start = 0
    distinct = 0
    for bucket in range(symbols):
        bucket_start = distinct
        stop = bucket_stops[bucket]
        for position in range(start, stop):
            first = firsts[position]
            seen = tally[first]
            firsts[distinct] = first  # always written, kept if new: a branch would be mispredicted
            distinct += seen == 0
            tally[first] = seen + 1
        bucket_stop = distinct
        distinct = bucket_start
        for entry in range(bucket_start, bucket_stop):
            first = firsts[entry]
            firsts[distinct] = first
            tallies[distinct] = tally[first]
            tally[first] = 0
            begins = first != end
            distinct += begins
            row_starts[first + 1] += begins
        distinct_stops[bucket] = distinct
        start = stop
    for symbol in range(symbols):
        row_starts[symbol + 1] += row_starts[symbol]
    return row_starts[symbols]


@kernel
def _turn_around(  # type: ignore[no-untyped-def]  # noqa: ANN202, PLR0913
    symbols, distinct_stops, firsts, tallies, write_at, second_ids, counts,  # noqa: ANN001
):  # fmt: skip
    """Regroup buckets by second id into rows by first id.

    Buckets are read in ascending order, so the second ids of each row ascend without being sorted.
    """
    entry = 0
    for second in range(symbols):
        while entry < distinct_stops[second]:
            row = firsts[entry]
            second_ids[write_at[row]] = second
            counts[write_at[row]] = tallies[entry]
            write_at[row] += 1
            entry += 1
    return 0


class BigramCounter:
    """Counts streams within a memory limit, spilling sorted runs to a directory.

    Tables that exceed their room are merged in memory; if the sum takes more than half of the room,
    it goes to disk as a run. Runs are merged a range of rows at a time, which takes little memory.
    """

    def __init__(self, end: int, symbols: int, memory_bytes: int, spill: Path) -> None:
        """Start an empty counter.

        Args:
            end: Id of the end symbol.
            symbols: One more than the highest id, the end symbol included.
            memory_bytes: Most memory for tables; the rest goes to disk.
            spill: Directory for the rest, which no other counter uses.
        """
        self._end = end
        self._symbols = symbols
        self._memory_bytes = memory_bytes
        self._spill = spill
        self._pending: list[NDArray[Any]] = []
        self._small: list[NDArray[Any]] = []
        self._pending_bytes = 0
        self._scratch = _Scratch()
        self._tables: list[CountTable] = []
        self.runs: list[Path] = []

    def add(self, stream: NDArray[Any]) -> None:
        """Count one stream of whole documents, each ending with the end symbol.

        The array is kept until there is enough to count at once; it must not change until then.
        """
        _check(stream, self._end, self._symbols)
        start, most = 0, max(1, COUNT_BYTES // stream.itemsize)
        while start < len(stream):
            stop = min(start + most, len(stream))
            if stop < len(stream):
                stop = self._document_border(stream, stop)
            self._keep(stream[start:stop])
            start = stop

    def _keep(self, stream: NDArray[Any]) -> None:
        """Keep a stream for the next count; first count the earlier ones if there are too many."""
        if self._pending_bytes + stream.nbytes > COUNT_BYTES:
            self._count_pending()
        self._pending_bytes += stream.nbytes
        (self._small if stream.nbytes < SMALL_BYTES else self._pending).append(stream)
        if len(self._small) >= SMALL_STREAMS:
            self._join_small()
        if self._pending_bytes >= COUNT_BYTES:
            self._count_pending()

    def _join_small(self) -> None:
        if self._small:
            self._pending.append(np.concatenate(self._small))
            self._small = []

    def _count_pending(self) -> None:
        self._join_small()
        if self._pending:
            streams, self._pending, self._pending_bytes = self._pending, [], 0
            self.add_table(_count(streams, self._end, self._symbols, self._scratch))

    def add_table(self, table: CountTable) -> None:
        """Add counts taken elsewhere over the same symbols."""
        self._tables.append(table)
        most_bytes = self._memory_bytes // 3  # a merge holds its two inputs and its output
        if self._held_bytes > most_bytes:
            while len(self._tables) > 1:
                self._tables.append(self._tables.pop() + self._tables.pop())
            if self._held_bytes > most_bytes // 2:
                self.flush()

    @property
    def _held_bytes(self) -> int:
        return sum(table.memory_bytes for table in self._tables)

    def flush(self) -> None:
        """Write the tables in memory as one sorted run, and add it to `runs`."""
        self._count_pending()
        if self._tables:
            path = self._spill / f"run-{len(self.runs):05d}"
            assert not path.exists(), f"{path} is another counter's"
            merge_tables(self._tables, path, self._symbols)
            self.runs.append(path)
            self._tables = []

    def finish(self, path: Path) -> None:
        """Write the total of everything added as one table."""
        self._count_pending()
        if self.runs:
            self.flush()
        tables = [StoredTable.open(run) for run in self.runs] or self._tables
        merge_tables(tables, path, self._symbols)
        self._tables = []

    def _document_border(self, stream: NDArray[Any], position: int) -> int:
        """Return the first position at or after `position` that follows an end symbol."""
        window = 1 << 16
        for start in range(position - 1, len(stream), window):
            ends = np.flatnonzero(stream[start : start + window] == self._end)
            if len(ends):
                return start + int(ends[0]) + 1
        return len(stream)
