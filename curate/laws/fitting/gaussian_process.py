"""A Gaussian process over mixtures and training progress for every target.

Mixtures enter as square roots of shares, which makes distances those of Hellinger, with a length
scale for each domain; progress enters as standardised ln tokens and ln parameters. The covariance
of two rows is the sum of

- a smooth function of the mixture (Matern 5/2) and a linear one: effects that last along a run;
- the same smooth function times one of progress: curves whose shape depends on the mixture;
- a smooth function of progress alone: warm-up, schedules and all else that mixtures share;
- a constant for rows of the same run, and noise: not predicted for new runs.

Terms of progress exist where progress varies. Length scales and variances maximise the posterior on
a few hundred rows: first those that are best for all targets together, under broad priors, then
each target's, around them. Exact: one Cholesky factor of all rows for each target, so rows are
limited.

References:
    Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", Eq. 2.23, 4.17 and 5.9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from curate.laws.fitting.features import number_distinct
from curate.laws.formula import (
    Formula,
    PointWeights,
    add,
    constant,
    join,
    linear,
    matern_sum,
    point_weights,
)
from curate.laws.law import Array, RunTable

ROWS_LEARN = 240
"""Rows on which length scales and variances are learnt; time grows with their cube."""
ROWS_KEEP = 3000
"""Rows that a process observes; memory grows with their square, time with their cube."""
JITTER = 1e-8
"""Added to the diagonal, in variances of the target, so that repeated rows do no harm."""
LEVEL_VARIANCE = 10.0
"""Prior variance of the unknown mean, in variances of the target: vague."""
ITERATIONS = 15
"""Steps of the search for length scales and variances that all targets share."""
ITERATIONS_TARGET = 10
"""Steps of the search for those of one target, from there; later ones change predictions by less
than noise."""
TARGET_SPREAD = 2.0
"""Prior standard deviation of a target's parameters about those that all share."""
ROWS_ALONE = 400
"""Rows on which they are learnt where a process is a whole law, not one expert of several."""
ITERATIONS_ALONE = 20
"""Steps of the search for one target there. On RegMix's 512 runs `gaussian` misses unseen losses by
0.90 % with these two, by 1.06 % with those of an expert, in 5.7 and 1.4 s."""
NEW_RUN = -1
"""Number of a run that was not observed."""


def squared_distances(first: Array, second: Array) -> Array:
    """Return squared distances between rows, shape (rows of first, rows of second).

    Example:
        >>> squared_distances(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 1.0]]))
        array([[25.,  1.]])
    """
    cross: Array = first @ second.T
    cross *= -2
    cross += (first**2).sum(axis=1)[:, None]
    cross += (second**2).sum(axis=1)
    return np.maximum(cross, 0, out=cross)


def matern(squares: Array) -> tuple[Array, Array]:
    """Compute Matern 5/2 correlations (1 + d + d^2 / 3) e^-d, d = sqrt(5 squares), and slopes.

    Args:
        squares: Squared distances in units of the length, any shape.

    Returns:
        Values between 0 and 1, and derivatives by the squares, of the same shape.

    Example:
        >>> value, slope = matern(np.array([0.0, 0.2]))
        >>> value.round(4).tolist(), slope.round(4).tolist()
        ([1.0, 0.8584], [-0.8333, -0.6131])
    """
    distance = np.sqrt(5 * squares)
    decay = np.exp(-distance)
    slope = (1 + distance) * decay
    value = slope + distance**2 / 3 * decay
    slope *= -5 / 6
    return value, slope


@dataclass(frozen=True, slots=True)
class Rows:
    """Inputs of a process."""

    mixture: Array
    """shape (rows, domains), square roots of shares."""
    progress: Array
    """shape (rows, columns), standardised ln tokens and ln parameters, where they vary."""
    run: NDArray[np.int64]
    """shape (rows,), equal where two rows belong to one run; `NEW_RUN` for a new one."""

    def take(self, places: NDArray[np.int64]) -> Rows:
        """Keep only the rows at these places."""
        return Rows(self.mixture[places], self.progress[places], self.run[places])


@dataclass(frozen=True, slots=True)
class Covariance:
    """Length scales and variances of a process."""

    domains: int
    columns: int
    theta: Array
    """shape (parameters,), logarithms of the length scales of every domain, of every column of
    progress in products and of every column alone, then of the standard deviations of step (the
    smooth function of the mixture), plane (the linear one), noise and, where there is progress, of
    product, progress and run."""

    @property
    def lengths(self) -> Array:
        """Length scales of domains, then of columns in products, then of columns alone."""
        return np.exp(self.theta[: self.domains + 2 * self.columns])

    @property
    def variances(self) -> Array:
        """Variances of step, plane, noise, product, progress, run; zero for absent terms."""
        variances = np.zeros(6)
        present = np.exp(2 * self.theta[self.domains + 2 * self.columns :])
        variances[: len(present)] = present
        return variances

    def split(self, rows: Rows) -> tuple[Array, Array, Array]:
        """Divide the mixture, progress in products and progress alone by their length scales."""
        lengths, last = self.lengths, self.domains + self.columns
        return (
            rows.mixture / lengths[: self.domains],
            rows.progress / lengths[self.domains : last],
            rows.progress / lengths[last:],
        )

    def between(self, first: Rows, second: Rows) -> Array:
        """Return covariances without run and noise terms, shape (rows of first, of second)."""
        step, plane, _, product, alone, _ = self.variances
        (a, b, c), (x, y, z) = self.split(first), self.split(second)
        total: Array = step * np.ones((len(a), len(x)))
        if self.columns:
            total += product * matern(squared_distances(b, y))[0]
        total *= matern(squared_distances(a, x))[0]
        total += plane * (a @ x.T) + LEVEL_VARIANCE
        if self.columns:
            total += alone * matern(squared_distances(c, z))[0]
        return total

    def observed(self, rows: Rows) -> Array:
        """Return covariances of observed values, run and noise terms included, (rows, rows)."""
        total = self.between(rows, rows)
        if self.columns:
            total += self.variances[5] * _same_run(rows.run)
        total[np.diag_indices(len(total))] += self.variances[2] + JITTER
        return total


def _same_run(run: NDArray[np.int64]) -> Array:
    return np.asarray(run[:, None] == run, float)


@dataclass(frozen=True, slots=True)
class CovariancePrior:
    """Independent normal priors, and bounds, of `Covariance.theta`; each shape (parameters,)."""

    centre: Array
    spread: Array
    low: Array
    high: Array


def _prior(rows: Rows) -> CovariancePrior:
    """Expect length scales of the order of the rows' distances, and little noise."""
    domains, columns = rows.mixture.shape[1], rows.progress.shape[1]
    distances = squared_distances(rows.mixture, rows.mixture)[np.triu_indices(len(rows.mixture), 1)]
    typical = max(float(np.sqrt(np.median(distances))), 1e-3)
    sizes = [(0.0, 2.0, -6, 4), (-1.0, 2.0, -9, 4), (-3.0, 2.0, -8, 1)]
    if columns:
        sizes += [(-1.0, 2.0, -9, 4), (-1.0, 2.0, -9, 4), (-3.0, 2.0, -9, 1)]
    every = [(np.log(1.5 * typical), 1.5, -6, 6)] * domains
    every += [(np.log(2.0), 0.7, -3, 4)] * columns + [(0.0, 0.7, -3, 4)] * columns + sizes
    centre, spread, low, high = np.array(every, float).T
    return CovariancePrior(centre, spread, low, high)


def _unlikelihood(
    theta: Array, rows: Rows, values: Array, prior: CovariancePrior
) -> tuple[float, Array]:
    """Return the negative log posterior of `theta` for all columns of values, and its gradient.

    For m targets Y, d/dp of (trace Y' K^-1 Y + m ln det K) / 2 is the sum of Q * dK/dp, with
    Q = (m K^-1 - A A') / 2 and A = K^-1 Y.
    Derivatives by length scales come as products with the inputs (`_by_lengths`), never as one
    matrix for each length scale.
    """
    from scipy.linalg import lapack

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
    # LAPACK directly: dpotri takes a third of the operations of solving for the identity.
    factor, failed = lapack.dpotrf(total, lower=1)
    if failed:
        return 1e12, np.zeros_like(theta)  # not positive definite: the line search backs off
    inverse, _ = lapack.dpotri(factor, lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    solved, targets = inverse @ values, values.shape[1]
    pull = (targets * inverse - solved @ solved.T) / 2
    deviation = (theta - prior.centre) / prior.spread
    value = (values * solved).sum() / 2 + targets * np.log(np.diag(factor)).sum()
    value += (deviation**2).sum() / 2
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
    return float(value), gradient + deviation / prior.spread


def _by_lengths(pull: Array, scaled: Array) -> Array:
    """Sum over pairs of pull_rs d(squared distance_rs) / d(ln length), for every column.

    Expanding the squares, sum pull_rs (x_r - x_s)^2 = 2 (sum pull_rs x_r^2 - sum pull_rs x_r x_s).
    """
    squares = pull.sum(axis=1) @ scaled**2
    products = np.einsum("rd,rd->d", scaled, pull @ scaled)
    return np.asarray(-4 * (squares - products))


def learn(rows: Rows, values: Array, steps: int = ITERATIONS_TARGET) -> list[Covariance]:
    """Find the most probable length scales and variances of every target.

    First those that are most probable if all targets have the same; then each target's, which the
    others' are the prior of. Few rows say little about one target's, and much about those of all.

    Args:
        rows: n rows.
        values: shape (n, targets), each of mean 0 and variance 1.
        steps: Steps of the search for one of several targets; a lone one has `ITERATIONS` at least.
    """
    prior = _prior(rows)
    if values.shape[1] > 1:
        common = _most_probable(prior, rows, values, ITERATIONS)
        prior = replace(prior, centre=common, spread=np.full(len(common), TARGET_SPREAD))
    else:
        steps = max(steps, ITERATIONS)
    thetas = [_most_probable(prior, rows, column[:, None], steps) for column in values.T]
    domains, columns = rows.mixture.shape[1], rows.progress.shape[1]
    return [Covariance(domains, columns, theta) for theta in thetas]


def _most_probable(prior: CovariancePrior, rows: Rows, values: Array, steps: int) -> Array:
    from scipy.optimize import minimize

    bounds = list(zip(prior.low, prior.high, strict=True))
    optimum = minimize(
        _unlikelihood, prior.centre, args=(rows, values, prior), jac=True, method="L-BFGS-B",
        bounds=bounds, options={"maxiter": steps},
    )  # fmt: skip
    return np.asarray(optimum.x)


@dataclass(frozen=True, slots=True)
class Process:
    """A process conditioned on observed values of one target."""

    covariance: Covariance
    rows: Rows
    solved: Array
    """shape (rows,), the covariance's inverse times the values."""

    def mean(self, new: Rows) -> Array:
        """Predict the expected values, shape (rows of new,)."""
        expected: Array = self.covariance.between(new, self.rows) @ self.solved
        return expected

    def gradient(self, new: Rows) -> Array:
        """Differentiate the mean by `new.mixture`, shape (rows of new, domains)."""
        covariance = self.covariance
        step, plane, _, product, _, _ = covariance.variances
        (a, b, _), (x, y, _) = covariance.split(new), covariance.split(self.rows)
        pull = step * np.ones((len(a), len(x)))
        if covariance.columns:
            pull += product * matern(squared_distances(b, y))[0]
        pull *= 2 * matern(squared_distances(a, x))[1] * self.solved
        slopes: Array = a * pull.sum(axis=1)[:, None] - pull @ x + plane * (self.solved @ x)
        return slopes / covariance.lengths[: covariance.domains]


def observe(covariance: Covariance, rows: Rows, values: Array) -> Process:
    """Condition a process on observed values.

    Args:
        covariance: Its covariance function.
        rows: n rows.
        values: shape (n,).
    """
    from scipy.linalg import cho_solve, cholesky

    factor = cholesky(covariance.observed(rows), lower=True)
    return Process(covariance, rows, cho_solve((factor, True), values))


def left_out(covariance: Covariance, rows: Rows, values: Array, group: NDArray[np.int64]) -> Array:
    """Compute the error at every row of a process that did not observe the rows of its group.

    With a = K^-1 y and blocks by group, the error of block b is (K^-1)_bb^-1 a_b.

    Args:
        covariance: Learnt with the group; only the values are left out.
        rows: n rows.
        values: shape (n,).
        group: shape (n,), equal for rows that are left out together.

    Returns:
        shape (n,), values minus expectations.
    """
    from scipy.linalg import cho_solve, cholesky

    factor = cholesky(covariance.observed(rows), lower=True)
    inverse = cho_solve((factor, True), np.eye(len(values)))
    solved = inverse @ values
    errors = np.empty(len(values))
    for name in np.unique(group):
        block = np.flatnonzero(group == name)
        errors[block] = np.linalg.solve(inverse[np.ix_(block, block)], solved[block])
    return errors


@dataclass(frozen=True, slots=True)
class TargetProcesses:
    """A process for every target, over standardised values."""

    processes: tuple[Process, ...]
    """One a target."""
    centres: Array
    """shape (targets,), mean of the values."""
    scales: Array
    """shape (targets,), standard deviation of the values."""

    def mean(self, new: Rows, base: Array | float = 0.0) -> Array:
        """Predict the expected values, shape (rows of new, targets), added to `base`."""
        near = np.stack([process.mean(new) for process in self.processes], axis=1)
        return np.asarray(base + self.centres + self.scales * near)

    def standard_gradient(self, new: Rows) -> Array:
        """Differentiate the standardised mean by the columns of `new.mixture`.

        Returns:
            shape (rows of new, targets, columns); times `scales` it is that of `mean`.
        """
        return np.stack([process.gradient(new) for process in self.processes], axis=1)

    def formula(self, roots: Formula, progress: Sequence[Formula]) -> Formula:
        """Write `mean` as a formula.

        Args:
            roots: Formula of a row of `Rows.mixture`.
            progress: Formulas of a row of `Rows.progress`, each a single value.
        """
        rows = self.processes[0].rows
        domains, columns = rows.mixture.shape[1], rows.progress.shape[1]
        points, number = np.unique(rows.mixture, axis=0, return_inverse=True)
        number = number.reshape(-1)
        covariances = [process.covariance for process in self.processes]
        step, plane, _, product, alone, _ = np.stack([c.variances for c in covariances], axis=1)
        rates = 1 / np.stack([c.lengths for c in covariances])
        solved = self.scales[:, None] * np.stack([process.solved for process in self.processes])
        slopes = plane[:, None] * (solved @ rows.mixture) * rates[:, :domains] ** 2
        terms = [
            constant(self.centres + LEVEL_VARIANCE * solved.sum(axis=1)),
            linear(roots, slopes),
        ]
        if columns:
            place, last = join(*progress), domains + columns
            effects = PointWeights(
                scale=solved, places=rows.progress, rates=rates[:, domains:last], level=step,
                height=product, point=number,
            )  # fmt: skip
            weights = point_weights(place, effects)
            curves = constant((alone[:, None] * solved).reshape(-1))
            terms.append(matern_sum(place, rows.progress, rates[:, last:], curves))
        else:
            # Runs of the same mixture are one point, so their weights add up.
            near = np.stack([np.bincount(number, row) for row in step[:, None] * solved])
            weights = constant(near.reshape(-1))
        return add(*terms, matern_sum(roots, points, rates[:, :domains], weights))


def fit_processes(rows: Rows, values: Array) -> TargetProcesses:
    """Fit one process to each column of values.

    Args:
        rows: n rows.
        values: shape (n, targets).
    """
    centres, scales = values.mean(axis=0), np.maximum(values.std(axis=0), 1e-9)
    few = np.linspace(0, len(values) - 1, min(len(values), ROWS_ALONE)).astype(np.int64)
    standard = (values - centres) / scales
    learnt = learn(rows.take(few), standard[few], ITERATIONS_ALONE)
    processes = [
        observe(covariance, rows, column)
        for covariance, column in zip(learnt, standard.T, strict=True)
    ]
    return TargetProcesses(tuple(processes), centres, scales)


def evenly(table: RunTable) -> RunTable:
    """Thin a table to at most `ROWS_KEEP` rows, evenly selected."""
    if len(table.runs) <= ROWS_KEEP:
        return table
    return table.take(np.linspace(0, len(table.runs) - 1, ROWS_KEEP).astype(np.int64))


def run_numbers(table: RunTable) -> NDArray[np.int64]:
    """Number the runs by name, shape (rows,)."""
    return number_distinct(np.array(table.runs))


def new_runs(rows: int) -> NDArray[np.int64]:
    """Return run numbers for rows that belong to no observed run, shape (rows,)."""
    return np.full(rows, NEW_RUN, np.int64)
