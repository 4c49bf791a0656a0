"""Compare the texts of a recipe's domains by their tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from curate.laws.law import Array
from curate.tokens.domain import DomainTokens

SAMPLE_TOKENS = 2**18
"""Most tokens of each domain that are compared."""
LEAST_TOKENS = 2**10
"""Fewest tokens of a domain that is compared."""


def divergences(names: Sequence[str], domains: Sequence[DomainTokens]) -> Array:
    """Estimate the Jensen-Shannon divergence of tokens between every two domains.

    Args:
        names: Names of domains, of a run table.
        domains: The tokenised domains.

    Returns:
        Shape (names, names), nats; infinite beside a name that no domain with enough tokens has.
    """
    from curate.stats.divergence import js_matrix

    by_name = {d.name: d for d in domains if d.total_tokens >= LEAST_TOKENS}
    at = [place for place, name in enumerate(names) if name in by_name]
    measured = [by_name[names[place]] for place in at]
    matrix = np.full((len(names), len(names)), np.inf)
    np.fill_diagonal(matrix, 0.0)
    if measured:
        count = min(SAMPLE_TOKENS, *(domain.total_tokens for domain in measured))
        matrix[np.ix_(at, at)] = js_matrix([_counts(domain, count) for domain in measured])
    return matrix


def _counts(domain: DomainTokens, count: int) -> NDArray[np.int64]:
    """Count the first tokens of a domain; documents are in the order of their hashes."""
    taken: list[NDArray[np.int64]] = []
    left = count
    for number in range(len(domain)):
        tokens = np.asarray(domain.document(number), np.int64)[:left]
        taken.append(tokens)
        left -= len(tokens)
        if not left:
            break
    return np.bincount(np.concatenate(taken))
