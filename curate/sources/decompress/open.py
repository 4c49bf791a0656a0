"""The bytes of one input file, decompressed, read forward.

A file's compression is recognised by its first bytes, never by its name. Truncated or corrupt
data raises `StreamDamage` after everything that could be decoded before it has been delivered.
Left out: archives, and compressions in `REFUSED_MAGIC`, which are recognised only to say so.
"""

from __future__ import annotations

import io
import os
from typing import Any

from curate.errors import InputError
from curate.runtime.files import is_url, open_input
from curate.sources.decompress.gzip_stream import GZIP_MAGIC, GzipStream
from curate.sources.decompress.library_streams import (
    BZIP2_MAGIC,
    LZ4_MAGIC,
    XZ_MAGIC,
    Bzip2Stream,
    Lz4Stream,
    XzStream,
)
from curate.sources.decompress.stream import CHUNK_BYTES, ByteStream, RawInput, StreamDamage
from curate.sources.decompress.zstd_stream import (
    SKIPPABLE_MAGIC,
    ZSTD_MAGIC,
    ZstdStream,
    skippable_frame_bytes,
)

__all__ = ["CHUNK_BYTES", "ByteStream", "StreamDamage", "StreamFile", "open_stream"]

STREAMS: dict[str, type[ByteStream]] = {
    "plain": ByteStream,
    "gzip": GzipStream,
    "zstd": ZstdStream,
    "bzip2": Bzip2Stream,
    "xz": XzStream,
    "lz4": Lz4Stream,
}
"""Streams by the name of the compression."""

STREAM_MAGIC = {
    GZIP_MAGIC: "gzip",
    ZSTD_MAGIC: "zstd",
    BZIP2_MAGIC: "bzip2",
    XZ_MAGIC: "xz",
    LZ4_MAGIC: "lz4",
}

REFUSED_MAGIC = {
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"LZIP\x01": "lzip",
    b"\x1f\x9d": "compress (.Z)",
    b"\x02\x21\x4c\x18": "lz4 in its legacy frame",
    b"\xff\x06\x00\x00sNaPpY": "snappy",
}
BZIP2_BLOCK_MAGIC = b"1AY&SY"
BZIP2_END_MAGIC = b"\x17\x72\x45\x38\x50\x90"
"""Instead of a block, in a stream that holds nothing."""

FIRST_BYTES = frozenset(
    [
        *(magic[0] for magic in (*STREAM_MAGIC, *REFUSED_MAGIC)),
        *(magic & 0xFF for magic in SKIPPABLE_MAGIC),
    ]
)
"""First bytes of compressed files. Most text starts otherwise and needs no further test."""

MAGIC_BYTES = 16
"""Length of a file's beginning in which its compression can be recognised."""


class RefusedStream(ByteStream):
    """A file in an unsupported compression: reading it raises `StreamDamage`."""

    kind = "refused"

    def __init__(self, raw: RawInput, compression: str) -> None:
        super().__init__(raw)
        self._reason = f"{compression} is not read; unpack it, or recompress it with zstd or gzip"

    def read(self, limit_bytes: int) -> bytes:
        """Raise `StreamDamage`, saying what to do instead."""
        raise StreamDamage(self._reason)

    def skip_to(self, offset: int) -> None:
        """Raise `StreamDamage`, saying what to do instead."""
        raise StreamDamage(self._reason)


class StreamFile(io.RawIOBase):
    """A stream as a Python file object, for libraries that want one."""

    def __init__(self, stream: ByteStream) -> None:
        """Take over the stream: closing the file closes it."""
        self._stream = stream

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a part of `buffer`; damage in the stream passes through as `StreamDamage`."""
        view = memoryview(buffer)
        data = self._stream.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()
        super().close()


def open_stream(path: str, size_bytes: int, status: tuple[int | str, ...] = ()) -> ByteStream:
    """Open a local path or a URL as the bytes it holds once decompressed.

    Args:
        path: As in `InputFile.path`.
        size_bytes: Raw size when the file was identified.
        status: As in `InputFile.status`; empty if unknown.

    Raises:
        InputError: It cannot be opened, or has another size now.
    """
    file = open_input(path, status=status)
    try:
        if not is_url(path):
            now_bytes = os.fstat(file.fileno()).st_size
            if now_bytes != size_bytes:
                raise InputError(
                    f"{path}: has {now_bytes:,} bytes now, and had {size_bytes:,} when it was "
                    "identified; let whatever writes it finish, then run again"
                )
        return recognise_stream(RawInput(file, path, size_bytes))
    except BaseException:
        file.close()
        raise


def recognise_stream(raw: RawInput) -> ByteStream:
    """Open the stream that fits the first bytes of a file."""
    compression = compression_of(raw.read_at(0, MAGIC_BYTES))
    if compression not in STREAMS:
        return RefusedStream(raw, compression)
    return STREAMS[compression](raw)


def compression_of(magic: bytes) -> str:
    r"""Name the compression of a file, or `plain`.

    Args:
        magic: The file's first `MAGIC_BYTES` bytes, or all of a shorter file.

    Example:
        >>> compression_of(b"\x1f\x8b\x08"), compression_of(b'{"text": "BZh"}')
        ('gzip', 'plain')
    """
    if not magic or magic[0] not in FIRST_BYTES:
        return "plain"
    if skippable_frame_bytes(magic) is not None:
        return "zstd"
    for prefix, compression in (*STREAM_MAGIC.items(), *REFUSED_MAGIC.items()):
        if magic.startswith(prefix) and (
            compression != "bzip2" or magic[4:10] in (BZIP2_BLOCK_MAGIC, BZIP2_END_MAGIC)
        ):
            return compression
    return "plain"
