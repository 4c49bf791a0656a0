"""Which tokens go into the dataset, and in which order.

Two independent choices, both by keyed hashes of documents, so neither depends on file layout,
workers or other domains:

* *Selection.* Each domain is one stream: its training documents in the order of a keyed hash. A
  domain's share is a prefix of that stream, repeated in whole passes where it needs more than one,
  so a smaller budget is a subset of a larger one. The last document is cut to hit the number.
* *Order.* Samples (documents, or sequences of fixed length) of a domain are permuted within each
  pass and spread evenly over the dataset: the j-th of n sits at a keyed place in the j-th of n
  equal strata. Merging the domains by place keeps the mixture true in every window, not only in
  total. Fixed-length sequences are permuted by a keyed bijection, without memory in their number.

A shard is the samples whose place falls into its stretch of the dataset, so shards are made
independently of each other.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import InfeasiblePlan
from curate.kernels import Pointers, kernel
from curate.tokens.store import DomainTokens, mix64, mix64_scalar

ORDER_KEY, PASS_KEY, PLACE_KEY, TAIL_KEY, EPOCH_KEY = 1, 2, 3, 4, 5
"""Domain separation: each choice mixes the seed with a number of its own."""

PIECE = np.dtype([("domain", "<u2"), ("document", "<i8"), ("start", "<i8"), ("tokens", "<i8")])
"""A run of tokens of one document: its domain, its number there, first token and tokens."""

Pieces = NDArray[Any]
"""dtype PIECE."""

PAD = 0xFFFF
"""Domain of a piece that is no document's but filling: end tokens, `tokens` times."""

FEISTEL_ROUNDS = 6


@dataclass(frozen=True)
class Stream:
    """A domain's documents in keyed order, to be read from the start, again and again."""

    name: str
    documents: NDArray[np.int64]
    """shape (documents,), numbers in the domain, in keyed order."""
    stops: NDArray[np.int64]
    """shape (documents,), tokens up to and including each."""
    tokens: int
    """To be taken: budgeted tokens of the domain."""

    @property
    def supply_tokens(self) -> int:
        """Tokens in one pass."""
        return int(self.stops[-1]) if len(self.stops) else 0


@dataclass(frozen=True)
class Samples:
    """Samples of one shard, in output order."""

    pieces: NDArray[Any]
    """dtype PIECE, in output order."""
    lengths: NDArray[np.int64]
    """Tokens of each sample; the pieces of a sample follow each other."""


def stream(domain: DomainTokens, chosen: NDArray[np.bool_], tokens: int, seed: int) -> Stream:
    """Put the chosen documents of a domain into keyed order.

    Args:
        domain: The domain.
        chosen: shape (documents,), which may be used.
        tokens: To be taken from it.
        seed: The recipe's.
    """
    numbers = np.flatnonzero(chosen & (domain.tokens > 0))
    key = _document_keys(domain, numbers, seed, ORDER_KEY)
    order = np.argsort(key, kind="stable")
    documents = numbers[order]
    return Stream(domain.name, documents, np.cumsum(domain.tokens[documents]), tokens)


def _document_keys(
    domain: DomainTokens, numbers: NDArray[np.int64], seed: int, purpose: int
) -> NDArray[np.uint64]:
    content = mix64(
        domain.content_high[numbers] ^ mix64_scalar(seed * 8 + purpose), domain.content_low[numbers]
    )
    return mix64(content, domain.identity[numbers])


def permute(index: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """A keyed permutation of 0 … size - 1, evaluated only where asked.

    A balanced Feistel network over the next even number of bits, walked along its cycles until the
    value is in range, so it is a bijection for every size and needs no memory.

    Args:
        index: shape (n,), values in [0, size).
        size: Of the permuted set, at least 1.
        key: Any integer.

    Example:
        >>> sorted(permute(np.arange(10), 10, key=7).tolist())
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]

    References:
        Black and Rogaway 2002, "Ciphers with arbitrary finite domains", §3 (cycle walking).
    """
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    keys = [mix64_scalar(key * FEISTEL_ROUNDS + turn) for turn in range(FEISTEL_ROUNDS)]
    value = index.astype(np.uint64)
    limits = np.array([size, half_bits], np.uint64)
    _walk(value, len(value), limits, np.array(keys, np.uint64), FEISTEL_ROUNDS)
    return value.astype(np.int64)


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


def shard_count(total_tokens: int, shard_tokens: int) -> int:
    """Shards that a dataset is cut into: at least one, each of about `shard_tokens`."""
    return max(1, -(-total_tokens // shard_tokens))


class DocumentSampler:
    """Samples are documents, whole but for the last of each domain."""

    def __init__(
        self,
        streams: Sequence[Stream],
        domains: Sequence[DomainTokens],
        seed: int,
        smallest_tokens: int = 1,
    ) -> None:
        """Choose and place every appearance of every document; 24 bytes each.

        Args:
            streams: By domain.
            domains: In the same order.
            seed: The recipe's.
            smallest_tokens: Of a document that is cut; where hitting the number would leave less,
                the document before it gives up what is missing.

        Raises:
            InfeasiblePlan: A domain gets fewer tokens than that.
        """
        self._appearances = [
            _appearances(stream, domain, seed, smallest_tokens)
            for stream, domain in zip(streams, domains, strict=True)
        ]

    def documents(self) -> list[int]:
        """Appearances of documents, by domain."""
        return [len(appearances.documents) for appearances in self._appearances]

    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every appearance of every document, domain by domain."""
        return np.concatenate([appearances.tokens for appearances in self._appearances])

    def shard(self, number: int, shards: int) -> Samples:
        """Samples of one of `shards` stretches of the dataset."""
        found = []
        places = []
        for domain, appearances in enumerate(self._appearances):
            start, stop = np.searchsorted(
                appearances.places, [number / shards, (number + 1) / shards]
            )
            if number + 1 == shards:
                stop = len(appearances.places)
            pieces = np.zeros(stop - start, PIECE)
            pieces["domain"] = domain
            pieces["document"] = appearances.documents[start:stop]
            pieces["tokens"] = appearances.tokens[start:stop]
            found.append(pieces)
            places.append(appearances.places[start:stop])
        order = np.argsort(np.concatenate(places), kind="stable")
        pieces = np.concatenate(found)[order]
        return Samples(pieces, pieces["tokens"].astype(np.int64))


@dataclass(frozen=True)
class _Appearances:
    """Appearances of a domain's documents, in the order of their places; shape (appearances,)."""

    documents: NDArray[np.int64]
    tokens: NDArray[np.int64]
    places: NDArray[np.float64]
    """Ascending, in [0, 1)."""


def _appearances(
    stream: Stream, domain: DomainTokens, seed: int, smallest_tokens: int
) -> _Appearances:
    if not stream.tokens:
        empty = np.empty(0, np.int64)
        return _Appearances(empty, empty, np.empty(0, np.float64))
    passes, partial = _passes(stream)
    sizes = [len(stream.documents)] * passes + [partial] * (partial > 0)
    documents = np.concatenate([stream.documents[:taken] for taken in sizes])
    lengths = domain.tokens[documents]
    own_tokens = int(lengths[-1])
    lengths[-1] += stream.tokens - int(lengths.sum())
    _lengthen_last(lengths, min(smallest_tokens, own_tokens), stream)
    start = 0
    for turn, taken in enumerate(sizes):
        own = slice(start, start + taken)
        key = _document_keys(domain, documents[own], seed, PASS_KEY)
        order = np.argsort(mix64(key, _filled(taken, turn)), kind="stable")
        documents[own] = documents[own][order]
        lengths[own] = lengths[own][order]
        start += taken
    stops = np.cumsum(lengths)
    jitter = _uniform(np.arange(len(lengths)), mix_key(seed, PLACE_KEY, stream.name))
    places = (stops - lengths + jitter * lengths) / stream.tokens
    return _Appearances(documents, lengths, places)


def _passes(stream: Stream) -> tuple[int, int]:
    """Whole passes over a domain, and documents of a further one, the last perhaps cut."""
    passes, rest = divmod(stream.tokens, max(1, stream.supply_tokens))
    return passes, int(np.searchsorted(stream.stops, rest)) + 1 if rest else 0


def _lengthen_last(lengths: NDArray[np.int64], smallest_tokens: int, stream: Stream) -> None:
    """Move tokens from earlier appearances to the last, in place, until it is long enough."""
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


class SequenceSampler:
    """Samples are sequences of a fixed length, cut from each domain's stream.

    What is left of each domain after its whole sequences is joined into sequences that mix
    domains, fewer than there are domains; only the very last may be short.
    """

    def __init__(self, streams: Sequence[Stream], sequence_length: int, seed: int) -> None:
        """Prepare; takes no memory in the number of sequences."""
        self._streams = streams
        self._length = sequence_length
        self._seed = seed
        self._order_seed = seed
        self._index = _StreamIndex(streams)
        self._tails = self._join_tails()

    def documents(self) -> list[int]:
        """Appearances of documents, whole or in part, by domain."""
        counts = []
        for stream in self._streams:
            passes, partial = _passes(stream)
            counts.append(passes * len(stream.documents) + partial)
        return counts

    def reordered(self, seed: int) -> SequenceSampler:
        """The same sequences in the order of another seed."""
        other = copy.copy(self)
        other._order_seed = seed
        return other

    def sequences(self) -> list[int]:
        """Whole sequences by domain, then those that join what the domains have left."""
        whole = [stream.tokens // self._length for stream in self._streams]
        return [*whole, int(self._tails[2].sum()) // self._length]

    def sequences_before(self, number: int, shards: int) -> int:
        """Sequences in the stretches before one of `shards`, without making them."""
        low = number / shards
        counts = self.sequences()
        names = [stream.name for stream in self._streams]
        before = 0
        for count, purpose, name in zip(
            counts, [PLACE_KEY] * len(names) + [TAIL_KEY], [*names, ""], strict=True
        ):
            first = min(count, max(0, int(low * count) - 1))
            slots = np.arange(first, min(count, int(low * count) + 2))
            key = mix_key(self._order_seed, purpose, name)
            before += first + int(((slots + _uniform(slots, key)) / max(1, count) < low).sum())
        return before

    def shard(self, number: int, shards: int) -> Samples:
        """Samples of one of `shards` stretches of the dataset."""
        return self.expand(*self.numbers(number, shards))

    def numbers(self, number: int, shards: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sequences of a stretch in order: domain, and number of the sequence in its domain.

        A sequence that joins tails has the number of domains for its domain.
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
        self, stream: Stream, low: float, high: float
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Whole sequences of a domain with places in [low, high): places, and chunk numbers."""
        chunks = stream.tokens // self._length
        first = max(0, int(low * chunks) - 1)
        slots = np.arange(first, min(chunks, int(high * chunks) + 2))
        key = mix_key(self._order_seed, PLACE_KEY, stream.name)
        places = (slots + _uniform(slots, key)) / max(1, chunks)
        inside = (places >= low) & ((places < high) | (high >= 1.0))
        slots, places = slots[inside], places[inside]
        numbers = np.empty_like(slots)
        supply = stream.supply_tokens
        done = 0
        while done < len(slots):  # one turn for each pass over the domain that the stretch meets
            turn = int(slots[done]) * self._length // supply
            start = -(-turn * supply // self._length)
            stop = min(chunks, -(-(turn + 1) * supply // self._length))
            inside_pass = slots[done : np.searchsorted(slots, stop)]
            key = mix_key(self._order_seed, PASS_KEY, f"{stream.name}/{turn}")
            numbers[done : done + len(inside_pass)] = start + permute(
                inside_pass - start, stop - start, key
            )
            done += len(inside_pass)
        return places, numbers

    def _join_tails(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Domain, first token in its stream, and tokens of each tail, in keyed order."""
        tails = [
            (int(mix_key(self._seed, TAIL_KEY, stream.name)), number,
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
        places = (numbers + _uniform(numbers, key)) / max(1, whole)
        inside = (places >= low) & ((places < high) | last_shard)
        places, numbers = places[inside], numbers[inside]
        if last_shard and total % self._length:
            places = np.append(places, 2.0)  # the short sequence ends the dataset
            numbers = np.append(numbers, whole)
        return places, numbers

    def expand(self, domains: NDArray[np.int64], numbers: NDArray[np.int64]) -> Samples:
        """Sequences, as `numbers` gives them, → pieces of documents.

        A sequence that joins tails is cut at domain borders first.
        """
        is_tail = domains == len(self._streams)
        range_domain = [domains]
        range_start = [numbers * self._length]
        range_tokens = [np.full(len(domains), self._length, np.int64)]
        sample = [np.arange(len(domains))]
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
        """Domain, first stream token and tokens of the parts of one tail sequence."""
        domains, firsts, tokens = self._tails
        stops = np.cumsum(tokens)
        low, high = number * self._length, min((number + 1) * self._length, int(stops[-1]))
        for tail in range(len(domains)):
            begin = max(low, int(stops[tail] - tokens[tail]))
            end = min(high, int(stops[tail]))
            if begin < end:
                offset = begin - int(stops[tail] - tokens[tail])
                yield int(domains[tail]), int(firsts[tail]) + offset, end - begin


class _StreamIndex:
    """Finds the documents under a range of a domain's repeating stream."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._documents = np.concatenate([stream.documents for stream in streams])
        self._stops = np.concatenate([stream.stops for stream in streams])
        sizes = [len(stream.documents) for stream in streams]
        self._bases = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def expand(
        self,
        domains: NDArray[np.int64],
        starts: NDArray[np.int64],
        tokens: NDArray[np.int64],
    ) -> NDArray[Any]:
        """Ranges (domain, first stream token, tokens) → pieces, in order."""
        supplies = self._stops[self._bases[domains + 1] - 1]
        positions = starts % supplies
        arguments = (domains, positions, tokens, len(domains), self._stops, self._bases)
        columns = [np.empty(0, np.int64) for _ in range(4)]
        total = _expand_ranges(*arguments, *columns, 0)
        columns = [np.empty(total, np.int64) for _ in range(4)]
        _expand_ranges(*arguments, *columns, 1)
        owners, rows, firsts, taken = columns
        pieces = np.empty(total, PIECE)
        pieces["domain"] = domains[owners]
        pieces["document"] = self._documents[rows]
        pieces["start"] = firsts
        pieces["tokens"] = taken
        return pieces


@kernel
def _expand_ranges(  # type: ignore[no-untyped-def]  # noqa: ANN202, PLR0913
    domains, positions, tokens, ranges, stops, bases,  # noqa: ANN001
    piece_owner, piece_row, piece_start, piece_tokens, fill,  # noqa: ANN001
):  # fmt: skip
    """Count the pieces under ranges of streams, or fill them in."""
    written = 0
    for number in range(ranges):
        base, end = bases[domains[number]], bases[domains[number] + 1]
        position = positions[number]
        remaining = tokens[number]
        row, above = base, end - 1
        while row < above:  # the first document that stops after `position`
            middle = (row + above) // 2
            if stops[middle] > position:
                above = middle
            else:
                row = middle + 1
        while remaining > 0:
            first = stops[row - 1] if row > base else 0
            taken = min(remaining, stops[row] - position)
            if fill:
                piece_owner[written] = number
                piece_row[written] = row
                piece_start[written] = position - first
                piece_tokens[written] = taken
            written += 1
            remaining -= taken
            position += taken
            row += 1
            if row == end:
                row = base
                position = 0
    return written


class TokenCopier:
    """Copies pieces of documents out of the memory-mapped store."""

    def __init__(
        self, domains: Sequence[DomainTokens], pad_id: int = 0, pad_tokens: int = 0
    ) -> None:
        """Prepare for pieces whose `domain` counts in the order given.

        Args:
            domains: In the token store.
            pad_id: The token that filling (domain `PAD`) consists of.
            pad_tokens: Of the longest filling.
        """
        self._domains = tuple(domains)  # keeps the maps alive while addresses are used
        self._addresses = np.concatenate([domain.addresses for domain in domains])
        self._tokens = np.concatenate([domain.tokens for domain in domains])
        self._documents = np.array([len(domain) for domain in domains], np.int64)
        self._bases = np.cumsum(self._documents) - self._documents
        self._template = np.empty(0, domains[0].dtype)
        self._filling = np.full(pad_tokens, pad_id, domains[0].dtype)

    def copy(self, pieces: NDArray[Any], out: NDArray[Any]) -> None:
        """Write the tokens of pieces back to back into `out`.

        Args:
            pieces: dtype PIECE.
            out: shape (sum of tokens,), an integer dtype that holds the ids.

        Raises:
            ValueError: A piece reaches outside its domain or document, or `out` has another
                length or is too narrow.
        """
        if len(self._filling):
            filling = pieces["domain"] == PAD
            if filling.any():
                self._copy_filled(pieces, filling, out)
                return
        domains, documents = pieces["domain"], pieces["document"]
        known = domains < len(self._domains)
        known[known] = (documents[known] >= 0) & (
            documents[known] < self._documents[domains[known]]
        )
        if not known.all():
            raise ValueError(f"piece {int(np.argmin(known))} is of a document that is not there")
        rows = self._bases[domains] + documents
        starts, tokens = pieces["start"], pieces["tokens"]
        within = (starts >= 0) & (tokens >= 0) & (tokens <= self._tokens[rows] - starts)
        if not within.all():
            raise ValueError(f"piece {int(np.argmin(within))} reaches outside its document")
        if int(tokens.sum()) != len(out):
            raise ValueError(f"pieces of {int(tokens.sum())} tokens for room of {len(out)}")
        highest = min(int(np.iinfo(self._template.dtype).max), int(np.iinfo(np.int32).max))
        if out.dtype.kind not in "iu" or np.iinfo(out.dtype).max < highest:
            raise ValueError(f"{self._template.dtype} tokens do not fit into {out.dtype}")
        width = np.uint64(self._template.itemsize)
        addresses = self._addresses[rows] + starts.astype(np.uint64) * width
        sources = Pointers(addresses, self._template.dtype)
        copy_runs(sources, tokens.astype(np.int64), len(pieces), out)

    def _copy_filled(self, pieces: Pieces, filling: NDArray[np.bool_], out: NDArray[Any]) -> None:
        """Copy documents, then move them apart by what is filled in between.

        Raises:
            ValueError: As `copy`; or a filling is longer than those prepared for.
        """
        tokens = pieces["tokens"].astype(np.int64)
        if int(tokens.sum()) != len(out):
            raise ValueError(f"pieces of {int(tokens.sum())} tokens for room of {len(out)}")
        if np.any(tokens[filling] > len(self._filling)) or np.any(tokens < 0):
            raise ValueError(f"filling is prepared for at most {len(self._filling)} tokens")
        own = pieces[~filling]
        packed = np.empty(int(own["tokens"].sum()), out.dtype)
        self.copy(own, packed)
        out[...] = self._filling[0]
        out[np.repeat(~filling, tokens)] = packed


@kernel
def copy_runs(sources, tokens, pieces, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Copy `tokens[n]` items from each of the `sources` pointers, back to back."""
    write = 0
    for piece in range(pieces):
        source = sources[piece]
        for position in range(tokens[piece]):
            out[write + position] = source[position]
        write += tokens[piece]
    return write


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of an epoch's order; that of epoch 0 is the seed itself.

    Example:
        >>> epoch_seed(42, 0), epoch_seed(42, 1) == epoch_seed(42, 2)
        (42, False)
    """
    return mix_key(seed, EPOCH_KEY, str(epoch)) if epoch else seed


def mix_key(seed: int, purpose: int, name: str) -> int:
    """A 64-bit key for one purpose and one name."""
    word = mix64_scalar(seed * 8 + purpose)
    for character in name.encode():
        word = mix64_scalar(int(word) ^ character)
    return int(word)


def _uniform(index: NDArray[np.int64], key: int) -> NDArray[np.float64]:
    """Keyed uniform numbers in [0, 1), one for each index."""
    mixed = mix64(index.astype(np.uint64) ^ np.uint64(key), _filled(len(index), key))
    uniform: NDArray[np.float64] = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform


def _filled(length: int, value: int) -> NDArray[np.uint64]:
    return np.full(length, value & (2**64 - 1), np.uint64)
