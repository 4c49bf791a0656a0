"""Mixing by a law of training runs: fit, optimise, check the support, resample.

One path for every law. BiMix's closed form and RegMix's simulation are used where they apply.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import FitError, MissingEvidence, RecipeError
from curate.laws import LAWS, Law, RunTable
from curate.laws.fitting.features import run_folds
from curate.laws.forms.bimix import FittedBimix
from curate.laws.forms.expert_regression import INFORMED, informed
from curate.mixture.constraints import Wishes, prior_of, wishes
from curate.mixture.methods.expert_features import expert_features
from curate.mixture.request import MixtureRequest, Preference
from curate.mixture.search.bimix_optimum import power_optimum
from curate.mixture.search.objective import Problem, losses_at, value_at
from curate.mixture.search.optimise import certificate, optimise
from curate.mixture.search.regmix_simulation import simulate
from curate.mixture.search.simplex_box import nearest_in_proportion
from curate.mixture.search.trust_region import check_support, hellinger, support_of, support_warning
from curate.mixture.search.uncertainty import Resampling, Uncertainty, bootstrap

Array = NDArray[np.float64]

LAW_OF = {
    "bimix": "bimix",
    "bimix_mixed": "bimix_mixed",
    "dml": "exponential",
    "olmix": "exponential",
    "additive": "additive",
    "autoscale": "autoscale",
    "ridge": "ridge",
    "gaussian": "gaussian",
    "boosted": "boosted",
    "regmix": "boosted_regmix",
    "joint": "joint",
    "ridge_mde": "ridge_mde",
    "gaussian_mde": "gaussian_mde",
    "boosted_mde": "boosted_mde",
}
"""Method → law; method `law` names its own."""

OLMIX_KL = 0.05
"""arXiv:2602.12237."""

LEAST_NAMED = 1e-4
"""Share of a domain that no run had, from which it is warned of."""
ROUNDING = 1e-6
"""Relative gain that says nothing."""
MISFIT_FOLDS = 3
"""Parts held out in turn to learn a law's error; more would take as many more fits."""


@dataclass(frozen=True, slots=True)
class _Found:
    """An optimum, and the one without the trust region."""

    weights: Array
    unconstrained: Array
    radius: float | None
    gap: float | None


def solve(request: MixtureRequest, runs: RunTable) -> Preference:
    """See `evidenced.from_runs`."""
    search = request.options.search
    law = _law(request, runs)
    wished = wishes(request, runs.domains, runs.targets, "runs")
    if len(np.unique(np.round(runs.weights, 9), axis=0)) < 2:
        raise FitError(
            f"mixture: all {len(set(runs.runs))} runs have the same mixture, so nothing says what "
            "another would do; train different ones (`curate design`), or take a method that needs "
            "none, such as entropy"
        )
    problem = _problem(request, wished, runs, law)
    found = _optimum(request, problem, wished)
    warnings = [
        f"'{name}' is in the runs and not in the recipe: it gets no share"
        for name in wished.left_out
    ]
    support = support_of(runs.weights)
    check = check_support(found.weights, support, runs.domains)
    outside = support_warning(check)
    warnings += [outside] if outside else []
    if problem.support is not None and not np.allclose(found.weights, found.unconstrained):
        warnings.append(
            "the trust region binds: the law's own optimum is "
            f"{float(hellinger(found.unconstrained[None], support.mixtures).min()):.3f} from the "
            f"nearest run, where runs are within {support.radius:.3f} of each other; "
            "mixture.trust_region: false would take it"
        )
    never = _never_sampled(runs, found.weights)
    warnings += [never] if never else []
    replicates = law.replicates if search.replicates is None else search.replicates
    spread = None
    if replicates:
        spread = _uncertainty(request, (problem, found, wished), runs, (law, replicates))
        if spread.failed:
            warnings.append(f"{spread.failed} of {replicates} resamples cannot determine the law")
    elif search.replicates is None:
        warnings.append(
            f"no intervals: law {law.name} gives them on request, mixture.replicates: 100"
        )
    losses = losses_at(problem, found.weights[None])[0]
    expected = float(losses.max() if wished.worst else losses @ wished.target_weights)
    trusted = _compared_with_runs(problem, wished, runs, (law, found.weights))
    warnings += [] if trusted.warning is None else [trusted.warning]
    return Preference(
        weights=wished.back(found.weights),
        unconstrained=wished.back(found.unconstrained),
        low=None if spread is None else wished.back(spread.low),
        high=None if spread is None else wished.back(spread.high),
        predicted_loss=expected,
        warnings=(*warnings, *(request.evidence.notices if request.evidence else ())),
        details={
            "law": law.name,
            "support": check.to_json(),
            "optimality_gap": found.gap,
            "observed": {"best": trusted.best, "misfit": trusted.misfit},
            "at": {"tokens": _or_none(problem.tokens), "params": _or_none(problem.params)},
            "predicted_losses": dict(zip(runs.targets, map(float, losses), strict=True)),
            **({} if spread is None else _spread_json(spread, wished, runs.domains)),
        },
    )


def _never_sampled(runs: RunTable, weights: Array) -> str | None:
    """What to say of domains that get a share and that no run had."""
    most = runs.weights.max(axis=0)
    guessed = [
        f"'{name}' {share:.2%}"
        for name, share, known in zip(runs.domains, weights, most, strict=True)
        if known == 0 and share > LEAST_NAMED
    ]
    if not guessed:
        return None
    return (
        f"no run had any of {', '.join(guessed)}: what it does is a guess. Train runs that have it "
        "(`curate design`), or leave it out"
    )


@dataclass(frozen=True, slots=True)
class _Trust:
    """The objective where runs were seen, in the objective's own unit."""

    best: float | None
    """Least of a run; None where no run is at the problem's tokens and size."""
    misfit: float | None
    """Root mean square error on mixtures held out; None where it was not needed."""
    warning: str | None


def _compared_with_runs(
    problem: Problem, wished: Wishes, runs: RunTable, answer: tuple[Law, Array]
) -> _Trust:
    """Whether the answer promises more below the best run than the law's errors on runs allow.

    The law is fitted again without each third of the mixtures, unless the answer promises no more
    than the best run had.
    """
    law, weights = answer
    plain = replace(problem, kl=0.0)
    seen = _observed(plain, runs, np.full(len(runs.runs), math.inf))
    best = float(seen.min())
    if not math.isfinite(best):
        return _Trust(None, None, None)
    promised = best - float(value_at(plain, weights[None])[0])
    folds = run_folds(runs, MISFIT_FOLDS) if promised > 0 else []
    errors = []
    for held in folds:
        try:
            without = replace(plain, law=law.fit(runs.take(~held)), unique_share=None)
        except FitError:
            return _Trust(best, None, None)
        rows = held & np.isfinite(seen)
        errors.append(value_at(without, runs.weights[rows]) - seen[rows])
    if not errors:
        return _Trust(best, None, None)
    misfit = float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))
    if promised <= max(misfit, ROUNDING * abs(best)):
        return _Trust(best, misfit, None)
    return _Trust(best, misfit, (
        f"the law promises {promised:.4g} below the best run ({best:.4g}), and errs by "
        f"{misfit:.4g} on runs it has not seen: nothing like it was observed, so train this "
        "mixture before you rely on it"
    ))  # fmt: skip


def _law(request: MixtureRequest, runs: RunTable) -> Law:
    name = LAW_OF.get(request.method, request.options.search.law)
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
        known = ", ".join([*LAWS, *INFORMED])
        raise RecipeError(f"mixture.law: no law is called '{name}' (known: {known})")
    return LAWS[name]


def _problem(request: MixtureRequest, wished: Wishes, runs: RunTable, law: Law) -> Problem:
    search = request.options.search
    kl = search.kl
    if kl is None:
        kl = OLMIX_KL if request.method == "olmix" else 0.0
    # Losses of different domains are compared by how far each is above the best that a run had.
    scale = 1 / runs.losses.min(axis=0) if wished.worst else 1.0
    discount = search.discount_repeats
    return Problem(
        law=law.fit(runs),
        box=wished.box,
        target_weights=wished.target_weights * scale,
        worst=wished.worst,
        tokens=_at(runs.tokens, search.at_tokens, "at_tokens", "tokens"),
        params=_at(runs.params, search.at_params, "at_params", "parameters"),
        kl=kl,
        prior=prior_of(request, wished),
        unique_share=wished.unique_share if discount else None,
        support=support_of(runs.weights) if search.trust_region else None,
        convex=law.convex and not discount,
    )


def _at(known: Array, asked: float | None, key: str, what: str) -> float:
    """Where losses are compared: as asked, else the most of the runs."""
    if asked is not None and np.isnan(known).all():
        raise RecipeError(
            f"mixture.{key}: the runs do not say their {what}, so losses cannot be compared at "
            f"{asked:g}; remove it"
        )
    if asked is not None:
        return float(asked)
    return math.nan if np.isnan(known).all() else float(np.nanmax(known))


def _optimum(request: MixtureRequest, problem: Problem, wished: Wishes) -> _Found:
    """By the method's own way where it has one, else by the optimiser."""
    seed = request.options.search.seed
    if request.method == "regmix":
        drawn = simulate(lambda mixtures: value_at(problem, mixtures),
                         np.maximum(prior_of(request, wished), 1e-6), seed=seed)  # fmt: skip
        return _Found(nearest_in_proportion(drawn, problem.box), drawn, None, None)
    exact = _closed_form(problem)
    if exact is not None:
        support = problem.support
        away = 0.0 if support is None else hellinger(exact[None], support.mixtures).min()
        if support is None or away <= support.radius:
            return _Found(exact, exact, None, certificate(problem, exact))
    found = optimise(problem, seed)
    free = found.unconstrained if exact is None else exact
    return _Found(found.weights, free, found.radius, found.gap)


def _closed_form(problem: Problem) -> Array | None:
    """BiMix's optimum, where the problem is the sum of its losses and nothing else."""
    law = problem.law
    if not isinstance(law, FittedBimix) or problem.worst or problem.kl:
        return None
    if problem.unique_share is not None:
        return None
    scales, exponents = np.zeros(len(problem.box.low)), np.zeros(len(problem.box.low))
    own = list(law.domain_of)
    scales[own] = law.scale(problem.tokens, problem.params) * problem.target_weights
    exponents[own] = law.size(problem.params).alpha
    return power_optimum(scales, exponents, problem.box)


def _uncertainty(
    request: MixtureRequest,
    answer: tuple[Problem, _Found, Wishes],
    runs: RunTable,
    effort: tuple[Law, int],
) -> Uncertainty:
    problem, found, wished = answer
    law, replicates = effort
    values = value_at(replace(problem, kl=0.0), runs.weights)
    uniform = np.zeros(len(runs.domains))
    uniform[wished.place] = 1 / len(wished.place)
    rivals = {
        "natural": nearest_in_proportion(wished.natural, problem.box),
        "uniform": nearest_in_proportion(uniform, problem.box),
        "best observed run": runs.weights[int(np.argmin(_observed(problem, runs, values)))],
    }
    resampling = Resampling(
        runs, law.fit, max(20, replicates), request.options.search.seed,
        lambda sampled: _optimum(request, sampled, wished).weights,
    )  # fmt: skip
    if replicates < 20:
        raise RecipeError(
            f"mixture.replicates: {replicates} is too few for an interval; set 20 or more, or 0"
        )
    return bootstrap(resampling, problem, found.weights, rivals)


def _observed(problem: Problem, runs: RunTable, predicted: Array) -> Array:
    """The objective as each run's own losses give it, at the tokens and size of the problem.

    Runs at other tokens or sizes do not compare; where none is at the problem's, predictions do.
    """
    here = np.ones(len(runs.runs), bool)
    for values, wanted in ((runs.tokens, problem.tokens), (runs.params, problem.params)):
        if not math.isnan(wanted):
            here &= np.isclose(values, wanted)
    if not here.any():
        return predicted
    scaled = runs.losses * problem.target_weights
    seen = scaled.max(axis=1) if problem.worst else scaled.sum(axis=1)
    return np.where(here, seen, math.inf)


def _spread_json(spread: Uncertainty, wished: Wishes, domains: tuple[str, ...]) -> dict[str, Any]:
    names = [domains[place] for place in wished.place]
    ranges = zip(names, wished.back(spread.noise_low), wished.back(spread.noise_high), strict=True)
    return {
        "within_noise_of_best": {name: {"low": low, "high": high} for name, low, high in ranges},
        "regret": {name: regret.to_json() for name, regret in spread.regret.items()},
        "replicates": len(spread.optima),
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
