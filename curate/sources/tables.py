"""Read Parquet and Arrow files, whose segments are runs of row groups or record batches.

Rows are read in batches of about a block, so memory does not grow with the size of a row group. A
damaged row group or record batch gives one bad record, and those after it are still read.
"""

from __future__ import annotations

import contextlib
import errno
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import InputError
from curate.runtime.files import is_url, open_input
from curate.runtime.machine import machine_fault
from curate.sources.columns import ColumnPath, TableColumns, check_column, columns_of
from curate.sources.decompress.open import CHUNK_BYTES, StreamDamage, StreamFile, open_stream
from curate.sources.plans import (
    ARROW_FILE_MAGIC,
    ARROW_STREAM_MAGIC,
    PARQUET_MAGIC,
    FilePlan,
    PlanRequest,
    cut_evenly,
    plan_whole,
)
from curate.sources.records import BLOCK_BYTES, DocumentBlock, InputFile, Segment
from curate.sources.table_extent import Extent, check_arrow, check_parquet
from curate.sources.table_rows import TableRows, wrong_type

LARGEST_BATCH_ROWS = 8192
ARROW_END_MARK = bytes(4)
"""A length of 0 in place of another message's."""
PARQUET_BUFFER_BYTES = 1 << 20
REMOTE_BUFFER_BYTES = 4 << 20
"""Most bytes of a column that one request brings."""
LARGEST_ALLOCATION_BYTES = 64 << 30
"""Larger than any buffer of a real table: a Parquet page has less than 2 GiB."""


@dataclass(frozen=True, slots=True)
class RowRun:
    """A row group or a record batch; damage in one does not affect the next."""

    rows: int | None
    """Number of rows, or None if only reading shows it."""
    batches: Iterator[Any]
    """Record batches; iterating may raise `StreamDamage`."""
    size_bytes: int
    """Bytes of its texts, by estimate."""


class SourceTable(Protocol):
    """An open file of rows."""

    columns: TableColumns
    run_sizes_bytes: list[int]
    """Uncompressed bytes of each run; empty if the file cannot be cut."""

    def check_extent(self) -> None:
        """Check that the footer accounts for all of the file; raises `StreamDamage`."""
        ...

    def runs(self, segment: Segment, columns: list[ColumnPath] | None) -> Iterator[RowRun]:
        """Yield the runs of one segment with these columns, or with all if None."""
        ...

    def count_rows(self) -> int:
        """Count the rows of the file, which may take reading it."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


@contextlib.contextmanager
def arrow_errors(path: str) -> Iterator[None]:
    """Turn Arrow's errors into `StreamDamage`, unless the machine or the user is at fault.

    Raises:
        StreamDamage: The content is wrong.
        InputError: The operating system refuses the file.
    """
    try:
        yield
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        if states_impossible_length(error):
            raise StreamDamage(f"it states a length that no memory can hold ({error})") from error
        if machine_fault(error):
            raise
        if not isinstance(error, OSError):
            raise StreamDamage(str(error).splitlines()[0]) from error
        # Errors of content have no errno, or EINVAL from seeking to an impossible place.
        if error.errno not in (None, errno.EINVAL):
            raise InputError(f"{path}: cannot be read ({error})") from error
        raise StreamDamage(str(error).splitlines()[0]) from error


def states_impossible_length(error: Exception) -> bool:
    """Whether a damaged length, rather than a lack of memory, made an allocation fail.

    The limit does not depend on the machine, so that no machine calls damaged what another reads.

    Example:
        >>> states_impossible_length(pa.ArrowMemoryError("malloc of size 36028797018965184 failed"))
        True
    """
    size = re.search(r"alloc of size (\d+)", str(error)) if isinstance(error, MemoryError) else None
    return size is not None and int(size[1]) > LARGEST_ALLOCATION_BYTES


class TableStream(io.BufferedReader):
    """A buffered stream that refuses to read what no file holds, before Python allocates it.

    Arrow does not show whether a stream ended with its mark or with the file; the last read does.
    """

    last_read = b""
    """The bytes of the last read."""
    is_at_end = False
    """Whether the last read gave less than was asked for."""

    def read(self, size_bytes: int | None = -1, /) -> bytes:
        """Read as `io.BufferedReader` does; raises `StreamDamage`."""
        if size_bytes is not None and size_bytes > LARGEST_ALLOCATION_BYTES:
            raise StreamDamage(f"it states a length that no memory can hold ({size_bytes} bytes)")
        self.last_read = super().read(size_bytes)
        self.is_at_end = size_bytes is not None and len(self.last_read) < size_bytes
        return self.last_read


def checked(batches: Iterator[Any], path: str) -> Iterator[Any]:
    """Yield the batches, after checking that none points outside its buffers.

    Raises:
        StreamDamage: A batch points outside its buffers, or cannot be read.
    """
    with arrow_errors(path):
        for batch in batches:
            for column in batch.columns:
                check_column(column)
            yield batch


class ParquetTable:
    """A Parquet file; its runs are row groups."""

    def __init__(self, file: InputFile) -> None:
        """Open the file and read its footer; raises `StreamDamage`."""
        self._path = file.path
        self._size_bytes = file.size_bytes
        with contextlib.ExitStack() as opened, arrow_errors(file.path):
            self._remote: BinaryIO | None = None
            if is_url(file.path):
                self._remote = opened.enter_context(open_input(file.path, True, file.status))
            source: Any = self._remote or file.path
            buffer_bytes = REMOTE_BUFFER_BYTES if self._remote else PARQUET_BUFFER_BYTES
            self._parquet = pq.ParquetFile(
                source, buffer_size=buffer_bytes, page_checksum_verification=True
            )
            opened.callback(self._parquet.close)
            self.columns = columns_of(self._parquet.schema_arrow)
            self._groups = list(
                map(self._parquet.metadata.row_group, range(self._parquet.num_row_groups))
            )
            self._opened = opened.pop_all()
        self.run_sizes_bytes = [group.total_byte_size for group in self._groups]

    def runs(self, segment: Segment, columns: list[ColumnPath] | None) -> Iterator[RowRun]:
        """See `Table.runs`."""
        for index in range(len(self._groups))[segment.start : segment.stop]:
            group = self._groups[index]
            text = columns[0].dotted if columns else ""
            chunks = map(group.column, range(group.num_columns))
            sizes = (c.total_uncompressed_size for c in chunks if c.path_in_schema == text)
            yield RowRun(group.num_rows, self._batches(index, columns), sum(sizes))

    def check_extent(self) -> None:
        """See `Table.check_extent`."""
        chunks = [
            extent_of(group.column(column))
            for group in self._groups
            for column in range(group.num_columns)
        ]
        footer_bytes = int(self._parquet.metadata.serialized_size)
        with arrow_errors(self._path), contextlib.ExitStack() as opened:
            # Opening a remote file again would take a request.
            file = self._remote or opened.enter_context(open_input(self._path))
            check_parquet(file, self._size_bytes, footer_bytes, chunks)

    def count_rows(self) -> int:
        """See `Table.count_rows`."""
        return int(self._parquet.metadata.num_rows)

    def _batches(self, index: int, paths: list[ColumnPath] | None) -> Iterator[Any]:
        columns = None if paths is None else [path.dotted for path in paths]
        group = self._groups[index]
        block_rows = BLOCK_BYTES * group.num_rows // max(1, group.total_byte_size)
        batch_rows = max(1, min(LARGEST_BATCH_ROWS, block_rows))
        with arrow_errors(self._path):
            batches = self._parquet.iter_batches(batch_rows, [index], columns, use_threads=False)
        yield from checked(batches, self._path)

    def close(self) -> None:
        """Close the file."""
        self._opened.close()


class ArrowTable:
    """An Arrow file, whose runs are record batches, or an Arrow stream, which is one run."""

    def __init__(self, file: InputFile, is_stream: bool) -> None:
        """Open the file and read its schema; raises `StreamDamage`."""
        self._file = file
        self._is_stream = is_stream
        self._source: Any = None
        self._opened = contextlib.ExitStack()
        self._reader = self._open(None)
        try:
            with arrow_errors(file.path):
                self.columns = columns_of(self._reader.schema)
                self._names = self._reader.schema.names
                count = 0 if is_stream else self._reader.num_record_batches
        except StreamDamage:
            self.close()
            raise
        # The footer holds the length of each batch, but pyarrow does not expose it.
        self.run_sizes_bytes = [file.size_bytes // count] * count if count else []

    def _open(self, positions: list[int] | None) -> Any:
        """Open the file again, to read only the columns at these positions, or all if None."""
        self.close()
        options = pa.ipc.IpcReadOptions(included_fields=positions, use_threads=False)
        with contextlib.ExitStack() as opened, arrow_errors(self._file.path):
            if self._is_stream:
                file = self._file
                stream = StreamFile(open_stream(file.path, file.size_bytes, file.status))
                self._source = opened.enter_context(TableStream(stream, CHUNK_BYTES))
                reader = pa.ipc.open_stream(self._source, options=options)
            else:
                path, status = self._file.path, self._file.status
                source = open_input(path, status=status) if is_url(path) else pa.OSFile(path)
                self._source = opened.enter_context(source)
                reader = pa.ipc.open_file(self._source, options=options)
            self._opened = opened.pop_all()
            return reader

    def runs(self, segment: Segment, columns: list[ColumnPath] | None) -> Iterator[RowRun]:
        """See `Table.runs`."""
        positions = None
        if columns is not None:
            positions = sorted({self._names.index(path.column) for path in columns})
        self._reader = self._open(positions)
        if self._is_stream:
            batches = checked(self._stream_batches(), self._file.path)
            yield RowRun(None, batches, self._file.size_bytes)
            return
        for index in range(self._reader.num_record_batches)[segment.start : segment.stop]:
            batches = checked(map(self._reader.get_batch, [index]), self._file.path)
            yield RowRun(None, batches, self.run_sizes_bytes[index])

    def check_extent(self) -> None:
        """See `Table.check_extent`; only reading a stream shows its end."""
        if not self._is_stream:
            with arrow_errors(self._file.path):
                check_arrow(self._source, self._file.size_bytes)

    def _stream_batches(self) -> Iterator[Any]:
        """Yield the batches of a stream, and see that it ends with its mark and the file."""
        try:
            yield from self._reader
        except (pa.ArrowInvalid, OSError) as error:
            if not self._source.is_at_end or machine_fault(error):
                raise
            reason = str(error).splitlines()[0]
            raise StreamDamage(f"the arrow data is cut short ({reason})") from error
        if self._source.last_read != ARROW_END_MARK:
            raise StreamDamage(
                "the arrow data is cut short, or its writer was not closed: it has no end mark"
            )
        if self._source.read(1):
            raise StreamDamage(
                "data follows the end of the Arrow stream; give each stream a file of its own"
            )

    def count_rows(self) -> int:
        """See `Table.count_rows`."""
        rows = 0
        with contextlib.suppress(StreamDamage), arrow_errors(self._file.path):
            self._reader = self._open([0])
            batches = range(0 if self._is_stream else self._reader.num_record_batches)
            for batch in self._reader if self._is_stream else map(self._reader.get_batch, batches):
                rows += batch.num_rows
        return rows

    def close(self) -> None:
        """Close the file."""
        self._opened.close()


def open_table(file: InputFile) -> SourceTable:
    """Open a Parquet file, an Arrow file or an Arrow stream, by its first bytes.

    Raises:
        StreamDamage: The file is none of them, or is damaged.
        InputError: The file cannot be opened.
    """
    if file.reader == "parquet" and is_url(file.path):
        return ParquetTable(file)  # which was recognised when it was identified
    with open_stream(file.path, file.size_bytes, file.status) as stream:
        magic = stream.read(len(ARROW_FILE_MAGIC))
        needs_seeking = magic.startswith((PARQUET_MAGIC, ARROW_FILE_MAGIC))
        if stream.kind != "plain" and needs_seeking:
            raise StreamDamage(f"a table inside {stream.kind} cannot be read; decompress the file")
    if magic.startswith(PARQUET_MAGIC):
        return ParquetTable(file)
    if needs_seeking or magic.startswith(ARROW_STREAM_MAGIC):
        return ArrowTable(file, is_stream=not needs_seeking)
    raise StreamDamage("neither Parquet nor Arrow data")


def plan_table(request: PlanRequest) -> FilePlan:
    """Cut a table into runs of row groups or record batches."""
    if request.stream_kind != "plain":
        return plan_whole(request)
    try:
        with contextlib.closing(open_table(request.file)) as table:
            table.check_extent()
            sizes_bytes = table.run_sizes_bytes
            fault = column_fault(table.columns, request.options.text)
            absent = (name for name in request.options.columns if not table.columns.find(name))
            fault = fault or next(map(table.columns.missing, absent), "")
    except StreamDamage:
        return plan_whole(request)
    if fault or not sizes_bytes:
        return replace(plan_whole(request), fault=fault)
    cuts = cut_evenly(sizes_bytes, request.segment_bytes)
    files = (request.file,)
    return FilePlan(request.reader, files, request.options, len(cuts) - 1, cuts=cuts)


def extent_of(chunk: Any) -> Extent:
    """Return where a column chunk of a Parquet file begins and ends."""
    pages = chunk.data_page_offset
    dictionary = chunk.dictionary_page_offset or 0  # some writers state 0 for none
    start = min(dictionary, pages) if dictionary > 0 else pages
    return start, start + chunk.total_compressed_size


def column_fault(columns: TableColumns, name: str) -> str:
    """Say why a column holds no texts; empty if it can."""
    column = columns.find(name)
    if column is None:
        return columns.missing(name)
    return "" if column.holds_text else wrong_type(name, column, columns.description)


class TableReader:
    """Reads runs of rows, and keeps the last file open for the next segment."""

    def __init__(self) -> None:
        """Start with no file open."""
        self._file: InputFile | None = None
        self._table: SourceTable | None = None

    def read(self, segment: Segment, keep_metadata: bool) -> Iterator[DocumentBlock]:
        """Read the documents of one segment, in blocks of about `BLOCK_BYTES`."""
        rows = TableRows(segment.options, keep_metadata)
        is_end = True
        try:
            table = self._open(segment.files[0])
            if segment.stop is None:  # not cut into runs, perhaps for what this says
                table.check_extent()
            is_end = segment.stop is None or segment.stop == len(table.run_sizes_bytes)
            if missing := rows.bind(table.columns):
                rows.add_damage(missing, table.count_rows())
            else:
                for run in table.runs(segment, rows.columns_to_read):
                    yield from read_run(run, rows)
        except StreamDamage as damage:
            rows.add_damage(str(damage))
        block = rows.hand_over()
        block.end_of_file = is_end
        if is_end:
            self.close()
        yield block

    def _open(self, file: InputFile) -> SourceTable:
        if self._table is None or self._file != file:
            self.close()
            self._file, self._table = file, open_table(file)
        return self._table

    def close(self) -> None:
        """Close the file that is open, if any."""
        if self._table is not None:
            self._table.close()
        self._file, self._table = None, None


def read_run(run: RowRun, rows: TableRows) -> Iterator[DocumentBlock]:
    """Add the rows of one run, and yield blocks as they fill; damage loses the rest of the run."""
    first_row, first_byte = rows.next_row, rows.read_bytes
    try:
        for batch in run.batches:
            for _ in rows.add(batch):
                yield rows.hand_over()
    except StreamDamage as damage:
        unread_bytes = max(0, run.size_bytes - (rows.read_bytes - first_byte))
        stop = rows.next_row + 1 if run.rows is None else first_row + run.rows
        rows.add_damage(str(damage), stop - rows.next_row, unread_bytes)
        if run.rows is not None:
            rows.pass_to(stop)
