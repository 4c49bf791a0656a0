"""Samples that are whole documents, for trainers that cut them themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.errors import InfeasiblePlan
from curate.sample.streams import (
    PASS_KEY,
    PIECE,
    PLACE_KEY,
    Samples,
    Stream,
    document_keys,
    filled,
    mix_key,
    uniform,
    whole_passes,
)
from curate.tokens.domain import DomainTokens, mix64


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
    passes, partial = whole_passes(stream)
    sizes = [len(stream.documents)] * passes + [partial] * (partial > 0)
    documents = np.concatenate([stream.documents[:taken] for taken in sizes])
    lengths = domain.tokens[documents]
    own_tokens = int(lengths[-1])
    lengths[-1] += stream.tokens - int(lengths.sum())
    lengthen_last(lengths, min(smallest_tokens, own_tokens), stream)
    start = 0
    for turn, taken in enumerate(sizes):
        own = slice(start, start + taken)
        key = document_keys(domain, documents[own], seed, PASS_KEY)
        order = np.argsort(mix64(key, filled(taken, turn)), kind="stable")
        documents[own] = documents[own][order]
        lengths[own] = lengths[own][order]
        start += taken
    stops = np.cumsum(lengths)
    jitter = uniform(np.arange(len(lengths)), mix_key(seed, PLACE_KEY, stream.name))
    places = (stops - lengths + jitter * lengths) / stream.tokens
    return _Appearances(documents, lengths, places)


def lengthen_last(lengths: NDArray[np.int64], smallest_tokens: int, stream: Stream) -> None:
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
