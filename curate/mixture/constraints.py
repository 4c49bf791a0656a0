"""Translate a recipe's constraints and objective to arrays in the order of the evidence.

Domains are matched by name, never by position. The evidence may have more domains than the recipe;
those get no share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curate.errors import MissingEvidence, RecipeError
from curate.mixture.goals import Goals, make_goals
from curate.mixture.request import MixtureRequest, share_bounds
from curate.mixture.search.kept_proportions import box_of
from curate.mixture.search.simplex_box import Box
from curate.runtime.registry import nearest_hint

if TYPE_CHECKING:
    from curate.laws.law import RunTable

Array = NDArray[np.float64]

LEAST_TIED = 4
"""Fewest mixtures that show proportions to be kept on purpose."""
TIED_WITHIN = 1e-3
"""Part of its largest share by which a domain may miss the proportions; tables round shares."""


@dataclass(frozen=True, slots=True)
class Constraints:
    """Constraints and objective, in the order of the evidence's domains and targets."""

    domains: tuple[str, ...]
    """Domains of the evidence."""
    place: NDArray[np.int64]
    """shape (domains of the recipe,), where each stands in `domains`."""
    box: Box
    natural: Array
    """shape (domains,), shares of supply."""
    unique_share: Array
    """shape (domains,), supply over budget."""
    goals: Goals
    left_out: tuple[str, ...]
    """Domains of the evidence that the recipe does not have."""

    @property
    def whole_box(self) -> Box:
        """The box of all shares of the recipe's domains, without floors or caps."""
        high = np.zeros(len(self.domains))
        high[self.place] = 1.0
        return Box(np.zeros(len(high)), high)

    def in_recipe_order(self, shares: Array) -> tuple[float, ...]:
        """Return shares in the order of the recipe."""
        return tuple(float(share) for share in shares[self.place])


def match_constraints(
    request: MixtureRequest, domains: Sequence[str], targets: Sequence[str], source: str
) -> Constraints:
    """Match a request with the evidence.

    Args:
        request: Supply, caps, floors and objective; some mixture obeys its bounds.
        domains: Domains of the evidence.
        targets: Names of its losses.
        source: Name of the evidence in messages: `runs` or `experts`.

    Raises:
        MissingEvidence: A domain of the recipe is not among those of the evidence.
        RecipeError: The objective names an unknown target.
    """
    names = [domain.name for domain in request.domains]
    absent = [name for name in names if name not in domains]
    if absent:
        listed = ", ".join(f"'{name}'" for name in absent)
        raise MissingEvidence(
            f"mixture: the {source} do not include {listed} (they have {', '.join(domains)}). "
            f"Rename the domains so that they match, {_reuse_hint(source, absent)}train {source} "
            f"with {'it' if len(absent) == 1 else 'them'}, or take a method that needs none, such "
            "as entropy"
        )
    place = np.array([domains.index(name) for name in names])
    bounds = share_bounds(request)
    low, high = np.zeros(len(domains)), np.zeros(len(domains))
    low[place], high[place] = bounds.low, bounds.high
    supply = np.array([float(domain.supply_tokens) for domain in request.domains])
    natural, unique = np.zeros(len(domains)), np.ones(len(domains))
    natural[place] = supply / supply.sum()
    unique[place] = supply / request.budget_tokens
    runs = request.evidence.runs if request.evidence and source == "runs" else None
    left_out = tuple(name for name in domains if name not in names)
    return Constraints(
        domains=tuple(domains),
        place=place,
        box=Box(low, high),
        natural=natural,
        unique_share=unique,
        goals=make_goals(request.options.search, targets, runs),
        left_out=left_out,
    )


def _reuse_hint(source: str, absent: Sequence[str]) -> str:
    """Say how runs on earlier domains can be reused, for a list of ways out."""
    if source != "runs":
        return ""
    return (
        f"say what they were in the runs (mixture.evidence.became: {{OLD: {absent[0]}}}) or that "
        "no run had any (mixture.evidence.absent_domains: zero), "
    )


def match_itself(request: MixtureRequest) -> Constraints:
    """Match a request with its own domains, for the mean of a loss on each."""
    names = [domain.name for domain in request.domains]
    search = replace(request.options.search, objective="mean", groups={}, against=None)
    mean = replace(request.options, search=search)
    return match_constraints(replace(request, options=mean), names, names, "domains")


def shares_of_recipe(mixtures: Array, constraints: Constraints) -> Array:
    """Return the recipe's domains of the evidence's mixtures, with a sum of 1.

    Args:
        mixtures: shape (runs, domains of the evidence), shares.
        constraints: Where each domain stands.

    Returns:
        shape (runs, domains of the recipe); 0 for a mixture that has none of them.
    """
    shares = mixtures[:, constraints.place]
    return np.asarray(shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-12))


def prior_of(request: MixtureRequest, constraints: Constraints) -> Array:
    """Return the prior mixture in the order of the evidence, shape (domains,).

    Raises:
        RecipeError: It names an unknown domain, or no share is positive.
    """
    prior = request.options.search.prior
    if prior == "natural":
        return constraints.natural
    shares = np.zeros(len(constraints.domains))
    if prior == "uniform":
        shares[constraints.place] = 1 / len(constraints.place)
        return shares
    names = [domain.name for domain in request.domains]
    if isinstance(prior, str):
        raise RecipeError(
            f"mixture.prior: cannot be '{prior}' (known: natural, uniform, or shares by domain)"
        )
    for name, share in prior.items():
        shares[constraints.place[_index(name, names, "mixture.prior")]] = share
    if not shares.sum() > 0:
        raise RecipeError("mixture.prior: no share is positive; name at least one domain's")
    return np.asarray(shares / shares.sum())


def proportions_of(request: MixtureRequest, constraints: Constraints) -> Array | None:
    """Return the proportions that some domains keep, in the order of the evidence.

    Returns:
        Shape (domains,), shares of the kept domains, which sum to 1; NaN for those that are free.
        None: all are.

    Raises:
        RecipeError: The request names an unknown domain, fewer than two with a share, or all of
            them; or floors and caps leave no mixture with these proportions.
    """
    keep = request.options.search.keep
    if not keep:
        return None
    names = [domain.name for domain in request.domains]
    check_kept(keep, names)
    proportions = np.full(len(constraints.domains), np.nan)
    for name, share in keep.items():
        proportions[constraints.place[_index(name, names, "mixture.keep")]] = share
    proportions /= np.nansum(proportions)
    try:
        box_of(constraints.box, proportions)
    except ValueError as error:
        raise RecipeError(
            "mixture.keep: no mixture with these proportions obeys mixture.floors, mixture.caps "
            f"and max_epochs ({', '.join(keep)}); loosen them, or keep fewer domains"
        ) from error
    return proportions


def check_kept(keep: Mapping[str, float], names: Sequence[str]) -> None:
    """Check that proportions are of two domains or more, and leave something to choose.

    Args:
        keep: Relative shares by domain; not empty.
        names: All domains.

    Raises:
        RecipeError: They are not, or do not.
    """
    kept = [name for name, share in keep.items() if share > 0]
    if len(kept) < 2:
        raise RecipeError(
            f"mixture.keep: {kept[0] if kept else 'no domain'} alone has a share, and proportions "
            "are those of two domains or more; name others, or remove it"
        )
    if len(keep) == len(names):
        raise RecipeError(
            "mixture.keep: names every domain, which leaves nothing to choose; leave out those "
            "whose shares may change, or take method manual with these weights"
        )


def tied_proportions(runs: RunTable, constraints: Constraints) -> Array | None:
    """Find proportions that runs of today keep, where others are of earlier domains.

    Such runs were made to keep them, and say nothing of other ones.

    Args:
        runs: The runs.
        constraints: Matched with their domains.

    Returns:
        As `proportions_of`; None where proportions vary, or floors and caps exclude them.
    """
    if runs.earlier is None or runs.earlier.all():
        return None
    today = runs.weights[~runs.earlier]
    if len(np.unique(np.round(today, 9), axis=0)) < LEAST_TIED:
        return None
    inside = np.isin(np.arange(today.shape[1]), constraints.place)
    most = today.max(axis=0)
    # Columns of the same proportions are the same but for their scale.
    scaled = today / np.where(most > 0, most, 1.0)
    groups: list[list[int]] = []
    for place in np.flatnonzero((most > 0) & inside).tolist():
        for group in groups:
            if np.abs(scaled[:, group[0]] - scaled[:, place]).max() <= TIED_WITHIN:
                group.append(place)
                break
        else:
            groups.append([place])
    tied = max(groups, key=len, default=[])
    if len(tied) < 2:
        return None
    proportions = np.full(today.shape[1], np.nan)
    proportions[tied] = today[:, tied].sum(axis=0) / today[:, tied].sum()
    # What the earlier mixture left out, these runs leave out too.
    had = runs.weights[runs.earlier].max(axis=0) > 0
    proportions[(most == 0) & had & inside] = 0.0
    if not np.isnan(proportions[inside]).any():
        return None
    try:
        box_of(constraints.box, proportions)
    except ValueError:
        return None
    return proportions


def _index(name: str, names: Sequence[str], where: str) -> int:
    if name in names:
        return list(names).index(name)
    hint = nearest_hint(name, names)
    raise RecipeError(f"{where}: unknown name '{name}'{hint} (known: {', '.join(names)})")
