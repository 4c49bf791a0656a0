"""Rules that decide which records are documents, for every reader.

A document's text is a string with at least one visible character. Any other record is bad, with a
reason that helps to correct it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

EXCERPT_CHARACTERS = 200
EXCERPT_BYTES = 4 * EXCERPT_CHARACTERS
"""Bytes that hold an excerpt, whatever its characters."""
LISTED_FIELDS = 12
EMPTY_DOCUMENT = "empty document"

is_cut = re.compile(
    r"the \w+ data is cut short(?!, \d)|the (array|object) is not closed|"
    r"not valid (JSON: the file ends in|CSV: unexpected end)"
).match
"""Test for reasons of bad records after which an unknown amount is missing from a file."""

is_damage = re.compile(
    r"the \w+ data is (cut short|corrupt|followed)|the array is followed|data follows the end"
).match
"""Test for reasons of other damage to a file, whose loss is counted, perhaps by estimate."""

has_content = re.compile(
    # White space, and what is invisible: soft hyphen, zero-width and direction marks, BOM.
    "[^\\s\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]"
).search
"""Search for a visible character; raises `TypeError` for anything but a string."""


def too_large(limit_bytes: int) -> str:
    """Return the reason of a record that is larger than the recipe allows."""
    return f"record larger than limits.record_bytes ({limit_bytes:,} bytes)"


def missing_column(name: str, columns: str, is_repeated: bool) -> str:
    """Say that a table has no such column, or several, and which it has.

    Args:
        name: Name of the column, as the recipe has it.
        columns: Description of all columns.
        is_repeated: Whether several columns have this name.
    """
    kind = "single column" if is_repeated else "column"
    return f"no {kind} '{name}' (columns: {columns})"


def excerpt(record: str | bytes) -> str:
    """Return the start of a record, at most 200 characters, whatever bytes it holds."""
    if isinstance(record, bytes):
        record = record[:EXCERPT_BYTES].decode("utf-8", "replace")
    return record[:EXCERPT_CHARACTERS]


def identifier(value: Any) -> str:
    """Return a record's identifier as text; empty for anything but strings and integers.

    Example:
        >>> identifier(7), identifier("a"), identifier(None), identifier(True)
        ('7', 'a', '', '')
    """
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def type_name(value: Any) -> str:
    """Return the name of a value's type for messages."""
    return "null" if value is None else type(value).__name__


def list_fields(names: Any) -> str:
    """List the first dozen field names for a message.

    Example:
        >>> list_fields(["id", "body"])
        'id, body'
    """
    names = list(names)
    more = f", … {len(names) - LISTED_FIELDS} more" if len(names) > LISTED_FIELDS else ""
    return (", ".join(excerpt(str(name)) for name in names[:LISTED_FIELDS]) or "none") + more


def text_fault(record: Any, path: str) -> str | None:
    """Explain why a parsed record is no document; None if it is one.

    Args:
        record: Any JSON value.
        path: Key of the text; dots reach into nested objects.

    Example:
        >>> text_fault({"id": 1, "body": "x"}, "text")
        "no field 'text' (fields: id, body)"
        >>> text_fault({"text": 17}, "text")
        "'text' is int, not a string"
        >>> text_fault({"data": {"body": "x"}}, "data.body") is None
        True
    """
    value, reached = record, ""
    for key in path.split("."):
        if not isinstance(value, dict):
            subject = f"'{reached}'" if reached else "the record"
            return f"{subject} is {type_name(value)}, not an object"
        reached = f"{reached}.{key}" if reached else key
        if key not in value:
            return f"no field '{reached}' (fields: {list_fields(value)})"
        value = value[key]
    if not isinstance(value, str):
        return (
            f"'{path}' is null"
            if value is None
            else f"'{path}' is {type_name(value)}, not a string"
        )
    return None if has_content(value) else EMPTY_DOCUMENT


def utf8_fault(data: bytes) -> str | None:
    r"""Describe the first byte that is not UTF-8; None if all are valid.

    Example:
        >>> utf8_fault(b"caf\xe9")
        'not UTF-8 at byte 3 (0xe9)'
    """
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start} (0x{data[error.start]:02x})"
    return None


def look_up(record: Any, path: str) -> Any:
    """Return the value at a dotted path, or None."""
    for key in path.split("."):
        record = record.get(key) if isinstance(record, dict) else None
    return record


def remove(record: dict[str, Any], keys: Sequence[str]) -> None:
    """Delete the value at a path of keys, if it exists."""
    value: Any = record
    for key in keys[:-1]:
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, dict):
        value.pop(keys[-1], None)
