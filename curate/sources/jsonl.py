"""Read JSON lines: one record a line, plain or compressed, any part of a file.

A segment holds the lines that *start* in its range of decompressed bytes, so segments of any length
give the same documents. Blank lines are counted and skipped. A worker that reads the segments of a
file in ascending order decompresses it once.
"""

from __future__ import annotations

import sys
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from curate.runtime.registry import counted
from curate.sources.decompress.open import CHUNK_BYTES, StreamDamage, open_stream
from curate.sources.documents import EXCERPT_BYTES, excerpt, too_large
from curate.sources.identities import read_each
from curate.sources.json_records import JsonRecords
from curate.sources.plans import whole_json
from curate.sources.records import BLOCK_BYTES, BadRecord, DocumentBlock, InputFile, Segment

SMALL_BYTES = 128 << 10
"""Uncompressed files up to this size are read in groups, each with one call."""

TOGETHER_BYTES = 256 << 10
"""Bytes of small files that are decoded together."""

NOT_COUNTED_BYTES = len(BOM_UTF8 + b"\r")
"""Bytes of a line that may not belong to its record."""

OVERRUN_BYTES = 64 << 10
"""Bytes read at a time beyond a segment's end, to complete its last line."""


class Lines(NamedTuple):
    """A run of whole lines, without the mark that may begin a file; or the beginning of a line."""

    run: bytes
    size_bytes: int
    """Bytes of the file that it stands for."""
    is_cut: bool
    """Whether it is the beginning of a single line, which is above the limit."""


class LineCursor:
    """Reads the lines of one file, forward only.

    `position` is the start of the next line, in decompressed bytes.
    """

    def __init__(self, file: InputFile, limit_bytes: int) -> None:
        """Open the file, before its first line; of lines above the limit only the start is held."""
        self.file = file
        self.limit_bytes = limit_bytes
        self.is_cut = False
        """Whether the unfinished line is above the limit."""
        self.position = 0
        self.unfinished: list[bytes] = []
        """Pieces of the line that starts at `position`, whose end has not been read."""
        self._stream = open_stream(file.path, file.size_bytes, file.status)
        self._pending = b""
        self._floor = 0

    def can_reach(self, segment: Segment) -> bool:
        """Whether no line of the segment has been read yet."""
        is_same = segment.files[0] == self.file
        return (
            is_same
            and self.limit_bytes == segment.options.record_bytes
            and (segment.start >= self._floor)
        )

    def expect(self, stop: int | None) -> None:
        """Say where the lines that will be read end; see `ByteStream.expect`."""
        self._stream.expect((self.file.size_bytes if stop is None else stop) + OVERRUN_BYTES)

    def settle(self, start: int) -> bool:
        """Go to the first line that starts at or after `start`; False if the file ends before.

        Damage before that line counts as the end: the segment that holds it reports it.
        """
        try:
            return self.position >= start or self._seek_line(start)
        except StreamDamage:
            return False

    def _seek_line(self, start: int) -> bool:
        """Go behind the first line end at or after the byte before `start`."""
        before = start - 1
        self._pending = self._pending[before - self.position :]
        self.position = before
        if not self._pending:
            self._stream.skip_to(before)
        while chunk := self._pending or self._stream.read(CHUNK_BYTES):
            newline = chunk.find(b"\n")
            self._pending = chunk[newline + 1 :] if newline >= 0 else b""
            self.position += len(chunk) - len(self._pending)
            if newline >= 0:
                return True
        return False

    def take(self, stop: int | None) -> Iterator[Lines]:
        """Yield the lines that start before `stop`, in runs; a line above the limit comes alone.

        Raises:
            StreamDamage: After the lines before the damage; `unfinished` holds the damaged line's
                beginning.
        """
        self._floor = sys.maxsize if stop is None else stop
        pieces = self.unfinished
        offset = self.position
        while pieces or offset < self._floor:
            left_bytes = self._floor - offset
            limit_bytes = min(CHUNK_BYTES, left_bytes) if left_bytes > 0 else OVERRUN_BYTES
            chunk, self._pending = self._pending or self._stream.read(limit_bytes), b""
            if not chunk:
                break
            if len(chunk) > left_bytes:
                # The first line end at or after `stop - 1` ends the last line that starts before.
                cut = chunk.find(b"\n", max(0, left_bytes - 1)) + 1 or len(chunk)
                chunk, self._pending = chunk[:cut], chunk[cut:]
            is_long = offset - self.position > CHUNK_BYTES
            offset += len(chunk)
            # A long line is yielded alone, so that its bytes are not copied with other lines.
            end = chunk.find(b"\n") + 1 if is_long else chunk.rfind(b"\n") + 1
            if is_long and 0 < end < len(chunk):
                self._pending = chunk[end:] + self._pending
                offset -= len(chunk) - end
                chunk = chunk[:end]
            if not self.is_cut:
                pieces.append(chunk[:end] if end else chunk)
            if end:
                yield from self._hand_out(offset - len(chunk) + end)
                if end < len(chunk):
                    pieces.append(chunk[end:])
            elif offset - self.position > self.limit_bytes + NOT_COUNTED_BYTES:
                self._cut()
        if pieces:
            yield from self._hand_out(offset)

    def _cut(self) -> None:
        """Keep the beginning of the unfinished line only."""
        beginning = b""
        for piece in self.unfinished:
            beginning += piece[: EXCERPT_BYTES - len(beginning)]
        self.unfinished[:] = [beginning]
        self.is_cut = True

    def _hand_out(self, stop: int) -> Iterator[Lines]:
        """Yield the run that ends at `stop`."""
        run = b"".join(self.unfinished)
        self.unfinished.clear()
        has_mark = self.position == 0 and run.startswith(BOM_UTF8)
        size_bytes, self.position = stop - self.position, stop
        is_cut, self.is_cut = self.is_cut, False
        yield Lines(run[len(BOM_UTF8) :] if has_mark else run, size_bytes, is_cut)

    def at_end(self) -> bool:
        """Whether the file ends here; damage that follows is reported by a later segment."""
        try:
            self._pending = self._pending or self._stream.read(OVERRUN_BYTES)
        except StreamDamage:
            return False
        return not self._pending

    @property
    def undecoded_bytes(self) -> int:
        """See `ByteStream.undecoded_bytes`."""
        return self._stream.undecoded_bytes

    @property
    def estimated_bytes(self) -> int:
        """See `ByteStream.estimated_bytes`."""
        return self._stream.estimated_bytes

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class _SegmentLines:
    """Lines of a segment, and how it ended once they are read."""

    def __init__(self, cursor: LineCursor, segment: Segment) -> None:
        self.cursor = cursor
        self.is_end = True
        """Whether the file ends in the segment, or is damaged there."""
        self.damage = ""
        self.lines = self._take(segment)

    def _take(self, segment: Segment) -> Iterator[Lines]:
        self.cursor.expect(segment.stop)
        try:
            if self.cursor.settle(segment.start):
                yield from self.cursor.take(segment.stop)
                self.is_end = self.cursor.at_end()
        except StreamDamage as damage:
            self.damage = str(damage)

    def gather(self) -> list[Lines] | None:
        """Take all lines; None at the file's end or damage, where they are still to be taken."""
        gathered = list(self.lines)
        if not self.is_end:
            return gathered
        self.lines = iter(gathered)
        return None


class JsonlReader:
    """Reads segments of JSON lines, and keeps the last file open for the next segment."""

    def __init__(self) -> None:
        """Start with no file open."""
        self._cursor: LineCursor | None = None
        self._last: _SegmentLines | None = None
        """The last segment of a file, once `gather` has met it."""

    def read(self, segment: Segment, keep_metadata: bool) -> Iterator[DocumentBlock]:
        """Read the documents of one segment, in blocks of about `BLOCK_BYTES`."""
        records = JsonRecords(segment.options, keep_metadata)
        if len(segment.files) > 1:
            yield from _read_small_files(segment, records)
            return
        source = self._last or _SegmentLines(self._cursor_for(segment), segment)
        self._last, cursor = None, source.cursor
        block, line, is_kept, lines = records.new_block(), 1, False, Lines(b"", 0, False)
        try:
            for lines in source.lines:
                if block.raw_bytes >= BLOCK_BYTES:
                    block.file_bytes = cursor.estimated_bytes
                    yield block
                    block = records.new_block()
                line += _add_lines(records, block, lines, line)
            if source.damage:
                add_damage(records, block, cursor, line, source.damage)
            elif source.is_end:
                say_cut(block, 0, {(0, line - 1): lines.run})
            is_kept = not source.is_end
        finally:
            block.file_bytes = cursor.estimated_bytes
            if is_kept:
                self._cursor = cursor
            else:
                cursor.close()
        block.end_of_file = source.is_end
        yield block

    def gather(self, segment: Segment) -> tuple[list[Lines], int] | None:
        """Take the lines of a segment, for `read_gathered` in another process.

        Args:
            segment: Part of one compressed file.

        Returns:
            Lines, and the bytes of the whole file by estimate. None where the file ends or is
            damaged in the segment, which `read` must read next.
        """
        source = _SegmentLines(self._cursor_for(segment), segment)
        gathered = source.gather()
        if gathered is None:
            self._last = source
            return None
        self._cursor = source.cursor
        return gathered, source.cursor.estimated_bytes

    def _cursor_for(self, segment: Segment) -> LineCursor:
        """Return the open cursor if it has not passed the segment, else a new one.

        The cursor leaves `self` while in use, so that it is not used again after an exception.
        """
        cursor, self._cursor = self._cursor, None
        if cursor is not None:
            if cursor.can_reach(segment):
                return cursor
            cursor.close()
        return LineCursor(segment.files[0], segment.options.record_bytes)

    @property
    def undecoded_bytes(self) -> int:
        """Bytes that are left of the file that is open, once decoded, by estimate."""
        return 0 if self._cursor is None else self._cursor.undecoded_bytes

    def close(self) -> None:
        """Close the file that is open, if any."""
        cursor = self._cursor if self._last is None else self._last.cursor
        if cursor is not None:
            cursor.close()
        self._cursor = self._last = None


def read_gathered(
    segment: Segment, lines: Iterable[Lines], file_bytes: int
) -> Iterator[DocumentBlock]:
    """Read the documents of a segment whose lines another process gathered.

    Args:
        segment: The segment.
        lines: Its lines.
        file_bytes: Bytes of the whole file, by estimate.
    """
    records = JsonRecords(segment.options, keep_metadata=False)
    block, line = records.new_block(), 1
    for run in lines:
        if block.raw_bytes >= BLOCK_BYTES:
            block.file_bytes = file_bytes
            yield block
            block = records.new_block()
        line += _add_lines(records, block, run, line)
    block.file_bytes = file_bytes
    yield block


def _add_lines(records: JsonRecords, block: DocumentBlock, lines: Lines, line: int) -> int:
    """Add lines to a block, and return how many they are.

    Args:
        records: The parser.
        block: Receives documents and bad records.
        lines: The lines.
        line: Number of the first, from 1.
    """
    if lines.is_cut:
        reason = too_large(records.record_bytes)
        block.bad.append(BadRecord(0, line, reason, excerpt(lines.run), lines.size_bytes))
        added = 1
    else:
        added = records.add_lines(block, lines.run, line)
    block.lines_read += added
    block.raw_bytes += lines.size_bytes
    return added


def _read_small_files(segment: Segment, records: JsonRecords) -> Iterator[DocumentBlock]:
    """Read the documents of a group of small files."""
    block, pending, pending_bytes = records.new_block(), [], 0
    unended: list[tuple[int, bytes]] = []
    for index, read in enumerate(read_each(segment.files)):
        data = read().removeprefix(BOM_UTF8)
        if data and not data.endswith(b"\n"):
            unended.append((index, data))
            data += b"\n"
        if data:
            pending.append((index, data))
            pending_bytes += len(data)
        if pending_bytes >= TOGETHER_BYTES:
            _add_together(records, block, pending, unended)
            block.raw_bytes += pending_bytes
            pending, unended, pending_bytes = [], [], 0
        if block.raw_bytes >= BLOCK_BYTES:
            yield block
            block = records.new_block()
    _add_together(records, block, pending, unended)
    block.raw_bytes += pending_bytes
    block.end_of_file = True
    yield block


def _add_together(
    records: JsonRecords,
    block: DocumentBlock,
    files: list[tuple[int, bytes]],
    unended: list[tuple[int, bytes]],
) -> None:
    """Add the records of small files.

    Args:
        records: The parser.
        block: Receives documents and bad records.
        files: Index and whole lines of each file.
        unended: Index and bytes of those that do not end with a line end.
    """
    bad_before = len(block.bad)
    block.lines_read += records.add_files(block, files)
    if len(block.bad) > bad_before:
        ends = {(index, data.count(b"\n") + 1): data for index, data in unended}
        say_cut(block, bad_before, ends)


def say_cut(block: DocumentBlock, first: int, ends: Mapping[tuple[int, int], bytes]) -> None:
    """Say that files end inside their last records, if these are bad, not whole, without line end.

    Args:
        block: Holds the bad records, if there are any.
        first: Index into `block.bad` of the first to look at.
        ends: Index into `Segment.files` and number of the last line of each file, and the file's
            end, at least this line.
    """
    bad = enumerate(block.bad[first:], first)
    places = {(record.file, record.line): place for place, record in bad}
    for last, data in ends.items():
        place = places.get(last)
        if place is None or data.endswith(b"\n"):
            continue
        record = block.bad[place]
        zeros_bytes = len(data) - len(data.rstrip(b"\0"))
        if zeros_bytes:
            fault = f"the file ends in {counted(zeros_bytes, 'NUL byte')}, as after a crash"
        elif "unexpected end of data" in record.reason:
            fault = "the file ends inside this record"
        else:
            continue
        block.bad[place] = replace(record, reason=f"not valid JSON: {fault}")


def add_damage(
    records: JsonRecords, block: DocumentBlock, cursor: LineCursor, line: int, reason: str
) -> None:
    """Add the beginning of a damaged line, as a document if it is complete, and a bad record.

    Args:
        records: The parser.
        block: Receives both.
        cursor: Holds the unfinished line.
        line: Number of that line, from 1.
        reason: The damage.
    """
    rest = b"".join(cursor.unfinished)
    if rest:
        block.lines_read += 1
        block.raw_bytes += len(rest)
        if not cursor.is_cut and is_object(rest):
            records.add_record(block, rest, line)
            line, rest = line + 1, b""
    is_whole_file = cursor.position == 0 and not rest
    first_line = 0 if is_whole_file else line
    block.bad.append(
        BadRecord(
            file=0,
            line=first_line,
            reason=reason,
            excerpt=excerpt(rest),
            bytes=len(rest),
            unread_bytes=cursor.undecoded_bytes,
        )
    )


def is_object(line: bytes) -> bool:
    """Whether a line is a complete JSON object."""
    return isinstance(whole_json(line), dict)
