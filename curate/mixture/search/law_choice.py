"""Intervals of an optimised mixture, and of its gain, that include the choice of the law.

The runs' mixtures are divided into a few groups. Every law of a panel, the method's own among them,
is fitted without each group in turn and optimised again. How the optimum moves gives a jackknife's
standard error, less the leverage of the runs; how well the group's losses are predicted gives the
law a weight. An interval holds 95 % of the weighted mixture of the laws' optima, each with
Student's t of its standard error. The trust region is left out: where it binds, the interval
reaches to what the laws predict beyond it.
It also holds the method's answer and its own standard error on either side: where other laws have
the weight, the answer would be at an end of its interval, and a run less would move it out. Where
that makes one tail smaller, the other is as much larger.

The gain over another mixture has its interval in the same way, from what each law and its refits
predict for the two: where the laws agree and keep to it, it is narrow however much single runs
scatter, and where the method's own law extrapolates, it holds what the others predict.

A few refits a law are enough, so every law has intervals in the time of some fits, trees and
processes too. They do not cover what no law of the panel can express.

References:
    Quenouille's grouped jackknife: Shao and Tu 1995, "The Jackknife and Bootstrap", section 2.3.
    Leverage: MacKinnon and White 1985, J. Econometrics 29, HC2 and HC3 (the jackknife), and their
    forms for groups, Bell and McCaffrey 2002, Survey Methodology 28.
    Weights: Yao et al. 2018, arXiv:1704.02030, pseudo-BMA+.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from curate.errors import FitError
from curate.laws import LAWS
from curate.laws.calibration import log_errors
from curate.laws.fit_once import fit_once
from curate.laws.fitting.features import mixture_numbers, run_folds
from curate.laws.law import FittedLaw, Law, RunTable
from curate.mixture.search.descent import Ball, descend
from curate.mixture.search.kept_proportions import coordinates, narrowed
from curate.mixture.search.objective import TINY, Problem, goals_of, in_domains, slopes_at, value_at
from curate.mixture.search.optimise import optimise
from curate.mixture.search.simplex_box import nearest
from curate.mixture.search.trust_region import Support, hellinger, is_within, without

Array = NDArray[np.float64]

GROUPS = 5
"""Groups of mixtures left out in turn; each takes one more fit of every law."""
PANEL = ("additive", "exponential")
"""Laws that every interval includes beside the method's own: of different form, fitted in a second
or two to 512 runs of 17 domains."""
COVERAGE = 0.95
STEPS = 400
"""Points that stand for Student's t."""
_STEPS = (np.arange(STEPS) + 0.5) / STEPS
DRAWS = 400
"""Reweighted tables behind the weights of the laws."""
LEAST_WEIGHT = 0.01
"""A law of less weight is left out."""
FACTORS = (0.4, 2.25)
"""Bounds of the factor of a jackknife's variance, which few runs determine only roughly."""


@dataclass(frozen=True, slots=True)
class Refitted:
    """A law fitted to all runs and without each group of mixtures."""

    law: Law
    whole: FittedLaw
    """Fitted to all runs."""
    parts: tuple[FittedLaw, ...]
    predicted: Array
    """shape (rows, targets), each row's losses by the fit without its group."""


@dataclass(frozen=True, slots=True)
class PanelOpinion:
    """The optimum of one law of the panel."""

    weight: float
    """Probability that it predicts unseen mixtures best."""
    optimum: Array
    """shape (domains,), without the trust region."""
    errors: Array
    """shape (domains,), standard errors."""


def refit(law: Law, whole: FittedLaw, table: RunTable, groups: int = GROUPS) -> Refitted:
    """Fit a law without each group of mixtures.

    Args:
        law: The law.
        whole: The law fitted to all runs.
        table: The runs, of at least two mixtures.
        groups: At least 2; fewer where there are fewer mixtures.

    Raises:
        FitError: Some part of the runs cannot determine the law.
    """
    predicted, parts = np.empty_like(table.losses), []
    for held in run_folds(table, groups):
        part = fit_once(law, table.take(~held))
        rows = table.take(held)
        predicted[held] = part.predict(rows.weights, rows.tokens, rows.params)
        parts.append(part)
    return Refitted(law, whole, tuple(parts), predicted)


def _of_panel(name: str, table: RunTable) -> Refitted | None:
    """Fit a law of the panel; None where the runs are too few for it, and the others stand."""
    try:
        return refit(LAWS[name], fit_once(LAWS[name], table), table)
    except FitError:
        return None


def panel_with(refits: Refitted, table: RunTable) -> list[Refitted]:
    """Join a method's own law with the laws of the panel."""
    others = [_of_panel(name, table) for name in PANEL if name != refits.law.name]
    return [refits, *(other for other in others if other is not None)]


def opinions(
    panel: Sequence[Refitted], problem: Problem, table: RunTable
) -> dict[str, PanelOpinion]:
    """Optimise every law of the panel, with its standard errors and its weight.

    Args:
        panel: The laws.
        problem: The problem of the method; its law and support are not used.
        table: The runs that the laws were fitted to.

    Returns:
        Opinions by the law's name, without laws of next to no weight.
    """
    opinion = {}
    for one, weight in _weighed(panel, problem, table):
        convex = one.law.convex and problem.unique_share is None
        free = replace(problem, law=one.whole, support=None, convex=convex)
        optimum = optimise(free).weights
        moved = np.array([again(replace(free, law=part), optimum) for part in one.parts])
        errors = _jackknife(moved) * leverage_factor(one, table)
        opinion[one.law.name] = PanelOpinion(weight, optimum, errors)
    return opinion


def leverage_factor(one: Refitted, table: RunTable) -> float:
    """Compute the factor of a jackknife's standard errors that takes leverage from them.

    In least squares, the errors of runs of leverage h have a variance of 1 - h times the noise's
    where they are fitted and of 1 / (1 - h) times where they are left out, as the jackknife has
    them: 1.5 times too large for 16 runs and 5 parameters. So 1 - h is the ratio of both errors, by
    their geometric means, which single runs do not decide. Where that of root mean squares is less,
    some runs are missed by more than leverage explains: the law has another form than they, and its
    own error is as much larger.

    Args:
        one: The law and its refits.
        table: The runs that the law was fitted to.
    """
    fitted = one.whole.predict(table.weights, table.tokens, table.params)
    near, far = (
        np.abs(log_errors(predicted, table)) + TINY for predicted in (fitted, one.predicted)
    )
    kept = math.exp(np.log(near / far).mean())
    most = math.sqrt((near**2).mean() / (far**2).mean())
    return math.sqrt(np.clip(kept**2 / most, *FACTORS))


@dataclass(frozen=True, slots=True)
class Gain:
    """How much lower the objective of one mixture is than that of another."""

    mean: float
    """Prediction of the method's law."""
    low: float
    """Lower end of the 95 % interval over the laws."""
    high: float


def gain_between(
    panel: Sequence[Refitted], problem: Problem, table: RunTable, mixtures: Array
) -> Gain:
    """Predict the gain of one mixture over another, with its interval over the laws of a panel.

    Args:
        panel: The laws, the method's own first.
        problem: The problem of the method; its law is not used.
        table: The runs that the laws were fitted to.
        mixtures: shape (2, domains), the mixture to compare with, then the one that gains.

    Returns:
        The gain in the unit of the objective.
    """

    def gain(law: FittedLaw) -> float:
        return float(-np.diff(value_at(replace(problem, law=law), mixtures))[0])

    mean = gain(panel[0].whole)
    parts = []
    for one, weight in _weighed(panel, problem, table):
        refitted = np.array([gain(part) for part in one.parts])
        spread = stdtrit(len(refitted) - 1, _STEPS) * _jackknife(refitted)
        parts.append((weight, gain(one.whole) + spread))
    low, high = _central(parts)
    return Gain(mean, min(low, mean), max(high, mean))


def _weighed(
    panel: Sequence[Refitted], problem: Problem, table: RunTable
) -> list[tuple[Refitted, float]]:
    """Pair the laws with their weights, without laws of next to none."""
    errors = [_errors(one.predicted, problem, table) for one in panel]
    weights = law_weights(np.array(errors), mixture_numbers(table.weights)).tolist()
    return [
        (one, weight) for one, weight in zip(panel, weights, strict=True) if weight >= LEAST_WEIGHT
    ]


def _jackknife(values: Array) -> Array:
    """Compute the grouped jackknife's standard error from refits, shape (groups, …)."""
    count = len(values)
    squares = ((values - values.mean(axis=0)) ** 2).sum(axis=0)
    return np.asarray(np.sqrt((count - 1) / count * squares))


def answer_errors(refits: Refitted, problem: Problem, table: RunTable, answer: Array) -> Array:
    """Compute the jackknife's standard errors of a method's answer, in its trust region.

    Without some of the runs the trust region is another one, too; it is searched around one run.

    Args:
        refits: The method's law.
        problem: The problem of the method; its law is not used.
        table: The runs that the law was fitted to.
        answer: shape (domains,), the method's.
    """
    moved = []
    for part, held in zip(refits.parts, run_folds(table, len(refits.parts)), strict=True):
        fitted = replace(problem, law=part, support=None)
        end = again(fitted, answer)
        if problem.support is not None:
            end = _held(fitted, end, answer, without(problem.support, table.weights[held]))
        moved.append(end)
    return _jackknife(np.array(moved))


def _held(problem: Problem, free: Array, answer: Array, support: Support) -> Array:
    """Return the optimum in the ball of the run nearest to an answer; `free` if in the support."""
    if is_within(free, support.mixtures, support.radius):
        return free
    if slopes_at(problem, answer) is None or problem.proportions is not None:
        return optimise(replace(problem, support=support)).weights
    run = support.mixtures[hellinger(answer[None], support.mixtures)[0].argmin()]
    return descend(problem, nearest(run, problem.box), Ball(run, support.radius))


def again(problem: Problem, start: Array) -> Array:
    """Optimise from the optimum of all runs, or search where there is no gradient."""
    if slopes_at(problem, start) is None:
        return optimise(problem).weights
    if problem.proportions is not None:
        small = narrowed(problem, problem.proportions)
        moved = again(small, coordinates(start[None], problem.proportions)[0])
        return in_domains(small, moved)
    ends = np.array([descend(problem, start, None), start])
    return np.asarray(ends[int(np.argmin(value_at(problem, ends)))])


def _errors(predicted: Array, problem: Problem, table: RunTable) -> Array:
    """Compare the objective of predicted and observed losses, relative, shape (rows,)."""
    return objective_of(predicted, problem) / objective_of(table.losses, problem) - 1


def objective_of(losses: Array, problem: Problem) -> Array:
    """Evaluate the objective of losses, shape (rows, targets), without the KL term."""
    return np.asarray(goals_of(losses, problem.goals).max(axis=1))


def law_weights(errors: Array, mixture: NDArray[np.int64]) -> Array:
    """Weigh laws by the probability that their errors left out are the smallest.

    Mixtures are weighted at random many times over; each time a law's weight is its likelihood
    under normal errors of its own size.

    Args:
        errors: shape (laws, rows).
        mixture: shape (rows,), the number of the mixture of each row.

    Returns:
        shape (laws,), summing to 1.

    Example:
        >>> law_weights(np.array([[0.1, -0.1, 0.1], [0.1, -0.1, 0.1]]), np.arange(3)).tolist()
        [0.5, 0.5]
    """
    count = int(mixture.max()) + 1
    squares = np.array([np.bincount(mixture, row**2) / np.bincount(mixture) for row in errors])
    draws = np.random.default_rng(0).dirichlet(np.ones(count), DRAWS)
    logs = -0.5 * count * np.log(squares @ draws.T + 1e-18)  # shape (laws, draws)
    weights = np.exp(logs - logs.max(axis=0))
    mean: Array = (weights / weights.sum(axis=0)).mean(axis=1)
    return mean


def combined(
    opinion: Mapping[str, PanelOpinion], answer: Array, errors: Array, groups: int
) -> tuple[Array, Array]:
    """Compute 95 % intervals of the shares from the laws' optima; they hold the answer.

    Args:
        opinion: Optima by law.
        answer: shape (domains,), the method's.
        errors: shape (domains,), its standard errors.
        groups: Number of groups behind the standard errors.

    Returns:
        Lower and upper ends, shape (domains,) each.
    """
    spread = stdtrit(groups - 1, _STEPS)
    ends = [
        _around(
            [
                (one.weight, one.optimum[place] + spread * one.errors[place])
                for one in opinion.values()
            ],
            answer[place] - errors[place],
            answer[place] + errors[place],
        )
        for place in range(len(answer))
    ]
    low, high = np.clip(np.array(ends).T, 0, 1)
    return low, high


def _around(parts: Sequence[tuple[float, Array]], low: float, high: float) -> tuple[float, float]:
    """Find 95 % of a mixture of laws' points around a span that is held in any case.

    Where the span makes one tail smaller, the other is as much larger, so it is 95 % in all.
    """
    points, weights = _sorted(parts)
    tail = (1 - COVERAGE) / 2
    ends = np.append(_quantiles(points, weights, [tail, 1 - tail]), [low, high])
    below, above = weights[points < ends.min()].sum(), weights[points > ends.max()].sum()
    least, most = _quantiles(points, weights, [2 * tail - above, 1 - 2 * tail + below])
    return min(least, low), max(most, high)


def _central(parts: Sequence[tuple[float, Array]]) -> tuple[float, float]:
    """Find the central 95 % of a mixture of laws' points, shape (STEPS,) each, by their weights."""
    low, high = _quantiles(*_sorted(parts), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return low, high


def _sorted(parts: Sequence[tuple[float, Array]]) -> tuple[Array, Array]:
    """Sort a mixture's points, with weights that sum to 1."""
    points = np.concatenate([steps for _, steps in parts])
    weights = np.repeat([weight for weight, _ in parts], STEPS)
    order = np.argsort(points, kind="stable")
    return points[order], weights[order] / weights.sum()


def _quantiles(points: Array, weights: Array, at: Sequence[float]) -> list[float]:
    """Interpolate between sorted points; each is the middle of its weight, as `_STEPS` are."""
    return [float(end) for end in np.interp(at, np.cumsum(weights) - weights / 2, points)]
