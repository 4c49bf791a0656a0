"""Types of reading: files, segments of files, blocks of documents, and bad records.

A *segment* is the unit of work: a byte range, a run of row groups, or a run of small files. How
a file is cut into segments depends on its content alone, never on the number of workers, so a
part of the token store made from a segment can be reused whenever that content is seen again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

SCHEME = "corpus://"
"""Prefix of paths to domains of the embedded corpus."""

SEGMENT_BYTES = 8 << 20
"""Decompressed bytes of input that one segment covers, more or less: about 2M tokens."""

BLOCK_BYTES = 512 << 10
"""Bytes of text a block holds before it is handed on; a longer document makes a longer block.
Texts and their tokens stay in a core's cache: tokenising all was 1.03-1.05x as fast as with 4 MB,
and a quarter as much was no faster."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to find a document in a record; part of the identity of what is read."""

    text: str = "text"
    """Column or key of the text; dots reach into nested objects: `data.body`."""
    id: str = "id"
    """Column or key of the identifier; documents without one are known by their content hash."""
    reader: str = "auto"
    """A key of `READERS`, or `auto`: recognised by content, then by name."""
    glob: str = "*"
    """For directories of plain text: which file names are documents (fnmatch, comma-separated)."""


class InputFile(NamedTuple):
    """One input file, identified by what is in it; there may be millions, so they are tuples."""

    path: str
    """A local path, a URL, or `corpus://<domain>`, as the user would type it."""
    size_bytes: int
    content_hash: str
    """xxh3-128 of the raw bytes, 32 hexadecimal digits."""
    name: str = ""
    """Path below the directory the recipe names, or the file's name: what a text file is called."""
    reader: str = ""
    """A key of `READERS`, recognised by its content; empty where that is still to be read."""
    compression: str = ""
    """`plain`, `gzip`, `zstd` or `refused`; empty where that is still to be read."""
    status: tuple[int | str, ...] = ()
    """Size and modification time (see `identities.Status`) when identified; empty if not taken."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of work: part of one file, or several small files whole."""

    reader: str
    files: tuple[InputFile, ...]
    start: int
    """First byte (decompressed) or first row group that belongs to the segment."""
    stop: int | None
    """One past the last; None: to the end of the file."""
    index: int
    """Position among the segments of its file; 0 for a group of small files."""
    options: ReadOptions


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that gave no document, with enough to find and mend it."""

    file: int
    """Index into `Segment.files`."""
    line: int
    """1-based line or row, counted from the first record of the segment; 0: the file as a whole."""
    reason: str
    excerpt: str = ""
    """At most 200 characters of the record."""


@dataclass(slots=True)
class DocumentBlock:
    """A run of documents of one segment, in file order; the lists have equal lengths."""

    texts: list[str] = field(default_factory=list)
    """Never empty, never only white space, always encodable as UTF-8."""
    ids: list[str] = field(default_factory=list)
    """The record's own identifier as text; empty where it has none."""
    files: list[int] = field(default_factory=list)
    """Index into `Segment.files`."""
    lines: list[int] = field(default_factory=list)
    """1-based line or row, counted from the first record of the segment."""
    metadata: list[dict[str, Any]] | None = None
    """The record's other fields; only where the reader was asked to keep them."""
    bad: list[BadRecord] = field(default_factory=list)
    lines_read: int = 0
    """Lines or rows this block consumed, blank and bad ones included."""
    raw_bytes: int = 0
    """Decompressed bytes of input that the block consumed."""
    end_of_file: bool = False
    """True on the last block of the segment if the segment reached the end of its file."""
