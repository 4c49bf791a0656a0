"""Read rows of Arrow record batches as documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.sources.columns import (
    ColumnPath,
    TableColumns,
    identifiers,
    metadata_values,
    shares_buffers,
    text_values,
)
from curate.sources.documents import EMPTY_DOCUMENT, excerpt, has_content, remove, too_large
from curate.sources.records import BLOCK_BYTES, BadRecord, DocumentBlock, ReadOptions


class TableRows:
    """Gathers the rows of one segment in blocks. `next_row` is 1 for the segment's first row."""

    def __init__(self, options: ReadOptions, keep_metadata: bool) -> None:
        """Start without a schema; `bind` finds the columns that `options` name."""
        self._options = options
        self._keep_metadata = keep_metadata
        self._text: ColumnPath | None = None
        self._id: ColumnPath | None = None
        self._columns = ""
        self.columns_to_read: list[ColumnPath] | None = None
        """The columns to read; None stands for all."""
        self.next_row = 1
        self.read_bytes = 0
        """Bytes of the texts read so far."""
        self._block = self._new_block()

    def _new_block(self) -> DocumentBlock:
        return DocumentBlock(metadata=[] if self._keep_metadata else None)

    def bind(self, columns: TableColumns) -> str:
        """Find the columns; say that the text's is missing, or return an empty string."""
        self._text = columns.find(self._options.text)
        self._id = columns.find(self._options.id)
        self._columns = columns.description
        if self._text is None:
            return columns.missing(self._options.text)
        named = [self._text] + ([self._id] if self._id else [])
        if not self._keep_metadata:
            self.columns_to_read = named
        elif self._options.columns:
            kept = map(columns.find, self._options.columns)
            self.columns_to_read = [*named, *filter(None, kept)]
        return ""

    def add(self, batch: Any) -> Iterator[None]:
        """Add a record batch, pausing whenever the block is full."""
        assert self._text is not None
        texts = self._text.values(batch)
        step_rows = rows_of_a_block(texts)
        for start in range(0, batch.num_rows, step_rows):
            if self._block.raw_bytes >= BLOCK_BYTES:
                yield
            self._add_slice(batch.slice(start, step_rows), texts.slice(start, step_rows))

    def _add_slice(self, batch: Any, array: Any) -> None:
        assert self._text is not None
        block, rows = self._block, len(array)
        values: Sequence[Any] = [False] * rows
        if self._text.holds_text:
            sizes_bytes = larger_rows(array, self._options.record_bytes)
            if sizes_bytes is None:
                values = text_values(array)
            else:  # the length stands for a value that is not taken out of Arrow
                is_smaller = pa.array([not size_bytes for size_bytes in sizes_bytes])
                smaller = iter(text_values(_filterable(array).filter(is_smaller)))
                values = [size_bytes or next(smaller) for size_bytes in sizes_bytes]
        kept = self._keep(values)
        ids = identifiers(self._id.values(batch)) if self._id else [""] * rows
        block.texts += [values[row] for row in kept]
        block.ids += [ids[row] for row in kept]
        block.files.extend(repeat(0, len(kept)))
        block.lines += [self.next_row + row for row in kept]
        if block.metadata is not None:
            metadata = self._metadata(batch)
            block.metadata += [metadata[row] for row in kept]
        block.lines_read += rows
        shares = shares_buffers(array.type)
        size_bytes = sum(map(_size_bytes, values)) if shares else array.nbytes
        block.raw_bytes += size_bytes
        self.read_bytes += size_bytes
        self.next_row += rows

    def _keep(self, values: Sequence[Any]) -> Sequence[int]:
        """Return the rows whose values are documents; add the others to the bad records."""
        try:
            if all(map(has_content, values)):
                return range(len(values))
        except TypeError:
            pass  # a null, or bytes that are not UTF-8: reported one by one below
        kept = []
        for row, value in enumerate(values):
            reason = self._fault(value)
            if reason is None:
                kept.append(row)
            else:
                shown = excerpt(value) if isinstance(value, str | bytes) else ""
                size_bytes = _size_bytes(value)
                self._block.bad.append(BadRecord(0, self.next_row + row, reason, shown, size_bytes))
        return kept

    def _fault(self, value: Any) -> str | None:
        """Explain why a value is no document.

        Args:
            value: A text or null; `False` stands for a value of another type, a length for one
                that is above the limit.
        """
        assert self._text is not None
        name = self._options.text
        if type(value) is int:
            return too_large(self._options.record_bytes)
        if value is False:
            return wrong_type(name, self._text, self._columns)
        if value is None:
            return f"'{name}' is null"
        if isinstance(value, bytes):
            return f"'{name}' is not UTF-8"
        return None if has_content(value) else EMPTY_DOCUMENT

    def _metadata(self, batch: Any) -> list[dict[str, Any]]:
        """Return each row's other columns."""
        columns = [metadata_values(column) for column in batch.columns]
        names = batch.schema.names
        rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
        for path in filter(None, (self._text, self._id)):
            for row in rows:
                remove(row, (path.column, *path.fields))
        return rows

    def add_damage(self, reason: str, rows: int = 1, unread_bytes: int = 0) -> None:
        """Add a bad record for damage at the next row, or for the whole file before any row.

        Args:
            reason: The damage, or why no row can be read.
            rows: Rows that it loses, as far as known.
            unread_bytes: Their bytes.
        """
        row = 0 if self._text is None else self.next_row
        self._block.bad.append(
            BadRecord(0, row, reason, unread_bytes=unread_bytes, rows=max(1, rows))
        )

    def pass_to(self, row: int) -> None:
        """Count the rows before `row`, which cannot be read, as read."""
        self._block.lines_read += row - self.next_row
        self.next_row = row

    def hand_over(self) -> DocumentBlock:
        """Return the block gathered so far, and start a new one."""
        block, self._block = self._block, self._new_block()
        return block


def wrong_type(name: str, column: ColumnPath, columns: str) -> str:
    """Say that a column holds no text, and which columns there are.

    Args:
        name: Name of the column, as the recipe has it.
        column: The column.
        columns: Description of all columns.
    """
    return f"'{name}' is {column.type}, not a string (columns: {columns})"


def _size_bytes(value: str | bytes | int | None) -> int:
    """Return the length of a value, or of one that its length stands for."""
    return len(value) if isinstance(value, str | bytes) else int(value or 0)


def larger_rows(array: Any, limit_bytes: int) -> list[int] | None:
    """Return the bytes of each row above a limit, 0 for the others; None if no row is above it."""
    if array.get_total_buffer_size() <= limit_bytes or pa.types.is_null(array.type):
        return None
    if pa.types.is_dictionary(array.type):
        lengths = pc.take(_lengths_bytes(array.dictionary), array.indices)
    else:
        lengths = _lengths_bytes(array)
    sizes_bytes = [
        size_bytes if size_bytes is not None and size_bytes > limit_bytes else 0
        for size_bytes in lengths.to_pylist()
    ]
    return sizes_bytes if any(sizes_bytes) else None


def _lengths_bytes(array: Any) -> Any:
    return pc.binary_length(_filterable(array))


def _filterable(array: Any) -> Any:
    """Return the array in a layout for which Arrow has these functions."""
    if pa.types.is_string_view(array.type) or pa.types.is_binary_view(array.type):
        return array.cast(pa.large_binary())
    return array


def rows_of_a_block(array: Any) -> int:
    """Estimate how many rows of a text column fill a block."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary
    is_view = shares_buffers(array.type)
    size_bytes = array.get_total_buffer_size() if is_view else array.nbytes
    return max(1, BLOCK_BYTES * len(array) // max(1, int(size_bytes)))
