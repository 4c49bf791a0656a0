"""Turn files into documents: find, identify, cut into segments, read.

    paths = expand(patterns, options, base)      which files
    files = identify(paths, cache)               what is in them, as hashes
    plans = segments(files, options)             how each is cut, by which reader
    reader.read(plan.segment(k))                 blocks of documents, and of bad records

`READERS` are the kinds of file that can be read. Adding one takes a file and one row here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from curate.errors import RecipeError
from curate.runtime.registry import unknown_name
from curate.sources.csv_files import CsvReader
from curate.sources.decompress.open import open_stream
from curate.sources.discover import InputPath, expand
from curate.sources.identities import check_unchanged, identify
from curate.sources.json_array import JsonArrayReader
from curate.sources.jsonl import SMALL_BYTES, JsonlReader
from curate.sources.plans import FilePlan, PlanRequest, plan_lines, plan_whole, recognise
from curate.sources.records import SEGMENT_BYTES, DocumentBlock, InputFile, ReadOptions, Segment
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
"""Most small files that one segment covers."""


class FileReader(Protocol):
    """Reads segments of one kind of file; may keep a file open for the segment that follows."""

    def read(self, segment: Segment, keep_metadata: bool) -> Iterator[DocumentBlock]:
        """Read the documents of one segment."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


@dataclass(frozen=True, slots=True)
class ReaderInfo:
    """One kind of file."""

    summary: str
    open: Callable[[], FileReader]
    plan: Callable[[PlanRequest], FilePlan] | None
    """Cuts one file; None: files are whole documents, read in groups."""


def open_table() -> FileReader:
    """Make a reader of tables; importing pyarrow takes 0.25 s, so only where needed."""
    from curate.sources.tables import TableReader

    return TableReader()


def plan_rows(request: PlanRequest) -> FilePlan:
    """Cut a table by row groups or record batches."""
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
        RecipeError: It is neither `auto` nor in `READERS`; names the nearest.
    """
    names = ("auto", *READERS)
    if name not in names:
        raise RecipeError(unknown_name("reader", name, names, where))


class SegmentReader:
    """Reads the segments of one worker.

    The file of the last segment stays open, so segments of a compressed file read in rising order
    decompress it once.
    """

    def __init__(self) -> None:
        """Start with no file open."""
        self._readers: dict[str, FileReader] = {}

    def read(self, segment: Segment, keep_metadata: bool = False) -> Iterator[DocumentBlock]:
        """Read a segment in blocks of about `BLOCK_BYTES`, at least one block.

        Bad records and damage to the file are in `DocumentBlock.bad`.

        Raises:
            InputError: The file is gone, cannot be read, or has changed.
        """
        if segment.reader not in self._readers:
            self._readers[segment.reader] = READERS[segment.reader].open()
        return self._readers[segment.reader].read(segment, keep_metadata)

    def close(self) -> None:
        """Close the files that are open."""
        for reader in self._readers.values():
            reader.close()

    def __del__(self) -> None:
        """Close the files that are still open."""
        self.close()

    def __enter__(self) -> SegmentReader:
        """The reader itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files that are open."""
        self.close()


def segments(
    files: list[InputFile], options: ReadOptions, segment_bytes: int = SEGMENT_BYTES
) -> list[FilePlan]:
    """Decide the reader of each file and how the file is cut.

    Args:
        files: As `identify` gives them.
        options: The domain's; a `reader` other than `auto` is used without looking at the file.
        segment_bytes: Decompressed bytes of a segment. Segments are identified by their number, so
            another value would give a number other bytes.

    Returns:
        Plans in the order of their first files. Text files, and small plain files of JSON lines,
        go in groups of up to `segment_bytes` or 4,096 files, in the order given; every other file
        has its own plan.

    Raises:
        RecipeError: `options.reader` is not in `READERS`.
        InputError: A file cannot be opened, or has changed since it was identified.
    """
    check_reader(options.reader, "reader")
    entries: list[FilePlan | _Group] = []
    groups: dict[str, _Group] = {}
    for file in files:
        reader, compression = kind_of(file, options)
        plan = READERS[reader].plan
        if plan is not None and not _is_small(file, reader, compression, segment_bytes):
            entries.append(plan(PlanRequest(reader, file, options, compression, segment_bytes)))
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
    """Whether a file is read with others, in a group."""
    limit_bytes = min(SMALL_BYTES, segment_bytes)
    return reader == "jsonl" and compression == "plain" and file.size_bytes <= limit_bytes


def kind_of(file: InputFile, options: ReadOptions) -> tuple[str, str]:
    """Return the reader and the compression of a file."""
    if options.reader == "text":
        return "text", ""
    reader, compression = file.reader, file.compression
    if not reader:
        with open_stream(file.path, file.size_bytes) as stream:
            reader, compression = recognise(stream, file.path)
    return reader if options.reader == "auto" else options.reader, compression
