"""Reading whole files through the public functions, for the tests of the sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from curate.runtime.files import hash_file
from curate.sources import FilePlan, SegmentReader, segments
from curate.sources.jsonl import JsonlReader, read_gathered
from curate.sources.records import SEGMENT_BYTES, DocumentBlock, InputFile, ReadOptions, Segment
from curate.tokens.gathered import open_gathered, write_gathered


@dataclass
class Found:
    """What came out of some plans; lines count from the start of each plan's file."""

    texts: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)
    excerpts: list[str] = field(default_factory=list)
    lines_read: int = 0
    raw_bytes: int = 0
    segments: int = 0
    blocks: int = 0

    def add(self, block: DocumentBlock, lines_before: int) -> None:
        self.blocks += 1
        self.texts += block.texts
        self.ids += block.ids
        self.lines += [lines_before + line for line in block.lines]
        self.metadata += block.metadata or []
        self.bad += [(lines_before + bad.line if bad.line else 0, bad.reason) for bad in block.bad]
        self.excerpts += [bad.excerpt for bad in block.bad]
        self.raw_bytes += block.raw_bytes
        assert len(block.texts) == len(block.ids) == len(block.files) == len(block.lines)


def source(path: Path) -> InputFile:
    return InputFile(str(path), path.stat().st_size, hash_file(path), path.name)


def plan(path: Path, options: ReadOptions, segment_bytes: int = SEGMENT_BYTES) -> FilePlan:
    (only,) = segments([source(path)], options, segment_bytes)
    return only


def read(
    path: Path,
    options: ReadOptions | None = None,
    segment_bytes: int = SEGMENT_BYTES,
    keep_metadata: bool = False,
) -> Found:
    """Read a file segment by segment with one reader; compressed lines in two ways."""
    cut = plan(path, options or ReadOptions(), segment_bytes)
    with closing(SegmentReader()) as reader:
        blocks = read_plan(cut, reader, keep_metadata)
    if cut.count is None and not keep_metadata:
        with closing(_Gathering(path)) as gathering:
            assert read_plan(cut, gathering) == blocks
    return blocks


class _Gathering(SegmentReader):
    """Reads lines as a worker that helps does, from what another has gathered in a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path.with_name("gathered")
        self._reader = JsonlReader()

    def read(self, segment: Segment, keep_metadata: bool = False) -> Iterator[DocumentBlock]:
        gathered = self._reader.gather(segment)
        if gathered is None:
            yield from self._reader.read(segment, keep_metadata)
            return
        write_gathered(self._path, segment.index, *gathered)
        with open_gathered(self._path) as (number, lines, file_bytes):
            assert number == segment.index
            yield from read_gathered(segment, lines, file_bytes)

    def close(self) -> None:
        super().close()
        self._reader.close()


def read_plan(plan: FilePlan, reader: SegmentReader, keep_metadata: bool = False) -> Found:
    """Read all segments in order; stops after the one that says the file ends."""
    found, index, ended = Found(), 0, False
    while not ended and (plan.count is None or index < plan.count):
        lines_before = found.lines_read
        for block in reader.read(plan.segment(index), keep_metadata):
            assert not ended, "only the last block of a segment may say that the file ends"
            found.add(block, lines_before)
            found.lines_read += block.lines_read
            ended = block.end_of_file
        index += 1
    assert ended, "the last segment ends the file"
    found.segments = index
    return found


def json_lines(records: Iterable[Any], end: bytes = b"\n") -> bytes:
    return b"".join(orjson.dumps(record) + end for record in records)


def documents(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Records whose texts tell them apart: a few words each, not all of them ASCII."""
    return [
        {"id": f"d{number}", "text": f"document {number} " + "wörter 文 " * (number % 7)}
        for number in range(start, start + count)
    ]


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
