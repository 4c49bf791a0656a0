"""Read the fields of JSON objects that strict parsers refuse, for faults in fields nobody reads.

NaN and Infinity, numbers of any form and length, any depth, lone surrogates, raw control
characters, wrong escapes and bytes that are not UTF-8 are accepted outside the text. Brackets,
quotes, colons and commas must match, so a line that is cut short is no object.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgspec
import orjson

from curate.sources.documents import utf8_fault

take_token = re.compile(
    # A string, written so that no two parts of the pattern can match the same bytes.
    rb'[ \t\r\n]*(?:("[^"\\]*(?:\\.[^"\\]*)*")|([-+.\w]+)|([{}\[\],:]))',
    re.DOTALL,
).match

DEEPEST = 200
"""Brackets in a field beyond which it is kept as text, since orjson writes no deeper values."""

LEAST_INEXACT = 2.0**63
"""From here on, orjson may have made a float of a whole number that 64 bits cannot hold."""

MOST_DIGITS = 308
"""Digits of a whole number beyond which it is kept as text, since strict parsers refuse it."""


class Fault(Exception):  # noqa: N818 - a fact about a record, which becomes its reason
    """The text of a value that is read but is not valid JSON."""

    def __init__(self, raw: bytes, error: orjson.JSONDecodeError) -> None:
        """Keep the value and its first fault."""
        super().__init__(error.msg)
        self._raw = raw
        self._error = error

    def reason(self, record: bytes) -> str:
        """Explain the fault, with its place in the record that holds the value."""
        before = record[: record.find(self._raw)]
        if fault := utf8_fault(bytes(len(before)) + self._raw):
            return fault
        characters = len(before.decode("utf-8", "replace")) + self._error.pos
        return f"not valid JSON: {self._error.msg} (character {characters})"


def parse(data: bytes) -> Any:
    """Parse JSON as orjson does, but keep whole numbers beyond 64 bits, which it makes floats.

    Raises:
        orjson.JSONDecodeError: `data` is not valid JSON.

    Example:
        >>> parse(b'[18446744073709551616, 1e20]'), orjson.loads(b'18446744073709551616')
        ([18446744073709551616, 1e+20], 1.8446744073709552e+19)
    """
    value = orjson.loads(data)
    # For a record of 3.5 KB this takes 1.6 us; searching its bytes for long numbers takes 29 us.
    if not may_be_inexact(value):
        return value
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError):  # deeper than it goes
        return value


def may_be_inexact(value: Any) -> bool:
    """Whether orjson may have made a float of a whole number in a value that it parsed."""
    pending = [value]  # no recursion, as a value may be thousands of brackets deep
    while pending:
        item = pending.pop()
        if isinstance(item, float):
            if abs(item) >= LEAST_INEXACT:
                return True
        elif isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return False


def split_object(data: bytes) -> dict[str, bytes] | None:
    r"""Return the values of an object by key, unparsed; None if `data` is no object.

    Example:
        >>> split_object(b'{"a": NaN, "b": [1, {"c": "\\ud800"}]}')
        {'a': b'NaN', 'b': b'[1, {"c": "\\ud800"}]'}
        >>> split_object(b'{"a": NaN, "b"') is None
        True
    """
    fields: dict[str, bytes] = {}
    stack: list[bytes] = []
    key, value_start, at = "", 0, 0
    expected = "{"  # or a value, a key, ":", or "," with what closes; closing brackets as "]"
    while expected != "end":
        token = take_token(data, at)
        if token is None:
            return None
        text, word, mark = token.groups()
        start, at = token.start(token.lastindex or 0), token.end()
        if mark in (b"{", b"["):
            if expected not in ("value", "value or end", "{") or (not stack and mark != b"{"):
                return None
            if len(stack) == 1:
                value_start = start
            stack.append(mark)
            expected = "key or end" if mark == b"{" else "value or end"
        elif mark in (b"}", b"]"):
            closes = stack and (stack[-1] == b"{") == (mark == b"}")
            if not closes or expected not in ("comma", "key or end", "value or end"):
                return None
            if expected == "value or end" and mark == b"}":
                return None
            stack.pop()
            if len(stack) == 1:
                fields[key] = data[value_start:at]
            expected = "comma" if stack else "end"
        elif mark == b",":
            if expected != "comma":
                return None
            expected = "key" if stack[-1] == b"{" else "value"
        elif mark == b":":
            if expected != "colon":
                return None
            expected = "value"
        elif expected in ("key", "key or end"):
            if text is None:
                return None
            key = _key(text) if len(stack) == 1 else key
            expected = "colon"
        elif expected in ("value", "value or end"):
            if len(stack) == 1:
                fields[key] = text if word is None else word
            expected = "comma"
        else:
            return None
    return None if data[at:].strip(b" \t\r\n") else fields


def _key(text: bytes) -> str:
    try:
        value: str = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = text[1:-1].decode("utf-8", "replace")
    return value


def read_paths(data: bytes, paths: tuple[str, ...]) -> dict[str, Any] | None:
    """Parse the values at dotted paths of an object; None if `data` is no object.

    Values that no path leads to are None, so that their names can still be listed.

    Args:
        data: The object.
        paths: Dotted paths; parts of a value at the end of one are parsed too.

    Raises:
        Fault: A value to be read is not valid JSON.
    """
    fields = split_object(data)
    if fields is None:
        return None
    values: dict[str, Any] = {}
    for key, raw in fields.items():
        rests = [path.partition(".")[2] for path in paths if path.partition(".")[0] == key]
        if not rests:
            values[key] = None
        elif all(rests) and (inner := read_paths(raw, tuple(rests))) is not None:
            values[key] = inner
        else:
            values[key] = _value(raw)
    return values


def _value(raw: bytes) -> Any:
    try:
        return parse(raw)
    except orjson.JSONDecodeError as error:
        if raw.strip(b"+-") in (b"NaN", b"Infinity"):
            return float("nan")
        raise Fault(raw, error) from error


def all_fields(data: bytes) -> dict[str, Any]:
    """Return every field of an object, with null for what JSON cannot say, such as NaN.

    A field that cannot be parsed is kept as the text that stands for it.
    """
    return {key: _repaired(raw) for key, raw in (split_object(data) or {}).items()}


def _repaired(raw: bytes) -> Any:
    text = raw.decode("utf-8", "replace")
    for readable in (raw, text.encode()):
        try:
            return parse(readable)
        except orjson.JSONDecodeError:
            continue
    if raw.count(b"[") + raw.count(b"{") > DEEPEST or b"\\u" in raw:  # perhaps lone surrogates
        return text
    try:
        return json.loads(
            text,
            parse_constant=lambda _: None,
            parse_float=_finite,
            parse_int=lambda digits: int(digits) if len(digits) <= MOST_DIGITS else digits,
            strict=False,
        )
    except ValueError:
        return text


def _finite(digits: str) -> float | None:
    """Return a number that JSON can say; others are not written."""
    value = float(digits)
    return value if math.isfinite(value) else None
