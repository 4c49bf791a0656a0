"""WebDataset: `<stem>.tar`, two members a document, `KEY.txt` and `KEY.json`.

The members of a document are adjacent and share a key: the shard's name and the document's number
in it. Everything after the first dot of a member's name is its field, so dots in the shard's name
become dashes. `KEY.json` holds id, source, metadata and `xxh3`, a hash of all of them and the
text, because tar itself has checksums of headers only. Plain ustar with fixed times and owners, so
the same documents give the same bytes. Left out: the index files of energon and wids.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path

import msgspec
import orjson
import xxhash

from curate.errors import ShardError
from curate.formats.base import FILL, READ_BATCH_BYTES, TextBatch, TextFormat, open_shard, sibling
from curate.formats.jsonl import check_metadata
from curate.formats.trainers import config_files, draws
from curate.formats.trainers.mixtures import TrainerMixture
from curate.runtime.files import atomic_path

BLOCK_BYTES = tarfile.BLOCKSIZE
END_BYTES = 2 * BLOCK_BYTES


class Record(msgspec.Struct, forbid_unknown_fields=True):
    """Fields of `KEY.json`; metadata is JSON as text, so that its type never varies."""

    id: str
    source: str
    metadata: str
    xxh3: str


def write(stem: Path, batches: Iterable[TextBatch]) -> list[Path]:
    """Write `<stem>.tar`.

    Raises:
        ValueError: The lists of a batch differ in length.
        ShardError: Metadata is not a JSON object, or a text is not valid Unicode.
    """
    path = sibling(stem, ".tar")
    key = stem.name.replace(".", "-")
    number = 0
    with atomic_path(path) as temporary, temporary.open(FILL) as file:
        for batch in batches:
            for document in zip(batch.texts, batch.ids, batch.domains, batch.metadata, strict=True):
                text, record = _to_members(*document)
                file.write(member(f"{key}-{number:08d}.txt", text))
                file.write(member(f"{key}-{number:08d}.json", record))
                number += 1
        file.write(bytes(END_BYTES))
    return [path]


def _to_members(text: str, identifier: str, source: str, metadata: str) -> tuple[bytes, bytes]:
    """Make the contents of a document's two members.

    Raises:
        ShardError: `metadata` is not a JSON object on one line, or a string is not valid Unicode.
    """
    check_metadata(identifier, source, metadata)
    try:
        content = text.encode()
        record = {
            "id": identifier,
            "source": source,
            "metadata": metadata,
            "xxh3": _content_hash(content, identifier, source, metadata),
        }
        return content, orjson.dumps(record)
    except (UnicodeEncodeError, orjson.JSONEncodeError) as error:
        raise ShardError(f"document of {source!r} cannot be stored ({error})") from error


def _content_hash(text: bytes, identifier: str, source: str, metadata: str) -> str:
    """Hash everything that is stored of a document: xxh3-64, 16 hexadecimal digits."""
    digest = xxhash.xxh3_64()
    for piece in (text, identifier.encode(), source.encode(), metadata.encode()):
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
    return digest.hexdigest()


def member(name: str, content: bytes) -> bytes:
    """Make an archive member: header, content, zeros up to the next block."""
    return member_header(name, len(content)) + content + bytes(-len(content) % BLOCK_BYTES)


def member_header(name: str, size_bytes: int) -> bytes:
    """Make the 512 bytes of a ustar header, with the same times and owners for every member."""
    info = tarfile.TarInfo(name)
    info.size = size_bytes
    return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")


def read(stem: Path) -> Iterator[TextBatch]:
    """Yield the documents of `<stem>.tar`, up to 8 MB of text at a time.

    Raises:
        ShardError: The file is absent, cut or damaged, or its members are not those of `write`.
    """
    path = sibling(stem, ".tar")
    batch, batch_bytes = TextBatch([], [], [], []), 0
    key = stem.name.replace(".", "-")
    decoder = msgspec.json.Decoder(Record)
    number = 0
    with open_shard(path) as file:
        while (text := _read_member(path, file, f"{key}-{number:08d}.txt")) is not None:
            stored = _read_member(path, file, f"{key}-{number:08d}.json")
            record = _parse(f"{path}: document {number}", text, stored, decoder)
            if batch.texts and batch_bytes + len(text) > READ_BATCH_BYTES:
                yield batch
                batch, batch_bytes = TextBatch([], [], [], []), 0
            batch.texts.append(text.decode())
            batch.ids.append(record.id)
            batch.domains.append(record.source)
            batch.metadata.append(record.metadata)
            batch_bytes += len(text)
            number += 1
        if file.read(1):
            raise ShardError(f"{path}: expected its end after {number} documents, found more")
    if batch.texts:
        yield batch


def _read_member(path: Path, file: BufferedReader, name: str) -> bytes | None:
    """Return the content of the next member, or None at the end of the archive.

    Raises:
        ShardError: The member is cut, damaged, or has another name.
    """
    header = file.read(BLOCK_BYTES)
    if header == bytes(BLOCK_BYTES):
        if file.read(BLOCK_BYTES) != header:
            raise ShardError(f"{path}: expected two empty blocks at its end, found one")
        return None
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise ShardError(f"{path}: expected the tar header of {name}, found {error}") from error
    if header != member_header(name, info.size):
        raise ShardError(f"{path}: expected the member {name}, found {info.name!r}")
    padded = -(-info.size // BLOCK_BYTES) * BLOCK_BYTES
    content = file.read(padded)
    if len(content) != padded or content[info.size :].strip(b"\0"):
        raise ShardError(f"{path}: {name}: expected {info.size} bytes and zeros behind them")
    return content[: info.size]


def _parse(
    where: str, text: bytes, stored: bytes | None, decoder: msgspec.json.Decoder[Record]
) -> Record:
    """Decode a document's record and compare its hash with the text.

    Raises:
        ShardError: The record is absent or has another form, or the hashes differ.
    """
    try:
        record = decoder.decode(stored or b"")
        content_xxh3 = _content_hash(text, record.id, record.source, record.metadata)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ShardError(
            f"{where}: expected an object of id, source, metadata and xxh3 ({error})"
        ) from error
    if content_xxh3 != record.xxh3:
        raise ShardError(f"{where}: content has the hash {content_xxh3}, stored is {record.xxh3}")
    return record


FORMAT = TextFormat(
    name="webdataset",
    summary="tar shards of KEY.txt and KEY.json",
    trainers="webdataset, Megatron-Energon, Hugging Face datasets",
    write=write,
    read=read,
    hub_suffix=".tar",
    mixtures=(
        TrainerMixture(
            "webdataset.RandomMix, energon",
            "rows",
            exact=False,
            draw=draws.random_rows,
            config_files=config_files.webdataset,
            config_stems=("random_mix", "energon"),
            ends_first=True,
        ),
    ),
    snippet="""import webdataset

documents = webdataset.WebDataset("{path}.tar", shardshuffle=False).decode()
# each has txt, and json with id, source and metadata
""",
)
