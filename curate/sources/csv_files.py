"""Read CSV with a header row, fields split by comma, semicolon or tab, and RFC 4180 quotes.

A file is one segment, since a quoted field may hold line ends and only reading from the start
tells which are inside one. Lines are those of the file, the header being line 1.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import chain
from typing import Any

from curate.sources.decompress.open import (
    CHUNK_BYTES,
    ByteStream,
    StreamDamage,
    StreamFile,
    open_stream,
)
from curate.sources.documents import EMPTY_DOCUMENT, excerpt, has_content, list_fields
from curate.sources.records import BLOCK_BYTES, BadRecord, DocumentBlock, ReadOptions, Segment

DELIMITERS = (",", ";", "\t")
FIELD_LIMIT_CHARACTERS = 2**31 - 1
"""Longest field; the standard library stops at 131,072 characters by default."""


def choose_delimiter(header: str) -> str:
    r"""Choose the delimiter that gives the header most fields; a comma where none splits it.

    Example:
        >>> choose_delimiter('id;"a, b";text')
        ';'
    """

    def fields(delimiter: str) -> int:
        try:
            return max(map(len, csv.reader([header], delimiter=delimiter)), default=0)
        except csv.Error:
            return 0

    return max(DELIMITERS, key=fields)


def was_utf8(field: str) -> bool:
    """Whether a field holds no byte that `surrogateescape` had to keep."""
    try:
        field.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def repair(field: str) -> str:
    """Replace bytes of a field that are not UTF-8."""
    return field.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class CsvReader:
    """Reads a whole file as one segment."""

    def read(self, segment: Segment, keep_metadata: bool) -> Iterator[DocumentBlock]:
        """The documents of the file, in blocks of about `BLOCK_BYTES`."""
        file = segment.files[0]
        with open_stream(file.path, file.size_bytes) as stream:
            table = CsvTable(stream, segment.options, keep_metadata)
            for _ in table.rows():
                if table.gathered_bytes >= BLOCK_BYTES:
                    yield table.hand_over()
            block = table.hand_over()
        block.end_of_file = True
        yield block

    def close(self) -> None:
        """Nothing stays open between segments."""


class CsvTable:
    """The rows of one file as documents, gathered in `block`."""

    def __init__(self, stream: ByteStream, options: ReadOptions, keep_metadata: bool) -> None:
        """Read from the start of `stream`."""
        self._stream = stream
        self._options = options
        self._keep_metadata = keep_metadata
        self._columns: list[str] = []
        self._lines_counted = 0
        self._bytes_counted = 0
        self._line = 0
        self.block = self._new_block()

    def _new_block(self) -> DocumentBlock:
        return DocumentBlock(metadata=[] if self._keep_metadata else None)

    @property
    def gathered_bytes(self) -> int:
        """Decompressed bytes read since the last block was handed over."""
        return self._stream.position - self._bytes_counted

    def hand_over(self) -> DocumentBlock:
        """The block gathered so far; a new one takes its place."""
        block, self.block = self.block, self._new_block()
        block.lines_read = self._line - self._lines_counted
        block.raw_bytes = self.gathered_bytes
        self._lines_counted += block.lines_read
        self._bytes_counted += block.raw_bytes
        return block

    def rows(self) -> Iterator[None]:
        """Read row by row into `block`; a fault in the file ends it, one in a row does not."""
        csv.field_size_limit(max(csv.field_size_limit(), FIELD_LIMIT_CHARACTERS))
        raw = io.BufferedReader(StreamFile(self._stream), CHUNK_BYTES)
        lines = io.TextIOWrapper(raw, "utf-8", errors="surrogateescape", newline="")
        try:
            first_line = lines.readline().removeprefix("\ufeff")
            delimiter = choose_delimiter(first_line)
            parser = csv.reader(chain([first_line], lines), delimiter=delimiter, strict=True)
            while (row := self._next_row(parser)) is not None:
                if row and not self._columns:
                    self._columns = [name.strip() for name in row]
                    if self._options.text not in self._columns:
                        columns = list_fields(self._columns)
                        self._add_bad(1, f"no column '{self._options.text}' (columns: {columns})")
                        return
                elif row:
                    self._add(row, delimiter)
                    yield
        except StreamDamage as damage:
            self._add_bad(self._line + 1 if self._line else 0, str(damage))

    def _next_row(self, parser: Any) -> list[str] | None:
        """The next row, empty if it is blank or bad; None at the end."""
        first_line = self._line + 1
        try:
            row: list[str] | None = next(parser, None)
        except csv.Error as error:
            row = []
            self._add_bad(first_line, f"not valid CSV: {error}")
        self._line, self._first_line = parser.line_num, first_line
        return row

    def _add(self, row: list[str], delimiter: str) -> None:
        reason = None
        if len(row) != len(self._columns):
            reason = f"{len(row)} fields, the header has {len(self._columns)}"
        else:
            text = row[self._columns.index(self._options.text)]
            if not was_utf8(text):
                reason = f"'{self._options.text}' is not UTF-8"
            elif not has_content(text):
                reason = EMPTY_DOCUMENT
        if reason is not None:
            self._add_bad(self._first_line, reason, repair(excerpt(delimiter.join(row))))
            return
        fields = {
            name: repair(value)
            for name, value in zip(self._columns, row, strict=True)
            if name != self._options.text
        }
        self.block.texts.append(text)
        self.block.ids.append(fields.pop(self._options.id, ""))
        self.block.files.append(0)
        self.block.lines.append(self._first_line)
        if self.block.metadata is not None:
            self.block.metadata.append(fields)

    def _add_bad(self, line: int, reason: str, record: str = "") -> None:
        self.block.bad.append(BadRecord(0, line, reason, record))
