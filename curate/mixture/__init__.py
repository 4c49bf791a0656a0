"""Mixing methods behind one function: `mix(request)` gives shares of tokens.

`METHODS` lists them. A method states its preference, and `mix` moves that within floors and caps,
the same way for every method. `curate.mixture.methods` explains how to add one.
"""

from __future__ import annotations

from curate.mixture.caps import active_bounds, bounded_interval, check_supply, hold_to_bounds
from curate.mixture.methods import METHODS
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
    "limit_tokens",
    "mix",
    "mix_with",
]


def mix(request: MixtureRequest) -> Mixture:
    """Compute shares of tokens by the method the request names, within floors and caps.

    A method's preference is moved to the nearest shares that obey floor_i <= w_i <= cap_i and
    w_i * budget <= max_epochs_i * supply_i (`simplex.project_capped`). Methods that minimise a loss
    search within these bounds. Weights given by hand are moved to obey `max_epochs` only if
    `on_shortfall` is `redistribute`; with `repeat`, `max_epochs` is ignored for every method, with
    a warning.

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
    return mix_with(METHODS.find(request.method, "mixture.method"), request)


def mix_with(method: Method, request: MixtureRequest) -> Mixture:
    """Mix by a method that need not be in `METHODS`; the name in the request is ignored."""
    check_request(request)
    if not method.by_hand:
        check_supply(request, None)
    preference = method.prefer(request)
    preferred = normalised(preference.weights)
    unconstrained = normalised(preference.unconstrained or preference.weights)
    weights, warnings = hold_to_bounds(method, request, preferred)
    low, high = bounded_interval(request, preference, weights)
    names = [domain.name for domain in request.domains]
    epochs = [
        weight * request.budget_tokens / domain.supply_tokens if domain.supply_tokens else 0.0
        for weight, domain in zip(weights, request.domains, strict=True)
    ]
    return Mixture(
        method=method.name,
        weights=dict(zip(names, weights, strict=True)),
        unconstrained=dict(zip(names, unconstrained, strict=True)),
        epochs=dict(zip(names, epochs, strict=True)),
        constraints_active=active_bounds(request, weights),
        warnings=(*preference.warnings, *warnings),
        paper=method.paper,
        low=dict(zip(names, low, strict=True)) if low else None,
        high=dict(zip(names, high, strict=True)) if high else None,
        predicted_loss=preference.predicted_loss,
        details=preference.details,
        law=preference.law,
    )
