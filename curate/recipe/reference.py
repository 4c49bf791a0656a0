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
            renamed = _renamed(getattr(structs, struct.name))
            for field, text in zip(struct.body, struct.body[1:], strict=False):
                match field, text:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(description))),
                    ):
                        fields[renamed.get(name, name)] = " ".join(description.split())
    return described


def _renamed(struct: type) -> dict[str, str]:
    """Return the key of each field, whose name differs where the key is a word of Python."""
    if not issubclass(struct, msgspec.Struct):
        return {}
    return {field.name: field.encode_name for field in msgspec.structs.fields(struct)}


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
