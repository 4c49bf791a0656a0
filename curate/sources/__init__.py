"""Turn files into documents: find files, identify them, cut them into segments, read them.

    paths = expand(patterns, options, base)      find the files
    files = identify(paths, cache)               hash their content
    plans = segments(files, options)             choose each file's reader and its segments
    reader.read(plan.segment(k))                 yield blocks of documents and bad records

`READERS` lists the supported kinds of file. Adding one takes a file and one row here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from curate.errors import RecipeError
from curate.runtime.machine import faults_named
from curate.runtime.objects import is_object_url
from curate.runtime.registry import unknown_name
from curate.sources.csv_files import CsvReader
from curate.sources.decompress.open import open_stream
from curate.sources.discover import InputPath, expand
from curate.sources.identities import check_unchanged, identify
from curate.sources.json_array import JsonArrayReader
from curate.sources.jsonl import SMALL_BYTES, JsonlReader
from curate.sources.plans import FilePlan, PlanRequest, plan_lines, plan_whole, recognise
from curate.sources.records import SEGMENT_BYTES, DocumentBlock, InputFile, ReadOptions, Segment
from curate.sources.remote_cuts import TABLES, RemoteCuts
from curate.sources.text_files import TextReader

__all__ = [
    "READERS",
    "FilePlan",
    "InputPath",
    "ReaderInfo",
    "SegmentReader",
    "check_reader",
    "check_unchanged",
    "expand",
    "identify",
    "segments",
]

GROUP_FILES = 4096
"""Most small files in one segment."""


class FileReader(Protocol):
    """Reads segments of one kind of file; may keep a file open for the next segment."""

    def read(self, segment: Segment, keep_metadata: bool) -> Iterator[DocumentBlock]:
        """Read the documents of one segment."""
        ...

    def close(self) -> None:
        """Close any open file."""
        ...


@dataclass(frozen=True, slots=True)
class ReaderInfo:
    """One kind of file."""

    summary: str
    open: Callable[[], FileReader]
    plan: Callable[[PlanRequest], FilePlan] | None
    """Cuts a file into segments; None if files are whole documents, read in groups."""


def open_table() -> FileReader:
    """Make a reader of tables; pyarrow is imported only here, since that takes 0.25 s."""
    from curate.sources.tables import TableReader

    return TableReader()


def plan_rows(request: PlanRequest) -> FilePlan:
    """Cut a table into row groups or record batches."""
    from curate.sources.tables import plan_table

    return plan_table(request)


READERS: dict[str, ReaderInfo] = {
    "jsonl": ReaderInfo("JSON lines: one record a line", JsonlReader, plan_lines),
    "json_array": ReaderInfo("one JSON array of records", JsonArrayReader, plan_whole),
    "parquet": ReaderInfo("Parquet", open_table, plan_rows),
    "arrow": ReaderInfo("Arrow or Feather file, or Arrow stream", open_table, plan_rows),
    "csv": ReaderInfo("CSV or TSV with a header row", CsvReader, plan_whole),
    "text": ReaderInfo("plain text or source code: one document a file", TextReader, None),
}


def check_reader(name: str, where: str) -> None:
    """Check that a recipe's reader exists.

    Raises:
        RecipeError: The reader is neither `auto` nor in `READERS`; names the nearest.
    """
    names = ("auto", *READERS)
    if name not in names:
        raise RecipeError(unknown_name("reader", name, names, where))


class SegmentReader:
    """Reads the segments of one worker.

    The file of the last segment stays open, so a compressed file whose segments are read in
    ascending order is decompressed once.
    """

    def __init__(self) -> None:
        """Start with no file open."""
        self._readers: dict[str, FileReader] = {}

    def read(self, segment: Segment, keep_metadata: bool = False) -> Iterator[DocumentBlock]:
        """Read a segment in one or more blocks of about `BLOCK_BYTES`.

        Bad records and damage to the file are listed in `DocumentBlock.bad`.

        Raises:
            InputError: The file is gone, cannot be read, or has changed.
            EngineError: The machine is at fault, such as too little memory.
        """
        if segment.reader not in self._readers:
            self._readers[segment.reader] = READERS[segment.reader].open()
        kept = frozenset(segment.options.columns)
        with faults_named(segment.files[0].path):
            for block in self._readers[segment.reader].read(segment, keep_metadata):
                if kept and block.metadata is not None:
                    block.metadata = [
                        {name: value for name, value in row.items() if name in kept}
                        for row in block.metadata
                    ]
                yield block

    def close(self) -> None:
        """Close the files that are open."""
        for reader in self._readers.values():
            reader.close()

    def __del__(self) -> None:
        """Close the files that are still open."""
        self.close()


def segments(
    files: list[InputFile],
    options: ReadOptions,
    segment_bytes: int = SEGMENT_BYTES,
    cuts: RemoteCuts | None = None,
) -> list[FilePlan]:
    """Choose the reader of each file, and cut the file into segments.

    Args:
        files: Files from `identify`.
        options: The domain's; a `reader` other than `auto` is used whatever the file holds.
        segment_bytes: Decompressed bytes of a segment. Stored segments are identified by number, so
            those of another size cannot be reused.
        cuts: Where tables behind URLs were cut before; receives the others.

    Returns:
        Plans in the order of their first files. Text files and small uncompressed files of JSON
        lines are grouped, up to about `segment_bytes` or 4,096 files, in the order given; every
        other file has its own plan.

    Raises:
        RecipeError: `options.reader` is not in `READERS`.
        InputError: A file cannot be opened, or has changed since it was identified.
    """
    check_reader(options.reader, "reader")
    entries: list[FilePlan | _Group] = []
    groups: dict[str, _Group] = {}
    if cuts is not None:
        tables = [
            PlanRequest(reader, file, options, compression, segment_bytes)
            for file in files
            if is_object_url(file.path)
            for reader, compression in (kind_of(file, options),)
            if reader in TABLES
        ]
        cuts.look(tables, plan_rows)
    for file in files:
        with faults_named(file.path):
            reader, compression = kind_of(file, options)
            plan = READERS[reader].plan
            if plan is not None and not _is_small(file, reader, compression, segment_bytes):
                request = PlanRequest(reader, file, options, compression, segment_bytes)
                entries.append(plan(request) if cuts is None else cuts.plan(request, plan))
                continue
        group = groups.get(reader)
        if group is None or group.size_bytes >= segment_bytes or len(group.files) == GROUP_FILES:
            group = groups[reader] = _Group(reader)
            entries.append(group)
        group.files.append(file)
        group.size_bytes += file.size_bytes
    return [
        FilePlan(entry.reader, tuple(entry.files), options, count=1)
        if isinstance(entry, _Group)
        else entry
        for entry in entries
    ]


@dataclass(slots=True)
class _Group:
    """Collects small files that one segment covers."""

    reader: str
    files: list[InputFile] = field(default_factory=list)
    size_bytes: int = 0


def _is_small(file: InputFile, reader: str, compression: str, segment_bytes: int) -> bool:
    """Whether a file is read in a group."""
    limit_bytes = min(SMALL_BYTES, segment_bytes)
    return reader == "jsonl" and compression == "plain" and file.size_bytes <= limit_bytes


def kind_of(file: InputFile, options: ReadOptions) -> tuple[str, str]:
    """Return the reader and the compression of a file."""
    if options.reader == "text":
        return "text", ""
    reader, compression = file.reader, file.compression
    if not reader:
        with open_stream(file.path, file.size_bytes, file.status) as stream:
            reader, compression = recognise(stream, file.path)
    return reader if options.reader == "auto" else options.reader, compression
