"""Search for a mixture in which some domains keep their proportions to each other.

These domains become one coordinate, and each other domain is one. Runs of any proportions still
inform the law; only the search is smaller. Hellinger distances between mixtures that keep the
proportions are the same in coordinates as in domains.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from curate.mixture.search.objective import Problem
from curate.mixture.search.simplex_box import Box
from curate.mixture.search.trust_region import Support

Array = NDArray[np.float64]


def spread_of(proportions: Array) -> Array:
    """Return the mixtures that the coordinates stand for, that of the kept domains first.

    Args:
        proportions: shape (domains,), shares of the kept domains, which sum to 1; NaN for others.

    Returns:
        Shape (coordinates, domains).

    Example:
        >>> spread_of(np.array([0.75, np.nan, 0.25])).tolist()
        [[0.75, 0.0, 0.25], [0.0, 1.0, 0.0]]
    """
    free = np.isnan(proportions)
    return np.vstack([np.where(free, 0.0, proportions), np.eye(len(free))[free]])


def box_of(box: Box, proportions: Array) -> Box:
    """Return the floors and caps of the coordinates; those of a kept domain hold for all.

    Raises:
        ValueError: They leave no mixture with these proportions.
    """
    free = np.isnan(proportions)
    kept = np.flatnonzero(~free)
    part = np.maximum(proportions[kept], 1e-300)
    low = float(np.max(box.low[kept] / part, initial=0.0))
    high = float(min(1.0, np.min(box.high[kept] / part, initial=1.0)))
    return Box(np.append(low, box.low[free]), np.append(high, box.high[free]))


def coordinates(mixtures: Array, proportions: Array) -> Array:
    """Map mixtures to coordinates, such that Hellinger distances stay the same.

    Args:
        mixtures: shape (rows, domains), shares.
        proportions: As for `spread_of`.

    Returns:
        Shape (rows, coordinates). A row of other proportions sums to less than 1: its distance to
        the coordinates of any mixture that keeps them is then that of the mixtures.
    """
    free = np.isnan(proportions)
    overlap = np.sqrt(np.maximum(mixtures[:, ~free], 0)) @ np.sqrt(proportions[~free])
    return np.column_stack([overlap**2, mixtures[:, free]])


def narrowed(problem: Problem, proportions: Array) -> Problem:
    """Write a problem in coordinates; `proportions` are as for `spread_of`."""
    support = problem.support
    return replace(
        problem,
        box=box_of(problem.box, proportions),
        support=None
        if support is None
        else Support(coordinates(support.mixtures, proportions), support.radius),
        proportions=None,
        spread=spread_of(proportions),
    )


def prior_in_coordinates(problem: Problem) -> Array:
    """Return the prior of a problem with a spread, shape (coordinates,); else its own prior."""
    assert problem.prior is not None, "a case has a prior"
    if problem.spread is None:
        return problem.prior
    return np.asarray((problem.spread > 0) @ problem.prior)
