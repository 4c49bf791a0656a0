"""Order a domain's documents by keyed hashes, and the keyed functions that selection builds on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.plan.schedules import Curve
from curate.runtime.compiled import kernel
from curate.runtime.external_sort import sort_rows
from curate.runtime.memory import Columns, block_rows, blocks, take
from curate.tokens.domain import DomainTokens, mix64, mix64_scalar

ORDER_KEY, PASS_KEY, PLACE_KEY, TAIL_KEY, EPOCH_KEY = 1, 2, 3, 4, 5
"""Each kind of choice mixes the seed with a different number, so that choices are independent."""

PIECE = np.dtype([("domain", "<u2"), ("document", "<i8"), ("start", "<i8"), ("tokens", "<i8")])
"""A run of tokens of one document: domain, document number there, first token, token count."""

Pieces = NDArray[Any]
"""dtype PIECE."""

PAD = 0xFFFF
"""Domain number of a piece that is filling: `tokens` end tokens that belong to no document."""

CACHED_KEYS = 1 << 14
"""Keys that are kept, since a loader needs the same ones again and again: one takes 1 µs for each
character of its name."""

FEISTEL_ROUNDS = 6
"""Rounds of the network in `permute`."""


@dataclass(frozen=True)
class DocumentStream:
    """A domain's documents in keyed order, read from the start as often as the plan needs."""

    name: str
    documents: NDArray[np.int64]
    """shape (documents,), numbers in the domain, in keyed order."""
    stops: NDArray[np.int64]
    """shape (documents,), tokens up to and including each."""
    tokens: int
    """Tokens to take: the domain's part of the budget."""
    curve: Curve | None = None
    """The domain's share over the dataset; None where it is the same everywhere."""

    @property
    def supply_tokens(self) -> int:
        """Count the tokens of one pass."""
        return int(self.stops[-1]) if len(self.stops) else 0

    def part_of(self, place: float) -> float:
        """Return the part of the domain's samples that lies before a place of the dataset."""
        return place if self.curve is None else float(self.curve.part_of(np.array([place]))[0])

    def spread(self, parts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the places in the dataset of samples that lie at parts of the domain."""
        return parts if self.curve is None else self.curve.places(parts)


@dataclass(frozen=True)
class Samples:
    """Samples of one shard, in output order."""

    pieces: NDArray[Any]
    """shape (pieces,), dtype PIECE, in output order; the pieces of a sample follow each other."""
    lengths: NDArray[np.int64]
    """shape (samples,), tokens of each sample."""


def joined(parts: Iterable[Samples]) -> Samples:
    """Join consecutive samples."""
    listed = list(parts)
    if len(listed) == 1:
        return listed[0]
    return Samples(
        np.concatenate([np.zeros(0, PIECE), *(part.pieces for part in listed)]),
        np.concatenate([np.zeros(0, np.int64), *(part.lengths for part in listed)]),
    )


def stream(
    domain: DomainTokens, selected: NDArray[np.bool_], tokens: int, seed: int
) -> DocumentStream:
    """Put the selected documents of a domain into keyed order.

    Args:
        domain: The domain.
        selected: shape (documents,), True where a document may be used.
        tokens: Tokens to take from the domain.
        seed: The recipe's seed.
    """

    def batches() -> Iterator[Columns]:
        for rows in blocks(len(domain)) if len(domain) else [slice(0, 0)]:
            is_used = selected[rows] & (domain.tokens[rows] > 0)
            numbers = rows.start + np.flatnonzero(is_used)
            key = document_keys(domain, numbers, seed, ORDER_KEY)
            yield {"key": key, "document": numbers, "stop": domain.tokens[rows][is_used]}

    ranked = sort_rows(batches, "key", order_of_keys, drop_key=True)
    accumulate(ranked["stop"])
    return DocumentStream(domain.name, ranked["document"], ranked["stop"], tokens)


def order_of_keys(rows: Columns) -> NDArray[np.int64]:
    """Sort rows by their column `key`, stably."""
    return np.argsort(rows["key"], kind="stable")


def accumulate(amounts: NDArray[np.int64]) -> None:
    """Replace amounts by their sums up to and including each, in place."""
    total = 0
    for rows in blocks(len(amounts)):
        amounts[rows] = total + np.cumsum(amounts[rows])
        total = int(amounts[rows.stop - 1])


def whole_passes(stream: DocumentStream) -> tuple[int, int]:
    """Count whole passes over a domain, and the documents of a last, partial pass (0 for none)."""
    passes, rest = divmod(stream.tokens, max(1, stream.supply_tokens))
    return passes, int(np.searchsorted(stream.stops, rest)) + 1 if rest else 0


def documents_used(stream: DocumentStream) -> tuple[NDArray[np.int64], int]:
    """Return the documents that a dataset holds, each once, and their tokens in one pass."""
    passes, partial = whole_passes(stream)
    return stream.documents[: None if passes else partial], min(stream.tokens, stream.supply_tokens)


def document_keys(
    domain: DomainTokens, numbers: NDArray[np.int64], seed: int, purpose: int
) -> NDArray[np.uint64]:
    """Hash documents with a key; equal texts of one id get equal hashes.

    Args:
        domain: The domain.
        numbers: shape (documents,), numbers of documents in the domain.
        seed: The recipe's seed.
        purpose: One of the `*_KEY` numbers.

    Returns:
        shape (documents,), uint64.
    """
    high, low = take(domain.content_high, numbers), take(domain.content_low, numbers)
    keyed = np.bitwise_xor(high, np.uint64(mix64_scalar(seed * 8 + purpose)))
    return mix64(mix64(keyed, low), take(domain.identity, numbers))


def permute(index: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """Apply a keyed permutation of 0 … size - 1 to the given indices.

    A balanced Feistel network over the next even number of bits, walked along its cycles until the
    value is in range, so it is a bijection for every size and needs no memory.

    Args:
        index: shape (indices,), values in [0, size).
        size: Size of the permuted set, at least 1.
        key: Any integer.

    Example:
        >>> sorted(permute(np.arange(10), 10, key=7).tolist())
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]

    References:
        Black and Rogaway 2002, "Ciphers with arbitrary finite domains", §3 (cycle walking).
    """
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    value = index.astype(np.uint64)
    limits = np.array([size, half_bits], np.uint64)
    _walk(value, len(value), limits, _round_keys(key), FEISTEL_ROUNDS)
    return value.astype(np.int64)


@lru_cache(CACHED_KEYS)
def _round_keys(key: int) -> NDArray[np.uint64]:
    """Derive the key of each round of the network."""
    rounds = [mix64_scalar(key * FEISTEL_ROUNDS + turn) for turn in range(FEISTEL_ROUNDS)]
    return np.array(rounds, np.uint64)


@kernel
def _walk(values, count, limits, keys, rounds):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Send each value through the network, in place, until it is below `limits[0]`."""
    size, shift = limits[0], limits[1]
    mask = (np.uint64(1) << shift) - np.uint64(1)
    for number in range(count):
        value = values[number]
        outside = True
        while outside:
            left, right = value >> shift, value & mask
            for turn in range(rounds):
                word = right ^ keys[turn]  # what follows is `mix64(word, right)`
                word ^= word >> np.uint64(30)
                word *= np.uint64(0xBF58476D1CE4E5B9)
                word ^= word >> np.uint64(27)
                word += right
                word *= np.uint64(0x94D049BB133111EB)
                word ^= word >> np.uint64(31)
                word *= np.uint64(0x9E3779B97F4A7C15)
                word ^= word >> np.uint64(32)
                left, right = right, left ^ (word & mask)
            value = (left << shift) | right
            outside = value >= size
        values[number] = value
    return count


def part_count(pieces: int, shards: int) -> int:
    """Count the parts to cut each of `shards` shards into, so that a part is about a block.

    Args:
        pieces: Pieces of all shards, or an estimate.
        shards: Number of shards.
    """
    return max(1, -(-pieces // (shards * block_rows())))


def shard_count(total_tokens: int, shard_tokens: int) -> int:
    """Count the shards of a dataset: at least one, each of about `shard_tokens`."""
    return max(1, -(-total_tokens // shard_tokens))


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of an epoch's order; that of epoch 0 is the seed itself.

    Example:
        >>> epoch_seed(42, 0), epoch_seed(42, 1) == epoch_seed(42, 2)
        (42, False)
    """
    return mix_key(seed, EPOCH_KEY, str(epoch)) if epoch else seed


@lru_cache(CACHED_KEYS)
def mix_key(seed: int, purpose: int, name: str) -> int:
    """Derive a 64-bit key for one purpose and one name.

    Args:
        seed: The recipe's seed.
        purpose: One of the `*_KEY` numbers.
        name: Any text, such as a domain's name.
    """
    word = mix64_scalar(seed * 8 + purpose)
    for character in name.encode():
        word = mix64_scalar(word ^ character)
    return word


def uniform(index: NDArray[np.int64], key: int) -> NDArray[np.float64]:
    """Draw keyed uniform numbers in [0, 1), one for each index."""
    mixed = mix64(index.astype(np.uint64) ^ np.uint64(key), filled(len(index), key))
    uniform: NDArray[np.float64] = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform


def filled(length: int, value: int) -> NDArray[np.uint64]:
    """Return the low 64 bits of `value`, `length` times."""
    return np.full(length, value & (2**64 - 1), np.uint64)
