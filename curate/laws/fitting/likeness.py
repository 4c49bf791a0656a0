"""Decide whether domains of similar text have similar effects on the losses of some runs.

Log losses are taken for linear in square roots of shares, with normal effects of covariance

    (1 - r) I + r K

between domains, K their likeness. The correlation r has the largest marginal likelihood, and counts
only if it explains more than with the likeness of shuffled domains: a matrix that has nothing to do
with the effects fits by chance, too.

References:
    Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", Eq. 2.30.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from curate.laws.fitting.features import mixture_numbers
from curate.laws.law import Array, RunTable
from curate.laws.selection import reference_rows

CORRELATIONS = (0.3, 0.6, 0.9)
"""Correlations of the effects of equal texts that are tried."""
SHUFFLES = 19
"""Different shuffled likenesses that the real one must beat, all: a chance of 1 in 20."""
MOST_ORDERS = 500
"""Orders of the domains that are tried to find so many."""
LEAST_MIXTURES = 10
"""Fewest mixtures that tell; with 12 of Olmix's, likeness by topic beat all shuffles."""
MOST_ROWS = 240
"""Rows that are looked at; time grows with their cube."""
VARIANCES = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Variances of an effect that are tried, in those of a target's log losses."""
NOISES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Variances of the noise that are tried, likewise."""
LEVEL = 100.0
"""Variance of the level: vague."""
LEAST_SPREAD = 1e-9
"""Standard deviation of the log losses of a target that no mixture moves, which tells nothing."""


def transfer_factor(table: RunTable) -> Array | None:
    """Return a Cholesky factor of the covariance of the domains' effects, where likeness tells.

    Args:
        table: Runs, with the likeness of their domains or without.

    Returns:
        Shape (domains, domains); None without likeness, or where it explains no more than chance.
    """
    correlation = effect_correlation(table)
    if table.alike is None or not correlation:
        return None
    return np.asarray(np.linalg.cholesky(_covariance(table.alike, correlation)))


def effect_correlation(table: RunTable) -> float:
    """Find how far the effects of domains of equal text agree, beyond chance.

    Args:
        table: Runs, with the likeness of their domains or without.

    Returns:
        One of `CORRELATIONS`; 0 without likeness, or where it explains no more than chance.
    """
    if table.alike is None or why_untold(table) is not None:
        return 0.0
    rows = _telling_rows(table)
    features, logs = np.sqrt(table.weights[rows]), np.log(table.losses[rows])
    spreads = logs.std(axis=0)
    moved = spreads > LEAST_SPREAD
    if not moved.any():
        return 0.0
    values = (logs - logs.mean(axis=0))[:, moved] / spreads[moved]
    evidence = partial(_evidence, features, values)
    identity = np.eye(len(table.domains))
    plain, variance, noise = max(
        (evidence(identity, variance, noise), variance, noise)
        for variance in VARIANCES
        for noise in NOISES
    )

    def gain(alike: Array) -> tuple[float, float]:
        """Return the best log evidence above that without likeness, and its correlation."""
        return max(
            (evidence(_covariance(alike, r), factor * variance, noise) - plain, r)
            for r in CORRELATIONS
            for factor in (1.0, 2.0)  # effects that agree explain as much at a larger variance
        )

    best, correlation = gain(table.alike)
    rivals = (gain(rival)[0] for rival in _shuffled(table.alike))
    return correlation if best > 0 and all(best > rival for rival in rivals) else 0.0


def why_untold(table: RunTable) -> str | None:
    """Say why no runs like these can tell whether likeness matters; None where they can.

    Args:
        table: Runs, with the likeness of their domains.
    """
    mixtures = len(np.unique(mixture_numbers(table.weights[_telling_rows(table)])))
    if mixtures < LEAST_MIXTURES:
        return f"{mixtures} mixtures are too few to tell, which takes {LEAST_MIXTURES}"
    if table.alike is not None and len(_shuffled(table.alike)) < SHUFFLES:
        return (
            f"with {len(table.domains)} domains so few other groupings are like this one that "
            "chance cannot be excluded"
        )
    return None


def _shuffled(alike: Array) -> list[Array]:
    """Return likenesses of shuffled domains, each different from the real one and the others.

    A shuffle that only exchanges domains within groups is the real likeness, which cannot beat
    itself. Few domains have few others.
    """
    rng = np.random.default_rng(0)
    seen, shuffled = {_content(alike)}, []
    for _ in range(MOST_ORDERS):
        order = rng.permutation(len(alike))
        rival = alike[np.ix_(order, order)]
        if _content(rival) not in seen:
            seen.add(_content(rival))
            shuffled.append(rival)
        if len(shuffled) == SHUFFLES:
            break
    return shuffled


def _content(alike: Array) -> bytes:
    return (np.round(alike, 9) + 0.0).tobytes()  # adding 0 makes -0 the same as 0


def _telling_rows(table: RunTable) -> NDArray[np.int64]:
    """Select rows of one size and length of training, of runs of today where there are enough."""
    rows = reference_rows(table)
    if table.earlier is not None:
        later = rows[~table.earlier[rows]]
        if len(np.unique(mixture_numbers(table.weights[later]))) >= LEAST_MIXTURES:
            rows = later
    if len(rows) > MOST_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST_ROWS, replace=False))
    return rows


def _covariance(alike: Array, correlation: float) -> Array:
    return np.asarray(correlation * alike + (1 - correlation) * np.eye(len(alike)))


def _evidence(
    features: Array, values: Array, covariance: Array, variance: float, noise: float
) -> float:
    """Return the log marginal likelihood of all targets, but for a constant.

    Args:
        features: shape (rows, domains).
        values: shape (rows, targets).
        covariance: shape (domains, domains), of effects of variance 1.
        variance: Variance of the effects.
        noise: Variance of the noise.
    """
    rows, targets = values.shape
    total = variance * (features @ covariance @ features.T) + LEVEL + noise * np.eye(rows)
    factor = np.linalg.cholesky(total)
    solved = np.linalg.solve(factor, values)
    return float(-0.5 * (solved**2).sum() - targets * np.log(np.diag(factor)).sum())
