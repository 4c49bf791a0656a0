"""JSON Lines: one document a line, with `text`, `id`, `source` and `metadata`.

| variant | file | for |
|---|---|---|
| `zstd` | `.jsonl.zst` | the default |
| `dolma` | `.jsonl.gz` | dolma and OLMo, whose records have just these fields |
| `plain` | `.jsonl` | Megatron's preprocess_data.py, torchtitan's byte offsets, lingua |

A zstd file is a run of frames. Each holds about 16 MB of whole lines, its decompressed size and a
checksum, so readers can skip frames or share them out. An empty frame ends the file: zstd calls
any whole number of frames a whole file, so without it a file cut between frames, or a file of no
bytes, would read as a shorter shard. Readers see nothing of it (checked with zstandard, pyarrow
and the zstd command). The window is level 3's 2 MB; some readers refuse more than 128 MB.

A gzip file is a run of members in the same way. A plain file has no checksums and may be cut
between lines without a trace: there only the manifest knows.

Readers that guess types turn a `text` that looks like a date into one: pass them a schema, or use
Parquet.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import orjson
import zstandard

from curate.errors import ShardError
from curate.formats.base import (
    FILL,
    READ_BATCH_BYTES,
    Option,
    Settings,
    TextBatch,
    TextFormat,
    open_shard,
    sibling,
)
from curate.formats.trainers.mixtures import HUGGING_FACE, LEVANTER, TORCHTITAN
from curate.runtime.files import atomic_path
from curate.runtime.machine import fault_or

LEVEL = 3
GZIP_LEVEL = 6
FRAME_BYTES = 16 << 20
"""The line with which a frame's lines reach this number of bytes closes the frame."""
READ_CHUNK_BYTES = 1 << 20


class JsonLine(msgspec.Struct, forbid_unknown_fields=True):
    """Fields of a line; metadata is kept as it was written."""

    text: str
    id: str
    source: str
    metadata: msgspec.Raw


SUFFIXES = {"zstd": ".jsonl.zst", "dolma": ".jsonl.gz", "plain": ".jsonl"}


def frame_of(lines: bytes | bytearray, variant: str) -> bytes:
    """Compress lines to a frame of the variant, which is a valid file by itself."""
    if variant == "plain":
        return bytes(lines)
    if variant == "dolma":
        return gzip.compress(lines, GZIP_LEVEL, mtime=0)
    return zstandard.ZstdCompressor(LEVEL, write_checksum=True, write_content_size=True).compress(
        lines
    )


def write(stem: Path, batches: Iterable[TextBatch], variant: str = "zstd") -> list[Path]:
    """Write `<stem>.jsonl.zst`; frames do not depend on how documents were batched.

    Args:
        stem: Path of the shard without suffix.
        batches: Documents, in order.
        variant: A key of `SUFFIXES`, which gives the file's suffix.

    Raises:
        ValueError: The lists of a batch differ in length.
        ShardError: Metadata is not a JSON object on one line, or a text is not valid Unicode.
    """
    path = sibling(stem, SUFFIXES[variant])
    lines = bytearray()
    with atomic_path(path) as temporary, temporary.open(FILL) as file:
        for batch in batches:
            for document in zip(batch.texts, batch.ids, batch.domains, batch.metadata, strict=True):
                lines += to_line(*document)
                if len(lines) >= FRAME_BYTES:
                    file.write(frame_of(lines, variant))
                    lines.clear()
        if lines:
            file.write(frame_of(lines, variant))
        file.write(frame_of(b"", variant))
    return [path]


def to_line(text: str, identifier: str, source: str, metadata: str) -> bytes:
    r"""Encode a document as a line with its line feed; metadata keeps its digits and order.

    Args:
        text: Text of the document.
        identifier: Its id.
        source: Its domain.
        metadata: A JSON object on one line.

    Raises:
        ShardError: `metadata` is not a JSON object on one line, or a string is not valid Unicode.

    Example:
        >>> to_line("a\nb", "7", "wiki", '{"year": 2020}')
        b'{"text":"a\\nb","id":"7","source":"wiki","metadata":{"year": 2020}}\n'
    """
    check_metadata(identifier, source, metadata)
    record = {
        "text": text,
        "id": identifier,
        "source": source,
        "metadata": orjson.Fragment(metadata),
    }
    try:
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError as error:
        raise ShardError(
            f"document {identifier!r} of {source!r} cannot be stored ({error})"
        ) from error


def check_metadata(identifier: str, source: str, metadata: str) -> None:
    """Check that a document's metadata can be stored.

    Args:
        identifier: Id of the document, for the message.
        source: Its domain, for the message.
        metadata: Text to check.

    Raises:
        ShardError: The text is not a JSON object on one line.
    """
    try:
        is_object = isinstance(orjson.loads(metadata), dict) and "\n" not in metadata
    except orjson.JSONDecodeError:
        is_object = False
    if not is_object:
        raise ShardError(
            f"document {identifier!r} of {source!r}: expected metadata that is a JSON object on "
            f"one line, found {metadata[:200]!r}"
        )


def read(stem: Path, variant: str = "zstd") -> Iterator[TextBatch]:
    """Yield the documents of `<stem>.jsonl.zst`, up to 8 MB at a time; one frame is in memory.

    Raises:
        ShardError: The file is absent, cut or damaged, or a line is not as `write` makes it.
    """
    path = sibling(stem, SUFFIXES[variant])
    decoder = msgspec.json.Decoder(JsonLine)
    line_number = 0
    batch, batch_bytes = TextBatch([], [], [], []), 0
    for frame in read_lines(path) if variant == "plain" else read_frames(path, variant):
        if not frame.endswith(b"\n"):
            raise ShardError(
                f"{path}: expected {variant} frames of whole lines, found one ending "
                f"{frame[-20:]!r}"
            )
        for line in io.BytesIO(frame):  # unlike a split, without a second copy of the frame
            line_number += 1
            if batch.texts and batch_bytes + len(line) > READ_BATCH_BYTES:
                yield batch
                batch, batch_bytes = TextBatch([], [], [], []), 0
            document = _parse_line(decoder, line, f"{path}:{line_number}")
            batch.texts.append(document.text)
            batch.ids.append(document.id)
            batch.domains.append(document.source)
            batch.metadata.append(bytes(document.metadata).decode())
            batch_bytes += len(line)
    if batch.texts:
        yield batch


def _parse_line(decoder: msgspec.json.Decoder[JsonLine], line: bytes, where: str) -> JsonLine:
    """Decode and check one line.

    Raises:
        ShardError: The line is not JSON, or its fields are not the four of `write`.
    """
    try:
        document = decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ShardError(
            f"{where}: expected an object of text, id, source and metadata, found {line[:80]!r} "
            f"({error})"
        ) from error
    if not bytes(document.metadata).startswith(b"{"):
        start = bytes(document.metadata)[:80]
        raise ShardError(f"{where}: expected metadata that is an object, found {start!r}")
    return document


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield whole lines of a plain file, about 1 MB at a time; the last may lack a line feed."""
    with open_shard(path) as file:
        while lines := file.readlines(READ_CHUNK_BYTES):
            yield b"".join(lines)


def decompressor(variant: str) -> Any:
    """Make a decompressor for one frame."""
    if variant == "dolma":
        return zlib.decompressobj(zlib.MAX_WBITS | 16)
    return zstandard.ZstdDecompressor().decompressobj()


def read_frames(path: Path, variant: str = "zstd") -> Iterator[bytes]:
    """Yield the content of each frame, without the empty one that ends the file.

    Raises:
        ShardError: A frame is damaged or cut, or the empty frame is not the last and only one.
    """
    frames = 0
    ended = False
    frame = decompressor(variant)
    content: list[bytes] = []
    with open_shard(path) as file:
        while compressed := file.read(READ_CHUNK_BYTES):
            while compressed:
                if ended:
                    raise ShardError(f"{path}: expected its end after {frames} frames, found more")
                try:
                    content.append(frame.decompress(compressed))
                except (zstandard.ZstdError, zlib.error) as error:
                    damage = ShardError(f"{path}: {variant} frame {frames} is damaged ({error})")
                    raise fault_or(damage, error, str(path)) from error
                compressed = frame.unused_data if frame.eof else b""
                if frame.eof:
                    whole = b"".join(content)
                    frame, content = decompressor(variant), []
                    ended = not whole
                    frames += 1
                    if whole:
                        yield whole
    if not ended:
        raise ShardError(
            f"{path}: expected an empty {variant} frame at its end, found it cut in frame {frames}"
        )


def configure(settings: Settings) -> TextFormat:
    """Configure the format for its variant."""
    variant = settings.options["variant"]
    return replace(
        FORMAT,
        write=partial(write, variant=variant),
        read=partial(read, variant=variant),
        hub_suffix=SUFFIXES[variant],
        snippet=SNIPPETS[variant],
    )


SNIPPETS = {
    "zstd": """import io, json, zstandard

with open("{path}.jsonl.zst", "rb") as file:
    frames = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    documents = [json.loads(line) for line in io.TextIOWrapper(frames, "utf-8", newline="\\n")]
""",
    "dolma": """import gzip, json

with gzip.open("{path}.jsonl.gz", "rt", encoding="utf-8", newline="\\n") as lines:
    documents = [json.loads(line) for line in lines]
# dolma tokens --documents "train/*.jsonl.gz"
""",
    "plain": """import json

with open("{path}.jsonl", encoding="utf-8", newline="\\n") as lines:
    documents = [json.loads(line) for line in lines]
# Megatron: preprocess_data.py --input {path}.jsonl --append-eod; torchtitan: the same file
""",
}

FORMAT = TextFormat(
    name="jsonl",
    summary="JSON Lines: text, id, source, metadata; under zstd, gzip or plain",
    trainers="Hugging Face datasets, torchtitan, GPT-NeoX, levanter, datatrove, dolma",
    write=write,
    read=read,
    options={"variant": Option("compression and file name", str, "zstd", tuple(SUFFIXES))},
    configure=configure,
    hub_suffix=SUFFIXES["zstd"],
    mixtures=(HUGGING_FACE, TORCHTITAN, LEVANTER),
    snippet=SNIPPETS["zstd"],
)
