"""Cut files into segments, and recognise a file's reader by its content.

Both depend only on content and options, so results made from a segment can be reused.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from codecs import BOM_UTF8
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import orjson

from curate.runtime.files import hash_bytes, hash_json
from curate.sources.decompress.open import ByteStream, StreamDamage
from curate.sources.odd_json import split_object
from curate.sources.records import InputFile, ReadOptions, Segment

HEAD_BYTES = 64 << 10
"""Decompressed bytes from which a file's kind is recognised."""

READING_DIGITS = 16
"""Hexadecimal digits in a key for how the file is read."""

PARQUET_MAGIC = b"PAR1"
ARROW_FILE_MAGIC = b"ARROW1"
ARROW_STREAM_MAGIC = b"\xff\xff\xff\xff"

COMPRESSED_NAMES = (".zst", ".zstd", ".gz", ".gzip", ".bz2", ".xz", ".lz4")
READER_OF_NAME = {
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".ndjson": "jsonl",
    ".jsonlines": "jsonl",
    ".jl": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}

starts_with_record = re.compile(rb"\[\s*\{").match
starts_with_open_object = re.compile(rb'\{[ \t\r]*\n\s*"').match


@dataclass(frozen=True)
class FilePlan:
    """How one file, or a group of small files, is cut into segments."""

    reader: str
    files: tuple[InputFile, ...]
    options: ReadOptions
    count: int | None
    """Number of segments; if None, read 0, 1, 2, … until a block has `end_of_file`."""
    step_bytes: int = 0
    """Length of segments that are ranges of bytes; 0 for others."""
    cuts: tuple[int, ...] = ()
    """Row groups or record batches at which segments begin: k spans cuts[k] to cuts[k + 1]."""
    fault: str = ""
    """Why a table's schema gives no document; empty if it does, or for other files."""

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Identity of each file's documents: its content and how it is read.

        The name counts only for plain text, where it is the document's identifier.
        """
        options = asdict(self.options)
        del options["columns"]
        reading = hash_json([self.reader, options])[:READING_DIGITS]
        if self.reader == "text":
            named = reading.encode()
            return tuple(
                f"{file.content_hash}-{hash_bytes(named, file.name.encode())[:READING_DIGITS]}"
                for file in self.files
            )
        return tuple([f"{file.content_hash}-{reading}" for file in self.files])

    def segment(self, index: int) -> Segment:
        """Return segment `index`, from 0.

        Raises:
            ValueError: There is no such segment.
        """
        if index < 0 or (self.count is not None and index >= self.count):
            raise ValueError(f"expected a segment from 0 to {self.count}, got {index}")
        start, stop = 0, None
        if self.step_bytes:
            start, stop = index * self.step_bytes, (index + 1) * self.step_bytes
        elif self.cuts:
            start, stop = self.cuts[index], self.cuts[index + 1]
        return Segment(
            reader=self.reader,
            files=self.files,
            start=start,
            stop=stop,
            index=index,
            options=self.options,
        )

    def beginning(self, size_bytes: int) -> Segment:
        """Return the first bytes of segment 0: its documents that start, or its files, in them."""
        whole = self.segment(0)
        if self.step_bytes:
            return replace(whole, stop=min(size_bytes, self.step_bytes))
        stops = enumerate(itertools.accumulate(file.size_bytes for file in self.files), 1)
        files = next((number for number, stop in stops if stop >= size_bytes), len(self.files))
        return replace(whole, files=self.files[:files])


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """A file to be cut into segments."""

    reader: str
    file: InputFile
    options: ReadOptions
    stream_kind: str
    """Compression of the file; `plain` for none."""
    segment_bytes: int


def plan_whole(request: PlanRequest) -> FilePlan:
    """Take a file as one segment."""
    return FilePlan(request.reader, (request.file,), request.options, count=1)


def plan_lines(request: PlanRequest) -> FilePlan:
    """Cut a file by decompressed bytes; the number of segments is open if it is compressed."""
    step_bytes, count = request.segment_bytes, None
    if request.stream_kind == "plain":
        count = max(1, -(-request.file.size_bytes // step_bytes))
    return FilePlan(request.reader, (request.file,), request.options, count, step_bytes)


def cut_evenly(sizes_bytes: list[int], segment_bytes: int) -> tuple[int, ...]:
    """Cut a list into runs that each reach `segment_bytes`, except perhaps the last.

    Example:
        >>> cut_evenly([30, 30, 50, 10], segment_bytes=60)
        (0, 2, 4)
    """
    cuts, run_bytes = [0], 0
    for index, size_bytes in enumerate(sizes_bytes, 1):
        run_bytes += size_bytes
        if run_bytes >= segment_bytes or index == len(sizes_bytes):
            cuts.append(index)
            run_bytes = 0
    return tuple(cuts)


def recognise(stream: ByteStream, path: str) -> tuple[str, str]:
    """Return a file's reader, recognised by its beginning and name, and its compression."""
    head = b""
    with contextlib.suppress(StreamDamage):
        head = stream.read(HEAD_BYTES)
    return reader_of(head, path), stream.kind


def reader_of(head: bytes, path: str) -> str:
    r"""Recognise the reader for a file by its first decompressed bytes, else by its name.

    If the name does not suggest JSON, the first line must hold a complete record, so that source
    code which starts with a bracket stays text.

    Example:
        >>> reader_of(b"PAR1...", "a.jsonl"), reader_of(b'{"text": "x"}\n', "a.txt")
        ('parquet', 'jsonl')
        >>> reader_of(b'[\n{"text": "x"}]', "a.json.gz"), reader_of(b"[section]", "a.toml")
        ('json_array', 'text')
    """
    if head.startswith(PARQUET_MAGIC):
        return "parquet"
    if head.startswith((ARROW_FILE_MAGIC, ARROW_STREAM_MAGIC)):
        return "arrow"
    named = reader_of_name(path)
    content = head.removeprefix(BOM_UTF8).lstrip()
    if content.startswith(b"{"):
        if named == "jsonl":
            return "json_array" if starts_with_open_object(content) else "jsonl"
        first_line, _, following = content.partition(b"\n")
        is_long = len(head) >= HEAD_BYTES and not following
        if isinstance(whole_json(first_line), dict) or (is_long and content.startswith(b'{"')):
            return "jsonl"
    elif content.startswith(b"[") and (named == "jsonl" or starts_with_record(content)):
        first_line, _, following = content.partition(b"\n")
        has_lines = isinstance(whole_json(first_line), list) and following.strip()
        return "jsonl" if has_lines else "json_array"
    return named


def reader_of_name(path: str) -> str:
    """Return the reader that a file's name suggests, ignoring compression suffixes.

    Example:
        >>> reader_of_name("a.jsonl.zst"), reader_of_name("b.TSV"), reader_of_name("c.py")
        ('jsonl', 'csv', 'text')
    """
    name = path.lower()
    if name.endswith(COMPRESSED_NAMES):
        for suffix in COMPRESSED_NAMES:
            name = name.removesuffix(suffix)
    dot = name.rfind(".")
    return READER_OF_NAME.get(name[dot:], "text") if dot >= 0 else "text"


def whole_json(line: bytes) -> object:
    """Return the JSON value of a line, or None; an object may be odd."""
    try:
        value: object = orjson.loads(line)
    except orjson.JSONDecodeError:
        return split_object(line) if line.startswith(b"{") else None
    return value
