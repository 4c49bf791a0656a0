"""A number with its 95 % interval, and the weights that uncertain entropies give.

Arithmetic on estimates that `curate.stats.intervals` made; nothing here counts or compiles, so
commands that only use estimates start fast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUPS = 20
"""Number of groups of documents; each is left out in turn."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval; nats per token where it is an entropy.

    The interval covers the sampling of documents, and what is doubtful about the correction for
    bias. It reaches further up than down, by `remaining_bias`.
    """

    nats: float
    low: float | None
    """None if there is a single document, which cannot be resampled."""
    high: float | None
    standard_error: float
    """From resampling documents."""
    bias_error: float
    """Standard error of the bias correction, on sources like those that it was fitted to."""
    estimator: str
    sample_tokens: int
    remaining_bias: float = 0.0
    """How much the truth is expected to lie above `nats`."""

    @property
    def error(self) -> float | None:
        """Root mean square error expected of `nats`; None without an interval."""
        if self.low is None:
            return None
        return math.hypot(self.standard_error, self.bias_error, self.remaining_bias)

    def raised(self, remaining_bias: float) -> Estimate:
        """Extend the interval upwards by the bias that is expected to remain.

        Example:
            >>> raised = Estimate(5.0, 4.9, 5.1, 0.05, 0.0, "mean", 10).raised(0.15)
            >>> raised.nats, raised.low, raised.high
            (5.0, 4.9, 5.25)
        """
        high = None if self.high is None else self.high + remaining_bias
        return replace(self, high=high, remaining_bias=remaining_bias)

    def to_json(self) -> dict[str, Any]:
        """Return the fields of one measure in `entropy_report.json`."""
        return asdict(self)


def estimate(
    nats: float, replicates: Sequence[float], bias_error: float, estimator: str, sample_tokens: int
) -> Estimate:
    """Make an estimate with the interval that its delete-a-group replicates give.

    Args:
        nats: The estimate on the whole sample.
        replicates: The estimate with each group left out, nats; without two there is no interval.
        bias_error: Standard error to add in quadrature, nats.
        estimator: Name of the estimator.
        sample_tokens: Tokens of the sample.

    References:
        Kott 2001, "The delete-a-group jackknife", J. Official Statistics 17(4).
    """
    groups = len(replicates)
    if groups < 2:
        low = high = None
        error = 0.0
    else:
        values = np.array(replicates)
        error = math.sqrt((groups - 1) / groups * float(((values - values.mean()) ** 2).sum()))
        half = student_t(groups - 1) * math.hypot(error, bias_error)
        low, high = max(0.0, nats - half), nats + half
    return Estimate(
        nats=nats, low=low, high=high, standard_error=error, bias_error=bias_error,
        estimator=estimator, sample_tokens=sample_tokens,
    )  # fmt: skip


def student_t(degrees: int) -> float:
    """Return the 97.5 % point of Student's t, rounded to 3 decimals like printed tables.

    Args:
        degrees: Degrees of freedom, at least 1.

    Example:
        >>> student_t(19), student_t(40)
        (2.093, 2.021)
    """
    from scipy.special import stdtrit  # takes 0.3 s to import, so only where needed

    return round(float(stdtrit(degrees, 0.975)), 3)


def weight_draws(
    centre: Mapping[str, float],
    error: Mapping[str, float],
    temperature: float,
    draws: int,
) -> NDArray[np.float64]:
    """Draw entropies around their estimates; return their weights exp(H / T) / sum of exp(H / T).

    Domains are sampled independently of each other, so their errors are independent normal draws.

    Args:
        centre: Entropy of each domain, nats.
        error: Standard error of each entropy, nats.
        temperature: T, positive.
        draws: Number of draws; each draws all domains together.

    Returns:
        Shape (draws, domains), columns in the order of `centre`; rows sum to 1.
    """
    names = sorted(centre)  # so that the order of the domains does not matter
    noise = np.random.default_rng(0).standard_normal((draws, len(names)))
    spread = noise * np.array([error[name] for name in names])
    exponent = (np.array([centre[name] for name in names]) + spread) / temperature
    power = np.exp(exponent - exponent.max(1, keepdims=True))
    column = [names.index(name) for name in centre]
    return np.asarray((power / power.sum(1, keepdims=True))[:, column])


LN_2 = math.log(2)
"""Nats in a bit: tables of entropies are in bits, so the notes beside them are too."""


def order_warnings(
    names: Sequence[str], centre: NDArray[np.float64], error: NDArray[np.float64]
) -> tuple[str, ...]:
    """Rank domains by entropy, and warn of neighbours less than 1.96 standard errors apart.

    Args:
        names: shape (domains,).
        centre: shape (domains,), entropies in nats.
        error: shape (domains,), standard error of each, nats.

    Example:
        >>> order_warnings(["a", "b"], np.array([5.0, 5.01]), np.array([0.01, 0.01]))
        ('b and a: entropies differ by less than their error (7.228 and 7.213 bits per token, \
difference 0.014 ± 0.040)',)
    """
    order = np.argsort(-centre, kind="stable")
    warnings = []
    for upper, lower in zip(order[:-1], order[1:], strict=True):
        half = 1.959964 * math.hypot(float(error[upper]), float(error[lower]))
        gap = float(centre[upper] - centre[lower])
        if gap < half:
            warnings.append(
                f"{names[upper]} and {names[lower]}: entropies differ by less than their error "
                f"({centre[upper] / LN_2:.3f} and {centre[lower] / LN_2:.3f} bits per token, "
                f"difference {gap / LN_2:.3f} ± {half / LN_2:.3f})"
            )
    return tuple(warnings)
