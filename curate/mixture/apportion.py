"""Split a total into whole tokens by shares, exactly.

A float is a binary fraction, so quotas weight / sum(weights) * total are compared as integers:
nothing is lost at 10^18 tokens or at a weight of 1e-300. Mixtures check here whether a budget fits,
and plans take their tokens from here, so the two cannot disagree.
"""

from __future__ import annotations

from collections.abc import Sequence

from curate.mixture.simplex import check_weights

ROUNDING_DIVISOR = 10**12
"""Shares sum to 1 within 1e-12, so an excess of up to total / 10^12 tokens is rounding."""


def apportion(
    weights: Sequence[float], total: int, limits: Sequence[int] | None = None
) -> list[int]:
    """Split `total` by largest remainder, with no part above its limit.

    Every part first gets the floor of its quota; the units left go one each to the largest
    remainders (ties: the larger weight, then the earlier position). Without limits this is
    Hamilton's method. Units that a limit keeps from a part go to the next in that order and, once
    every part has its ceiling, to all that still have room, again by largest remainder.

    Args:
        weights: shape (parts,), non-negative, not all zero; need not sum to 1.
        total: Units to split, at least 0.
        limits: shape (parts,), most units of each part; None: no limits.

    Returns:
        Shape (parts,), integers that sum to `total`; zero where the weight is zero.

    Raises:
        ValueError: Lengths differ, weights are not weights, `total` is negative, or the limits of
            the parts with positive weight sum to less than `total`.

    Example:
        >>> apportion([1 / 3, 1 / 3, 1 / 3], 10)
        [4, 3, 3]
        >>> apportion([5, 3, 2], 10, [4, 10, 10])
        [4, 4, 2]
    """
    if total < 0:
        raise ValueError(f"expected a total of at least 0, got {total}")
    numerators = _numerators(weights)
    bounds = [total] * len(weights) if limits is None else list(limits)
    if len(bounds) != len(weights):
        raise ValueError(f"expected {len(weights)} limits, got {len(bounds)}")
    counts = [0] * len(weights)
    left = total
    while left:
        open_parts = [i for i, a in enumerate(numerators) if a and counts[i] < bounds[i]]
        if not open_parts:
            raise ValueError(f"limits hold {total - left} where weight is positive, not {total}")
        scale = sum(numerators[i] for i in open_parts)
        quotas = {i: divmod(numerators[i] * left, scale) for i in open_parts}
        for i in open_parts:
            given = min(quotas[i][0], bounds[i] - counts[i])
            counts[i] += given
            left -= given
        ranked = sorted(open_parts, key=lambda i: (-quotas[i][1], -numerators[i], i))
        for i in ranked:
            if left and quotas[i][1] and counts[i] < bounds[i]:
                counts[i] += 1
                left -= 1
    return counts


def fits(weights: Sequence[float], total: int, limits: Sequence[int]) -> bool:
    """Tell whether the limits let every part have its quota, rounded down or up.

    Args:
        weights: shape (parts,), as in `apportion`.
        total: Units to split.
        limits: shape (parts,), most units of each part.

    Example:
        >>> fits([0.25, 0.75], 10, [2, 8]), fits([0.25, 0.75], 10, [1, 9])
        (True, False)
    """
    try:
        counts = apportion(weights, total, limits)
    except ValueError:
        check_weights(weights)
        return False
    slack = total // ROUNDING_DIVISOR
    return all(
        low - slack <= count <= high + slack
        for count, (low, high) in zip(counts, quota_bounds(weights, total), strict=True)
    )


def quota_bounds(weights: Sequence[float], total: int) -> list[tuple[int, int]]:
    """Return floor and ceiling of each exact quota, weight / sum(weights) * total.

    Example:
        >>> quota_bounds([0.25, 0.75], 10)
        [(2, 3), (7, 8)]
    """
    numerators = _numerators(weights)
    scale = sum(numerators)
    return [(a * total // scale, -(-a * total // scale)) for a in numerators]


def largest_total(weights: Sequence[float], limits: Sequence[int]) -> int:
    """Find the largest total at which no quota exceeds its limit, up to rounding of floats.

    This is the least of limit / share over the parts. A float such as 0.1 lies a little above or
    below its decimal, so a total above the least by no more than that is returned if it fits.

    Args:
        weights: shape (parts,), as in `apportion`.
        limits: shape (parts,), most units of each part.

    Example:
        >>> largest_total([0.1, 0.2, 0.7], [1, 2, 7])
        10
    """
    numerators = _numerators(weights)
    scale = sum(numerators)
    parts = [(limit * scale, a) for a, limit in zip(numerators, limits, strict=True) if a]
    rounded_up = min(room * (ROUNDING_DIVISOR + 1) // (a * ROUNDING_DIVISOR) for room, a in parts)
    if fits(weights, rounded_up, limits):
        return rounded_up
    return min(room // a for room, a in parts)


def _numerators(weights: Sequence[float]) -> list[int]:
    """Return integers in exactly the proportions of the floats."""
    check_weights(weights)
    ratios = [float(weight).as_integer_ratio() for weight in weights]
    common = max(denominator for _, denominator in ratios)
    return [numerator * (common // denominator) for numerator, denominator in ratios]
