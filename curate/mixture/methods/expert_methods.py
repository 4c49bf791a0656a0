"""Mixing by experts: `mde` over tokens, `mixmin` over documents, either at another level."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from curate.errors import RecipeError
from curate.laws.likelihoods import Likelihoods
from curate.mixture.constraints import Wishes, prior_of, wishes
from curate.mixture.request import MixtureRequest, Preference
from curate.mixture.search.expert_mixing import ExpertsLaw, combined, experts_law
from curate.mixture.search.expert_mixing import solve as solve_blocks
from curate.mixture.search.objective import Problem, losses_at
from curate.mixture.search.optimise import optimise
from curate.mixture.search.simplex_box import Box
from curate.mixture.search.uncertainty import interval

Array = NDArray[np.float64]

LEVEL_OF = {"mde": "token", "mixmin": "document"}
REPLICATES = 100
RESAMPLE_TOLERANCE = 1e-5
"""Certificate of a resample's answer, far below what another draw of documents changes."""


def solve(request: MixtureRequest, experts: Likelihoods) -> Preference:
    """See `evidenced.from_experts`."""
    search = request.options.search
    wished = wishes(request, experts.experts, experts.targets, "experts")
    level = LEVEL_OF[request.method] if search.level is None else search.level
    if not (level in ("token", "document") or (isinstance(level, int) and level > 0)):
        raise RecipeError(
            f"mixture.level: cannot be '{level}' (known: token, document, or tokens of a chunk)"
        )
    if search.discount_repeats:
        raise RecipeError(
            "mixture.discount_repeats: experts have no tokens to discount; use max_epochs, or a "
            "method that fits a law to runs"
        )
    law = experts_law(experts, level)
    weights, gap = _optimum(request, law, wished, None)
    free, _ = _optimum(request, law, replace(wished, box=_open(wished)), weights)
    replicates = REPLICATES if search.replicates is None else search.replicates
    low = high = None
    if replicates:
        low, high = _interval(request, experts, wished, (weights, level, replicates))
    problem = _problem(request, law, wished)
    losses = losses_at(problem, weights[None])[0]
    warnings = tuple(
        f"'{name}' has an expert and is not in the recipe: it gets no share"
        for name in wished.left_out
    )
    if low is not None:
        warnings += tuple(
            f"'{name}' has one held-out document, so the intervals do not know how another would "
            "differ; hold out more (validation.documents)"
            for number, name in enumerate(experts.targets)
            if np.count_nonzero(experts.target == number) == 1
        )
    return Preference(
        weights=wished.back(weights),
        unconstrained=wished.back(free),
        low=None if low is None else wished.back(low),
        high=None if high is None else wished.back(high),
        predicted_loss=float(losses.max() if wished.worst else losses @ wished.target_weights),
        warnings=warnings,
        details={
            "level": level,
            "optimality_gap": gap,
            "predicted_losses": dict(zip(experts.targets, map(float, losses), strict=True)),
        },
    )


def _optimum(
    request: MixtureRequest, law: ExpertsLaw, wished: Wishes, start: Array | None,
    tolerance: float = 1e-7,
) -> tuple[Array, float | None]:  # fmt: skip
    """Expectation-maximisation for a mean of losses, the general solver for anything else."""
    if wished.worst or request.options.search.kl:
        found = optimise(_problem(request, law, wished))
        return found.weights, found.gap
    blocks = combined(law.parts, wished.target_weights)
    solution = solve_blocks(blocks, wished.box, start, tolerance)
    return solution.weights, solution.certificate / blocks.tokens_per_block


def _problem(request: MixtureRequest, law: ExpertsLaw, wished: Wishes) -> Problem:
    return Problem(
        law, wished.box, wished.target_weights, wished.worst,
        kl=request.options.search.kl or 0.0, prior=prior_of(request, wished), convex=True,
    )  # fmt: skip


def _interval(
    request: MixtureRequest,
    experts: Likelihoods,
    wished: Wishes,
    answer: tuple[Array, str | int, int],
) -> tuple[Array, Array]:
    """95 % intervals of the shares from resampled validation documents, within each target."""
    weights, level, replicates = answer
    rng = np.random.default_rng(request.options.search.seed)
    documents = [np.flatnonzero(experts.target == target) for target in range(len(experts.targets))]
    draws = []
    for _ in range(replicates):
        chosen = np.concatenate([rng.choice(own, len(own)) for own in documents])
        law = experts_law(experts, level, chosen)
        found, _ = _optimum(request, law, wished, 0.99 * weights + 0.01 / len(weights),
                            RESAMPLE_TOLERANCE)  # fmt: skip
        draws.append(found)
    return interval(np.array(draws), weights, max(2, len(experts.target)))


def _open(wished: Wishes) -> Box:
    """The recipe's domains without floors or caps."""
    high = np.zeros(len(wished.domains))
    high[wished.place] = 1.0
    return Box(np.zeros(len(high)), high)
