"""Score a law by the mixture that it would select: regret@1, gain, and targets that do not move.

Everything here compares observed losses with predictions made without them, so a law that has
learnt nothing shows a regret, and no gain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import FitError
from curate.laws.calibration import NORMAL_95
from curate.laws.fitting.features import distinct_mixtures, mixture_numbers
from curate.laws.fitting.left_out import predict_left_out, run_kernels
from curate.laws.law import Array, RunTable
from curate.laws.scores import checkpoints, finite_or_none, floored, last_checkpoints, seed_noise

RESAMPLES = 500
"""Resamples of the mixtures for the intervals."""
LEAST_MOVED = 2.0
"""Standard errors by which a law must beat the mean, paired over mixtures, to move a target."""
LEAST_REPEATS = 5
"""Fewest repeats, beyond the first run of a mixture, from which seeds alone tell the noise."""
LEAST_WEIGHT = 0.01
"""Least weight of a noisy loss, relative to one without noise."""
MOST_RUNS = 128
"""Runs from which noise is learnt where there are no repeats; time grows with their cube."""


@dataclass(frozen=True, slots=True)
class SelectionValue:
    """Value of taking the run that a law likes best among runs it has not seen."""

    regret: float
    """Regret@1: its observed objective minus the least observed, from 0."""
    regret_high: float
    """Upper end of the one-sided 95 % interval of the regret."""
    gain: float
    """Observed objective of the average run minus that of the selected one."""
    low: float
    """Lower end of the 95 % interval of the gain."""
    high: float

    @property
    def within_noise(self) -> bool:
        """Whether the interval of the gain includes 0."""
        return self.low <= 0

    def to_json(self) -> dict[str, Any]:
        """Return a value of `selection` in `fit.json`."""
        return {
            "regret_at_1": finite_or_none(self.regret),
            "regret_at_1_high": finite_or_none(self.regret_high),
            "gain_over_average_run": {
                "mean": finite_or_none(self.gain),
                "low": finite_or_none(self.low),
                "high": finite_or_none(self.high),
                "within_noise": self.within_noise,
            },
        }


def reference_rows(table: RunTable) -> NDArray[np.int64]:
    """Select the rows at the largest size and most tokens that three runs or more have."""
    groups = last_checkpoints(table, checkpoints(table))
    return groups[-1] if groups else np.arange(len(table.runs))


def by_mixture(table: RunTable, values: Array) -> Array:
    """Average values of rows, shape (rows,), over the repeats of each mixture."""
    place = mixture_numbers(table.weights)
    mean: Array = np.bincount(place, values) / np.bincount(place)
    return mean


def select_unseen(observed: Array, predicted: Array) -> SelectionValue:
    """Score the selection of the mixture with the least predicted objective.

    The interval of the gain adds two variances: that of the selection, over resamples of the
    mixtures, and that of predictions about the observations, which bounds the noise of one run.

    Args:
        observed: shape (mixtures,), objective.
        predicted: shape (mixtures,), predicted without the mixture; equal ones are averaged.

    Example:
        >>> right = select_unseen(np.array([1.0, 2.0, 3.0]), np.array([1.1, 2.1, 3.1]))
        >>> right.regret, round(right.gain, 6)
        (0.0, 1.0)
        >>> select_unseen(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])).regret
        1.0
    """
    mixtures = len(observed)
    rng = np.random.default_rng(0)
    rows = [np.arange(mixtures), *rng.integers(mixtures, size=(RESAMPLES, mixtures))]
    regrets, gains = [], []
    for drawn in rows:
        values, guesses = observed[drawn], predicted[drawn]
        least = guesses.min()
        taken = float(values[np.isclose(guesses, least, rtol=1e-9)].mean())
        regrets.append(taken - float(values.min()))
        gains.append(float(values.mean()) - taken)
    error = float((observed - predicted).var())
    half = NORMAL_95 * math.sqrt(error + float(np.var(gains[1:])))
    return SelectionValue(
        regret=regrets[0],
        regret_high=max(regrets[0], float(np.quantile(regrets[1:], 0.95))),
        gain=gains[0],
        low=gains[0] - half,
        high=gains[0] + half,
    )


def moved_targets(table: RunTable, predicted: Array, means: Array) -> NDArray[np.bool_]:
    """Tell which targets a law predicts better than their mean does, beyond noise.

    Squared errors of log losses are averaged over each mixture's rows and compared in pairs; the
    law must be better by `LEAST_MOVED` standard errors.

    Args:
        table: The runs.
        predicted: shape (rows, targets), predicted without the row's mixture.
        means: shape (rows, targets), means of the others' losses, the dummy's predictions.

    Returns:
        shape (targets,).
    """
    logs = np.log(table.losses)
    of_law = (np.log(floored(predicted, table)) - logs) ** 2
    better = (np.log(means) - logs) ** 2 - of_law
    moved = []
    for column in better.T:
        mixtures = by_mixture(table, column)
        error = float(mixtures.std(ddof=1)) / math.sqrt(len(mixtures)) if len(mixtures) > 1 else 0
        moved.append(float(mixtures.mean()) > LEAST_MOVED * error)
    return np.array(moved)


@dataclass(frozen=True, slots=True)
class TargetNoise:
    """Standard deviation of each target's log losses that no mixture explains."""

    relative: Array
    """shape (targets,); an upper bound where there are no repeats."""
    mixtures_repeated: int
    """Mixtures whose repeats tell it; 0: what no smooth function of the shares explains."""

    def to_json(self, targets: Sequence[str]) -> dict[str, Any]:
        """Return `target_noise` of `fit.json` and `mixture.json`; NaN becomes null."""
        return {
            "mixtures_repeated": self.mixtures_repeated,
            "relative": {
                name: finite_or_none(value)
                for name, value in zip(targets, self.relative, strict=True)
            },
        }


def target_noise(table: RunTable) -> TargetNoise:
    """Learn each target's noise: from repeats where there are enough, else from smoothness.

    Repeats are runs of one mixture, size and token count; their spreads are pooled over mixtures.
    Without them, noise is what Gaussian processes of the shares leave unexplained at the last
    checkpoint of the largest size. NaN with fewer than four mixtures.
    """
    repeats = seed_noise(table)
    if repeats.runs - repeats.groups >= LEAST_REPEATS:
        return TargetNoise(repeats.relative, repeats.groups)
    rows = reference_rows(table)
    if len(rows) > MOST_RUNS:
        order = np.lexsort(table.weights[rows].T)
        rows = rows[order[:: math.ceil(len(rows) / MOST_RUNS)]]
    weights = table.weights[rows]
    if len(distinct_mixtures(weights)) < 4:
        return TargetNoise(np.full(len(table.targets), math.nan), 0)
    kernels = run_kernels(weights[:, weights.max(axis=0) > 0])
    left_out = predict_left_out(kernels, np.log(table.losses[rows]), np.ones(len(rows), bool))
    return TargetNoise(left_out.noise, 0)


def noise_weights(table: RunTable) -> Array:
    """Weigh each target by how far its differences between mixtures stand out from its noise.

    A weight is S / (S + N p / n): S is the variance between mixtures beyond the noise, N that of
    the noise, and p / n the domains for each run, to which a fit averages noise down. It is the
    factor by which a noisy effect must shrink to be expected, so that the weighted mean of losses
    is the best guess of their plain mean, and tends to it with more runs. Weights by 1 / N would
    leave out all but the least noisy targets, and with them the domains that only the others need.

    Returns:
        shape (targets,), from `LEAST_WEIGHT` to 1.

    Raises:
        FitError: There are fewer than four mixtures, from which no noise can be learnt.

    References:
        Robinson 1991, "That BLUP is a good thing", Statistical Science 6(1), for the shrinkage.
    """
    noise = target_noise(table).relative ** 2
    if np.isnan(noise).any():
        raise FitError(
            "mixture.objective.weights: noise cannot be learnt from fewer than four mixtures; give "
            "weights by target, or train more runs"
        )
    last = table.take(reference_rows(table))
    runs, domains = len(last.runs), int((last.weights.max(axis=0) > 0).sum())
    means = np.stack([by_mixture(last, column) for column in np.log(last.losses).T])
    seen = means.var(axis=1, ddof=1)
    effect = np.maximum(seen - noise * means.shape[1] / runs, LEAST_WEIGHT * seen)
    total = effect + noise * min(1.0, domains / runs)
    return np.asarray(np.maximum(effect / np.maximum(total, 1e-300), LEAST_WEIGHT))
