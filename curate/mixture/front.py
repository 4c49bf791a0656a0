"""Pareto front of groups of targets: mixtures between the best for one group and for another.

Every point is the optimum of a weighted sum of the groups' mean losses, each over its reference,
found as any other mixture of least loss. Where the law is convex, every point of the front is such
an optimum; where it is not, points in a dent of the front are left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import RecipeError
from curate.mixture.caps import check_supply
from curate.mixture.goals import Tradeoff
from curate.mixture.methods import METHODS
from curate.mixture.methods.needs_evidence import ExpertMethod, LawMethod
from curate.mixture.request import MixtureRequest, check_request
from curate.runtime.threads import one_blas_thread

Array = NDArray[np.float64]

POINTS = 11
"""Points of a front, unless asked otherwise."""
EDGE = 1e-3
"""Weight of the other groups at the end of a front, so that they are not forgotten there."""
STRAIGHT = 1e-4
"""Part of the front's span by which a point must lie below the chord of its neighbours."""


@dataclass(frozen=True, slots=True)
class FrontMixture:
    """One mixture of a front."""

    importance: Array
    """shape (groups,), weights of the groups; sum to 1."""
    shares: Array
    """shape (domains,)."""
    losses: Array
    """shape (groups,), mean losses."""
    gap: float | None


@one_blas_thread()
def front(request: MixtureRequest, groups: Sequence[str], points: int = POINTS) -> dict[str, Any]:
    """Trace the Pareto front of some groups of targets.

    Args:
        request: Supply, caps, method and evidence. Its objective weighs targets within a group.
        groups: At least two: names of its groups, or names and patterns of targets.
        points: Most points between two groups, at least 2. More groups have those of the coarsest
            lattice of weights with as many.

    Returns:
        The fields of `front.json`.

    Raises:
        RecipeError: The method predicts no losses, there are fewer than two groups, or a group
            selects no target.
        MissingEvidence: The method lacks its evidence.
    """
    if len(set(groups)) < 2 or len(set(groups)) < len(groups):
        raise RecipeError(
            f"--front: a front is between two groups or more, got {', '.join(groups) or 'none'}; "
            "name groups of mixture.objective, targets, or patterns such as code_*"
        )
    if points < 2:
        raise RecipeError(f"--points: a front has at least 2 points, got {points}")
    method = METHODS.find(request.method, "mixture.method")
    prefer = method.prefer
    if not isinstance(prefer, LawMethod | ExpertMethod):
        what = "a schedule" if request.ends else f"method {method.name}"
        raise RecipeError(
            f"--front: {what} predicts no losses; take a method that learns from runs or "
            "experts, such as --method joint"
        )
    check_request(request)
    check_supply(request, None)
    search = request.options.search
    members = {name: search.groups.get(name, (name,)) for name in groups}
    objective = "mean" if search.objective == "worst" else search.objective
    search = replace(search, groups=members, objective=objective)
    tradeoff = prefer.tradeoff(replace(request, options=replace(request.options, search=search)))
    scale = np.ones(len(groups)) if tradeoff.reference is None else tradeoff.reference

    def at(importance: Array) -> FrontMixture:
        shares, gap = tradeoff.solve(importance)
        return FrontMixture(importance, shares, tradeoff.goals_at(shares), gap)

    if len(groups) == 2:
        traced = _between(at, scale, points)
    else:
        traced = [at(row) for row in _lattice(len(groups), points)]
    return _to_json(request, tradeoff, traced)


def _between(at: Callable[[Array], FrontMixture], scale: Array, points: int) -> list[FrontMixture]:
    """Trace the front of two groups: the next weights are normal to the longest chord.

    So the points spread evenly over the front, whatever its slope.

    References:
        Aneja and Nair 1979, "Bicriteria transportation problem", Management Science 25(1).
    """
    traced = [at(np.array([1 - EDGE, EDGE])), at(np.array([EDGE, 1 - EDGE]))]
    span = np.abs(traced[0].losses - traced[1].losses) / scale
    if span.min() <= 1e-9:  # one mixture is best for both
        return traced[:1]
    straight: set[int] = set()  # chords on the front, by the identity of their first point
    while len(traced) < points:
        chords = np.array(
            [right.losses - left.losses for left, right in itertools.pairwise(traced)]
        )
        chords = chords / scale
        lengths = np.linalg.norm(chords / span, axis=1)
        lengths[[id(left) in straight for left in traced[:-1]]] = 0
        place = int(lengths.argmax())
        if not lengths[place] > 0:
            break
        normal = np.abs(chords[place][::-1])
        between = at(normal / normal.sum())
        below = (traced[place].losses - between.losses) / scale @ normal
        if below <= STRAIGHT * float(np.prod(span)):
            straight.add(id(traced[place]))
            continue
        traced.insert(place + 1, between)
    return traced


def _lattice(groups: int, points: int) -> Array:
    """List weights of several groups, shape (rows, groups): multiples of 1 / n with sum 1.

    Example:
        >>> len(_lattice(3, 11))
        15
    """
    steps = next(n for n in itertools.count(1) if math.comb(n + groups - 1, groups - 1) >= points)
    cuts = itertools.combinations(range(steps + groups - 1), groups - 1)
    rows = np.array([np.diff([-1, *cut, steps + groups - 1]) - 1 for cut in cuts]) / steps
    return np.asarray((1 - groups * EDGE) * rows + EDGE)


def _to_json(
    request: MixtureRequest, tradeoff: Tradeoff, traced: Sequence[FrontMixture]
) -> dict[str, Any]:
    names = [domain.name for domain in request.domains]

    def by_group(values: Array) -> dict[str, float]:
        return dict(zip(tradeoff.groups, values.tolist(), strict=True))

    reference = None if tradeoff.reference is None else by_group(tradeoff.reference)
    return {
        "method": request.method,
        "reference": reference,
        "natural": by_group(tradeoff.goals_at(tradeoff.natural)),
        **tradeoff.details,
        "points": [
            {
                "importance": by_group(point.importance),
                "losses": by_group(point.losses),
                "weights": dict(zip(names, tradeoff.in_recipe_order(point.shares), strict=True)),
                "optimality_gap": point.gap,
            }
            for point in traced
        ],
    }
