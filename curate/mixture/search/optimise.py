"""Find the mixture of least predicted loss for any fitted law, within caps, floors and support.

A law with a gradient is minimised by sequential quadratic programming, from one start where the
problem is convex and from several where it may not be. A law without one, such as trees, is
minimised by random search. If the best mixture lies outside the support of the runs, the search is
repeated in balls around the best runs, unless the problem has no support.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from curate.errors import FitError
from curate.mixture.search.descent import Ball, descend
from curate.mixture.search.kept_proportions import narrowed, prior_in_coordinates
from curate.mixture.search.objective import (
    TINY,
    Problem,
    goals_of,
    in_domains,
    losses_at,
    pull_slopes,
    slopes_at,
    value_at,
)
from curate.mixture.search.simplex_box import (
    Box,
    best_corner,
    nearest,
    nearest_in_proportion,
    nearest_rows,
)
from curate.mixture.search.trust_region import hellinger, is_within

Array = NDArray[np.float64]

STARTS = 6
"""Random starts where a problem may have several minima: half are the best of the pool, half are
any."""
POOL = 500
"""Random mixtures that starts are picked from."""
ANCHORS = 6
"""Runs around which a trust region is searched."""
HOPS = 3
"""Most balls, each around another run, that a search passes through."""
CANDIDATES = 4_000
"""Mixtures tried in each round for a law without a gradient."""
ROUNDS = 3
KEPT = 128
"""Best candidates whose mean is the answer for a law without a gradient, as in RegMix."""


@dataclass(frozen=True, slots=True)
class Optimum:
    """The mixture of least predicted loss."""

    weights: Array
    """shape (domains,), shares within the box."""
    value: float
    """The number that was minimised, the KL term included."""
    losses: Array
    """shape (targets,), predicted."""
    gap: float | None
    """Upper bound on how far the value is above the minimum; None without a certificate."""
    unconstrained: Array
    """The optimum without the trust region; the same where none binds."""
    trust_region_binds: bool
    radius: float | None
    """Hellinger radius of the trust region: the support's, or wider where caps exclude all of that.
    None without a support."""


def optimise(problem: Problem, seed: int = 0) -> Optimum:
    """Find the mixture of least predicted loss.

    Args:
        problem: The law, the objective and the constraints.
        seed: Seed of the random starts and candidates.

    Raises:
        FitError: The law predicts no finite number anywhere in the box.
    """
    if problem.proportions is not None:
        small = narrowed(problem, problem.proportions)
        optimum = optimise(small, seed)
        return replace(
            optimum,
            weights=in_domains(small, optimum.weights),
            unconstrained=in_domains(small, optimum.unconstrained),
        )
    rng = np.random.default_rng(seed)
    free = _solve(replace(problem, support=None), _starts(problem, rng), rng)
    support = problem.support
    if support is None or is_within(free, support.mixtures, support.radius):
        return _optimum(problem, free, free, None if support is None else support.radius)
    held, radius = _solve_in_balls(problem, free, rng)
    return _optimum(problem, held, free, radius)


def certificate(problem: Problem, weights: Array) -> float | None:
    """Bound how far the value is above the minimum over the box; valid for a convex problem.

    The loss lies above its tangents, so the least point of the tangents bounds it from below: a
    corner of the box for one goal (Frank and Wolfe's gap), a linear programme for several.
    None where the law has no gradient.
    """
    slopes = slopes_at(problem, weights)
    if slopes is None:
        return None
    pull = pull_slopes(problem, weights)
    scaled = problem.goals @ slopes + pull
    if len(scaled) == 1:
        return float(scaled[0] @ (weights - best_corner(scaled[0], problem.box)))
    from scipy.optimize import linprog  # takes 0.3 s

    values = goals_of(losses_at(problem, weights[None]), problem.goals)[0]
    count = len(weights)
    result = linprog(
        np.append(np.zeros(count), 1.0),
        A_ub=np.hstack([scaled, -np.ones((len(scaled), 1))]),
        b_ub=scaled @ weights - values,
        A_eq=np.append(np.ones(count), 0.0)[None],
        b_eq=[1.0],
        bounds=[*zip(problem.box.low, problem.box.high, strict=True), (None, None)],
    )
    return float(values.max() - result.fun) if result.success else None


def _optimum(problem: Problem, held: Array, free: Array, radius: float | None) -> Optimum:
    binds = held is not free
    return Optimum(
        weights=held,
        value=float(value_at(problem, held[None])[0]),
        losses=losses_at(problem, held[None])[0],
        gap=certificate(problem, held) if problem.convex and not binds else None,
        unconstrained=free,
        trust_region_binds=binds,
        radius=radius,
    )


def _starts(problem: Problem, rng: np.random.Generator) -> list[Array]:
    """Return points of the box to descend from: the middle, the prior, good runs, random ones."""
    box = problem.box
    count = len(box.low)
    starts = [nearest_in_proportion(np.full(count, 1 / count), box)]
    if problem.prior is not None:
        starts.append(nearest_in_proportion(prior_in_coordinates(problem) + TINY, box))
    if problem.convex:
        return starts[-1:]
    if problem.support is not None:
        runs = nearest_rows(problem.support.mixtures, box)
        order = np.argsort(value_at(problem, runs), kind="stable")
        starts += [runs[row] for row in order[:3]]
    # From sparse to even, the best of many: a descent from each would cost too much.
    shapes = np.exp(rng.uniform(-3, 2, POOL))[:, None] * np.ones(count)
    draws = rng.standard_gamma(shapes) + TINY
    pool = _into_box(draws / draws.sum(axis=1, keepdims=True), box)
    order = np.argsort(value_at(problem, pool), kind="stable")
    return starts + [pool[row] for row in (*order[: STARTS // 2], *range(STARTS // 2))]


def _solve(problem: Problem, starts: Sequence[Array], rng: np.random.Generator) -> Array:
    """Return the best end of the descents from these starts, or the result of a search."""
    if slopes_at(problem, starts[0]) is None:
        return _search(problem, starts, rng, None)
    ends = [descend(problem, start, None) for start in starts]
    return _best(problem, [*ends, *starts])


def _solve_in_balls(problem: Problem, free: Array, rng: np.random.Generator) -> tuple[Array, float]:
    """Find the best mixture within the radius of some run; also return the radius.

    Each ball {w : sum_i sqrt(w_i a_i) >= 1 - radius^2} is convex, but their union is not. The balls
    of the best runs are searched one by one; a search that ends nearer to another run continues in
    that run's ball.
    """
    support = problem.support
    assert support is not None
    box = problem.box
    entries = np.array([nearest_in_proportion(run, box) for run in support.mixtures])
    away = np.sqrt(np.maximum(0, 1 - (np.sqrt(entries) * np.sqrt(support.mixtures)).sum(axis=1)))
    # Caps may exclude every ball of the support's radius; then widen to the nearest entry.
    radius = max(support.radius, float(away.min()) * 1.01 + 1e-9)
    within = np.flatnonzero(away <= radius)
    order = within[np.argsort(value_at(problem, entries[within]), kind="stable")]
    toward = hellinger(free[None], support.mixtures[within])[0]
    anchors = list(dict.fromkeys([*order[:ANCHORS], *within[np.argsort(toward)[:2]]]))
    if slopes_at(problem, free) is None:
        region = (support.mixtures, radius)
        return _search(problem, [entries[a] for a in anchors], rng, region), radius
    ends: list[Array] = [entries[order[0]]]
    for anchor in anchors:
        current, centre = entries[anchor], anchor
        for _ in range(HOPS):
            ball = Ball(support.mixtures[centre], radius)
            current = _pulled_in(descend(problem, current, ball), entries[centre], ball)
            ends.append(current)
            following = int(np.argmin(hellinger(current[None], support.mixtures)[0]))
            if following == centre or following not in within:
                break
            centre = following
    return _best(problem, ends), radius


def _search(
    problem: Problem,
    centres: Sequence[Array],
    rng: np.random.Generator,
    ball: tuple[Array, float] | None,
) -> Array:
    """Average the best of many candidates, drawn ever closer around the best so far.

    The mean is RegMix's guard against one lucky leaf of a tree. A trust region is a union of balls
    and not convex, so the mean may lie outside it; then the best single candidate is returned.
    """
    box = problem.box
    kept = np.array(centres)
    count = len(box.low)
    for round_ in range(ROUNDS):
        middle = kept[rng.integers(len(kept), size=CANDIDATES)]
        strength = np.exp(rng.uniform(0, 4 + 2 * round_, CANDIDATES))[:, None]
        draws = rng.standard_gamma(middle * strength + 0.2 / count)
        draws /= np.maximum(draws.sum(axis=1, keepdims=True), 1e-300)
        candidates = _into_box(draws, box)
        if ball is not None:
            inside = hellinger(candidates, ball[0]).min(axis=1) <= ball[1]
            candidates = candidates[inside]
        candidates = np.vstack([candidates, kept])
        values = value_at(problem, candidates)
        kept = candidates[np.argsort(values, kind="stable")[:KEPT]]
    mean = nearest(kept.mean(axis=0), box)
    if ball is not None and not is_within(mean, ball[0], ball[1]):
        return np.asarray(kept[0])
    return mean


def _into_box(draws: Array, box: Box) -> Array:
    """Move shares into the box; most are in it already and stay as they are."""
    outside = ((draws < box.low) | (draws > box.high)).any(axis=1)
    moved = draws.copy()
    moved[outside] = nearest_rows(draws[outside], box)
    return moved


def _pulled_in(point: Array, entry: Array, ball: Ball) -> Array:
    """Move a point towards an entry inside the ball until it is inside too.

    The solver keeps to a ball only to its tolerance. Box and ball are convex, so the whole segment
    from the entry to the last inside point is feasible.
    """
    low, high = 0.0, 1.0
    if is_within(point, ball.centre[None], ball.radius):
        return point
    for _ in range(50):
        middle = (low + high) / 2
        moved = entry + middle * (point - entry)
        inside = is_within(moved, ball.centre[None], ball.radius)
        low, high = (middle, high) if inside else (low, middle)
    return np.asarray(entry + low * (point - entry))


def _best(problem: Problem, points: Sequence[Array]) -> Array:
    values = value_at(problem, np.array(points))
    if not np.isfinite(values).any():
        raise FitError(
            "optimise: the law predicts no finite loss within the caps; compare laws with "
            "`curate fit`, and choose another"
        )
    return points[int(np.nanargmin(values))]
