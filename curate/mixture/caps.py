"""Hold shares to the epoch caps, the same way for every method.

A cap is `max_epochs` passes over a domain's supply. The recipe's `on_shortfall` decides what
happens where shares break one. `curate.mixture.shortfall` words the errors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from curate.errors import InfeasiblePlan
from curate.mixture.apportion import fits
from curate.mixture.request import Method, MixtureRequest, Preference, cap_tokens, limit_tokens
from curate.mixture.shortfall import explain_empty, explain_infeasible, explain_supply
from curate.mixture.simplex import SUM_TOLERANCE, project_capped, project_capped_rows


def capped_interval(
    request: MixtureRequest, preference: Preference, weights: Sequence[float]
) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """Compute the ends of the 95 % intervals of the shares, after caps.

    Args:
        request: Budget and caps.
        preference: The method's, with `draws`, or with `low` and `high`.
        weights: shape (domains,), the shares after caps; always inside their intervals.

    Returns:
        Lower and upper ends, shape (domains,) each; None where the method has none.
    """
    if preference.draws is None:
        return preference.low, preference.high
    caps = [limit / request.budget_tokens for limit in limit_tokens(request)]
    draws = np.asarray(preference.draws, np.float64)
    free = request.options.on_shortfall == "repeat"
    held = draws if free else project_capped_rows(draws, caps)
    ends = np.quantile(held, [0.025, 0.975], axis=0)
    low, high = np.minimum(ends[0], weights), np.maximum(ends[1], weights)
    return low.tolist(), high.tolist()


def check_supply(request: MixtureRequest, weights: Sequence[float] | None) -> None:
    """Raise `InfeasiblePlan` if no shares of the domains in use could fill the budget.

    Domains in use are those of positive weight, or all where there are no weights.
    """
    empty = explain_empty(request, weights)
    if empty is not None:
        raise InfeasiblePlan(empty)
    support = [i for i in range(len(request.domains)) if weights is None or weights[i] > 0]
    limits = limit_tokens(request)
    if sum(limits[i] for i in support) < request.budget_tokens:
        raise InfeasiblePlan(explain_supply(request, support))


def hold_to_caps(
    method: Method, request: MixtureRequest, weights: list[float]
) -> tuple[list[float], tuple[str, ...]]:
    """Move shares within the caps, as `on_shortfall` says.

    Args:
        method: The method whose shares they are.
        request: Budget, caps and policy.
        weights: shape (domains,), shares.

    Returns:
        The shares, and warnings about them.

    Raises:
        InfeasiblePlan: A domain in use is empty, or the caps exclude what the policy allows.
    """
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
    check_supply(request, weights)
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
    """Warn of each domain that is read more often than its cap would allow."""
    warnings = []
    for domain, weight in zip(request.domains, weights, strict=True):
        cap = cap_tokens(domain)
        tokens = weight * request.budget_tokens
        if cap is not None and tokens > cap * (1 + SUM_TOLERANCE):
            warnings.append(
                f"on_shortfall repeat: '{domain.name}' is read {tokens / domain.supply_tokens:.4g} "
                f"times (max_epochs {domain.max_epochs:g})"
            )
    return tuple(warnings)


def active_caps(request: MixtureRequest, weights: list[float]) -> tuple[str, ...]:
    """List the caps that the shares reach."""
    if request.options.on_shortfall == "repeat":
        return ()
    active = []
    for domain, weight in zip(request.domains, weights, strict=True):
        cap = cap_tokens(domain)
        tokens = weight * request.budget_tokens
        if cap is not None and tokens > 0 and tokens >= cap * (1 - SUM_TOLERANCE):
            active.append(f"{domain.name}: max_epochs {domain.max_epochs:g} binds")
    return tuple(active)
