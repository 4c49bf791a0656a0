"""Mix by experts: `mde` over tokens and `mixmin` over documents, unless a level is set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from curate.errors import RecipeError
from curate.laws.likelihoods import Likelihoods
from curate.mixture.constraints import Constraints, match_constraints, prior_of
from curate.mixture.goals import Tradeoff, unused_targets
from curate.mixture.request import MixtureRequest, Preference
from curate.mixture.search.expert_mixing import ExpertsLaw, best_shares, combined, experts_law
from curate.mixture.search.objective import Problem, goals_of, losses_at
from curate.mixture.search.optimise import optimise
from curate.mixture.search.simplex_box import nearest_in_proportion
from curate.mixture.search.uncertainty import interval
from curate.runtime.artifact_names import NATS
from curate.runtime.threads import one_blas_thread

Array = NDArray[np.float64]

REPLICATES = 100
RESAMPLE_TOLERANCE = 1e-5
"""Certificate at which a resample ends, far below the differences between resamples."""


# With more threads, BLAS sums in another order: shares would differ in their last digits by the
# number of cores.
@one_blas_thread()
def best_predictors(
    request: MixtureRequest, experts: Likelihoods, default_level: str
) -> Preference:
    """Choose the mixture of experts that predicts the targets best.

    Args:
        request: Supply, caps, objective and constraints.
        experts: Log-probabilities of validation text under each expert.
        default_level: `token` or `document`, unless `mixture.level` says otherwise.

    Raises:
        MissingEvidence: A domain has no expert.
        RecipeError: The objective or floors name an unknown target or domain, or a setting is not
            for experts.
    """
    search = request.options.search
    constraints = match_constraints(request, experts.experts, experts.targets, "experts")
    level = _level(request, default_level)
    law = experts_law(experts, level)
    weights, gap = _optimum(request, law, constraints, None)
    free, _ = _optimum(request, law, replace(constraints, box=constraints.whole_box), weights)
    replicates = REPLICATES if search.replicates is None else search.replicates
    low = high = None
    if replicates:
        low, high = _interval(request, experts, constraints, (weights, level, replicates))
    problem = _problem(request, law, constraints)
    losses = losses_at(problem, weights[None])[0]
    return Preference(
        weights=constraints.in_recipe_order(weights),
        unconstrained=constraints.in_recipe_order(free),
        low=None if low is None else constraints.in_recipe_order(low),
        high=None if high is None else constraints.in_recipe_order(high),
        predicted_loss=float((constraints.goals.weights @ losses).max()),
        warnings=_warnings(experts, constraints, low is not None),
        details={
            "level": level,
            "optimality_gap": gap,
            "unit": NATS,
            "predicted_losses": dict(zip(experts.targets, map(float, losses), strict=True)),
            "objective": constraints.goals.to_json(
                experts.targets, losses, _reference(law, constraints)
            ),
        },
    )


def _level(request: MixtureRequest, default_level: str) -> str | int:
    search = request.options.search
    if search.kl == "auto":
        raise RecipeError("mixture.kl: auto needs runs to leave out; set a number")
    level = default_level if search.level is None else search.level
    if not (level in ("token", "document") or (isinstance(level, int) and level > 0)):
        raise RecipeError(
            f"mixture.level: cannot be '{level}' (known: token, document, or tokens of a chunk)"
        )
    if search.discount_repeats:
        raise RecipeError(
            "mixture.discount_repeats: experts have no tokens to discount; use max_epochs, or a "
            "method that fits a law to runs"
        )
    return level


def trade_groups(request: MixtureRequest, experts: Likelihoods, default_level: str) -> Tradeoff:
    """Prepare a front of the request's groups by experts.

    Args:
        request: Supply, caps, groups and constraints.
        experts: Log-probabilities of validation text under each expert.
        default_level: As for `best_predictors`.

    Raises:
        CurateError: As `best_predictors`.
    """
    constraints = match_constraints(request, experts.experts, experts.targets, "experts")
    law = experts_law(experts, _level(request, default_level))
    problem = _problem(request, law, constraints)

    def solve(importance: Array) -> tuple[Array, float | None]:
        optimum = optimise(replace(problem, goals=importance[None] @ problem.goals))
        return optimum.weights, optimum.gap

    return Tradeoff(
        groups=constraints.goals.names,
        solve=solve,
        goals_at=lambda shares: goals_of(
            losses_at(problem, shares[None]), constraints.goals.weights
        )[0],
        reference=_reference(law, constraints),
        in_recipe_order=constraints.in_recipe_order,
        natural=nearest_in_proportion(constraints.natural, problem.box),
        details={
            "unit": NATS,
            "law": None,
            "relative_error": None,
            "warnings": list(_warnings(experts, constraints, have_intervals=False)),
        },
    )


def _warnings(
    experts: Likelihoods, constraints: Constraints, have_intervals: bool
) -> tuple[str, ...]:
    warnings = tuple(
        f"'{name}' has an expert and is not in the recipe: it gets no share"
        for name in constraints.left_out
    )
    warnings += unused_targets(constraints.goals)
    if have_intervals:
        warnings += tuple(
            f"'{name}' has one held-out document, so the intervals do not know how another would "
            "differ; hold out more (validation.documents)"
            for number, name in enumerate(experts.targets)
            if np.count_nonzero(experts.target == number) == 1
        )
    return warnings


def _optimum(
    request: MixtureRequest, law: ExpertsLaw, constraints: Constraints, start: Array | None,
    tolerance: float = 1e-7,
) -> tuple[Array, float | None]:  # fmt: skip
    """Minimise a mean of losses by expectation-maximisation, anything else by the optimiser."""
    if len(constraints.goals.weights) > 1 or request.options.search.kl:
        optimum = optimise(_problem(request, law, constraints))
        return optimum.weights, optimum.gap
    blocks = combined(law.parts, constraints.goals.weights[0])
    solution = best_shares(blocks, constraints.box, start, tolerance)
    return solution.weights, solution.certificate / blocks.tokens_per_block


def _problem(request: MixtureRequest, law: ExpertsLaw, constraints: Constraints) -> Problem:
    reference = _reference(law, constraints)
    scale = 1.0 if reference is None else reference
    return Problem(
        law, constraints.box, constraints.goals.weights / np.reshape(scale, (-1, 1)),
        kl=float(request.options.search.kl or 0.0) / float(np.mean(scale)),
        prior=prior_of(request, constraints), convex=True,
    )  # fmt: skip


def _reference(law: ExpertsLaw, constraints: Constraints) -> Array | None:
    """Return the losses by which goals are divided, shape (goals,); None: they are compared as is.

    Raises:
        RecipeError: They are to be measured against a run, and there is none.
    """
    goals = constraints.goals
    if goals.against == "best_run":
        raise RecipeError(
            "mixture.objective.against: best_run needs training runs, and experts are no runs of "
            "mixtures; set natural, or leave it out to compare losses as they are"
        )
    if goals.against is None:
        return None
    natural = nearest_in_proportion(constraints.natural, constraints.box)
    unused = np.empty(0)
    reference: Array = goals_of(law.predict(natural[None], unused, unused), goals.weights)[0]
    return reference


def _interval(
    request: MixtureRequest,
    experts: Likelihoods,
    constraints: Constraints,
    answer: tuple[Array, str | int, int],
) -> tuple[Array, Array]:
    """Compute 95 % intervals of the shares by resampling documents within each target."""
    weights, level, replicates = answer
    rng = np.random.default_rng(request.options.search.seed)
    documents = [np.flatnonzero(experts.target == target) for target in range(len(experts.targets))]
    draws = []
    for _ in range(replicates):
        resample = np.concatenate(
            [rng.choice(of_target, len(of_target)) for of_target in documents]
        )
        law = experts_law(experts, level, resample)
        near = 0.99 * weights + 0.01 / len(weights)
        draws.append(_optimum(request, law, constraints, near, RESAMPLE_TOLERANCE)[0])
    return interval(np.array(draws), weights, max(2, len(experts.target)))
