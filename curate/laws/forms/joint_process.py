"""A Gaussian process over mixtures and progress, one target at a time.

Mixtures enter as square roots of shares with a length for each domain, progress as standardised ln
tokens and ln parameters. The covariance of two rows is the sum of

- a step of the mixture alone (Matern 5/2) and a plane of it: what lasts along a run;
- the same step times one of progress: curves whose shape depends on the mixture;
- a step of progress alone: warm-up, schedules, whatever all mixtures share;
- one number for rows of the same run, and noise: not predicted for new runs.

Terms of progress exist where progress varies. Lengths and sizes are the most likely ones under
broad priors, learnt on a few hundred rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, lapack, solve_triangular
from scipy.optimize import minimize

from curate.laws.fitting.matern import matern, squared_distances
from curate.laws.law import Array

JITTER = 1e-8
"""Added to the diagonal, in variances of the target, so that repeated rows do no harm."""
LEVEL_VARIANCE = 10.0
"""Of the unknown mean, in variances of the target: vague."""
ITERATIONS = 30
"""Of the search for lengths and sizes; later ones change predictions by less than noise."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What the process sees of some rows."""

    mixture: Array
    """shape (rows, domains), square roots of shares."""
    progress: Array
    """shape (rows, columns)."""
    run: NDArray[np.int64]
    """shape (rows,), equal where two rows belong to one run; -1: a new run."""

    def take(self, chosen: NDArray[np.int64]) -> Rows:
        """These rows only."""
        return Rows(self.mixture[chosen], self.progress[chosen], self.run[chosen])


@dataclass(frozen=True, slots=True)
class Covariance:
    """Lengths and sizes."""

    domains: int
    columns: int
    theta: Array
    """shape (parameters,), all logarithms: length of every domain, of every column in products, of
    every column alone; standard deviations of step, plane, noise and, where there is progress, of
    product, progress, run."""

    @property
    def lengths(self) -> Array:
        """Of domains, then of columns in products, then of columns alone."""
        return np.exp(self.theta[: self.domains + 2 * self.columns])

    @property
    def variances(self) -> Array:
        """Of step, plane, noise, product, progress, run; zero for those that do not exist."""
        found = np.zeros(6)
        sizes = np.exp(2 * self.theta[self.domains + 2 * self.columns :])
        found[: len(sizes)] = sizes
        return found

    def split(self, rows: Rows) -> tuple[Array, Array, Array]:
        """Mixture, progress in products and progress alone, in units of their lengths."""
        lengths, last = self.lengths, self.domains + self.columns
        return (
            rows.mixture / lengths[: self.domains],
            rows.progress / lengths[self.domains : last],
            rows.progress / lengths[last:],
        )

    def between(self, first: Rows, second: Rows) -> Array:
        """Covariances of what lasts beyond a run, shape (rows of first, rows of second)."""
        step, plane, _, product, alone, _ = self.variances
        (a, b, c), (x, y, z) = self.split(first), self.split(second)
        found: Array = step * np.ones((len(a), len(x)))
        if self.columns:
            found += product * matern(squared_distances(b, y))[0]
        found *= matern(squared_distances(a, x))[0]
        found += plane * (a @ x.T) + LEVEL_VARIANCE
        if self.columns:
            found += alone * matern(squared_distances(c, z))[0]
        return found

    def of(self, rows: Rows) -> Array:
        """The whole covariance of observed rows."""
        found = self.between(rows, rows)
        if self.columns:
            found += self.variances[5] * _same_run(rows.run)
        found[np.diag_indices(len(found))] += self.variances[2] + JITTER
        return found


def _same_run(run: NDArray[np.int64]) -> Array:
    return np.asarray(run[:, None] == run, float)


@dataclass(frozen=True, slots=True)
class Belief:
    """Normal priors of the logarithms in `Covariance.theta`."""

    centre: Array
    spread: Array
    low: Array
    high: Array


def _belief(rows: Rows) -> Belief:
    """Lengths of the order of the rows' distances; small noise; little that is not smooth."""
    domains, columns = rows.mixture.shape[1], rows.progress.shape[1]
    distances = squared_distances(rows.mixture, rows.mixture)[np.triu_indices(len(rows.mixture), 1)]
    typical = max(float(np.sqrt(np.median(distances))), 1e-3)
    sizes = [(0.0, 2.0, -6, 4), (-1.0, 2.0, -9, 4), (-3.0, 2.0, -8, 1)]
    if columns:
        sizes += [(-1.0, 2.0, -9, 4), (-1.0, 2.0, -9, 4), (-3.0, 2.0, -9, 1)]
    every = [(np.log(1.5 * typical), 1.5, -6, 6)] * domains
    every += [(np.log(2.0), 0.7, -3, 4)] * columns + [(0.0, 0.7, -3, 4)] * columns + sizes
    centre, spread, low, high = np.array(every, float).T
    return Belief(centre, spread, low, high)


def _unlikelihood(theta: Array, rows: Rows, values: Array, belief: Belief) -> tuple[float, Array]:
    """Negative log posterior of the parameters, and its gradient.

    d/dp of (y' K^-1 y + ln det K) / 2 is the sum of Q * dK/dp, Q = (K^-1 - a a') / 2, a = K^-1 y.
    Derivatives by lengths come as products with the inputs, never as a matrix a length.
    """
    covariance = Covariance(rows.mixture.shape[1], rows.progress.shape[1], theta)
    step, plane, noise, product, alone, same = covariance.variances
    mixture, inside, outside = covariance.split(rows)
    near, near_slope = matern(squared_distances(mixture, mixture))
    flat = mixture @ mixture.T
    if covariance.columns:
        within, within_slope = matern(squared_distances(inside, inside))
        beyond, beyond_slope = matern(squared_distances(outside, outside))
        runs = _same_run(rows.run)
        total = near * (step + product * within) + alone * beyond + same * runs
    else:
        total = step * near
    total += plane * flat
    total += LEVEL_VARIANCE
    total[np.diag_indices(len(total))] += noise + JITTER
    factor, failed = lapack.dpotrf(total, lower=1)
    if failed:
        return 1e12, np.zeros_like(theta)
    inverse, _ = lapack.dpotri(factor, lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    solved = inverse @ values
    pull = (inverse - np.outer(solved, solved)) / 2
    deviation = (theta - belief.centre) / belief.spread
    value = values @ solved / 2 + np.log(np.diag(factor)).sum() + (deviation**2).sum() / 2
    by_size = [step * (pull * near).sum(), plane * (pull * flat).sum(), noise * np.trace(pull)]
    by_mixture = pull * near_slope
    if covariance.columns:
        by_mixture *= step + product * within
        by_size += [product * (pull * near * within).sum(), alone * (pull * beyond).sum()]
        by_size.append(same * (pull * runs).sum())
        by_inside = _by_lengths(product * pull * near * within_slope, inside)
        by_outside = _by_lengths(alone * pull * beyond_slope, outside)
    else:
        by_mixture *= step
        by_inside = by_outside = np.zeros(0)
    by_plane = -2 * plane * np.einsum("rd,rd->d", mixture, pull @ mixture)
    by_lengths = _by_lengths(by_mixture, mixture) + by_plane
    gradient = np.concatenate([by_lengths, by_inside, by_outside, 2 * np.array(by_size)])
    return float(value), gradient + deviation / belief.spread


def _by_lengths(pull: Array, scaled: Array) -> Array:
    """Sum over pairs of pull_rs d(squared distance_rs)/d(ln length), for every column."""
    own = pull.sum(axis=1) @ scaled**2
    crossed = np.einsum("rd,rd->d", scaled, pull @ scaled)
    found: Array = -4 * (own - crossed)
    return found


def learn(rows: Rows, values: Array) -> Covariance:
    """The most probable lengths and sizes for these values, which have mean 0 and variance 1."""
    belief = _belief(rows)
    found = minimize(
        _unlikelihood, belief.centre, args=(rows, values, belief), jac=True, method="L-BFGS-B",
        bounds=list(zip(belief.low, belief.high, strict=True)), options={"maxiter": ITERATIONS},
    )  # fmt: skip
    return Covariance(rows.mixture.shape[1], rows.progress.shape[1], found.x)


@dataclass(frozen=True, slots=True)
class Process:
    """One target's process, given what was observed."""

    covariance: Covariance
    rows: Rows
    solved: Array
    """shape (rows,), the covariance's inverse times the values."""

    def mean(self, new: Rows) -> Array:
        """Expected values, shape (rows of new,)."""
        expected: Array = self.covariance.between(new, self.rows) @ self.solved
        return expected

    def gradient(self, new: Rows) -> Array:
        """Derivative of the mean by the square roots of shares, shape (rows of new, domains)."""
        covariance = self.covariance
        step, plane, _, product, _, _ = covariance.variances
        (a, b, _), (x, y, _) = covariance.split(new), covariance.split(self.rows)
        pull = step * np.ones((len(a), len(x)))
        if covariance.columns:
            pull += product * matern(squared_distances(b, y))[0]
        pull *= 2 * matern(squared_distances(a, x))[1] * self.solved
        slopes: Array = a * pull.sum(axis=1)[:, None] - pull @ x + plane * (self.solved @ x)
        return slopes / covariance.lengths[: covariance.domains]

    def deviation(self, new: Rows) -> Array:
        """Standard deviation of a new run's values, noise included, shape (rows of new,)."""
        covariance = self.covariance
        step, plane, noise, product, alone, same = covariance.variances
        factor = cholesky(covariance.of(self.rows), lower=True)
        known = solve_triangular(factor, covariance.between(self.rows, new), lower=True)
        mixture = covariance.split(new)[0]
        before = step + product + alone + plane * (mixture**2).sum(axis=1) + LEVEL_VARIANCE
        left = np.maximum(before - (known**2).sum(axis=0), 0)
        spread: Array = np.sqrt(left + noise + same)
        return spread


def observe(covariance: Covariance, rows: Rows, values: Array) -> Process:
    """The process given these values at these rows."""
    factor = cholesky(covariance.of(rows), lower=True)
    return Process(covariance, rows, cho_solve((factor, True), values))


def left_out(covariance: Covariance, rows: Rows, values: Array, group: NDArray[np.int64]) -> Array:
    """Errors at every row of a process that was not given the rows of its group.

    With a = K^-1 y and blocks by group, the error of block b is (K^-1)_bb^-1 a_b.

    Args:
        covariance: Learnt with the group; only the values are left out.
        rows: n rows.
        values: shape (n,).
        group: shape (n,), equal for rows that are left out together.

    Returns:
        Shape (n,), values minus expectations.
    """
    factor = cholesky(covariance.of(rows), lower=True)
    inverse = cho_solve((factor, True), np.eye(len(values)))
    solved = inverse @ values
    errors = np.empty(len(values))
    for name in np.unique(group):
        block = np.flatnonzero(group == name)
        errors[block] = np.linalg.solve(inverse[np.ix_(block, block)], solved[block])
    return errors
