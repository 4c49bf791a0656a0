"""Sample pairs of neighbouring tokens, and count the pairs of any part of the sample.

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
"""Key that makes this choice of documents independent of other keyed choices."""

EXCERPT_TOKENS = 256
"""Longest excerpt: documents are sampled in pieces of at most this many tokens."""

WINDOW_TOKENS = 16
"""Pairs come from windows of this many tokens. Every excerpt gives one window before any gives a
second: words come in bursts, so a token adds less to a sample that holds its neighbours. On source
code, a million tokens in stretches of 256, 64 and 16 gave 3.62, 3.74 and 3.82 nats."""


@dataclass(frozen=True, slots=True)
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

    def first_margin(self) -> NDArray[np.int64]:
        """Count the pairs that each id begins, shape (symbols,)."""
        return np.bincount(self.first, self.count, self.symbols).astype(np.int64)

    def second_margin(self) -> NDArray[np.int64]:
        """Count the pairs that each id ends, shape (symbols,); the end of a document is an id."""
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
    """One more than the highest id, the end symbol included."""

    @property
    def tokens(self) -> int:
        """Tokens that begin a pair."""
        return len(self.pair)

    @property
    def blocks(self) -> int:
        """Number of blocks of documents."""
        return len(np.unique(self.block))

    def prefix(self, tokens: int) -> PairSample:
        """Return the first `tokens` tokens, themselves a sample of the same kind."""
        return PairSample(
            self.first, self.second, self.pair[:tokens], self.block[:tokens], self.symbols
        )

    def totals(self, part: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Count each distinct pair, zeros included, in a part given by a mask of the tokens."""
        pair = self.pair if part is None else self.pair[part]
        return np.bincount(pair, minlength=len(self.first))

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
    """Sort the documents of a domain by a keyed hash of their text."""
    return np.argsort(_keys(domain, seed), kind="stable")


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
    followed = np.minimum(tokens, domain.tokens[document] - start - 1)
    for number, part in enumerate(domain.parts):
        in_part = domain.part[document] == number
        source = np.asarray(part)
        begin = (domain.token_start[document] + start)[in_part]
        for offset, length, out in ((0, tokens, first), (1, followed, second)):
            _gather(len(begin), source, begin + offset, length[in_part], places[in_part], out)
    _, block = np.unique(text_numbers(domain)[document], return_inverse=True)
    # An end token inside a text begins no pair, as in the counts of whole domains.
    text = np.flatnonzero(first != end)[:sample_tokens]
    return pair_sample(first[text], second[text], np.repeat(block, tokens)[text], symbols)


def copies(domain: DomainTokens) -> NDArray[np.bool_]:
    """Mark the documents that have the text of an earlier one, shape (documents,).

    A domain is stored in the order of content hashes, so copies are neighbours.
    """
    copy = np.zeros(len(domain), bool)
    copy[1:] = (np.diff(domain.content_high) == 0) & (np.diff(domain.content_low) == 0)
    return copy


def text_numbers(domain: DomainTokens) -> NDArray[np.int64]:
    """Number the distinct texts, shape (documents,); copies have the same number."""
    return np.cumsum(np.append(True, ~copies(domain)[1:])) - 1


def excerpts(
    domain: DomainTokens, end_tokens: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """List document and first token of every excerpt, in keyed order.

    Args:
        domain: The domain to sample.
        end_tokens: End-of-text tokens that close each document in the store, 0 or 1.
        seed: Seed of the recipe.
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
    """List document, first token and number of tokens of each window of a sample.

    Excerpts start at different windows, by their place in the order, and wrap around, so that the
    first turn does not take only beginnings.
    """
    document, excerpt = excerpts(domain, end_tokens, seed)
    text_tokens = domain.tokens[document] - end_tokens
    windows = EXCERPT_TOKENS // WINDOW_TOKENS
    first = np.arange(len(document)) % windows
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
