"""Read CSV with a header row, fields split by comma, semicolon or tab, and RFC 4180 quotes.

A file is one segment: a quoted field may hold line ends, and only reading from the start shows
which line ends are quoted. Line numbers are those of the file; the header is line 1.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

from curate.runtime.files import is_encodable
from curate.sources.csv_text import CsvText, RecordEnd, RecordTooLarge
from curate.sources.decompress.open import ByteStream, StreamDamage, open_stream
from curate.sources.documents import (
    EMPTY_DOCUMENT,
    excerpt,
    has_content,
    list_fields,
    missing_column,
    too_large,
)
from curate.sources.records import BLOCK_BYTES, BadRecord, DocumentBlock, ReadOptions, Segment

DELIMITERS = (",", ";", "\t")
LEAST_LIMIT_CHARACTERS = 131_072
"""The standard library's default length of a field, which other code in the process relies on."""


HEADER_AGAIN = "the header again, as where files were joined"

MARK = "\ufeff"
"""The byte order mark, which also stands inside files made by joining files."""


def choose_delimiter(header: str) -> str:
    r"""Choose the delimiter that gives the header most fields, or a comma if none splits it.

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


def repair(field: str) -> str:
    """Replace bytes that are not UTF-8, which `surrogateescape` kept, by U+FFFD."""
    return field.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def header_names(row: list[str]) -> list[str]:
    """Return the names of columns that a row holds."""
    first = row[0].removeprefix(MARK)
    if first != row[0]:  # the mark keeps a quote behind it from opening a field
        first = first.strip('"')
    return [name.strip() for name in [first, *row[1:]]]


class CsvReader:
    """Reads a whole file as one segment."""

    def read(self, segment: Segment, keep_metadata: bool) -> Iterator[DocumentBlock]:
        """Read the documents of the file, in blocks of about `BLOCK_BYTES`."""
        file = segment.files[0]
        with open_stream(file.path, file.size_bytes, file.status) as stream:
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
    """Gathers the rows of one file as documents in `block`."""

    def __init__(self, stream: ByteStream, options: ReadOptions, keep_metadata: bool) -> None:
        """Read from the start of `stream`.

        Args:
            stream: Decompressed bytes of the file.
            options: Columns of text and identifier.
            keep_metadata: Whether to keep the other columns.
        """
        self._stream = stream
        self._text = CsvText(stream, options.record_bytes)
        self._is_cut = False
        self._delimiter = DELIMITERS[0]
        self._parser: Any = None
        self._lines_before = 0
        """Lines of the file before those that the parser has taken."""
        self._options = options
        self._keep_metadata = keep_metadata
        self._columns: list[str] = []
        self._names: frozenset[str] = frozenset()
        self._lines_counted = 0
        self._first_line = 1
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
        """Return the block gathered so far, and start a new one."""
        block, self.block = self.block, self._new_block()
        block.lines_read = self._line - self._lines_counted
        block.raw_bytes = self.gathered_bytes
        block.file_bytes = self._stream.estimated_bytes
        self._lines_counted += block.lines_read
        self._bytes_counted += block.raw_bytes
        return block

    def rows(self) -> Iterator[None]:
        """Read rows into `block`; a bad row is skipped, but damage to the file ends it."""
        csv.field_size_limit(max(LEAST_LIMIT_CHARACTERS, self._options.record_bytes))
        try:
            piece = next(self._text, io.StringIO())
            self._delimiter = delimiter = choose_delimiter(piece.readline())
            piece.seek(0)
            self._parser = self._new_parser(piece)
            while (row := self._next_row()) is not None:
                if self._is_cut and not self._columns:
                    return  # there is no header
                if row and not self._columns:
                    self._columns = header_names(row)
                    self._names = frozenset(self._columns)
                    if (count := self._columns.count(self._options.text)) != 1:
                        columns = list_fields(self._columns)
                        reason = missing_column(self._options.text, columns, count > 1)
                        rows = sum(1 for line in self._text.lines() if not line.isspace())
                        self._add_bad(1, reason, rows=max(1, rows))
                        return
                elif row:
                    self._add(row, delimiter)
                    yield
        except RecordTooLarge:
            self._add_bad(1, too_large(self._options.record_bytes))
        except StreamDamage as damage:
            line = self._line + 1 if self._line else 0
            self._add_bad(line, str(damage), unread_bytes=self._stream.undecoded_bytes)

    def _new_parser(self, *pieces: io.StringIO) -> Any:
        """Make a parser of these pieces and the rest of the file, which begins with a record."""
        self._lines_before = self._line
        self._text.record_under_way = self._record_under_way
        lines = chain.from_iterable(chain(pieces, self._text))
        return csv.reader(lines, delimiter=self._delimiter, strict=True)

    def _record_under_way(self) -> int:
        """Return the line before the record that is half read, or -1 between records."""
        return self._line if self._lines_taken() > self._line else -1

    def _next_row(self) -> list[str] | None:
        """Return the next row, empty if it is blank or bad; None at the end."""
        self._first_line = first_line = self._line + 1
        row: list[str] | None = []
        try:
            row = next(self._parser, None)
        except RecordTooLarge:
            self._skip(self._text.place(), self._record_under_way() >= 0, self._lines_taken())
            return []
        except csv.Error as error:
            if "field limit" in str(error):
                is_quoted = self._lines_taken() > first_line
                self._skip(self._text.line_before(), is_quoted, self._lines_taken() - 1)
                return []
            self._add_bad(first_line, f"not valid CSV: {error}")
            # An open quote may swallow the rest of the file: by estimate, its share of the lines.
            lines = self._lines_taken() - first_line + 1
            if lines > 1:
                size_bytes = self._stream.position * lines // self._lines_taken()
                self.block.bad[-1] = replace(self.block.bad[-1], bytes=size_bytes)
        self._line = self._lines_taken()
        return row

    def _lines_taken(self) -> int:
        return self._lines_before + int(self._parser.line_num)

    def _skip(self, start: int, is_quoted: bool, lines_before: int) -> None:
        """Pass a record above the limit, and go on behind it.

        Args:
            start: Where in the current piece to look for the record's end.
            is_quoted: Whether that is inside a quoted field, else at the record's beginning.
            lines_before: Lines of the file before `start`.
        """
        self._add_bad(self._first_line, too_large(self._options.record_bytes))
        self._is_cut = True
        end, read_bytes = RecordEnd(self._delimiter, is_quoted), self._stream.position
        self._line = lines_before + self._text.skip_record(start, end)
        size_bytes = self._options.record_bytes + self._stream.position - read_bytes  # about
        self.block.bad[-1] = replace(self.block.bad[-1], bytes=size_bytes)
        self._parser = self._new_parser()

    def _is_header(self, row: list[str]) -> bool:
        """Whether a row names the columns again, in any order."""
        if row[0].strip(MARK + ' "') not in self._names or len(row) != len(self._columns):
            return False
        return frozenset(header_names(row)) == self._names

    def _add(self, row: list[str], delimiter: str) -> None:
        reason = None
        if self._is_header(row):
            self._add_bad(self._first_line, HEADER_AGAIN, delimiter.join(row), rows=0)
            self._columns = header_names(row)
            return
        if len(row) != len(self._columns):
            reason = f"{len(row)} fields, the header has {len(self._columns)}"
        else:
            text = row[self._columns.index(self._options.text)]
            if not is_encodable(text):
                reason = f"'{self._options.text}' is not UTF-8"
            elif self._is_large(row, text):
                reason = too_large(self._options.record_bytes)
            elif not has_content(text):
                reason = EMPTY_DOCUMENT
        if reason is not None:
            self._add_bad(self._first_line, reason, delimiter.join(row))
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

    def _is_large(self, row: list[str], text: str) -> bool:
        limit_bytes = self._options.record_bytes
        if sum(map(len, row)) > limit_bytes:
            return True
        return 4 * len(text) > limit_bytes and len(text.encode()) > limit_bytes

    def _add_bad(
        self, line: int, reason: str, record: str = "", unread_bytes: int = 0, rows: int = 1
    ) -> None:
        self.block.bad.append(
            BadRecord(
                file=0,
                line=line,
                reason=reason,
                excerpt=repair(excerpt(record)),
                bytes=len(record) if rows else 0,
                unread_bytes=unread_bytes,
                rows=rows,
            )
        )
