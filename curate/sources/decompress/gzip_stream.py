"""Read gzip: any number of members, with zero padding; truncation and corruption are reported."""

from __future__ import annotations

import zlib
from typing import Any

from curate.runtime.machine import machine_fault
from curate.sources.decompress.stream import (
    CHUNK_BYTES,
    PIECE_BYTES,
    DecodedStream,
    RawInput,
    StreamDamage,
)

GZIP_MAGIC = b"\x1f\x8b"
GZIP_WINDOW_BITS = 31
"""zlib's code for a 32 KiB window with a gzip header and trailer."""
INFLATE_LIMIT_BYTES = 1 << 20
"""Most bytes one call may give, so that megabytes of zeros do not come out at once."""


class GzipStream(DecodedStream):
    """The decoded bytes of all members, back to back."""

    kind = "gzip"

    def __init__(self, raw: RawInput) -> None:
        """Start at the first member."""
        super().__init__(raw)
        self._decoder: Any = None
        self._waiting = b""

    def _decode(self) -> bytes:
        while True:
            if self._decoder is None and not self._begin_member():
                return b""
            data = self._waiting or bytes(self._raw.take(PIECE_BYTES))
            if not data:
                raise StreamDamage("the gzip data is cut short")
            before = self._decoder.copy()
            try:
                piece: bytes = self._decoder.decompress(data, INFLATE_LIMIT_BYTES)
            except zlib.error as error:
                if machine_fault(error):
                    raise
                return self._salvage(before, data, f"the gzip data is corrupt ({error})")
            self._waiting = self._decoder.unconsumed_tail
            if self._decoder.eof:
                self._raw.offset -= len(self._decoder.unused_data)
                self._decoder, self._waiting = None, b""
            if piece:
                return piece

    def _begin_member(self) -> bool:
        """Start on the next member; False at the end of the file."""
        while (magic := bytes(self._raw.peek(2))) != GZIP_MAGIC:
            padding = bytes(self._raw.peek(CHUNK_BYTES))
            if not padding:
                return False
            if padding.strip(b"\0"):
                raise StreamDamage(
                    f"the gzip data is followed by something else at byte {self._raw.offset}"
                    if magic != GZIP_MAGIC[: len(magic)]
                    else "the gzip data is cut short in a header"
                )
            self._raw.offset += len(padding)
        self._decoder = zlib.decompressobj(wbits=GZIP_WINDOW_BITS)
        return True

    def _salvage(self, decoder: Any, data: bytes, reason: str) -> bytes:
        """Feed byte by byte what failed as a whole, to keep what comes before the fault."""
        pieces = []
        for index in range(len(data)):
            try:
                pieces.append(decoder.decompress(data[index : index + 1]))
            except zlib.error:
                self._raw.offset -= len(data) - index
                break
        if not any(pieces):
            raise StreamDamage(reason)
        self._damage = reason
        return b"".join(pieces)
