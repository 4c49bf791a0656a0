"""Sort more rows than memory holds, by a key of 64 bits that is spread evenly.

One pass counts the rows in 65,536 ranges of the key, and neighbouring ranges are joined until they
hold about a block. A second pass deals the rows into them, and each is then sorted in memory. Keys
are hashes, so ranges are even; one that is mostly copies of a single row is sorted as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.runtime.memory import Columns, block_rows, columns, next_block
from curate.runtime.progress import Observer, metered, worked

COUNTED_BITS = 16

READING, DEALING, SORTING = 1, 2, 3
"""Time that each pass takes, relative to the others: 70, 130 and 205 ns a row where 2.5 million
documents are opened, 35, 65 to 200 and 130 where they are ordered for a dataset."""

ROWS = "rows"
"""Unit of the work: a row in the first pass."""


def metered_sorts(observer: Observer, rows: int) -> AbstractContextManager[Callable[[], None]]:
    """Report the share of these rows that is sorted, by whatever runs inside.

    Args:
        observer: Receives `work` after each block of rows.
        rows: Rows of all sorts together.
    """
    return metered(observer, [rows * (READING + DEALING + SORTING)], unit=ROWS)


def sort_rows(
    batches: Callable[[], Iterable[Columns]],
    key: str,
    order: Callable[[Columns], NDArray[np.int64]],
    *,
    drop_key: bool = False,
) -> Columns:
    """Sort the rows of all batches together.

    Args:
        batches: Yields at least one batch, of about a block of rows; called again if all of them
            are more than a block. Columns have the same names and types in all.
        key: The column to sort by first, uint64.
        order: Returns the sorted order of rows, by this column and perhaps others; stable.
        drop_key: Whether to leave this column out of what is returned.

    Returns:
        The columns, as `memory.columns` makes them.
    """
    held: list[Columns] = []
    counts = np.zeros(0, np.int64)
    rows, most = 0, block_rows()
    dtypes: dict[str, np.dtype[Any]] = {}
    for batch in batches():
        dtypes = {name: column.dtype for name, column in batch.items()}
        rows += len(batch[key])
        held.append(batch)
        if rows > most:
            counts = counts if len(counts) else np.zeros(1 << COUNTED_BITS, np.int64)
            for counted in held:
                counts += np.bincount(_range_of(counted[key]), minlength=len(counts))
            held = []
        worked(READING * len(batch[key]), unit=ROWS)
        next_block(len(batch[key]) / most)
    key_kind = {key: dtypes.pop(key)} if drop_key else {}
    made = columns(rows, dtypes)
    if rows <= most:
        joined = held[0]
        if len(held) > 1:
            joined = {name: np.concatenate([batch[name] for batch in held]) for name in held[0]}
        place = order(joined)
        for name, column in made.items():
            np.take(joined[name], place, out=column)
        worked((DEALING + SORTING) * rows, unit=ROWS)
        return made
    of_range, starts = _join_ranges(counts, most)
    ranked = made | columns(rows, key_kind)  # apart, or the key would stay as long as the others
    _deal(batches(), key, of_range, starts[:-1].copy(), ranked)
    for start, stop in zip(starts[:-1], starts[1:], strict=True):
        part = {name: column[start:stop] for name, column in ranked.items()}
        place = order(part)
        for column in part.values():
            column[...] = column[place]
        worked(SORTING * len(place), unit=ROWS)
        next_block()
    return made


def _range_of(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    return (keys >> np.uint64(64 - COUNTED_BITS)).astype(np.int64)


def _join_ranges(
    counts: NDArray[np.int64], most: int
) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Join neighbouring ranges while they hold at most `most` rows.

    Returns:
        The joined range of each, and the first row of every joined range, with the end of the last.
    """
    of_range = np.zeros(len(counts), np.uint16)
    starts, filled = [0], 0
    for number, count in enumerate(counts.tolist()):
        if filled and filled + count > most:
            starts.append(starts[-1] + filled)
            filled = 0
        of_range[number] = len(starts) - 1
        filled += count
    return of_range, np.array([*starts, starts[-1] + filled], np.int64)


def _deal(
    batches: Iterable[Columns],
    key: str,
    of_range: NDArray[np.uint16],
    free: NDArray[np.int64],
    made: Columns,
) -> None:
    """Put each row behind those of its range that came before it; `free` is moved along."""
    for batch in batches:
        ranges = of_range[_range_of(batch[key])]
        place = np.argsort(ranges, kind="stable")  # a radix sort, as these are of 16 bits
        counts = np.bincount(ranges, minlength=len(free))
        used = np.flatnonzero(counts)
        stops = np.cumsum(counts[used])
        for name, column in made.items():
            dealt = batch[name][place]
            for number, stop, count in zip(used, stops, counts[used], strict=True):
                first = free[number]
                column[first : first + count] = dealt[stop - count : stop]
        free += counts
        worked(DEALING * len(batch[key]), unit=ROWS)
        next_block()
