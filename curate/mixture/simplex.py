"""Maths on the simplex of shares: the nearest point under floors and caps, and softmax.

Pure functions of plain numbers. Sums are exact or correctly rounded, so the order of the domains
changes no result. `curate.mixture.apportion` turns shares into whole tokens, and
`curate.mixture.caps` derives the caps from a request.

The nearest point in KL divergence has three implementations of one derivation, which is given at
`project_capped`. They agree to rounding, and written mixtures keep the last digits of each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

SUM_TOLERANCE = 1e-12
"""Distance from 1 that rounding alone may leave in a sum of shares."""

SCALINGS = 10_000
"""Most rounds of `nearest_ends`, which take a tenth of a second."""

END_TOLERANCE = 1e-9
"""Part of a cap by which `nearest_ends` may pass it."""


def project_capped(
    weights: Sequence[float], caps: Sequence[float], floors: Sequence[float] | None = None
) -> list[float]:
    """Find the shares within floors and caps that are nearest to `weights` in KL divergence.

    Minimises sum_i v_i ln(v_i / w_i) over {sum v = 1, floor <= v <= cap}. The minimum is
    v_i = clip(c w_i, floor_i, cap_i): every domain keeps its proportion to the others unless its
    floor or cap stops it. Without floors, domain i is at its cap just when c >= cap_i / w_i, so
    after sorting by that ratio c is found in one pass, in rational arithmetic and without a
    tolerance. Domains that end below their floor are raised to it, and the rest is shared again:
    that can only lower c, so a domain at its floor stays there. A domain of weight zero stays at
    its floor.

    Args:
        weights: shape (domains,), non-negative, not all zero; need not sum to 1.
        caps: shape (domains,), largest share of each domain, non-negative; infinity is no cap.
        floors: shape (domains,), least share of each domain, at most its cap; None: no floors.

    Returns:
        Shape (domains,), shares that sum to 1 to rounding.

    Raises:
        ValueError: Lengths differ, a number is negative or not finite, a floor is above its cap,
            floors sum to more than 1, or the caps of the domains with positive weight, and the
            floors of the others, sum to less than 1.

    Example:
        >>> project_capped([0.5, 0.3, 0.2], [0.2, 1.0, 1.0])
        [0.2, 0.48, 0.32]
        >>> project_capped([0.5, 0.3, 0.2], [1.0, 1.0, 1.0], [0.0, 0.0, 0.36])
        [0.4, 0.24, 0.36]

    References:
        Csiszar 1975, "I-divergence geometry of probability distributions and minimization
        problems", for the I-projection; the closed form is its KKT system solved by sorting.
    """
    if len(weights) != len(caps):
        raise ValueError(f"expected as many caps as weights, got {len(caps)} and {len(weights)}")
    check_weights(weights)
    if any(not cap >= 0 for cap in caps):
        raise ValueError(f"expected caps of at least 0, got {list(caps)}")
    limits = [min(float(cap), 1.0) for cap in caps]
    least = [0.0] * len(weights) if floors is None else [float(floor) for floor in floors]
    _check_floors(least, limits)
    support = [i for i, weight in enumerate(weights) if weight > 0]
    fixed = [floor for weight, floor in zip(weights, least, strict=True) if weight == 0]
    room = math.fsum([*fixed, *(limits[i] for i in support)])
    if room < 1 - SUM_TOLERANCE:
        elsewhere = math.fsum(limits) - room
        hint = f"; {elsewhere:g} more lies in domains of weight 0" if elsewhere > 0 else ""
        raise ValueError(f"caps sum to {room:g}, less than 1, where weight is positive{hint}")
    left = Fraction(1) - sum(map(Fraction, fixed))
    while True:
        parts = _shared_out({i: weights[i] for i in support}, limits, max(left, Fraction(0)))
        raised = {i for i in support if parts[i] < least[i]}
        if not raised:
            return [parts.get(i, floor) for i, floor in enumerate(least)]
        left -= sum(Fraction(least[i]) for i in raised)
        support = [i for i in support if i not in raised]


def nearest_ends(
    ends: NDArray[np.float64], caps: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Find the ends of a schedule, nearest in KL divergence, whose mean obeys caps.

    With multipliers u_i <= 1, the ends are a u_i s_i and b u_i e_i, and u_i < 1 only where the mean
    is at its cap. Scaling domains down to their caps, and then both ends up to 1, in turn, never
    takes a scaled domain below its cap, so it converges to just that.

    Args:
        ends: shape (domains, 2), shares at the start and at the end.
        caps: shape (domains,), largest mean share of each domain.

    Returns:
        Ends of the same shape, within 1e-9 of the caps; None where there are none, or hardly any.

    Example:
        >>> nearest_ends(np.array([[0.8, 0.0], [0.2, 1.0]]), np.array([0.3, 1.0])).round(6).tolist()
        [[0.6, 0.0], [0.4, 1.0]]
    """
    scaled = ends.copy()
    for _ in range(SCALINGS):
        means = scaled.mean(axis=1)
        over = means > caps * (1 + END_TOLERANCE)
        if not over.any():
            return scaled
        scaled[over] *= (caps[over] / means[over])[:, None]
        sums = scaled.sum(axis=0)
        if not (sums > 0).all():
            return None
        scaled /= sums
    return None


def _check_floors(floors: Sequence[float], limits: Sequence[float]) -> None:
    """Raise `ValueError` unless shares can obey these floors and caps."""
    if len(floors) != len(limits):
        raise ValueError(f"expected as many floors as weights, got {len(floors)}, {len(limits)}")
    if not all(0 <= floor <= limit for floor, limit in zip(floors, limits, strict=True)):
        raise ValueError(f"expected floors from 0 to the caps {list(limits)}, got {list(floors)}")
    if math.fsum(floors) > 1 + SUM_TOLERANCE:
        raise ValueError(f"floors sum to {math.fsum(floors):g}, more than 1")


def _shared_out(
    weights: Mapping[int, float], limits: Sequence[float], left: Fraction
) -> dict[int, float]:
    """Share `left` out in proportion to positive weights, with no part above its limit."""
    exact = {i: Fraction(weight) for i, weight in weights.items()}
    cap = {i: Fraction(limits[i]) for i in weights}
    free = sum(exact.values())
    shares = {}
    order = sorted(weights, key=lambda i: cap[i] / exact[i])
    for position, i in enumerate(order):
        if cap[i] * free >= left * exact[i]:
            for j in order[position:]:
                shares[j] = float(left * exact[j] / free)
            break
        shares[i] = limits[i]
        left -= cap[i]
        free -= exact[i]
    return shares


def project_capped_rows(
    weights: NDArray[np.float64], caps: Sequence[float], floors: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """Project many rows at once, in floats; see `project_capped` for the derivation.

    Apart from `project_capped` because exact fractions take 0.5 s for the 1,000 draws of an
    interval (17 domains), and this 2 ms.

    Args:
        weights: shape (rows, domains), positive.
        caps: shape (domains,), largest share of each domain, summing to at least 1.
        floors: shape (domains,), least share of each domain, summing to at most 1; None: no floors.

    Returns:
        Shape (rows, domains), shares.

    Example:
        >>> project_capped_rows(np.array([[0.5, 0.3, 0.2]]), [0.2, 1.0, 1.0]).round(9).tolist()
        [[0.2, 0.48, 0.32]]
    """
    limit = np.minimum(np.asarray(caps, np.float64), 1.0)
    ratio = limit / weights
    order = np.argsort(ratio, axis=1)
    sorted_weights = np.take_along_axis(weights, order, 1)
    sorted_limits = limit[order]
    left = 1.0 - (np.cumsum(sorted_limits, 1) - sorted_limits)
    free = np.cumsum(sorted_weights[:, ::-1], 1)[:, ::-1]
    scale = left / free
    # The first domain that stays below its cap; so do all after it, and one factor serves them.
    fits = np.take_along_axis(ratio, order, 1) >= scale
    first = np.where(fits.any(1), fits.argmax(1), weights.shape[1] - 1)
    factor = np.take_along_axis(scale, first[:, None], 1)
    held = np.minimum(limit, weights * factor)
    least = np.zeros(len(limit)) if floors is None else np.asarray(floors, np.float64)
    short = (held < least).any(axis=1)
    if short.any():
        held[short] = _between(weights[short], least, limit)
    return np.asarray(held)


def _between(
    weights: NDArray[np.float64], least: NDArray[np.float64], limit: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Find clip(c w, floor, cap) for positive rows, with ln c from bisection on the sum."""
    logs = np.log(weights)
    low = np.full((len(weights), 1), -800.0) - logs.max(axis=1, keepdims=True)
    high = np.full((len(weights), 1), 800.0) - logs.min(axis=1, keepdims=True)
    for _ in range(100):  # 1,600 / 2^100 is far below the spacing of doubles
        middle = (low + high) / 2
        sums = np.clip(np.exp(np.minimum(logs + middle, 700)), least, limit).sum(1, keepdims=True)
        low, high = np.where(sums < 1, middle, low), np.where(sums < 1, high, middle)
    return np.asarray(np.clip(np.exp(np.minimum(logs + high, 700)), least, limit))


def softmax(values: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Compute shares proportional to exp(value / temperature).

    Args:
        values: shape (domains,), finite; in nats where they are entropies.
        temperature: Positive; 1 takes the values as they are, larger is flatter.

    Returns:
        Shape (domains,), shares that sum to 1 to rounding.

    Raises:
        ValueError: No value, a value that is not finite, or a temperature that is not positive and
            finite.

    Example:
        >>> [round(share, 4) for share in softmax([math.log(1), math.log(3)])]
        [0.25, 0.75]
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"expected at least one value, all finite, got {list(values)}")
    if not (0 < temperature < math.inf):
        raise ValueError(f"expected a positive finite temperature, got {temperature}")
    top = max(values)
    powers = [math.exp((value - top) / temperature) for value in values]
    total = math.fsum(powers)
    return [power / total for power in powers]


def normalised(weights: Sequence[float]) -> list[float]:
    """Divide the weights by their sum.

    Raises:
        ValueError: A weight is negative or not finite, or all are zero.

    Example:
        >>> normalised([1.0, 3.0])
        [0.25, 0.75]
    """
    check_weights(weights)
    top = max(weights)
    # Scaling first keeps the sum of very large weights finite.
    scaled = [weight / top for weight in weights]
    total = math.fsum(scaled)
    return [weight / total for weight in scaled]


def check_weights(weights: Sequence[float]) -> None:
    """Check that these are weights.

    Raises:
        ValueError: There is none, a weight is negative or not finite, or all are zero.
    """
    if any(not (0 <= weight < math.inf) for weight in weights):
        raise ValueError(f"expected finite weights of at least 0, got {list(weights)}")
    if not any(weight > 0 for weight in weights):
        raise ValueError(f"expected a positive weight, got {list(weights)}")
