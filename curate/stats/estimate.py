"""A number with its 95 % interval, and what intervals of entropies say about mixtures.

Arithmetic on estimates that are already there; nothing here counts or compiles, so that
commands which only use estimates start fast. How they are made is the business of
`curate.stats.intervals`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUPS = 20
"""Groups of documents that are left out in turn, unless said otherwise."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval; nats per token where it is an entropy."""

    nats: float
    low: float | None
    """None where a single document leaves nothing to resample."""
    high: float | None
    standard_error: float
    """From resampling documents."""
    bias_error: float
    """Standard error that stands for doubt about the bias correction."""
    estimator: str
    sample_tokens: int

    @property
    def error(self) -> float | None:
        """Standard error, resampling and bias correction together; None where none is known."""
        return None if self.low is None else math.hypot(self.standard_error, self.bias_error)

    def to_json(self) -> dict[str, Any]:
        """The fields of one measure in `entropy_report.json`."""
        return asdict(self)


def estimate(
    nats: float, replicates: Sequence[float], bias_error: float, estimator: str, sample_tokens: int
) -> Estimate:
    """An estimate with the interval that its delete-a-group replicates give.

    Args:
        nats: The estimate on the whole sample.
        replicates: The estimate with each group left out.
        bias_error: Standard error to add in quadrature.
        estimator: Its name.
        sample_tokens: Tokens of the sample.

    References:
        Kott 2001, "The delete-a-group jackknife", J. Official Statistics 17(4).
    """
    groups = len(replicates)
    if groups < 2:
        return Estimate(nats, None, None, 0.0, bias_error, estimator, sample_tokens)
    values = np.array(replicates)
    error = math.sqrt((groups - 1) / groups * float(((values - values.mean()) ** 2).sum()))
    half = student_t(groups - 1) * math.hypot(error, bias_error)
    return Estimate(
        nats, max(0.0, nats - half), nats + half, error, bias_error, estimator, sample_tokens
    )


def student_t(degrees: int) -> float:
    """97.5 % point of Student's t, rounded to 3 decimals as printed tables have it.

    Example:
        >>> student_t(19), student_t(40)
        (2.093, 2.021)
    """
    from scipy.special import stdtrit  # 0.1 s or more to import: only where something is measured

    return round(float(stdtrit(degrees, 0.975)), 3)


def weight_draws(
    centre: Mapping[str, float],
    error: Mapping[str, float],
    temperature: float,
    draws: int,
) -> NDArray[np.float64]:
    """Weights exp(H / T) / sum of exp(H / T) of entropies drawn around their estimates.

    Domains are sampled apart from each other, so their errors are drawn independently, as normal
    numbers.

    Args:
        centre: Nats by domain.
        error: Standard error of each, nats.
        temperature: T, positive.
        draws: Number of draws; each draws all domains together.

    Returns:
        Shape (draws, domains), columns in the order of `centre`; rows sum to 1.
    """
    names = sorted(centre)  # so that the order of the domains changes nothing
    noise = np.random.default_rng(0).standard_normal((draws, len(names)))
    spread = noise * np.array([error[name] for name in names])
    exponent = (np.array([centre[name] for name in names]) + spread) / temperature
    power = np.exp(exponent - exponent.max(1, keepdims=True))
    column = [names.index(name) for name in centre]
    return np.asarray((power / power.sum(1, keepdims=True))[:, column])


def order_warnings(
    names: Sequence[str], centre: NDArray[np.float64], error: NDArray[np.float64]
) -> tuple[str, ...]:
    """Warn of neighbours in descending order whose difference is below 1.96 standard errors.

    Args:
        names: shape (domains,).
        centre: shape (domains,), nats.
        error: shape (domains,), standard error of each, nats.

    Example:
        >>> order_warnings(["a", "b"], np.array([5.0, 5.01]), np.array([0.01, 0.01]))
        ('b and a: entropies differ by less than their error (5.010 and 5.000 nats, difference \
0.010 ± 0.028)',)
    """
    order = np.argsort(-centre, kind="stable")
    warnings = []
    for upper, lower in zip(order[:-1], order[1:], strict=True):
        half = 1.959964 * math.hypot(float(error[upper]), float(error[lower]))
        gap = float(centre[upper] - centre[lower])
        if gap < half:
            warnings.append(
                f"{names[upper]} and {names[lower]}: entropies differ by less than their error "
                f"({centre[upper]:.3f} and {centre[lower]:.3f} nats, difference "
                f"{gap:.3f} ± {half:.3f})"
            )
    return tuple(warnings)
