"""Turn weights, supply and a budget into whole tokens.

The plan says how many tokens each domain gives; they sum to the budget exactly. It is made before
any data is written. `curate.plan.streams` selects the documents that hold these tokens.
`apportion` is offered here too, for `curate.proxy`, which does not import `curate.mixture`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from curate.errors import InfeasiblePlan, RecipeError
from curate.mixture.apportion import apportion, fits
from curate.mixture.request import Mixture, MixtureRequest, limit_tokens
from curate.mixture.shortfall import explain_empty, explain_infeasible

__all__ = ["Plan", "PlanDomain", "apportion", "make_plan"]

ROUNDED_SHARE = 1e-12
"""Shares up to this are what rounding in an optimiser leaves of zero."""


@dataclass(frozen=True, slots=True)
class PlanDomain:
    """Tokens and documents that one domain gives."""

    name: str
    weight: float
    """Share of tokens that the mixture gives the domain."""
    tokens: int
    documents: int | None
    """Appearances of its documents, repeats included; None until known."""
    epochs: float
    """Passes over the supply, `tokens` / `supply_tokens`."""
    supply_tokens: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The budget, split into whole tokens by domain."""

    budget_tokens: int
    domains: tuple[PlanDomain, ...]
    """Their tokens sum to the budget exactly."""
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `plan.json`, except its origin, which the pipeline adds."""
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


def make_plan(mixture: Mixture, request: MixtureRequest) -> Plan:
    """Split the budget by the mixture's weights, to the token.

    The split is by largest remainder; where rounding up would exceed an epoch cap by a token, the
    token goes to the next domain with room.

    Args:
        mixture: Shares of tokens for exactly the request's domains.
        request: Supply, caps and budget.

    Raises:
        RecipeError: The mixture has other domains than the request.
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
            documents=None,  # known once the documents are selected
            epochs=count / domain.supply_tokens if domain.supply_tokens else 0.0,
            supply_tokens=domain.supply_tokens,
        )
        for domain, weight, count in zip(request.domains, weights, tokens, strict=True)
    )
    return Plan(request.budget_tokens, domains, _nothing_given(domains))


def _nothing_given(domains: Sequence[PlanDomain]) -> tuple[str, ...]:
    """Warn of the domains whose share is less than a token, in one line."""
    empty = [
        f"'{domain.name}' (weight {domain.weight:.3g})"
        for domain in domains
        if domain.weight > ROUNDED_SHARE and domain.tokens == 0
    ]
    if not empty:
        return ()
    return (f"no token at this budget, though the weight is positive: {', '.join(empty)}",)
