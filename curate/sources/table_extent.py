"""Count the bytes of Parquet and Arrow files that their footers do not account for.

A footer says where everything in the file lies. Of tables that were joined (`cat a b`), the last
footer alone is read, and its places point into the first file, so rows are lost without a word.

References:
    "Apache Parquet format" 2.10, parquet.thrift: FileMetaData, ColumnChunk, BloomFilterHeader.
    Apache Thrift, "Thrift compact protocol encoding".
    "Arrow columnar format" 1.4, File.fbs: Footer, Block.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

from curate.sources.decompress.open import CHUNK_BYTES, StreamDamage
from curate.sources.plans import PARQUET_MAGIC

MAGIC_BYTES = len(PARQUET_MAGIC)
"""The magic stands at both ends of a Parquet file; the footer's length comes before the last."""

LEAST_BYTES = 3 * MAGIC_BYTES
"""No Parquet file is shorter."""

FILE_FIELDS = {1, 2, 3, 4}
"""Fields of each footer: version, schema, number of rows, row groups."""

BLOOM_HEADER_BYTES = 64
"""At least as long as the header of any Bloom filter."""

ARROW_HEAD_BYTES, ARROW_TAIL_BYTES = 8, 10
"""Length of the magic and its padding at the start of an Arrow file, and of the footer's length and
the magic at its end."""

ARROW_SLACK_BYTES = 64
"""Bytes for the end mark and for padding, which no block counts."""

Extent = tuple[int, int]
"""First byte, and one past the last."""


def check_parquet(file: BinaryIO, size_bytes: int, footer_bytes: int, chunks: list[Extent]) -> None:
    """Check that a Parquet file holds little but what its footer names, and padding of zeros.

    Many writers leave a copy of its metadata behind each column chunk, as the format once asked
    for. Together they are shorter than the footer. A table that was joined before this one and is
    shorter still is known by its end.

    Args:
        file: The file.
        size_bytes: Its length.
        footer_bytes: Length of its footer.
        chunks: Where each column chunk begins and ends.

    Raises:
        StreamDamage: It holds something else.
    """
    end = size_bytes - footer_bytes - 2 * MAGIC_BYTES
    rest_bytes = end - MAGIC_BYTES - sum(stop - start for start, stop in chunks)
    if rest_bytes <= footer_bytes:
        if joined_bytes := _table_before(file, rest_bytes):
            _refuse(joined_bytes)
        return
    file.seek(end)
    footer = CompactReader(file.read(footer_bytes)).struct()
    gaps = _gaps(sorted([*chunks, *_indices(file, footer)]), MAGIC_BYTES, end)
    rest_bytes = sum(stop - start for start, stop in gaps if not _is_zero(file, start, stop))
    if rest_bytes > footer_bytes:
        _refuse(rest_bytes)


def check_arrow(file: BinaryIO, size_bytes: int) -> None:
    """Check that an Arrow file holds nothing but its schema and the blocks that its footer names.

    Args:
        file: The file.
        size_bytes: Its length.

    Raises:
        StreamDamage: It holds something else.
    """
    file.seek(size_bytes - ARROW_TAIL_BYTES)
    footer_bytes = int.from_bytes(file.read(4), "little")
    end = size_bytes - ARROW_TAIL_BYTES - footer_bytes
    file.seek(end)
    blocks = _arrow_blocks(file.read(footer_bytes))
    # Only the schema comes before all blocks, and the footer holds it too.
    first = min((start for start, _ in blocks), default=ARROW_HEAD_BYTES + footer_bytes)
    rest_bytes = end - first - sum(length for _, length in blocks)
    if rest_bytes > ARROW_SLACK_BYTES:
        _refuse(rest_bytes)


def _table_before(file: BinaryIO, most_bytes: int) -> int:
    """Return the length of a whole table at the start of a Parquet file; 0 if there is none.

    Args:
        file: The file.
        most_bytes: Its greatest length.
    """
    if most_bytes < LEAST_BYTES:
        return 0
    file.seek(0)
    head = file.read(most_bytes + MAGIC_BYTES)
    length = head.find(2 * PARQUET_MAGIC) + MAGIC_BYTES
    while length >= LEAST_BYTES:
        tail = length - 2 * MAGIC_BYTES
        start = tail - int.from_bytes(head[tail : tail + 4], "little")
        with contextlib.suppress(StreamDamage):
            if (
                start >= MAGIC_BYTES
                and set(CompactReader(head[start:tail]).struct()) >= FILE_FIELDS
            ):
                return length
        length = head.find(2 * PARQUET_MAGIC, length) + MAGIC_BYTES
    return 0


def _refuse(rest_bytes: int) -> None:
    raise StreamDamage(
        f"{rest_bytes:,} bytes belong to nothing that the footer names, as where tables were "
        "joined; give each table a file of its own"
    )


def _gaps(extents: list[Extent], start: int, end: int) -> Iterator[Extent]:
    """Yield what extents in ascending order leave out between two places."""
    for begin, stop in [*extents, (end, end)]:
        if begin > start:
            yield start, min(begin, end)
        start = max(start, stop)


def _is_zero(file: BinaryIO, start: int, stop: int) -> bool:
    """Whether a part of a file is padding."""
    file.seek(start)
    while start < stop and (piece := file.read(min(CHUNK_BYTES, stop - start))):
        if piece.strip(b"\0"):
            return False
        start += len(piece)
    return True


def _indices(file: BinaryIO, footer: dict[int, Any]) -> Iterator[Extent]:
    """Yield where the page indices and Bloom filters of a Parquet file lie."""
    for group in footer.get(4, ()):
        for chunk in group.get(1, ()):
            for offset, length in ((4, 5), (6, 7)):
                if offset in chunk and length in chunk:
                    yield chunk[offset], chunk[offset] + chunk[length]
            column = chunk.get(3, {})
            if start := column.get(14, 0):
                yield start, start + (column.get(15) or _bloom_bytes(file, start))


def _bloom_bytes(file: BinaryIO, start: int) -> int:
    """Return the length of a Bloom filter whose footer does not state it."""
    file.seek(start)
    reader = CompactReader(file.read(BLOOM_HEADER_BYTES))
    header = reader.struct()
    return reader.at + int(header.get(1, 0))


class CompactReader:
    """Decodes Thrift's compact protocol: structures as dictionaries by field number.

    Raises:
        StreamDamage: The data is not of that kind.
    """

    def __init__(self, data: bytes) -> None:
        """Start at the first byte."""
        self._data = data
        self.at = 0

    def struct(self) -> dict[int, Any]:
        """Decode a structure.

        Example:
            >>> CompactReader(bytes.fromhex("1502 2100")).struct()
            {1: 1, 3: True}
        """
        fields: dict[int, Any] = {}
        number = 0
        try:
            while head := self._byte():
                number = number + (head >> 4) if head >> 4 else self._zigzag()
                fields[number] = self._value(head & 15)
        except (IndexError, RecursionError) as error:
            raise StreamDamage("the footer is corrupt") from error
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (1, 2):  # true and false, in a field
            return kind == 1
        if kind in (4, 5, 6):
            return self._zigzag()
        if kind in (3, 7):
            return self._take(1 if kind == 3 else 8)
        if kind == 8:
            return self._take(self._varint())
        if kind in (9, 10):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            element = head & 15
            return [self._byte() if element <= 2 else self._value(element) for _ in range(count)]
        if kind == 12:
            return self.struct()
        raise IndexError(kind)  # a map, which Parquet has not, or nothing at all

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _take(self, count_bytes: int) -> bytes:
        self.at += count_bytes
        if self.at > len(self._data):
            raise IndexError(self.at)
        return self._data[self.at - count_bytes : self.at]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
        return value | byte << shift

    def _zigzag(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)


def _arrow_blocks(footer: bytes) -> list[tuple[int, int]]:
    """Return the place and length of each dictionary and record batch that a footer names.

    Raises:
        StreamDamage: The footer points outside itself.
    """
    blocks = []
    try:
        (table,) = struct.unpack_from("<I", footer)
        vtable = table - struct.unpack_from("<i", footer, table)[0]
        (vtable_bytes,) = struct.unpack_from("<H", footer, vtable)
        for field in (2, 3):
            place = 4 + 2 * field
            (offset,) = struct.unpack_from("<H", footer, vtable + place)
            if place >= vtable_bytes or not offset:
                continue
            start = table + offset
            start += struct.unpack_from("<I", footer, start)[0]
            (count,) = struct.unpack_from("<I", footer, start)
            for number in range(count):
                at = start + 4 + 24 * number
                offset, metadata, body = struct.unpack_from("<qi4xq", footer, at)
                blocks.append((offset, metadata + body))
    except struct.error as error:
        raise StreamDamage("the footer is corrupt") from error
    return blocks
