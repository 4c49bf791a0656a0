"""Look at the files of a directory: their kinds, and which fields of their records hold text.

Only the beginnings of files are read. Nothing here decides what a domain is.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.errors import InputError
from curate.sources import SegmentReader, segments
from curate.sources.csv_files import choose_delimiter
from curate.sources.decompress.open import StreamDamage, open_stream
from curate.sources.discover import expand
from curate.sources.documents import has_content, identifier, look_up
from curate.sources.places import Places
from curate.sources.plans import HEAD_BYTES, reader_of, whole_json
from curate.sources.records import DocumentBlock, InputFile, ReadOptions

OPENED_FILES = 200
"""Files of each suffix that are opened to see their kind; others are taken to be like them."""

RECORD_BYTES = (HEAD_BYTES, 2 << 20, 64 << 20)
"""Bytes in which the end of the first record is sought, one after another."""

SEEN_RECORDS = 20
"""Records of a file whose fields are listed."""

TEXT_CHARACTERS = 20
"""Least mean length of a text: a shorter field is a label or a name."""

IDENTIFIERS = (
    "id",
    "_id",
    "uid",
    "doc_id",
    "document_id",
    "uuid",
    "guid",
    "key",
    "url",
    "hash",
    "sha",
)
"""Names of fields that identify a record, the best first."""


@dataclass(frozen=True, slots=True)
class SurveyedFile:
    """A file and what its beginning shows."""

    path: str
    name: str
    """Path below the directory, with forward slashes."""
    size_bytes: int
    reader: str
    """A key of `READERS`."""
    compression: str
    """A key of `decompress.open.STREAMS`, or `refused`."""
    is_text: bool = True
    """For a file of plain text, whether its beginning is UTF-8 without NUL."""
    is_blank: bool = False
    """For a file of plain text, whether it holds no visible character."""

    @property
    def options_file(self) -> InputFile:
        """The file as readers take it."""
        return InputFile(
            path=self.path,
            size_bytes=self.size_bytes,
            content_hash="",
            name=self.name,
            reader=self.reader,
            compression=self.compression,
        )


@dataclass(frozen=True, slots=True)
class TextField:
    """A field of records that holds texts."""

    name: str
    """Dotted where it is in a nested object."""
    mean_characters: float
    share: float
    """Share of the records read in which it is a text."""
    example: str
    """Text of the first record."""


def survey(directory: Path) -> tuple[list[SurveyedFile], dict[str, str]]:
    """List the files of a directory with their kinds.

    Args:
        directory: Any directory; hidden files, caches and datasets of curate are left out.

    Returns:
        The files, sorted by name, and the reason for each path that was left out.

    Raises:
        InputError: The directory is absent, or holds no file.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: not a directory; name one that holds your text")
    places = Places()
    paths = expand([os.path.abspath(directory)], ReadOptions(), Path.cwd(), places)
    files = []
    alike: dict[str, list[SurveyedFile]] = {}
    for path in paths:
        size_bytes = os.stat(path.path).st_size
        if size_bytes == 0:
            places.left_out[path.path] = "empty"
            continue
        opened = alike.setdefault(os.path.splitext(path.name)[1].lower(), [])
        if len(opened) < OPENED_FILES:
            opened.append(_opened(path.path, path.name, size_bytes))
            files.append(opened[-1])
        else:
            files.append(_like(opened, path.path, path.name, size_bytes))
    return files, places.left_out


def _like(opened: list[SurveyedFile], path: str, name: str, size_bytes: int) -> SurveyedFile:
    """Take a file to be like most of those with its suffix, and text only if they all are."""
    kinds = Counter((file.reader, file.compression) for file in opened)
    (reader, compression), _ = kinds.most_common(1)[0]
    is_text = all(file.is_text for file in opened)
    return SurveyedFile(path, name, size_bytes, reader, compression, is_text=is_text)


def _opened(path: str, name: str, size_bytes: int) -> SurveyedFile:
    head, kind = _head(path, size_bytes)
    reader = reader_of(head, name)
    if kind == "refused" or reader != "text":
        return SurveyedFile(path, name, size_bytes, reader, kind, is_text=kind != "refused")
    is_text = b"\0" not in head
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:  # a character may be cut at the end of what was read
        is_text &= error.start > len(head) - 4 and len(head) >= HEAD_BYTES
    is_blank = len(head) < HEAD_BYTES and not has_content(head.decode("utf-8", "replace"))
    return SurveyedFile(path, name, size_bytes, reader, kind, is_text=is_text, is_blank=is_blank)


def _head(path: str, size_bytes: int, limit_bytes: int = HEAD_BYTES) -> tuple[bytes, str]:
    """Return the first decompressed bytes of a file, and its compression."""
    head = b""
    with open_stream(path, size_bytes) as stream:
        with contextlib.suppress(StreamDamage):
            while len(head) < limit_bytes and (piece := stream.read(limit_bytes - len(head))):
                head += piece
        return head, stream.kind


def text_fields(file: SurveyedFile) -> list[TextField]:
    """Read the first records of a file under each of its fields, and describe those with text.

    Returns:
        Fields that hold texts of some length, in the order of the record.

    Raises:
        InputError: The file cannot be read.
    """
    fields = []
    for name in _field_names(file):
        texts, records = _texts(file, name)
        if not texts:
            continue
        mean = sum(map(len, texts)) / len(texts)
        if mean >= TEXT_CHARACTERS:
            fields.append(TextField(name, mean, len(texts) / records, texts[0]))
    return fields


def identifying_field(file: SurveyedFile, text: str) -> str | None:
    """Return the field that identifies each record of a file; None if no usual name does.

    Args:
        file: A file of records.
        text: Field of the text.
    """
    names = _field_names(file)
    usual = [name for name in IDENTIFIERS if name in names]
    usual += [name for name in names if name.lower().endswith("_id") and name not in usual]
    for name in usual:
        block = _first_block(file, ReadOptions(text=text, id=name))
        ids = block.ids if block is not None else []
        if ids and all(ids) and len(set(ids)) == len(ids):
            return name
    return None


def _texts(file: SurveyedFile, field: str) -> tuple[list[str], int]:
    """Return the texts of the first block under a field, and the number of records in it."""
    block = _first_block(file, ReadOptions(text=field))
    if block is None:
        return [], 0
    return block.texts, len(block.texts) + len(block.bad)


def _first_block(file: SurveyedFile, options: ReadOptions) -> DocumentBlock | None:
    """Read the first documents of a file; None where its beginning holds no record."""
    (plan,) = segments([file.options_file], options)
    with closing(SegmentReader()) as reader:
        return next(iter(reader.read(plan.beginning(HEAD_BYTES))), None)


def _field_names(file: SurveyedFile) -> list[str]:
    """List the fields of a file's first records; those of nested objects are dotted."""
    if file.reader in ("parquet", "arrow"):
        return _column_names(file)
    records: list[Any] = []
    for limit_bytes in RECORD_BYTES:
        head, _ = _head(file.path, file.size_bytes, limit_bytes)
        text = head.decode("utf-8", "replace").removeprefix("\ufeff")
        if file.reader == "csv":
            header = text.partition("\n")[0]
            return next(csv.reader([header], delimiter=choose_delimiter(header)), [])
        records = _array_records(text) if file.reader == "json_array" else _line_records(head)
        if records or len(head) < limit_bytes:
            break
    names: dict[str, None] = {}
    for record in records[:SEEN_RECORDS]:
        names.update(dict.fromkeys(_strings(record)))
    return list(names)


def _column_names(file: SurveyedFile) -> list[str]:
    """List the columns of a table that can hold texts, and those of identifiers."""
    from curate.sources.tables import open_table

    try:
        with closing(open_table(file.options_file)) as table:
            types = table.columns.types
            names = list(types)
            for name, kind in types.items():
                names += [f"{name}.{field.name}" for field in getattr(kind, "fields", ())]
            return names
    except StreamDamage:
        return []


def _line_records(head: bytes) -> list[Any]:
    """Parse whole lines; the last one may be cut."""
    lines = head.split(b"\n")
    return [value for line in lines if isinstance(value := whole_json(line.strip()), dict)]


def _array_records(text: str) -> list[Any]:
    """Parse the first elements of an array, as far as they are whole."""
    decoder = json.JSONDecoder()
    records: list[Any] = []
    position = text.find("[") + 1 if text.lstrip().startswith("[") else 0
    while len(records) < SEEN_RECORDS:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        try:
            record, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            break
        records.append(record)
    return [record for record in records if isinstance(record, dict)]


def _strings(record: dict[str, Any]) -> list[str]:
    """List the paths of a record's strings and numbers, one level deep."""
    names = []
    for key, value in record.items():
        if isinstance(value, dict):
            names += [f"{key}.{name}" for name in value if isinstance(value[name], str)]
        elif isinstance(value, str) or identifier(value):
            names.append(key)
    return [name for name in names if look_up(record, name) is not None]
