"""YAML → frozen structs, strict.

An unknown key is an error with a suggestion; a word that peer tools use for one of ours is taken
and a notice returned. Every name (method, format, measure, reader) is resolved here or by the front
function that owns it before a byte of data is read. Weights are shares of tokens.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from curate.errors import RecipeError
from curate.recipe.checks import check_fields, check_recipe, readable
from curate.recipe.reference import descriptions, schema
from curate.recipe.structs import (
    CountingRecipe,
    DomainRecipe,
    EvidenceRecipe,
    LoadedRecipe,
    MixtureRecipe,
    ObjectiveRecipe,
    OutputRecipe,
    ProxyRecipe,
    ProxyTokenizer,
    Recipe,
    TokenizerRecipe,
    TrainTokenizer,
    ValidationRecipe,
)
from curate.recipe.text import apply_override, read_yaml, translate

__all__ = [
    "CountingRecipe",
    "DomainRecipe",
    "EvidenceRecipe",
    "LoadedRecipe",
    "MixtureRecipe",
    "ObjectiveRecipe",
    "OutputRecipe",
    "ProxyRecipe",
    "ProxyTokenizer",
    "Recipe",
    "TokenizerRecipe",
    "TrainTokenizer",
    "ValidationRecipe",
    "descriptions",
    "load",
    "parse",
    "schema",
]


def load(path: Path, overrides: tuple[str, ...] = ()) -> LoadedRecipe:
    """Read a recipe file and apply `--set key.sub=value` overrides.

    Raises:
        RecipeError: It is absent, not YAML, or says something that cannot be; names the field.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text ({error})") from error
    return parse(text, path.resolve().parent, overrides, str(path))


def parse(
    text: str, base: Path, overrides: tuple[str, ...] = (), source: str = "recipe"
) -> LoadedRecipe:
    """Read a recipe from text; see `load`.

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
    check_fields(value, Recipe, "", source)
    try:
        recipe = msgspec.convert(value, Recipe)
    except msgspec.ValidationError as error:
        raise RecipeError(f"{source}: {readable(str(error), value)}") from error
    check_recipe(recipe, source, notices)
    return LoadedRecipe(recipe, base, notices)
