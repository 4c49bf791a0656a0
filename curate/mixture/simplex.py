"""Maths on the simplex of shares: the nearest point under caps, and softmax.

Pure functions of plain numbers. Sums are exact or correctly rounded, so the order of the domains
changes no result. `curate.mixture.apportion` turns shares into whole tokens, and
`curate.mixture.caps` derives the caps from a request.

The nearest point in KL divergence has three implementations of one derivation, which is given at
`project_capped`. They agree to rounding, and written mixtures keep the last digits of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

SUM_TOLERANCE = 1e-12
"""Distance from 1 that rounding alone may leave in a sum of shares."""


def project_capped(weights: Sequence[float], caps: Sequence[float]) -> list[float]:
    """Find the shares within the caps that are nearest to `weights` in KL divergence.

    Minimises sum_i v_i ln(v_i / w_i) over {v >= 0, sum v = 1, v <= cap}. The minimum is
    v_i = min(cap_i, c w_i): every domain keeps its proportion to the others unless its cap stops
    it. Domain i is at its cap just when c >= cap_i / w_i, so after sorting by that ratio c is found
    in one pass, in rational arithmetic and without a tolerance. A domain of weight zero stays at
    zero.

    Args:
        weights: shape (domains,), non-negative, not all zero; need not sum to 1.
        caps: shape (domains,), largest share of each domain, non-negative; infinity is no cap.

    Returns:
        Shape (domains,), shares that sum to 1 to rounding.

    Raises:
        ValueError: Lengths differ, a number is negative or not finite, or the caps of the domains
            with positive weight sum to less than 1.

    Example:
        >>> project_capped([0.5, 0.3, 0.2], [0.2, 1.0, 1.0])
        [0.2, 0.48, 0.32]

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
    support = [i for i, weight in enumerate(weights) if weight > 0]
    room = math.fsum(limits[i] for i in support)
    if room < 1 - SUM_TOLERANCE:
        elsewhere = math.fsum(limits) - room
        hint = f"; {elsewhere:g} more lies in domains of weight 0" if elsewhere > 0 else ""
        raise ValueError(f"caps sum to {room:g}, less than 1, where weight is positive{hint}")
    exact = {i: Fraction(weights[i]) for i in support}
    cap = {i: Fraction(limits[i]) for i in support}
    left = Fraction(1)
    free = sum(exact.values())
    shares = [0.0] * len(weights)
    order = sorted(support, key=lambda i: cap[i] / exact[i])
    for position, i in enumerate(order):
        if cap[i] * free >= left * exact[i]:
            for j in order[position:]:
                shares[j] = float(left * exact[j] / free)
            break
        shares[i] = limits[i]
        left -= cap[i]
        free -= exact[i]
    return shares


def project_capped_rows(weights: NDArray[np.float64], caps: Sequence[float]) -> NDArray[np.float64]:
    """Project many rows at once, in floats; see `project_capped` for the derivation.

    Apart from `project_capped` because exact fractions take 0.5 s for the 1,000 draws of an
    interval (17 domains), and this 2 ms.

    Args:
        weights: shape (rows, domains), positive.
        caps: shape (domains,), largest share of each domain, summing to at least 1.

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
    return np.asarray(np.minimum(limit, weights * factor))


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
