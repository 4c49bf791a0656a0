"""Read columns beside the text from a domain's files, aligned with its documents in the store.

Each column is read once, by the readers that tokenising uses, and kept in the cache. It has the
narrowest of the types truth value, whole number, number and text that holds all its values; lists
and objects are kept as JSON. Cells of CSV files are null where they are empty, and numbers where
all of them are.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import polars as pl

from curate.curation.step import CurationRequest
from curate.errors import InputError
from curate.runtime.files import hash_json, sweep
from curate.runtime.memory import blocks
from curate.runtime.sealed import read_cached, write_sealed
from curate.runtime.workers import map_tasks
from curate.sources import SegmentReader
from curate.sources.plans import HEAD_BYTES, FilePlan
from curate.sources.records import DocumentBlock, Segment
from curate.tokens.domain import DomainTokens

SCHEMA = 1
"""Version of the kept columns."""

CACHE_NAME = "attributes"
"""Directory of columns in the cache."""

SAMPLED_FILES = 8
"""Files of a domain whose first records show its columns before anything is read."""

SEARCHED_BYTES = 64 << 20
"""Bytes of those files that are searched for a column that their first records lack. Takes a second
or two, and only for names that are rare, or misspelt."""

WITHOUT_SCHEMA = ("jsonl", "json_array")
"""Readers of files whose records may each have other columns."""

NESTED = 1
"""Code of a list or an object, as its JSON, among values that workers send."""

_NESTED_TYPES = {list, dict, msgspec.msgpack.Ext}

NUMBER_TYPES = (pl.Boolean, pl.Int64, pl.Float64)

KINDS = {pl.Boolean: "true or false", pl.Int64: "a whole number", pl.Float64: "a number",
         pl.String: "text"}  # fmt: skip
"""Types of a column in messages."""


def source_columns(
    request: CurationRequest, number: int, names: Sequence[str]
) -> dict[str, pl.Series]:
    """Read columns of a domain, or take them from the cache.

    Args:
        request: The domains.
        number: Number of the domain.
        names: The columns; dots reach into nested objects.

    Returns:
        shape (documents,) each, in the order of the domain; null where a record lacks the column.

    Raises:
        InputError: A file has changed, or a column holds both text and numbers.
    """
    domain, plans = request.domains[number], request.plans[number]
    sweep(request.loaded.cache_dir / CACHE_NAME)
    paths = _paths(request, number, names)
    columns = {name: _read_kept(path, len(domain), request) for name, path in paths.items()}
    missing = [name for name, column in columns.items() if column is None]
    for name, series in _read_columns(domain, plans, missing, request) if missing else ():
        content = io.BytesIO()
        series.alias("value").to_frame().write_parquet(content)
        write_sealed(paths[name], content.getvalue())
        columns[name] = series
    return {name: column for name, column in columns.items() if column is not None}


def keep_columns(request: CurationRequest) -> None:
    """Read the columns that recipes keep, where the cache lacks them.

    Args:
        request: The domains.

    Raises:
        InputError: A file has changed, or a column holds both text and numbers.
    """
    for number, domain in enumerate(request.loaded.recipe.domains):
        paths = _paths(request, number, domain.keep)
        missing = [name for name, path in paths.items() if not path.is_file()]
        if missing:
            source_columns(request, number, missing)


def _paths(request: CurationRequest, number: int, names: Sequence[str]) -> dict[str, Path]:
    """Return the file of each column of a domain, named after its documents and their order."""
    domain = request.domains[number]
    directory = request.loaded.cache_dir / CACHE_NAME
    entries = [stored.entry.name for file in domain.files for stored in file.entries]
    of_entries = hash_json([SCHEMA, domain.fingerprint, entries])
    return {name: directory / f"{hash_json([of_entries, name])[:24]}.column" for name in names}


def _read_kept(path: Path, documents: int, request: CurationRequest) -> pl.Series | None:
    content = read_cached(path, "read again", request.observer.notice)
    if content is None:
        return None
    series = pl.read_parquet(io.BytesIO(content))["value"]
    return series if len(series) == documents else None


@dataclass(frozen=True)
class _Task:
    """Segments of a file or a group of files."""

    plan: FilePlan
    segments: tuple[int, ...]


def _read_columns(
    domain: DomainTokens, plans: Sequence[FilePlan], names: Sequence[str], request: CurationRequest
) -> Iterator[tuple[str, pl.Series]]:
    """Yield columns in the order of the domain."""
    segments = {
        stored.entry.key: len(file.entries) for file in domain.files for stored in file.entries[:1]
    }
    tasks = [
        task
        for plan in plans
        for task in _tasks(plan, max((segments.get(key, 0) for key in plan.keys), default=0))
    ]
    read = map_tasks(partial(_read_task, names), tasks, request.workers, request.observer.tick)
    values: dict[tuple[str, int], bytes] = {}
    for of_task in read:
        values.update(of_task)
    csv_keys = {key for plan in plans if plan.reader == "csv" for key in plan.keys}
    parts: list[list[tuple[str, bool, pl.Series]]] = [[] for _ in names]
    for file in domain.files:
        for stored in file.entries:
            entry = stored.entry
            if not entry.documents:
                continue
            columns = msgspec.msgpack.decode(values[entry.key, entry.segment])
            if len(columns[0]) != entry.documents:
                raise InputError(f"{file.path}: changed since it was tokenised; run again")
            is_csv = entry.key in csv_keys
            for name, column, of_name in zip(names, columns, parts, strict=True):
                of_name.append((file.path, is_csv, typed(name, column, file.path, is_csv)))
    order = np.concatenate([domain.stored_positions(rows) for rows in blocks(len(domain))])
    for name, of_name in zip(names, parts, strict=True):
        yield name, _joined(name, of_name).gather(order)


def _tasks(plan: FilePlan, segments: int) -> list[_Task]:
    """Cut a plan into tasks; a file that is read from its start to find a segment is one."""
    if plan.count is None:
        return [_Task(plan, tuple(range(segments)))]
    return [_Task(plan, (segment,)) for segment in range(segments)]


def _read_task(names: Sequence[str], task: _Task) -> dict[tuple[str, int], bytes]:
    """Read columns of segments; return, by file and segment, the values as MessagePack.

    Workers may be forked, and polars would wait for ever there for threads of its parent.
    """
    read: dict[tuple[str, int], bytes] = {}
    reader = SegmentReader()
    for segment in task.segments:
        values: list[list[list[Any]]] = [[[] for _ in names] for _ in task.plan.files]
        for block in reader.read(task.plan.segment(segment), keep_metadata=True):
            assert block.metadata is not None  # since it is asked for
            for number, metadata in zip(block.files, block.metadata, strict=True):
                for name, column in zip(names, values[number], strict=True):
                    column.append(_packable(value_at(metadata, name)))
        for key, columns in zip(task.plan.keys, values, strict=True):
            read[key, segment] = msgspec.msgpack.encode(columns)
    reader.close()
    return read


def _packable(value: Any) -> Any:
    """Return a value of JSON that MessagePack can hold: lists and objects as their JSON."""
    if isinstance(value, list | dict):
        return msgspec.msgpack.Ext(NESTED, _json_of(value).encode("utf-8", "surrogatepass"))
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(value)
    return value


def _json_of(value: Any) -> str:
    """Return a list or an object as JSON, of any depth and numbers that readers let by."""
    if isinstance(value, msgspec.msgpack.Ext):
        return bytes(value.data).decode("utf-8", "surrogatepass")
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # numbers beyond 64 bits, or more than 254 levels
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def value_at(metadata: Mapping[str, Any], name: str) -> Any:
    """Return a record's value by name, or by a dotted path into nested objects; None if absent.

    Example:
        >>> value_at({"a": {"b": 3}, "a.c": 4}, "a.b"), value_at({"a.c": 4}, "a.c")
        (3, 4)
    """
    if name in metadata:
        return metadata[name]
    value: Any = metadata
    for key in name.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def typed(name: str, values: Sequence[Any], path: str, is_csv: bool = False) -> pl.Series:
    """Make a column of the narrowest type that holds all values.

    Args:
        name: Name of the column.
        values: Values of JSON.
        path: File that holds them, for messages.
        is_csv: Whether they are cells of a CSV file, which are null where they are empty.

    Raises:
        InputError: Some values are text, and others are not.

    Example:
        >>> typed("a", [1, None, 2.5], "f").dtype, typed("a", [[1], {}], "f").to_list()
        (Float64, ['[1]', '{}'])
    """
    if is_csv:
        values = [None if value == "" else value for value in values]
    kinds = {type(value) for value in values} - {type(None)}
    if kinds & _NESTED_TYPES:
        if kinds <= _NESTED_TYPES:
            texts = [None if value is None else _json_of(value) for value in values]
            return pl.Series(name, texts, pl.String)
    elif kinds <= {bool}:
        return pl.Series(name, values, pl.Boolean if kinds else pl.Null)
    elif kinds <= {int} and all(value is None or abs(value) < 2**63 for value in values):
        return pl.Series(name, values, pl.Int64)
    elif kinds <= {int, float}:
        numbers = [None if value is None else float(value) for value in values]
        return pl.Series(name, numbers, pl.Float64)
    elif kinds <= {str}:
        return pl.Series(name, values, pl.String)
    names = sorted({"list" if kind in _NESTED_TYPES else kind.__name__ for kind in kinds})
    raise InputError(
        f"{path}: column '{name}' holds values of several types ({', '.join(names)}); make them "
        "one type, or do without the column"
    )


def _joined(name: str, parts: Sequence[tuple[str, bool, pl.Series]]) -> pl.Series:
    """Join parts of a column, each with its path and whether it is of a CSV file."""
    numbers = _csv_numbers([series for _, is_csv, series in parts if is_csv])
    first: dict[Any, str] = {}
    series = []
    for path, is_csv, part in parts:
        read = part.cast(numbers, strict=False) if is_csv and numbers is not None else part
        if read.dtype != pl.Null:
            first.setdefault(read.dtype, path)
        series.append(read)
    kinds = list(first)
    if not kinds:
        return pl.concat(series) if series else pl.Series(name, [], pl.Null)
    kind: Any = kinds[0]
    if len(kinds) > 1:
        if not set(kinds) <= {pl.Int64, pl.Float64}:
            listed = "; ".join(f"{KINDS[kind]} in {path}" for kind, path in first.items())
            raise InputError(
                f"column '{name}' has several types: {listed}; make them one type, or do without "
                "the column"
            )
        kind = pl.Float64
    return pl.concat([part.cast(kind) for part in series])


def _csv_numbers(parts: Sequence[pl.Series]) -> Any:
    """Return the type of number that all texts of CSV files can be read as, or None."""
    for kind in (pl.Int64, pl.Float64):
        if parts and all(
            bool(
                (part.is_null() | (part == "") | part.cast(kind, strict=False).is_not_null()).all()
            )
            for part in parts
        ):
            return kind
    return None


@dataclass(frozen=True)
class Head:
    """The first records of some of a domain's files."""

    path: str
    """The first file."""
    present: tuple[str, ...]
    """Names of columns in any of the records, text and identifier left out."""
    values: dict[str, pl.Series]
    """Values of the columns that were asked for and that some record has."""
    searched_bytes: int | None
    """Bytes of a file that were searched for the others; None if no more could be in it."""


def read_head(plans: Sequence[FilePlan], names: Sequence[str]) -> Head:
    """Read columns of the first records of some files, before anything else is read.

    Args:
        plans: Plans of one domain.
        names: The columns.

    Raises:
        InputError: A column holds both text and numbers.
    """
    files = [(plan, file) for plan in plans for file in plan.files]
    count = min(len(files), SAMPLED_FILES)
    numbers = [number * len(files) // count for number in range(count)]
    sampled = [replace(files[number][0], files=(files[number][1],)) for number in numbers]
    records: list[list[dict[str, Any]]] = []
    reader = SegmentReader()
    for plan in sampled:
        block = next(iter(reader.read(plan.beginning(HEAD_BYTES), keep_metadata=True)), None)
        records.append((block or DocumentBlock()).metadata or [])
    lacking = [name for name in names if not any(_has(rows, name) for rows in records)]
    searched_bytes = None
    for plan, rows in zip(sampled, records, strict=True):
        if lacking and plan.reader in WITHOUT_SCHEMA:
            most = SEARCHED_BYTES // count
            later, to_the_end = _later_records(reader, plan.beginning(most), lacking, most)
            rows += later
            searched_bytes = searched_bytes if to_the_end else most
    reader.close()
    values = {}
    for name in names:
        if any(_has(rows, name) for rows in records):
            parts = [
                _head_part(name, plan, of_plan)
                for plan, of_plan in zip(sampled, records, strict=True)
            ]
            values[name] = _joined(name, parts).alias(name)
    present = dict.fromkeys(key for of_plan in records for record in of_plan for key in record)
    return Head(sampled[0].files[0].path, tuple(present), values, searched_bytes)


def _has(records: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Return whether a column is in any of the records."""
    return any(name in record or value_at(record, name) is not None for record in records)


def _later_records(
    reader: SegmentReader, segment: Segment, names: Sequence[str], most_bytes: int
) -> tuple[list[dict[str, Any]], bool]:
    """Return records that have columns which those before them lack, and whether all were read.

    Args:
        reader: Reads the segment.
        segment: Where to search.
        names: The columns.
        most_bytes: Bytes after which the search ends.
    """
    later: list[dict[str, Any]] = []
    seen: set[str] = set()
    left, read_bytes = list(names), 0
    for block in reader.read(segment, keep_metadata=True):
        rows = block.metadata or []
        new = [name for name in left if _has(rows, name)]
        left = [name for name in left if name not in new]
        for row in rows:  # all of a block that has what is asked for, since they show its type
            if new or not seen.issuperset(row):
                later.append(row)
                seen.update(row)
        read_bytes += block.raw_bytes
        if not left or read_bytes >= most_bytes:
            return later, False
    return later, segment.stop is None or segment.stop >= segment.files[0].size_bytes


def _head_part(
    name: str, plan: FilePlan, records: Sequence[Mapping[str, Any]]
) -> tuple[str, bool, pl.Series]:
    """Return a file's path, whether it is CSV, and a column of its first records."""
    path, is_csv = plan.files[0].path, plan.reader == "csv"
    return path, is_csv, typed(name, [value_at(row, name) for row in records], path, is_csv)
