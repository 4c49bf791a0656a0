"""Find the best mixture of every stage, the best single mixture, and whether the former pays.

Both minimise the same fitted law under the same bounds, by sequential quadratic programming. What
the law promises of an optimum that was chosen by it is too good, so the verdict comes from halves:
one half of the runs chooses both optima, the law of the other half compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from curate.laws.fitting.features import mixture_numbers
from curate.laws.law import Array, FittedLaw, RunTable

SPLITS = 12
"""Random divisions of the runs into halves, each of which judges twice."""
LEAST_MIXTURES = 8
"""Fewest different mixtures of which half can be fitted."""
CONFIDENCE = 0.99
"""Coverage of the interval of the gain. With 0.95, stages were said to pay in 3 of 40 planted
tables where late tokens of all domains are worth the same, and there is nothing to gain."""
LEAST_SHARE = 1e-9
"""Shares below this are rounding."""
STEPS = 200
"""Most iterations of the quadratic programming."""


@dataclass(frozen=True, slots=True)
class StagedProblem:
    """A fitted law of stages, its objective and the bounds of its mixtures.

    S stages, D domains, G goals.
    """

    law: FittedLaw
    columns: NDArray[np.int64]
    """shape (S, D), the law's column of each stage and domain; -1 for none."""
    goals: Array
    """shape (G, targets), weights of the losses in each goal; the largest goal is minimised."""
    fractions: Array
    """shape (S,), each stage's part of all tokens; sums to 1."""
    most: Array
    """shape (S, D), largest share of each domain within each stage."""
    low: Array
    """shape (D,), least share of all tokens."""
    high: Array
    """shape (D,), largest share of all tokens, by supply and caps."""
    starts: Array
    """shape (starts, S, D), mixtures where the search begins."""
    tokens: float = np.nan
    params: float = np.nan

    def shares(self, mixtures: Array) -> Array:
        """Return shares of all tokens in the law's columns, shape (rows, columns).

        Args:
            mixtures: shape (rows, S, D), shares within each stage.
        """
        parts = mixtures * self.fractions[:, None]
        present = self.columns >= 0
        shares = np.zeros((len(mixtures), int(self.columns.max()) + 1))
        shares[:, self.columns[present]] = parts[:, present]
        return shares

    def values(self, mixtures: Array) -> Array:
        """Predict the goals, shape (rows, G)."""
        rows = np.ones(len(mixtures))
        losses = self.law.predict(self.shares(mixtures), rows * self.tokens, rows * self.params)
        return np.asarray(losses @ self.goals.T)

    def value(self, mixture: Array) -> float:
        """Predict the objective of one mixture of each stage, shape (S, D)."""
        return float(self.values(mixture[None]).max())

    def slopes(self, mixture: Array) -> Array:
        """Differentiate the goals by shares within stages, shape (G, S, D)."""
        one = np.ones(1)
        by_share = self.law.gradient(
            self.shares(mixture[None]), one * self.tokens, one * self.params
        )
        assert by_share is not None, "the law has a gradient"
        padded = np.column_stack([by_share[0], np.zeros(len(by_share[0]))])
        slopes = padded[:, self.columns] * self.fractions[:, None]
        return np.asarray(np.einsum("gt,tsd->gsd", self.goals, slopes))


@dataclass(frozen=True, slots=True)
class StagesVerdict:
    """Gain of several mixtures over a single one, judged by halves of the runs."""

    gain: float
    """Mean gain, as a part of the loss of the single mixture."""
    low: float
    """Lower end of its 99 % interval."""
    high: float

    @property
    def pays(self) -> bool:
        """Whether the gain is beyond noise."""
        return self.low > 0


def best_stages(problem: StagedProblem) -> Array:
    """Find the mixtures of least predicted loss, one for each stage, shape (S, D)."""
    stages, domains = problem.most.shape
    return _search(
        problem,
        lambda free: np.asarray(free.reshape(stages, domains)),
        np.concatenate([start.ravel()[None] for start in problem.starts]),
    )


def best_single(problem: StagedProblem) -> Array:
    """Find the single mixture of least predicted loss for all stages, shape (D,)."""
    means = np.einsum("s,nsd->nd", problem.fractions, problem.starts)
    stages = len(problem.fractions)
    mixtures = _search(problem, lambda free: np.tile(free, (stages, 1)), means)
    return np.asarray(mixtures[0])


def _search(problem: StagedProblem, expand: Callable[[Array], Array], starts: Array) -> Array:
    """Minimise the largest goal, from every start.

    Args:
        problem: The law and its bounds.
        expand: Free numbers → mixtures of all stages, linear.
        starts: shape (starts, free numbers).

    Returns:
        shape (S, D).
    """
    from scipy.optimize import minimize

    size = int(starts.shape[1])
    basis = np.stack([expand(row) for row in np.eye(size)])
    stages, domains = problem.most.shape
    # A free number may stand for several stages; the strictest of their bounds holds.
    most = np.where(basis > 0, problem.most, np.inf).reshape(size, -1).min(axis=1)
    sums = basis.sum(axis=2).T
    total = np.einsum("fsd,s->df", basis, problem.fractions)
    goals = len(problem.goals)
    unit = max(problem.value(expand(starts[0])), 1e-12)
    # With several goals one more number bounds them all, and is what is minimised.
    more = int(goals > 1)

    def value(free: Array) -> float:
        return float(free[-1]) if more else problem.value(expand(free)) / unit

    def slope(free: Array) -> Array:
        if more:
            return np.asarray(np.eye(size + 1)[-1])
        return np.asarray(np.einsum("gsd,fsd->f", problem.slopes(expand(free)), basis) / unit)

    def room(free: Array) -> Array:
        return np.asarray(free[-1] - problem.values(expand(free[:size])[None])[0] / unit)

    def room_slope(free: Array) -> Array:
        by_free = -np.einsum("gsd,fsd->gf", problem.slopes(expand(free[:size])), basis) / unit
        return np.column_stack([by_free, np.ones(goals)])

    pad = np.zeros((max(stages, domains), more))
    sums, total = np.hstack([sums, pad[:stages]]), np.hstack([total, pad[:domains]])
    if np.unique(sums, axis=0).shape[0] < stages:
        sums = np.unique(sums, axis=0)  # one mixture sums to 1 once, not once a stage
    conditions = [
        {"type": "eq", "fun": lambda x: sums @ x - 1, "jac": lambda x: sums},
        {"type": "ineq", "fun": lambda x: problem.high - total @ x, "jac": lambda x: -total},
        {"type": "ineq", "fun": lambda x: total @ x - problem.low, "jac": lambda x: total},
    ]
    if more:
        conditions.append({"type": "ineq", "fun": room, "jac": room_slope})
    bounds = [(0.0, min(1.0, bound)) for bound in most] + [(None, None)] * more
    best, least = None, np.inf
    for start in starts:
        first = np.minimum(start, most)
        if more:
            first = np.append(first, problem.value(expand(first)) / unit)
        answer = minimize(
            value, first, jac=slope, method="SLSQP", bounds=bounds, constraints=conditions,
            options={"maxiter": STEPS, "ftol": 1e-10},
        )  # fmt: skip
        mixture = expand(answer.x[:size])
        mixture = np.where(mixture < LEAST_SHARE, 0.0, mixture)
        broken = max(
            float(np.abs(sums @ answer.x - 1).max()), float((total @ answer.x - problem.high).max())
        )
        mixture /= mixture.sum(axis=1, keepdims=True)
        reached = problem.value(mixture)
        if best is None or (broken < 1e-6 and reached < least):
            best, least = mixture, reached
    assert best is not None, "there are starts"
    return np.asarray(best)


def judge(
    problem: StagedProblem, table: RunTable, fit: Callable[[RunTable], FittedLaw], seed: int = 0
) -> StagesVerdict | None:
    """Judge the gain of several mixtures: halves of the runs choose, the others compare.

    The interval is Student's t with the variance of resampled halves, which overlap.

    Args:
        problem: The law of all runs, and the bounds.
        table: Its runs.
        fit: Fits the law.
        seed: Of the divisions.

    Returns:
        The verdict; None where there are too few mixtures to divide.

    References:
        Nadeau and Bengio 2003, "Inference for the generalization error", Eq. 9, for the variance.
    """
    group = mixture_numbers(table.weights)
    mixtures = int(group.max()) + 1
    if mixtures < LEAST_MIXTURES:
        return None
    rng = np.random.default_rng(seed)
    problem = replace(problem, starts=problem.starts[:1])
    gains = []
    for _ in range(SPLITS):
        first = np.isin(group, rng.permutation(mixtures)[: mixtures // 2])
        halves = [replace(problem, law=fit(table.take(rows))) for rows in (first, ~first)]
        both = []
        for chooses, compares in (halves, halves[::-1]):
            single = np.tile(best_single(chooses), (len(problem.fractions), 1))
            staged = best_stages(chooses)
            both.append(np.log(compares.value(single) / compares.value(staged)))
        gains.append(np.mean(both))
    mean, spread = float(np.mean(gains)), float(np.std(gains, ddof=1))
    # The halves that compare are as large as those that choose.
    half = stdtrit(SPLITS - 1, (1 + CONFIDENCE) / 2) * spread * np.sqrt(1 / SPLITS + 1)
    return StagesVerdict(*(float(-np.expm1(-x)) for x in (mean, mean - half, mean + half)))
