"""Write and check datasets of raw text.

Tokens decide which documents are taken and in which order, exactly as for token formats; the text
itself comes from the sources again. Source files are read once, in parallel; each wanted document
goes to a spill file of its shard, and each shard is then written in order. Memory holds an index of
a shard's documents, not their text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from curate.dataset.manifest import Manifest, ShardRecord, record_file
from curate.dataset.write_tokens import ShardTask, ShardWriter, write_provenance
from curate.errors import InputError, ShardError
from curate.formats.base import TextBatch, TextFormat
from curate.runtime.workers import map_tasks
from curate.sources import SegmentReader
from curate.sources.plans import FilePlan
from curate.sources.records import DocumentBlock
from curate.tokens import tokenizer as tokenizers
from curate.tokens.backends import Encoder, load_encoder
from curate.tokens.domain import DomainTokens
from curate.tokens.tokenizer import Tokenizer

BATCH_DOCUMENTS = 1024
BATCH_BYTES = 8 << 20

CUT_STARTS = 64
"""Characters that may be left out at the beginning of a cut document."""

CUT_SEARCH_CHARACTERS = 16
"""Characters from a token's border within which to look for a cut of the right token count."""


class Spilled(msgspec.Struct, array_like=True):
    """One document on its way to its shard."""

    position: int
    text: str
    id: str
    metadata: str


@dataclass(frozen=True)
class TextJob:
    """Everything the shards of a text dataset have in common."""

    writer: ShardWriter
    text_format: TextFormat
    plans: Sequence[Sequence[FilePlan]]
    """shape (domains,), one plan a file, aligned with `DomainTokens.files`."""
    tokenizer: Tokenizer
    backend: str
    spill: Path


@dataclass(frozen=True)
class _Wanted:
    """Documents to take from one segment of a file."""

    domain: int
    file: int
    segment: int
    first_line: int
    """Lines of the file before the segment."""
    lines: NDArray[np.int64]
    """Ascending, from the start of the file; a line stands once for each time it is taken."""
    shards: NDArray[np.int64]
    positions: NDArray[np.int64]
    tokens: NDArray[np.int64]
    """shape (lines,), tokens to take of the document."""
    documents: NDArray[np.int64]


def write_text_shards(
    job: TextJob, tasks: Sequence[ShardTask], workers: int, on_tick: Callable[[], None]
) -> list[ShardRecord]:
    """Write all shards; records in the order of the tasks.

    Raises:
        InputError: A source file is no longer what was tokenised.
    """
    pieces = [job.writer.samples(task).pieces for task in tasks]
    wanted = _wanted(job, pieces)
    map_tasks(partial(_collect, job), list(enumerate(wanted)), workers, on_tick)
    numbered = list(zip(range(len(tasks)), tasks, pieces, strict=True))
    return map_tasks(partial(_write_shard, job), numbered, workers, on_tick)


def _wanted(job: TextJob, pieces: Sequence[NDArray[Any]]) -> list[_Wanted]:
    """Turn shards' documents into what to read of each segment of each file."""
    shard = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    position = np.concatenate([np.arange(len(piece)) for piece in pieces])
    rows = np.concatenate(pieces)
    found = []
    for number, domain in enumerate(job.writer.domains):
        own = np.flatnonzero(rows["domain"] == number)
        documents = rows["document"][own]
        files, lines = domain.locate(documents)
        order = np.lexsort((lines, files))
        own, documents, files, lines = own[order], documents[order], files[order], lines[order]
        for file in np.unique(files):
            begin, end = np.searchsorted(files, [file, file + 1])
            before = 0
            for stored in domain.files[file].entries:
                after = before + stored.entry.lines
                low, high = begin + np.searchsorted(lines[begin:end], [before + 1, after + 1])
                if low < high:
                    chosen = own[low:high]
                    found.append(
                        _Wanted(
                            number, int(file), stored.entry.segment, before, lines[low:high],
                            shard[chosen], position[chosen], rows["tokens"][chosen],
                            documents[low:high],
                        )
                    )  # fmt: skip
                before = after
    return found


def _collect(job: TextJob, numbered: tuple[int, _Wanted]) -> None:
    """Read one segment and spill its wanted documents to their shards."""
    number, wanted = numbered
    plan = job.plans[wanted.domain][wanted.file]
    domain = job.writer.domains[wanted.domain]
    encoder: Encoder | None = None
    encode = msgspec.msgpack.Encoder().encode
    outputs: dict[int, list[bytes]] = {}
    cursor = 0
    for block in SegmentReader().read(plan.segment(wanted.segment), keep_metadata=True):
        for index, line in enumerate(block.lines):
            absolute = line + wanted.first_line
            while cursor < len(wanted.lines) and wanted.lines[cursor] == absolute:
                document = int(wanted.documents[cursor])
                text = block.texts[index]
                _check_unchanged(domain, document, text, plan.files[0].path, absolute)
                tokens = int(wanted.tokens[cursor])
                if tokens < int(domain.tokens[document]):
                    encoder = encoder or load_encoder(job.backend, job.tokenizer)
                    text = cut_text(text, tokens - _end_tokens(job.tokenizer), encoder)
                record = Spilled(
                    int(wanted.positions[cursor]), text,
                    block.ids[index] or domain.content_hash(document), _metadata(block, index),
                )  # fmt: skip
                outputs.setdefault(int(wanted.shards[cursor]), []).append(encode(record))
                cursor += 1
        _spill(job.spill, number, outputs)
    if cursor < len(wanted.lines):
        where = f"{plan.files[0].path}:{wanted.lines[cursor]}"
        raise InputError(f"{where}: no longer there; build again")


def _check_unchanged(domain: DomainTokens, document: int, text: str, path: str, line: int) -> None:
    if xxhash.xxh3_128_hexdigest(text.encode()) != domain.content_hash(document):
        raise InputError(f"{path}:{line}: changed since it was tokenised; build again")


def _end_tokens(tokenizer: Tokenizer) -> int:
    return 0 if tokenizer.eos_id is None else 1


def _metadata(block: DocumentBlock, index: int) -> str:
    if block.metadata is None:
        return "{}"
    return msgspec.json.encode(block.metadata[index]).decode()


def _spill(directory: Path, number: int, outputs: dict[int, list[bytes]]) -> None:
    """Append records, each after its length in 4 bytes, to one file a shard and task."""
    for shard, records in outputs.items():
        path = directory / f"shard-{shard}"
        path.mkdir(parents=True, exist_ok=True)
        with (path / f"from-{number}").open("ab") as file:
            for record in records:
                file.write(len(record).to_bytes(4, "little") + record)
    outputs.clear()


def _write_shard(job: TextJob, task: tuple[int, ShardTask, NDArray[Any]]) -> ShardRecord:
    number, named, pieces = task
    layout = job.writer.layout
    stem = layout.stem(named.split, named.name)
    directory = job.spill / f"shard-{number}"
    files = job.text_format.write(stem, _batches(directory, pieces, job.writer.domains))
    provenance = layout.provenance(named.split, named.name)
    write_provenance(provenance, pieces, job.writer.domains)
    return ShardRecord(
        split=named.split,
        stem=layout.relative(stem),
        sequences=len(pieces),
        tokens=int(pieces["tokens"].sum()),
        files=[record_file(path, layout.directory) for path in files],
        provenance=record_file(provenance, layout.directory),
    )


def _batches(
    directory: Path, pieces: NDArray[Any], domains: Sequence[DomainTokens]
) -> Iterator[TextBatch]:
    """Yield the spilled documents of a shard in order."""
    paths = sorted(directory.iterdir()) if directory.is_dir() else []
    where = np.zeros((len(pieces), 3), np.int64)  # file, offset, length
    decoder = msgspec.msgpack.Decoder(Spilled)
    for number, path in enumerate(paths):
        offset = 0
        content = path.read_bytes()
        while offset < len(content):
            length = int.from_bytes(content[offset : offset + 4], "little")
            record = decoder.decode(content[offset + 4 : offset + 4 + length])
            where[record.position] = number, offset + 4, length
            offset += 4 + length
    batch = TextBatch([], [], [], [])
    size_bytes = 0
    files = [path.open("rb") for path in paths]
    try:
        for position, (number, offset, length) in enumerate(where):
            files[number].seek(offset)
            record = decoder.decode(files[number].read(length))
            batch.texts.append(record.text)
            batch.ids.append(record.id)
            batch.domains.append(domains[pieces["domain"][position]].name)
            batch.metadata.append(record.metadata)
            size_bytes += length
            if len(batch.texts) >= BATCH_DOCUMENTS or size_bytes >= BATCH_BYTES:
                yield batch
                batch, size_bytes = TextBatch([], [], [], []), 0
        if batch.texts:
            yield batch
    finally:
        for file in files:
            file.close()


def cut_text(text: str, tokens: int, encoder: Encoder) -> str:
    """Cut a run of `text`, from its beginning if possible, that encodes to exactly `tokens` tokens.

    No prefix may have that count, since one more character can add two tokens; then the run starts
    a few characters later.

    Raises:
        ShardError: No run that starts near the beginning has that number.
    """
    for start in range(min(CUT_STARTS, len(text))):
        found = _cut_end(text[start:], tokens, encoder)
        if found is not None:
            return found
    raise ShardError(
        f"no part of the document starting '{text[:40]}' has exactly {tokens} tokens; "
        "change budget_tokens by a few tokens"
    )


def _cut_end(text: str, tokens: int, encoder: Encoder) -> str | None:
    low, high = 0, len(text)
    while low < high:  # counts grow with the text but for a token or two near the cut
        middle = (low + high) // 2
        if _count(text[:middle], encoder) < tokens:
            low = middle + 1
        else:
            high = middle
    for distance in range(CUT_SEARCH_CHARACTERS):
        for end in (low + distance, low - distance):
            if 0 < end <= len(text) and text[:end].strip():
                if _count(text[:end], encoder) == tokens:
                    return text[:end]
    return None


def _count(text: str, encoder: Encoder) -> int:
    return len(encoder.encode([text])[0])


def check_text(  # noqa: PLR0913 - one check, all of whose inputs are its own
    directory: Path,
    manifest: Manifest,
    chosen: TextFormat,
    shard: ShardRecord,
    pieces: NDArray[Any],
    problems: list[str],
) -> None:
    """Tokenise a shard's text again and compare each document's tokens with the provenance."""
    tokenizer = tokenizers.load(directory / "tokenizer.json", manifest.tokenizer.eos)
    if tokenizer.fingerprint != manifest.tokenizer.fingerprint:
        problems.append("tokenizer.json: not the one that made the dataset")
        return
    backend = manifest.tokenizer.backend.split()[0]
    encoder = load_encoder(backend, tokenizer)
    position = cut_documents = 0
    for batch in chosen.read(directory / shard.stem):
        rows = pieces[position : position + len(batch.texts)]
        position += len(batch.texts)
        if len(rows) < len(batch.texts):
            break
        _, offsets = encoder.encode(batch.texts)
        tokens = np.diff(offsets) + _end_tokens(tokenizer)
        names = [manifest.domains[number] for number in rows["domain"]]
        if not np.array_equal(tokens, rows["tokens"]) or names != batch.domains:
            problems.append(f"{shard.stem}: documents differ from the provenance")
            return
        hashes = [xxhash.xxh3_128_intdigest(text.encode()) >> 64 for text in batch.texts]
        cut_documents += int(np.sum(np.array(hashes, np.uint64) != rows["content"]))
    if position != len(pieces):
        problems.append(f"{shard.stem}: {position} documents, provenance has {len(pieces)}")
    if cut_documents > 2 * len(manifest.domains):
        problems.append(f"{shard.stem}: {cut_documents} documents are not the ones named")
