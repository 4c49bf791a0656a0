"""The recipe reference: a description of each key, read from the strings below struct fields.

Python does not keep those strings at run time, so they are read from the source of `structs`.
"""

from __future__ import annotations

import ast
import inspect
from typing import Any

import msgspec

from curate.recipe import structs


def descriptions() -> dict[str, dict[str, str]]:
    """Return the description of each key, by the name of its struct.

    Example:
        >>> descriptions()["OutputRecipe"]["format"]
        'The output format. `curate formats` lists them.'
    """
    described: dict[str, dict[str, str]] = {}
    for struct in ast.parse(inspect.getsource(structs)).body:
        if isinstance(struct, ast.ClassDef):
            fields = described[struct.name] = {}
            for field, text in zip(struct.body, struct.body[1:], strict=False):
                match field, text:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(description))),
                    ):
                        fields[name] = " ".join(description.split())
    return described


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe, with a description of every key, for editors.

    It leaves out the aliases from peer tools (`text.ALIASES`).
    """
    schema = msgspec.json.schema(structs.Recipe)
    described = descriptions()
    for struct, definition in schema["$defs"].items():
        for key, field in definition["properties"].items():
            if key in described[struct]:
                field["description"] = described[struct][key]
    return schema
