"""Count the fewest new runs beside those on earlier domains, and what reuse is expected to save.

The loss of a mixture is taken for a linear function of its shares and their square roots with unit
normal coefficients, as the D-optimal design takes it. What a set of runs leaves unknown of it is
the posterior variance over mixtures of today, as a part of the variance before any run. Runs on
earlier domains count with ten times the noise: laws hold less well across a change of domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curate.laws.law import Array

NOISE = 0.03
"""Variance of a run's noise, as a part of the variance of losses between mixtures."""
EARLIER_NOISE = 10.0
"""Factor of it for runs on earlier domains. On Olmix's tables (docs/evidence.md) 24 and 48 new runs
beside 127 earlier ones are as good as 40 and 88 alone; this expects 55 and 75."""
LEVEL = 3.0
"""Prior standard deviation of the level that all mixtures share."""


@dataclass(frozen=True, slots=True)
class ReusePlan:
    """Expected worth of runs on earlier domains for new ones."""

    earlier: int
    """Runs on earlier domains."""
    anew: int
    """Runs that the domains of today need without them."""
    proposed: int
    """New runs that are proposed."""
    unknown_anew: float
    """Part of the variance between mixtures that the runs anew would leave unknown."""
    unknown: float
    """The same of the proposed runs beside those that exist."""
    unknown_alone: float
    """The same of the proposed runs alone."""
    keeping: int | None = None
    """Runs that are needed where the domains of earlier runs keep their proportions and count as
    one; None where they do, or none was added."""


def features(mixtures: Array) -> Array:
    """Return shares, their square roots and a constant, shape (mixtures, 2 domains + 1)."""
    level = np.full((len(mixtures), 1), LEVEL)
    return np.hstack([mixtures, np.sqrt(mixtures), level])


@dataclass(frozen=True, slots=True)
class Unknown:
    """Measures what runs leave unknown of mixtures of today."""

    today: Array
    """shape (mixtures, domains), draws of mixtures of today."""

    def of(self, groups: Sequence[tuple[Array, float]]) -> float:
        """Return the mean posterior variance as a part of that before any run.

        Args:
            groups: Mixtures of runs, shape (runs, domains), each with a factor of the noise.
        """
        rows = features(self.today)
        spread = float(((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean())
        information = np.eye(rows.shape[1])
        for mixtures, factor in groups:
            seen = features(mixtures)
            information += seen.T @ seen / (NOISE * spread * factor)
        solved = np.linalg.solve(information, rows.T)
        return float((rows.T * solved).sum(axis=0).mean() / spread)

    def pick(self, existing: Sequence[tuple[Array, float]], pool: Array, count: int) -> list[int]:
        """Select mixtures one by one, each leaving least unknown beside all before it.

        Args:
            existing: Runs that exist, as for `of`.
            pool: shape (mixtures, domains), to select from.
            count: Number of mixtures.

        Returns:
            Places in the pool, in the order of selection.
        """
        rows, candidates = features(self.today), features(pool)
        noise = NOISE * float(((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean())
        information = np.eye(rows.shape[1])
        for mixtures, factor in existing:
            seen = features(mixtures)
            information += seen.T @ seen / (noise * factor)
        covariance = np.linalg.inv(information)
        picked: list[int] = []
        for _ in range(count):
            along = candidates @ covariance
            variance = noise + (along * candidates).sum(axis=1)
            # A run at x lowers the variance at y by cov(x, y)^2 / (var(x) + noise).
            gains = ((along @ rows.T) ** 2).mean(axis=1) / variance
            gains[picked] = -np.inf  # a repeated mixture would only measure noise
            best = int(np.argmax(gains))
            picked.append(best)
            covariance -= np.outer(along[best], along[best]) / variance[best]
        return picked

    def fewest(self, existing: Sequence[tuple[Array, float]], proposed: Array, most: float) -> int:
        """Count how many of the proposed runs, in their order, leave at most so much unknown.

        Args:
            existing: Runs that exist, as for `of`.
            proposed: shape (runs, domains).
            most: As `of` returns it.

        Returns:
            At least 1; all of them where that is not enough.
        """
        low, high = 1, len(proposed)
        while low < high:
            middle = (low + high) // 2
            if self.of([*existing, (proposed[:middle], 1.0)]) <= most:
                high = middle
            else:
                low = middle + 1
        return low
