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
    order_of_keys,
    part_count,
    uniform,
    whole_passes,
)
from curate.runtime.external_sort import sort_rows
from curate.runtime.memory import Columns, blocks, columns
from curate.tokens.domain import DomainTokens, mix64

MOST_HELD = 1 << 30
"""Most appearances whose order is kept, in memory or a file, 24 bytes each. Beyond, each shard
orders the passes that it meets again."""

FEWEST_ADJUSTED = 1024
"""Appearances at the end that are looked at first for tokens to give to the last one."""

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
        """Choose how often every document appears; unless they are too many, place all appearances.

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
        """Yield the token counts of all appearances, a block of a pass over a domain at a time."""
        for order in self._orders:
            for turn in range(order.turns):
                tokens = order.turn(turn).tokens
                yield from (tokens[rows] for rows in blocks(len(tokens)))

    def parts(self, number: int, shards: int) -> Iterator[Samples]:
        """Yield the samples of a stretch in parts of about a block of documents."""
        parts = part_count(sum(self.documents()), shards)
        for part in range(number * parts, (number + 1) * parts):
            yield self.shard(part, shards * parts)

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
        self._held: dict[int, _Turn] = {}
        self._keeps_all = False
        self._first_adjusted, self._adjusted = self._last_lengths(smallest_tokens)

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

    def _last_lengths(self, smallest_tokens: int) -> tuple[int, NDArray[np.int64]]:
        """Shorten the last appearance, and those before it that must give it tokens.

        Returns:
            The number of the first appearance that may differ from its document, and the token
            counts from there to the end, in the stream's order.
        """
        if not self.turns:
            return 0, np.empty(0, np.int64)
        # A cut that leaves too little takes tokens from earlier documents, at most one pass back.
        first_turn = max(0, self.turns - 2)
        most = self.appearances - first_turn * len(self._stream.documents)
        taken = min(most, FEWEST_ADJUSTED)
        while True:
            first = self.appearances - taken
            lengths = self._lengths(first)
            uncut_tokens = int(lengths[-1])
            lengths[-1] += self._stream.tokens - self._tokens_before(first) - int(lengths.sum())
            try:
                lengthen_last(lengths, min(smallest_tokens, uncut_tokens), self._stream)
            except InfeasiblePlan:
                if taken == most:
                    raise
                taken = min(most, 16 * taken)
                continue
            return first, lengths

    def _tokens_before(self, appearance: int) -> int:
        """Count the tokens of the whole documents before one appearance, in the stream's order."""
        turn, place = divmod(appearance, len(self._stream.documents))
        before = int(self._stream.stops[place - 1]) if place else 0
        return turn * self._stream.supply_tokens + before

    def _lengths(self, first: int) -> NDArray[np.int64]:
        """Return the tokens of the documents of all appearances from one on, uncut."""
        places = np.arange(first, self.appearances) % len(self._stream.documents)
        stops = self._stream.stops
        lengths: NDArray[np.int64] = stops[places] - np.where(places, stops[places - 1], 0)
        return lengths

    def hold(self) -> None:
        """Order all passes now, so that shards need not."""
        self._keeps_all = True
        for number in range(self.turns):
            self.turn(number)

    def turn(self, number: int) -> _Turn:
        """Return one pass, which is kept until another is asked for."""
        if number not in self._held:
            if not self._keeps_all:
                self._held.clear()
            self._held[number] = self._make(number)
        return self._held[number]

    def turns_between(self, low: float, high: float) -> Iterator[_Turn]:
        """Yield the passes with places in [low, high), and perhaps one more at either end."""
        per_turn = self._stream.supply_tokens / max(1, self._stream.tokens)
        first = int(self._stream.part_of(low) / per_turn) - 1 if per_turn else 0
        last = int(self._stream.part_of(high) / per_turn) + 1 if per_turn else 0
        for number in range(max(0, first), min(self.turns, last + 1)):
            yield self.turn(number)

    def _make(self, number: int) -> _Turn:
        stream = self._stream
        first, count = number * len(stream.documents), self._taken(number)
        start_tokens = number * stream.supply_tokens  # tokens of the passes before
        if first > self._first_adjusted:
            start_tokens = self._tokens_before(self._first_adjusted)
            start_tokens += int(self._adjusted[: first - self._first_adjusted].sum())

        def batches() -> Iterator[Columns]:
            for rows in blocks(count):
                documents = stream.documents[rows]
                # The number of the pass enters the hash, so every pass has a different order.
                key = document_keys(self._domain, documents, self._seed, PASS_KEY)
                key = mix64(key, filled(len(documents), number))
                yield {"key": key, "document": documents, "tokens": self._pass_lengths(first, rows)}

        ranked = sort_rows(batches, "key", order_of_keys, drop_key=True)
        places = columns(count, {"place": np.float64})["place"]
        jitter_key = mix_key(self._seed, PLACE_KEY, stream.name)
        for rows in blocks(count):
            lengths = ranked["tokens"][rows]
            stops = start_tokens + np.cumsum(lengths)
            start_tokens = int(stops[-1])
            # A document sits at a keyed place within its stretch of the domain's tokens, so domains
            # merged by place stay mixed in every window.
            jitter = uniform(np.arange(first + rows.start, first + rows.stop), jitter_key)
            places[rows] = stream.spread((stops - lengths + jitter * lengths) / stream.tokens)
        return _Turn(ranked["document"], ranked["tokens"], places)

    def _pass_lengths(self, first: int, rows: slice) -> NDArray[np.int64]:
        """Return the tokens of a range of the pass that begins with appearance `first`."""
        stops = self._stream.stops[rows]
        before = int(self._stream.stops[rows.start - 1]) if rows.start else 0
        lengths: NDArray[np.int64] = np.diff(stops, prepend=before)
        place = self._first_adjusted - (first + rows.start)
        adjusted = self._adjusted[max(0, -place) :][: max(0, len(lengths) - max(0, place))]
        if len(adjusted):
            lengths[max(0, place) : max(0, place) + len(adjusted)] = adjusted
        return lengths


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
