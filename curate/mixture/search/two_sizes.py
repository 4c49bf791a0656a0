"""Effects of mixtures on loss at two model sizes, as a Gaussian process with two levels.

The logarithm of the loss at a size is a level, an effect of the mixture and noise. The effects at
the two sizes are Gaussian processes over the square roots of shares, with a squared exponential
covariance and one correlation between the sizes:

    y_size(w) = level_size + effect_size f_size(w) + noise_size e,
    cov(f_a(w), f_b(v)) = c_ab exp(-|sqrt(w) - sqrt(v)|^2 / (2 length^2)),

with c_ab 1 within a size and the correlation between sizes. Its six parameters are learnt from a
pilot of runs by importance sampling from a prior, or drawn from the prior where there is none.

Simulation then tells what more runs are worth: draw effects that agree with the pilot, add runs and
noise, take the mixture of the least expected loss, and see what it loses to the best one.

References:
    Kennedy and O'Hagan 2000, "Predicting the output from a complex computer code when fast
    approximations are available", Biometrika 87:1, Eqs. 1-3: the two levels. Wilson et al. 2021,
    "Pathwise conditioning of Gaussian processes", arXiv:2011.04026v2, Eq. 13: draws that agree
    with data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.runtime.threads import one_blas_thread

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

EFFECT, RATIO, UNLIKE, LENGTH, NOISE_SMALL, NOISE_LARGE = range(6)
"""Places of the parameters, all as logarithms: effect at the large size; that at the small size
over it; 1 - correlation; length; noise over effect at each size."""

PRIOR_MEAN = np.log([0.05, 1.0, 0.07, 0.7, 0.07, 0.07])
PRIOR_SPREAD = np.array([0.8, 0.3, 1.8, 0.4, 0.8, 0.8])
"""Mean and standard deviation of the logarithms. Between RegMix's 1M and 1B runs ranks correlate at
.98 and more, but that is one study, so that 14 % of the prior are correlations below .5. The length
is half the distance between two corners of the simplex."""

LEVEL = 1.0
"""Standard deviation of the levels: so wide that they are learnt from the runs alone."""
PROPOSALS = 1_500
ROUNDS = 3
PRIOR_SHARE = 0.2
"""Part of later proposals that still comes from the prior, so that none is ruled out."""
LEARNT_DRAWS = 24
"""Parameters drawn for the simulation."""
EFFECT_DRAWS = 64
"""Effects drawn for each of them."""
JITTER = 1e-6
CHUNK_NUMBERS = 4_000_000
"""Most numbers of the covariances that are factorised at a time."""


@dataclass(frozen=True, slots=True)
class SizedRuns:
    """Runs at two sizes."""

    mixtures: Array
    """shape (runs, domains), shares."""
    large: Flags
    """shape (runs,), whether a run has the large size."""
    values: Array
    """shape (runs,), logarithms of loss, about the mean at each size."""


@dataclass(frozen=True, slots=True)
class TwoSizes:
    """Draws of the model's parameters."""

    draws: Array
    """shape (draws, 6), see the constants of this module."""

    @property
    def centre(self) -> Array:
        """Mean of the draws, shape (6,): what an analyst would take for the truth."""
        return np.asarray(self.draws.mean(axis=0))

    def correlation(self) -> tuple[float, float, float]:
        """Return the median of the correlation between sizes and its 95 % interval."""
        low, middle, high = np.quantile(1 - np.exp(self.draws[:, UNLIKE]), [0.025, 0.5, 0.975])
        return float(middle), float(low), float(high)

    def noise(self, large: bool) -> float:
        """Return the median noise of a size, as a fraction of the loss."""
        logs = self.draws[:, EFFECT] + self.draws[:, NOISE_LARGE if large else NOISE_SMALL]
        return float(np.exp(np.median(logs if large else logs + self.draws[:, RATIO])))

    def effect(self) -> float:
        """Return the median effect of mixtures at the large size, as a fraction of the loss."""
        return float(np.exp(np.median(self.draws[:, EFFECT])))


def squared_distances(first: Array, second: Array) -> Array:
    """Return |sqrt(w) - sqrt(v)|^2 between mixtures, shape (first, second), from 0 to 2."""
    return np.asarray(np.maximum(2 - 2 * np.sqrt(first) @ np.sqrt(second).T, 0))


@one_blas_thread()
def learn(runs: SizedRuns | None, rng: np.random.Generator) -> TwoSizes:
    """Draw parameters from their posterior; from the prior where there are no runs.

    Args:
        runs: The pilot.
        rng: Source of randomness.
    """
    draws = _prior(rng, PROPOSALS)
    if runs is None or not len(runs.values):
        return TwoSizes(draws[:LEARNT_DRAWS])
    distances = squared_distances(runs.mixtures, runs.mixtures)
    weights = _normalised(_log_likelihood(draws, runs, distances))
    for _ in range(ROUNDS):
        mean = weights @ draws
        spread = (draws - mean).T @ ((draws - mean) * weights[:, None]) * 1.5
        spread += 0.01 * np.diag(PRIOR_SPREAD**2)
        few = int(PRIOR_SHARE * PROPOSALS)
        draws = np.vstack(
            [rng.multivariate_normal(mean, spread, PROPOSALS - few), _prior(rng, few)]
        )
        draws[:, UNLIKE] = np.minimum(draws[:, UNLIKE], 0.0)
        proposed = np.logaddexp(
            math.log(1 - PRIOR_SHARE) + _log_normal(draws, mean, spread),
            math.log(PRIOR_SHARE) + _log_prior(draws),
        )
        weights = _normalised(
            _log_likelihood(draws, runs, distances) + _log_prior(draws) - proposed
        )
    return TwoSizes(draws[rng.choice(len(draws), LEARNT_DRAWS, p=weights)])


def _prior(rng: np.random.Generator, count: int) -> Array:
    draws = PRIOR_MEAN + PRIOR_SPREAD * rng.standard_normal((count, 6))
    draws[:, UNLIKE] = np.minimum(draws[:, UNLIKE], 0.0)  # correlations from 0 to 1
    return np.asarray(draws)


def _log_prior(draws: Array) -> Array:
    return _log_normal(draws, PRIOR_MEAN, np.diag(PRIOR_SPREAD**2))


def _log_normal(draws: Array, mean: Array, covariance: Array) -> Array:
    factor = np.linalg.cholesky(covariance)
    scaled = np.linalg.solve(factor, (draws - mean).T)
    return np.asarray(-0.5 * (scaled**2).sum(axis=0) - np.log(np.diag(factor)).sum())


def _normalised(logs: Array) -> Array:
    weights = np.exp(logs - logs.max())
    return np.asarray(weights / weights.sum())


def _log_likelihood(draws: Array, runs: SizedRuns, distances: Array) -> Array:
    """Return the log likelihood of each draw, shape (draws,), but for a constant."""
    logs = np.empty(len(draws))
    step = max(1, CHUNK_NUMBERS // len(runs.values) ** 2)
    for start in range(0, len(draws), step):
        some = draws[start : start + step]
        factors = np.linalg.cholesky(_of_runs(some, distances, runs.large))
        values = np.broadcast_to(runs.values[:, None], (len(some), len(runs.values), 1))
        scaled = np.linalg.solve(factors, values)
        halves = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
        logs[start : start + step] = -0.5 * (scaled[..., 0] ** 2).sum(axis=1) - halves
    return logs


def _of_runs(draws: Array, distances: Array, large: Flags) -> Array:
    """Return covariances of measured values, shape (draws, runs, runs)."""
    same = large[:, None] == large
    covariances: Array = _of_effects(draws, distances, large, large) + LEVEL**2 * same
    places = np.arange(len(large))
    covariances[:, places, places] += _noise(draws, large) ** 2 + JITTER**2
    return covariances


def _of_effects(draws: Array, distances: Array, first: Flags, second: Flags) -> Array:
    """Return covariances of effects, shape (draws, first, second)."""
    like = np.exp(-0.5 * distances / np.exp(2 * draws[:, LENGTH])[:, None, None])
    between = (1 - np.exp(draws[:, UNLIKE]))[:, None, None]
    like *= np.where(first[:, None] == second, 1.0, between)
    return np.asarray(
        like * _effects(draws, first)[:, :, None] * _effects(draws, second)[:, None, :]
    )


def _effects(draws: Array, large: Flags) -> Array:
    """Return the standard deviation of effects, shape (draws, runs)."""
    return np.asarray(np.exp(draws[:, [EFFECT]] + np.where(large, 0.0, draws[:, [RATIO]])))


def _noise(draws: Array, large: Flags) -> Array:
    """Return the standard deviation of noise, shape (draws, runs)."""
    relative = np.where(large, draws[:, [NOISE_LARGE]], draws[:, [NOISE_SMALL]])
    return np.asarray(_effects(draws, large) * np.exp(relative))


@dataclass(frozen=True, slots=True)
class Truths:
    """Effects at both sizes of a pool of mixtures, drawn so that they agree with the pilot."""

    pool: Array
    """shape (mixtures, domains)."""
    large: Array
    """shape (draws, mixtures), effects at the large size."""
    values: Array
    """shape (draws, 2, mixtures), what a run of each mixture would measure at the small and the
    large size."""


@one_blas_thread()
def draw_truths(
    model: TwoSizes, pool: Array, pilot: SizedRuns | None, rng: np.random.Generator
) -> Truths:
    """Draw effects, and noisy runs of every mixture at either size.

    Args:
        model: Draws of the parameters.
        pool: shape (mixtures, domains).
        pilot: Runs that the draws agree with; None: there are none.
        rng: Source of randomness.
    """
    count = len(pool)
    mixtures = pool if pilot is None else np.vstack([pool, pilot.mixtures])
    distances = squared_distances(mixtures, mixtures)
    effects, values = [], []
    for theta in model.draws:
        one = theta[None]
        like = np.exp(-0.5 * distances / math.exp(2 * theta[LENGTH]))
        factor = np.linalg.cholesky(like + JITTER * np.eye(len(mixtures)))
        both = factor @ rng.standard_normal((len(mixtures), 2 * EFFECT_DRAWS))
        kept = 1 - math.exp(theta[UNLIKE])
        large = both[:, :EFFECT_DRAWS]
        small = kept * large + math.sqrt(max(1 - kept**2, 0)) * both[:, EFFECT_DRAWS:]
        scales = _effects(one, np.array([False, True]))[0]
        drawn = np.stack([small.T * scales[0], large.T * scales[1]], axis=1)
        levels = LEVEL * rng.standard_normal((EFFECT_DRAWS, 2, 1))
        noises = _noise(one, np.array([False, True]))[0]
        if pilot is not None:
            drawn, levels = _agreeing(theta, drawn, levels, (pilot, distances, rng))
        drawn = drawn[:, :, :count]
        noise = noises[:, None] * rng.standard_normal(drawn.shape)
        effects.append(drawn[:, 1])
        values.append(drawn + levels + noise)
    return Truths(pool, np.concatenate(effects), np.concatenate(values))


def _agreeing(
    theta: Array,
    drawn: Array,
    levels: Array,
    given: tuple[SizedRuns, Array, np.random.Generator],
) -> tuple[Array, Array]:
    """Move draws so that they agree with the pilot's values (Matheron's rule).

    Args:
        theta: shape (6,), the parameters.
        drawn: shape (draws, 2, mixtures), effects of the pool's mixtures, then of the pilot's.
        levels: shape (draws, 2, 1).
        given: The pilot; squared distances between all mixtures; source of randomness.
    """
    pilot, distances, rng = given
    one, runs = theta[None], len(pilot.values)
    size = pilot.large.astype(np.int64)
    at = np.arange(runs) + distances.shape[0] - runs
    simulated = drawn[:, size, at] + levels[:, size, 0]
    simulated = simulated + _noise(one, pilot.large)[0] * rng.standard_normal(simulated.shape)
    covariance = _of_runs(one, distances[np.ix_(at, at)], pilot.large)[0]
    pull = np.linalg.solve(covariance, (pilot.values - simulated).T)  # shape (runs, draws)
    moved = []
    for large in (False, True):
        of_size = np.full(len(distances), large)
        cross = _of_effects(one, distances[:, at], of_size, pilot.large)[0]
        moved.append(drawn[:, int(large)] + (cross @ pull).T)
    steps = [LEVEL**2 * pull[pilot.large == large].sum(axis=0) for large in (False, True)]
    return np.stack(moved, axis=1), levels + np.stack(steps, axis=1)[:, :, None]


@one_blas_thread()
def simulated_regret(
    theta: Array, truths: Truths, pilot: SizedRuns | None, bought: tuple[list[int], list[int]]
) -> Array:
    """Return what the mixture that the runs advise loses to the best one, shape (draws,).

    Args:
        theta: shape (6,), the parameters that the analyst believes in.
        truths: Draws of the effects.
        pilot: Runs that exist.
        bought: Places in the pool of the mixtures to run at the small size, and at the large one.

    Returns:
        Differences of log loss at the large size, at least 0.
    """
    small, large = (np.asarray(places, np.int64) for places in bought)
    mixtures = np.vstack([truths.pool[small], truths.pool[large]])
    flags = np.arange(len(mixtures)) >= len(small)
    draws = len(truths.large)
    values = np.hstack([truths.values[:, 0, small], truths.values[:, 1, large]])
    if pilot is not None:
        mixtures, flags = np.vstack([mixtures, pilot.mixtures]), np.append(flags, pilot.large)
        values = np.hstack([values, np.broadcast_to(pilot.values, (draws, len(pilot.values)))])
    pick = np.zeros(draws, np.int64)
    if len(mixtures):
        one = theta[None]
        covariance = _of_runs(one, squared_distances(mixtures, mixtures), flags)[0]
        pool = truths.pool
        cross = _of_effects(
            one, squared_distances(pool, mixtures), np.ones(len(pool), bool), flags
        )[0]
        pick = (np.linalg.solve(covariance, cross.T).T @ values.T).argmin(axis=0)
    regret = truths.large[np.arange(draws), pick] - truths.large.min(axis=1)
    return np.asarray(regret)
