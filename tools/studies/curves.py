"""The loss curve of a single run, and where it goes: a power law of tokens plus a constant.

BiMix at a fixed mixture. Curves of different runs tell nothing to each other here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from curate.errors import FitError
from curate.laws.law import Array

LEAST_POINTS = 4
BETA_STARTS = (0.2, 0.6, 1.2)

FORECASTS = 4
"""Most last known losses that each candidate start of a curve must forecast."""

STARTS = 10
"""Candidates for the start of a curve are so many to the whole of its points, in the first half."""

LEAST_GAIN = 1e-6
"""Nats in the logarithm of a loss, by which a later start must be better."""


@dataclass(frozen=True, slots=True)
class Curve:
    """loss = amplitude * (tokens / tokens_unit)^-beta + level; all non-negative."""

    amplitude: float
    beta: float
    level: float
    tokens_unit: float

    def predict(self, tokens: Array) -> Array:
        """Losses at these tokens."""
        fall: Array = (tokens / self.tokens_unit) ** -self.beta
        return self.amplitude * fall + self.level


def fit_curve(tokens: Array, losses: Array) -> Curve:
    """Fit by Trust Region Reflective to the log losses.

    Args:
        tokens: shape (points,), positive, at least four different values.
        losses: shape (points,), positive.

    Returns:
        The curve.

    Raises:
        FitError: There are fewer than four different token counts.

    Example:
        >>> tokens = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
        >>> curve = fit_curve(tokens, 2 + tokens**-0.5)
        >>> round(curve.beta, 6), round(curve.level, 6)
        (0.5, 2.0)

    References:
        Ge et al. 2024, "BiMix", arXiv:2405.14908v4, Eq. 4 and Table 1.
    """
    points = len(np.unique(tokens))
    if points < LEAST_POINTS:
        raise FitError(
            f"curve: {points} different token counts; three numbers and a check need at least "
            f"{LEAST_POINTS}: evaluate the run more often"
        )
    unit = float(np.exp(np.log(tokens).mean()))
    progress, observed = np.log(tokens / unit), np.log(losses)

    def residuals(theta: Array) -> Array:
        curve = theta[0] * np.exp(-theta[1] * progress) + theta[2]
        values: Array = np.log(np.maximum(curve, 1e-300)) - observed
        return values

    def jacobian(theta: Array) -> Array:
        fall = np.exp(-theta[1] * progress)
        curve = np.maximum(theta[0] * fall + theta[2], 1e-300)
        columns = np.stack([fall, -theta[0] * progress * fall, np.ones_like(fall)], axis=1)
        values: Array = columns / curve[:, None]
        return values

    scale = float(losses.min())
    best = None
    for beta in BETA_STARTS:
        fit = least_squares(
            residuals, np.array([0.2 * scale, beta, 0.8 * scale]), jac=jacobian, x_scale="jac",
            bounds=(0.0, np.inf), method="trf", xtol=1e-12, ftol=1e-12, gtol=1e-12, max_nfev=500,
        )  # fmt: skip
        if best is None or fit.cost < best.cost:
            best = fit
    assert best is not None
    amplitude, exponent, level = (float(value) for value in best.x)
    return Curve(amplitude, exponent, level, unit)


def settled_from(tokens: Array, losses: Array) -> int:
    """From which point on a run's losses follow a power law.

    While a model learns the frequencies of single tokens, its loss falls in steps that no power law
    describes, and a curve that must pass through them misses what comes later. Of several starts in
    the first half of the points, this is the one whose curves, fitted on what was known before,
    come closest on average to each of the last points: `FORECASTS` of them, or fewer where a start
    in the middle would otherwise leave too few points to fit. What is to be predicted has no part
    in it.

    Args:
        tokens: shape (points,), ascending.
        losses: shape (points,), positive.

    Returns:
        Number of the first point to fit; 0 where there are too few points to choose.

    Example:
        >>> tokens = np.arange(1.0, 21.0)
        >>> losses = 2 + tokens**-0.5
        >>> losses[:6] = losses[6]  # a plateau first
        >>> settled_from(tokens, losses)
        6
    """
    points = len(tokens)
    forecasts = min(FORECASTS, points - points // 2 - LEAST_POINTS)
    best, first = np.inf, 0
    if forecasts < 1:
        return first
    for start in range(0, points // 2 + 1, max(1, points // STARTS)):
        stops = range(points - forecasts, points)
        missed = [
            abs(np.log(fit_curve(tokens[start:stop], losses[start:stop]).predict(tokens[stop])
                / losses[stop]))
            for stop in stops
        ]  # fmt: skip
        if np.mean(missed) < best - LEAST_GAIN:  # else the longer curve
            best, first = float(np.mean(missed)), start
    return first


def fit_settled_curve(tokens: Array, losses: Array) -> Curve:
    """`fit_curve` from where the losses follow a power law, see `settled_from`.

    Raises:
        FitError: There are fewer than four different token counts.
    """
    order = np.argsort(tokens, kind="stable")
    first = settled_from(tokens[order], losses[order])
    return fit_curve(tokens[order][first:], losses[order][first:])
