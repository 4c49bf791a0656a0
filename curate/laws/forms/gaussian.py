"""A Gaussian process on square roots of shares, around the additive law.

The additive law says what is far from the runs, the process what it misses near them. Exact: one
Cholesky factor of all rows for each target, so rows are limited.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, lapack
from scipy.optimize import minimize

from curate.laws.fitting.features import Progress, progress_of
from curate.laws.fitting.matern import matern, squared_distances
from curate.laws.forms.additive import FittedAdditive, fit_additive
from curate.laws.law import Array, Law, RunTable

SHARE_OFFSET = 1e-4
"""Added to every share: the square root has no derivative at zero."""
ROWS_LEARN = 512
"""Rows on which lengths, amplitude and noise are learnt; a fit takes time in their cube."""
ROWS_KEEP = 3000
"""Rows kept for predicting; of more, an even selection."""
ITERATIONS = 40
PRIOR_CENTRE = (-3.0, 0.0, -4.0)
"""ln amplitude, ln length, ln noise: 5 % misfit, lengths of one, 2 % noise of the log loss."""
PRIOR_SPREAD = (1.5, 1.0, 1.5)


@dataclass(frozen=True, slots=True)
class Kernel:
    """amplitude^2 * (1 + d + d^2 / 3) exp(-d), d = sqrt(5) * scaled distance (Matern 5/2)."""

    amplitude: float
    lengths: Array
    """shape (features,)."""
    noise: float


@dataclass(frozen=True, slots=True)
class FittedGaussian:
    """The mean law and, for every target, a process over its log residuals."""

    mean: FittedAdditive
    progress: Progress
    features: Array
    """shape (rows, features), of the rows kept."""
    kernels: tuple[Kernel, ...]
    coefficients: Array
    """shape (rows, targets), K^-1 of the residuals."""

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """See `FittedLaw`."""
        places = _features(weights, tokens, params, self.progress)
        logs = np.stack(
            [
                _correlated(kernel, places, self.features)[0] @ self.coefficients[:, target]
                for target, kernel in enumerate(self.kernels)
            ],
            axis=1,
        )
        losses: Array = self.mean.predict(weights, tokens, params) * np.exp(logs)
        return losses

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        """See `FittedLaw`."""
        places = _features(weights, tokens, params, self.progress)
        domains = weights.shape[1]
        mean = self.mean.predict(weights, tokens, params)
        slopes = self.mean.gradient(weights, tokens, params) / mean[:, :, None]
        logs = np.empty_like(mean)
        by_share = 0.5 / places[:, :domains]
        for target, kernel in enumerate(self.kernels):
            values, inner = _correlated(kernel, places, self.features)
            logs[:, target] = values @ self.coefficients[:, target]
            pull = inner * self.coefficients[:, target]
            off = pull.sum(axis=1)[:, None] * places - pull @ self.features
            slopes[:, target] += (off / kernel.lengths**2)[:, :domains] * by_share
        scaled: Array = slopes * (mean * np.exp(logs))[:, :, None]
        return scaled

    def deviation(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Standard deviation of the log loss without noise, shape (rows, targets).

        Only the process's doubt: that of the additive law's coefficients is not in it.
        """
        places = _features(weights, tokens, params, self.progress)
        spread = np.empty((len(places), len(self.kernels)))
        for target, kernel in enumerate(self.kernels):
            factor = cho_factor(_covariance(kernel, self.features), lower=True)
            cross = _correlated(kernel, places, self.features)[0]
            explained = np.einsum("ij,ji->i", cross, cho_solve(factor, cross.T))
            spread[:, target] = np.sqrt(np.maximum(kernel.amplitude**2 - explained, 0))
        return spread


def fit_gaussian(table: RunTable) -> FittedGaussian:
    """Fit with a length for shares, one for tokens and one for model size, for each target.

    Args:
        table: Any number of runs; of more than 3000 rows an even selection is kept.

    Returns:
        The fitted law.

    References:
        Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", Eq. 2.23, 5.9;
        the square roots make distances those of Hellinger. No paper mixes data this way.
    """
    return fit_process(table, by_domain=False)


def fit_process(table: RunTable, by_domain: bool) -> FittedGaussian:
    """Fit; with a length for every domain if `by_domain`, else one for all."""
    if len(table.runs) > ROWS_KEEP:
        table = table.take(np.linspace(0, len(table.runs) - 1, ROWS_KEEP).astype(np.int64))
    mean = fit_additive(table)
    progress = progress_of(table)
    features = _features(table.weights, table.tokens, table.params, progress)
    residuals = np.log(table.losses / mean.predict(table.weights, table.tokens, table.params))
    domains = len(table.domains)
    of_shares = np.arange(domains) if by_domain else np.zeros(domains, np.int64)
    extra = np.arange(features.shape[1] - domains) + of_shares[-1] + 1
    group = np.concatenate([of_shares, extra])
    learn = np.arange(len(features))
    if len(learn) > ROWS_LEARN:
        learn = np.linspace(0, len(learn) - 1, ROWS_LEARN).astype(np.int64)
    kernels, coefficients = [], []
    for target in range(len(table.targets)):
        kernel = _learn(features[learn], residuals[learn, target], group)
        factor = cho_factor(_covariance(kernel, features), lower=True)
        kernels.append(kernel)
        coefficients.append(cho_solve(factor, residuals[:, target]))
    return FittedGaussian(mean, progress, features, tuple(kernels), np.stack(coefficients, axis=1))


def _features(weights: Array, tokens: Array, params: Array, progress: Progress) -> Array:
    roots = np.sqrt(np.maximum(weights, 0) + SHARE_OFFSET)
    return np.concatenate([roots, progress.columns(tokens, params)], axis=1)


def _learn(features: Array, residuals: Array, group: Array) -> Kernel:
    """Most likely amplitude, lengths (one a group of features) and noise, under weak priors."""
    groups = int(group.max()) + 1
    centre = np.concatenate([[PRIOR_CENTRE[0]], np.full(groups, PRIOR_CENTRE[1]),
                             [PRIOR_CENTRE[2]]])  # fmt: skip
    spread = np.concatenate([[PRIOR_SPREAD[0]], np.full(groups, PRIOR_SPREAD[1]),
                             [PRIOR_SPREAD[2]]])  # fmt: skip

    def cost(theta: Array) -> tuple[float, Array]:
        value, slope = negative_log_likelihood(theta, features, residuals, group)
        off = (theta - centre) / spread
        return value + 0.5 * float(off @ off), slope + off / spread

    found = minimize(
        cost, centre, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS},
        bounds=list(zip(centre - 6, centre + 6, strict=True)),
    )  # fmt: skip
    return _kernel(found.x, group)


def negative_log_likelihood(
    theta: Array, features: Array, residuals: Array, group: Array
) -> tuple[float, Array]:
    """-ln p(residuals) and its gradient by ln amplitude, ln lengths, ln noise.

    Args:
        theta: shape (2 + groups,).
        features: shape (rows, features).
        residuals: shape (rows,), of mean zero.
        group: shape (features,), which length a feature has.

    Returns:
        The value, and the gradient, shape (2 + groups,).
    """
    kernel = _kernel(theta, group)
    clean, inner = _correlated(kernel, features, features)
    covariance = clean.copy()
    covariance[np.diag_indices_from(covariance)] += kernel.noise**2
    lower, failed = lapack.dpotrf(covariance, lower=1, clean=1)
    if failed:
        return 1e25, np.zeros_like(theta)
    alpha = cho_solve((lower, True), residuals)
    inverse, _ = lapack.dpotri(lower, lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    value = 0.5 * residuals @ alpha + np.log(np.diag(lower)).sum()
    value += 0.5 * len(residuals) * np.log(2 * np.pi)
    weight = inverse - np.outer(alpha, alpha)
    # dK/d ln length_f = -inner_ij (x_if - x_jf)^2 / length_f^2, with inner negative.
    pull = weight * inner
    squares = features**2
    by_feature = 2 * (pull.sum(axis=1) @ squares - ((pull @ features) * features).sum(axis=0))
    by_feature *= -1 / kernel.lengths**2
    slope = np.empty_like(theta)
    slope[0] = (weight * clean).sum()
    slope[1:-1] = 0.5 * np.bincount(group, by_feature, minlength=len(theta) - 2)
    slope[-1] = kernel.noise**2 * np.trace(weight)
    return float(value), slope


def _kernel(theta: Array, group: Array) -> Kernel:
    values = np.exp(theta)
    return Kernel(float(values[0]), values[1:-1][group], float(values[-1]))


def _covariance(kernel: Kernel, features: Array) -> Array:
    covariance, _ = _correlated(kernel, features, features)
    covariance[np.diag_indices_from(covariance)] += kernel.noise**2
    return covariance


def _correlated(kernel: Kernel, places: Array, others: Array) -> tuple[Array, Array]:
    """Kernel values, and g with d value / d place_f = g * (place_f - other_f) / length_f^2."""
    value, slope = matern(squared_distances(places / kernel.lengths, others / kernel.lengths))
    return kernel.amplitude**2 * value, 2 * kernel.amplitude**2 * slope


GAUSSIAN = Law(
    name="gaussian",
    summary="a Gaussian process on square-root shares around the additive law",
    paper="Rasmussen and Williams 2006, around arXiv:2507.09404",
    needs="runs",
    fit=fit_gaussian,
)
