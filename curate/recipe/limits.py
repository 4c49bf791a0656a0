"""Bound the values of a recipe before anything is made of them.

The one rule for recipe files, `--set` and mappings from Python: `bounded` counts a value as often
as aliases repeat it, so that a short text cannot stand for billions of values.
"""

from __future__ import annotations

import math
import re
from typing import Any

from curate.errors import RecipeError

MOST_BYTES = 4 << 20
"""Most bytes of a recipe file."""

MOST_VALUES = 100_000
"""Most keys and values in a recipe, each counted as often as aliases repeat it."""

MOST_DEPTH = 50
"""Most lists and mappings inside one another."""

INTEGERS = range(-(2**63), 2**63)
"""Whole numbers that fit into 64 bits, as the files that curate writes require."""

MOST_KEY_CHARACTERS = 1000

LONE_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Halves of pairs, but not U+DC80 to U+DCFF, which stand for bytes of names that are not UTF-8."""

TOO_MANY = f"more than {MOST_VALUES:,} values, counting those that aliases repeat"
TOO_DEEP = f"more than {MOST_DEPTH} lists or mappings inside one another"


def bounded(value: Any, source: str) -> Any:
    """Return a value if it is finite, shallow and small.

    Args:
        value: What was read from YAML or JSON, or given from Python; may share or contain itself.
        source: Name of the recipe in messages.

    Raises:
        RecipeError: It is too large, too deep, or holds something that no recipe needs: an infinite
            number, a whole number beyond 64 bits, or text with a NUL character.
    """
    pending: list[tuple[Any, str, int]] = [(value, "", 0)]
    values = 1
    while pending:
        item, where, depth = pending.pop()
        problem = TOO_DEEP if depth > MOST_DEPTH else _problem(item)
        if isinstance(item, dict | list):
            values += len(item) * (2 if isinstance(item, dict) else 1)
            if values > MOST_VALUES:
                problem = TOO_MANY
        if problem in (TOO_DEEP, TOO_MANY):  # the whole way there would be as long as it is deep
            where = re.split(r"[.\[]", where)[0]
        if problem is not None:
            raise RecipeError(f"{source}: {where or 'the recipe'}: {problem}")
        if isinstance(item, dict):
            for key, entry in item.items():
                problem = _problem(key)
                if isinstance(key, str) and len(key) > MOST_KEY_CHARACTERS:
                    problem = f"expected at most {MOST_KEY_CHARACTERS:,} characters"
                if problem is not None:
                    raise RecipeError(f"{source}: {where or 'the recipe'}: a key: {problem}")
                pending.append((entry, f"{where}.{key}" if where else str(key), depth + 1))
        elif isinstance(item, list):
            pending += [(entry, f"{where}[{n}]", depth + 1) for n, entry in enumerate(item)]
    return value


def _problem(item: Any) -> str | None:
    """Describe why no recipe may hold a value; None if it may."""
    if isinstance(item, str):
        if "\0" in item:
            return "found text with a NUL character, which no file name may hold"
        if LONE_SURROGATE.search(item):
            return "found text with half of a surrogate pair"
    elif isinstance(item, int) and item not in INTEGERS:
        return "expected a whole number of at most 64 bits"
    elif isinstance(item, float) and not math.isfinite(item):
        return f"expected a finite number; found {item}"
    return None
