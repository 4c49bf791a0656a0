"""Choose documents that earlier stages used least, without a table of uses.

A domain's documents have one keyed order for all stages. What a stage took of them follows from a
few numbers: how often it went through its documents as a whole, and the last document of a pass in
part. So how often a document was used before is computed from its key, wherever it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.plan.streams import (
    ORDER_KEY,
    DocumentStream,
    accumulate,
    document_keys,
    stream,
    whole_passes,
)
from curate.runtime.external_sort import sort_rows
from curate.runtime.memory import Columns, blocks, take
from curate.tokens.domain import DomainTokens


@dataclass(frozen=True)
class Pool:
    """The documents of a domain that a stage may draw."""

    mask: NDArray[np.bool_]
    """shape (documents,)."""
    key: str
    """Hash of the expression that keeps them and of its columns."""


@dataclass(frozen=True)
class Draw:
    """The documents that one stage takes of a domain, by their place in its order.

    The order is by earlier uses, then by key, then by number. The stage goes through the documents
    with at most `most_uses` earlier ones.
    """

    tokens: int
    passes: int
    """Whole passes."""
    most_uses: int
    last: tuple[int, int, int] | None
    """Earlier uses, key and number of the last document of a pass in part; None without one."""
    pool: Pool | None = None
    """The documents that the stage may draw; None for all that are not held out."""

    def to_json(self) -> list[Any]:
        """Return all that decides which documents are taken, as JSON."""
        pool = None if self.pool is None else self.pool.key
        return [self.tokens, self.passes, self.most_uses, self.last, pool]


def earlier_uses(
    numbers: NDArray[np.int64], keys: NDArray[np.uint64], draws: Sequence[Draw]
) -> NDArray[np.int64]:
    """Count how often earlier stages use documents, whole or in part.

    Args:
        numbers: shape (documents,), numbers of documents in the domain.
        keys: shape (documents,), their keys of `ORDER_KEY`.
        draws: The domain's draws by earlier stages, in order.

    Returns:
        shape (documents,).
    """
    uses = np.zeros(len(numbers), np.int64)
    for draw in draws:
        times = np.full(len(numbers), draw.passes, np.int64)
        if draw.last is not None:
            last_uses, last_key, last_number = draw.last
            key = np.uint64(last_key)
            at_key = (keys < key) | ((keys == key) & (numbers <= last_number))
            times += (uses < last_uses) | ((uses == last_uses) & at_key)
        times[uses > draw.most_uses] = 0
        if draw.pool is not None:
            times[~take(draw.pool.mask, numbers)] = 0
        uses += times
    return uses


def usage(
    domain: DomainTokens, selected: NDArray[np.bool_], seed: int, draws: Sequence[Draw]
) -> dict[int, int]:
    """Count the tokens of the selected documents by how often earlier stages use them.

    Args:
        domain: The domain.
        selected: shape (documents,), the documents to count.
        seed: The recipe's seed.
        draws: The domain's draws by earlier stages.

    Returns:
        Tokens by uses, fewest uses first.
    """
    tokens: dict[int, int] = {}
    for _, of_documents, uses, _ in _used(domain, selected, seed, draws):
        for count in np.unique(uses).tolist():
            tokens[count] = tokens.get(count, 0) + int(of_documents[uses == count].sum())
    return dict(sorted(tokens.items()))


def least_used(
    domain: DomainTokens, selected: NDArray[np.bool_], tokens: int, seed: int, draws: Sequence[Draw]
) -> DocumentStream:
    """Put documents into the order in which a stage draws them: those used least first.

    Documents that were used more often than the stage needs are left out, so that none of them is
    repeated while others are not.

    Args:
        domain: The domain.
        selected: shape (documents,), True where a document may be used.
        tokens: Tokens to take from the domain.
        seed: The recipe's seed.
        draws: The domain's draws by earlier stages.
    """
    if not draws:
        return stream(domain, selected, tokens, seed)
    by_uses = usage(domain, selected, seed, draws)
    most_uses = _most_uses(by_uses, tokens)
    ranks = [uses for uses in by_uses if uses <= most_uses]
    bits = max(1, len(ranks).bit_length())

    def batches() -> Iterator[Columns]:
        for numbers, of_documents, uses, keys in _used(domain, selected, seed, draws):
            in_turn = uses <= most_uses
            rank = np.searchsorted(ranks, uses[in_turn]).astype(np.uint64)
            keys = keys[in_turn]
            # Ascends with uses and key alike, and is spread over all 64 bits for the dealing.
            spread = (rank << np.uint64(64 - bits)) | (keys >> np.uint64(bits))
            yield {
                "spread": spread,
                "key": keys,
                "document": numbers[in_turn],
                "stop": of_documents[in_turn],
            }

    ranked = sort_rows(batches, "spread", _order, drop_key=True)
    accumulate(ranked["stop"])
    return DocumentStream(domain.name, ranked["document"], ranked["stop"], tokens)


def draw_of(
    stream: DocumentStream,
    domain: DomainTokens,
    seed: int,
    draws: Sequence[Draw],
    pool: Pool | None,
) -> Draw:
    """Describe what a stage takes of a domain.

    Args:
        stream: The stage's documents of the domain, in order.
        domain: The domain.
        seed: The recipe's seed.
        draws: The domain's draws by earlier stages.
        pool: The documents that the stage may draw.
    """
    passes, partial = whole_passes(stream)
    ends = np.array(stream.documents[[partial - 1, -1]] if len(stream.documents) else [], np.int64)
    keys = document_keys(domain, ends, seed, ORDER_KEY)
    uses = earlier_uses(ends, keys, draws)
    last = (int(uses[0]), int(keys[0]), int(ends[0])) if partial else None
    return Draw(stream.tokens, passes, int(uses[-1]) if len(uses) else 0, last, pool)


def _most_uses(by_uses: dict[int, int], tokens: int) -> int:
    """Return the most earlier uses of a document that the stage must draw.

    Documents are drawn until all were used as often as the next ones; only then are those, too.
    """
    counts = list(by_uses)
    for position, following in enumerate(counts[1:], 1):
        room = sum((following - uses) * by_uses[uses] for uses in counts[:position])
        if tokens <= room:
            return counts[position - 1]
    return counts[-1] if counts else 0


def _used(
    domain: DomainTokens, selected: NDArray[np.bool_], seed: int, draws: Sequence[Draw]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]]:
    """Yield numbers, tokens, earlier uses and keys of the selected documents, a block at a time."""
    for rows in blocks(len(domain)) if len(domain) else [slice(0, 0)]:
        is_used = selected[rows] & (domain.tokens[rows] > 0)
        numbers = rows.start + np.flatnonzero(is_used)
        keys = document_keys(domain, numbers, seed, ORDER_KEY)
        uses = earlier_uses(numbers, keys, draws)
        yield numbers, domain.tokens[rows][is_used], uses, keys


def _order(rows: Columns) -> NDArray[np.int64]:
    """Sort by uses and key; rows come by number, and stay so where both are equal."""
    return np.lexsort((rows["key"], rows["spread"]))
