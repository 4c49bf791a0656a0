"""Mixing methods behind one function: `mix(request)` gives shares of tokens.

`METHODS` lists them. A method says what it would choose; `mix` holds that to the epoch caps by
one projection, the same for all. Adding a method takes one function and one row here, and
the contract test picks it up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from curate.errors import InfeasiblePlan, RecipeError
from curate.mixture import baselines, entropic, evidenced, leverage
from curate.mixture.apportion import fits
from curate.mixture.base import (
    DomainSupply,
    Evidence,
    Method,
    Mixture,
    MixtureOptions,
    MixtureRequest,
    Preference,
    SearchOptions,
    cap_tokens,
    check_request,
    limit_tokens,
)
from curate.mixture.shortfall import explain_empty, explain_infeasible, explain_supply
from curate.mixture.simplex import (
    SUM_TOLERANCE,
    normalised,
    project_capped,
    project_capped_rows,
)
from curate.recipe_text import nearest_hint

__all__ = [
    "METHODS",
    "DomainSupply",
    "Evidence",
    "Method",
    "Mixture",
    "MixtureOptions",
    "MixtureRequest",
    "Preference",
    "SearchOptions",
    "explain_infeasible",
    "find",
    "limit_tokens",
    "mix",
    "mix_with",
]

METHODS: dict[str, Method] = {
    "natural": Method(
        name="natural",
        summary="shares proportional to supply",
        paper="a baseline, no paper",
        needs="token counts",
        solve=baselines.natural,
    ),
    "uniform": Method(
        name="uniform",
        summary="the same share for every domain",
        paper="a baseline, no paper",
        needs="nothing",
        solve=baselines.uniform,
    ),
    "temperature": Method(
        name="temperature",
        summary="shares proportional to supply^(1/temperature)",
        paper="Arivazhagan et al. 2019, arXiv:1907.05019 (sampling temperature)",
        needs="token counts and mixture.temperature",
        solve=baselines.temperature,
    ),
    "unimax": Method(
        name="unimax",
        summary="as uniform as the epoch caps allow",
        paper="Chung et al. 2023, UniMax, arXiv:2304.09151, Algorithm 1",
        needs="token counts and max_epochs",
        solve=baselines.unimax,
    ),
    "manual": Method(
        name="manual",
        summary="the recipe's own weights",
        paper="the recipe, no paper",
        needs="a weight for every domain",
        solve=baselines.manual,
        by_hand=True,
    ),
    "entropy": Method(
        name="entropy",
        summary="shares proportional to exp(entropy), by default of the next token given this one",
        paper="Ge et al. 2024, BiMix, arXiv:2405.14908v4, Eq. 13",
        needs="entropies from `curate stats`",
        solve=entropic.entropy,
    ),
    "leverage": Method(
        name="leverage",
        summary="more for domains that others resemble, by ridge leverage of mean embeddings",
        paper="Chameleon 2025, arXiv:2505.24844 (kernel scaled to mean diagonal 1)",
        needs="embeddings of excerpts, made when asked for",
        solve=leverage.leverage,
    ),
    "bimix": Method(
        name="bimix",
        summary="least loss by BiMix's law of each domain's own share",
        paper="Ge et al. 2024, BiMix, arXiv:2405.14908v4, Eq. 15",
        needs="runs of at least two mixtures",
        solve=evidenced.from_runs,
        evidence="runs",
    ),
    "bimix_mixed": Method(
        name="bimix_mixed",
        summary="least loss by BiMix's law with the shares of all domains",
        paper="after Ge et al. 2024, arXiv:2405.14908v4, Eq. 3",
        needs="runs, better more than twice the domains",
        solve=evidenced.from_runs,
        evidence="runs",
    ),
    "dml": Method(
        name="dml",
        summary="least loss by the data mixing law, log-linear in the shares",
        paper="Ye et al. 2024, Data Mixing Laws, arXiv:2403.16952, Eq. 7",
        needs="runs, better more than the domains",
        solve=evidenced.from_runs,
        evidence="runs",
    ),
    "olmix": Method(
        name="olmix",
        summary="the same with a KL pull of 0.05 to the natural mixture",
        paper="Chen et al. 2026, Olmix, arXiv:2602.12237",
        needs="runs, better 3 (domains + 1)",
        solve=evidenced.from_runs,
        evidence="runs",
    ),
    "additive": Method(
        name="additive",
        summary="least loss by the additive law of mixture, tokens and size",
        paper="Shukor et al. 2025, arXiv:2507.09404",
        needs="runs, better more than twice the domains",
        solve=evidenced.from_runs,
        evidence="runs",
    ),
    "autoscale": Method(
        name="autoscale",
        summary="least loss by power laws of every domain's tokens",
        paper="Kang et al. 2024, AutoScale, arXiv:2407.20177",
        needs="runs, better more than three times the domains",
        solve=evidenced.from_runs,
        evidence="runs",
    ),
    "ridge": Method(
        name="ridge",
        summary="least loss by linear regression: a corner of what is allowed",
        paper="Liu et al. 2024, RegMix, arXiv:2407.01492v2, App. E",
        needs="runs",
        solve=evidenced.from_runs,
        evidence="runs",
    ),
    "gaussian": Method(
        name="gaussian",
        summary="least loss by a Gaussian process on square-root shares",
        paper="no paper, after Rasmussen and Williams 2006",
        needs="runs",
        solve=evidenced.from_runs,
        evidence="runs",
    ),
    "boosted": Method(
        name="boosted",
        summary="least loss by boosted trees with small leaves",
        paper="after Liu et al. 2024, arXiv:2407.01492v2",
        needs="LightGBM and runs, better more than 100",
        solve=evidenced.from_runs,
        evidence="runs",
    ),
    "regmix": Method(
        name="regmix",
        summary="boosted trees, and the mean of the best of simulated mixtures",
        paper="Liu et al. 2024, RegMix, arXiv:2407.01492v2",
        needs="LightGBM and 40 runs, better more than 250",
        solve=evidenced.from_runs,
        evidence="runs",
    ),
    "joint": Method(
        name="joint",
        summary="least loss by our joint law of mixture, tokens and model size",
        paper="no paper; ours",
        needs="runs of 4 mixtures, better twice the domains",
        solve=evidenced.from_runs,
        evidence="runs",
    ),
    "ridge_mde": Method(
        name="ridge_mde",
        summary="least loss by linear regression on shares and experts' losses",
        paper="Belenki et al. 2025, MDE, arXiv:2502.15950",
        needs="runs, and log-probabilities from `curate experts`",
        solve=evidenced.from_both,
        evidence="runs",
    ),
    "gaussian_mde": Method(
        name="gaussian_mde",
        summary="least loss by a Gaussian process on root shares and experts' losses",
        paper="after Belenki et al. 2025, MDE, arXiv:2502.15950",
        needs="runs, and log-probabilities from `curate experts`",
        solve=evidenced.from_both,
        evidence="runs",
    ),
    "boosted_mde": Method(
        name="boosted_mde",
        summary="least loss by boosted trees on shares and experts' losses",
        paper="after Belenki et al. 2025, MDE, arXiv:2502.15950",
        needs="LightGBM, runs, and log-probabilities from `curate experts`",
        solve=evidenced.from_both,
        evidence="runs",
    ),
    "law": Method(
        name="law",
        summary="least loss by any law of `curate fit`, named in mixture.law",
        paper="that of the law; the method itself has no paper",
        needs="runs, and mixture.law",
        solve=evidenced.from_runs,
        evidence="runs",
    ),
    "mde": Method(
        name="mde",
        summary="experts mixed token by token predict the targets best",
        paper="Belenki et al. 2025, MDE, arXiv:2502.15950",
        needs="log-probabilities from `curate experts`",
        solve=evidenced.from_experts,
        evidence="experts",
    ),
    "mixmin": Method(
        name="mixmin",
        summary="experts mixed document by document predict the targets best",
        paper="Thudi et al. 2025, MixMin, arXiv:2502.10510",
        needs="log-probabilities from `curate experts`",
        solve=evidenced.from_experts,
        evidence="experts",
    ),
}


def mix(request: MixtureRequest) -> Mixture:
    """Shares of tokens by the method the request names, held to the epoch caps.

    A method's own choice is moved to the nearest shares that obey w_i * budget <= max_epochs_i *
    supply_i (`simplex.project_capped`). Weights given by hand are moved only if `on_shortfall` is
    `redistribute`; with `repeat`, caps are ignored for every method, with a warning.

    Raises:
        RecipeError: The method is unknown, or the request contradicts itself.
        MissingEvidence: The method lacks what it needs.
        InfeasiblePlan: A domain has no tokens, all caps together cannot fill the budget, or weights
            given by hand break a cap; the message says what to type.

    Example:
        >>> domains = (DomainSupply("wiki", 30, 4), DomainSupply("web", 70, 4))
        >>> mix(MixtureRequest(domains, 50, "natural")).weights
        {'wiki': 0.3, 'web': 0.7}
    """
    return mix_with(find(request.method), request)


def find(name: str) -> Method:
    """The method of this name.

    Raises:
        RecipeError: There is none; the message names the nearest.
    """
    method = METHODS.get(name)
    if method is None:
        hint = nearest_hint(str(name), METHODS)
        raise RecipeError(
            f"mixture.method: no method is called '{name}'{hint} (known: {', '.join(METHODS)})"
        )
    return method


def mix_with(method: Method, request: MixtureRequest) -> Mixture:
    """`mix`, for a method that need not be in `METHODS`; the request's own name is ignored."""
    check_request(request)
    if not method.by_hand:
        _check_supply(request, None)
    preference = method.solve(request)
    preferred = normalised(preference.weights)
    wanted = normalised(preference.unconstrained or preference.weights)
    weights, warnings = _hold_to_caps(method, request, preferred)
    low, high = _interval(request, preference, weights)
    names = [domain.name for domain in request.domains]
    epochs = [
        weight * request.budget_tokens / domain.supply_tokens if domain.supply_tokens else 0.0
        for weight, domain in zip(weights, request.domains, strict=True)
    ]
    return Mixture(
        method=method.name,
        weights=dict(zip(names, weights, strict=True)),
        unconstrained=dict(zip(names, wanted, strict=True)),
        epochs=dict(zip(names, epochs, strict=True)),
        constraints_active=_active(request, weights),
        warnings=(*preference.warnings, *warnings),
        paper=method.paper,
        low=dict(zip(names, low, strict=True)) if low else None,
        high=dict(zip(names, high, strict=True)) if high else None,
        predicted_loss=preference.predicted_loss,
        details=preference.details,
    )


def _interval(
    request: MixtureRequest, preference: Preference, weights: Sequence[float]
) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """Ends of the 95 % intervals of the shares, as the caps leave them; None: there are none."""
    if preference.draws is None:
        return preference.low, preference.high
    caps = [limit / request.budget_tokens for limit in limit_tokens(request)]
    draws = np.asarray(preference.draws, np.float64)
    free = request.options.on_shortfall == "repeat"
    held = draws if free else project_capped_rows(draws, caps)
    ends = np.quantile(held, [0.025, 0.975], axis=0)
    low, high = np.minimum(ends[0], weights), np.maximum(ends[1], weights)
    return low.tolist(), high.tolist()


def _check_supply(request: MixtureRequest, weights: Sequence[float] | None) -> None:
    """Raise `InfeasiblePlan` where no shares of the domains in use could fill the budget."""
    empty = explain_empty(request, weights)
    if empty is not None:
        raise InfeasiblePlan(empty)
    support = [i for i in range(len(request.domains)) if weights is None or weights[i] > 0]
    limits = limit_tokens(request)
    if sum(limits[i] for i in support) < request.budget_tokens:
        raise InfeasiblePlan(explain_supply(request, support))


def _hold_to_caps(
    method: Method, request: MixtureRequest, weights: list[float]
) -> tuple[list[float], tuple[str, ...]]:
    """Shares within the caps as the policy says, and what must be said about it."""
    budget, limits = request.budget_tokens, limit_tokens(request)
    if request.options.on_shortfall == "repeat":
        empty = explain_empty(request, weights)
        if empty is not None:
            raise InfeasiblePlan(empty)
        return weights, _repetitions(request, weights)
    if method.by_hand and fits(weights, budget, limits):
        return weights, ()
    if method.by_hand and request.options.on_shortfall == "error":
        raise InfeasiblePlan(explain_infeasible(request, weights))
    _check_supply(request, weights)
    held = project_capped(weights, [limit / budget for limit in limits])
    if not method.by_hand:
        return held, ()
    moved = ", ".join(
        f"'{domain.name}' {before:.4g} to {after:.4g}"
        for domain, before, after in zip(request.domains, weights, held, strict=True)
        if abs(after - before) > SUM_TOLERANCE
    )
    return held, (f"on_shortfall redistribute: weights moved to obey max_epochs: {moved}",)


def _repetitions(request: MixtureRequest, weights: list[float]) -> tuple[str, ...]:
    """One warning for each domain that is read more often than its cap would allow."""
    warnings = []
    for domain, weight in zip(request.domains, weights, strict=True):
        cap = cap_tokens(domain)
        asked = weight * request.budget_tokens
        if cap is not None and asked > cap * (1 + SUM_TOLERANCE):
            warnings.append(
                f"on_shortfall repeat: '{domain.name}' is read {asked / domain.supply_tokens:.4g} "
                f"times (max_epochs {domain.max_epochs:g})"
            )
    return tuple(warnings)


def _active(request: MixtureRequest, weights: list[float]) -> tuple[str, ...]:
    """The caps that the shares have reached."""
    if request.options.on_shortfall == "repeat":
        return ()
    active = []
    for domain, weight in zip(request.domains, weights, strict=True):
        cap = cap_tokens(domain)
        asked = weight * request.budget_tokens
        if cap is not None and asked > 0 and asked >= cap * (1 - SUM_TOLERANCE):
            active.append(f"{domain.name}: max_epochs {domain.max_epochs:g} binds")
    return tuple(active)
