"""Sample pairs of neighbouring tokens, and count the pairs of any part of the sample.

A sample remembers which pair each token begins and which block of documents it belongs to, so
counts of a part (a fold, a sample less one group of documents) cost one pass and no sorting.
Documents with the same text form one block: they come and go together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.runtime.compiled import kernel
from curate.runtime.memory import blocks, take
from curate.tokens.domain import DomainTokens, mix64, mix64_scalar
from curate.tokens.tokenizer import Tokenizer

SAMPLE_KEY = 0x656E7472
"""Key that makes this choice of documents independent of other keyed choices."""

EXCERPT_TOKENS = 256
"""Longest excerpt: documents are sampled in pieces of at most this many tokens."""

FEWEST_EXCERPTS = 1000
"""Excerpts that are ordered at first for any sample, before it shows how many it needs."""

WINDOW_TOKENS = 16
"""Pairs come from windows of this many tokens. Every excerpt gives one window before any gives a
second: words come in bursts, so a token adds less to a sample that holds its neighbours. On source
code, a million tokens in stretches of 256, 64 and 16 gave 3.62, 3.74 and 3.82 nats."""


@dataclass(frozen=True)
class PairCounts:
    """Distinct pairs of a token and its successor, with their counts."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    count: NDArray[np.int64]
    """shape (pairs,) each; counts are positive."""
    symbols: int
    """One more than the highest id, the end symbol included."""

    @property
    def tokens(self) -> int:
        """Tokens that begin a pair."""
        return int(self.count.sum())

    @cached_property
    def first_margin(self) -> NDArray[np.int64]:
        """Pairs that each id begins, shape (symbols,)."""
        return self._margin(self.first)

    @cached_property
    def second_margin(self) -> NDArray[np.int64]:
        """Pairs that each id ends, shape (symbols,); the end of a document is an id."""
        return self._margin(self.second)

    def _margin(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        margin = np.zeros(self.symbols, np.int64)
        _add_up(ids, self.count, len(ids), margin)
        return margin


@dataclass(frozen=True, slots=True)
class PairSample:
    """Tokens of some documents, each with its successor in the document."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    """shape (pairs,) each, the distinct pairs."""
    pair: NDArray[np.int32]
    """shape (tokens,), index of the pair that each token begins."""
    block: NDArray[np.int32]
    """shape (tokens,), number of the block of documents that the token belongs to."""
    symbols: int
    """One more than the highest id, the end symbol included."""

    @property
    def tokens(self) -> int:
        """Tokens that begin a pair."""
        return len(self.pair)

    @property
    def blocks(self) -> int:
        """Number of blocks of documents."""
        return int(np.count_nonzero(np.bincount(self.block)))

    def prefix(self, tokens: int) -> PairSample:
        """Return the first `tokens` tokens, themselves a sample of the same kind."""
        pair = self.pair[:tokens]
        is_used = np.bincount(pair, minlength=len(self.first)) > 0
        place = (np.cumsum(is_used) - 1).astype(np.int32)
        return PairSample(
            self.first[is_used], self.second[is_used], place[pair], self.block[:tokens],
            self.symbols,
        )  # fmt: skip

    def totals(self, part: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Count each distinct pair, zeros included, in a part given by a mask of the tokens."""
        totals = np.zeros(len(self.first), np.int64)
        counted = np.ones(self.tokens, np.bool_) if part is None else part
        _add_up(self.pair, counted.view(np.uint8), self.tokens, totals)
        return totals

    def counts(self, totals: NDArray[np.int64]) -> PairCounts:
        """Turn totals into a table of counts without the pairs that do not occur."""
        used = np.flatnonzero(totals)
        return PairCounts(self.first[used], self.second[used], totals[used], self.symbols)

    def group(self, groups: int) -> NDArray[np.int64]:
        """Deal the blocks into groups in turn; return the group of each token, shape (tokens,)."""
        used = np.zeros(int(self.block.max(initial=0)) + 1, np.int64)
        used[self.block] = 1
        rank: NDArray[np.int64] = (np.cumsum(used) - 1)[self.block]
        return rank % groups


def pair_sample(
    first: NDArray[np.int64], second: NDArray[np.int64], block: NDArray[np.int64], symbols: int
) -> PairSample:
    """Index the pairs of a stream of tokens.

    Args:
        first: shape (tokens,), ids below `symbols`.
        second: shape (tokens,), the successor of each, the end symbol included.
        block: shape (tokens,), number of the block of documents that each token is in.
        symbols: One more than the highest id.

    Raises:
        ValueError: The shapes differ, or tokens times the square of symbols do not fit 63 bits.
    """
    if not first.shape == second.shape == block.shape:
        raise ValueError(f"shapes differ: {first.shape}, {second.shape}, {block.shape}")
    tokens = len(first)
    if tokens * symbols**2 >= 2**63:
        raise ValueError(f"too many pairs to number: {tokens:,} tokens of {symbols:,} symbols")
    # Sorting pairs with their places in one number takes half the time of `numpy.unique`.
    ranked = np.sort((first.astype(np.int64) * symbols + second) * tokens + np.arange(tokens))
    key, place = np.divmod(ranked, max(1, tokens))
    is_new = np.diff(key, prepend=-1) != 0
    pair = np.empty(tokens, np.int32)
    pair[place] = np.cumsum(is_new) - 1
    distinct = key[is_new]
    return PairSample(
        distinct // symbols, distinct % symbols, pair, block.astype(np.int32), symbols
    )


def keyed_documents(domain: DomainTokens, seed: int, most: int) -> NDArray[np.int64]:
    """List the first `most` documents of a domain in the order of a keyed hash of their text.

    Args:
        domain: The domain.
        seed: Key of the hash.
        most: Most documents.
    """

    def keyed(rows: slice) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        return _keys(domain, rows, seed), np.arange(rows.start, rows.stop)

    return _first_by_key(domain, keyed, len(domain), most)[0]


def _first_by_key(
    domain: DomainTokens, keyed: Callable[[slice], tuple[NDArray[Any], ...]], rows: int, most: int
) -> list[NDArray[np.int64]]:
    """Return the first `most` rows in the order of their keys, and of the domain where these tie.

    The keys are hashes, so a threshold can be told that a few more than `most` keys are below.

    Args:
        domain: The domain.
        keyed: Returns, for a range of documents, the key and then the columns of each row.
        rows: Rows of all documents.
        most: Rows to return; all if they are fewer.
    """
    share = min(1.0, (1.1 * most + 1000) / max(1, rows))
    while True:
        highest = np.uint64(min(2**64 - 1, int(share * 2.0**64)))
        blocks_below = []
        for documents in blocks(len(domain)):
            key, *columns = keyed(documents)
            below = key <= highest
            blocks_below.append([key[below], *(column[below] for column in columns)])
        key, *columns = (np.concatenate(parts) for parts in zip(*blocks_below, strict=True))
        if len(key) >= min(most, rows):
            order = np.argsort(key, kind="stable")[:most]
            return [column[order] for column in columns]
        share = min(1.0, 2 * share)


def draw_pairs(
    domain: DomainTokens, tokenizer: Tokenizer, sample_tokens: int, seed: int
) -> PairSample:
    """Draw short windows of a domain's documents, in keyed order, until there are enough tokens.

    Tokens of one document resemble each other, so short windows of many documents say more than a
    few whole ones. The choice depends on the texts and the seed only, and a smaller sample is part
    of a larger one. A block of the sample is a document, or all documents with the same text.

    Args:
        domain: The domain to sample.
        tokenizer: Tokenizer of the store.
        sample_tokens: Tokens of text to draw, fewer if the domain has fewer; the last window is
            cut to hit the number. The end symbol counts only as a successor.
        seed: Seed of the recipe.
    """
    end, ended = tokenizer.end_symbol, int(tokenizer.eos_id is not None)
    symbols = max(tokenizer.vocabulary, end + 1)
    document, start, tokens = _windows(domain, ended, sample_tokens, seed)
    places = np.cumsum(tokens) - tokens
    first = np.empty(int(tokens.sum()), np.int64)
    second = np.full(len(first), end, np.int64)
    # Without a stored end token, the last token of a document keeps the end symbol filled in above.
    followed = np.minimum(tokens, take(domain.tokens, document) - start - 1)
    parts, begins = domain.part_of(document), take(domain.token_start, document)
    for number, part in enumerate(domain.parts):
        in_part = parts == number
        source = np.asarray(part)
        begin = (begins + start)[in_part]
        for offset, length, out in ((0, tokens, first), (1, followed, second)):
            _gather(len(begin), source, begin + offset, length[in_part], places[in_part], out)
    block = text_numbers(domain, document)
    # An end token inside a text begins no pair, as in the counts of whole domains.
    text = np.flatnonzero(first != end)[:sample_tokens]
    return pair_sample(first[text], second[text], np.repeat(block, tokens)[text], symbols)


def text_numbers(domain: DomainTokens, documents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the distinct texts of some documents from 0, in the domain's order.

    A domain is stored in the order of content hashes, so copies are neighbours.

    Args:
        domain: The domain.
        documents: shape (documents,), which may repeat.

    Returns:
        shape (documents,); copies have the same number.
    """
    distinct, place = np.unique(documents, return_inverse=True)
    high, low = take(domain.content_high, distinct), take(domain.content_low, distinct)
    is_new = np.ones(len(distinct), bool)
    is_new[1:] = (np.diff(high) != 0) | (np.diff(low) != 0)
    numbers: NDArray[np.int64] = (np.cumsum(is_new) - 1)[place]
    return numbers


def excerpt_count(domain: DomainTokens, end_tokens: int = 0) -> int:
    """Count the excerpts of all documents, less `end_tokens` at the end of each."""
    return sum(int(_excerpts_of(domain, rows, end_tokens).sum()) for rows in blocks(len(domain)))


def _excerpts_of(domain: DomainTokens, rows: slice, end_tokens: int) -> NDArray[np.int64]:
    pieces: NDArray[np.int64] = -(-(domain.tokens[rows] - end_tokens) // EXCERPT_TOKENS)
    return pieces


def excerpts(
    domain: DomainTokens, end_tokens: int, seed: int, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """List document and first token of the first `most` excerpts in keyed order.

    Args:
        domain: The domain to sample.
        end_tokens: End-of-text tokens that close each document in the store, 0 or 1.
        seed: Seed of the recipe.
        most: Excerpts to list; all if they are fewer.
    """

    def keyed(rows: slice) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
        pieces = _excerpts_of(domain, rows, end_tokens)
        owner = np.repeat(np.arange(len(pieces)), pieces)
        number = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        word = mix64(number.astype(np.uint64), number.astype(np.uint64))
        key = _keys(domain, rows, seed)[owner] ^ word
        return mix64(key, key), rows.start + owner, number * EXCERPT_TOKENS

    document, start = _first_by_key(domain, keyed, excerpt_count(domain, end_tokens), most)
    return document, start


def _windows(
    domain: DomainTokens, end_tokens: int, sample_tokens: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """List document, first token and number of tokens of each window of a sample.

    Excerpts start at different windows, by their place in the order, and wrap around, so that the
    first turn does not take only beginnings.
    """
    windows = EXCERPT_TOKENS // WINDOW_TOKENS
    most = FEWEST_EXCERPTS + 2 * sample_tokens // WINDOW_TOKENS
    while True:
        document, excerpt = excerpts(domain, end_tokens, seed, most)
        text_tokens = take(domain.tokens, document) - end_tokens
        first = np.arange(len(document)) % windows
        begun = np.clip(text_tokens - excerpt - first * WINDOW_TOKENS, 0, WINDOW_TOKENS)
        if len(document) < most or int(begun.sum()) >= sample_tokens:
            break
        most *= 4  # one turn over these is not enough, and the second begins after all others
    turns: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = []
    missing = sample_tokens
    for turn in range(windows):
        start = excerpt + (first + turn) % windows * WINDOW_TOKENS
        tokens = np.clip(text_tokens - start, 0, WINDOW_TOKENS)
        reached = np.cumsum(tokens)
        taken = np.flatnonzero(tokens[: int(np.searchsorted(reached, missing)) + 1])
        turns.append((document[taken], start[taken], tokens[taken]))
        missing -= int(tokens[taken].sum())
        if missing <= 0:
            break
    documents, starts, lengths = (np.concatenate(rows) for rows in zip(*turns, strict=True))
    return documents, starts, lengths


def _keys(domain: DomainTokens, rows: slice, seed: int) -> NDArray[np.uint64]:
    word = np.uint64(mix64_scalar(seed ^ SAMPLE_KEY))
    return mix64(domain.content_high[rows] ^ word, domain.content_low[rows])


@kernel
def _add_up(numbers, amounts, count, totals):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add amounts to the totals of their numbers, as `numpy.bincount` does by way of floats."""
    for place in range(count):
        totals[numbers[place]] += amounts[place]
    return 0


@kernel
def _gather(documents, source, starts, tokens, places, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    for document in range(documents):
        start = starts[document]
        place = places[document]
        for position in range(tokens[document]):
            out[place + position] = source[start + position]
    return 0
