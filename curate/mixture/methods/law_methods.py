"""Mix by a law of training runs: fit, optimise, check the support, resample.

Every law takes the same path; BiMix's closed form and RegMix's simulation replace the optimiser
where they apply.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import FitError, MissingEvidence, RecipeError
from curate.laws import LAWS, Law, RunTable
from curate.laws.calibration import NORMAL_95, half_width, log_errors
from curate.laws.fitting.features import distinct_mixtures
from curate.laws.fitting.levels import FittedBeyond
from curate.laws.forms.bimix import NEAR_ZERO, FittedBimix
from curate.laws.forms.expert_regression import INFORMED, informed
from curate.laws.selection import (
    by_mixture,
    moved_targets,
    reference_rows,
    select_unseen,
    target_noise,
)
from curate.mixture.constraints import Constraints, match_constraints, prior_of
from curate.mixture.methods.expert_features import expert_features
from curate.mixture.request import MixtureRequest, Preference
from curate.mixture.search.bimix_optimum import power_optimum
from curate.mixture.search.law_choice import (
    Refitted,
    combined,
    objective_of,
    opinions,
    panel_with,
    refit,
)
from curate.mixture.search.objective import Problem, losses_at, value_at
from curate.mixture.search.optimise import certificate, optimise
from curate.mixture.search.regmix_simulation import simulate
from curate.mixture.search.simplex_box import nearest_in_proportion
from curate.mixture.search.trust_region import check_support, hellinger, support_of, support_warning
from curate.mixture.search.uncertainty import Resampling, Uncertainty, bootstrap
from curate.runtime.registry import unknown_name
from curate.runtime.threads import one_blas_thread

Array = NDArray[np.float64]

LEAST_NAMED = 1e-4
"""Least share that causes a warning for a domain that no run had."""
ROUNDING = 1e-6
"""Relative gain below which a predicted improvement is rounding error."""
ASSUMED_TOKEN_BYTES = 4
"""Bytes of a token where the runs do not say; English text has 4 to 5, code 3 to 4."""
FAR_SCALE = 10.0
"""Factor beyond the runs' tokens or parameters from which a comparison is called a guess."""
MISFIT_FOLDS = 3
"""Parts held out in turn to learn a law's error; more would take as many more fits."""


@dataclass(frozen=True, slots=True)
class _Case:
    """One request to a method of a law: the problem to minimise, and its parts."""

    simulated: bool
    """Whether the answer is the mean of the best of many draws, as RegMix's."""
    request: MixtureRequest
    constraints: Constraints
    runs: RunTable
    law: Law
    problem: Problem


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
    case = _case((law, kl_bpb, simulated), request, runs)
    constraints, problem = case.constraints, case.problem
    answer = _optimum(case, problem)
    warnings = [*_unit_warnings(case, kl_bpb), *_position_warnings(case, answer)]
    requested = request.options.search.replicates
    replicates = case.law.replicates if requested is None else requested
    refits = None
    if requested != 0:
        try:
            refits = refit(case.law, problem.law, runs)
        except FitError as error:
            warnings.append(f"no intervals over laws: {error} (without a fifth of the mixtures)")
    ranges, spread = None, None
    if refits is not None:
        ranges = _ranges(case, answer.weights, refits)
    if replicates:
        spread = _uncertainty(case, answer.weights, replicates)
        if spread.failed:
            warnings.append(f"{spread.failed} of {replicates} resamples cannot determine the law")
        ranges = _wider(ranges, spread)
    losses = losses_at(problem, answer.weights[None])[0]
    worst_or_mean = losses.max() if constraints.worst else losses @ constraints.target_weights
    trust = _compare_with_runs(case, answer.weights, refits)
    warnings += [] if trust.warning is None else [trust.warning]
    support = check_support(answer.weights, support_of(runs.weights), runs.domains)
    return Preference(
        weights=constraints.in_recipe_order(answer.weights),
        unconstrained=constraints.in_recipe_order(_unconstrained(case, answer)),
        low=None if ranges is None else constraints.in_recipe_order(ranges.low),
        high=None if ranges is None else constraints.in_recipe_order(ranges.high),
        predicted_loss=float(worst_or_mean),
        warnings=(*warnings, *(request.evidence.notices if request.evidence else ())),
        details={
            "law": case.law.name,
            "support": support.to_json(),
            "optimality_gap": answer.gap,
            "observed": {"best": trust.best, "misfit": trust.misfit},
            **trust.details,
            "at": {"tokens": _or_none(problem.tokens), "params": _or_none(problem.params)},
            "predicted_losses": dict(zip(runs.targets, map(float, losses), strict=True)),
            **({} if ranges is None else {"laws": ranges.laws}),
            **_loss_ranges(case, losses, refits),
            **({} if spread is None else _spread_json(spread, constraints, runs.domains)),
        },
    )


def _case(method: tuple[str | None, float, bool], request: MixtureRequest, runs: RunTable) -> _Case:
    """Match the request with the runs and fit the law."""
    name, kl_bpb, simulated = method
    law = _law(name or request.options.search.law, request, runs)
    constraints = match_constraints(request, runs.domains, runs.targets, "runs")
    if len(distinct_mixtures(runs.weights)) < 2:
        raise FitError(
            f"mixture: all {len(set(runs.runs))} runs have the same mixture, so nothing says what "
            "another would do; train different ones (`curate design`), or take a method that needs "
            "none, such as entropy"
        )
    search = request.options.search
    # Losses of different domains are compared by how far each is above the best that a run had.
    scale = 1 / runs.losses.min(axis=0) if constraints.worst else 1.0
    discount = search.discount_repeats
    problem = Problem(
        law=law.fit(runs),
        box=constraints.box,
        target_weights=constraints.target_weights * scale,
        worst=constraints.worst,
        tokens=_at(runs.tokens, search.at_tokens, "at_tokens", "tokens"),
        params=_at(runs.params, search.at_params, "at_params", "parameters"),
        kl=kl_bpb * _loss_per_bpb(runs) if search.kl is None else search.kl,
        prior=prior_of(request, constraints),
        unique_share=constraints.unique_share if discount else None,
        support=support_of(runs.weights) if search.trust_region else None,
        convex=law.convex and not discount,
    )
    return _Case(
        simulated=simulated,
        request=request,
        constraints=constraints,
        runs=runs,
        law=law,
        problem=problem,
    )


def _loss_per_bpb(runs: RunTable) -> float:
    """Return how many of the losses' unit one bit per byte is; assumed if the runs do not say."""
    unknown = math.isnan(runs.loss_per_bpb)
    return ASSUMED_TOKEN_BYTES * math.log(2) if unknown else runs.loss_per_bpb


def _unit_warnings(case: _Case, kl_bpb: float) -> list[str]:
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


def _position_warnings(case: _Case, answer: _Answer) -> list[str]:
    """Warn where the mixture lies outside the trained mixtures, or the trust region binds."""
    runs, support = case.runs, support_of(case.runs.weights)
    warnings = [
        f"'{name}' is in the runs and not in the recipe: it gets no share"
        for name in case.constraints.left_out
    ]
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


@dataclass(frozen=True, slots=True)
class _Trust:
    """The objective where runs were seen, in the objective's own unit."""

    best: float | None
    """Least of a run; None where no run is at the problem's tokens and size."""
    misfit: float | None = None
    """Root mean square error on mixtures held out; None where the law cannot be fitted to the
    rest."""
    warning: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `mixture.json`: regret@1, gain over natural, noise, and targets that do not move.
    """


def _compare_with_runs(case: _Case, weights: Array, refits: Refitted | None) -> _Trust:
    """Measure on runs that the law has not seen what its recommendation is worth.

    Without refits the law is fitted again without each third of the mixtures. Warns where the gain
    promised over the best run exceeds the law's errors.
    """
    problem, runs = case.problem, case.runs
    plain = replace(problem, kl=0.0)
    seen = _observed(plain, runs, np.full(len(runs.runs), math.inf))
    best = float(seen.min()) if np.isfinite(seen).any() else None
    if refits is None:
        try:
            refits = refit(case.law, problem.law, runs, MISFIT_FOLDS)
        except FitError:
            return _Trust(best)
    rows = np.flatnonzero(np.isfinite(seen)) if best is not None else reference_rows(runs)
    compared = runs.take(rows)
    observed, predicted = (
        by_mixture(compared, objective_of(losses[rows], problem))
        for losses in (runs.losses, refits.predicted)
    )
    selection = select_unseen(observed, predicted)
    noise = target_noise(runs)
    moved = moved_targets(runs, refits.predicted, _mean_refits(runs, len(refits.parts)))
    squares = (observed - predicted) ** 2
    natural = nearest_in_proportion(case.constraints.natural, problem.box)
    away = hellinger(natural[None], distinct_mixtures(compared.weights))[0]
    quarter = max(len(squares) // 4, min(len(squares), 3))
    near, liked = (np.argsort(by, kind="stable")[:quarter] for by in (away, predicted))
    promised = float(observed.min()) - float(value_at(plain, weights[None])[0])
    beyond = max(promised, 0.0) ** 2 if best is not None else 0.0
    both = np.stack([natural, weights])
    gains = [
        float(-np.diff(value_at(replace(plain, law=law), both))[0])
        for law in (problem.law, *refits.parts)
    ]
    gain = _gain(np.array(gains), float(squares[near].mean() + squares[liked].mean()) + beyond)
    details = {
        "regret_at_1": {"mean": selection.regret, "high": selection.regret_high},
        "gain_over_natural": gain,
        "target_noise": {
            "mixtures_repeated": noise.mixtures_repeated,
            "relative": {
                name: _or_none(value)
                for name, value in zip(runs.targets, noise.relative.tolist(), strict=True)
            },
        },
        "unmoved_targets": [n for n, moves in zip(runs.targets, moved, strict=True) if not moves],
    }
    if best is None:
        return _Trust(None, details=details)
    misfit = float(np.sqrt(squares.mean()))
    if promised <= max(misfit, ROUNDING * abs(best)):
        return _Trust(best, misfit, details=details)
    return _Trust(best, misfit, (
        f"the law promises {promised:.4g} below the best run ({best:.4g}), and errs by "
        f"{misfit:.4g} on runs it has not seen: nothing like it was observed, so train this "
        "mixture before you rely on it"
    ), details)  # fmt: skip


def _mean_refits(runs: RunTable, groups: int) -> Array:
    """Predict each row by the dummy `mean` without its group of mixtures."""
    dummy = LAWS["mean"]
    return refit(dummy, dummy.fit(runs), runs, groups).predicted


def _gain(gains: Array, error: float) -> dict[str, Any]:
    """Return the expected gain over natural with its 95 % interval.

    Its variance is the grouped jackknife's, plus the law's mean square error on unseen mixtures of
    either kind: the quarter nearest to natural, and the quarter that it likes best. The second
    includes what a law promises too much because its own errors select the mixture. What it
    promises below the best run was not observed, and counts as one more error.

    Args:
        gains: shape (1 + parts,), gain by the law of all runs, then without each group.
        error: Sum of the mean square errors of the objective.

    References:
        Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 11.5.
    """
    gain, others = float(gains[0]), gains[1:]
    jackknife = (len(others) - 1) / len(others) * float(((others - others.mean()) ** 2).sum())
    half = NORMAL_95 * math.sqrt(error + jackknife)
    return {
        "mean": gain,
        "low": gain - half,
        "high": gain + half,
        "within_noise": gain - half <= 0,
    }


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


def _optimum(case: _Case, problem: Problem) -> _Answer:
    """Solve a problem of the case (that of all runs, or of a resample) in the method's way."""
    seed = case.request.options.search.seed
    if case.simulated:
        assert problem.prior is not None, "a case has a prior"
        drawn = simulate(lambda mixtures: value_at(problem, mixtures),
                         np.maximum(problem.prior, 1e-6), seed=seed)  # fmt: skip
        return _Answer(nearest_in_proportion(drawn, problem.box), None, None, free=drawn)
    exact = _closed_form(problem)
    if exact is not None:
        support = problem.support
        away = 0.0 if support is None else hellinger(exact[None], support.mixtures).min()
        if support is None or away <= support.radius:
            return _Answer(exact, None, certificate(problem, exact))
    optimum = optimise(problem, seed)
    beyond = optimum.unconstrained if exact is None else exact
    return _Answer(optimum.weights, beyond if optimum.trust_region_binds else None, optimum.gap)


def _unconstrained(case: _Case, answer: _Answer) -> Array:
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
    if not isinstance(law, FittedBimix) or problem.worst or problem.kl:
        return None
    if problem.unique_share is not None:
        return None
    domains, predicted = len(problem.box.low), list(law.domain_of)
    scales, exponents, least = np.zeros(domains), np.zeros(domains), np.ones(domains)
    scales[predicted] = law.scale(problem.tokens, problem.params) * problem.target_weights
    size = law.size(problem.params)
    exponents[predicted], least[predicted] = size.alpha, size.share_floor
    return power_optimum(scales, exponents, problem.box, (least, NEAR_ZERO))


def _uncertainty(case: _Case, weights: Array, replicates: int) -> Uncertainty:
    """Resample the runs for intervals of the shares and the regret of some other mixtures."""
    problem, runs, place = case.problem, case.runs, case.constraints.place
    values = value_at(replace(problem, kl=0.0), runs.weights)
    uniform = np.zeros(len(runs.domains))
    uniform[place] = 1 / len(place)
    rivals = {
        "natural": nearest_in_proportion(case.constraints.natural, problem.box),
        "uniform": nearest_in_proportion(uniform, problem.box),
        "best observed run": runs.weights[int(np.argmin(_observed(problem, runs, values)))],
    }
    if replicates < 20:
        raise RecipeError(
            f"mixture.replicates: {replicates} is too few for an interval; set 20 or more, or 0"
        )
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


def _ranges(case: _Case, weights: Array, refits: Refitted) -> _Ranges:
    """Compute intervals over the laws of the panel and the method's own."""
    opinion = opinions(panel_with(refits, case.runs), case.problem, case.runs)
    low, high = combined(opinion, weights, len(refits.parts))
    box, order = case.problem.box, case.constraints.in_recipe_order
    laws = {
        name: {"weight": one.weight, "optimum": order(one.optimum)}
        for name, one in opinion.items()
    }  # fmt: skip
    return _Ranges(np.maximum(low, box.low), np.minimum(high, box.high), laws)


def _wider(ranges: _Ranges | None, spread: Uncertainty) -> _Ranges:
    """Widen intervals over laws to hold those of resampled runs."""
    if ranges is None:
        return _Ranges(spread.low, spread.high, {})
    low, high = np.minimum(ranges.low, spread.low), np.maximum(ranges.high, spread.high)
    return replace(ranges, low=low, high=high)


def _loss_ranges(case: _Case, losses: Array, refits: Refitted | None) -> dict[str, Any]:
    """Compute 95 % intervals of the predicted losses of a new run, by target."""
    if refits is None:
        return {}
    problem, runs = case.problem, case.runs
    width = half_width(log_errors(refits.predicted, runs), runs)
    if isinstance(problem.law, FittedBeyond):
        at = np.full(1, problem.tokens), np.full(1, problem.params)
        width = np.maximum(width, NORMAL_95 * problem.law.predict_std(runs.weights[:1], *at)[0])
    ends = (np.exp([-width, width]) * losses).tolist()
    ranges = {
        name: {"low": low, "high": high}
        for name, low, high in zip(runs.targets, *ends, strict=True)
    }
    return {"predicted_intervals": ranges}


def _observed(problem: Problem, runs: RunTable, predicted: Array) -> Array:
    """Evaluate the objective on each run's own losses, at the tokens and size of the problem.

    Runs at other tokens or sizes do not compare; where none is at the problem's, predictions do.
    """
    here = np.ones(len(runs.runs), bool)
    for values, target in ((runs.tokens, problem.tokens), (runs.params, problem.params)):
        if not math.isnan(target):
            here &= np.isclose(values, target)
    if not here.any():
        return predicted
    return np.where(here, objective_of(runs.losses, problem), math.inf)


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


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
