"""Give the sub-domains of split domains the weights, caps, floors and epochs of their levels.

A level is a domain or a pattern such as `web:*:q4`, whose parts match those of names one by one;
one with fewer parts, such as `web:sports`, stands for all below it. What is given to a level is
divided among its sub-domains in proportion to their tokens (weights, times the curve of a split),
except for epochs, which each has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_settings
from fnmatch import fnmatchcase

from msgspec.structs import replace

from curate.errors import RecipeError
from curate.recipe import DomainRecipe, MixtureRecipe
from curate.recipe.checks import check_bounds
from curate.recipe.structs import LoadedRecipe
from curate.runtime.registry import list_first, nearest_hint

NONE = "none"
"""Last part of the name of documents without a value."""


@dataclass(frozen=True)
class DomainSettings:
    """A recipe's settings of its domains as they are after splitting."""

    domains: tuple[DomainRecipe, ...]
    """One for each domain, with `weight` and `max_epochs` of its own."""
    mixture: MixtureRecipe
    """The recipe's, with `weights`, `keep`, `floors`, `caps` and `prior` by domain; with a
    schedule, its mean as weights by hand.
    """
    ends: tuple[tuple[float, float], ...] = ()
    """shape (domains, 2), shares at the start and at the end of a schedule; empty without one."""

    def epochs(self, default: float) -> list[float]:
        """Return the most passes over each domain, shape (domains,).

        Args:
            default: For those that give none.
        """
        return [
            default if isinstance(domain.max_epochs, dict) else domain.max_epochs or default
            for domain in self.domains
        ]


def domain_settings(
    loaded: LoadedRecipe, names: Sequence[str], sources: Sequence[int], tokens: Sequence[int]
) -> DomainSettings:
    """Give every domain its settings; those of a recipe without splits stay as they are.

    Args:
        loaded: The recipe.
        names: shape (domains,), after splitting.
        sources: shape (domains,), number of the recipe's domain of each.
        tokens: shape (domains,), tokens of each.

    Raises:
        RecipeError: A level matches no domain, or two match the same one.
    """
    recipe = loaded.recipe
    if not recipe.is_split:
        return _with_schedule(DomainSettings(tuple(recipe.domains), recipe.mixture), loaded, {})
    supply: dict[str, float] = dict(zip(names, tokens, strict=True))
    upsampled = {
        name: supply[name] * upsampling(name, recipe.domains[source])
        for name, source in zip(names, sources, strict=True)
    }
    mixture = recipe.mixture
    weights = {domain.name: domain.weight for domain in recipe.domains if domain.weight is not None}
    own_weights = divided(weights, upsampled, "domains[].weight")
    own_epochs: dict[str, float] = {}
    for domain in recipe.domains:
        if domain.max_epochs is not None:
            given = domain.max_epochs
            by_level = given if isinstance(given, dict) else {domain.name: given}
            of_domain = [name for name in names if fits(name, domain.name)]
            where = f"domains[{domain.name}].max_epochs"
            for level, members in members_of(by_level, of_domain, where).items():
                own_epochs |= dict.fromkeys(members, by_level[level])
    domains = tuple(
        replace(
            recipe.domains[source],
            name=name,
            split=[],
            weight=own_weights.get(name),
            max_epochs=own_epochs.get(name),
        )
        for name, source in zip(names, sources, strict=True)
    )
    shares = {
        key: divided(value, upsampled if key == "weights" else supply, f"mixture.{key}")
        for key in ("weights", "keep", "floors", "caps", "prior")
        for value in [getattr(mixture, key)]
        if isinstance(value, dict)
    }
    resolved = replace(mixture, **shares)
    check_bounds(resolved.floors, resolved.caps, names, "")
    return _with_schedule(DomainSettings(domains, resolved), loaded, upsampled)


def _with_schedule(
    settings: DomainSettings, loaded: LoadedRecipe, supply: Mapping[str, float]
) -> DomainSettings:
    """Add the shares at the ends of a recipe's schedule, and their mean as the mixture.

    Args:
        settings: The settings of the domains.
        loaded: The recipe; the ends of its schedule are no names of stages.
        supply: Tokens by domain, to divide levels; empty without splits.
    """
    schedule = loaded.recipe.schedule
    if schedule is None:
        return settings
    names = [domain.name for domain in settings.domains]
    ends = []
    for key, weights in (("from", schedule.start), ("to", schedule.end)):
        assert not isinstance(weights, str)
        of_domains = divided(weights, supply, f"schedule.{key}") if supply else weights
        total = math.fsum(of_domains.values())
        ends.append([of_domains.get(name, 0.0) / total for name in names])
    means = {name: (start + end) / 2 for name, start, end in zip(names, *ends, strict=True)}
    return replace_settings(
        settings,
        domains=tuple(replace(domain, weight=None) for domain in settings.domains),
        mixture=MixtureRecipe(method="manual", weights=means),
        ends=tuple(zip(*ends, strict=True)),
    )


def upsampling(name: str, domain: DomainRecipe) -> float:
    """Return the product of the curves of a sub-domain's buckets.

    Args:
        name: The sub-domain, such as `web:sports:q4`.
        domain: The recipe's domain that it is of.
    """
    factors = [
        split.curve[int(part[1:]) - 1]
        for part, split in zip(name.split(":")[1:], domain.splits, strict=True)
        if split.curve and part != NONE
    ]
    return math.prod(factors)


def divided(
    shares: Mapping[str, float], supply: Mapping[str, float], where: str
) -> dict[str, float]:
    """Divide what is given to levels among their domains, in proportion to tokens.

    Args:
        shares: Values by domain or level.
        supply: Tokens by domain, perhaps upsampled.
        where: The recipe's key, for messages.

    Raises:
        RecipeError: A level matches no domain, or two match the same one.

    Example:
        >>> divided({"a": 0.4, "b:*": 0.3}, {"a": 5, "b:x": 1, "b:y": 2}, "weights")
        {'a': 0.4, 'b:x': 0.09999999999999999, 'b:y': 0.19999999999999998}
    """
    values: dict[str, float] = {}
    for level, members in members_of(shares, list(supply), where).items():
        total = sum(supply[name] for name in members)
        for name in members:
            part = supply[name] / total if total else 1 / len(members)
            values[name] = shares[level] * part if len(members) > 1 else shares[level]
    return values


def members_of(
    levels: Mapping[str, float], names: Sequence[str], where: str
) -> dict[str, list[str]]:
    """Return the domains of each level; one that is named in full belongs to no other level.

    Args:
        levels: Domains and patterns.
        names: The domains.
        where: The recipe's key, for messages.

    Raises:
        RecipeError: A level matches no domain, or two match the same one.
    """
    members: dict[str, list[str]] = {}
    level_of: dict[str, str] = {}
    for level in levels:
        fitting = [name for name in names if fits(name, level)]
        if not fitting:
            raise RecipeError(
                f"{where}: '{level}' matches no domain{nearest_hint(level, names)} (there are: "
                f"{list_first(names, 12)})"
            )
        members[level] = [name for name in fitting if name == level or name not in levels]
        for name in members[level]:
            other = level_of.setdefault(name, level)
            if other != level:
                raise RecipeError(
                    f"{where}: '{other}' and '{level}' both match '{name}'; name it by itself, or "
                    "make the levels narrower"
                )
    return {level: of_level for level, of_level in members.items() if of_level}


def fits(name: str, level: str) -> bool:
    """Whether a domain belongs to a level.

    Example:
        >>> fits("web:sports:q4", "web:*:q4"), fits("web:sports:q4", "web"), fits("web", "web:q4")
        (True, True, False)
    """
    parts, patterns = name.split(":"), level.split(":")
    return len(parts) >= len(patterns) and all(map(fnmatchcase, parts, patterns))
