"""Cut the token store into windows as a recipe plans them, without writing shards.

The plan's tokens are cut into windows within each domain; the remainders of the domains are joined.
Every epoch holds exactly these windows. As in a build, domains are spread evenly, so the mixture
holds in every stretch of an epoch, and windows are permuted within each domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import RecipeError
from curate.loader.fields import Segments
from curate.loader.window_source import Order
from curate.plan import DocumentStream, SequenceSampler, TokenCopier, epoch_seed
from curate.runtime.files import hash_bytes, hash_json
from curate.tokens.domain import DomainTokens

STRETCH_SEQUENCES = 4096
"""Sequences whose order is computed together, in a few milliseconds and less than 1 MB."""


@dataclass(frozen=True)
class PlannedStore:
    """Tokens of the store that a recipe's plan takes."""

    where: str
    """Recipe, for messages."""
    streams: Sequence[DocumentStream]
    """Tokens that the plan takes of each domain."""
    domains: Sequence[DomainTokens]
    """Domains, in the order of `streams`."""
    highest_id: int
    """Highest token id of the tokenizer."""
    seed: int
    """Seed of the recipe."""


class StoreSource:
    """Windows over the domains of a token store."""

    def __init__(self, planned: PlannedStore, window_tokens: int) -> None:
        """Prepare the sampler; memory does not grow with the number of windows.

        Raises:
            RecipeError: No window fits.
        """
        self._planned = planned
        streams, where, seed = planned.streams, planned.where, planned.seed
        self.where = where
        self.highest_id = planned.highest_id
        self.domains = tuple(stream.name for stream in streams)
        self.seed = seed
        self.window_tokens = window_tokens
        total = sum(stream.tokens for stream in streams)
        self.windows, self.left_over_tokens = divmod(total, window_tokens)
        if not self.windows:
            raise RecipeError(
                f"{where}: windows of {window_tokens} tokens do not fit: the plan has {total} "
                "tokens; set a smaller sequence_length or a larger budget_tokens"
            )
        self._sampler = SequenceSampler(streams, window_tokens, seed)
        counts = self._sampler.sequences()
        self._bases = np.cumsum([0, *counts])
        self._copier = TokenCopier(planned.domains)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the plan, so that another process opens the store itself."""
        return StoreSource, (self._planned, self.window_tokens)

    def fingerprint(self) -> str:
        """Hash the documents in their order, the tokens taken from each, and the window."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        streams = [
            [stream.name, stream.tokens, hash_bytes(stream.documents.tobytes()),
             hash_bytes(stream.stops.tobytes()), domain.fingerprint]
            for stream, domain in zip(self._planned.streams, self._planned.domains, strict=True)
        ]  # fmt: skip
        return hash_json([streams, self.window_tokens, self.seed])

    def read(self, numbers: NDArray[np.int64], out: NDArray[Any]) -> Segments:
        """Fill `out`, shape (numbers, window_tokens)."""
        domains = np.searchsorted(self._bases, numbers, side="right") - 1
        samples = self._sampler.expand(domains, numbers - self._bases[domains])
        self._copier.copy(samples.pieces, out.reshape(-1))
        return Segments(
            samples.pieces["domain"].astype(np.int64), samples.pieces["tokens"].astype(np.int64)
        )

    def order(self, seed: int, epoch: int) -> Order:
        """Spread domains evenly and permute within; epoch 0 of the recipe's seed is the build's."""
        return _SpreadOrder(
            self._sampler.reordered(epoch_seed(seed, epoch)), self._bases, self.windows
        )

    def stored_order(self) -> Order:
        """Return the order of a build with this sequence length."""
        return self.order(self.seed, 0)


class _SpreadOrder:
    """Maps positions to windows, and keeps the stretch that was computed last."""

    def __init__(self, sampler: SequenceSampler, bases: NDArray[np.int64], windows: int) -> None:
        self._sampler = sampler
        self._bases = bases
        self._windows = windows
        self._stretches = max(1, windows // STRETCH_SEQUENCES)
        self._first = 0
        self._numbers = np.empty(0, np.int64)
        self._stretch = -1

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of the windows at ascending positions."""
        numbers = np.empty_like(positions)
        done = 0
        while done < len(positions):
            self._turn_to(int(positions[done]))
            stop = int(np.searchsorted(positions, self._first + len(self._numbers)))
            numbers[done:stop] = self._numbers[positions[done:stop] - self._first]
            done = stop
        return numbers

    def _turn_to(self, position: int) -> None:
        """Compute the stretch that holds a position."""
        if self._first <= position < self._first + len(self._numbers):
            return
        # Stretches are nearly equal in size: guess, then correct.
        stretch = min(position * self._stretches // self._windows, self._stretches - 1)
        if self._stretch + 1 < self._stretches and position == self._first + len(self._numbers):
            stretch = self._stretch + 1
        while self._before(stretch) > position:
            stretch -= 1
        while stretch + 1 < self._stretches and self._before(stretch + 1) <= position:
            stretch += 1
        domains, numbers = self._sampler.numbers(stretch, self._stretches)
        self._first = self._before(stretch)
        self._numbers = self._bases[domains] + numbers
        self._stretch = stretch

    def _before(self, stretch: int) -> int:
        return self._sampler.sequences_before(stretch, self._stretches) if stretch else 0
