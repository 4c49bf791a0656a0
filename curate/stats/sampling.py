"""Choose the size of the sample on which all domains are measured.

An estimate moves with its sample, most of all on bursty text, so domains are comparable only at
equal size. The smallest domain then limits the others, so one far smaller than the rest is measured
on all it has instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from curate.stats.bigram_sample import excerpt_count
from curate.tokens.domain import DomainTokens

ENCODER = "hashed-ngrams"
"""Name of the embedding, `embedding.hashed_ngrams`, in artifacts and cache keys."""

MOST_TOKENS, FEWEST_TOKENS = 1_000_000, 20_000
MOST_EXCERPTS, FEWEST_EXCERPTS = 2_000, 200
"""Limits of the common sample. The smallest domain sets its size, unless that domain is below the
lower limit: it is then measured on all it has, and does not limit the others."""

LEAST_SHARE = 0.25
"""The same holds for a domain below this share of the median domain. If a domain is cut to a
hundredth, its weight then moves less than if all others were measured on as little
(tools/bench/truncation.py)."""

TEXT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """Sizes of the samples that are drawn of every domain, and their seed."""

    sample_tokens: int
    sample_excerpts: int
    """Number of excerpts to embed; see `bigram_sample.EXCERPT_TOKENS`."""
    text_bytes: int
    encoder: str
    seed: int


def sample_plan(domains: Sequence[DomainTokens], seed: int) -> tuple[SamplePlan, tuple[str, ...]]:
    """Choose the largest sample that all domains have, and warn of those that fall short.

    Args:
        domains: Domains to compare.
        seed: Seed of the recipe.
    """
    tokens = [domain.total_tokens - len(domain) for domain in domains]
    pieces = [excerpt_count(domain) for domain in domains]
    common = _common(tokens, FEWEST_TOKENS, MOST_TOKENS)
    common_pieces = _common(pieces, FEWEST_EXCERPTS, MOST_EXCERPTS)
    warnings = tuple(
        f"'{domain.name}' has {supply:,} {unit}, fewer than the {least:,} that domains are "
        "compared on: its entropies rest on less than the others'"
        for unit, least, supplies in (
            ("tokens", common, tokens), ("excerpts", common_pieces, pieces),
        )
        for domain, supply in zip(domains, supplies, strict=True)
        if supply < least
    )  # fmt: skip
    return SamplePlan(common, common_pieces, TEXT_BYTES, ENCODER, seed), warnings


def _common(supplies: Sequence[int], fewest: int, most: int) -> int:
    """Return the smallest supply that reaches the lower limits, but no more than the upper one.

    Example:
        >>> _common([500, 60, 900], fewest=100, most=800), _common([60], fewest=100, most=800)
        (500, 100)
        >>> _common([500, 110, 900], fewest=100, most=800)
        500
    """
    middle = sorted(min(most, supply) for supply in supplies)[(len(supplies) - 1) // 2]
    least = max(fewest, LEAST_SHARE * middle)
    enough = [supply for supply in supplies if supply >= least]
    return min([most, *enough]) if enough else fewest
