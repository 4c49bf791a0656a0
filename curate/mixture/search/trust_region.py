"""Distance of a mixture from those that were trained, and the region where a law is trusted.

Distance is Hellinger's, between square roots of the shares: a change from 0 to 1 % counts as much
as one from 30 to 42 %, which matches how losses react. A mixture is inside the support if its
nearest run is no further than runs usually are from each other. The error of a law on held-out runs
is then a guide to its error there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DECIMALS = 12
"""Mixtures that agree to so many decimals are the same."""
USUAL_QUANTILE = 0.95
"""Share of the runs whose nearest other run is within the radius."""
RANGE_SLACK = 1.1
"""A share is outside its range above 1.1 times the largest trained or below the least / 1.1."""
NAMED = 4
"""Most domains that a warning names."""


@dataclass(frozen=True, slots=True)
class Support:
    """The mixtures that were trained."""

    mixtures: Array
    """shape (mixtures, domains), distinct."""
    radius: float
    """Hellinger distance; 95 % of the mixtures have another one within it."""


@dataclass(frozen=True, slots=True)
class SupportCheck:
    """Position of a mixture relative to the support."""

    distance: float
    """To the nearest trained mixture, between 0 and 1."""
    radius: float
    inside: bool
    outside_range: dict[str, tuple[float, float, float]]
    """The share, and the least and largest that were trained, by domain."""

    def to_json(self) -> dict[str, Any]:
        """Return the field `support` of `mixture.json`."""
        return {
            "distance": self.distance,
            "radius": self.radius,
            "inside": self.inside,
            "outside_range": {
                name: {"share": share, "trained_low": low, "trained_high": high}
                for name, (share, low, high) in self.outside_range.items()
            },
        }


def hellinger(first: Array, second: Array) -> Array:
    """Compute Hellinger distances of all pairs: sqrt(1 - sum_i sqrt(p_i q_i)).

    Args:
        first: shape (m, domains), shares.
        second: shape (n, domains), shares.

    Returns:
        Shape (m, n), between 0 (the same) and 1 (no domain in common).

    Example:
        >>> hellinger(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])).tolist()
        [[0.0, 1.0]]
    """
    overlap = np.sqrt(np.maximum(first, 0)) @ np.sqrt(np.maximum(second, 0)).T
    return np.asarray(np.sqrt(np.maximum(0.0, 1 - overlap)))


def is_within(point: Array, mixtures: Array, radius: float) -> bool:
    """Whether shares are within a radius of some mixture, up to the tolerance of solvers.

    Args:
        point: shape (domains,).
        mixtures: shape (mixtures, domains).
        radius: Hellinger distance.

    Example:
        >>> is_within(np.array([0.5, 0.5]), np.array([[0.5, 0.5], [1.0, 0.0]]), 0.0)
        True
    """
    return bool(hellinger(point[None], mixtures).min() <= radius + 1e-7)


def support_of(weights: Array) -> Support:
    """Measure the support of a set of runs; repeated mixtures (seeds, checkpoints) count once.

    Args:
        weights: shape (rows, domains), shares.

    Raises:
        ValueError: There is no row.
    """
    if not len(weights):
        raise ValueError("expected at least one mixture")
    mixtures = np.unique(np.round(weights, DECIMALS), axis=0)
    if len(mixtures) == 1:
        return Support(mixtures, 0.0)
    distances = hellinger(mixtures, mixtures)
    np.fill_diagonal(distances, np.inf)
    return Support(mixtures, float(np.quantile(distances.min(axis=1), USUAL_QUANTILE)))


def without(support: Support, weights: Array) -> Support:
    """Measure the support again without some mixtures, shape (rows, domains).

    Example:
        >>> trained = support_of(np.array([[0.5, 0.5], [0.6, 0.4], [0.7, 0.3]]))
        >>> without(trained, np.array([[0.7, 0.3]])).mixtures.tolist()
        [[0.5, 0.5], [0.6, 0.4]]
    """
    left_out = {row.tobytes() for row in np.round(weights, DECIMALS)}
    rest = [row for row in support.mixtures if row.tobytes() not in left_out]
    return support_of(np.array(rest)) if rest else support


def check_support(shares: Array, support: Support, domains: Sequence[str]) -> SupportCheck:
    """Compare shares with the mixtures that were trained.

    Args:
        shares: shape (domains,).
        support: The mixtures that were trained.
        domains: Names, in the order of the shares.

    Example:
        >>> trained = support_of(np.array([[0.5, 0.5], [0.6, 0.4], [0.7, 0.3]]))
        >>> check_support(np.array([0.65, 0.35]), trained, ["web", "code"]).inside
        True
        >>> check_support(np.array([0.05, 0.95]), trained, ["web", "code"]).inside
        False
    """
    distance = float(hellinger(shares[None], support.mixtures).min())
    low, high = support.mixtures.min(axis=0), support.mixtures.max(axis=0)
    outside = {
        name: (float(shares[i]), float(low[i]), float(high[i]))
        for i, name in enumerate(domains)
        if shares[i] > high[i] * RANGE_SLACK + 1e-9 or shares[i] < low[i] / RANGE_SLACK - 1e-9
    }
    # Optima often lie exactly on the edge of a trust region, so rounding needs room.
    inside = distance <= support.radius + 1e-6
    return SupportCheck(distance, support.radius, inside, outside)


def support_warning(check: SupportCheck, remedy: str) -> str | None:
    """Word the warning for a mixture outside the support, with what to do.

    Inside the support, warn of shares below all trained ones: the mixture as a whole is near to a
    run, but the law extrapolates those losses.

    Returns:
        None where neither holds.
    """
    if check.inside:
        below = {n: seen for n, seen in check.outside_range.items() if seen[0] < seen[1]}
        if not below:
            return None
        return (
            f"below the least trained share: {_ranges(below)}. The law extrapolates what less of "
            f"{'it' if len(below) == 1 else 'them'} costs; runs with less would tell"
        )
    ranges = _ranges(check.outside_range)
    return (
        f"outside the data: the nearest run is {check.distance:.3f} away, runs are within "
        f"{check.radius:.3f} of each other{'; ' if ranges else ''}{ranges}. The predicted loss is "
        f"a guess there: train the mixtures of `curate design`, or {remedy}"
    )


def _ranges(outside: Mapping[str, tuple[float, float, float]]) -> str:
    """List the shares furthest outside their ranges."""
    worst = sorted(outside.items(), key=lambda item: -abs(item[1][0] - np.clip(*item[1])))
    listed = ", ".join(
        f"'{name}' {share:.3g} (trained {low:.3g} to {high:.3g})"
        for name, (share, low, high) in worst[:NAMED]
    )
    return listed + (f" and {len(worst) - NAMED} more" if len(worst) > NAMED else "")
