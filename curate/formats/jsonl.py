"""JSON Lines under zstd: one document a line, with `text`, `id`, `source` and `metadata`.

A file is a run of zstd frames. Each holds about 16 MB of whole lines, its decompressed size and a
checksum, so readers can skip frames or share them out. An empty frame ends the file: zstd calls
any whole number of frames a whole file, so without it a file cut between frames, or a file of no
bytes, would read as a shorter shard. Readers see nothing of it (checked with zstandard, pyarrow
and the zstd command). The window is level 3's 2 MB; some readers refuse more than 128 MB.

Readers that guess types turn a `text` that looks like a date into one: pass them a schema, or use
Parquet.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import orjson
import zstandard

from curate.errors import ShardError
from curate.formats.base import FILL, READ_BATCH_BYTES, TextBatch, TextFormat, open_shard, sibling
from curate.storage import atomic_path

LEVEL = 3
FRAME_BYTES = 16 << 20
"""Of lines; a frame is closed by the line that reaches it."""
READ_CHUNK_BYTES = 1 << 20


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """What a line must hold; metadata is kept as it was written."""

    text: str
    id: str
    source: str
    metadata: msgspec.Raw


def write(stem: Path, batches: Iterable[TextBatch]) -> list[Path]:
    """Write `<stem>.jsonl.zst`; frames do not depend on how documents were batched.

    Raises:
        ValueError: The lists of a batch differ in length.
        ShardError: Metadata is not a JSON object on one line, or a text is not valid Unicode.
    """
    path = sibling(stem, ".jsonl.zst")
    compressor = zstandard.ZstdCompressor(LEVEL, write_checksum=True, write_content_size=True)
    lines = bytearray()
    with atomic_path(path) as temporary, temporary.open(FILL) as file:
        for batch in batches:
            for document in zip(batch.texts, batch.ids, batch.domains, batch.metadata, strict=True):
                lines += to_line(*document)
                if len(lines) >= FRAME_BYTES:
                    file.write(compressor.compress(lines))
                    lines.clear()
        if lines:
            file.write(compressor.compress(lines))
        file.write(compressor.compress(b""))
    return [path]


def to_line(text: str, identifier: str, source: str, metadata: str) -> bytes:
    r"""One document as a line, with its line feed; the metadata keeps its digits and order.

    Raises:
        ShardError: `metadata` is not a JSON object on one line, or a string is not valid Unicode.

    Example:
        >>> to_line("a\nb", "7", "wiki", '{"year": 2020}')
        b'{"text":"a\\nb","id":"7","source":"wiki","metadata":{"year": 2020}}\n'
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


def read(stem: Path) -> Iterator[TextBatch]:
    """The documents of `<stem>.jsonl.zst`, up to 8 MB at a time; a frame is in memory.

    Raises:
        ShardError: The file is absent, cut or damaged, or a line is not as `write` makes it.
    """
    path = sibling(stem, ".jsonl.zst")
    decoder = msgspec.json.Decoder(Line)
    line_number = 0
    batch, batch_bytes = TextBatch([], [], [], []), 0
    for frame in read_frames(path):
        if not frame.endswith(b"\n"):
            raise ShardError(
                f"{path}: expected zstd frames of whole lines, found one ending {frame[-20:]!r}"
            )
        for line in io.BytesIO(frame):  # unlike a split, without a second copy of the frame
            line_number += 1
            if batch.texts and batch_bytes + len(line) > READ_BATCH_BYTES:
                yield batch
                batch, batch_bytes = TextBatch([], [], [], []), 0
            document = parse_line(decoder, line, f"{path}:{line_number}")
            batch.texts.append(document.text)
            batch.ids.append(document.id)
            batch.domains.append(document.source)
            batch.metadata.append(bytes(document.metadata).decode())
            batch_bytes += len(line)
    if batch.texts:
        yield batch


def parse_line(decoder: msgspec.json.Decoder[Line], line: bytes, where: str) -> Line:
    """One line, checked.

    Raises:
        ShardError: It is not JSON, or its fields are not the four of `write`.
    """
    try:
        document = decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ShardError(
            f"{where}: expected an object of text, id, source and metadata, found {line[:80]!r} "
            f"({error})"
        ) from error
    if not bytes(document.metadata).startswith(b"{"):
        found = bytes(document.metadata)[:80]
        raise ShardError(f"{where}: expected metadata that is an object, found {found!r}")
    return document


def read_frames(path: Path) -> Iterator[bytes]:
    """The content of each frame, without the empty one that ends the file.

    Raises:
        ShardError: A frame is damaged or cut, or the empty frame is not the last and only one.
    """
    frames = 0
    ended = False
    frame = zstandard.ZstdDecompressor().decompressobj()
    content: list[bytes] = []
    with open_shard(path) as file:
        while compressed := file.read(READ_CHUNK_BYTES):
            while compressed:
                if ended:
                    raise ShardError(f"{path}: expected its end after {frames} frames, found more")
                try:
                    content.append(frame.decompress(compressed))
                except zstandard.ZstdError as error:
                    raise ShardError(f"{path}: zstd frame {frames} is damaged ({error})") from error
                compressed = frame.unused_data if frame.eof else b""
                if frame.eof:
                    whole = b"".join(content)
                    frame, content = zstandard.ZstdDecompressor().decompressobj(), []
                    ended = not whole
                    frames += 1
                    if whole:
                        yield whole
    if not ended:
        raise ShardError(
            f"{path}: expected an empty zstd frame at its end, found it cut in frame {frames}"
        )


FORMAT = TextFormat(
    name="jsonl",
    summary="JSON Lines under zstd: text, id, source, metadata",
    trainers="Hugging Face datasets, torchtitan, GPT-NeoX, levanter, datatrove",
    write=write,
    read=read,
    hub_suffix=".jsonl.zst",
    snippet="""import io, json, zstandard

with open("{path}.jsonl.zst", "rb") as file:
    frames = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    documents = [json.loads(line) for line in io.TextIOWrapper(frames, "utf-8", newline="\\n")]
""",
)
