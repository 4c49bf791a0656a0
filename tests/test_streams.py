"""Streams give every decodable byte, tell of damage afterwards, and skip without losing place."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import random
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from source_files import write

from curate.errors import InputError
from curate.sources.decompress.gzip_stream import GZIP_MAGIC
from curate.sources.decompress.open import (
    REFUSED_MAGIC,
    StreamDamage,
    compression_of,
    open_stream,
)
from curate.sources.decompress.stream import CHUNK_BYTES
from curate.sources.decompress.zstd_stream import ZSTD_MAGIC, FrameHeader, parse_frame_header

SKIPPABLE_FRAME = bytes.fromhex("532a4d18") + (5).to_bytes(4, "little") + b"notes"
DATA = random.Random(1).randbytes(700_000).translate(bytes(range(64)) * 4)
"""Compresses to about three quarters, so that blocks are many and none is stored as it is."""


def zstd_frames(cuts: list[int], states_size: bool = True, checksum: bool = True) -> list[bytes]:
    """`DATA` as zstd frames cut at `cuts`."""
    compressor = zstandard.ZstdCompressor(write_content_size=states_size, write_checksum=checksum)
    edges = [0, *cuts, len(DATA)]
    frames = []
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        writer = compressor.compressobj(size=stop - start if states_size else -1)
        frames.append(writer.compress(DATA[start:stop]) + writer.flush())
    return frames


def lz4_frame(content: bytes) -> bytes:
    """A frame of independent blocks that are stored uncompressed when that is shorter."""
    return bytes(pa.compress(content, "lz4", asbytes=True))


ENCODINGS = {
    "plain": [DATA],
    "gzip": [gzip.compress(DATA, 1)],
    "gzip members": [gzip.compress(DATA[:1000], 1), gzip.compress(DATA[1000:], 1)],
    "gzip padded": [gzip.compress(DATA, 1) + b"\0" * 600],
    "zstd": zstd_frames([]),
    "zstd unsized": zstd_frames([], states_size=False),
    "zstd frames": zstd_frames([1, 5_000, 5_000, 300_000, 650_000]),
    "zstd unsized frames": zstd_frames([9, 400_000], states_size=False, checksum=False),
    "zstd skippable": [SKIPPABLE_FRAME, *zstd_frames([200_000]), SKIPPABLE_FRAME * 2],
    "zstd tiny frames": zstd_frames(list(range(700, 700_000, 700))),
    "bzip2": [bz2.compress(DATA, 1)],
    "bzip2 streams": [bz2.compress(DATA[:1000]), bz2.compress(b""), bz2.compress(DATA[1000:], 1)],
    "xz": [lzma.compress(DATA, preset=1)],
    "xz padded": [
        lzma.compress(DATA[:1000]) + bytes(8),
        lzma.compress(DATA[1000:], preset=1) + bytes(4),
    ],
    "lz4": [lz4_frame(DATA)],
    "lz4 frames": [lz4_frame(DATA[:1000]), SKIPPABLE_FRAME, lz4_frame(DATA[1000:])],
}


def read_stream(path: Path, limit_bytes: int = CHUNK_BYTES) -> tuple[bytes, str]:
    """All that a stream gives, and its damage."""
    pieces = []
    with open_stream(str(path), path.stat().st_size) as stream:
        try:
            while piece := stream.read(limit_bytes):
                assert len(piece) <= limit_bytes
                pieces.append(piece)
            assert stream.position == sum(map(len, pieces))
        except StreamDamage as damage:
            with pytest.raises(StreamDamage):
                stream.read(1)
            return b"".join(pieces), str(damage)
    return b"".join(pieces), ""


def decodable(content: bytes) -> bytes:
    """What the libraries make of a stream that was cut, fed at once."""
    if content.startswith(b"\x1f\x8b"):
        member = zlib.decompressobj(wbits=31)
        data = member.decompress(content)
        return data + (decodable(member.unused_data) if member.unused_data[18:] else b"")
    if content.startswith((b"BZh", b"\xfd7zXZ")):
        library: Any = bz2.BZ2Decompressor if content.startswith(b"BZh") else lzma.LZMADecompressor
        library_decoder = library()
        data = library_decoder.decompress(content)
        rest = library_decoder.unused_data.lstrip(b"\0") if library_decoder.eof else b""
        return data + (decodable(rest) if rest else b"")
    if content.startswith(b"\x04\x22\x4d\x18"):
        stream, pieces = pa.CompressedInputStream(pa.BufferReader(content), "lz4"), []
        with contextlib.suppress(OSError):
            while byte := stream.read(1):
                pieces.append(byte)
        return b"".join(pieces)
    decoder = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True)
    return decoder.decompress(content)


@pytest.mark.parametrize("limit_bytes", [777, CHUNK_BYTES])
@pytest.mark.parametrize("name", ENCODINGS)
def test_a_stream_gives_back_what_was_written(tmp_path: Path, name: str, limit_bytes: int) -> None:
    path = write(tmp_path / "misnamed.txt", b"".join(ENCODINGS[name]))
    assert read_stream(path, limit_bytes) == (DATA, "")
    with open_stream(str(path), path.stat().st_size) as stream:
        assert stream.kind == name.split()[0]


@pytest.mark.parametrize("name", ENCODINGS)
def test_skipping_keeps_the_place(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "file", b"".join(ENCODINGS[name]))
    choose = random.Random(2)
    for _ in range(8):
        with open_stream(str(path), path.stat().st_size) as stream:
            while stream.position < len(DATA):
                stream.skip_to(min(len(DATA), stream.position + choose.randrange(400_000)))
                at = stream.position
                piece = stream.read(1 + choose.randrange(100_000))
                assert piece == DATA[at : at + len(piece)]
            stream.skip_to(len(DATA) + 5)
            assert (stream.position, stream.read(1)) == (len(DATA), b"")


def test_frames_that_state_their_size_are_jumped_undecoded(tmp_path: Path) -> None:
    frames = zstd_frames([100_000, 200_000, 300_000])
    frames[1] = frames[1][:40_000] + bytes(100) + frames[1][40_100:]
    path = write(tmp_path / "file", b"".join(frames))
    assert read_stream(path)[1].startswith("the zstd data is corrupt")
    with open_stream(str(path), path.stat().st_size) as stream:
        stream.skip_to(250_000)
        assert stream.read(100) == DATA[250_000:250_100]


@pytest.mark.parametrize("name", sorted(ENCODINGS.keys() - {"plain", "gzip padded", "xz padded"}))
def test_a_cut_stream_gives_what_is_decodable_and_says_it_is_cut(tmp_path: Path, name: str) -> None:
    content = b"".join(ENCODINGS[name])
    ends = {sum(map(len, ENCODINGS[name][: count + 1])) for count in range(len(ENCODINGS[name]))}
    cuts = random.Random(3).sample(range(30, len(content)), 2 if name.startswith("lz4") else 20)
    for cut in [len(content) - 601, len(content) - 1, 21, *cuts]:
        data, damage = read_stream(write(tmp_path / "file", content[:cut]))
        assert data == decodable(content[:cut])
        assert damage == "" if cut in ends else "cut short" in damage, cut


@pytest.mark.parametrize("name", ["gzip", "gzip members", "zstd", "zstd frames", "xz"])
def test_a_flipped_byte_costs_nothing_before_it(tmp_path: Path, name: str) -> None:
    content = b"".join(ENCODINGS[name])
    for at in [*random.Random(4).sample(range(20_000, len(content)), 12), len(content) - 1]:
        path = write(tmp_path / "file", content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        data, damage = read_stream(path)
        before = decodable(content[:at])
        assert data.startswith(before[: max(0, len(before) - 4096)])
        assert damage
    assert DATA.startswith(data), "only the checksum at the end was wrong"
    assert len(data) > len(DATA) - 4096


def test_what_follows_compressed_data_is_reported(tmp_path: Path) -> None:
    for name in ("gzip", "zstd", "bzip2", "xz"):
        path = write(tmp_path / name, b"".join(ENCODINGS[name]) + b"stray text, not a frame")
        data, damage = read_stream(path)
        assert data == DATA
        assert damage.endswith(f"followed by something else at byte {len(ENCODINGS[name][0])}")


@pytest.mark.parametrize(
    ("compression", "content"),
    [("zip", b"PK\x03\x04...."), ("compress (.Z)", b"\x1f\x9d\x90"), ("lzip", b"LZIP\x01\x0c")],
)
def test_other_compressions_are_named(tmp_path: Path, compression: str, content: bytes) -> None:
    path = write(tmp_path / "file", content)
    assert read_stream(path) == (
        b"",
        f"{compression} is not read; unpack it, or recompress it with zstd or gzip",
    )


def test_every_beginning_of_compressed_data_is_known() -> None:
    skippable = [bytes([0x50 + kind]) + bytes.fromhex("2a4d18 00000000") for kind in range(16)]
    assert {compression_of(magic) for magic in [ZSTD_MAGIC, *skippable]} == {"zstd"}
    assert compression_of(GZIP_MAGIC) == "gzip"
    assert {compression_of(bz2.compress(text)) for text in (b"", b"x")} == {"bzip2"}
    assert compression_of(lzma.compress(b"")) == "xz"
    assert compression_of(lz4_frame(b"")) == "lz4"
    assert [compression_of(magic) for magic in REFUSED_MAGIC] == list(REFUSED_MAGIC.values())
    plain = [b"", b"{", b"PAR1", b"BZhello", b"(", bytes.fromhex("502a4d17") + bytes(8), b"P"]
    assert {compression_of(magic) for magic in plain} == {"plain"}


def test_a_window_of_two_gigabytes_is_read(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=29)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path = write(tmp_path / "file", writer.compress(DATA) + writer.flush())
    with pytest.raises(zstandard.ZstdError):
        decodable(path.read_bytes())
    assert read_stream(path) == (DATA, "")


def test_a_bomb_comes_out_in_small_pieces(tmp_path: Path) -> None:
    zeros = bytes(30_000_000)
    compressors = [
        zstandard.ZstdCompressor().compress, gzip.compress, bz2.compress, lzma.compress, lz4_frame
    ]  # fmt: skip
    for content in (compress(zeros) for compress in compressors):
        path = write(tmp_path / "file", content)
        with open_stream(str(path), len(content)) as stream:
            assert len(stream.read(1 << 30)) <= 1 << 20
            stream.skip_to(29_999_999)
            assert stream.read(9) == b"\0"


def test_frame_headers_of_every_shape() -> None:
    # RFC 8878: content size of 1, 2 (less 256), 4 and 8 bytes; window byte unless single segment.
    assert parse_frame_header(bytes.fromhex("28b52ffd 2007")) == FrameHeader(6, False, 7)
    assert parse_frame_header(bytes.fromhex("28b52ffd 6401 00")) == FrameHeader(7, True, 257)
    assert parse_frame_header(bytes.fromhex("28b52ffd 8058 01000000")) == FrameHeader(10, False, 1)
    assert parse_frame_header(bytes.fromhex("28b52ffd c058") + bytes([2] + [0] * 7)) == (
        FrameHeader(14, False, 2)
    )
    assert parse_frame_header(bytes.fromhex("28b52ffd 0358 01020304")) == FrameHeader(
        10, False, None
    )
    assert parse_frame_header(bytes.fromhex("28b52ffd c058 02")) is None


def test_a_file_that_changed_or_is_gone_is_the_users_to_mend(tmp_path: Path) -> None:
    path = write(tmp_path / "file", b"12345")
    with pytest.raises(InputError, match="has 5 bytes now, and had 4 when it was identified"):
        open_stream(str(path), 4)
    with pytest.raises(InputError, match="cannot be opened"):
        open_stream(str(tmp_path / "absent"), 4)
    with open_stream(str(path), 5) as stream:
        os.truncate(path, 2)
        assert stream.read(9) == b"12"
        with pytest.raises(InputError, match="ends at byte 2 of 5"):
            stream.read(9)
