"""Segments of a compressed file that its reader gathers in files for other workers."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from curate.runtime.machine import faults_named
from curate.sources.jsonl import Lines

HEAD = struct.Struct("<qq")
"""Number of the segment, and bytes of the whole file by estimate."""

RUN = struct.Struct("<qq?")
"""Bytes of a run of lines that follow, and the fields of `Lines` beside it."""


class Gathered(NamedTuple):
    """A segment that was gathered."""

    segment: int
    """Its number in its file."""
    lines: Iterator[Lines]
    file_bytes: int
    """Decompressed bytes of the whole file, by estimate."""


def write_gathered(path: Path, segment: int, lines: Sequence[Lines], file_bytes: int) -> None:
    """Write the lines of a segment.

    Args:
        path: File to make.
        segment: Number of the segment.
        lines: Its lines.
        file_bytes: Decompressed bytes of the whole file, by estimate.
    """
    with faults_named(str(path)), path.open("wb") as file:
        file.write(HEAD.pack(segment, file_bytes))
        for run, size_bytes, is_cut in lines:
            file.write(RUN.pack(len(run), size_bytes, is_cut))
            file.write(run)


@contextmanager
def open_gathered(path: Path) -> Iterator[Gathered]:
    """Open a segment that was gathered, and remove its file in the end."""
    with path.open("rb") as file:
        segment, file_bytes = HEAD.unpack(file.read(HEAD.size))

        def lines() -> Iterator[Lines]:
            while head := file.read(RUN.size):
                run_bytes, size_bytes, is_cut = RUN.unpack(head)
                yield Lines(file.read(run_bytes), size_bytes, is_cut)

        yield Gathered(segment, lines(), file_bytes)
    path.unlink()
