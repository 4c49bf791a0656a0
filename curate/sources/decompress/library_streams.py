"""Read bzip2, xz and LZ4 with the decoders of the standard library and of Arrow.

Any number of streams may follow one another. Truncation and corruption are reported after what
could be decoded before. Left out: LZMA alone and legacy LZ4 frames, which no check protects.

References:
    "The .xz File Format" 1.2.1, section 2.2: padding between streams.
    "LZ4 Frame Format Description" 1.6.4.
"""

from __future__ import annotations

import bz2
import io
import lzma
from typing import Any, ClassVar

from curate.runtime.machine import machine_fault
from curate.sources.decompress.stream import (
    CHUNK_BYTES,
    PIECE_BYTES,
    DecodedStream,
    RawInput,
    StreamDamage,
)

BZIP2_MAGIC = b"BZh"
XZ_MAGIC = b"\xfd7zXZ\x00"
LZ4_MAGIC = b"\x04\x22\x4d\x18"

STEP_BYTES = 4 << 10
"""Most bytes that one call may decode, since a fault loses what its call had decoded."""


class LibraryStream(DecodedStream):
    """Streams back to back, each decoded by an object of the standard library."""

    magic: ClassVar[bytes]
    padding: ClassVar[bytes] = b""
    """The byte that may fill space between and after streams."""

    def __init__(self, raw: RawInput) -> None:
        """Start at the first stream."""
        super().__init__(raw)
        self._decoder: Any = None

    def _new_decoder(self) -> Any:
        raise NotImplementedError

    def _decode(self) -> bytes:
        while self._decoder is not None or self._begin():
            data = bytes(self._raw.take(PIECE_BYTES)) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not data:
                raise StreamDamage(f"the {self.kind} data is cut short")
            try:
                piece: bytes = self._decoder.decompress(data, STEP_BYTES)
            except (OSError, lzma.LZMAError) as error:
                if machine_fault(error):
                    raise
                raise StreamDamage(f"the {self.kind} data is corrupt ({error})") from error
            if self._decoder.eof:
                self._raw.offset -= len(self._decoder.unused_data)
                self._decoder = None
            if piece:
                return piece
        return b""

    def _begin(self) -> bool:
        """Start on the next stream; False at the end of the file."""
        while (head := bytes(self._raw.peek(len(self.magic)))) != self.magic:
            rest = bytes(self._raw.peek(CHUNK_BYTES))
            if not rest:
                return False
            padding_bytes = len(rest) - len(rest.lstrip(self.padding))
            if not padding_bytes:
                raise StreamDamage(
                    f"the {self.kind} data is cut short in a header"
                    if self.magic.startswith(head)
                    else f"the {self.kind} data is followed by something else at byte "
                    f"{self._raw.offset}"
                )
            self._raw.offset += padding_bytes
        self._decoder = self._new_decoder()
        return True


class Bzip2Stream(LibraryStream):
    """The decoded bytes of a bzip2 file."""

    kind = "bzip2"
    magic = BZIP2_MAGIC

    def _new_decoder(self) -> Any:
        return bz2.BZ2Decompressor()


class XzStream(LibraryStream):
    """The decoded bytes of an xz file."""

    kind = "xz"
    magic = XZ_MAGIC
    padding = b"\0"

    def _new_decoder(self) -> Any:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ)


class Lz4Stream(DecodedStream):
    """The decoded bytes of LZ4 frames, by Arrow, which is imported only here."""

    kind = "lz4"

    def __init__(self, raw: RawInput) -> None:
        """Start at the first frame."""
        super().__init__(raw)
        self._decoded_bytes = 0
        self._library = self._open()

    def _open(self) -> Any:
        import pyarrow as pa

        self._raw.offset = 0
        return pa.CompressedInputStream(pa.PythonFile(_RawFile(self._raw), "r"), "lz4")

    def _decode(self) -> bytes:
        try:
            piece: bytes = self._library.read(PIECE_BYTES)
        except OSError as error:
            if machine_fault(error):
                raise
            piece = self._salvage()
            is_cut = "Truncated" in str(error)
            reason = "cut short" if is_cut else f"corrupt ({str(error).splitlines()[0]})"
            if not piece:
                raise StreamDamage(f"the lz4 data is {reason}") from error
            self._damage = f"the lz4 data is {reason}"
        self._decoded_bytes += len(piece)
        return piece

    def _salvage(self) -> bytes:
        """Decode again up to the fault, byte by byte at the end; Arrow lost what it had decoded."""
        library, left_bytes = self._open(), self._decoded_bytes
        while left_bytes:
            left_bytes -= len(library.read(min(PIECE_BYTES, left_bytes)))
        pieces = []
        try:
            while byte := library.read(1):
                pieces.append(byte)
        except OSError as error:
            if machine_fault(error):
                raise
        return b"".join(pieces)

    def close(self) -> None:
        """Close the file."""
        self._library.close()
        super().close()


class _RawFile(io.RawIOBase):
    """Raw input as a file for Arrow, which does not close it."""

    def __init__(self, raw: RawInput) -> None:
        self._raw = raw

    def readable(self) -> bool:
        return True

    def read(self, limit_bytes: int | None = -1, /) -> bytes:
        return bytes(self._raw.take(CHUNK_BYTES if limit_bytes is None else limit_bytes))
