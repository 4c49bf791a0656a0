"""Turn a request to a method of a law into a problem: match it with the runs, and fit the law."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curate.errors import FitError, MissingEvidence, RecipeError
from curate.laws import LAWS, Law, RunTable
from curate.laws.fit_once import fit_once
from curate.laws.fitting.features import distinct_mixtures
from curate.laws.forms.expert_regression import INFORMED, informed
from curate.laws.forms.joint import LEAST_JUDGES
from curate.mixture.constraints import (
    Constraints,
    match_constraints,
    prior_of,
    proportions_of,
    tied_proportions,
)
from curate.mixture.methods.expert_features import expert_features
from curate.mixture.request import MixtureRequest
from curate.mixture.search.kl_choice import KlChoice, choose_kl
from curate.mixture.search.law_choice import Refitted, refit
from curate.mixture.search.objective import Problem, goals_of, losses_at
from curate.mixture.search.simplex_box import nearest_in_proportion
from curate.mixture.search.trust_region import Support, support_of
from curate.runtime.registry import counted, unknown_name

Array = NDArray[np.float64]

ASSUMED_TOKEN_BYTES = 4
"""Bytes of a token where the runs do not say; English text has 4 to 5, code 3 to 4."""


@dataclass(frozen=True, slots=True)
class LawCase:
    """One request to a method of a law: the problem to minimise, and its parts."""

    simulated: bool
    """Whether the answer is the mean of the best of many draws, as RegMix's."""
    request: MixtureRequest
    constraints: Constraints
    runs: RunTable
    law: Law
    problem: Problem
    support: Support
    """The runs' mixtures; the problem has them only where they bound its trust region."""
    reference: Array | None
    """shape (goals,), losses by which the goals of a worst case are divided."""
    kl_choice: KlChoice | None
    """How the strength of the pull was chosen, where the recipe leaves it open."""
    refits: Refitted | None
    """Fits without each group of mixtures, where that choice needed them."""

    @property
    def loss_per_objective(self) -> float:
        """Return the losses' unit over that of the objective, which is a ratio in a worst case."""
        return 1.0 if self.reference is None else float(self.reference.mean())


def _of_today(runs: RunTable) -> Array:
    """Return the mixtures of the runs, but for those on earlier domains where there are others.

    Near a run without the domains that were added, a law knows little of what these would change.
    A few runs of today are too few to keep near to.
    """
    if runs.earlier is None:
        return runs.weights
    later = runs.weights[~runs.earlier]
    enough = len(distinct_mixtures(later)) >= LEAST_JUDGES if len(later) else False
    return np.asarray(later) if enough else runs.weights


def make_case(
    method: tuple[str | None, float, bool], request: MixtureRequest, runs: RunTable
) -> LawCase:
    """Match the request with the runs and fit the law.

    Args:
        method: Name of the law, or None for the recipe's; pull towards the prior, bits a byte; and
            whether the optimum is that of simulated mixtures.
        request: Domains, supply, objective and options.
        runs: The evidence.

    Raises:
        FitError: The runs have one mixture only, or the law cannot be fitted to them.
        RecipeError: The request names domains or targets that the runs do not have.
    """
    name, kl_bpb, simulated = method
    law = _law(name or request.options.search.law, request, runs)
    constraints = match_constraints(request, runs.domains, runs.targets, "runs")
    if len(distinct_mixtures(runs.weights)) < 2:
        raise FitError(
            f"mixture: only one mixture was trained ({counted(len(set(runs.runs)), 'run')}), so "
            "nothing says what another would do; train different ones (`curate design`), or take a "
            "method that needs none, such as entropy"
        )
    search = request.options.search
    discount, support = search.discount_repeats, support_of(_of_today(runs))
    problem = Problem(
        law=fit_once(law, runs),
        box=constraints.box,
        goals=constraints.goals.weights,
        tokens=_at(runs.tokens, search.at_tokens, "at_tokens", "tokens"),
        params=_at(runs.params, search.at_params, "at_params", "parameters"),
        kl=_pull(search.kl, kl_bpb, runs),
        prior=prior_of(request, constraints),
        unique_share=constraints.unique_share if discount else None,
        support=support if search.trust_region else None,
        convex=law.convex and not discount,
        proportions=proportions_of(request, constraints)
        if search.keep is not None
        else tied_proportions(runs, constraints),
    )
    problem, reference = _against_reference(problem, constraints, runs)
    refits = choice = None
    if search.kl == "auto":
        if simulated:
            raise RecipeError(
                "mixture.kl: auto needs an optimum, and this method averages draws; set a number"
            )
        try:
            refits = refit(law, problem.law, runs)
        except FitError as error:
            raise FitError(
                f"mixture.kl: auto leaves out a fifth of the mixtures in turn, and {error}; set a "
                "number"
            ) from error
        choice = choose_kl(problem, refits, runs)
        problem = replace(problem, kl=choice.strength)
    return LawCase(
        simulated=simulated,
        request=request,
        constraints=constraints,
        runs=runs,
        law=law,
        problem=problem,
        support=support,
        reference=reference,
        kl_choice=choice,
        refits=refits,
    )


def refits_of(case: LawCase) -> Refitted:
    """Return the law fitted without each group of mixtures; fit it unless `kl: auto` has done so.

    Raises:
        FitError: Some part of the runs cannot determine the law.
    """
    if case.refits is not None:
        return case.refits
    return refit(case.law, case.problem.law, case.runs)


def _pull(kl: float | Literal["auto"] | None, kl_bpb: float, runs: RunTable) -> float:
    """Return the strength of the pull in the unit of the losses; 0 where it is chosen later."""
    if kl is None:
        return kl_bpb * _loss_per_bpb(runs)
    return 0.0 if kl == "auto" else kl


def _against_reference(
    problem: Problem, constraints: Constraints, runs: RunTable
) -> tuple[Problem, Array | None]:
    """Divide goals of a worst case by their reference, shape (goals,), so that they compare."""
    goals = constraints.goals
    if not goals.relative:
        return problem, None
    if goals.against == "natural":
        natural = nearest_in_proportion(constraints.natural, problem.box)
        reference = goals_of(losses_at(problem, natural[None]), goals.weights)[0]
    else:
        reference = goals_of(runs.losses, goals.weights).min(axis=0)
    # The pull stays in the unit of the losses.
    kl = problem.kl / float(reference.mean())
    return replace(problem, goals=goals.weights / reference[:, None], kl=kl), reference


def _loss_per_bpb(runs: RunTable) -> float:
    """Return how many of the losses' unit one bit per byte is; assumed if the runs do not say."""
    unknown = math.isnan(runs.loss_per_bpb)
    return ASSUMED_TOKEN_BYTES * math.log(2) if unknown else runs.loss_per_bpb


def _law(name: str | None, request: MixtureRequest, runs: RunTable) -> Law:
    """Return the law of this name, given experts where it needs them."""
    if name is None:
        raise RecipeError(
            f"mixture.law is missing: method law needs one of {', '.join(LAWS)}; compare them with "
            "`curate fit`"
        )
    if name in INFORMED:
        experts = request.evidence.experts if request.evidence else None
        if experts is None:
            raise MissingEvidence(
                f"mixture: law '{name}' needs the experts' log-probabilities beside the runs; add "
                "mixture: {evidence: {experts: experts.parquet}}, or take the law "
                f"{name.removesuffix('_mde')}"
            )
        return informed(name, expert_features(experts, runs.domains))
    if name not in LAWS:
        raise RecipeError(unknown_name("law", name, [*LAWS, *INFORMED], "mixture.law"))
    return LAWS[name]


def _at(seen: Array, requested: float | None, key: str, unit: str) -> float:
    """Return the tokens or parameters at which losses are compared: as requested, else the most.

    Args:
        seen: shape (rows,), those of the runs; all NaN where the table does not say.
        requested: The recipe's number.
        key: Its key below `mixture`, for the message.
        unit: What it counts, for the message.
    """
    if requested is not None and np.isnan(seen).all():
        raise RecipeError(
            f"mixture.{key}: the runs do not say their {unit}, so losses cannot be compared at "
            f"{requested:g}; remove it"
        )
    if requested is not None and np.ptp(seen) == 0 and not np.isclose(requested, seen[0]):
        raise RecipeError(
            f"mixture.{key}: all runs have {seen[0]:g} {unit}, so nothing says what changes at "
            f"{requested:g}; remove it, or train runs of several"
        )
    if requested is not None:
        return float(requested)
    return math.nan if np.isnan(seen).all() else float(np.nanmax(seen))
