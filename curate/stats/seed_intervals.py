"""Intervals over seeds, of a mean or of the difference of two mixtures trained with each seed.

A seed sets the initial weights and the order of the data. Two mixtures share both if they share a
seed, so differences are taken seed by seed, which removes the effect common to both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Array = NDArray[np.float64]
Verdict = Literal["confirmed", "tied", "refuted"]

TAIL = 0.975
"""Quantile of a two-sided 95 % interval."""


@dataclass(frozen=True, slots=True)
class SeedMean:
    """A mean over seeds with its 95 % interval."""

    mean: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Return the fields of artifacts."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def seed_mean(values: Array) -> SeedMean:
    """Compute the mean and Student's interval: mean ± t(seeds - 1) s / sqrt(seeds).

    Args:
        values: shape (seeds,), at least 2.

    Raises:
        ValueError: Fewer than two seeds.

    Example:
        >>> loss = seed_mean(np.array([1.0, 2.0, 3.0]))  # t of 2 degrees is 4.3027
        >>> loss.mean, round(loss.high - loss.mean, 4)
        (2.0, 2.4841)
    """
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"expected values of at least 2 seeds, got shape {values.shape}")
    mean = float(values.mean())
    error = float(values.std(ddof=1)) / np.sqrt(len(values))
    half = float(stdtrit(len(values) - 1, TAIL) * error)
    return SeedMean(mean, mean - half, mean + half)


def verdict_of(difference: SeedMean) -> Verdict:
    """Judge a recommendation by a difference, recommended minus rival; lower is better.

    Example:
        >>> verdict_of(SeedMean(-0.2, -0.3, -0.1)), verdict_of(SeedMean(-0.2, -0.5, 0.1))
        ('confirmed', 'tied')
    """
    if difference.high < 0:
        return "confirmed"
    return "refuted" if difference.low > 0 else "tied"


def joint_verdict(verdicts: list[Verdict]) -> Verdict:
    """Join verdicts: refuted by any rival, confirmed only against all, tied otherwise.

    Example:
        >>> joint_verdict(["confirmed", "tied"]), joint_verdict(["confirmed", "refuted"])
        ('tied', 'refuted')
    """
    if "refuted" in verdicts:
        return "refuted"
    return "confirmed" if verdicts and set(verdicts) == {"confirmed"} else "tied"
