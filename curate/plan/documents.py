"""Samples that are whole documents, for trainers that cut them themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.errors import InfeasiblePlan
from curate.plan.streams import (
    PASS_KEY,
    PIECE,
    PLACE_KEY,
    DocumentStream,
    Samples,
    document_keys,
    filled,
    mix_key,
    uniform,
    whole_passes,
)
from curate.tokens.domain import DomainTokens, mix64

MOST_HELD = 1 << 26
"""Most appearances kept in memory, 24 bytes each. Beyond, each shard orders its passes again."""

TURN_COST = 64
"""Appearances added to the count for each pass, since its three arrays take memory as objects."""


class DocumentSampler:
    """Samples are documents, whole but for the last of each domain."""

    def __init__(
        self,
        streams: Sequence[DocumentStream],
        domains: Sequence[DomainTokens],
        seed: int,
        smallest_tokens: int = 1,
    ) -> None:
        """Choose how often every document appears; if they fit in memory, place all appearances.

        Args:
            streams: shape (domains,), one stream a domain.
            domains: shape (domains,), in the same order.
            seed: The recipe's seed.
            smallest_tokens: Fewest tokens that a cut document may keep. Where the last cut would
                leave fewer, the documents before it give up the difference.

        Raises:
            InfeasiblePlan: A domain gets fewer than `smallest_tokens`.
        """
        self._orders = [
            _Order(stream, domain, seed, smallest_tokens)
            for stream, domain in zip(streams, domains, strict=True)
        ]
        turns = sum(order.turns for order in self._orders)
        if sum(self.documents()) + TURN_COST * turns <= MOST_HELD:
            for order in self._orders:
                order.hold()

    def documents(self) -> list[int]:
        """Count the appearances of documents, repeats included, in each domain."""
        return [order.appearances for order in self._orders]

    def lengths(self) -> Iterator[NDArray[np.int64]]:
        """Yield the token counts of all appearances, one pass over one domain at a time."""
        for order in self._orders:
            for turn in range(order.turns):
                yield order.turn(turn).tokens

    def shard(self, number: int, shards: int) -> Samples:
        """Return the samples of one of `shards` equal stretches of the dataset."""
        low, high = number / shards, (number + 1) / shards
        parts = []
        for domain, order in enumerate(self._orders):
            for turn in order.turns_between(low, high):
                start, stop = np.searchsorted(turn.places, [low, high])
                stop = len(turn.places) if number + 1 == shards else stop
                pieces = np.zeros(stop - start, PIECE)
                pieces["domain"] = domain
                pieces["document"] = turn.documents[start:stop]
                pieces["tokens"] = turn.tokens[start:stop]
                parts.append((pieces, turn.places[start:stop]))
        pieces = np.concatenate([np.zeros(0, PIECE), *(pieces for pieces, _ in parts)])
        places = np.concatenate([np.zeros(0), *(places for _, places in parts)])
        pieces = pieces[np.argsort(places, kind="stable")]
        return Samples(pieces, pieces["tokens"].astype(np.int64))


@dataclass(frozen=True)
class _Turn:
    """One pass over a domain's documents, in the order of their places; shape (documents,)."""

    documents: NDArray[np.int64]
    tokens: NDArray[np.int64]
    places: NDArray[np.float64]
    """shape (documents,), ascending, in [0, 1)."""


class _Order:
    """Appearances of one domain's documents: passes over them, each in a different order."""

    def __init__(
        self, stream: DocumentStream, domain: DomainTokens, seed: int, smallest_tokens: int
    ) -> None:
        self._stream, self._domain, self._seed = stream, domain, seed
        whole, self._partial = whole_passes(stream) if stream.tokens else (0, 0)
        self.turns = whole + (self._partial > 0)
        """Passes, the last perhaps in part."""
        self._held: list[_Turn] = []
        # A cut that leaves too little takes tokens from earlier documents, at most one pass back.
        self._first_adjusted = max(0, self.turns - 2)
        self._adjusted = self._last_lengths(smallest_tokens)

    @property
    def appearances(self) -> int:
        """Count of documents in all passes."""
        if not self.turns:
            return 0
        return (self.turns - 1) * len(self._stream.documents) + self._taken(self.turns - 1)

    def _taken(self, turn: int) -> int:
        """Count the documents of a pass."""
        is_partial = turn + 1 == self.turns and self._partial
        return self._partial if is_partial else len(self._stream.documents)

    def _last_lengths(self, smallest_tokens: int) -> NDArray[np.int64]:
        """Return the token counts of documents in the last two passes, in the stream's order."""
        if not self.turns:
            return np.empty(0, np.int64)
        taken = [self._taken(turn) for turn in range(self._first_adjusted, self.turns)]
        documents = np.concatenate([self._stream.documents[:number] for number in taken])
        lengths: NDArray[np.int64] = self._domain.tokens[documents]
        before_tokens = self._first_adjusted * self._stream.supply_tokens
        uncut_tokens = int(lengths[-1])
        lengths[-1] += self._stream.tokens - before_tokens - int(lengths.sum())
        lengthen_last(lengths, min(smallest_tokens, uncut_tokens), self._stream)
        return lengths

    def hold(self) -> None:
        """Order all passes now, so that shards need not."""
        self._held = [self._make(turn) for turn in range(self.turns)]

    def turn(self, number: int) -> _Turn:
        """Return one pass."""
        return self._held[number] if self._held else self._make(number)

    def turns_between(self, low: float, high: float) -> Iterator[_Turn]:
        """Yield the passes with places in [low, high), and perhaps one more at either end."""
        per_turn = self._stream.supply_tokens / max(1, self._stream.tokens)
        first = int(low / per_turn) - 1 if per_turn else 0
        last = int(high / per_turn) + 1 if per_turn else 0
        for number in range(max(0, first), min(self.turns, last + 1)):
            yield self.turn(number)

    def _make(self, number: int) -> _Turn:
        stream = self._stream
        documents = stream.documents[: self._taken(number)]
        lengths = self._domain.tokens[documents]
        before = number * len(stream.documents)
        start_tokens = number * stream.supply_tokens  # tokens of the passes before
        if number >= self._first_adjusted:
            offset = (number - self._first_adjusted) * len(stream.documents)
            lengths = self._adjusted[offset : offset + len(documents)]
            start_tokens = self._first_adjusted * stream.supply_tokens + int(
                self._adjusted[:offset].sum()
            )
        # The number of the pass enters the hash, so every pass has a different order.
        key = document_keys(self._domain, documents, self._seed, PASS_KEY)
        order = np.argsort(mix64(key, filled(len(documents), number)), kind="stable")
        documents, lengths = documents[order], lengths[order]
        stops = start_tokens + np.cumsum(lengths)
        # A document sits at a keyed place within its stretch of the domain's tokens, so domains
        # merged by place stay mixed in every window.
        numbers = np.arange(before, before + len(lengths))
        jitter = uniform(numbers, mix_key(self._seed, PLACE_KEY, stream.name))
        return _Turn(documents, lengths, (stops - lengths + jitter * lengths) / stream.tokens)


def lengthen_last(lengths: NDArray[np.int64], smallest_tokens: int, stream: DocumentStream) -> None:
    """Move tokens from earlier appearances to the last, in place, until it is long enough.

    Args:
        lengths: shape (appearances,), tokens of each; changed.
        smallest_tokens: Fewest tokens that the last may have, and that a donor keeps.
        stream: The domain's stream, for the message.

    Raises:
        InfeasiblePlan: The earlier appearances have too few tokens to give.
    """
    donor = len(lengths) - 2
    while lengths[-1] < smallest_tokens:
        if donor < 0:
            raise InfeasiblePlan(
                f"plan: '{stream.name}' gets {stream.tokens} tokens, less than a document of this "
                f"format needs ({smallest_tokens}); raise its weight or budget_tokens, or set its "
                "weight to 0"
            )
        if lengths[donor] > smallest_tokens:
            lengths[donor] -= 1
            lengths[-1] += 1
        else:
            donor -= 1
