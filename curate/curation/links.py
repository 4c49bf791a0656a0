"""Link equal rows into clusters: sort out of core, and join what is next to each other.

A cluster is a set of documents that equal rows lead from one to the next. Documents are numbered by
priority, and a cluster goes by its lowest number, so the result does not depend on the order in
which rows are seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from curate.runtime.compiled import kernel
from curate.runtime.external_sort import sort_rows
from curate.runtime.memory import Columns, blocks, columns


def new_clusters(documents: int) -> NDArray[np.int64]:
    """Return clusters of one document each: shape (documents,), the number of a lower member."""
    made: NDArray[np.int64] = columns(documents, {"parent": np.int64})["parent"]
    for rows in blocks(documents):
        made[rows] = np.arange(rows.start, rows.stop)
    return made


def link_equal(parents: NDArray[np.int64], batches: Callable[[], Iterable[Columns]]) -> None:
    """Join the clusters of documents with equal rows.

    Args:
        parents: The clusters, changed in place.
        batches: Yields at least one batch, of about a block of rows, and may be called twice: its
            columns are `number`, of a document, and `high` and perhaps `low`, 64 bits each, which
            are compared.
    """
    table = sort_rows(batches, "high", _order)
    compared = [table[name] for name in ("high", "low") if name in table]
    numbers = table["number"]
    for rows in blocks(len(numbers)):
        first = max(0, rows.start - 1)
        here = slice(first, rows.stop)
        same = np.logical_and.reduce([np.diff(column[here]) == 0 for column in compared])
        second = np.flatnonzero(same) + 1
        members = np.ascontiguousarray(numbers[here])
        _join(parents, members[second - 1], members[second], len(second))


def settle(parents: NDArray[np.int64]) -> None:
    """Replace each document's number by the lowest in its cluster, in place."""
    for rows in blocks(len(parents)):
        _settle(parents, rows.start, rows.stop)


def _order(rows: Columns) -> NDArray[np.int64]:
    order = np.argsort(rows["high"], kind="stable")
    if "low" in rows:
        ranked = rows["high"][order]
        if (ranked[1:] == ranked[:-1]).any():
            order = np.lexsort((rows["low"], rows["high"]))
    return order


@kernel
def _join(parents, firsts, seconds, pairs):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Join the clusters of each pair, under the lower root; halve the paths on the way."""
    for pair in range(pairs):
        first = firsts[pair]
        while parents[first] != first:
            parents[first] = parents[parents[first]]
            first = parents[first]
        second = seconds[pair]
        while parents[second] != second:
            parents[second] = parents[parents[second]]
            second = parents[second]
        if first < second:
            parents[second] = first
        else:
            parents[first] = second
    return 0


@kernel
def _settle(parents, start, stop):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Point at roots. A parent is never above its child, so those before are settled already."""
    for number in range(start, stop):
        parents[number] = parents[parents[number]]
    return 0
