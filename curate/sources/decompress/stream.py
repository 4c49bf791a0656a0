"""Base classes of input streams: a raw file, a position, and damage reported after good data."""

from __future__ import annotations

from types import TracebackType
from typing import BinaryIO

from curate.errors import InputError
from curate.runtime.machine import machine_fault
from curate.runtime.objects import ObjectFile

CHUNK_BYTES = 256 << 10
"""Raw bytes read at once; small enough that a chunk is still in cache when it is parsed."""
PIECE_BYTES = 64 << 10
"""Decoded pieces smaller than this are joined before they are handed on."""


class StreamDamage(Exception):  # noqa: N818 - not an error of ours: the reader reports it, goes on
    """A fault in a stream, raised after everything decodable before it has been delivered."""


class RawInput:
    """A file's raw bytes through a small buffer: look ahead, take, jump."""

    def __init__(self, file: BinaryIO, path: str, size_bytes: int) -> None:
        """Start at the first byte of an open file.

        Args:
            file: Open for reading; stays the caller's to close.
            path: Its name in messages.
            size_bytes: Its length; reading past it is damage.
        """
        self.file = file
        self.path = path
        self.size_bytes = size_bytes
        self.offset = 0
        self._view = memoryview(b"")
        self._view_start = 0

    def read_at(self, offset: int, limit_bytes: int) -> bytes:
        """Read up to `limit_bytes` at `offset`, past the buffer; empty only at the end.

        Raises:
            InputError: The operating system or the remote store refuses.
            OSError: The machine is at fault.
        """
        try:
            self.file.seek(offset)
            return self.file.read(limit_bytes)
        except OSError as error:
            if machine_fault(error):
                raise
            reason = error.strerror or error
            raise InputError(f"{self.path}: cannot be read at byte {offset} ({reason})") from error

    def peek(self, count_bytes: int) -> memoryview:
        """The next bytes: `count_bytes` of them, or as many as the file still holds."""
        begin = self.offset - self._view_start
        if not 0 <= begin <= len(self._view):
            self._view, self._view_start, begin = memoryview(b""), self.offset, 0
        if len(self._view) - begin < count_bytes:
            pieces = [bytes(self._view[begin:])]
            held_bytes = len(pieces[0])
            while held_bytes < count_bytes:
                want_bytes = max(CHUNK_BYTES, count_bytes - held_bytes)
                pieces.append(self.read_at(self.offset + held_bytes, want_bytes))
                if not pieces[-1]:
                    break
                held_bytes += len(pieces[-1])
            self._view, self._view_start, begin = memoryview(b"".join(pieces)), self.offset, 0
        return self._view[begin : begin + count_bytes]

    def take(self, count_bytes: int) -> memoryview:
        """Like `peek`, and move past what was returned."""
        view = self.peek(count_bytes)
        self.offset += len(view)
        return view


class ByteStream:
    """Bytes of one file, as they are. `position` counts those read or skipped so far."""

    kind = "plain"

    def __init__(self, raw: RawInput) -> None:
        """Start at the first byte."""
        self.position = 0
        self._raw = raw

    def read(self, limit_bytes: int) -> bytes:
        """Read at least one and at most `limit_bytes` bytes; empty only at the end.

        Raises:
            StreamDamage: What follows cannot be decoded.
            InputError: The file cannot be read.
        """
        if self.position >= self._raw.size_bytes:
            return b""
        data = self._raw.read_at(self.position, limit_bytes)
        if not data:
            raise InputError(
                f"{self._raw.path}: ends at byte {self.position:,} of {self._raw.size_bytes:,}; "
                "it changed while it was being read, run again"
            )
        self.position += len(data)
        return data

    def skip_to(self, offset: int) -> None:
        """Move forward to `offset`, or to the end where that comes first.

        Raises:
            StreamDamage: The data before `offset` cannot be decoded.
            InputError: The file cannot be read.
        """
        self.position = min(offset, self._raw.size_bytes)

    def expect(self, stop: int) -> None:
        """Say that what follows will be read up to `stop`, so that no more of it is fetched."""
        if isinstance(self._raw.file, ObjectFile):
            self._raw.file.reads_to = stop

    @property
    def undecoded_bytes(self) -> int:
        """Bytes that are left, once decoded; an estimate where the file is compressed."""
        return max(0, self._raw.size_bytes - self.position)

    @property
    def estimated_bytes(self) -> int:
        """Bytes of the whole file once decoded, by estimate where it is compressed."""
        return self.position + self.undecoded_bytes

    def close(self) -> None:
        """Close the file."""
        self._raw.file.close()

    def __enter__(self) -> ByteStream:
        """The stream itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()


class DecodedStream(ByteStream):
    """Base of streams whose bytes come from a decoder piece by piece."""

    def __init__(self, raw: RawInput) -> None:
        """Start at the first decoded byte."""
        super().__init__(raw)
        self._ready = b""
        self._taken_bytes = 0
        self._damage = ""

    def read(self, limit_bytes: int) -> bytes:
        """See `ByteStream.read`."""
        if self._taken_bytes == len(self._ready):
            self._ready, self._taken_bytes = self._gather(), 0
        data = self._ready[self._taken_bytes : self._taken_bytes + limit_bytes]
        self._taken_bytes += len(data)
        self.position += len(data)
        return data

    def skip_to(self, offset: int) -> None:
        """See `ByteStream.skip_to`; decodes what lies between unless whole frames can be jumped."""
        while self.position < offset:
            if self._taken_bytes == len(self._ready):
                if jumped_bytes := self._guarded_jump(offset - self.position):
                    self.position += jumped_bytes
                    continue
                self._ready, self._taken_bytes = self._next_piece(), 0
                if not self._ready:
                    return
            step_bytes = min(len(self._ready) - self._taken_bytes, offset - self.position)
            self._taken_bytes += step_bytes
            self.position += step_bytes

    def expect(self, stop: int) -> None:
        """Nothing: which raw bytes hold what follows is unknown."""

    @property
    def undecoded_bytes(self) -> int:
        """See `ByteStream.undecoded_bytes`; the rest is as compressible as what was decoded."""
        left_bytes = max(0, self._raw.size_bytes - self._raw.offset)
        return left_bytes * max(self.position, 1) // max(self._raw.offset, 1)

    def _gather(self) -> bytes:
        """The next pieces, joined while they are small; damage waits until they are delivered."""
        pieces = [self._next_piece()]
        gathered_bytes = len(pieces[0])
        while pieces[-1] and gathered_bytes < PIECE_BYTES and not self._damage:
            try:
                pieces.append(self._next_piece())
            except StreamDamage:
                break
            gathered_bytes += len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _next_piece(self) -> bytes:
        """The next decoded bytes, empty only at the end; once damaged, damaged for good."""
        if self._damage:
            raise StreamDamage(self._damage)
        try:
            return self._decode()
        except StreamDamage as damage:
            self._damage = str(damage)
            raise

    def _guarded_jump(self, limit_bytes: int) -> int:
        """`_jump_frame`, with damage remembered as in `_next_piece`."""
        if self._damage:
            raise StreamDamage(self._damage)
        try:
            return self._jump_frame(limit_bytes)
        except StreamDamage as damage:
            self._damage = str(damage)
            raise

    def _decode(self) -> bytes:
        """Decode the next piece; `_next_piece` adds the memory of past damage."""
        raise NotImplementedError

    def _jump_frame(self, limit_bytes: int) -> int:
        """Pass a frame of at most `limit_bytes` undecoded; returns its decoded bytes, 0: none."""
        return 0
