"""Every key of `output.options` for every format: it changes what is written, or is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from curate.errors import RecipeError
from curate.formats import FORMATS
from curate.formats.base import Option
from curate.pipeline.build import build
from curate.pipeline.check import check_names
from curate.recipe import load
from curate.runtime.progress import Observer

SHARD_FOLDERS = ("train", "validation", "trainer")

VARIANTS = [
    (name, variant)
    for name, row in FORMATS.items()
    for variant in (row.options["variant"].choices if "variant" in row.options else (None,))
]
"""Each format, once for each of its variants."""


def settings(name: str, options: dict[str, Any]) -> tuple[str, ...]:
    folder = "-".join([name, *(f"{key}={value}" for key, value in options.items())])
    return (
        f"output={yaml.safe_dump({'format': name, 'options': options, 'dir': folder})}",
        "budget_tokens=20000",
    )


def written(recipe: Path, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Bytes of the shards and of the trainers' files, and what the certificate says of readers."""
    built = build(load(recipe, settings(name, options)), 1, Observer(), overwrite=True)
    assert built.certificate["ok"], built.certificate["problems"]
    content: dict[str, Any] = {
        str(path.relative_to(built.directory)): path.read_bytes()
        for folder in SHARD_FOLDERS
        for path in (built.directory / folder).rglob("*")
        if path.is_file()
    }
    certificate = json.loads((built.directory / "certificate.json").read_bytes())
    return {**content, "reader_loss": certificate.get("reader_loss")}


def other_value(key: str, option: Option, now: Any) -> Any:
    """Return a value that is not the default; of numbers, one that no default of a window is."""
    if option.choices:
        return next(choice for choice in option.choices if choice != now)
    return {bool: not option.default, int: 777, str: "another/tokenizer"}[option.kind]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_option_has_an_effect_or_is_refused(
    recipe: Path, name: str, variant: str | None
) -> None:
    given = {} if variant is None else {"variant": variant}
    plain = None
    for key, option in FORMATS[name].options.items():
        changed = {**given, key: other_value(key, option, variant)}
        if option.variants and variant not in option.variants:
            message = f"output.options.{key}: variant {variant} does not read it; "
            with pytest.raises(RecipeError, match=re.escape(message)) as caught:
                check_names(load(recipe, settings(name, changed)))
            assert all(other in str(caught.value) for other in option.variants)
            continue
        plain = plain or written(recipe, name, given)
        assert written(recipe, name, changed) != plain, key


def test_what_is_written_does_not_depend_on_spelling_out_a_default(recipe: Path) -> None:
    """The comparison above sees effects only, no hash of the recipe."""
    spelled = {"variant": "llmc", "step_tokens": None, "window_tokens": None}
    assert written(recipe, "llmc", {}) == written(recipe, "llmc", spelled)


@pytest.mark.parametrize("name", FORMATS)
def test_options_of_other_formats_are_refused(recipe: Path, name: str) -> None:
    others = {key: option for row in FORMATS.values() for key, option in row.options.items()}
    for key, option in others.items():
        if key in FORMATS[name].options:
            continue
        loaded = load(recipe, settings(name, {key: other_value(key, option, None)}))
        with pytest.raises(RecipeError, match=f"format {name} has no option '{key}'"):
            check_names(loaded)
