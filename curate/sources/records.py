"""Types shared by readers: files, segments of files, blocks of documents, and bad records.

A *segment* is the unit of work: a byte range, a run of row groups, or a run of small files. How
a file is cut into segments depends on its content alone, never on the number of workers, so a
part of the token store made from a segment can be reused whenever that content occurs again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from curate.recipe.structs import RECORD_BYTES

SCHEME = "corpus://"
"""Prefix of paths to domains of the embedded corpus."""

SEGMENT_BYTES = 8 << 20
"""Approximate decompressed bytes of one segment: about 2M tokens."""

BLOCK_BYTES = 512 << 10
"""Bytes of text in a block; a longer document makes a longer block. Texts and their tokens stay in
a core's cache: tokenising is 1.03 to 1.05 times as fast as with 4 MB, no faster with a quarter."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to find the document in a record; part of the key of everything read."""

    text: str = "text"
    """Column or key of the text; dots reach into nested objects: `data.body`."""
    id: str = "id"
    """Column or key of the identifier; without one, the content hash identifies a document."""
    reader: str = "auto"
    """A key of `READERS`, or `auto`, which recognises the content, then the name."""
    glob: str = "*"
    """Names of the files to read in directories: fnmatch patterns, comma-separated."""
    record_bytes: int = RECORD_BYTES
    """Most bytes of a record: of its text, and of the line, element, field or file that holds it.
    """
    columns: tuple[str, ...] = ()
    """The columns that metadata consists of, where it is kept; none stands for all. No part of the
    key, for tokens do not depend on it.
    """


class InputFile(NamedTuple):
    """One input file, identified by its content; a tuple, since there may be millions."""

    path: str
    """A local path or a URL."""
    size_bytes: int
    content_hash: str
    """xxh3-128 of the raw bytes, 32 hexadecimal digits."""
    name: str = ""
    """Path below the recipe's directory or glob, or file name: the identifier of a text file."""
    reader: str = ""
    """A key of `READERS`, recognised by content; empty if not read yet."""
    compression: str = ""
    """A key of `decompress.open.STREAMS`, or `refused`; empty if not read yet."""
    status: tuple[int | str, ...] = ()
    """Status (see `identities.Status`) when identified; empty if unknown."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of work: part of one file, or several small files whole."""

    reader: str
    files: tuple[InputFile, ...]
    start: int
    """First byte (decompressed) or first row group that belongs to the segment."""
    stop: int | None
    """One past the last; None stands for the end of the file."""
    index: int
    """Position among the segments of its file; 0 for a group of small files."""
    options: ReadOptions


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that gave no document, with its place, the reason and an excerpt."""

    file: int
    """Index into `Segment.files`."""
    line: int
    """1-based line or row from the start of the segment; 0 stands for the whole file."""
    reason: str
    excerpt: str = ""
    """At most 200 characters of the record."""
    bytes: int = 0
    """Bytes of the record, which are among its block's `raw_bytes`; 0 for a whole file."""
    unread_bytes: int = 0
    """Further bytes that are lost with it and were not read, by estimate."""
    rows: int = 1
    """Records that are lost with it, itself included, as far as known; 0 if it is no loss."""


@dataclass(slots=True)
class DocumentBlock:
    """A run of documents of one segment, in file order; the lists have equal lengths."""

    texts: list[str] = field(default_factory=list)
    """Never empty, never only white space, always encodable as UTF-8."""
    ids: list[str] = field(default_factory=list)
    """The record's identifier as text; empty if it has none."""
    files: list[int] = field(default_factory=list)
    """Index into `Segment.files`."""
    lines: list[int] = field(default_factory=list)
    """1-based line or row, counted from the first record of the segment."""
    metadata: list[dict[str, Any]] | None = None
    """The record's other fields; None unless the reader keeps them."""
    bad: list[BadRecord] = field(default_factory=list)
    lines_read: int = 0
    """Lines or rows read for this block, blank and bad ones included."""
    raw_bytes: int = 0
    """Decompressed bytes of input read for this block."""
    file_bytes: int = field(default=0, compare=False)
    """Decompressed bytes of the whole file, by estimate from what was read of it; 0 if unknown."""
    end_of_file: bool = False
    """Whether this is the last block of a segment that reaches the end of its file."""
