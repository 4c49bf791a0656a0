"""Cut each domain's stream into sequences of one length, and order them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.plan.streams import (
    PASS_KEY,
    PIECE,
    PLACE_KEY,
    TAIL_KEY,
    DocumentStream,
    Pieces,
    Samples,
    mix_key,
    part_count,
    permute,
    uniform,
    whole_passes,
)
from curate.runtime.compiled import Pointers, kernel
from curate.runtime.memory import scattered_blocks


class SequenceSampler:
    """Sampler of sequences of a fixed length, cut from each domain's stream.

    The tails that domains have left after their whole sequences are joined into sequences that mix
    domains, fewer than there are domains. Only the very last may be short.
    """

    def __init__(self, streams: Sequence[DocumentStream], sequence_length: int, seed: int) -> None:
        """Prepare the streams; memory does not grow with the number of sequences.

        Args:
            streams: shape (domains,), one stream a domain.
            sequence_length: Tokens in a sequence, at least 1.
            seed: The recipe's seed.
        """
        self._streams = streams
        self._length = sequence_length
        self._seed = seed
        self._order_seed = seed
        self._index = _StreamIndex(streams)
        self._tails = self._join_tails()

    def documents(self) -> list[int]:
        """Count the appearances of documents, whole or in part, in each domain."""
        counts = []
        for stream in self._streams:
            passes, partial = whole_passes(stream)
            counts.append(passes * len(stream.documents) + partial)
        return counts

    def reordered(self, seed: int) -> SequenceSampler:
        """Return a sampler of the same sequences, in the order of another seed."""
        other = copy.copy(self)
        other._order_seed = seed
        return other

    def sequences(self) -> list[int]:
        """Count the whole sequences of each domain, then those made of joined tails."""
        whole = [stream.tokens // self._length for stream in self._streams]
        return [*whole, int(self._tails[2].sum()) // self._length]

    def sequences_before(self, number: int, shards: int) -> int:
        """Count the sequences in all stretches before one of `shards`, without making them."""
        low = number / shards
        counts = self.sequences()
        joined_tails = DocumentStream("", np.zeros(0, np.int64), np.zeros(0, np.int64), 0)
        before = 0
        for count, purpose, stream in zip(
            counts,
            [PLACE_KEY] * len(self._streams) + [TAIL_KEY],
            [*self._streams, joined_tails],
            strict=True,
        ):
            part = stream.part_of(low)
            first = min(count, max(0, int(part * count) - 1))
            slots = np.arange(first, min(count, int(part * count) + 2))
            key = mix_key(self._order_seed, purpose, stream.name)
            places = stream.spread((slots + uniform(slots, key)) / max(1, count))
            before += first + int((places < low).sum())
        return before

    def shard(self, number: int, shards: int) -> Samples:
        """Return the samples of one of `shards` equal stretches of the dataset."""
        return self.expand(*self.numbers(number, shards))

    def parts(self, number: int, shards: int) -> Iterator[Samples]:
        """Yield the samples of a stretch in parts of about a block of pieces."""
        sequences = sum(stream.tokens for stream in self._streams) // self._length
        parts = part_count(sum(self.documents()) + sequences, shards)
        for part in range(number * parts, (number + 1) * parts):
            yield self.shard(part, shards * parts)

    def numbers(self, number: int, shards: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """List the sequences of a stretch in order.

        Returns:
            The domain of each sequence, and its number within that domain; both shape (sequences,).
            For a sequence of joined tails, the domain is the number of domains.
        """
        low, high = number / shards, (number + 1) / shards
        parts: list[tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]] = []
        for domain, stream in enumerate(self._streams):
            places, chunks = self._placed_chunks(stream, low, high)
            parts.append((places, np.full(len(chunks), domain), chunks))
        places, tail_numbers = self._placed_tails(low, high, number + 1 == shards)
        parts.append((places, np.full(len(places), len(self._streams)), tail_numbers))
        order = np.argsort(np.concatenate([part[0] for part in parts]), kind="stable")
        domains = np.concatenate([part[1] for part in parts])[order]
        return domains, np.concatenate([part[2] for part in parts])[order]

    def _placed_chunks(
        self, stream: DocumentStream, low: float, high: float
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return places and numbers of a domain's whole sequences with places in [low, high)."""
        chunks = stream.tokens // self._length
        # One slot more at either end, since products round; those outside are dropped below.
        first = max(0, int(stream.part_of(low) * chunks) - 1)
        slots = np.arange(first, min(chunks, int(stream.part_of(high) * chunks) + 2))
        key = mix_key(self._order_seed, PLACE_KEY, stream.name)
        places = stream.spread((slots + uniform(slots, key)) / max(1, chunks))
        inside = (places >= low) & ((places < high) | (high >= 1.0))
        slots, places = slots[inside], places[inside]
        tokens = stream.supply_tokens, self._length
        numbers = order_in_passes(slots, chunks, tokens, (self._order_seed, stream.name))
        return places, numbers

    def _join_tails(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return domain, first stream token and token count of each tail, in keyed order."""
        tails = [
            (mix_key(self._seed, TAIL_KEY, stream.name), number,
             stream.tokens // self._length * self._length, stream.tokens % self._length)
            for number, stream in enumerate(self._streams)
            if stream.tokens % self._length
        ]  # fmt: skip
        tails.sort()
        columns = np.array([tail[1:] for tail in tails], np.int64).reshape(-1, 3)
        return columns[:, 0], columns[:, 1], columns[:, 2]

    def _placed_tails(
        self, low: float, high: float, last_shard: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        total = int(self._tails[2].sum())
        whole = total // self._length
        numbers = np.arange(whole)
        key = mix_key(self._order_seed, TAIL_KEY, "")
        places = (numbers + uniform(numbers, key)) / max(1, whole)
        inside = (places >= low) & ((places < high) | last_shard)
        places, numbers = places[inside], numbers[inside]
        if last_shard and total % self._length:
            places = np.append(places, 2.0)  # the short sequence ends the dataset
            numbers = np.append(numbers, whole)
        return places, numbers

    def expand(self, domains: NDArray[np.int64], numbers: NDArray[np.int64]) -> Samples:
        """Turn sequences into pieces of documents.

        Args:
            domains: shape (sequences,), as `numbers` returns them.
            numbers: shape (sequences,), likewise.
        """
        is_tail = domains == len(self._streams)
        range_domain = [domains]
        range_start = [numbers * self._length]
        range_tokens = [np.full(len(domains), self._length, np.int64)]
        sample = [np.arange(len(domains))]
        # A sequence of joined tails is replaced by one range for each domain it takes from.
        for position in np.flatnonzero(is_tail):
            for domain, start, tokens in self._tail_ranges(int(numbers[position])):
                range_domain.append(np.array([domain]))
                range_start.append(np.array([start]))
                range_tokens.append(np.array([tokens]))
                sample.append(np.array([position]))
        keep = np.concatenate([~is_tail, np.ones(sum(map(len, sample[1:])), bool)])
        owner = np.concatenate(sample)[keep]
        order = np.argsort(owner, kind="stable")
        tokens = np.concatenate(range_tokens)[keep][order]
        pieces = self._index.expand(
            np.concatenate(range_domain)[keep][order],
            np.concatenate(range_start)[keep][order],
            tokens,
        )
        lengths = np.bincount(owner[order], tokens, len(domains)).astype(np.int64)
        return Samples(pieces, lengths)

    def _tail_ranges(self, number: int) -> Iterator[tuple[int, int, int]]:
        """Yield domain, first stream token and token count of each part of a tail sequence."""
        domains, firsts, tokens = self._tails
        stops = np.cumsum(tokens)
        low, high = number * self._length, min((number + 1) * self._length, int(stops[-1]))
        for tail in range(len(domains)):
            begin = max(low, int(stops[tail] - tokens[tail]))
            end = min(high, int(stops[tail]))
            if begin < end:
                offset = begin - int(stops[tail] - tokens[tail])
                yield int(domains[tail]), int(firsts[tail]) + offset, end - begin


def order_in_passes(
    slots: NDArray[np.int64], chunks: int, tokens: tuple[int, int], key: tuple[int, str]
) -> NDArray[np.int64]:
    """Permute the chunks of a repeating stream within each pass over it.

    Args:
        slots: shape (slots,), ascending places in [0, chunks).
        chunks: Chunks that are used.
        tokens: Tokens of one pass, and of a chunk.
        key: Seed of the order, and the domain's name.

    Returns:
        shape (slots,), the number of the chunk at each place.

    Example:
        >>> order_in_passes(np.arange(6), 6, (12, 4), (42, "wiki")).tolist()
        [2, 1, 0, 3, 5, 4]
    """
    supply_tokens, chunk_tokens = tokens
    numbers = np.empty_like(slots)
    done = 0
    while done < len(slots):  # one turn for each pass over the domain that the slots meet
        turn = int(slots[done]) * chunk_tokens // supply_tokens
        start = -(-turn * supply_tokens // chunk_tokens)
        stop = min(chunks, -(-(turn + 1) * supply_tokens // chunk_tokens))
        inside_pass = slots[done : np.searchsorted(slots, stop)]
        pass_key = mix_key(key[0], PASS_KEY, f"{key[1]}/{turn}")
        numbers[done : done + len(inside_pass)] = start + permute(
            inside_pass - start, stop - start, pass_key
        )
        done += len(inside_pass)
    return numbers


class _StreamIndex:
    """Index to find the documents under a range of a domain's repeating stream."""

    def __init__(self, streams: Sequence[DocumentStream]) -> None:
        self._streams = tuple(streams)  # keeps the arrays alive while their addresses are used
        self._documents = Pointers.to([stream.documents for stream in streams])
        self._stops = Pointers.to([stream.stops for stream in streams])
        self._sizes = np.array([len(stream.documents) for stream in streams], np.int64)
        self._supplies = np.array([stream.supply_tokens for stream in streams], np.int64)
        self._bytes = sum(stream.documents.nbytes + stream.stops.nbytes for stream in streams)

    def __reduce__(self) -> tuple[Any, ...]:
        """Send streams to other processes, where they have other addresses."""
        return _StreamIndex, (self._streams,)

    def expand(
        self,
        domains: NDArray[np.int64],
        starts: NDArray[np.int64],
        tokens: NDArray[np.int64],
    ) -> Pieces:
        """Turn ranges of streams into pieces, in order; all arguments have shape (ranges,)."""
        made = [
            self._expand(domains[rows], starts[rows], tokens[rows])
            for rows in scattered_blocks(len(domains), self._bytes)
        ]
        return made[0] if len(made) == 1 else np.concatenate([np.empty(0, PIECE), *made])

    def _expand(
        self, domains: NDArray[np.int64], starts: NDArray[np.int64], tokens: NDArray[np.int64]
    ) -> Pieces:
        positions = starts % self._supplies[domains]
        ranges = (domains, positions, tokens, len(domains))
        arguments = (*ranges, self._documents, self._stops, self._sizes)
        # The kernel runs twice: first to count the pieces, then to fill arrays of that length.
        columns = [np.empty(0, np.int64) for _ in range(4)]
        total = _expand_ranges(*arguments, *columns, 0)
        columns = [np.empty(total, np.int64) for _ in range(4)]
        _expand_ranges(*arguments, *columns, 1)
        owners, documents, firsts, taken = columns
        pieces = np.empty(total, PIECE)
        pieces["domain"] = domains[owners]
        pieces["document"] = documents
        pieces["start"] = firsts
        pieces["tokens"] = taken
        return pieces


@kernel
def _expand_ranges(  # type: ignore[no-untyped-def]  # noqa: ANN202, PLR0913
    domains, positions, tokens, ranges, documents, all_stops, sizes,  # noqa: ANN001
    piece_owner, piece_document, piece_start, piece_tokens, fill,  # noqa: ANN001
):  # fmt: skip
    """Count the pieces under ranges of streams, or fill them in."""
    written = 0
    for number in range(ranges):
        stops, end = all_stops[domains[number]], sizes[domains[number]]
        position = positions[number]
        remaining = tokens[number]
        row, above = 0, end - 1
        while row < above:  # the first document that stops after `position`
            middle = (row + above) // 2
            if stops[middle] > position:
                above = middle
            else:
                row = middle + 1
        while remaining > 0:
            first = stops[row - 1] if row > 0 else 0
            taken = min(remaining, stops[row] - position)
            if fill:
                piece_owner[written] = number
                piece_document[written] = documents[domains[number]][row]
                piece_start[written] = position - first
                piece_tokens[written] = taken
            written += 1
            remaining -= taken
            position += taken
            row += 1
            if row == end:
                row = 0
                position = 0
    return written
