"""Hold shares to floors and caps, the same way for every method.

`mixture.floors`, `mixture.caps` and `max_epochs` passes over a domain's supply bound its share. The
recipe's `on_shortfall` decides what happens where shares break `max_epochs`.
`curate.mixture.shortfall` words the errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from curate.errors import InfeasiblePlan
from curate.mixture.apportion import fits
from curate.mixture.request import (
    DomainSupply,
    Method,
    MixtureRequest,
    Preference,
    asked_bounds,
    cap_tokens,
    share_bounds,
    supply_limits,
)
from curate.mixture.shortfall import (
    explain_caps,
    explain_empty,
    explain_floor,
    explain_infeasible,
    explain_supply,
)
from curate.mixture.simplex import SUM_TOLERANCE, project_capped, project_capped_rows


def bounded_interval(
    request: MixtureRequest, preference: Preference, weights: Sequence[float]
) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """Compute the ends of the 95 % intervals of the shares, within floors and caps.

    Args:
        request: Budget, floors and caps.
        preference: The method's, with `draws`, or with `low` and `high`.
        weights: shape (domains,), the bounded shares; always inside their intervals.

    Returns:
        Lower and upper ends, shape (domains,) each; None where the method has none.
    """
    bounds = share_bounds(request)
    if preference.draws is None:
        if preference.low is None or preference.high is None:
            return None, None
        ends = np.clip([preference.low, preference.high], bounds.low, bounds.high)
    else:
        draws = np.asarray(preference.draws, np.float64)
        if not bounds.allow_all:
            draws = project_capped_rows(draws, bounds.high, bounds.low)
        ends = np.quantile(draws, [0.025, 0.975], axis=0)
    low, high = np.minimum(ends[0], weights), np.maximum(ends[1], weights)
    return low.tolist(), high.tolist()


def check_supply(request: MixtureRequest, weights: Sequence[float] | None) -> None:
    """Raise `InfeasiblePlan` if no shares of the domains in use could fill the budget.

    Domains in use are those of positive weight, or all where there are no weights.
    """
    empty = explain_empty(request, weights)
    if empty is not None:
        raise InfeasiblePlan(empty)
    bounds = share_bounds(request)
    for position, (low, high) in enumerate(zip(bounds.low, bounds.high, strict=True)):
        if low > high:
            raise InfeasiblePlan(explain_floor(request, position))
    support = [i for i in range(len(request.domains)) if weights is None or weights[i] > 0]
    limits = supply_limits(request)
    if sum(limits[i] for i in support) < request.budget_tokens:
        raise InfeasiblePlan(explain_supply(request, support))
    room = list(bounds.low)
    for position in support:
        room[position] = bounds.high[position]
    if math.fsum(room) < 1 - SUM_TOLERANCE:
        raise InfeasiblePlan(explain_caps(request, support))


def hold_to_bounds(
    method: Method, request: MixtureRequest, weights: list[float]
) -> tuple[list[float], tuple[str, ...]]:
    """Move shares within floors and caps; `on_shortfall` decides about `max_epochs`.

    Args:
        method: The method whose shares they are.
        request: Budget, floors, caps and policy.
        weights: shape (domains,), shares.

    Returns:
        The shares, and warnings about them.

    Raises:
        InfeasiblePlan: A domain in use is empty, or the caps exclude what the policy allows.
    """
    options = request.options
    asked, bounds = asked_bounds(request), share_bounds(request)
    within = weights
    if not asked.allow_all:
        unlimited = replace(request, options=replace(options, on_shortfall="repeat"))
        check_supply(unlimited, weights)
        within = project_capped(weights, asked.high, asked.low)
    keys = "weights moved to obey mixture.floors and mixture.caps"
    warnings = _moved(keys, request, weights, within) if method.by_hand else ()
    if options.on_shortfall == "repeat":
        empty = explain_empty(request, within)
        if empty is not None:
            raise InfeasiblePlan(empty)
        return within, (*warnings, *_repetitions(request, within))
    if method.by_hand and fits(within, request.budget_tokens, supply_limits(request)):
        return within, warnings
    # Moving the mean of a schedule would leave its curve behind.
    if method.by_hand and (options.on_shortfall == "error" or request.ends):
        raise InfeasiblePlan(explain_infeasible(request, within))
    check_supply(request, weights)
    held = project_capped(weights, bounds.high, bounds.low)
    if not method.by_hand:
        return held, ()
    keys = "max_epochs" if asked.allow_all else "max_epochs, mixture.floors and mixture.caps"
    cause = f"on_shortfall redistribute: weights moved to obey {keys}"
    return held, _moved(cause, request, weights, held)


def _moved(
    cause: str, request: MixtureRequest, before: Sequence[float], after: Sequence[float]
) -> tuple[str, ...]:
    """Warn that weights given by hand were moved; nothing if they were not."""
    moved = ", ".join(
        f"'{domain.name}' {old:.4g} to {new:.4g}"
        for domain, old, new in zip(request.domains, before, after, strict=True)
        if abs(new - old) > SUM_TOLERANCE
    )
    return (f"{cause}: {moved}",) if moved else ()


def _repetitions(request: MixtureRequest, weights: list[float]) -> tuple[str, ...]:
    """Warn of each domain that is read more often than its cap would allow."""
    warnings = []
    for domain, weight in zip(request.domains, weights, strict=True):
        cap = cap_tokens(domain)
        tokens = weight * request.budget_tokens
        if cap is not None and tokens > cap * (1 + SUM_TOLERANCE):
            warnings.append(
                f"on_shortfall repeat: '{domain.name}' is read {domain.epochs_of(tokens):.4g} "
                f"times (max_epochs {domain.max_epochs:g})"
            )
    return tuple(warnings)


def is_capped(method: Method, request: MixtureRequest, weights: Sequence[float]) -> bool:
    """Return whether `max_epochs` bounds the shares that a method chose; never those by hand.

    Args:
        method: The method.
        request: Budget, floors and caps.
        weights: shape (domains,), the bounded shares.
    """
    pairs = zip(request.domains, weights, strict=True)
    return not method.by_hand and any(_is_at_cap(request, *pair) for pair in pairs)


def _is_at_cap(request: MixtureRequest, domain: DomainSupply, weight: float) -> bool:
    cap = None if request.options.on_shortfall == "repeat" else cap_tokens(domain)
    tokens = weight * request.budget_tokens
    return cap is not None and tokens > 0 and tokens >= cap * (1 - SUM_TOLERANCE)


def active_bounds(request: MixtureRequest, weights: Sequence[float]) -> tuple[str, ...]:
    """List the floors and caps that the shares reach."""
    floors, caps = request.options.floors, request.options.caps
    active = []
    for domain, weight in zip(request.domains, weights, strict=True):
        name = domain.name
        if _is_at_cap(request, domain, weight):
            active.append(f"{name}: max_epochs {domain.max_epochs:g} binds")
        if name in caps and weight >= caps[name] - SUM_TOLERANCE:
            active.append(f"{name}: mixture.caps {caps[name]:g} binds")
        if floors.get(name) and weight <= floors[name] + SUM_TOLERANCE:
            active.append(f"{name}: mixture.floors {floors[name]:g} binds")
    return tuple(active)
