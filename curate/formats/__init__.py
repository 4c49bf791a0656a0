"""Output formats: each writes shards and reads them back, one file a format.

`FORMATS` maps the name a recipe uses (`output.format`) to the format. Token formats store ids at
the width the tokenizer needs; text formats leave tokenising to the trainer. Adding a format takes
one new file and one row here; the contract test then covers it.
"""

from __future__ import annotations

import difflib
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
]

FORMATS: dict[str, TokenFormat | TextFormat] = {
    "megatron": megatron.FORMAT,
    "npy": npy.FORMAT,
    "olmo": olmo.FORMAT,
    "datatrove": datatrove.FORMAT,
    "mds": mds.FORMAT,
    "litdata": litdata.FORMAT,
    "llmc": llmc.FORMAT,
    "input_ids": input_ids.FORMAT,
    "parquet": parquet.FORMAT,
    "jsonl": jsonl.FORMAT,
    "arrow": arrow.FORMAT,
    "webdataset": webdataset.FORMAT,
}


def find(name: str) -> TokenFormat | TextFormat:
    """The format of that name.

    Raises:
        RecipeError: There is none; the message offers the nearest name and lists all.

    Example:
        >>> find("npy").summary
        'one NumPy array of token ids, without document boundaries'
    """
    if name in FORMATS:
        return FORMATS[name]
    nearest = difflib.get_close_matches(name.lower(), FORMATS, n=1, cutoff=0.0)[0]
    raise RecipeError(
        f"output.format: there is no format {name!r}; the nearest is {nearest!r}, "
        f"all are {', '.join(FORMATS)}"
    )


def configure(name: str, settings: Settings) -> TokenFormat | TextFormat:
    """The format of that name, as a recipe's options and tokenizer want it.

    Raises:
        RecipeError: There is no such format or option, or the format cannot do what is asked.
    """
    found = find(name)
    settings = replace(settings, options=check_options(name, settings.options))
    return found if found.configure is None else found.configure(settings)


def check_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A value for every option of a format, from those that a recipe gives; null is the default.

    Raises:
        RecipeError: An option is unknown, or its value is not one it can have.

    Example:
        >>> check_options("llmc", {"variant": "nanogpt"})["variant"]
        'nanogpt'
    """
    known = find(name).options
    values = {key: option.default for key, option in known.items()}
    for key, value in options.items():
        if key not in known:
            listed = ", ".join(f"{one} ({option.summary})" for one, option in known.items())
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise RecipeError(
                f"output.options: format {name} has no option {key!r}{hint} It has: "
                f"{listed or 'none'}"
            )
        if value is not None:
            values[key] = _checked(key, value, known[key])
    return values


def _checked(key: str, value: Any, option: Option) -> Any:
    """The value of an option.

    Raises:
        RecipeError: It is of another type, or not among the choices.
    """
    words: dict[type, str] = {bool: "true or false", int: "a whole number of at least 1"}
    wanted = words.get(option.kind, "text")
    fits = type(value) is option.kind and (type(value) is not int or value >= 1)
    if option.choices:
        wanted, fits = "one of " + ", ".join(option.choices), value in option.choices
    if not fits:
        raise RecipeError(f"output.options.{key}: expected {wanted}, found {value!r}")
    return value
