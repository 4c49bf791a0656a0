"""Read Zstandard: any number of frames, skippable ones between them, windows up to 2 GiB.

Blocks are fed to the decoder one at a time. So a fault costs no more than its own block, an input
that ends inside a frame is seen (the library alone ends there without a word), and one call gives
at most one block, 128 KiB. Feeding larger pieces measured 10 % faster (Xeon, level 3) and was not
worth losing that.

References:
    RFC 8878, section 3.1: frames, blocks and skippable frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import zstandard

from curate.runtime.machine import machine_fault
from curate.sources.decompress.stream import DecodedStream, RawInput, StreamDamage

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
SKIPPABLE_MAGIC = range(0x184D2A50, 0x184D2A60)
LARGEST_WINDOW_BYTES = 1 << 31
LONGEST_HEADER_BYTES = 18
BLOCK_HEADER_BYTES = 3
CHECKSUM_BYTES = 4
CUT_SHORT = "the zstd data is cut short"


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """The fields of a frame header that are needed to walk over the frame."""

    header_bytes: int
    has_checksum: bool
    content_bytes: int | None
    """Decoded bytes of the frame, where the header states them."""


def parse_frame_header(data: bytes) -> FrameHeader | None:
    """Read a frame header at the start of `data`; None if there is none, or not all of it.

    Example:
        >>> parse_frame_header(bytes.fromhex("28b52ffd 2005"))
        FrameHeader(header_bytes=6, has_checksum=False, content_bytes=5)
    """
    if data[:4] != ZSTD_MAGIC or len(data) < 5:
        return None
    descriptor = data[4]
    is_single_segment = bool(descriptor & 0x20)
    start = 5 + (not is_single_segment) + (0, 1, 2, 4)[descriptor & 3]
    width = (int(is_single_segment), 2, 4, 8)[descriptor >> 6]
    if len(data) < start + width:
        return None
    content_bytes = None
    if width:
        content_bytes = int.from_bytes(data[start : start + width], "little")
        content_bytes += 256 if width == 2 else 0
    return FrameHeader(start + width, bool(descriptor & 4), content_bytes)


def block_bytes(header: bytes | memoryview) -> tuple[int, bool]:
    """Length of a block with its header, and whether it is the frame's last."""
    word = int.from_bytes(header, "little")
    is_run = (word >> 1 & 3) == 1
    return BLOCK_HEADER_BYTES + (1 if is_run else word >> 3), bool(word & 1)


def skippable_frame_bytes(data: bytes) -> int | None:
    """Length of the skippable frame at the start of `data`; None if there is none.

    Example:
        >>> skippable_frame_bytes(bytes.fromhex("502a4d18 0a000000"))
        18
    """
    if len(data) < 8 or not is_skippable_magic(data[:4]):
        return None
    return 8 + int.from_bytes(data[4:8], "little")


def is_skippable_magic(data: bytes) -> bool:
    """Whether four bytes start a skippable frame."""
    return int.from_bytes(data, "little") in SKIPPABLE_MAGIC


class ZstdStream(DecodedStream):
    """The decoded bytes of all frames, back to back."""

    kind = "zstd"

    def __init__(self, raw: RawInput) -> None:
        """Start at the first frame."""
        super().__init__(raw)
        self._library = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW_BYTES)
        self._decoder: Any = None
        self._has_checksum = False
        self._blocks_done = False
        self._content_bytes: int | None = None
        """Decoded bytes of the file, as far as known: the first frame states its own."""
        self._decoded_bytes = 0
        self._missing_bytes: int | None = None

    @property
    def undecoded_bytes(self) -> int:
        """See `ByteStream.undecoded_bytes`; exact where the first frame states its length."""
        return super().undecoded_bytes if self._missing_bytes is None else self._missing_bytes

    @property
    def estimated_bytes(self) -> int:
        """See `ByteStream.estimated_bytes`; what the first frame states, if that is about all."""
        estimate, stated = super().estimated_bytes, self._content_bytes or 0
        return stated if stated >= max(self.position, estimate // 2) else estimate

    def _cut_short(self) -> StreamDamage:
        """Say that the file ends inside a frame, and how much is missing where that is known."""
        if self._content_bytes is None:
            return StreamDamage(CUT_SHORT)
        self._missing_bytes = max(0, self._content_bytes - self._decoded_bytes)
        return StreamDamage(
            f"{CUT_SHORT}, {self._missing_bytes:,} of {self._content_bytes:,} bytes are missing"
        )

    def _decode(self) -> bytes:
        while True:
            if self._decoder is None and not self._begin_frame():
                return b""
            if self._blocks_done:
                self._end_frame()
            elif piece := self._next_block():
                return piece

    def _begin_frame(self) -> bool:
        """Start on the next frame; False at the end of the file."""
        self._pass_skippable_frames()
        data = bytes(self._raw.peek(LONGEST_HEADER_BYTES))
        if not data:
            return False
        header = parse_frame_header(data)
        if header is None:
            if data[:4] == ZSTD_MAGIC[: len(data)] or is_skippable_magic(data[:4]):
                raise StreamDamage(CUT_SHORT)
            raise StreamDamage(
                f"the zstd data is followed by something else at byte {self._raw.offset}"
            )
        self._decoder = self._library.decompressobj()
        self._has_checksum = header.has_checksum
        # Frames that may follow one that is cut short say nothing of those after them.
        self._content_bytes = header.content_bytes if self._raw.offset == 0 else None
        self._feed(header.header_bytes)
        return True

    def _pass_skippable_frames(self) -> None:
        while (length_bytes := skippable_frame_bytes(bytes(self._raw.peek(8)))) is not None:
            self._raw.offset += length_bytes
            if self._raw.offset > self._raw.size_bytes:
                raise StreamDamage(CUT_SHORT)

    def _next_block(self) -> bytes:
        header = self._raw.peek(BLOCK_HEADER_BYTES)
        length_bytes, self._blocks_done = block_bytes(header)
        if len(header) < BLOCK_HEADER_BYTES:
            raise self._cut_short()
        return self._feed(length_bytes)

    def _end_frame(self) -> None:
        rest = self._feed(CHECKSUM_BYTES) if self._has_checksum else b""
        if rest or not self._decoder.eof:
            raise StreamDamage("the zstd data is corrupt (a frame does not end where it should)")
        self._decoder, self._blocks_done = None, False

    def _feed(self, count_bytes: int) -> bytes:
        start = self._raw.offset
        data = self._raw.take(count_bytes)
        if len(data) < count_bytes:
            raise self._cut_short()
        try:
            piece: bytes = self._decoder.decompress(data)
        except zstandard.ZstdError as error:
            if machine_fault(error):
                raise
            self._raw.offset = start
            raise StreamDamage(f"the zstd data is corrupt at byte {start} ({error})") from error
        self._decoded_bytes += len(piece)
        return piece

    def _jump_frame(self, limit_bytes: int) -> int:
        if self._blocks_done:
            self._end_frame()
        if self._decoder is not None:
            return 0
        data = self._raw.read_at(self._raw.offset, LONGEST_HEADER_BYTES)
        if skippable_frame_bytes(data) is not None:
            self._pass_skippable_frames()
            data = self._raw.read_at(self._raw.offset, LONGEST_HEADER_BYTES)
        header = parse_frame_header(data)
        if header is None or not 0 < (header.content_bytes or 0) <= limit_bytes:
            return 0
        end = self._frame_end(header)
        if end is None:
            return 0
        self._raw.offset = end
        return header.content_bytes or 0

    def _frame_end(self, header: FrameHeader) -> int | None:
        """Offset after the frame that starts here; None if the file ends before it does."""
        end, is_last = self._raw.offset + header.header_bytes, False
        while not is_last:
            block_header = self._raw.read_at(end, BLOCK_HEADER_BYTES)
            if len(block_header) < BLOCK_HEADER_BYTES:
                return None
            length_bytes, is_last = block_bytes(block_header)
            end += length_bytes
        end += CHECKSUM_BYTES if header.has_checksum else 0
        return end if end <= self._raw.size_bytes else None
