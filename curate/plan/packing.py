"""Pack documents into rows, cutting as few as possible: best fit, or one document a row.

`concat` (see `curate.plan.SequenceSampler`) joins a domain's documents and cuts the stream
wherever a row ends. Here documents stay whole unless they are longer than a row:

* `best-fit`: the parts of documents are packed into rows, longest first, each into the row that it
  fills best. The room left is filled with end tokens, which are pieces of no domain.
* `whole`: each part is a row of its own and rows may be shorter, so nothing is filled.

A document of n tokens is cut ceil(n / row) - 1 times, the least possible. Left out: padding within
documents, and attention masks, which trainers derive from end tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.formats.base import BEST_FIT, WHOLE
from curate.plan import PAD, PIECE, DocumentSampler, Samples
from curate.plan.streams import Pieces, joined
from curate.runtime.compiled import kernel

GROUP_ROWS = 8192
"""Rows packed together: enough to leave few gaps, few enough to stay mixed in every window."""


class PackedSampler:
    """Sampler of rows of at most `row_tokens`, made of a `DocumentSampler`'s documents."""

    def __init__(self, sampler: DocumentSampler, row_tokens: int, how: str) -> None:
        """Pack the documents of `sampler`, shard by shard.

        Args:
            sampler: Chooses the documents of each shard.
            row_tokens: Most tokens in a row, at least 1.
            how: `best-fit` or `whole`.

        Raises:
            ValueError: `how` is neither `best-fit` nor `whole`.
        """
        if how not in (BEST_FIT, WHOLE):
            raise ValueError(f"how must be {BEST_FIT} or {WHOLE}, got {how}")
        self._sampler = sampler
        self._row_tokens = row_tokens
        self._how = how

    def documents(self) -> list[int]:
        """Count the appearances of documents, repeats included, in each domain."""
        return self._sampler.documents()

    def parts(self, number: int, shards: int) -> Iterator[Samples]:
        """Yield the rows of one of `shards` equal stretches of the dataset in parts."""
        pieces = (samples.pieces for samples in self._sampler.parts(number, shards))
        return pack_parts(pieces, self._row_tokens, self._how)


def pack(pieces: Pieces, row_tokens: int, how: str) -> Samples:
    """Pack documents into rows.

    Args:
        pieces: dtype PIECE, one a document, in order.
        row_tokens: Most tokens in a row, at least 1.
        how: `best-fit` or `whole`.
    """
    return joined(pack_parts([pieces], row_tokens, how))


def pack_parts(parts: Iterable[Pieces], row_tokens: int, how: str) -> Iterator[Samples]:
    """Pack documents that come in parts, into the same rows as if they came at once.

    Args:
        parts: dtype PIECE each, one a document, in order.
        row_tokens: Most tokens in a row, at least 1.
        how: `best-fit` or `whole`.
    """
    cut = (split(pieces, row_tokens) for pieces in parts)
    if how == WHOLE:
        yield from (Samples(pieces, pieces["tokens"].astype(np.int64)) for pieces in cut)
        return
    for group in _groups(cut, row_tokens):
        packed = _pack_group(group, row_tokens)
        rows = int(packed["tokens"].sum()) // row_tokens
        yield Samples(packed, np.full(rows, row_tokens, np.int64))


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of rows and of their contents; tallies of shards add up."""

    rows: int = 0
    document_tokens: int = 0
    padding_tokens: int = 0
    cuts: int = 0
    """Places where a document goes on in another row."""

    def __add__(self, other: Tally) -> Tally:
        """Add two tallies."""
        return Tally(
            self.rows + other.rows,
            self.document_tokens + other.document_tokens,
            self.padding_tokens + other.padding_tokens,
            self.cuts + other.cuts,
        )

    def to_json(self, how: str, row_tokens: int) -> dict[str, Any]:
        """Return the field `packing` of `plan.json` and `certificate.json`."""
        stored = self.document_tokens + self.padding_tokens
        return {
            "packing": how,
            "row_tokens": row_tokens,
            "rows": self.rows,
            "padding_tokens": self.padding_tokens,
            "padding_share": self.padding_tokens / stored if stored else 0.0,
            "cuts": self.cuts,
        }


def tally(pieces: Pieces, rows: int) -> Tally:
    """Count the tokens, filling and cuts of rows.

    Example:
        >>> pieces = np.array([(0, 5, 0, 3), (0, 5, 3, 1), (PAD, 0, 0, 2)], PIECE)
        >>> tally(pieces, 2)
        Tally(rows=2, document_tokens=4, padding_tokens=2, cuts=1)
    """
    filling = pieces["domain"] == PAD
    padding_tokens = int(pieces["tokens"][filling].sum())
    document_tokens = int(pieces["tokens"].sum()) - padding_tokens
    return Tally(rows, document_tokens, padding_tokens, int(np.count_nonzero(pieces["start"] > 0)))


def split(pieces: Pieces, row_tokens: int) -> Pieces:
    """Cut pieces longer than a row into whole rows and a rest; leave the others as they are.

    Example:
        >>> split(np.array([(0, 5, 0, 7), (0, 6, 0, 2)], PIECE), 3).tolist()
        [(0, 5, 0, 3), (0, 5, 3, 3), (0, 5, 6, 1), (0, 6, 0, 2)]
    """
    counts = -(-pieces["tokens"] // row_tokens)
    owner = np.repeat(np.arange(len(pieces)), counts)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    parts = pieces[owner]
    parts["start"] += nth * row_tokens
    parts["tokens"] = np.minimum(row_tokens, parts["tokens"] - nth * row_tokens)
    return parts


def _groups(parts: Iterable[Pieces], row_tokens: int) -> Iterator[Pieces]:
    """Yield consecutive pieces that fill about `GROUP_ROWS` rows."""
    held, before_tokens, last = np.zeros(0, PIECE), 0, 0
    for pieces in parts:
        stops = before_tokens + np.cumsum(pieces["tokens"])
        group = stops // (GROUP_ROWS * row_tokens)
        sections = np.split(pieces, np.flatnonzero(np.diff(group, prepend=last)))
        held = np.concatenate([held, sections[0]])
        for section in sections[1:]:
            if len(held):
                yield held
            held = section
        if len(pieces):
            before_tokens, last = int(stops[-1]), int(group[-1])
    if len(held):
        yield held


def _pack_group(parts: Pieces, row_tokens: int) -> Pieces:
    """Pack parts into filled rows, and put the rows in the order of their first parts."""
    lengths = parts["tokens"].astype(np.int64)
    rows = best_fit(lengths, row_tokens)
    first = np.full(int(rows.max()) + 1, len(parts), np.int64)
    np.minimum.at(first, rows, np.arange(len(parts)))
    place = np.argsort(np.argsort(first))[rows]
    used = np.bincount(place, lengths, len(first)).astype(np.int64)
    gaps = np.flatnonzero(used < row_tokens)
    fill = np.zeros(len(gaps), PIECE)
    fill["domain"] = PAD
    fill["tokens"] = row_tokens - used[gaps]
    order = np.argsort(np.concatenate([place, gaps]), kind="stable")  # filling ends its row
    packed: Pieces = np.concatenate([parts, fill])[order]
    return packed


def best_fit(lengths: NDArray[np.int64], row_tokens: int) -> NDArray[np.int64]:
    """Pack by best-fit decreasing: longest first, each into the fullest row with enough room.

    Rows with equal room form a linked list, and a tree over the amounts of room finds the next one
    in use, so n parts take time in proportion to n log(row_tokens).

    Args:
        lengths: shape (parts,), each from 1 to `row_tokens`.
        row_tokens: Tokens that a row holds.

    Returns:
        Shape (parts,), the row of each; rows count from 0 in the order they were opened.

    Raises:
        ValueError: A length is out of range.

    Example:
        >>> best_fit(np.array([4, 6, 3, 7]), 10).tolist()
        [1, 1, 0, 0]

    References:
        Ding et al. 2024, "Fewer truncations improve language modeling", arXiv:2404.10830, §3.
    """
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= row_tokens:
        raise ValueError(f"lengths must be 1 to {row_tokens}, got {lengths.min()}, {lengths.max()}")
    order = np.argsort(-lengths, kind="stable")
    leaves = 1 << int(row_tokens).bit_length()
    rows = np.empty(len(lengths), np.int64)
    tree, head = np.zeros(2 * leaves, np.int64), np.full(leaves, -1, np.int64)
    state = (tree, head, np.empty(len(lengths), np.int64))
    sizes = (len(lengths), row_tokens, leaves)
    _best_fit(lengths, order, *sizes, *state, rows)
    return rows


@kernel
def _best_fit(  # type: ignore[no-untyped-def]  # noqa: ANN202, PLR0913
    lengths, order, parts, row_tokens, leaves,  # noqa: ANN001
    tree, head, behind, rows,  # noqa: ANN001
):  # fmt: skip
    """Fill in `rows`.

    Leaf `leaves + room` of `tree` counts the open rows with that room, and a node those below it.
    `head[room]` is the first such row, `behind[row]` the next.
    """
    opened = 0
    for turn in range(parts):
        part = order[turn]
        needed = lengths[part]
        node = leaves + needed
        if tree[node] == 0:  # climb until the sibling on the right, with more room, has a row
            while node > 1 and (node % 2 == 1 or tree[node + 1] == 0):
                node //= 2
            if node > 1:
                node += 1
        room = row_tokens
        if node > 1:
            while node < leaves:
                node *= 2
                if tree[node] == 0:
                    node += 1
            room = node - leaves
            row = head[room]
            head[room] = behind[row]
            while node >= 1:
                tree[node] -= 1
                node //= 2
        else:
            row = opened
            opened += 1
        rows[part] = row
        room -= needed
        if room > 0:
            behind[row] = head[room]
            head[room] = row
            node = leaves + room
            while node >= 1:
                tree[node] += 1
                node //= 2
    return opened
