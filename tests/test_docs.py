"""README says what there is, and nothing that there is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from curate.cli import cli
from curate.formats import FORMATS
from curate.laws import LAWS
from curate.mixture import METHODS
from curate.recipe import Recipe, parse, schema
from curate.recipe.text import ALIASES
from curate.sources import READERS
from curate.tokens.backends import BACKENDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", cli.commands)
def test_every_command_is_in_the_readme_and_has_help(name: str) -> None:
    assert f"`curate {name}" in README
    assert (cli.commands[name].help or "").strip().endswith(".")


def test_readme_names_no_command_that_is_not() -> None:
    assert set(re.findall(r"`curate ([a-z]+)", README)) <= set(cli.commands)


@pytest.mark.parametrize("name", [*METHODS, *FORMATS, *LAWS, *READERS, *BACKENDS])
def test_every_name_of_a_registry_is_in_the_readme(name: str) -> None:
    assert f"`{name}`" in README


@pytest.mark.parametrize("alias", [alias for words in ALIASES.values() for alias in words])
def test_every_alias_is_in_the_readme(alias: str) -> None:
    assert f"`{alias}`" in README or alias == "mix" or alias == "sequence_len"


def test_every_recipe_key_is_in_the_reference() -> None:
    for key in Recipe.__struct_fields__:
        if key not in ("domains", "mixture", "tokenizer", "output", "counting", "validation"):
            assert f"| `{key}` |" in README
    for name, definition in schema()["$defs"].items():
        for field in definition.get("properties", {}) if name != "Recipe" else ():
            assert re.search(rf"[`.{{, ]{field}[`,}}]", README), (name, field)


def test_recipes_are_valid() -> None:
    found = sorted((ROOT / "recipes").glob("*.yaml"))
    assert found
    for path in found:
        parse(path.read_text("utf-8"), path.parent)


def test_recipe_of_the_readme_is_valid() -> None:
    block = re.search(r"## Recipe\n\n```yaml\n(.*?)```", README, re.DOTALL)
    assert block
    loaded = parse(block[1], ROOT)
    assert loaded.recipe.budget_tokens == 10_000_000_000 and not loaded.notices
