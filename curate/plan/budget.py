"""Weights, supply and budget → exact integers.

The plan says how many tokens each domain gives; their sum is the budget to the token. It is made
before a byte is written. Which documents those tokens are is `curate.plan`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from curate.errors import InfeasiblePlan, RecipeError
from curate.mixture.apportion import apportion, fits
from curate.mixture.request import Mixture, MixtureRequest, limit_tokens
from curate.mixture.shortfall import explain_empty, explain_infeasible


@dataclass(frozen=True, slots=True)
class PlanDomain:
    """What one domain gives."""

    name: str
    weight: float
    """Share of tokens asked for."""
    tokens: int
    documents: int | None
    """Appearances of its documents, repeats included; None until known."""
    epochs: float
    """Passes over the supply, `tokens` / `supply_tokens`."""
    supply_tokens: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Whole tokens by domain."""

    budget_tokens: int
    domains: tuple[PlanDomain, ...]
    """Their tokens sum to the budget exactly."""
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields of `plan.json`; what it was made from is added by whoever writes it."""
        return {
            "budget_tokens": self.budget_tokens,
            "domains": {
                domain.name: {
                    "weight": domain.weight,
                    "tokens": domain.tokens,
                    "documents": domain.documents,
                    "epochs": domain.epochs,
                    "supply_tokens": domain.supply_tokens,
                }
                for domain in self.domains
            },
            "warnings": list(self.warnings),
        }


def allocate(weights: Sequence[float], budget_tokens: int) -> list[int]:
    """Split the budget by largest remainder.

    Each domain gets its exact quota, weight / sum(weights) * budget, rounded down or up; the units
    that rounding down leaves go to the largest remainders, ties to the larger weight, then to the
    earlier position. Arithmetic is on integers throughout.

    Args:
        weights: shape (domains,), non-negative, not all zero; need not sum to 1.
        budget_tokens: Tokens to split, at least 0.

    Returns:
        Shape (domains,), tokens that sum to the budget exactly.

    Raises:
        ValueError: A weight is negative or not finite, all are zero, or the budget is negative.

    Example:
        >>> allocate([0.5, 0.3, 0.2], 11)
        [6, 3, 2]
    """
    return apportion(weights, budget_tokens)


def make_plan(
    mixture: Mixture,
    request: MixtureRequest,
    documents_for: Callable[[str, int], int] | None = None,
) -> Plan:
    """Plan the mixture to the token.

    Allocates by largest remainder; where rounding up would pass an epoch cap by a token, the
    token goes to the next domain with room.

    Args:
        mixture: Shares of tokens for exactly the request's domains.
        request: Supply, caps and budget.
        documents_for: (domain name, tokens) → appearances of documents; None leaves them unknown.

    Raises:
        RecipeError: The mixture is of other domains than the request.
        InfeasiblePlan: A share needs more than its domain may give; the message says what to type.
    """
    names = [domain.name for domain in request.domains]
    if set(names) != set(mixture.weights):
        unlike = ", ".join(f"'{name}'" for name in sorted(set(names) ^ set(mixture.weights)))
        raise RecipeError(
            f"plan: the mixture and the recipe have different domains ({unlike} in one only). "
            "Run `curate mix RECIPE` again"
        )
    weights = [mixture.weights[name] for name in names]
    limits = limit_tokens(request)
    if explain_empty(request, weights) or not fits(weights, request.budget_tokens, limits):
        raise InfeasiblePlan(explain_infeasible(request, weights))
    tokens = apportion(weights, request.budget_tokens, limits)
    assert sum(tokens) == request.budget_tokens
    domains = tuple(
        PlanDomain(
            name=domain.name,
            weight=weight,
            tokens=count,
            documents=None if documents_for is None else documents_for(domain.name, count),
            epochs=count / domain.supply_tokens if domain.supply_tokens else 0.0,
            supply_tokens=domain.supply_tokens,
        )
        for domain, weight, count in zip(request.domains, weights, tokens, strict=True)
    )
    return Plan(request.budget_tokens, domains, _nothing_given(domains))


def _nothing_given(domains: Sequence[PlanDomain]) -> tuple[str, ...]:
    """One warning that names the domains whose share is less than a token."""
    lost = [
        f"'{domain.name}' (weight {domain.weight:.3g})"
        for domain in domains
        if domain.weight > 0 and domain.tokens == 0
    ]
    if not lost:
        return ()
    return (f"no token at this budget, though the weight is positive: {', '.join(lost)}",)
