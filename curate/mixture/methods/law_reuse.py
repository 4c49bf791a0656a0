"""Say what a mixture takes from runs on earlier domains, and whether it should."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.laws import RunTable
from curate.laws.fitting.features import distinct_mixtures
from curate.laws.fitting.likeness import effect_correlation, why_untold
from curate.mixture.design import runs_needed
from curate.mixture.methods.law_case import LawCase
from curate.mixture.search.kept_proportions import coordinates

Array = NDArray[np.float64]

OTHER_PROPORTIONS = 0.01
"""Share of a run by which its proportions differ from the kept ones before they count as others."""


def reuse_json(case: LawCase, weights: Array) -> dict[str, Any]:
    """Return `kept` and `alike` of `mixture.json`, where the recipe has their keys.

    Args:
        case: The request and its runs.
        weights: shape (domains of the runs,), the mixture.
    """
    fields: dict[str, Any] = {}
    proportions = case.problem.proportions
    if proportions is not None:
        kept = np.flatnonzero(~np.isnan(proportions)).tolist()
        shares = {case.runs.domains[place]: float(proportions[place]) for place in kept}
        fields["kept"] = {"share": float(weights[kept].sum()), "proportions": shares}
    if case.runs.alike is not None:
        fields["alike"] = {"correlation": effect_correlation(case.runs)}
    return fields


def reuse_warnings(case: LawCase) -> list[str]:
    """Say whether proportions are better kept or free, and whether likeness tells anything.

    With fewer runs of today than a law needs, mixtures that keep the proportions of earlier domains
    lost less on Olmix's tables (docs/evidence.md); with more, those that do not.
    """
    runs, warnings = case.runs, []
    domains = len(case.request.domains)
    needed = runs_needed(domains)
    proportions = case.problem.proportions
    today = _of_today(runs)
    if proportions is not None and case.request.options.search.keep is None:
        kept = int((proportions > 0).sum())
        warnings.append(
            f"runs of today all keep the proportions of {kept} domains and say nothing of others, "
            "so the mixture keeps them; mixture.keep: {} would free them"
        )
    elif proportions is not None:
        short = 1 - coordinates(today, proportions).sum(axis=1)
        others = len(distinct_mixtures(today[short > OTHER_PROPORTIONS]))
        if others >= needed:
            warnings.append(
                f"{others} runs have other proportions than mixture.keep, enough for a law of "
                f"{domains} domains ({needed}, 3 (domains + 1)) to choose them; remove the key"
            )
    else:
        warnings += few_of_today(runs, domains)
    if runs.alike is not None and not effect_correlation(runs):
        reason = why_untold(runs) or (
            "in these runs domains that are alike have no more similar effects than chance would "
            "have it"
        )
        warnings.append(f"mixture.evidence.alike: {reason}; it changes nothing")
    return warnings


def few_of_today(runs: RunTable, domains: int) -> list[str]:
    """Advise to keep proportions, in a list of one, where runs of today are few beside others.

    Args:
        runs: The runs.
        domains: Number of domains of today.
    """
    if runs.earlier is None:
        return []
    needed, today = runs_needed(domains), len(distinct_mixtures(_of_today(runs)))
    if today >= needed:
        return []
    return [
        f"{today} mixtures of today's {domains} domains beside runs on earlier ones, fewer than "
        f"{needed}, 3 (domains + 1): a mixture that keeps the proportions of the domains that "
        "stayed is likely to lose less. Name the earlier one in mixture.keep; `curate design` then "
        "proposes runs that keep them"
    ]


def _of_today(runs: RunTable) -> Array:
    """Return the mixtures of runs on today's domains, shape (rows, domains)."""
    return runs.weights if runs.earlier is None else runs.weights[~runs.earlier]
