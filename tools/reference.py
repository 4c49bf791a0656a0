"""Write the generated tables of the documentation from the code they describe.

A page of `docs/` marks each with `<!-- generated: NAME -->` and `<!-- end: NAME -->`; what stands
between is replaced. Run `python tools/reference.py` after changing a recipe key, a command, a
method, a law, a format or a statistic; a test fails while a page is out of date.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import curate  # noqa: E402
from curate.cli import cli  # noqa: E402
from curate.formats import FORMATS  # noqa: E402
from curate.formats.base import TokenFormat  # noqa: E402
from curate.laws import LAWS  # noqa: E402
from curate.loader import FIELDS  # noqa: E402
from curate.mixture import METHODS  # noqa: E402
from curate.mixture.keys import mixture_keys, readers  # noqa: E402
from curate.recipe import schema  # noqa: E402
from curate.recipe.text import ALIASES  # noqa: E402
from curate.report.schemas import ARTIFACT_SCHEMAS  # noqa: E402
from curate.stats import STATISTICS  # noqa: E402

BLOCK = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)

SECTIONS = {
    "Recipe": "",
    "TokenizerRecipe": "tokenizer",
    "TrainTokenizer": "tokenizer.train",
    "DomainRecipe": "domains[]",
    "MixtureRecipe": "mixture",
    "EvidenceRecipe": "mixture.evidence",
    "TableFill": "mixture.evidence.fill.<file>",
    "ObjectiveRecipe": "mixture.objective",
    "ScheduleRecipe": "schedule",
    "StageRecipe": "stages[]",
    "ValidationRecipe": "validation",
    "OutputRecipe": "output",
    "LimitsRecipe": "limits",
    "CountingRecipe": "counting",
    "ProxyRecipe": "proxy",
    "ProxyTokenizer": "proxy.tokenizer",
}
"""Structs of a recipe in the order of the page, and where in a recipe each stands."""


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""Format a Markdown table; pipes and line breaks in cells are made safe.

    Example:
        >>> print(table(["a", "b"], [["1", "x|y"]]))
        | a | b |
        |---|---|
        | 1 | x\|y |
    """
    lines = [headings, ["---"] * len(headings), *rows]
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    text = ["| " + " | ".join(line) + " |" for line in cells]
    text[1] = "|" + "---|" * len(headings)
    return "\n".join(text)


def _artifacts_table() -> str:
    """List the files that have a schema, with their fields."""
    rows = []
    for name, struct in ARTIFACT_SCHEMAS.items():
        fields = [f"`{field.encode_name}`" for field in msgspec.structs.fields(struct)]
        summary = (inspect.getdoc(struct) or "").partition(": ")[2].partition(". ")[0]
        rows.append([f"`{name}`", summary.removesuffix("."), ", ".join(fields)])
    return table(["`curate schema`", "file", "fields"], rows)


def recipe_keys() -> dict[str, Mapping[str, Any]]:
    """Map every dotted recipe key to its part of the JSON Schema."""
    definitions = schema()["$defs"]
    return {
        f"{where}.{key}".removeprefix("."): field
        for struct, where in SECTIONS.items()
        for key, field in definitions[struct]["properties"].items()
    }


def _recipe_table() -> str:
    definitions = schema()["$defs"]
    parts = []
    for struct, where in SECTIONS.items():
        definition = definitions[struct]
        required = definition.get("required", [])
        rows = [
            [
                f"`{key}`",
                "required" if key in required else _default(field),
                str(field.get("description", "")),
                _values(field),
            ]
            for key, field in definition["properties"].items()
        ]
        title = f"### `{where}`" if where else "### Top level"
        summary = definition.get("description", "")
        keys = table(["key", "default", "meaning", "type"], rows)
        parts.append(f"{title}\n\n{summary}\n\n{keys}\n")
    return "\n".join(parts)


def _default(field: Mapping[str, Any]) -> str:
    if "default" not in field or field["default"] is None or "$ref" in field:
        return ""
    value = field["default"]
    if value in ({}, []):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:_}`" if isinstance(value, int) else f"`{value}`"


def _values(field: Mapping[str, Any]) -> str:
    """Describe the type of a field in words, with its bounds."""
    if "anyOf" in field:
        kinds = [_values(part) for part in field["anyOf"] if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "$ref" in field:
        return "mapping"
    words = {"integer": "whole number", "string": "text", "boolean": "true or false"}
    kind = str(field.get("type", "anything"))
    if kind == "array":
        return f"list of {_values(field['items'])}"
    return {"object": "mapping", **words}.get(kind, kind)


def _aliases_table() -> str:
    rows = [
        [f"`{key}`", ", ".join(f"`{alias}`" for alias, ours in words.items() if ours == key)]
        for words in ALIASES.values()
        for key in dict.fromkeys(words.values())
    ]
    return table(["curate", "also read"], rows)


def _commands() -> str:
    """Describe every command: its usage line, its help and its options."""
    parts = []
    for name, command in cli.commands.items():
        arguments = [_usage(one) for one in command.params if isinstance(one, click.Argument)]
        usage = " ".join(["curate", name, *arguments, "[OPTIONS]"])
        options = [one for one in command.params if isinstance(one, click.Option)]
        rows = [[_option(one), one.help or "", _option_default(one)] for one in options]
        parts += [
            f"### `curate {name}`",
            f"```text\n{usage}\n```",
            inspect.cleandoc(command.help or ""),
        ]
        parts += [table(["option", "meaning", "default"], rows)] if rows else []
    return "\n\n".join(parts)


def _usage(argument: click.Argument) -> str:
    word = (argument.name or "").upper() + ("..." if argument.nargs == -1 else "")
    return word if argument.required else f"[{word}]"


def _option(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    if option.is_flag:
        return names
    choices = getattr(option.type, "choices", None)
    value = "|".join(choices) if choices else option.metavar or _kind(option.type)
    return f"{names} `{value}`"


def _kind(kind: click.ParamType) -> str:
    return {
        "integer": "INTEGER",
        "integer range": "INTEGER",
        "float": "NUMBER",
        "path": "PATH",
    }.get(kind.name, kind.name.upper())


def _option_default(option: click.Option) -> str:
    return f"`{option.default}`" if option.show_default else ""


def _command_table() -> str:
    rows = [
        [f"[`curate {name}`](commands.md#curate-{name})", command.get_short_help_str(200)]
        for name, command in cli.commands.items()
    ]
    return table(["command", "what it does"], rows)


def _methods_table() -> str:
    rows = [
        [f"`{name}`", method.summary, method.needs, method.paper]
        for name, method in METHODS.items()
    ]
    return table(["method", "weights", "needs", "source"], rows)


def _laws_table() -> str:
    rows = [[f"`{name}`", law.summary, law.needs, law.paper] for name, law in LAWS.items()]
    return table(["law", "loss of a target", "needs", "source"], rows)


def _statistics_table() -> str:
    rows = [
        [
            f"`{name}`",
            row.summary,
            row.unit,
            ", ".join(column.heading for column in row.shown),
            row.paper,
        ]
        for name, row in STATISTICS.items()
    ]
    return table(["statistic", "meaning", "unit in JSON", "columns", "source"], rows)


def _formats_table() -> str:
    rows = [
        [
            f"`{name}`",
            "tokens" if isinstance(row, TokenFormat) else "text",
            row.summary,
            row.trainers,
        ]
        for name, row in FORMATS.items()
    ]
    return table(["format", "stores", "files", "read by"], rows)


def _format_options() -> str:
    rows = [
        [
            f"`{name}`",
            f"`{key}`",
            "" if option.default is None else f"`{str(option.default).lower()}`",
            option.summary
            + (": " + ", ".join(f"`{one}`" for one in option.choices) if option.choices else "")
            + (f" (variants {', '.join(option.variants)})" if option.variants else ""),
        ]
        for name, row in FORMATS.items()
        for key, option in row.options.items()
    ]
    return table(["format", "option", "default", "meaning"], rows)


def _python_functions() -> str:
    rows = [
        [f"`{name}`", (inspect.getdoc(getattr(curate, name)) or "").partition("\n\n")[0]]
        for name in curate.__all__
        if not name.startswith("_")
    ]
    return table(["function", "what it does"], rows)


def _loader_fields() -> str:
    return table(["field", "what"], [[f"`{name}`", what] for name, what in FIELDS.items()])


def _mixture_keys() -> str:
    rows = [
        [f"`{key}`", "every method" if len(names) == len(METHODS) else ", ".join(names)]
        for key in mixture_keys()
        if key != "method"
        for names in [[f"`{name}`" for name in readers(key)]]
    ]
    return table(["key of `mixture`", "obeyed by"], rows)


GENERATED: dict[str, Callable[[], str]] = {
    "recipe-keys": _recipe_table,
    "artifacts": _artifacts_table,
    "recipe-aliases": _aliases_table,
    "mixture-keys": _mixture_keys,
    "commands": _commands,
    "command-table": _command_table,
    "methods": _methods_table,
    "laws": _laws_table,
    "python-functions": _python_functions,
    "statistics": _statistics_table,
    "loader-fields": _loader_fields,
    "formats": _formats_table,
    "format-options": _format_options,
}
"""Generated parts of pages, by name."""


def refresh(page: str) -> str:
    """Replace every generated part of a page by what the code says now.

    Raises:
        KeyError: A page asks for a part that does not exist.
    """
    return BLOCK.sub(lambda part: f"{part[1]}\n{GENERATED[part[2]]()}\n\n{part[3]}", page)


def main() -> None:
    """Refresh all pages of the documentation in place."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        page = path.read_text("utf-8")
        fresh = refresh(page)
        if fresh != page:
            path.write_text(fresh, "utf-8")
            print(f"updated {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
