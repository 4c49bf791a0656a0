"""Data of the mixture explorer: supply, presets, the trained mixtures and the law as a formula."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curate.mixture.request import DomainSupply


@dataclass(frozen=True, slots=True)
class ExplorerInputs:
    """Everything that the explorer starts from; lists are in the order of the domains."""

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


def explorer_data(inputs: ExplorerInputs, law: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the explorer's data as JSON.

    Args:
        inputs: Supply, budget and presets.
        law: The fields of `law.json`, checked; None where there is no law.
    """
    names = [domain.name for domain in inputs.domains]
    supply = np.array([float(domain.supply_tokens) for domain in inputs.domains])
    natural = supply / supply.sum() if supply.sum() > 0 else np.full(len(names), 1 / len(names))
    presets = {
        "natural": natural.tolist(),
        "uniform": [1 / len(names)] * len(names),
        "recommended": _shares(inputs.recommended, names),
        "yours": _shares(inputs.yours, names),
    }
    missing = inputs.law_missing
    if law is not None:
        if law["formula"] is None:
            from curate.laws.forms.expert_regression import INFORMED  # imports scipy

            reason = (
                "needs the experts' probabilities of every held-out token, too many for a page"
                if law["law"] in INFORMED
                else "cannot be written as a formula"
            )
            missing = (
                f"Law {law['law']} {reason}, so the explorer has no predicted losses: curate mix "
                "says those of its mixture. mixture.method: joint has a formula."
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
        "law": None if law is None else _law(law, names),
        "lawMissing": missing,
        "recipe": inputs.recipe,
    }


def _shares(weights: Mapping[str, float], names: Sequence[str]) -> list[float]:
    """Return shares in the order of the domains, with a sum of 1; nothing if they do not match."""
    values = [float(weights.get(name, 0.0)) for name in names]
    total = sum(values)
    return [value / total for value in values] if total > 0 and math.isfinite(total) else []


def _law(law: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the parts of `law.json` that the explorer reads, and where each domain stands."""
    read = (
        "law", "targets", "unit", "tokens", "params", "goals", "relative", "kl", "prior",
        "discount_repeats", "half_widths", "widths", "runs_tokens", "misfit", "radius", "mixtures",
        "formula",
    )  # fmt: skip
    places = [law["domains"].index(name) for name in names]
    return {**{key: law[key] for key in read}, "places": places, "domains": len(law["domains"])}
