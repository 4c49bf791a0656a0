"""Mixing methods behind one function: `mix(request)` gives shares of tokens.

`METHODS` lists them. A method says what it would choose; `mix` holds that to the epoch caps by
one projection, the same for all. Adding a method takes one function and one row here, and
the contract test picks it up.
"""

from __future__ import annotations

from curate.errors import RecipeError
from curate.mixture.caps import active_caps, capped_interval, check_supply, hold_to_caps
from curate.mixture.methods import baselines, entropic, leverage
from curate.mixture.methods import needs_evidence as evidenced
from curate.mixture.request import (
    DomainSupply,
    Evidence,
    Method,
    Mixture,
    MixtureOptions,
    MixtureRequest,
    Preference,
    SearchOptions,
    check_request,
    limit_tokens,
)
from curate.mixture.shortfall import explain_infeasible
from curate.mixture.simplex import normalised
from curate.runtime.registry import nearest_hint

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
        check_supply(request, None)
    preference = method.solve(request)
    preferred = normalised(preference.weights)
    wanted = normalised(preference.unconstrained or preference.weights)
    weights, warnings = hold_to_caps(method, request, preferred)
    low, high = capped_interval(request, preference, weights)
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
        constraints_active=active_caps(request, weights),
        warnings=(*preference.warnings, *warnings),
        paper=method.paper,
        low=dict(zip(names, low, strict=True)) if low else None,
        high=dict(zip(names, high, strict=True)) if high else None,
        predicted_loss=preference.predicted_loss,
        details=preference.details,
    )
