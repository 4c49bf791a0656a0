"""Data of the mixture explorer: supply, presets, the trained mixtures and the law as a formula."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.laws.formula import encoded, formula_of
from curate.mixture.methods.law_case import LawCase
from curate.mixture.request import DomainSupply
from curate.mixture.search.trust_region import support_of

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FittedCase:
    """A law fitted to the runs for one request, and how far it is to be trusted."""

    case: LawCase
    half_width: Array
    """shape (targets,), relative half width of the 95 % interval of a new run's loss."""
    misfit: float | None
    """Root mean square error of the objective on mixtures held out; None if unknown."""


@dataclass(frozen=True, slots=True)
class ExplorerInputs:
    """What the explorer starts from; lists are in the order of the domains."""

    domains: Sequence[DomainSupply]
    budget_tokens: int | None
    """None where supply and budget are unknown."""
    recommended: Mapping[str, float]
    """Shares by domain; empty where no mixture was derived."""
    yours: Mapping[str, float]
    """Shares that the recipe sets by hand; empty without."""
    recipe: str
    """The recipe without mixture and budget, YAML; empty where there is none."""
    law_missing: str
    """Why there is no law, with the command that makes its evidence."""


def explorer_data(inputs: ExplorerInputs, fitted: FittedCase | None) -> dict[str, Any]:
    """Return the explorer's data as JSON."""
    names = [domain.name for domain in inputs.domains]
    supply = np.array([float(domain.supply_tokens) for domain in inputs.domains])
    natural = supply / supply.sum() if supply.sum() > 0 else np.full(len(names), 1 / len(names))
    presets = {
        "natural": natural.tolist(),
        "uniform": [1 / len(names)] * len(names),
        "recommended": _shares(inputs.recommended, names),
        "yours": _shares(inputs.yours, names),
    }
    law, missing = None, inputs.law_missing
    if fitted is not None:
        law = _law(fitted)
        if law["export"] is None:
            missing = (
                f"Law {law['name']} cannot be written as a formula, so the explorer has no "
                "predicted losses; mixture.method: joint has one."
            )
    is_known = inputs.budget_tokens is not None
    return {
        "domains": [
            {
                "name": domain.name,
                "supply": domain.supply_tokens if is_known else None,
                "maxEpochs": domain.max_epochs if math.isfinite(domain.max_epochs) else None,
            }
            for domain in inputs.domains
        ],
        "budget": inputs.budget_tokens,
        "presets": {name: shares for name, shares in presets.items() if shares},
        "law": law,
        "lawMissing": missing,
        "recipe": inputs.recipe,
    }


def _shares(weights: Mapping[str, float], names: Sequence[str]) -> list[float]:
    """Return shares in the order of the domains, with a sum of 1; nothing if they do not match."""
    values = [float(weights.get(name, 0.0)) for name in names]
    total = sum(values)
    return [value / total for value in values] if total > 0 and math.isfinite(total) else []


def _law(fitted: FittedCase) -> dict[str, Any]:
    """Return the law, its objective and the region where it is trusted."""
    case, problem = fitted.case, fitted.case.problem
    formula = formula_of(problem.law, problem.tokens, problem.params)
    support = support_of(case.runs.weights)
    return {
        "name": case.law.name,
        "targets": list(case.runs.targets),
        "places": case.constraints.place.tolist(),
        "goals": problem.goals.tolist(),
        "kl": problem.kl,
        "prior": None if problem.prior is None else problem.prior.tolist(),
        "halfWidth": fitted.half_width.tolist(),
        "misfit": fitted.misfit,
        "tokens": problem.tokens if math.isfinite(problem.tokens) else None,
        "params": problem.params if math.isfinite(problem.params) else None,
        "discounted": problem.unique_share is not None,
        "radius": support.radius,
        "mixtures": encoded(support.mixtures),
        "domains": len(case.runs.domains),
        "export": None if formula is None else formula.to_json(),
    }
