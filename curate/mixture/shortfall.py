"""Word the errors for weights, supply and budget that exclude each other, with remedies.

Every remedy is text to type or paste into the recipe, and works as it stands: tests feed it back. A
message is one line, whatever the number of domains.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

import numpy as np
import yaml

from curate.mixture.apportion import apportion, fits, largest_total, quota_bounds
from curate.mixture.request import (
    DomainSupply,
    MixtureRequest,
    cap_tokens,
    limit_tokens,
    share_bounds,
    supply_limits,
)
from curate.mixture.simplex import SUM_TOLERANCE, nearest_ends, project_capped
from curate.runtime.registry import list_first

DOMAINS_NAMED = 5
"""Most domains that a message lists; it counts the rest."""

MOST_EPOCHS = 1_000_000
"""Largest `max_epochs` that a recipe may hold, so that no message offers more."""


def explain_infeasible(request: MixtureRequest, weights: Sequence[float]) -> str:
    """Explain why these weights exceed the caps at the budget, and what to type instead.

    Args:
        request: Supply, caps and budget; the weights do not fit them.
        weights: shape (domains,), requested weights.

    Returns:
        One line: the domain that binds with its epochs, the largest budget at these weights, the
        nearest mixture that fits where there is one, and the `max_epochs` that would suffice.
    """
    empty = explain_empty(request, weights)
    if empty is not None:
        return empty
    budget, limits = request.budget_tokens, supply_limits(request)
    quotas = [high for _, high in quota_bounds(weights, budget)]
    short = _short(weights, budget, limits)
    binding = request.domains[min(short, key=lambda i: Fraction(limits[i], quotas[i]))]
    epochs = {
        request.domains[i].name: _decimal(_hundredths(quotas[i], request.domains[i])) for i in short
    }
    ways = []
    largest = largest_total(weights, limits)
    if largest:
        ways.append(f"budget_tokens: {largest:_} (the most at these weights)")
    policies = "repeat"
    bounds = share_bounds(request)
    room = (high if weight > 0 else 0.0 for weight, high in zip(weights, bounds.high, strict=True))
    if request.ends:
        ways += _schedule_ways(request)
    elif math.fsum(room) >= 1 - SUM_TOLERANCE and all(map(operator.le, bounds.low, bounds.high)):
        policies = "redistribute (to that) or repeat"
        names = [domain.name for domain in request.domains]
        nearest = project_capped(weights, bounds.high, bounds.low)
        limits = limit_tokens(request)
        ways.append(f"{paste_mixture(names, nearest, limits, budget)} (the nearest that fits)")
    ways += _earlier_ways(
        [(request.domains[i], quotas[i] - supply_limits(request)[i]) for i in short]
    )
    ways.append(" and ".join(f"max_epochs: {text} for '{name}'" for name, text in epochs.items()))
    ways.append(f"on_shortfall: {policies}")
    stages = f", {_earlier_epochs(binding)}" if binding.used_tokens else ""
    return (
        f"plan: {format_tokens(budget)} tokens at these weights need {epochs[binding.name]} epochs "
        f"of '{binding.name}'{stages} (max_epochs {binding.max_epochs:g}). Either set "
        f"{', or '.join(ways)}"
    )


def _earlier_epochs(domain: DomainSupply) -> str:
    """Say how many of a domain's epochs earlier stages take."""
    listed = list_first([f"'{stage.name}'" for stage in domain.earlier], DOMAINS_NAMED)
    return f"{domain.epochs_of(0):.4g} of them in {listed}"


def _earlier_ways(missing: Sequence[tuple[DomainSupply, int]]) -> list[str]:
    """List the budgets of single earlier stages that would leave enough of every domain.

    A stage whose shares the caps changed takes what an earlier one leaves, or takes as much at a
    smaller budget, so neither it nor the stages before it are listed.

    Args:
        missing: Each domain that is short, and the tokens that it lacks.
    """
    ways = []
    for position, stage in enumerate(missing[0][0].earlier if missing else ()):
        of_domains = [(domain.earlier[position], tokens) for domain, tokens in missing]
        if any(later.is_capped for later in missing[0][0].earlier[position:]):
            continue
        if all(use.share > 0 for use, _ in of_domains):
            # One token more, since a smaller budget is rounded by largest remainder, too.
            less = max(math.ceil((tokens + 1) / Fraction(use.share)) for use, tokens in of_domains)
            if less < stage.budget_tokens:
                ways.append(f"stages[{stage.name}].budget_tokens: {stage.budget_tokens - less:_}")
    return ways


def _schedule_ways(request: MixtureRequest) -> list[str]:
    """List the ends of a schedule, nearest to those of the request, that fit; none if none do."""
    limits, budget = limit_tokens(request), request.budget_tokens
    nearest = nearest_ends(np.array(request.ends), np.array(limits) / budget)
    if nearest is None:
        return []
    for digits in (4, 6, 9, 12):
        unit = 10**digits
        start = apportion(nearest[:, 0].tolist(), unit)
        rooms = [
            max(0, 2 * limit * unit // budget - part)
            for limit, part in zip(limits, start, strict=True)
        ]
        try:
            end = apportion(nearest[:, 1].tolist(), unit, rooms)
        except ValueError:
            continue
        means = [sum(parts) / (2 * unit) for parts in zip(start, end, strict=True)]
        if fits(means, budget, limits):
            names = [domain.name for domain in request.domains]
            first, last = (
                _paste_shares(names, [_decimal(part, digits) for part in parts])
                for parts in (start, end)
            )
            return [f"schedule.from: {first} and schedule.to: {last} (the nearest that fit)"]
    return []


def explain_supply(request: MixtureRequest, support: Sequence[int]) -> str:
    """Explain why no weights of these domains fill the budget, and what to type instead.

    Args:
        request: Supply, caps and budget.
        support: Positions of the domains that may be used.
    """
    domains = [request.domains[i] for i in support]
    limits = supply_limits(request)
    held = sum(limits[i] for i in support)
    terms = [
        f"'{domain.name}' {format_tokens(domain.supply_tokens)} x {domain.max_epochs:g}"
        + (f" less {format_tokens(domain.used_tokens)}" if domain.used_tokens else "")
        for domain in domains
    ]
    ways = [f"budget_tokens: {held:_} (the most they hold)"] if held else []
    hundredths = _sufficient_hundredths(request, support)
    if hundredths <= 100 * MOST_EPOCHS:
        ways.append(f"max_epochs: {_decimal(hundredths)} for those with less")
    ways.append("on_shortfall: repeat")
    stages = " and beside earlier stages" if any(domain.used_tokens for domain in domains) else ""
    return (
        f"plan: {format_tokens(request.budget_tokens)} tokens are requested, but within "
        f"max_epochs{stages} there are {held:_} ({list_first(terms, DOMAINS_NAMED)}). "
        f"Either set {', or '.join(ways)}"
    )


def explain_floor(request: MixtureRequest, position: int) -> str:
    """Explain why a domain's supply does not reach its floor, and what to type instead."""
    domain, floor = request.domains[position], request.options.floors
    limit, budget = supply_limits(request)[position], request.budget_tokens
    least = Fraction(str(float(floor[domain.name])))
    ways = [f"mixture.floors: {{{_key(domain.name)}: {_rounded_down(limit, budget)}}}"]
    if limit:
        ways.append(f"budget_tokens: {int(limit / least):_}")
        epochs = _decimal(_hundredths(math.ceil(least * budget), domain))
        ways.append(f"max_epochs: {epochs} for it")
    ways.append("on_shortfall: repeat")
    return (
        f"mixture.floors: '{domain.name}' must have at least {floor[domain.name]:g}, but its "
        f"tokens allow only {limit / budget:.4g} at this budget (max_epochs "
        f"{domain.max_epochs:g}). Either set {', or '.join(ways)}"
    )


def explain_caps(request: MixtureRequest, support: Sequence[int]) -> str:
    """Explain why caps leave no room for the budget, and what to type instead.

    Args:
        request: Supply, floors and caps; supply alone would suffice.
        support: Positions of the domains that may be used.
    """
    caps, bounds, supply = request.options.caps, share_bounds(request), supply_limits(request)
    capped: list[tuple[str, float]] = []
    others: list[tuple[str, float]] = []
    for i in support:
        name, share = request.domains[i].name, bounds.high[i]
        binds = caps.get(name, 1.0) < supply[i] / request.budget_tokens
        (capped if binds else others).append((name, share))
    room = math.fsum(share for _, share in (*capped, *others))
    needed = 1 - math.fsum(share for _, share in others)
    listed = list_first([f"'{name}' {share:.4g}" for name, share in capped], DOMAINS_NAMED)
    return (
        f"mixture.caps: the domains in use may have {room:.4g} of the tokens in all, less than 1. "
        f"Raise the caps of {listed} to {needed:.4g} in sum, or remove one"
    )


def explain_empty(request: MixtureRequest, weights: Sequence[float] | None) -> str | None:
    """Name the domains in use that have no tokens; None where there is none.

    Args:
        request: The domains.
        weights: shape (domains,); a domain of weight zero may be empty. None: all are in use.
    """
    empty = [
        f"'{domain.name}'"
        for i, domain in enumerate(request.domains)
        if domain.supply_tokens == 0 and (weights is None or weights[i] > 0)
    ]
    if not empty:
        return None
    several = len(empty) > 1
    if request.where is not None:
        return (
            f"where: no training tokens of {', '.join(empty)} are left by {request.where}; change "
            f"it, or give {'them' if several else 'it'} weight 0, with method manual or a schedule"
        )
    return (
        f"plan: {'domains' if several else 'domain'} {', '.join(empty)} "
        f"{'have' if several else 'has'} no training tokens. Check paths, what was quarantined and "
        f"validation.documents, which may hold out all, or remove {'them' if several else 'it'} "
        "(with method manual: weight 0)"
    )


def paste_mixture(
    names: Sequence[str], nearest: Sequence[float], limits: Sequence[int], budget_tokens: int
) -> str:
    """Write a mixture that fits, as one line of YAML for the recipe.

    Weights are decimals that sum to exactly 1, those at a cap rounded down, with the fewest digits
    that keep each within 1 % of its value.

    Args:
        names: shape (domains,), names.
        nearest: shape (domains,), shares that fit.
        limits: shape (domains,), most tokens of each; together at least the budget where shares
            are positive.
        budget_tokens: Tokens of the dataset.

    Example:
        >>> paste_mixture(["wiki", "arxiv"], [0.42, 0.58], [42, 100], 100)
        'mixture: {method: manual, weights: {wiki: 0.42, arxiv: 0.58}}'
    """
    texts = [f"{Decimal(repr(share)):f}" for share in nearest]
    for digits in (4, 6, 9, 12, 15):
        unit = 10**digits
        try:
            parts = apportion(nearest, unit, [limit * unit // budget_tokens for limit in limits])
        except ValueError:
            continue
        pairs = zip(parts, nearest, strict=True)
        if all(abs(part / unit - share) <= 0.01 * share for part, share in pairs) and fits(
            [part / unit for part in parts], budget_tokens, limits
        ):
            texts = [_decimal(part, digits) for part in parts]
            break
    return f"mixture: {{method: manual, weights: {_paste_shares(names, texts)}}}"


def _paste_shares(names: Sequence[str], shares: Sequence[str]) -> str:
    """Write shares by domain as a mapping of YAML."""
    items = (f"{_key(name)}: {text}" for name, text in zip(names, shares, strict=True))
    return f"{{{', '.join(items)}}}"


def format_tokens(tokens: int) -> str:
    """Format a count of tokens for people.

    Example:
        >>> format_tokens(10_000_000_000), format_tokens(9_500)
        ('10.0B', '9_500')
    """
    for scale, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if tokens >= scale:
            return f"{tokens / scale:.1f}{letter}"
    return f"{tokens:_}"


def _short(weights: Sequence[float], budget_tokens: int, limits: Sequence[int]) -> list[int]:
    """Find the positions of the domains that must give more for these weights to fit.

    These are the domains whose quota exceeds the limit by a token or more, if raising their limits
    suffices; else all whose quota exceeds it.
    """
    quotas = quota_bounds(weights, budget_tokens)
    clearly = [i for i, (low, _) in enumerate(quotas) if low > limits[i]]
    raised = [quotas[i][1] if i in clearly else limit for i, limit in enumerate(limits)]
    if fits(weights, budget_tokens, raised):
        return clearly
    return [i for i, (_, high) in enumerate(quotas) if high > limits[i]]


def _key(name: str) -> str:
    """Write a mapping key that YAML reads back as this very string."""
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_.+-]*", name) and yaml.safe_load(name) == name
    return name if plain else json.dumps(name, ensure_ascii=False)


def _decimal(parts: int, digits: int = 2) -> str:
    """Write `parts` / 10^digits as a decimal without trailing zeros: 470 → 4.7."""
    text = f"{parts // 10**digits}.{parts % 10**digits:0{digits}d}".rstrip("0")
    return text.rstrip(".")


def _rounded_down(limit: int, budget: int) -> str:
    """Write limit / budget as a decimal of at most four digits that is no larger."""
    return _decimal(10_000 * limit // budget, 4)


def _hundredths(tokens: int, domain: DomainSupply) -> int:
    """Return the least epochs that give this many tokens, in hundredths, rounded up.

    Passes of earlier stages count, too.
    """
    return -(-100 * (domain.used_tokens + tokens) // domain.supply_tokens)


def _sufficient_hundredths(request: MixtureRequest, support: Sequence[int]) -> int:
    """Find the least `max_epochs`, in hundredths, that lets these domains fill the budget.

    Domains with a larger `max_epochs` keep it. The sum grows with the value, so bisection works.
    """
    domains = [request.domains[i] for i in support]
    caps = [cap_tokens(domain) or 0 for domain in domains]
    supply = [domain.supply_tokens for domain in domains]
    used = [domain.used_tokens for domain in domains]
    most = request.budget_tokens + len(domains) + sum(used)
    low, high = 0, 100 * math.ceil(Fraction(most, sum(supply)))
    while high - low > 1:
        middle = (low + high) // 2
        held = sum(
            max(cap, middle * s // 100 - u) for cap, s, u in zip(caps, supply, used, strict=True)
        )
        low, high = (low, middle) if held >= request.budget_tokens else (middle, high)
    return high
