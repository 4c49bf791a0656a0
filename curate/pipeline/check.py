"""Check the names in a recipe before any data is read."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from curate.curation.levels import DomainSettings
from curate.errors import RecipeError
from curate.formats import FORMATS, check_options
from curate.formats import find as find_format
from curate.formats.base import TextFormat
from curate.mixture import METHODS, DomainSupply, MixtureRequest
from curate.mixture.keys import check_keys, idle_keys, without_idle
from curate.pipeline.read_evidence import evidence_paths, made_by_proxies
from curate.plan.per_domain import PER_DOMAIN, check_shape
from curate.recipe import LoadedRecipe, MixtureRecipe
from curate.runtime.files import read_small
from curate.runtime.machine import fault_or
from curate.runtime.registry import list_first, nearest_hint, unknown_name
from curate.stats import find_entropy

MOST_BYTES = 64_000_000
"""Largest mixture.json that is read for its weights."""

READ_BY_VALIDATE = ("weights", "evidence.proxy")
"""Keys of `mixture` that `curate validate` reads whatever the method: a rival and the models."""


def settled(loaded: LoadedRecipe, also: Collection[str] = ()) -> tuple[LoadedRecipe, list[str]]:
    """Leave out settings of the recipe's own method where an override names another.

    Those that overrides set themselves stay, and are refused if they have no effect.

    Args:
        loaded: The recipe.
        also: Keys of `mixture` that the command reads itself.

    Returns:
        The recipe, and a notice of what was left out, in a list of at most one.
    """
    if not loaded.overrides("mixture.method"):
        return loaded, []
    mixture = loaded.recipe.mixture
    method = METHODS.find(mixture.method, "mixture.method")
    keys = [
        key
        for key in idle_keys(mixture, method)
        if key not in also and not loaded.overrides(f"mixture.{key}")
    ]
    if not keys:
        return loaded, []
    listed = ", ".join(f"mixture.{key}" for key in keys)
    notice = f"left out of the recipe, without effect on method {method.name}: {listed}"
    return loaded.with_mixture(without_idle(mixture, method, keys)), [notice]


def check_mixture(loaded: LoadedRecipe, also: Collection[str] = ()) -> None:
    """Check that the recipe's method reads every key of `mixture` and has what it needs.

    Args:
        loaded: The recipe.
        also: Keys of `mixture` that the command reads itself.

    Raises:
        RecipeError: A key would have no effect, or a setting or weight is missing.
        MissingEvidence: The method needs evidence, which nothing names or makes.
    """
    loaded, _ = settled(loaded, also)
    recipe = loaded.recipe
    method = METHODS.find(recipe.mixture.method, "mixture.method")
    check_keys(recipe.mixture, method, also)
    # A method by hand reads nothing but the weights, so it can be asked now.
    if method.by_hand and not recipe.is_split:
        supply = (
            DomainSupply(name, 1, math.inf, weight=weight) for name, weight in by_hand(loaded)
        )
        method.prefer(MixtureRequest(tuple(supply), 1, method.name))
    if recipe.mixture.keep and not recipe.is_split:
        from curate.mixture.constraints import check_kept  # the search takes long to import

        names = [domain.name for domain in recipe.domains]
        check_kept(kept_shares(recipe.mixture, loaded.base, names) or {}, names)


def by_hand(
    loaded: LoadedRecipe, settings: DomainSettings | None = None
) -> list[tuple[str, float | None]]:
    """Return the recipe's own weight of each domain, None where it gives none.

    Args:
        loaded: The recipe.
        settings: Of the domains after splitting; None before.
    """
    domains, weights = loaded.recipe.domains, weights_of(loaded, settings)
    return [
        (domain.name, domain.weight if weights is None else weights.get(domain.name))
        for domain in (domains if settings is None else settings.domains)
    ]


def weights_of(
    loaded: LoadedRecipe, settings: DomainSettings | None = None
) -> dict[str, float] | None:
    """Return `mixture.weights`, read from the `mixture.json` that it names if it is a path.

    Args:
        loaded: The recipe.
        settings: Of the domains after splitting; None before.

    Raises:
        RecipeError: The file cannot be read, holds no weights, or has other domains.
    """
    weights = (loaded.recipe if settings is None else settings).mixture.weights
    if not isinstance(weights, str):
        return weights
    path = loaded.base / weights
    written = _weights_written(path, "mixture.weights")
    if settings is None and loaded.recipe.is_split:
        return written  # names of sub-domains, which are not known yet
    names = [domain.name for domain in (loaded.recipe if settings is None else settings).domains]
    for name in written:
        if name not in names:
            raise RecipeError(
                f"mixture.weights: {path} has a domain '{name}', which the recipe lacks"
                f"{nearest_hint(name, names)} (known: {', '.join(names)})"
            )
    return written


def kept_shares(
    mixture: MixtureRecipe, base: Path, names: Sequence[str]
) -> dict[str, float] | None:
    """Return `mixture.keep`, read from the `mixture.json` that it names if it is a path.

    Domains of an earlier mixture that `mixture.evidence.became` renames keep their proportions
    under the new name; divided ones, and those that are gone, do not.

    Args:
        mixture: The settings.
        base: Directory that a relative path starts from.
        names: The domains of today.

    Raises:
        RecipeError: The file cannot be read or holds no weights.
    """
    if not isinstance(mixture.keep, str):
        return mixture.keep
    became = {} if mixture.evidence is None else mixture.evidence.became
    kept: dict[str, float] = {}
    for old, share in _weights_written(base / mixture.keep, "mixture.keep").items():
        parts = became.get(old, old)
        now = [parts] if isinstance(parts, str) else list(parts)
        if len(now) == 1 and now[0] in names:
            kept[now[0]] = kept.get(now[0], 0.0) + share
    if not kept:
        raise RecipeError(
            f"mixture.keep: {base / mixture.keep} has no domain of today ({list_first(names)}); "
            "say what became of its domains in mixture.evidence.became"
        )
    return kept


def _weights_written(path: Path, key: str) -> dict[str, float]:
    """Read the weights of a `mixture.json`.

    Args:
        path: The file.
        key: The recipe's key that names it, for messages.

    Raises:
        RecipeError: The file cannot be read or holds no weights.
    """
    try:
        return msgspec.json.decode(read_small(path, MOST_BYTES), type=_WrittenMixture).weights
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        unread = RecipeError(
            f"{key}: {path} is no mixture.json ({reason}); name one that `curate mix` wrote, or "
            "give shares by domain"
        )
        raise fault_or(unread, error, str(path)) from error


class _WrittenMixture(msgspec.Struct):
    """The field of `mixture.json` that is read back."""

    weights: dict[str, Annotated[float, msgspec.Meta(ge=0, le=1)]]


def check_stage(loaded: LoadedRecipe, stage: str | None, command: str) -> None:
    """Check that a command about one mixture names a stage of a recipe with stages.

    Args:
        loaded: The recipe.
        stage: Name of the stage; None where none is given.
        command: Name of the command, for messages.

    Raises:
        RecipeError: None is given, or there is none of this name.
    """
    stages = [one.name for one in loaded.recipe.stages]
    if stage is None and stages:
        raise RecipeError(
            f"{command}: is about one mixture, and the recipe has stages ({list_first(stages)}); "
            f"name one: --stage {stages[-1]}"
        )
    if stage is not None and not stages:
        raise RecipeError(f"{command}: --stage {stage}: the recipe has no stages; leave it out")
    if stage is not None and stage not in stages:
        raise RecipeError(unknown_name("stage", stage, stages, f"{command}: --stage"))


def check_names(loaded: LoadedRecipe) -> None:
    """Check every name of a method, measure, format or preset before data is read.

    Raises:
        RecipeError: A name is unknown, or two settings exclude each other.
        MissingEvidence: A file of evidence does not exist, or proxies need a missing package.
    """
    recipe = loaded.recipe
    METHODS.find(recipe.mixture.method, "mixture.method")
    evidence_paths(loaded)
    if made_by_proxies(loaded) is not None:
        from curate.pipeline.proxy_setup import check_proxy

        check_proxy(loaded)
    find_entropy(recipe.mixture.measure)
    output_format = find_format(recipe.output.format)
    options = check_options(recipe.output.format, recipe.output.options)
    if recipe.output.shape == PER_DOMAIN:
        check_shape(recipe.output.format, options)
        if recipe.schedule is not None:
            raise RecipeError(
                "schedule: with output.shape per-domain the trainer mixes, by one mixture for the "
                "whole run; set output.shape: mixed, for one stream that follows the schedule"
            )
    if recipe.packing not in output_format.packings:
        fit = [row.name for row in FORMATS.values() if recipe.packing in row.packings]
        raise RecipeError(
            f"packing: {recipe.packing} is not for format {recipe.output.format}, whose readers "
            f"would not keep its rows; it is for {', '.join(fit)}. Set packing: concat, or another "
            "output.format"
        )
    keeps = isinstance(output_format, TextFormat) or (
        output_format.keeps_documents and not output_format.takes_sequences
    )
    if keeps and recipe.sequence_length is not None:
        raise RecipeError(
            f"sequence_length: format {output_format.name} keeps whole documents and its readers "
            "cut them; remove sequence_length, or use output.format: npy"
        )


def unused_weights(loaded: LoadedRecipe) -> list[str]:
    """Say so, in a list of one, where domains have weights that the method does not read."""
    recipe = loaded.recipe
    method = recipe.mixture.method
    given = any(domain.weight is not None for domain in recipe.domains)
    # `check_names` refuses an unknown method.
    if not given or (method in METHODS and METHODS[method].by_hand):
        return []
    return [
        f"the domains' weights do not shape the mixture: mixture.method is {method}, not manual"
    ]
