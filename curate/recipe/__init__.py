"""Read recipes strictly: YAML to frozen structs.

An unknown key is an error with a suggestion; a peer tool's word for one of our keys is accepted,
with a notice. Every name (method, format, measure, reader) is checked before any data is read, here
or by the package that owns it. Weights are shares of tokens.
"""

from __future__ import annotations

import json
import numbers
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from curate.errors import RecipeError
from curate.recipe.checks import check_fields, check_objective, check_recipe, readable
from curate.recipe.limits import MOST_BYTES, TOO_DEEP, bounded
from curate.recipe.reference import descriptions, schema
from curate.recipe.stages import check_stages, complete_budget, stage_recipes
from curate.recipe.structs import (
    AbsentDomains,
    CountingRecipe,
    DomainRecipe,
    EvidenceRecipe,
    FarRuns,
    HubRecipe,
    LoadedRecipe,
    MixtureRecipe,
    MixtureSettings,
    ObjectiveRecipe,
    OutputRecipe,
    ProxyRecipe,
    Recipe,
    TableFill,
    TokenizerRecipe,
    TrainTokenizer,
    ValidationRecipe,
    source_of,
)
from curate.recipe.text import apply_override, overridden_key, read_yaml, translate
from curate.runtime.files import read_small
from curate.runtime.machine import fault_or

__all__ = [
    "AbsentDomains",
    "CountingRecipe",
    "DomainRecipe",
    "EvidenceRecipe",
    "FarRuns",
    "HubRecipe",
    "LoadedRecipe",
    "MixtureRecipe",
    "ObjectiveRecipe",
    "OutputRecipe",
    "ProxyRecipe",
    "Recipe",
    "TableFill",
    "TokenizerRecipe",
    "TrainTokenizer",
    "ValidationRecipe",
    "descriptions",
    "load",
    "load_recipe",
    "override_texts",
    "parse",
    "parse_mixture_settings",
    "schema",
    "source_of",
    "stage_recipes",
]

StructType = TypeVar("StructType", bound=msgspec.Struct)


def load_recipe(
    source: str | os.PathLike[str] | Mapping[str, Any],
    overrides: Mapping[str, Any] | Iterable[str] = (),
) -> LoadedRecipe:
    """Read a recipe from a YAML file, or from a mapping with the same keys.

    Args:
        source: Path of the file, from whose directory relative paths start; or the recipe itself,
            whose relative paths start from the current directory.
        overrides: Changes to the recipe by dotted key, such as `{"mixture.method": "uniform"}`, or
            texts as the command line takes them, such as `["mixture.method=uniform"]`.

    Returns:
        The checked recipe; its `notices` list the aliases that it uses.

    Raises:
        RecipeError: The file cannot be read, or the recipe is invalid; names the field.

    Example:
        >>> recipe = {
        ...     "name": "tiny",
        ...     "tokenizer": {"train": {"vocab_size": 512}},
        ...     "domains": [{"name": "code", "paths": "corpus://python_code"}],
        ...     "budget_tokens": 1_000_000,
        ... }
        >>> load_recipe(recipe, {"mixture.method": "uniform"}).recipe.mixture.method
        'uniform'
    """
    if not isinstance(source, str | os.PathLike | Mapping):
        raise RecipeError(
            f"recipe: expected a path or a mapping, got {type(source).__name__}; "
            "as in load_recipe('recipe.yaml', {'seed': 3})"
        )
    texts = override_texts(overrides)
    if isinstance(source, Mapping):
        return parse(_as_text(source), Path.cwd(), texts)
    return load(Path(source), texts)


def override_texts(overrides: Mapping[str, Any] | Iterable[str]) -> tuple[str, ...]:
    """Return overrides as texts, in the command line's syntax.

    Example:
        >>> override_texts({"mixture.method": "uniform", "seed": 3})
        ('mixture.method="uniform"', 'seed=3')
    """
    if isinstance(overrides, Mapping):
        return tuple(f"{key}={_as_text(value)}" for key, value in overrides.items())
    if isinstance(overrides, str):
        return (overrides,)
    return tuple(overrides)


def _as_text(value: Any) -> str:
    """Write a value as JSON, which YAML includes; paths become text, NumPy's scalars numbers."""
    try:
        return json.dumps(value, default=_plain)
    except (TypeError, ValueError) as error:  # ValueError: it contains itself
        raise RecipeError(f"recipe: {error}; use text, numbers, lists and mappings") from None
    except RecursionError:
        raise RecipeError(f"recipe: {TOO_DEEP}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else os.fsdecode(value)


def load(path: Path, overrides: tuple[str, ...] = ()) -> LoadedRecipe:
    """Read a recipe file and apply `--set key.sub=value` overrides.

    Raises:
        RecipeError: The file is missing or not YAML, or a field is invalid; names the field.
    """
    try:
        text = read_small(path, MOST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        if isinstance(error, IsADirectoryError):
            kept = path / "recipe.yaml"
            hint = f"; a dataset's own is {kept}" if kept.is_file() else ""
            raise RecipeError(f"{path}: a directory, not a recipe{hint}") from error
        if not isinstance(error, UnicodeDecodeError):
            unreadable = RecipeError(f"{path}: {getattr(error, 'strerror', None) or error}")
            raise fault_or(unreadable, error, str(path)) from error
        raise RecipeError(f"{path}: not UTF-8 text ({error})") from error
    return parse(text, path.resolve().parent, overrides, str(path))


def parse(
    text: str, base: Path, overrides: tuple[str, ...] = (), source: str = "recipe"
) -> LoadedRecipe:
    """Read a recipe from text; see `load`.

    Args:
        text: YAML.
        base: Directory that relative paths start from.
        overrides: Texts such as `mixture.method=uniform`, applied in order.
        source: Name of the recipe in messages.

    Example:
        >>> text = "{name: tiny, tokenizer: {train: {vocab_size: 512}}, budget_tokens: 1e6,"
        >>> text += "sources: [{name: code, path: corpus://python_code}]}"
        >>> loaded = parse(text, Path("."), ("mixture.method=uniform",))
        >>> loaded.recipe.budget_tokens, loaded.recipe.mixture.method
        (1000000, 'uniform')
        >>> loaded.notices
        ['sources is read as domains', 'domains[code].path is read as domains[code].paths']
    """
    value = read_yaml(text, source)
    if not isinstance(value, dict):
        raise RecipeError(f"{source}: a recipe is a mapping of keys; try `curate schema`")
    notices: list[str] = []
    translate(value, notices, source)
    for override in overrides:
        apply_override(value, override, notices)
        translate(value, notices, source)
    bounded(value, source)  # again, for overrides can nest as deep as they have dots
    complete_budget(value)
    recipe = _convert(value, Recipe, source)
    check_recipe(recipe, source)
    check_stages(recipe, source)
    if recipe.base is not None:
        base = Path(os.path.abspath(base / Path(recipe.base).expanduser()))
    return LoadedRecipe(recipe, base, notices, tuple(map(overridden_key, overrides)))


def parse_mixture_settings(overrides: Iterable[str]) -> tuple[MixtureSettings, list[str]]:
    """Read the settings of a mixture that has no recipe, and notices about them.

    Args:
        overrides: Texts such as `mixture.method=bimix` or `seed=1`.

    Raises:
        RecipeError: A key is unknown or a value is wrong; names the field.
    """
    value: dict[str, Any] = {}
    notices: list[str] = []
    for override in overrides:
        apply_override(value, override, notices)
    bounded(value, "--set")
    settings = _convert(value, MixtureSettings, "--set")
    check_objective(settings.mixture, "--set")
    return settings, notices


def _convert(value: dict[str, Any], struct: type[StructType], source: str) -> StructType:
    check_fields(value, struct, "", source)
    try:
        try:
            return msgspec.convert(value, struct)
        except UnicodeEncodeError:
            # Text that stands for bytes, where no text may be: msgspec fails before it names it.
            return msgspec.convert(_without_bytes(value), struct)
    except msgspec.ValidationError as error:
        raise RecipeError(f"{source}: {readable(str(error), value)}") from error


def _without_bytes(value: Any) -> Any:
    """Copy a value with `?` for each byte of its texts that is not UTF-8."""
    if isinstance(value, dict):
        return {_without_bytes(key): _without_bytes(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_bytes(item) for item in value]
    return value.encode(errors="replace").decode() if isinstance(value, str) else value
