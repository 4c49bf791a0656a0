"""Windows by domain, so that a loader may draw from the domains in any shares.

Each domain is one repeating stream of tokens, cut into windows, as in `curate.plan.sequences`. Over
a recipe the stream is the domain's training documents, whatever its plan takes of them. Over shards
it is what they hold of the domain, in their order. Windows do not overlap. Those of all domains
are numbered through, domain after domain, as far as `max_epochs` allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.curation.levels import domain_settings
from curate.dataset.manifest import RECIPE, read_plan
from curate.dataset.staged import StagedPlan
from curate.loader.draws import DrawLimits
from curate.loader.fields import Segments
from curate.loader.shard_windows import ShardSource, ranges
from curate.loader.store_windows import PlannedStore, StoreSource
from curate.loader.window_source import Order
from curate.mixture.request import DomainSupply, cap_tokens
from curate.plan.sequences import order_in_passes
from curate.plan.streams import DocumentStream, whole_passes
from curate.recipe import load as load_recipe
from curate.runtime.files import hash_json

MOST_SEQUENCES = 1 << 32
"""Most sequences of a domain where `max_epochs` sets no limit."""


NUMBERED_SEQUENCES = 512
"""Sequences of a domain that are numbered together."""


class DomainStore(StoreSource):
    """Windows of the store by domain, over all training documents, whatever the plan takes."""

    def __init__(self, planned: PlannedStore, limits: DrawLimits) -> None:
        """Number the windows that `limits` allows.

        Raises:
            RecipeError: No window fits.
        """
        self._arguments = (planned, limits)
        streams = tuple(
            replace(stream, tokens=most * limits.window_tokens)
            for stream, most in zip(planned.streams, limits.sequences, strict=True)
        )
        super().__init__(replace(planned, streams=streams), limits.window_tokens)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the plan, so that another process opens the store itself."""
        return DomainStore, self._arguments


class DomainShards:
    """Windows of written shards by domain."""

    def __init__(self, shards: ShardSource, limits: DrawLimits) -> None:
        """Index the segments of the shards by domain; takes 16 bytes of memory for each.

        Args:
            shards: Shards that were opened with segments.
            limits: Tokens of each domain's stream, and the windows that may be drawn.
        """
        self._arguments = (shards, limits)
        self.where, self.domains = shards.where, shards.domains
        self.highest_id, self.seed = shards.highest_id, shards.seed
        self.window_tokens = limits.window_tokens
        self.windows = sum(limits.sequences)
        window = limits.window_tokens
        self.left_over_tokens = sum(tokens % window for tokens in limits.stream_tokens)
        self._shards = shards
        self._bases = np.cumsum([0, *limits.sequences])
        domains, stops = shards.segments
        starts = np.concatenate([[0], stops[:-1]])
        by_domain = np.argsort(domains, kind="stable")
        self._segment_starts = starts[by_domain]
        self._segment_stops = np.cumsum((stops - starts)[by_domain])
        self._stream_tokens = np.array(limits.stream_tokens, np.int64)
        self._stream_starts = np.cumsum(self._stream_tokens) - self._stream_tokens

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments, so that another process maps the files itself."""
        return DomainShards, self._arguments

    def fingerprint(self) -> str:
        """Hash the shards, and the numbers of windows."""
        return hash_json([self._shards.fingerprint(), self.window_tokens, self._bases.tolist()])

    def read(self, numbers: NDArray[np.int64], out: NDArray[Any]) -> Segments:
        """Fill `out`, shape (numbers, window_tokens)."""
        domains = np.searchsorted(self._bases, numbers, side="right") - 1
        first = (numbers - self._bases[domains]) * self.window_tokens
        window, starts, tokens = self._within_passes(domains, first)
        first = np.searchsorted(self._segment_stops, starts, side="right")
        last = np.searchsorted(self._segment_stops, starts + tokens - 1, side="right")
        owner, segment = ranges(first, last - first + 1)
        begins = np.where(segment > 0, self._segment_stops[segment - 1], 0)
        low = np.maximum(starts[owner], begins)
        taken = np.minimum((starts + tokens)[owner], self._segment_stops[segment]) - low
        self._shards.copy(self._segment_starts[segment] + low - begins, taken, out.reshape(-1))
        return Segments(domains[window[owner]], taken)

    def _within_passes(
        self, domains: NDArray[np.int64], first: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Cut windows where a pass over their domain ends.

        Args:
            domains: shape (windows,).
            first: shape (windows,), first token of each in its domain's repeating stream.

        Returns:
            Window, first token in the streams of all domains, and tokens of each piece.
        """
        supply = self._stream_tokens[domains]
        passes = (first + self.window_tokens - 1) // supply - first // supply
        window, piece = ranges(first // supply, passes + 1)
        low = np.maximum(first[window], piece * supply[window])
        high = np.minimum(first[window] + self.window_tokens, (piece + 1) * supply[window])
        starts = self._stream_starts[domains[window]] + low - piece * supply[window]
        return window, starts, high - low

    def order(self, seed: int, epoch: int) -> Order:
        """Return the order of the numbers; a loader that draws by domain has its own."""
        return self.stored_order()

    def stored_order(self) -> Order:
        """Return the order of the numbers."""
        return np.ndarray.copy


def planned_part(planned: PlannedStore) -> PlannedStore:
    """Return only what the plan takes of each domain, once, as shards would hold it."""
    return replace(planned, streams=[_planned_part(stream) for stream in planned.streams])


def _planned_part(stream: DocumentStream) -> DocumentStream:
    passes, partial = whole_passes(stream)
    if passes:
        return stream
    stops = np.minimum(stream.stops[:partial], stream.tokens)
    return replace(stream, documents=stream.documents[:partial], stops=stops)


def most_tokens(plan: StagedPlan) -> dict[str, int | None]:
    """Return the most tokens that all stages together may draw of each domain; None for no cap."""
    return {
        name: cap_tokens(DomainSupply(name, domain.supply_tokens, domain.max_epochs))
        if plan.on_shortfall != "repeat"
        else None
        for name, domain in plan.domains.items()
    }


def store_limits(
    planned: PlannedStore, supply: Sequence[DomainSupply], capped: bool, window_tokens: int
) -> DrawLimits:
    """Count the sequences that a recipe's domains may give.

    Args:
        planned: The plan.
        supply: Caps of each domain, in the order of the streams.
        capped: Whether `max_epochs` holds.
        window_tokens: Tokens of a sequence.
    """
    tokens = [stream.tokens for stream in planned.streams]
    sequences = tuple(_most_sequences(domain, capped, window_tokens) for domain in supply)
    return DrawLimits(
        names=tuple(stream.name for stream in planned.streams),
        stream_tokens=tuple(stream.supply_tokens for stream in planned.streams),
        pass_tokens=tuple(stream.supply_tokens for stream in planned.streams),
        sequences=sequences,
        window_tokens=window_tokens,
        budget_sequences=min(sum(tokens) // window_tokens, sum(sequences)),
        planned=tuple(map(float, tokens)),
    )


def shard_limits(shards: ShardSource, directory: Path) -> DrawLimits:
    """Count the sequences that the domains of shards may give.

    A pass is over the tokens that the shards hold of a domain, or over its supply where they repeat
    it.

    Args:
        shards: The shards, with segments.
        directory: Their dataset, whose recipe sets `max_epochs`.

    Raises:
        CurateError: The recipe or the plan in the directory cannot be read.
    """
    names = shards.domains
    domains, stops = shards.segments
    tokens = np.bincount(domains, np.diff(stops, prepend=0), len(names)).astype(np.int64).tolist()
    plan = read_plan(directory / "plan.json").domains
    held_tokens = dict(zip(names, tokens, strict=True))
    passes = [min(held, plan[name].supply_tokens) for name, held in held_tokens.items()]
    planned = [plan[name].tokens for name in names]
    loaded = load_recipe(directory / RECIPE)
    recipe, selections = loaded.recipe, shards.manifest.selections or {}
    numbers = {domain.name: number for number, domain in enumerate(recipe.domains)}
    sources = [selections[name].source if name in selections else numbers[name] for name in names]
    epochs = domain_settings(loaded, names, sources, tokens).epochs(recipe.max_epochs)
    supply = [
        DomainSupply(name, of_pass, most)
        for name, of_pass, most in zip(names, passes, epochs, strict=True)
    ]
    capped, window_tokens = recipe.on_shortfall != "repeat", shards.window_tokens
    sequences = tuple(_most_sequences(domain, capped, window_tokens) for domain in supply)
    return DrawLimits(
        names=names,
        stream_tokens=tuple(tokens),
        pass_tokens=tuple(passes),
        sequences=sequences,
        window_tokens=window_tokens,
        budget_sequences=min(sum(planned) // window_tokens, sum(sequences)),
        planned=tuple(map(float, planned)),
    )


def _most_sequences(domain: DomainSupply, capped: bool, window_tokens: int) -> int:
    cap = cap_tokens(domain) if capped else None
    if cap is None:
        return MOST_SEQUENCES if domain.supply_tokens else 0
    return min(cap // window_tokens, MOST_SEQUENCES)


class DrawNumbers:
    """Numbers the windows of draws: those of a pass in a keyed order, then those of the next."""

    def __init__(self, limits: DrawLimits, seed: int | None) -> None:
        """Keep the seed of the order; None takes the windows in the order of the streams."""
        self._limits = limits
        self._seed = seed
        self._bases = np.cumsum([0, *limits.sequences]).tolist()
        self._ahead: dict[int, tuple[int, NDArray[np.int64]]] = {}
        """A first slot of each domain, and the numbers from it on; computed together, since a call
        for each step took most of the time of one whose shares had changed."""

    def __call__(self, domains: NDArray[np.int64], drawn: Sequence[int]) -> NDArray[np.int64]:
        """Return the numbers of windows, shape (draws,).

        Args:
            domains: shape (draws,), domain of each.
            drawn: shape (domains,), sequences of each domain that were drawn before.
        """
        numbers = np.empty_like(domains)
        for domain in np.unique(domains).tolist():
            places = np.flatnonzero(domains == domain)
            numbers[places] = self._of_domain(domain, drawn[domain], len(places))
        return numbers

    def _of_domain(self, domain: int, first: int, count: int) -> NDArray[np.int64]:
        start, numbers = self._ahead.get(domain, (0, np.empty(0, np.int64)))
        if not start <= first <= first + count <= start + len(numbers):
            most = self._limits.sequences[domain]
            start = first
            numbers = np.arange(first, min(most, first + max(count, NUMBERED_SEQUENCES)))
            if self._seed is not None:
                tokens = self._limits.stream_tokens[domain], self._limits.window_tokens
                key = self._seed, self._limits.names[domain]
                numbers = order_in_passes(numbers, most, tokens, key)
            numbers += self._bases[domain]
            self._ahead[domain] = start, numbers
        return numbers[first - start : first - start + count]
