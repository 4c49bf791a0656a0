"""JSON that is not lines: one array of records, or records spread over several lines.

Records are separated by brackets and quotes alone and then parsed one by one, so memory is bounded
by the largest record, and a bad record whose brackets and quotes match affects no other.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterator

from curate.sources.decompress.open import CHUNK_BYTES, ByteStream, StreamDamage, open_stream
from curate.sources.documents import EXCERPT_BYTES, excerpt, too_large
from curate.sources.json_records import JsonRecords
from curate.sources.records import BLOCK_BYTES, BadRecord, DocumentBlock, Segment

BACKSLASH = 0x5C

find_mark = re.compile(rb'["\[\]{},]').search
find_content = re.compile(rb"[^ \t\r\n]").search


class RecordScanner:
    """Cuts the text of a JSON file into records without parsing them.

    A record is an element of the array or, in a file that does not start with `[`, a top-level
    value. If the rest of the file, `rest`, is no record, `fault` says why; otherwise it is empty.
    """

    def __init__(self, stream: ByteStream, limit_bytes: int) -> None:
        """Read from the start of `stream`; of records above the limit only the start is held."""
        self._stream = stream
        self._limit_bytes = limit_bytes
        self.is_cut = False
        """Whether the record just yielded is above the limit, and only its beginning was kept."""
        self._beginning = b""
        self._data = b""
        self._at = 0
        self.fault = ""
        self.rest = b""

    def records(self) -> Iterator[bytes]:
        """Yield the records in order; check `fault` afterwards."""
        try:
            self._more()
            self._data = self._data.removeprefix(BOM_UTF8)
            is_array = self._next_byte() == b"["
            self._at += is_array
            yield from self._elements() if is_array else self._values()
        except StreamDamage as damage:
            self.fault = str(damage)
        self.rest = self._data[self._at :]

    def _elements(self) -> Iterator[bytes]:
        if self._next_byte() == b"]":
            self._at += 1
        else:
            closing = b","
            while closing == b",":
                end = self._value_end(is_element=True)
                if end is None:
                    self.fault = "the array is not closed"
                    return
                record, closing = self._record(end), self._data[end : end + 1]
                self._at = end + 1
                yield record
                self.is_cut = False
        if self._next_byte():
            self.fault = "the array is followed by something else"

    def _values(self) -> Iterator[bytes]:
        while first := self._next_byte():
            end = self._value_end(is_element=False) if first == b"{" else None
            if end is None:
                self.fault = "the object is not closed" if first == b"{" else "not a JSON object"
                return
            record, self._at = self._record(end), end
            yield record
            self.is_cut = False

    def _record(self, end: int) -> bytes:
        return self._beginning if self.is_cut else self._data[self._at : end].strip()

    def _next_byte(self) -> bytes:
        """Skip white space, and return the byte after it; empty at the end of the file."""
        while not (match := find_content(self._data, self._at)):
            self._at = len(self._data)
            if not self._more():
                return b""
        self._at = match.start()
        return match.group()

    def _value_end(self, is_element: bool) -> int | None:
        """Find the end of the value at `_at`, or None if the file ends before.

        The end is the `,` or `]` after an element of the array, or the place behind a value's `}`.
        """
        depth, at = 0, self._at
        while True:
            match = find_mark(self._data, at)
            if match is None:
                after = self._extend()
                if after is None:
                    return None
                at = after
                continue
            mark, at = match.group(), match.end()
            if mark == b'"':
                string_end = self._string_end(at)
                if string_end is None:
                    return None
                at = string_end
            elif mark in b"[{":
                depth += 1
            elif depth == 0:
                return match.start()
            elif mark != b",":
                depth -= 1
                if depth == 0 and not is_element:
                    return at

    def _string_end(self, at: int) -> int | None:
        """Find the place behind the closing quote of the string whose content starts at `at`."""
        content = at - self._at
        while True:
            quote = self._data.find(b'"', at)
            if quote < 0:
                after = self._extend()
                if after is None:
                    return None
                at, content = after, 0 if self.is_cut else content
                continue
            backslash = quote
            while backslash > self._at + content and self._data[backslash - 1] == BACKSLASH:
                backslash -= 1
            at = quote + 1
            if (quote - backslash) % 2 == 0:
                return at

    def _extend(self) -> int | None:
        """Read on inside a value; return where its unread part begins, None at the file's end."""
        if len(self._data) - self._at > self._limit_bytes:
            if not self.is_cut:
                self._beginning = self._data[self._at : self._at + EXCERPT_BYTES].lstrip()
                self.is_cut = True
            # An odd run of backslashes escapes what follows, so one of them is kept.
            backslashes = len(self._data) - len(self._data.rstrip(b"\\"))
            self._at = len(self._data) - backslashes % 2
        at = len(self._data) - self._at
        return at if self._more() else None

    def _more(self) -> bool:
        """Drop records already returned, and double the data held; False at the end of the file.

        Doubling keeps the time linear for a record that is much longer than a chunk.
        """
        pieces = [self._data[self._at :]]
        held_bytes = len(pieces[0])
        limit_bytes = max(CHUNK_BYTES, min(2 * held_bytes, self._limit_bytes + CHUNK_BYTES))
        try:
            while held_bytes < limit_bytes and (chunk := self._stream.read(CHUNK_BYTES)):
                pieces.append(chunk)
                held_bytes += len(chunk)
        except StreamDamage:
            if len(pieces) == 1:
                raise
        self._data, self._at = b"".join(pieces), 0
        return len(pieces) > 1

    @property
    def consumed_bytes(self) -> int:
        """Decompressed bytes up to the end of the last record."""
        return self._stream.position - (len(self._data) - self._at)


class JsonArrayReader:
    """Reads a whole file as one segment."""

    def read(self, segment: Segment, keep_metadata: bool) -> Iterator[DocumentBlock]:
        """Read the documents of the file, in blocks of about `BLOCK_BYTES`."""
        file = segment.files[0]
        parser = JsonRecords(segment.options, keep_metadata)
        block, counted_bytes = parser.new_block(), 0
        with open_stream(file.path, file.size_bytes, file.status) as stream:
            scanner = RecordScanner(stream, segment.options.record_bytes)
            number = 0
            for number, record in enumerate(scanner.records(), 1):
                if block.raw_bytes >= BLOCK_BYTES:
                    block.file_bytes = stream.estimated_bytes
                    yield block
                    block = parser.new_block()
                if scanner.is_cut:
                    reason = too_large(segment.options.record_bytes)
                    size_bytes = scanner.consumed_bytes - counted_bytes
                    block.bad.append(BadRecord(0, number, reason, excerpt(record), size_bytes))
                else:
                    parser.add_record(block, record, number)
                block.lines_read += 1
                block.raw_bytes += scanner.consumed_bytes - counted_bytes
                counted_bytes = scanner.consumed_bytes
            block.raw_bytes += stream.position - counted_bytes
            unread_bytes = stream.undecoded_bytes
            block.file_bytes = stream.estimated_bytes
        if scanner.fault:
            is_whole_file = not number and not scanner.rest
            line = 0 if is_whole_file else number + 1
            rest = scanner.rest
            block.bad.append(
                BadRecord(
                    file=0,
                    line=line,
                    reason=scanner.fault,
                    excerpt=excerpt(rest),
                    bytes=len(rest),
                    unread_bytes=unread_bytes,
                )
            )
        block.end_of_file = True
        yield block

    def close(self) -> None:
        """Nothing stays open between segments."""
