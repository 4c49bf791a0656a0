"""Mix by a law of training runs: fit, optimise, check the support, resample.

Every law takes the same path; BiMix's closed form and RegMix's simulation replace the optimiser
where they apply.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import FitError
from curate.laws import RunTable
from curate.laws.forms.bimix import NEAR_ZERO, FittedBimix
from curate.laws.scores import finite_or_none
from curate.laws.selection import reference_rows
from curate.mixture.constraints import Constraints
from curate.mixture.goals import Tradeoff, unused_targets
from curate.mixture.methods.law_case import (
    ASSUMED_TOKEN_BYTES,
    LawCase,
    make_case,
    refits_of,
)
from curate.mixture.methods.law_record import law_record, loss_widths
from curate.mixture.methods.law_reuse import reuse_json, reuse_warnings
from curate.mixture.methods.law_trust import comparable_rows, compare_with_runs
from curate.mixture.request import MixtureRequest, Preference, check_replicates
from curate.mixture.search.bimix_optimum import power_optimum
from curate.mixture.search.kept_proportions import narrowed, prior_in_coordinates
from curate.mixture.search.law_choice import (
    Refitted,
    answer_errors,
    combined,
    objective_of,
    opinions,
    panel_with,
)
from curate.mixture.search.objective import Problem, goals_of, losses_at, value_at
from curate.mixture.search.optimise import certificate, optimise
from curate.mixture.search.regmix_simulation import simulate
from curate.mixture.search.simplex_box import nearest_in_proportion
from curate.mixture.search.trust_region import check_support, hellinger, support_warning
from curate.mixture.search.uncertainty import Resampling, Uncertainty, bootstrap
from curate.runtime.threads import one_blas_thread

Array = NDArray[np.float64]

LEFT_OUT = "with some mixtures left out the law cannot be fitted"
"""Reason why a law's own errors are unknown."""
LEAST_NAMED = 1e-4
"""Least share that causes a warning for a domain that no run had."""
FAR_SCALE = 10.0
"""Factor beyond the runs' tokens or parameters from which a comparison is called a guess."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """The mixture of a method; shape (domains,)."""

    weights: Array
    beyond: Array | None
    """The optimum without the trust region, shape (domains,); None where none binds."""
    gap: float | None
    """Bound on how far the objective is above its minimum; None without a certificate."""
    free: Array | None = None
    """The choice without floors, caps and trust region, shape (domains,), where it is at hand."""


# With more threads, BLAS sums in another order: shares would differ in their last digits by the
# number of cores.
@one_blas_thread()
def least_loss(
    request: MixtureRequest, runs: RunTable, *, law: str | None, kl_bpb: float, simulated: bool
) -> Preference:
    """Choose the mixture of least loss that a law of the runs predicts.

    Args:
        request: Supply, caps, objective and constraints; of its evidence, only experts are read.
        runs: The runs that the law is fitted to.
        law: Name of the law; None: the recipe's `mixture.law`.
        kl_bpb: Bits per byte of loss that a nat of KL divergence from the prior is worth, unless
            the recipe gives `mixture.kl` in the unit of the losses.
        simulated: Whether to average the best of many draws, as RegMix does, in place of
            optimising.

    Raises:
        MissingEvidence: The runs lack a domain, or the law needs experts and there are none.
        RecipeError: The objective, prior or floors name an unknown target or domain.
        FitError: The runs cannot determine the law.
    """
    case = make_case((law, kl_bpb, simulated), request, runs)
    constraints, problem = case.constraints, case.problem
    answer = _optimum(case, problem)
    warnings = [*_unit_warnings(case, kl_bpb), *_position_warnings(case, answer)]
    warnings += reuse_warnings(case)
    requested = request.options.search.replicates
    replicates = case.law.replicates if requested is None else requested
    refits = case.refits
    if requested != 0:
        try:
            refits = refits_of(case)
        except FitError as error:
            which = "intervals are those of resamples" if replicates else "no intervals"
            warnings.append(f"{which}: {LEFT_OUT}: {error}")
    ranges, spread = None, None
    if refits is not None and requested != 0:
        ranges = _ranges(case, answer.weights, refits)
    if replicates:
        spread = _uncertainty(case, answer.weights, replicates)
        if spread.failed:
            warnings.append(f"{spread.failed} of {replicates} resamples cannot determine the law")
        if ranges is None:
            ranges = _Ranges(spread.low, spread.high, {})
    losses = losses_at(problem, answer.weights[None])[0]
    trust = compare_with_runs(case, answer.weights, refits)
    warnings += [] if trust.warning is None else [trust.warning]
    support = check_support(answer.weights, case.support, runs.domains)
    return Preference(
        weights=constraints.in_recipe_order(answer.weights),
        unconstrained=constraints.in_recipe_order(_unconstrained(case, answer)),
        low=None if ranges is None else constraints.in_recipe_order(ranges.low),
        high=None if ranges is None else constraints.in_recipe_order(ranges.high),
        predicted_loss=float((constraints.goals.weights @ losses).max()),
        warnings=(*warnings, *(request.evidence.notices if request.evidence else ())),
        details={
            "unit": runs.unit,
            "law": case.law.name,
            "support": support.to_json(),
            "optimality_gap": answer.gap,
            "observed": {"best": trust.best, "misfit": trust.misfit},
            **trust.details,
            **_kl_json(case),
            **reuse_json(case, answer.weights),
            "at": {
                "tokens": finite_or_none(problem.tokens),
                "params": finite_or_none(problem.params),
            },
            "predicted_losses": dict(zip(runs.targets, map(float, losses), strict=True)),
            "objective": constraints.goals.to_json(runs.targets, losses, case.reference),
            **({} if ranges is None else {"laws": ranges.laws}),
            **_loss_ranges(case, losses, refits if requested != 0 else None),
            **({} if spread is None else _spread_json(spread, constraints, runs.domains)),
        },
        law=None if refits is None else law_record(case, refits),
    )


def _kl_json(case: LawCase) -> dict[str, Any]:
    """Return `kl_choice` of `mixture.json`: the strength in the losses' unit, and all regrets."""
    choice = case.kl_choice
    if choice is None:
        return {}
    unit = case.loss_per_objective
    tried = zip((choice.tried * unit).tolist(), (choice.regret * unit).tolist(), strict=True)
    rows = [{"kl": strength, "regret": regret} for strength, regret in tried]
    return {"kl_choice": {"kl": choice.strength * unit, "tried": rows}}


def trade_groups(
    request: MixtureRequest, runs: RunTable, method: tuple[str | None, float, bool]
) -> Tradeoff:
    """Prepare a front of the request's groups by a law of the runs.

    Args:
        request: Supply, caps, groups and constraints.
        runs: The runs that the law is fitted to.
        method: As for `make_case`.

    Raises:
        CurateError: As `least_loss`.
    """
    case = make_case(method, request, runs)
    problem, goals = case.problem, case.constraints.goals

    def solve(importance: Array) -> tuple[Array, float | None]:
        answer = _optimum(case, replace(problem, goals=importance[None] @ problem.goals))
        return answer.weights, answer.gap

    warnings = [*_unit_warnings(case, method[1]), *unused_targets(goals)]
    error = None
    if request.options.search.replicates != 0:
        try:
            predicted = refits_of(case).predicted
        except FitError as failure:
            warnings.append(f"no errors of the law: {LEFT_OUT}: {failure}")
        else:
            rows = reference_rows(runs)
            ratio = goals_of(predicted, goals.weights) / goals_of(runs.losses, goals.weights)
            error = np.sqrt(((ratio[rows] - 1) ** 2).mean(axis=0)).tolist()
    return Tradeoff(
        groups=goals.names,
        solve=solve,
        goals_at=lambda shares: goals_of(losses_at(problem, shares[None]), goals.weights)[0],
        reference=case.reference,
        in_recipe_order=case.constraints.in_recipe_order,
        natural=nearest_in_proportion(case.constraints.natural, problem.box),
        details={
            "unit": runs.unit,
            "law": case.law.name,
            **_kl_json(case),
            "relative_error": None if error is None else dict(zip(goals.names, error, strict=True)),
            "warnings": [*warnings, *(request.evidence.notices if request.evidence else ())],
        },
    )


def _unit_warnings(case: LawCase, kl_bpb: float) -> list[str]:
    """Say what was assumed of units, and how far beyond the runs losses are compared."""
    problem, runs = case.problem, case.runs
    warnings = []
    if kl_bpb and case.request.options.search.kl is None and math.isnan(runs.loss_per_bpb):
        warnings.append(
            f"the KL pull of {kl_bpb:g} is in bits per byte, and the runs have no bpb_ columns: "
            f"taking losses for nats per token and a token for {ASSUMED_TOKEN_BYTES} bytes, it is "
            f"{problem.kl:.3g}; mixture.kl sets another"
        )
    for key, at, seen in (
        ("at_tokens", problem.tokens, runs.tokens), ("at_params", problem.params, runs.params)
    ):  # fmt: skip
        if math.isnan(at):
            continue
        most, least = float(np.nanmax(seen)), float(np.nanmin(seen))
        if not least / FAR_SCALE <= at <= most * FAR_SCALE:
            side = f"{at / most:,.0f} times the most" if at > most else "a small part of the least"
            warnings.append(
                f"mixture.{key}: {at:g} is {side} of any run ({least:g} to {most:g}); no law was "
                "tested so far from its runs, so the mixture is a guess there: train larger runs"
            )
    return warnings


def _position_warnings(case: LawCase, answer: _Answer) -> list[str]:
    """Warn where the mixture lies outside the trained mixtures, or the trust region binds."""
    runs, support = case.runs, case.support
    warnings = [
        f"'{name}' is in the runs and not in the recipe: it gets no share"
        for name in case.constraints.left_out
    ]
    warnings += unused_targets(case.constraints.goals)
    remedy = "set mixture.trust_region: true"
    if case.simulated:
        remedy = "take a method with a trust region, such as boosted"
    elif case.problem.support is not None:
        remedy = (
            "loosen mixture.caps, mixture.floors or max_epochs, which exclude all that are near"
        )
    outside = support_warning(check_support(answer.weights, support, runs.domains), remedy)
    warnings += [outside] if outside else []
    if answer.beyond is not None:
        warnings.append(
            "the trust region binds: the law's own optimum is "
            f"{float(hellinger(answer.beyond[None], support.mixtures).min()):.3f} from the "
            f"nearest run, where runs are within {support.radius:.3f} of each other; "
            "mixture.trust_region: false would take it"
        )
    never = _never_sampled(runs, answer.weights)
    return [*warnings, never] if never else warnings


def _never_sampled(runs: RunTable, weights: Array) -> str | None:
    """Warn of domains that get a share and that no run had."""
    most = runs.weights.max(axis=0)
    guessed = [
        f"'{name}' {share:.2%}"
        for name, share, trained in zip(runs.domains, weights, most, strict=True)
        if trained == 0 and share > LEAST_NAMED
    ]
    if not guessed:
        return None
    return (
        f"no run had any of {', '.join(guessed)}: what it does is a guess. Train runs that have it "
        "(`curate design`), or leave it out"
    )


def _optimum(case: LawCase, problem: Problem) -> _Answer:
    """Solve a problem of the case (that of all runs, or of a resample) in the method's way."""
    seed = case.request.options.search.seed
    if case.simulated:
        return _simulated(problem, seed)
    exact = _closed_form(problem)
    if exact is not None:
        support = problem.support
        away = 0.0 if support is None else hellinger(exact[None], support.mixtures).min()
        if support is None or away <= support.radius:
            return _Answer(exact, None, certificate(problem, exact))
    optimum = optimise(problem, seed)
    beyond = optimum.unconstrained if exact is None else exact
    return _Answer(optimum.weights, beyond if optimum.trust_region_binds else None, optimum.gap)


def _simulated(problem: Problem, seed: int) -> _Answer:
    """Average the best of many draws around the prior."""
    searched = problem if problem.proportions is None else narrowed(problem, problem.proportions)
    prior = prior_in_coordinates(searched)
    drawn = simulate(lambda mixtures: value_at(searched, mixtures),
                     np.maximum(prior, 1e-6), seed=seed)  # fmt: skip
    held = nearest_in_proportion(drawn, searched.box)
    if searched.spread is None:
        return _Answer(held, None, None, free=drawn)
    return _Answer(held @ searched.spread, None, None, free=drawn @ searched.spread)


def _unconstrained(case: LawCase, answer: _Answer) -> Array:
    """Solve again without floors, caps and trust region; the answer itself where none can bind."""
    if answer.free is not None:
        return answer.free
    box, free = case.problem.box, case.constraints.whole_box
    if np.array_equal([box.low, box.high], [free.low, free.high]):
        return answer.weights if answer.beyond is None else answer.beyond
    return _optimum(case, replace(case.problem, box=free, support=None)).weights


def _closed_form(problem: Problem) -> Array | None:
    """Return BiMix's optimum if the problem is a weighted sum of its losses, else None."""
    law = problem.law
    if not isinstance(law, FittedBimix) or len(problem.goals) > 1 or problem.kl:
        return None
    if problem.unique_share is not None or problem.proportions is not None:
        return None
    domains, predicted = len(problem.box.low), list(law.domain_of)
    scales, exponents, least = np.zeros(domains), np.zeros(domains), np.ones(domains)
    scales[predicted] = law.scale(problem.tokens, problem.params) * problem.goals[0]
    size = law.size(problem.params)
    exponents[predicted], least[predicted] = size.alpha, size.share_floor
    return power_optimum(scales, exponents, problem.box, (least, NEAR_ZERO))


def _uncertainty(case: LawCase, weights: Array, replicates: int) -> Uncertainty:
    """Resample the runs for intervals of the shares and the regret of some other mixtures."""
    problem, runs, place = case.problem, case.runs, case.constraints.place
    here = comparable_rows(problem, runs)
    if len(here):
        best = here[objective_of(runs.losses, problem)[here].argmin()]
    else:
        best = value_at(replace(problem, kl=0.0), runs.weights).argmin()
    uniform = np.zeros(len(runs.domains))
    uniform[place] = 1 / len(place)
    rivals = {
        "natural": nearest_in_proportion(case.constraints.natural, problem.box),
        "uniform": nearest_in_proportion(uniform, problem.box),
        "best observed run": runs.weights[best],
    }
    check_replicates(replicates)
    resampling = Resampling(
        runs, case.law.fit, replicates, case.request.options.search.seed,
        lambda resampled: _optimum(case, resampled).weights,
    )  # fmt: skip
    return bootstrap(resampling, problem, weights, rivals)


@dataclass(frozen=True, slots=True)
class _Ranges:
    """95 % intervals of the shares, shape (domains,) each."""

    low: Array
    high: Array
    laws: dict[str, Any]
    """Weights and optima of the laws behind them, by law."""


def _ranges(case: LawCase, weights: Array, refits: Refitted) -> _Ranges:
    """Compute intervals over the laws of the panel and the method's own."""
    opinion = opinions(panel_with(refits, case.runs), case.problem, case.runs)
    errors = answer_errors(refits, case.problem, case.runs, weights)
    low, high = combined(opinion, weights, errors, len(refits.parts))
    box, order = case.problem.box, case.constraints.in_recipe_order
    laws = {
        name: {"weight": one.weight, "optimum": order(one.optimum)}
        for name, one in opinion.items()
    }  # fmt: skip
    return _Ranges(np.maximum(low, box.low), np.minimum(high, box.high), laws)


def _loss_ranges(case: LawCase, losses: Array, refits: Refitted | None) -> dict[str, Any]:
    """Compute 95 % intervals of the predicted losses of a new run, by target."""
    if refits is None:
        return {}
    runs, width = case.runs, loss_widths(case, refits)
    ends = (np.exp([-width, width]) * losses).tolist()
    ranges = {
        name: {"low": low, "high": high}
        for name, low, high in zip(runs.targets, *ends, strict=True)
    }
    return {"predicted_intervals": ranges}


@one_blas_thread()
def best_mixture(case: LawCase) -> Array:
    """Choose the mixture of least predicted loss, without intervals, shape (domains of the runs,).

    Args:
        case: The request, matched with the runs and with the law fitted.
    """
    return _optimum(case, case.problem).weights


def _spread_json(
    spread: Uncertainty, constraints: Constraints, domains: tuple[str, ...]
) -> dict[str, Any]:
    names = [domains[place] for place in constraints.place]
    ends = map(constraints.in_recipe_order, (spread.noise_low, spread.noise_high))
    ranges = zip(names, *ends, strict=True)
    return {
        "within_noise_of_best": {name: {"low": low, "high": high} for name, low, high in ranges},
        "regret": {name: regret.to_json() for name, regret in spread.regret.items()},
        "replicates": len(spread.optima),
    }
