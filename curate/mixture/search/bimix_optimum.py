"""BiMix's optimum, for losses that are each a power of the domain's own share.

At a fixed number of steps s, Eq. 3 of BiMix is L_i = K_i r_i^(-a_i), with K_i = A_i (B_i / s^b_i +
C_i). Their sum is convex and separable, so its minimum under floors and caps has a closed form up
to one number. So it has with the power that continues each loss near 0 (`FittedBimix`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curate.mixture.search.simplex_box import HALVINGS, Box

Array = NDArray[np.float64]


def power_optimum(
    scales: Array, exponents: Array, box: Box, near_zero: tuple[Array, float] | None = None
) -> Array:
    """Find the shares that minimise sum_i K_i r_i^(-a_i) within floors and caps.

    Setting the derivatives equal gives r_i = (a_i K_i / t)^(1 / (1 + a_i)), held to its floor and
    cap; t > 0 follows from sum r = 1 by bisection on ln t. Multiplying all K_i by one number
    changes t alone, and so does any way of splitting K_i into A_i, B_i and C_i. Where losses go on
    with another exponent p below f_i, r_i = f_i (a_i K_i f_i^(-1 - a_i) / t)^(1 / (1 - p)) there.

    The loss of a domain with a_i K_i = 0 does not depend on its share. It gets its floor, and more
    only where all others are at their caps.

    Args:
        scales: shape (domains,), K_i, non-negative; multiplied by the weight of that loss, if any.
        exponents: shape (domains,), a_i, non-negative.
        box: Floors and caps.
        near_zero: f_i, shape (domains,), positive, and p, above 0 and below 1; None: the first
            power holds down to 0.

    Returns:
        Shape (domains,), shares that sum to 1.

    Raises:
        ValueError: A coefficient is negative or not finite, or the shapes differ.

    Example:
        >>> from curate.mixture.search.simplex_box import whole
        >>> power_optimum(np.array([2.0, 1.0]), np.array([0.5, 0.5]), whole(2)).round(4).tolist()
        [0.6135, 0.3865]

    References:
        Ge et al. 2024, "BiMix", arXiv:2405.14908v4, Eq. 3 and 15-16.
        Differs from the paper: it hands the problem to a general solver, without caps.
    """
    _check_powers(scales, exponents, box)
    useful = (scales > 0) & (exponents > 0)
    most = np.where(useful, box.high, box.low)
    if not useful.any() or most.sum() <= 1:
        # The useful ones are at their caps; the rest fill up in proportion to their room.
        room = np.where(useful, 0.0, box.high - box.low)
        return np.asarray(most + (1 - most.sum()) * room / max(room.sum(), 1e-300))
    logs = np.log(np.where(useful, scales * exponents, 1.0))

    def shares(log_t: float) -> Array:
        log_free = (logs - log_t) / (1 + exponents)
        if near_zero is not None:
            least, power = np.log(near_zero[0]), near_zero[1]
            steeper = least + (1 + exponents) / (1 - power) * (log_free - least)
            log_free = np.where(log_free < least, steeper, log_free)
        free = np.exp(np.clip(log_free, -745, 700))
        return np.where(useful, np.clip(free, box.low, box.high), box.low)

    low, high = logs[useful].min() - 1500 * (1 + exponents.max()), logs[useful].max() + 1500
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if shares(middle).sum() >= 1 else (low, middle)
    return shares(low)


def _check_powers(scales: Array, exponents: Array, box: Box) -> None:
    """Raise `ValueError` unless each domain has a scale and an exponent of at least 0."""
    if not scales.shape == exponents.shape == box.low.shape:
        raise ValueError(f"expected shapes {box.low.shape}, got {scales.shape}, {exponents.shape}")
    for name, values in (("scales", scales), ("exponents", exponents)):
        if not np.all(np.isfinite(values) & (values >= 0)):
            raise ValueError(f"expected finite {name} of at least 0, got {values}")
