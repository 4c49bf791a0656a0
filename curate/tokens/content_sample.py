"""A small sample of a domain's documents, by which its content is known again under other names.

The sample are the documents of least content hash: chance alone decides who is in it, and it is the
same whatever the files and their order. Where the sampled documents lie later says what became of
the domain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curate.tokens.domain import DomainTokens

SAMPLED = 256
"""Documents of a sample: a share of 30 % is then known to 3 %."""


@dataclass(frozen=True, slots=True)
class DomainContent:
    """Content of a domain when it was trained on."""

    fingerprint: str
    """Hash of all its documents."""
    tokens: int
    """Tokens of all its documents."""
    sample: Mapping[str, int]
    """Content hash → tokens, of the documents of least hash; each text once."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields that a record of runs keeps."""
        return {
            "fingerprint": self.fingerprint, "tokens": self.tokens, "sample": dict(self.sample)
        }  # fmt: skip


def content_of(domain: DomainTokens) -> DomainContent:
    """Sample a domain."""
    sample: dict[str, int] = {}
    for number in range(len(domain)):
        if len(sample) == SAMPLED:
            break
        sample.setdefault(domain.content_hash(number), int(domain.tokens[number]))
    return DomainContent(domain.fingerprint, domain.total_tokens, sample)


def shares_now(content: DomainContent, domains: Sequence[DomainTokens]) -> dict[str, float]:
    """Find which domains hold the sampled documents today.

    A document that several domains hold counts for each of them in equal parts.

    Args:
        content: What a domain held.
        domains: The domains of today.

    Returns:
        Shares of the sampled tokens by name, for domains with some; they sum to 1 less what is in
        none of the domains.
    """
    if not content.sample:
        return {}
    high = np.array([int(name[:16], 16) for name in content.sample], np.uint64)
    low = np.array([int(name[16:], 16) for name in content.sample], np.uint64)
    inside = np.stack([_holds(domain, high, low) for domain in domains])
    tokens = np.array(list(content.sample.values()), float)
    parts = inside / np.maximum(inside.sum(axis=0), 1)
    shares = (parts @ tokens / max(tokens.sum(), 1.0)).tolist()
    return {d.name: share for d, share in zip(domains, shares, strict=True) if share > 0}


def _holds(domain: DomainTokens, high: np.ndarray[Any, Any], low: np.ndarray[Any, Any]) -> Any:
    """Tell which documents a domain holds; its documents are in the order of `content_high`."""
    first = domain.content_high.searchsorted(high)
    last = domain.content_high.searchsorted(high, "right")
    return np.array(
        [
            any(int(domain.content_low[at]) == int(own) for at in range(start, stop))
            for start, stop, own in zip(first.tolist(), last.tolist(), low, strict=True)
        ]
    )
