"""Domains written apart: which shards there are, and what trainers will mix of them.

With `output.shape: per-domain` each domain has a folder of shards, `train/<domain>/shard-00000` …,
that hold its planned tokens once: what the plan takes more than one pass of is written in one, and
the trainer's own mixture repeats it. Left out: the mixtures themselves, see `formats.blends`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from curate.errors import RecipeError
from curate.formats.base import Settings, TextFormat, TokenFormat
from curate.formats.trainers.draws import Source, SourceFile
from curate.formats.trainers.mixtures import BLENDS, Forecast, forecast
from curate.plan import PAD, DocumentSampler, Samples, SequenceSampler
from curate.plan.packing import PackedSampler

MIXED, PER_DOMAIN = "mixed", "per-domain"
"""Values of `output.shape`."""

SUFFIXES = {"olmo": ".npy", "arrow": ".arrow"}
"""Of the file that a trainer is given, where it is not the one that the hub reads."""


@dataclass(frozen=True, slots=True)
class DomainShard:
    """One shard of one domain."""

    domain: int
    number: int
    """Among the domain's."""
    shards: int
    """Of the domain."""


class DomainSampler:
    """Samples of shards that each hold a single domain."""

    def __init__(
        self,
        samplers: Sequence[DocumentSampler | SequenceSampler | PackedSampler | None],
        shards: Sequence[int],
    ) -> None:
        """Number the shards through all domains.

        Args:
            samplers: By domain, each of that domain's stream alone; None where it gives nothing.
            shards: By domain.
        """
        self._samplers = tuple(samplers)
        self.shards = [
            DomainShard(domain, number, count)
            for domain, count in enumerate(shards)
            if samplers[domain] is not None
            for number in range(count)
        ]
        """In the order of their numbers."""

    def documents(self) -> list[int]:
        """Appearances of documents, by domain."""
        return [0 if found is None else found.documents()[0] for found in self._samplers]

    def shard(self, number: int, shards: int) -> Samples:
        """Samples of one of the shards of all domains."""
        assert shards == len(self.shards)
        place = self.shards[number]
        sampler = self._samplers[place.domain]
        assert sampler is not None
        samples = sampler.shard(place.number, place.shards)
        samples.pieces["domain"][samples.pieces["domain"] != PAD] = place.domain
        return samples


def check_shape(name: str, options: dict[str, object]) -> None:
    """Refuse to write domains apart for readers that cannot mix them.

    Raises:
        RecipeError: The format's trainers have no mixture of their own.
    """
    if name in BLENDS and options.get("variant") != "nanochat":
        return
    known = ", ".join(BLENDS)
    what = "parquet (variant nanochat)" if name in BLENDS else name
    raise RecipeError(
        f"output.shape: per-domain leaves mixing to the trainer, and readers of {what} have no "
        f"mixture of their own; set output.shape: mixed, or another format ({known})"
    )


def shard_stem(name: str, number: int) -> str:
    """Where a domain's shard goes under its split.

    Example:
        >>> shard_stem("wiki", 3)
        'wiki/shard-00003'
    """
    return f"{name}/shard-{number:05d}"


def sources_of(
    names: Sequence[str], planned_tokens: Sequence[int], files: Sequence[tuple[int, SourceFile]]
) -> list[Source]:
    """Domains with their files.

    Args:
        names: Of all domains.
        planned_tokens: By domain, repeats included.
        files: (domain, file) of all shards, in order.
    """
    return [
        Source(name, planned, tuple(file for owner, file in files if owner == number))
        for number, (name, planned) in enumerate(zip(names, planned_tokens, strict=True))
    ]


def forecasts(name: str, sources: Sequence[Source], settings: Settings) -> list[Forecast]:
    """What each trainer of a format will do with the domains, the certificate's first."""
    return [
        forecast(blend, sources, settings.window_tokens)
        for blend in BLENDS[name]
        if settings.row_tokens is not None or not blend.one_length
    ]


def data_suffix(chosen: TokenFormat | TextFormat) -> str:
    """Of the files that configuration files name; empty where trainers are given stems."""
    return SUFFIXES.get(chosen.name, chosen.hub_suffix or "")
