"""Floors and caps on the simplex of shares, and projections onto them.

Pure functions of NumPy arrays, for optimisers that call them thousands of times. The mixture that
a method returns is projected once more by `simplex.project_capped`, which is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

HALVINGS = 200
"""Most bisection steps; an interval of doubles cannot be halved more often."""


@dataclass(frozen=True, slots=True)
class Box:
    """Shares with low <= w <= high and sum 1; shape (domains,) each."""

    low: Array
    high: Array

    def __post_init__(self) -> None:
        """Raise `ValueError` if no shares lie within the floors and caps."""
        if self.low.shape != self.high.shape or self.low.ndim != 1 or not len(self.low):
            raise ValueError(f"expected one shape, got {self.low.shape} and {self.high.shape}")
        if not (np.all(self.low >= 0) and np.all(self.low <= self.high + 1e-15)):
            raise ValueError(f"expected 0 <= low <= high, got {self.low} and {self.high}")
        if self.low.sum() > 1 + 1e-12 or self.high.sum() < 1 - 1e-12:
            raise ValueError(
                f"no shares: floors sum to {self.low.sum():g}, caps to {self.high.sum():g}"
            )


def whole(domains: int) -> Box:
    """Return the box without floors or caps for a number of domains.

    Example:
        >>> whole(2).high.tolist()
        [1.0, 1.0]
    """
    return Box(np.zeros(domains), np.ones(domains))


def nearest(point: Array, box: Box) -> Array:
    """Find the shares of the box that are nearest to a point in Euclidean distance.

    w = clip(point - t, low, high), with t from bisection on sum w = 1.

    Example:
        >>> nearest(np.array([0.9, 0.5]), whole(2)).round(3).tolist()
        [0.7, 0.3]
    """
    return np.asarray(nearest_rows(point[None], box)[0])


def nearest_rows(points: Array, box: Box) -> Array:
    """Apply `nearest` to each row of an array of shape (rows, domains)."""
    low = (points - box.high).min(axis=1, keepdims=True) - 1e-12
    high = (points - box.low).max(axis=1, keepdims=True) + 1e-12
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if ((middle == low) | (middle == high)).all():
            break
        above = np.add.reduce(_clip(points - middle, box), axis=1, keepdims=True) >= 1
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return _summing(_clip(points - low, box), box)


def _clip(shares: Array, box: Box) -> Array:
    """`np.clip`, whose wrappers in Python take twice as long as its work on a dozen shares."""
    clipped: Array = np.minimum(np.maximum(shares, box.low), box.high)
    return clipped


def nearest_in_proportion(weights: Array, box: Box) -> Array:
    """Find the shares of the box nearest in KL divergence: clip(c * weights, low, high).

    This also maximises sum_i weights_i ln w_i over the box. A domain of weight zero gets its floor,
    and more only where all others are at their caps. ln c comes from bisection.

    Apart from `simplex.project_capped` because of floors and weights of zero; without them it gives
    the same to 1e-16, but two thirds of the last digits differ, and optima carry those.

    Example:
        >>> box = Box(np.zeros(3), np.array([0.2, 1, 1]))
        >>> nearest_in_proportion(np.array([0.5, 0.3, 0.2]), box).round(3).tolist()
        [0.2, 0.48, 0.32]
    """
    with np.errstate(divide="ignore"):
        logs = np.log(weights)
    positive = np.isfinite(logs)
    if not positive.any() or np.where(positive, box.high, box.low).sum() < 1:
        short = np.where(positive, box.high, box.low)
        return nearest(short + (1 - short.sum()) / max(1, int((~positive).sum())) * ~positive, box)
    low, high = -logs[positive].max() - 800, -logs[positive].min() + 800
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if np.add.reduce(_clip(np.exp(np.minimum(logs + middle, 700)), box)) >= 1:
            high = middle
        else:
            low = middle
    return _summing(_clip(np.exp(np.minimum(logs + high, 700)), box), box)


def best_corner(slopes: Array, box: Box) -> Array:
    """Find the shares of the box that minimise slopes . w.

    Every domain gets its floor; those of least slope are then filled to their caps in turn.

    Example:
        >>> best_corner(np.array([3.0, 1.0, 2.0]), Box(np.zeros(3), np.full(3, 0.6))).tolist()
        [0.0, 0.6, 0.4]
    """
    shares = box.low.copy()
    left = 1 - shares.sum()
    for domain in np.argsort(slopes, kind="stable"):
        added = min(left, float(box.high[domain] - box.low[domain]))
        shares[domain] += max(added, 0.0)
        left -= added
        if left <= 0:
            break
    return shares


def _summing(shares: Array, box: Box) -> Array:
    """Remove the last rounding error from the sums of rows, where floors and caps leave room."""
    for _ in range(3):
        error = shares.sum(axis=-1, keepdims=True) - 1
        room = np.where(error > 0, shares - box.low, box.high - shares)
        total = np.maximum(room.sum(axis=-1, keepdims=True), 1e-300)
        shares = np.clip(shares - error * room / total, box.low, box.high)
    return shares
