"""Lay out shards of domains written apart, and predict how trainers will mix them.

With `output.shape: per-domain` each domain has a folder of shards, `train/<domain>/shard-00000` …,
that hold its planned tokens. Where the plan takes more than one pass, one pass is written, and the
trainer's mixture repeats it. Left out: the mixtures themselves, see `formats.trainers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.errors import RecipeError
from curate.formats import FORMATS, configure
from curate.formats.base import OutputFormat, Settings
from curate.formats.trainers.draws import WrittenDomain, WrittenShard
from curate.formats.trainers.mixtures import MixturePrediction, predict
from curate.plan import PAD, DocumentSampler, Samples, SequenceSampler
from curate.plan.packing import PackedSampler
from curate.tokens.domain import stem_of

MIXED, PER_DOMAIN = "mixed", "per-domain"
"""Values of `output.shape`."""


@dataclass(frozen=True, slots=True)
class DomainShard:
    """One shard of one domain."""

    domain: int
    number: int
    """Number among the domain's shards."""
    shards: int
    """Shards of the domain."""


class DomainSampler:
    """Samples of shards that each hold a single domain."""

    def __init__(
        self,
        samplers: Sequence[DocumentSampler | SequenceSampler | PackedSampler | None],
        shards: Sequence[int],
    ) -> None:
        """Number the shards through all domains.

        Args:
            samplers: shape (domains,), each of that domain's stream alone; None where the domain
                gives no tokens.
            shards: shape (domains,), number of shards of each.
        """
        self._samplers = tuple(samplers)
        self.shards = [
            DomainShard(domain, number, count)
            for domain, count in enumerate(shards)
            if samplers[domain] is not None
            for number in range(count)
        ]
        """All shards, in the order of their numbers."""

    def documents(self) -> list[int]:
        """Count the appearances of documents, by domain."""
        return [0 if sampler is None else sampler.documents()[0] for sampler in self._samplers]

    def parts(self, number: int, shards: int) -> Iterator[Samples]:
        """Yield the samples of one of the shards in parts."""
        assert shards == len(self.shards)
        place = self.shards[number]
        sampler = self._samplers[place.domain]
        assert sampler is not None
        for samples in sampler.parts(place.number, place.shards):
            samples.pieces["domain"][samples.pieces["domain"] != PAD] = place.domain
            yield samples


def check_shape(name: str, options: Mapping[str, Any]) -> None:
    """Refuse to write domains apart for readers that cannot mix them.

    Args:
        name: The recipe's output format.
        options: The recipe's options of that format.

    Raises:
        RecipeError: The format's trainers have no mixture of their own.
    """
    if configure(name, Settings(options=options)).mixtures:
        return
    variant = f" (variant {options['variant']})" if FORMATS[name].mixtures else ""
    able = ", ".join(row.name for row in FORMATS.values() if row.mixtures)
    raise RecipeError(
        f"output.shape: per-domain leaves mixing to the trainer, and readers of {name}{variant} "
        f"have no mixture of their own; set output.shape: mixed, or another format ({able})"
    )


def shard_stem(name: str, number: int) -> str:
    """Name a domain's shard under its split.

    Example:
        >>> shard_stem("wiki", 3)
        'wiki/shard-00003'
    """
    return f"{stem_of(name)}/shard-{number:05d}"


def written_domains(
    names: Sequence[str], planned_tokens: Sequence[int], shards: Sequence[tuple[int, WrittenShard]]
) -> list[WrittenDomain]:
    """Group shards by domain.

    Args:
        names: shape (domains,).
        planned_tokens: shape (domains,), repeats included.
        shards: (domain, shard) of all shards, in order.
    """
    of_domain: list[list[WrittenShard]] = [[] for _ in names]
    for owner, shard in shards:
        of_domain[owner].append(shard)
    rows = zip(names, planned_tokens, of_domain, strict=True)
    return [WrittenDomain(name, planned, tuple(written)) for name, planned, written in rows]


def predict_mixtures(
    output_format: OutputFormat, domains: Sequence[WrittenDomain], settings: Settings
) -> list[MixturePrediction]:
    """Predict what each trainer of a format will draw; the certificate reports the first.

    Args:
        output_format: The format, configured.
        domains: Every domain.
        settings: Settings that the format was configured with.
    """
    return [
        predict(mixture, domains, settings.window_tokens)
        for mixture in output_format.mixtures_for(settings)
    ]
