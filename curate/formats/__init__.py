"""Output formats: each writes shards and reads them back, one file a format.

`FORMATS` maps the name a recipe uses (`output.format`) to the format's row. Token formats store ids
at the width the tokenizer needs; text formats leave tokenising to the trainer. Adding a format
takes one new file and one row here; other packages add rows through the entry point group
`curate.formats`. The contract test then covers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from curate.errors import RecipeError
from curate.formats import (
    arrow,
    datatrove,
    input_ids,
    jsonl,
    litdata,
    llmc,
    mds,
    megatron,
    npy,
    olmo,
    parquet,
    webdataset,
)
from curate.formats.base import Option, Settings, TextBatch, TextFormat, TokenBatch, TokenFormat
from curate.runtime.registry import Registry, nearest_hint

__all__ = [
    "FORMATS",
    "Settings",
    "TextBatch",
    "TextFormat",
    "TokenBatch",
    "TokenFormat",
    "check_options",
    "configure",
    "find",
    "trainer_file_stems",
]

FORMATS: Registry[TokenFormat | TextFormat] = Registry(
    "format",
    [
        megatron.FORMAT,
        npy.FORMAT,
        olmo.FORMAT,
        datatrove.FORMAT,
        mds.FORMAT,
        litdata.FORMAT,
        llmc.FORMAT,
        input_ids.FORMAT,
        parquet.FORMAT,
        jsonl.FORMAT,
        arrow.FORMAT,
        webdataset.FORMAT,
    ],
    "curate.formats",
)


def find(name: str) -> TokenFormat | TextFormat:
    """Return the format of this name.

    Raises:
        RecipeError: There is none; the message names the nearest and lists all.

    Example:
        >>> find("npy").summary
        'one NumPy array of token ids, without document boundaries'
    """
    return FORMATS.find(name, "output.format")


def configure(name: str, settings: Settings) -> TokenFormat | TextFormat:
    """Return the format of this name, configured for a recipe's options and tokenizer.

    Raises:
        RecipeError: There is no such format or option, or the format cannot do what is asked.
    """
    row = find(name)
    settings = replace(settings, options=check_options(name, settings.options))
    return row if row.configure is None else row.configure(settings)


def check_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a value for every option of a format: the recipe's, or the default where it is null.

    Raises:
        RecipeError: An option is unknown, has a value that is not allowed, or would be without
            effect, since the variant does not read it.

    Example:
        >>> check_options("llmc", {"variant": "nanogpt"})["variant"]
        'nanogpt'
    """
    allowed = find(name).options
    values = {key: option.default for key, option in allowed.items()}
    for key, value in options.items():
        if key not in allowed:
            listed = ", ".join(f"{one} ({option.summary})" for one, option in allowed.items())
            raise RecipeError(
                f"output.options: format {name} has no option '{key}'{nearest_hint(key, allowed)} "
                f"(known: {listed or 'none'})"
            )
        if value is not None:
            values[key] = _checked(key, value, allowed[key])
    for key, option in allowed.items():
        idle = option.variants and values["variant"] not in option.variants
        if idle and values[key] != option.default:
            raise RecipeError(
                f"output.options.{key}: variant {values['variant']} does not read it; "
                f"{' and '.join(option.variants)} {'does' if len(option.variants) == 1 else 'do'}. "
                "Remove it, or set output.options.variant"
            )
    return values


def _checked(key: str, value: Any, option: Option) -> Any:
    """Return the value of an option.

    Raises:
        RecipeError: It is of another type, or not among the choices.
    """
    words: dict[type, str] = {bool: "true or false", int: "a whole number of at least 1"}
    expected = words.get(option.kind, "text")
    fits = type(value) is option.kind and (type(value) is not int or value >= 1)
    if option.choices:
        expected, fits = "one of " + ", ".join(option.choices), value in option.choices
    if not fits:
        raise RecipeError(f"output.options.{key}: expected {expected}, found {value!r}")
    return value


def trainer_file_stems() -> list[str]:
    """List the names, without suffix, of every mixture file that any format writes to `trainer/`.

    A build clears the files of an earlier one by these names, whatever its format was.
    """
    mixtures = [mixture for row in FORMATS.values() for mixture in row.mixtures]
    return list(dict.fromkeys(stem for mixture in mixtures for stem in mixture.config_stems))
