"""Regressions on the shares and on the losses of experts mixed by those shares.

One model, an expert, is trained on each domain. Mixing their probabilities gives a loss of any
mixture without training it (MDE). That loss orders mixtures well but its level is off, so a
regression on the few mixtures that were trained corrects it. Whether it says more than the shares
depends on the experts: compare each law with the same regression of the shares alone (`ablated`).

Fits are `functools.partial`, not closures, since worker processes receive them pickled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from curate.laws.fitting.features import Progress, progress_of, root_shares
from curate.laws.fitting.gaussian_process import (
    Rows,
    TargetProcesses,
    evenly,
    fit_processes,
    new_runs,
    run_numbers,
)
from curate.laws.forms.boosted import fit_boosted
from curate.laws.forms.ridge import fit_ridge
from curate.laws.law import Array, FittedLaw, Law, RunTable
from curate.runtime.threads import one_blas_thread

FURTHEST = 6.0
"""Standard deviations from the runs' mean at which the loss of mixed experts is clipped. It is
infinite where all experts with a share give a token probability 0."""

Fit = Callable[[RunTable], FittedLaw]


@dataclass(frozen=True, slots=True)
class ExpertLosses:
    """The experts' losses as columns, standardised over the runs of the fit."""

    experts: FittedLaw
    """Losses of the experts mixed by shares, in the order of the runs' domains."""
    centres: Array
    """shape (features,), nats."""
    scales: Array
    """shape (features,), nats; infinite for a feature that does not vary."""

    def columns(self, weights: Array) -> Array:
        """Standardise the experts' losses, shape (rows, features), within `FURTHEST` of zero."""
        standard = (_raw(self.experts, weights) - self.centres) / self.scales
        return np.asarray(np.clip(standard, -FURTHEST, FURTHEST))

    def slopes(self, weights: Array) -> Array:
        """Differentiate the columns by the shares, shape (rows, features, domains)."""
        missing = np.full(len(weights), np.nan)
        gradient = self.experts.gradient(weights, missing, missing)
        assert gradient is not None, "experts' losses have a gradient"
        clipped = np.abs(self.columns(weights)) >= FURTHEST
        return np.asarray(np.where(clipped[:, :, None], 0.0, gradient / self.scales[:, None]))


def expert_losses(experts: FittedLaw, weights: Array) -> ExpertLosses:
    """Standardise the experts' losses over these mixtures, shape (rows, domains)."""
    losses = _raw(experts, weights)
    finite = np.where(np.isfinite(losses), losses, np.nan)
    # A feature that is infinite for all mixtures becomes a constant, which has no effect.
    finite = np.where(np.isnan(finite).all(axis=0), 0.0, finite)
    scales = np.nanstd(finite, axis=0)
    return ExpertLosses(
        experts, np.nanmean(finite, axis=0), np.where(scales > 1e-12, scales, np.inf)
    )


def _raw(experts: FittedLaw, weights: Array) -> Array:
    missing = np.full(len(weights), np.nan)
    return experts.predict(weights, missing, missing)


@dataclass(frozen=True, slots=True)
class FittedBeside:
    """A regression that takes shares and experts' losses as columns."""

    inner: FittedLaw
    features: ExpertLosses

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Predict with the regression of shares and experts' losses.

        Args:
            weights: shape (rows, domains), shares of training tokens; each row sums to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets), in the unit of the fitted table.
        """
        both = np.hstack([weights, self.features.columns(weights)])
        return self.inner.predict(both, tokens, params)

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array | None:
        """Differentiate through the shares and through the experts' losses.

        Args:
            weights: shape (rows, domains); free numbers, which need not sum to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets, domains), the unit of the fitted table per unit of share;
            None if the regression has no gradient.
        """
        columns = self.features.columns(weights)
        slopes = self.inner.gradient(np.hstack([weights, columns]), tokens, params)
        if slopes is None:
            return None
        domains = weights.shape[1]
        inward = slopes[:, :, domains:] @ self.features.slopes(weights)
        return np.asarray(slopes[:, :, :domains] + inward)


def fit_beside(table: RunTable, experts: FittedLaw, fit: Fit) -> FittedBeside:
    """Fit a regression that is linear in its columns, or trees, to shares and experts' losses.

    Args:
        table: The runs.
        experts: Losses of the experts mixed by shares, in the order of the runs' domains.
        fit: Fits columns of any range in place of shares.
    """
    features = expert_losses(experts, table.weights)
    columns = features.columns(table.weights)
    wide = replace(
        table,
        domains=(*table.domains, *(f"{at:04d} experts' loss" for at in range(columns.shape[1]))),
        weights=np.hstack([table.weights, columns]),
    )
    return FittedBeside(fit(wide), features)


@dataclass(frozen=True, slots=True)
class FittedExpertProcess:
    """A Gaussian process over square roots of shares and experts' losses, one a target."""

    features: ExpertLosses
    unit: float
    """Factor of the standardised columns, which makes them as large as the square roots vary."""
    processes: TargetProcesses
    """Over log losses."""
    progress: Progress

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Predict with a Gaussian process for each target.

        Args:
            weights: shape (rows, domains), shares of training tokens; each row sums to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets), in the unit of the fitted table.
        """
        losses: Array = np.exp(self.processes.mean(self._new_rows(weights, tokens, params)))
        return losses

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Differentiate through the shares and through the experts' losses.

        Args:
            weights: shape (rows, domains); free numbers, which need not sum to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets, domains), the unit of the fitted table per unit of share.
        """
        rows = self._new_rows(weights, tokens, params)
        domains = weights.shape[1]
        by_column = self.processes.standard_gradient(rows)
        by_share = by_column[:, :, :domains] / (2 * rows.mixture[:, None, :domains])
        by_share += by_column[:, :, domains:] @ (self.unit * self.features.slopes(weights))
        losses = self.predict(weights, tokens, params)
        return np.asarray(losses[:, :, None] * self.processes.scales[:, None] * by_share)

    def _new_rows(self, weights: Array, tokens: Array, params: Array) -> Rows:
        columns = _columns(weights, self.features, self.unit)
        return Rows(columns, self.progress.columns(tokens, params), new_runs(len(weights)))


@one_blas_thread()
def fit_expert_process(table: RunTable, experts: FittedLaw) -> FittedExpertProcess:
    """Fit a Gaussian process over square roots of shares and experts' losses to log losses.

    Args:
        table: Any number of runs; of more than 3000 rows an even selection is kept.
        experts: Losses of the experts mixed by shares, in the order of the runs' domains.

    Differs from the paper: one process a target, without sharing between targets; each target sees
    the experts' losses of all.
    """
    table = evenly(table)
    features = expert_losses(experts, table.weights)
    unit = float(np.sqrt(table.weights).std(axis=0).mean()) or 1.0
    progress = progress_of(table)
    rows = Rows(
        _columns(table.weights, features, unit),
        progress.columns(table.tokens, table.params),
        run_numbers(table),
    )
    return FittedExpertProcess(features, unit, fit_processes(rows, np.log(table.losses)), progress)


def _columns(weights: Array, features: ExpertLosses, unit: float) -> Array:
    return np.hstack([root_shares(weights), unit * features.columns(weights)])


@dataclass(frozen=True, slots=True)
class ExpertRegression:
    """A row of `INFORMED`."""

    plain: str
    """Name of the same regression of the shares alone, to compare with: that of a law of `LAWS` or,
    where there is none, of the law that `ablated` makes."""
    summary: str
    """Its form in a few words, for the command line."""
    fit: Callable[..., FittedLaw]
    """Fit it to runs; takes the losses of experts mixed by shares as `experts`."""


INFORMED: dict[str, ExpertRegression] = {
    "ridge_mde": ExpertRegression(
        "ridge",
        "linear in the shares and the experts' losses",
        partial(fit_beside, fit=fit_ridge),
    ),
    "gaussian_mde": ExpertRegression(
        "process", "a Gaussian process on root shares and the experts' losses", fit_expert_process
    ),
    "boosted_mde": ExpertRegression(
        "boosted",
        "boosted trees (LightGBM) on the shares and the experts' losses",
        partial(fit_beside, fit=fit_boosted),
    ),
}
"""Regressions that need experts as well as runs; `informed` makes a law of one and its experts."""


@dataclass(frozen=True, slots=True)
class NoExperts:
    """Experts without targets, with which a law of `INFORMED` sees the shares alone."""

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Return an array without targets.

        Args:
            weights: shape (rows, domains), shares of training tokens; each row sums to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, 0).
        """
        return np.zeros((len(weights), 0))

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Return an array without targets.

        Args:
            weights: shape (rows, domains); free numbers, which need not sum to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, 0, domains).
        """
        return np.zeros((len(weights), 0, weights.shape[1]))


def informed(name: str, experts: FittedLaw) -> Law:
    """Make a law of a regression and its experts.

    Args:
        name: A key of `INFORMED`.
        experts: Losses of the experts mixed by shares, in the order of the runs' domains; with a
            gradient.

    References:
        Belenki et al. 2025, "Mixtures of Data Experts", arXiv:2502.15950.
    """
    row = INFORMED[name]
    return Law(
        name=name,
        summary=row.summary,
        paper="MDE, Belenki et al. 2025, arXiv:2502.15950",
        needs="runs, and log-probabilities of an expert a domain",
        fit=partial(row.fit, experts=experts),
    )


def ablated(name: str) -> Law:
    """Make the law that a row of `INFORMED` becomes without experts.

    Example:
        >>> [ablated(name).name for name in INFORMED]
        ['ridge', 'process', 'boosted']
    """
    row = INFORMED[name]
    return replace(informed(name, NoExperts()), name=row.plain, needs="runs")
