"""Turn columns of Arrow tables into Python values: texts, identifiers, metadata."""

from __future__ import annotations

import base64
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.sources.documents import identifier, missing_column

TextValue = str | bytes | None


@dataclass(frozen=True, slots=True)
class ColumnPath:
    """Path to a value: a column, and the fields of the structs inside it."""

    column: str
    fields: tuple[str, ...]
    type: Any
    """Arrow type of the value."""

    @property
    def dotted(self) -> str:
        """The path as Parquet writes it."""
        return ".".join((self.column, *self.fields))

    @property
    def holds_text(self) -> bool:
        """Whether the values can be texts: strings or bytes, plain or dictionary-encoded."""
        return is_textual(self.type)

    def values(self, batch: Any) -> Any:
        """Return the Arrow array at this path in a record batch."""
        array = batch.column(batch.schema.names.index(self.column))
        for field in self.fields:
            array = pc.struct_field(array, field)
        return array


def is_textual(kind: Any) -> bool:
    """Whether an Arrow type holds strings or bytes, or nothing but nulls."""
    types = pa.types
    if types.is_dictionary(kind):
        return is_textual(kind.value_type)
    return (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_null(kind)
        or is_bytes(kind)
    )


def is_bytes(kind: Any) -> bool:
    """Whether an Arrow type holds bytes of any layout."""
    types = pa.types
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    )


@dataclass(frozen=True, slots=True)
class TableColumns:
    """The names and types of a table's columns."""

    types: dict[str, Any]
    """Arrow types by name, without names that several columns share."""
    description: str
    """Names and types of all columns, for messages."""
    repeated: frozenset[str] = frozenset()
    """Names that several columns share, so that none of them can be asked for."""

    def find(self, path: str) -> ColumnPath | None:
        """Find a column by its name, or a struct's field by a dotted path."""
        if path in self.types:
            return ColumnPath(path, (), self.types[path])
        column, *fields = path.split(".")
        kind = self.types.get(column)
        for field in fields:
            if kind is None or not pa.types.is_struct(kind) or kind.get_field_index(field) < 0:
                return None
            kind = kind.field(field).type
        return None if kind is None else ColumnPath(column, tuple(fields), kind)

    def missing(self, name: str) -> str:
        """Say that there is no such column, or several, and which there are."""
        return missing_column(name, self.description, name in self.repeated)


def columns_of(schema: Any) -> TableColumns:
    """Read the columns of an Arrow schema.

    Raises:
        UnicodeDecodeError: A name is not UTF-8.
    """
    names = Counter(field.name for field in schema)
    types = {field.name: field.type for field in schema if names[field.name] == 1}
    words = (f"{field.name} {field.type}" for field in schema)
    repeated = frozenset(name for name, count in names.items() if count > 1)
    return TableColumns(types, ", ".join(words) or "none", repeated)


def shares_buffers(kind: Any) -> bool:
    """Whether rows point into shared buffers, so that the size of a slice is not defined."""
    types = pa.types
    return bool(
        types.is_dictionary(kind) or types.is_string_view(kind) or types.is_binary_view(kind)
    )


def text_values(array: Any) -> list[TextValue]:
    """Return the strings of a textual array: bytes if they are not UTF-8, None if null."""
    if pa.types.is_dictionary(array.type):
        values = text_values(array.dictionary)
        return [None if i is None else values[i] for i in array.indices.to_pylist()]
    try:
        if is_bytes(array.type):
            array = array.cast(pa.large_binary()).cast(pa.large_string())
        texts: list[TextValue] = array.to_pylist()
        return texts
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError):
        return [decode(row.as_buffer().to_pybytes()) if row.is_valid else None for row in array]


def decode(value: bytes) -> str | bytes:
    """Decode UTF-8; return other bytes unchanged."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def check_column(array: Any) -> None:
    """Check that an array's offsets stay inside its buffers, which Arrow itself does not.

    Raises:
        ArrowInvalid: An offset is outside. Strings that are not UTF-8 are left to `text_values`.
    """
    if pa.types.is_string(array.type):
        array = array.view(pa.binary())
    elif pa.types.is_large_string(array.type):
        array = array.view(pa.large_binary())
    elif pa.types.is_string_view(array.type):
        array = array.view(pa.binary_view())
    array.validate(full=True)


def identifiers(array: Any) -> list[str]:
    """Return strings and integers of an array as identifiers, empty for other values."""
    if is_textual(array.type):
        return [value if isinstance(value, str) else "" for value in text_values(array)]
    if pa.types.is_integer(array.type):
        return [identifier(value) for value in array.to_pylist()]
    return [""] * len(array)


def metadata_values(array: Any) -> list[Any]:
    """Return the values of any column in types of JSON, with times as Arrow writes them.

    Python's time types end at microseconds and at the year 9999, and Arrow's conversion of finer
    ones depends on whether pandas is installed.
    """
    try:
        return [jsonable(value) for value in array.cast(without_times(array.type)).to_pylist()]
    except (pa.ArrowException, ValueError, OverflowError):
        return [array.slice(row, 1).to_string() for row in range(len(array))]


def without_times(kind: Any) -> Any:
    """Replace every date, time and duration inside an Arrow type by string."""
    types = pa.types
    if types.is_temporal(kind) and not types.is_interval(kind):
        return pa.string()
    if types.is_struct(kind):
        return pa.struct([field.with_type(without_times(field.type)) for field in kind])
    if types.is_list(kind):
        return pa.list_(kind.value_field.with_type(without_times(kind.value_type)))
    if types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(without_times(kind.value_type)))
    return kind


def jsonable(value: Any) -> Any:
    r"""Convert a Python value to types of JSON; bytes that are not UTF-8 become base64.

    Example:
        >>> jsonable({"a": (1, float("nan")), "b": b"\xff"})
        {'a': [1, None], 'b': '/w=='}
    """
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, bytes):
        text = decode(value)
        return text if isinstance(text, str) else base64.b64encode(value).decode("ascii")
    return str(value)
