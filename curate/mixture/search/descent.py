"""Descent to a mixture of less predicted loss, by sequential quadratic programming."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.mixture.search.objective import (
    TINY,
    Problem,
    goals_of,
    losses_at,
    pull_at,
    pull_slopes,
    slopes_at,
    value_at,
)
from curate.mixture.search.simplex_box import nearest

Array = NDArray[np.float64]

FREE = {"maxiter": 300, "ftol": 1e-13}
"""Most steps of a descent, and the relative change of the value at which it ends."""
IN_BALL = {"maxiter": 60, "ftol": 1e-9}
"""On the curved edge of a ball the line search stalls at rounding error: with the limits above,
descents took 300 steps of ten evaluations, six times as long, for the same shares to 1e-5."""
STEEPEST = 1e12
"""Largest slope passed to the solver: a power law's is infinite where a share is zero."""


@dataclass(frozen=True, slots=True)
class Ball:
    """The mixtures within a Hellinger distance of one; they form a convex set."""

    centre: Array
    """shape (domains,), shares."""
    radius: float


@dataclass(frozen=True, slots=True)
class _Scaled:
    """The problem's functions; they accept a point a little outside the box."""

    problem: Problem
    scale: float
    """Divisor of all values, so that the solver's tolerance is relative."""

    def inside(self, point: Array) -> Array:
        return np.clip(point, self.problem.box.low, self.problem.box.high)

    def slopes(self, point: Array) -> Array:
        """Differentiate the losses, without the KL term; shape (targets, domains)."""
        inside = self.inside(point)
        slopes = slopes_at(self.problem, inside)
        assert slopes is not None, "a law without a gradient is searched, not descended"
        return np.nan_to_num(slopes, nan=0.0, posinf=STEEPEST, neginf=-STEEPEST)

    def value(self, point: Array) -> float:
        return float(value_at(self.problem, self.inside(point)[None])[0]) / self.scale

    def slope(self, point: Array) -> Array:
        return np.asarray(self.each_slope(point)[0])

    def each(self, point: Array) -> Array:
        """Return the goals, each with the KL term; shape (goals,)."""
        inside = self.inside(point)[None]
        goals = goals_of(losses_at(self.problem, inside), self.problem.goals)[0]
        return np.asarray((goals + pull_at(self.problem, inside)) / self.scale)

    def each_slope(self, point: Array) -> Array:
        goals = self.problem.goals @ self.slopes(point)
        return np.asarray((goals + pull_slopes(self.problem, self.inside(point))) / self.scale)


def descend(problem: Problem, start: Array, ball: Ball | None) -> Array:
    """Follow the gradient from a start to a local minimum.

    Args:
        problem: The problem; its law must have a gradient, and its support is ignored.
        start: shape (domains,), shares within the box.
        ball: A ball that the mixture must stay in; None for the whole box.

    Returns:
        Shape (domains,), shares within the box; `start` if the solver returns no finite point. They
        lie in the ball only to the solver's tolerance, so the caller must check.
    """
    scale = max(abs(float(value_at(problem, start[None])[0])), 1e-9)
    scaled = _Scaled(problem, scale if np.isfinite(scale) else 1.0)
    several = len(problem.goals) > 1
    end = _least_worst(scaled, start, ball) if several else _least(scaled, start, ball)
    return nearest(end, problem.box) if np.all(np.isfinite(end)) else start


def _least(scaled: _Scaled, start: Array, ball: Ball | None) -> Array:
    constraints = [
        {"type": "eq", "fun": lambda x: x.sum() - 1, "jac": lambda x: np.ones(len(start))},
        *([] if ball is None else [_within(ball)]),
    ]
    limits = FREE if ball is None else IN_BALL
    return _minimise(scaled.value, scaled.slope, start, (scaled, constraints, limits))


def _least_worst(scaled: _Scaled, start: Array, ball: Ball | None) -> Array:
    """Minimise the largest goal: append a level to the shares, and keep every goal below it.

    The largest of several goals has kinks; this form is smooth.
    """
    count = len(start)
    flat = np.append(np.zeros(count), 1.0)

    def room_slope(x: Array) -> Array:
        each = scaled.each_slope(x[:count])
        return np.hstack([-each, np.ones((len(each), 1))])

    constraints = [
        {"type": "eq", "fun": lambda x: x[:count].sum() - 1, "jac": lambda x: 1 - flat},
        {"type": "ineq", "fun": lambda x: x[count] - scaled.each(x[:count]), "jac": room_slope},
    ]
    if ball is not None:
        inner = _within(ball)
        constraints.append({
            "type": "ineq",
            "fun": lambda x: inner["fun"](x[:count]),
            "jac": lambda x: np.append(inner["jac"](x[:count]), 0.0),
        })  # fmt: skip
    level = np.append(start, scaled.value(start))
    limits = FREE if ball is None else IN_BALL
    end = _minimise(lambda x: float(x[count]), lambda x: flat, level, (scaled, constraints, limits))
    return end[:count]


def _minimise(
    value: Callable[[Array], float],
    slope: Callable[[Array], Array],
    start: Array,
    within: tuple[_Scaled, list[dict[str, Any]], dict[str, float]],
) -> Array:
    from scipy.optimize import minimize  # takes 0.3 s

    scaled, constraints, limits = within
    box = scaled.problem.box
    bounds: list[tuple[float | None, float | None]] = [
        (float(low), float(high)) for low, high in zip(box.low, box.high, strict=True)
    ]
    bounds += [(None, None)] * (len(start) - len(bounds))
    with warnings.catch_warnings():
        # SciPy before 1.16 (the last for Python 3.10 is 1.15) warns when a step passes a bound by
        # rounding, and clips it there, as later versions do without a word.
        warnings.filterwarnings("ignore", "Values in x were outside bounds", RuntimeWarning)
        result = minimize(
            value, start, jac=slope, bounds=bounds, constraints=constraints, method="SLSQP",
            options=limits,
        )  # fmt: skip
    return np.asarray(result.x, np.float64)


def _within(ball: Ball) -> dict[str, Any]:
    """Constrain to a ball: sum_i sqrt(w_i a_i) >= 1 - radius^2, which is concave in w."""
    roots, least = np.sqrt(ball.centre), 1 - ball.radius**2
    return {
        "type": "ineq",
        "fun": lambda x: roots @ np.sqrt(np.maximum(x, TINY)) - least,
        "jac": lambda x: 0.5 * roots / np.sqrt(np.maximum(x, TINY)),
    }
