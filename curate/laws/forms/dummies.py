"""Dummies, which any law must beat: the mean loss, and a power of the target's share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.laws.fitting.features import number_distinct
from curate.laws.formula import (
    Formula,
    add,
    constant,
    exp,
    log,
    multiply,
    nearest,
    pick,
    shares,
    tokens,
)
from curate.laws.law import Array, Law, RunTable

SHARE_OFFSET = 1e-3
"""Added to a share before its logarithm, so that an absent domain has one."""
PARAMS_COUNT = 10.0
"""How many times as far a factor in parameters counts as one in tokens."""


@dataclass(frozen=True, slots=True)
class FittedDummy:
    """Mean log losses by token count and model size, and a slope in the target's share."""

    points: Array
    """shape (points, 2), ln tokens and ln parameters of every observed combination; 0 for NaN."""
    means: Array
    """shape (points, targets), mean log loss of each combination."""
    domain_of: tuple[int | None, ...]
    """Column of the weights for each target; None if it is not a domain or shares are not used."""
    slopes: Array
    """shape (targets,), slope of the log loss by ln(share + offset)."""
    centres: Array
    """shape (targets,), mean of ln(share + offset) over the runs."""

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Predict the geometric mean at the nearest token count and size, tilted by own share.

        Args:
            weights: shape (rows, domains), shares of training tokens; each row sums to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets), in the unit of the fitted table.
        """
        logs = self.means[_nearest(self.points, _places(tokens, params))].copy()
        for target, domain in enumerate(self.domain_of):
            if domain is not None:
                share = np.log(weights[:, domain] + SHARE_OFFSET)
                logs[:, target] += self.slopes[target] * (share - self.centres[target])
        return np.asarray(np.exp(logs))

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Differentiate by each target's own share; the other slopes are zero.

        Args:
            weights: shape (rows, domains); free numbers, which need not sum to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets, domains), the unit of the fitted table per unit of share.
        """
        losses = self.predict(weights, tokens, params)
        slopes = np.zeros((*losses.shape, weights.shape[1]))
        for target, domain in enumerate(self.domain_of):
            if domain is not None:
                by_share = self.slopes[target] / (weights[:, domain] + SHARE_OFFSET)
                slopes[:, target, domain] = losses[:, target] * by_share
        return slopes

    def formula(self, params: float) -> Formula:
        """Write the predicted losses as a formula of shares and tokens; see `LawWithFormula`."""
        used = np.array([domain is not None for domain in self.domain_of])
        slopes = np.where(used, self.slopes, 0.0)
        picked = pick(shares(), [0 if domain is None else domain for domain in self.domain_of])
        tilt = multiply(constant(slopes), log(add(picked, constant(SHARE_OFFSET))))
        level = constant(self.means[0])
        if len(self.points) > 1:
            moment = log(tokens()) if np.ptp(self.points[:, 0]) else constant(self.points[0, 0])
            size = _places(np.ones(1), np.array([params]))[0, 1]
            away = PARAMS_COUNT * np.abs(self.points[:, 1] - size)
            level = nearest(moment, self.points[:, 0], away, self.means)
        return exp(add(level, constant(-slopes * self.centres), tilt))


def fit_mean(table: RunTable) -> FittedDummy:
    """Fit the geometric mean loss of the runs at the nearest token count and model size."""
    targets = len(table.targets)
    points, means, _ = _means(table)
    return FittedDummy(points, means, (None,) * targets, np.zeros(targets), np.zeros(targets))


def fit_own_share(table: RunTable) -> FittedDummy:
    """Fit the mean loss times a power of (the share of the target's domain + 0.001)."""
    points, means, place = _means(table)
    domain_of = tuple(
        table.domains.index(name) if name in table.domains else None for name in table.targets
    )
    slopes, centres = np.zeros(len(domain_of)), np.zeros(len(domain_of))
    left = np.log(table.losses) - means[place]
    for target, domain in enumerate(domain_of):
        if domain is not None:
            share = np.log(table.weights[:, domain] + SHARE_OFFSET)
            centres[target] = share.mean()
            varied = share - centres[target]
            square = float(varied @ varied)
            slopes[target] = float(varied @ left[:, target]) / square if square > 0 else 0.0
    return FittedDummy(points, means, domain_of, slopes, centres)


def _means(table: RunTable) -> tuple[Array, Array, NDArray[np.int64]]:
    """Return combinations of tokens and size, their mean log losses, and each row's combination."""
    places = _places(table.tokens, table.params)
    points, place = np.unique(places, axis=0), number_distinct(places)
    logs = np.log(table.losses)
    means = np.stack([logs[place == point].mean(axis=0) for point in range(len(points))])
    return points, means, place


def _places(tokens: Array, params: Array) -> Array:
    return np.stack([np.log(np.where(np.isnan(v), 1, v)) for v in (tokens, params)], axis=1)


def _nearest(points: Array, places: Array) -> Array:
    """Find the nearest point; see `PARAMS_COUNT`."""
    off = np.abs(places[:, None, :] - points[None]) * np.array([1.0, PARAMS_COUNT])
    return np.asarray(off.sum(axis=2).argmin(axis=1))


MEAN = Law(
    name="mean",
    summary="the mean loss, whatever the mixture: a dummy",
    paper="no paper",
    needs="runs",
    fit=fit_mean,
    dummy=True,
)

OWN_SHARE = Law(
    name="own_share",
    summary="the mean loss times a power of the own share: a dummy",
    paper="no paper",
    needs="runs",
    fit=fit_own_share,
    dummy=True,
)
