"""Uncertainty of an optimised mixture: resample the runs, refit the law, and optimise again.

Runs are resampled whole, with all their checkpoints, and the trust region stays that of the
original runs. So the intervals cover the sampling of runs, not errors of the law, of its priors or
of the trust region. Optima are flat: the data determine the loss tightly and the weights loosely,
so the regret of a mixture says more than its interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from curate.errors import FitError
from curate.laws.law import FittedLaw, RunTable
from curate.mixture.request import LEAST_REPLICATES
from curate.mixture.search.objective import Problem, value_at
from curate.mixture.search.optimise import optimise

Array = NDArray[np.float64]

COVERAGE = 0.95
MOST_FAILED = 0.2
"""Largest share of resamples that may fail to determine the law; with more, no interval."""
INDISTINCT = 0.05
"""A mixture is within noise of the best if it is no worse in this share of the resamples."""


@dataclass(frozen=True, slots=True)
class Regret:
    """Loss that a mixture gives away, over the resamples."""

    mean: float
    """Expected, in the unit of the objective."""
    high: float
    """Its 95th percentile."""
    within_noise: bool
    """No worse than the recommendation in at least 5 % of the resamples."""

    def to_json(self) -> dict[str, Any]:
        """Return a value of `regret` in `mixture.json`."""
        return {"mean": self.mean, "high": self.high, "within_noise": self.within_noise}


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Spread of the answer over resamples of the runs."""

    low: Array
    """shape (domains,), lower ends of 95 % intervals of the optimal shares."""
    high: Array
    """shape (domains,), upper ends."""
    optima: Array
    """shape (replicates, domains), the optimum of each resample."""
    noise_low: Array
    """shape (domains,), least share among the mixtures tried that are within noise of the best."""
    noise_high: Array
    regret: dict[str, Regret] = field(default_factory=dict)
    """Regrets by name of the mixture; `recommendation` is one."""
    failed: int = 0
    """Number of resamples left out because the law could not be fitted to them."""


@dataclass(frozen=True, slots=True)
class Resampling:
    """Runs to resample, and how to fit and optimise on each resample."""

    table: RunTable
    fit: Callable[[RunTable], FittedLaw]
    replicates: int
    """Resamples, at least 20."""
    seed: int = 0
    solve: Callable[[Problem], Array] | None = None
    """A faster way to optimise than `optimise`, if there is one."""


def bootstrap(
    resampling: Resampling, problem: Problem, best: Array, rivals: Mapping[str, Array]
) -> Uncertainty:
    """Resample runs, refit, optimise again.

    Intervals are percentiles of the optima, widened by the factor that is exact for the mean of as
    few runs: plain percentiles are too narrow by about sqrt(n / (n - 1)) and the tail of Student's
    t.

    Args:
        resampling: The runs, the fit and the number of resamples.
        problem: The problem with the law of all runs; its support is kept for every resample.
        best: shape (domains,), its optimum.
        rivals: More mixtures whose regret to compute, such as natural and uniform, by name; each of
            shape (domains,).

    Raises:
        ValueError: Fewer than 20 replicates.
        FitError: More than a fifth of the resamples cannot determine the law, or there are fewer
            than four runs.

    References:
        Efron and Tibshirani 1993, "An Introduction to the Bootstrap", for the percentile interval;
        Hesterberg 2015, arXiv:1411.5279, section 4.2, for its expansion in small samples.
    """
    if resampling.replicates < LEAST_REPLICATES:
        raise ValueError(
            f"expected at least {LEAST_REPLICATES} replicates, got {resampling.replicates}"
        )
    runs = len(set(resampling.table.runs))
    if runs < 4:
        raise FitError(
            f"mix: intervals need at least 4 runs, there are {runs}; set "
            "mixture.replicates: 0 to go without, or train more"
        )
    laws, optima, failed = _replicated(resampling, problem)
    if failed > MOST_FAILED * resampling.replicates:
        raise FitError(
            f"mix: {failed} of {resampling.replicates} resamples of the {runs} runs cannot "
            "determine the law, so its optimum has no interval; train more runs, choose a law with "
            "fewer coefficients, or set mixture.replicates: 0"
        )
    low, high = interval(optima, best, runs)
    tried = {"recommendation": best, **rivals}
    points = np.vstack([*tried.values(), (optima + best) / 2, optima])
    values = np.array([value_at(replace(problem, law=law), points) for law in laws])
    no_worse = (values <= values[:, :1] + 1e-12).mean(axis=0) >= INDISTINCT
    return Uncertainty(
        low=np.maximum(low, 0.0),
        high=np.minimum(high, 1.0),
        optima=optima,
        noise_low=points[no_worse].min(axis=0),
        noise_high=points[no_worse].max(axis=0),
        regret=_regrets(tuple(tried), values, no_worse),
        failed=failed,
    )


def _replicated(resampling: Resampling, problem: Problem) -> tuple[list[FittedLaw], Array, int]:
    """Fit and optimise every resample: the laws, the optima, and the number of failed fits."""
    table = resampling.table
    names = sorted(set(table.runs))
    rows_of = {name: np.flatnonzero(np.array(table.runs) == name) for name in names}
    solve = resampling.solve or (lambda sampled: optimise(sampled, resampling.seed).weights)
    rng = np.random.default_rng(resampling.seed)
    laws: list[FittedLaw] = []
    optima: list[Array] = []
    for _ in range(resampling.replicates):
        drawn = rng.integers(len(names), size=len(names))
        try:
            law = resampling.fit(_resampled(table, names, rows_of, drawn))
            optimum = solve(replace(problem, law=law))
        except FitError:
            continue
        laws.append(law)
        optima.append(optimum)
    return laws, np.array(optima), resampling.replicates - len(laws)


def _regrets(
    names: tuple[str, ...], values: Array, no_worse: NDArray[np.bool_]
) -> dict[str, Regret]:
    """Compute regrets of the first columns of `values`, shape (replicates, points), by name."""
    # The least of a row stands for the resample's optimum: the solver's own may be beaten.
    lost = values - values.min(axis=1, keepdims=True)
    return {
        name: Regret(
            float(lost[:, column].mean()),
            float(np.quantile(lost[:, column], COVERAGE)),
            bool(no_worse[column]),
        )
        for column, name in enumerate(names)
    }


def interval(draws: Array, centre: Array, runs: int) -> tuple[Array, Array]:
    """Compute 95 % intervals from resampled optima, by expanded percentiles.

    Args:
        draws: shape (replicates, domains).
        centre: shape (domains,), the estimate; always inside.
        runs: Number of runs that were resampled, at least 2.

    Returns:
        Lower and upper ends, shape (domains,) each.

    Example:
        >>> low, high = interval(np.linspace(0, 1, 1001)[:, None], np.array([0.5]), 1000)
        >>> round(float(low[0]), 2), round(float(high[0]), 2)
        (0.02, 0.98)
    """
    factor = math.sqrt(runs / (runs - 1))
    tail = float(ndtr(factor * stdtrit(runs - 1, (1 - COVERAGE) / 2)))
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return np.minimum(low, centre), np.maximum(high, centre)


def _resampled(
    table: RunTable,
    names: list[str],
    rows_of: Mapping[str, NDArray[np.int64]],
    drawn: NDArray[np.int64],
) -> RunTable:
    """Return the checkpoints of the drawn runs; a run drawn twice becomes two runs by name.

    Laws count runs by name. Folds of a cross-validation group by mixture, so copies stay together.
    """
    rows = np.concatenate([rows_of[names[run]] for run in drawn])
    labels = [
        f"{names[run]}#{place}" for place, run in enumerate(drawn) for _ in rows_of[names[run]]
    ]
    return replace(table.take(rows), runs=tuple(labels))
