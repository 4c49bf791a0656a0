"""A sample of neighbouring tokens, and counts of any part of it.

A sample remembers which pair each token begins and which block of documents it belongs to, so
counts of a part (a fold, a sample less one group of documents) cost one pass and no sorting.
Documents with the same text form one block: they come and go together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.runtime.compiled import kernel
from curate.tokens.domain import DomainTokens, mix64, mix64_scalar
from curate.tokens.tokenizer import Tokenizer

SAMPLE_KEY = 0x656E7472
"""Keeps the choice of documents for statistics apart from other keyed choices."""

EXCERPT_TOKENS = 256
"""Documents are sampled in excerpts of at most so many tokens."""

WINDOW_TOKENS = 16
"""Pairs are taken from windows of so many tokens, one of each excerpt before a second of any: words
come in bursts, and the nearer a token, the less it says that the others do not. On source code,
a million tokens gave 3.62 nats in stretches of 256, 3.74 of 64 and 3.82 of 16."""


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Distinct pairs of a token and its successor, with the times each occurs."""

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

    def first_margin(self) -> NDArray[np.int64]:
        """Times each id begins a pair, shape (symbols,)."""
        return np.bincount(self.first, self.count, self.symbols).astype(np.int64)

    def second_margin(self) -> NDArray[np.int64]:
        """Times each id ends a pair, shape (symbols,); the end of a document is one of them."""
        return np.bincount(self.second, self.count, self.symbols).astype(np.int64)


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

    @property
    def tokens(self) -> int:
        """Tokens that begin a pair."""
        return len(self.pair)

    @property
    def blocks(self) -> int:
        """Blocks of documents."""
        return len(np.unique(self.block))

    def prefix(self, tokens: int) -> PairSample:
        """The first so many tokens, which are a sample of the same kind."""
        return PairSample(
            self.first, self.second, self.pair[:tokens], self.block[:tokens], self.symbols
        )

    def totals(self, chosen: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Times each distinct pair occurs among the chosen tokens, zeros included."""
        pair = self.pair if chosen is None else self.pair[chosen]
        return np.bincount(pair, minlength=len(self.first))

    def counts(self, totals: NDArray[np.int64]) -> PairCounts:
        """Counts as a table of their own, without the pairs that do not occur."""
        used = np.flatnonzero(totals)
        return PairCounts(self.first[used], self.second[used], totals[used], self.symbols)

    def group(self, groups: int) -> NDArray[np.int64]:
        """Group of each token, shape (tokens,): blocks are dealt out in turn."""
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
        block: shape (tokens,), number of the block of documents of each.
        symbols: One more than the highest id.

    Raises:
        ValueError: The shapes differ.
    """
    if not first.shape == second.shape == block.shape:
        raise ValueError(f"shapes differ: {first.shape}, {second.shape}, {block.shape}")
    key = first.astype(np.int64) * symbols + second
    distinct, pair = np.unique(key, return_inverse=True)
    return PairSample(
        distinct // symbols, distinct % symbols, pair.astype(np.int32), block.astype(np.int32),
        symbols,
    )  # fmt: skip


def keyed_documents(domain: DomainTokens, seed: int) -> NDArray[np.int64]:
    """All documents of a domain in the order of a keyed hash of their text."""
    return np.argsort(_keys(domain, seed), kind="stable")


def draw_pairs(
    domain: DomainTokens, tokenizer: Tokenizer, sample_tokens: int, seed: int
) -> PairSample:
    """Short windows of a domain's documents, in keyed order, until there are enough tokens.

    Tokens of one document resemble each other, so short windows of many documents say more than a
    few whole ones. The choice depends on the texts and the seed only, and a smaller sample is part
    of a larger one. A block of the sample is a document, or several of the same text.

    Args:
        domain: The domain.
        tokenizer: The store's.
        sample_tokens: Tokens of text to draw, fewer if the domain has fewer; the last window is
            cut to hit the number. The end symbol counts only as a successor.
        seed: The recipe's.
    """
    end, ended = tokenizer.end_symbol, int(tokenizer.eos_id is not None)
    symbols = max(tokenizer.vocabulary, end + 1)
    document, start, tokens = _windows(domain, ended, sample_tokens, seed)
    places = np.cumsum(tokens) - tokens
    first = np.empty(int(tokens.sum()), np.int64)
    second = np.full(len(first), end, np.int64)
    followed = np.minimum(tokens, domain.tokens[document] - start - 1)
    for number, part in enumerate(domain.parts):
        here = domain.part[document] == number
        source = np.asarray(part)
        begin = (domain.token_start[document] + start)[here]
        _gather(len(begin), source, begin, tokens[here], places[here], first)
        _gather(len(begin), source, begin + 1, followed[here], places[here], second)
    _, block = np.unique(text_numbers(domain)[document], return_inverse=True)
    # An end token inside a text begins no pair, as in the counts of whole domains.
    text = np.flatnonzero(first != end)[:sample_tokens]
    return pair_sample(first[text], second[text], np.repeat(block, tokens)[text], symbols)


def copies(domain: DomainTokens) -> NDArray[np.bool_]:
    """Which documents have the text of an earlier one, shape (documents,).

    A domain lies in the order of content hashes, so copies are neighbours.
    """
    copy = np.zeros(len(domain), bool)
    copy[1:] = (np.diff(domain.content_high) == 0) & (np.diff(domain.content_low) == 0)
    return copy


def text_numbers(domain: DomainTokens) -> NDArray[np.int64]:
    """Number of each document's text, shape (documents,): copies have the same."""
    return np.cumsum(np.append(True, ~copies(domain)[1:])) - 1


def excerpts(
    domain: DomainTokens, end_tokens: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Document and first token of every excerpt, in keyed order.

    Args:
        domain: The domain.
        end_tokens: Tokens that end each document in the store, 0 or 1; they are no text.
        seed: The recipe's.
    """
    pieces = -(-(domain.tokens - end_tokens) // EXCERPT_TOKENS)
    document = np.repeat(np.arange(len(domain)), pieces)
    number = np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    key = _keys(domain, seed)[document] ^ mix64(number.astype(np.uint64), number.astype(np.uint64))
    order = np.argsort(mix64(key, key), kind="stable")
    return document[order], number[order] * EXCERPT_TOKENS


def _windows(
    domain: DomainTokens, end_tokens: int, sample_tokens: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Document, first token and tokens of the windows that make up a sample.

    Each excerpt starts at a window of its own, by its place in the order, and goes round.
    """
    document, excerpt = excerpts(domain, end_tokens, seed)
    text_tokens = domain.tokens[document] - end_tokens
    windows = EXCERPT_TOKENS // WINDOW_TOKENS
    first = np.arange(len(document)) % windows
    found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = []
    missing = sample_tokens
    for turn in range(windows):
        start = excerpt + (first + turn) % windows * WINDOW_TOKENS
        tokens = np.clip(text_tokens - start, 0, WINDOW_TOKENS)
        reached = np.cumsum(tokens)
        taken = np.flatnonzero(tokens[: int(np.searchsorted(reached, missing)) + 1])
        found.append((document[taken], start[taken], tokens[taken]))
        missing -= int(tokens[taken].sum())
        if missing <= 0:
            break
    chosen, start, tokens = (np.concatenate(column) for column in zip(*found, strict=True))
    return chosen, start, tokens


def _keys(domain: DomainTokens, seed: int) -> NDArray[np.uint64]:
    return mix64(domain.content_high ^ mix64_scalar(seed ^ SAMPLE_KEY), domain.content_low)


@kernel
def _gather(documents, source, starts, tokens, places, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    for document in range(documents):
        start = starts[document]
        place = places[document]
        for position in range(tokens[document]):
            out[place + position] = source[start + position]
    return 0
