"""Write and check datasets of raw text.

The plan picks and orders documents by tokens, exactly as for token formats; the text itself comes
from the sources again. Source files are read once, in parallel; each document that is taken goes to
a spill file of its shard, and each shard is then written in order. Memory holds an index of a
shard's documents, not their text.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from curate.dataset.manifest import ShardOnDisk, ShardRecord, record_file
from curate.dataset.write_tokens import COPYING, ShardTask, ShardWriter, write_provenance
from curate.errors import InputError, ShardError
from curate.formats.base import TextBatch, TextFormat
from curate.runtime.files import append
from curate.runtime.limits import stranger_at_work
from curate.runtime.progress import worked
from curate.runtime.registry import counted
from curate.runtime.workers import map_tasks
from curate.sources import SegmentReader
from curate.sources.plans import FilePlan
from curate.sources.records import DocumentBlock
from curate.tokens import tokenizer as tokenizers
from curate.tokens.backends import BackendRefused, Encoder, guarded, load_encoder
from curate.tokens.domain import DomainTokens
from curate.tokens.tokenizer import Tokenizer

COLLECTING = 1
"""Kind of work beside `COPYING`: each document is collected, then written."""

BATCH_DOCUMENTS = 1024
BATCH_BYTES = 8 << 20

CUT_STARTS = 64
"""Start positions, in characters, to try for the cut of a document."""

CUT_SEARCH_CHARACTERS = 16
"""Distance, in characters, from the estimated end within which to look for an exact cut."""


kept_encoder = functools.lru_cache(maxsize=1)(load_encoder)
"""`load_encoder`, once for all shards of a process: it takes half a second."""


class Spilled(msgspec.Struct, array_like=True):
    """One document on its way to its shard."""

    position: int
    text: str
    id: str
    metadata: str


@dataclass(frozen=True)
class TextJob:
    """Everything that the shards of a text dataset share."""

    writer: ShardWriter
    text_format: TextFormat
    plans: Sequence[Sequence[FilePlan]]
    """shape (domains,), one plan a file, aligned with `DomainTokens.files`."""
    tokenizer: Tokenizer
    backend: str
    spill: Path


@dataclass(frozen=True)
class _SegmentPick:
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
    """Write all shards and return their records, in the order of the tasks.

    Args:
        job: Properties that the shards share.
        tasks: Shards to write.
        workers: Number of processes.
        on_tick: Called now and then.

    Raises:
        InputError: A source file has changed since it was tokenised.
    """
    pieces = [job.writer.samples(task).pieces for task in tasks]
    picks = list(enumerate(_segment_picks(job, pieces)))
    map_tasks(partial(_collect, job), picks, workers, on_tick)
    numbered = list(zip(range(len(tasks)), tasks, pieces, strict=True))
    return map_tasks(partial(_write_shard, job), numbered, workers, on_tick)


def _segment_picks(job: TextJob, pieces: Sequence[NDArray[Any]]) -> list[_SegmentPick]:
    """Group the documents of all shards by the file and segment that hold them."""
    shard = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    position = np.concatenate([np.arange(len(piece)) for piece in pieces])
    rows = np.concatenate(pieces)
    picks = []
    for number, domain in enumerate(job.writer.domains):
        places = np.flatnonzero(rows["domain"] == number)
        documents = rows["document"][places]
        files, lines = domain.locate(documents)
        order = np.lexsort((lines, files))
        places, documents = places[order], documents[order]
        files, lines = files[order], lines[order]
        for file in np.unique(files):
            begin, end = np.searchsorted(files, [file, file + 1])
            before = 0
            for stored in domain.files[file].entries:
                after = before + stored.entry.lines
                low, high = begin + np.searchsorted(lines[begin:end], [before + 1, after + 1])
                if low < high:
                    taken = places[low:high]
                    picks.append(
                        _SegmentPick(
                            domain=number,
                            file=int(file),
                            segment=stored.entry.segment,
                            first_line=before,
                            lines=lines[low:high],
                            shards=shard[taken],
                            positions=position[taken],
                            tokens=rows["tokens"][taken],
                            documents=documents[low:high],
                        )
                    )
                before = after
    return picks


def _collect(job: TextJob, numbered: tuple[int, _SegmentPick]) -> None:
    """Read one segment and spill the documents taken from it to their shards."""
    number, pick = numbered
    plan = job.plans[pick.domain][pick.file]
    domain = job.writer.domains[pick.domain]
    encoder: Encoder | None = None
    encode = msgspec.msgpack.Encoder().encode
    outputs: dict[int, list[bytes]] = {}
    cursor = 0
    for block in SegmentReader().read(plan.segment(pick.segment), keep_metadata=True):
        before = cursor
        for index, line in enumerate(block.lines):
            absolute = line + pick.first_line
            while cursor < len(pick.lines) and pick.lines[cursor] == absolute:
                document = int(pick.documents[cursor])
                text = block.texts[index]
                _check_unchanged(domain, document, text, plan.files[0].path, absolute)
                tokens = int(pick.tokens[cursor])
                if tokens < int(domain.tokens[document]):
                    encoder = encoder or kept_encoder(job.backend, job.tokenizer)
                    text = cut_text(text, tokens - _end_tokens(job.tokenizer), encoder)
                record = Spilled(
                    int(pick.positions[cursor]), text,
                    block.ids[index] or domain.content_hash(document), _metadata(block, index),
                )  # fmt: skip
                outputs.setdefault(int(pick.shards[cursor]), []).append(encode(record))
                cursor += 1
        worked(int(pick.tokens[before:cursor].sum()), COLLECTING)
        _spill(job.spill, number, outputs)
    if cursor < len(pick.lines):
        where = f"{plan.files[0].path}:{pick.lines[cursor]}"
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
        framed = (
            piece for record in records for piece in (len(record).to_bytes(4, "little"), record)
        )
        append(path / f"from-{number}", *framed)
    outputs.clear()


def _write_shard(job: TextJob, task: tuple[int, ShardTask, NDArray[Any]]) -> ShardRecord:
    number, named, pieces = task
    layout = job.writer.layout
    stem = layout.stem(named.split, named.name)
    directory = job.spill / f"shard-{number}"
    files = job.text_format.write(stem, _batches(directory, pieces, job.writer.domains))
    provenance = layout.provenance(named.split, named.name)
    write_provenance(provenance, pieces, job.writer.domains)
    record = ShardRecord(
        split=named.split,
        stem=layout.relative(stem),
        sequences=len(pieces),
        tokens=int(pieces["tokens"].sum()),
        files=[record_file(path, layout.directory) for path in files],
        provenance=record_file(provenance, layout.directory),
    )
    layout.settle([*files, provenance])
    return record


def _batches(
    directory: Path, pieces: NDArray[Any], domains: Sequence[DomainTokens]
) -> Iterator[TextBatch]:
    """Yield the spilled documents of a shard in order."""
    paths = sorted(directory.iterdir()) if directory.is_dir() else []
    where = np.zeros((len(pieces), 3), np.int64)  # file number, offset and length in bytes
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
    size_bytes = first = 0
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
                worked(int(pieces["tokens"][first : position + 1].sum()), COPYING)
                batch, size_bytes, first = TextBatch([], [], [], []), 0, position + 1
        if batch.texts:
            yield batch
            worked(int(pieces["tokens"][first:].sum()), COPYING)
    finally:
        for file in files:
            file.close()


def cut_text(text: str, tokens: int, encoder: Encoder) -> str:
    """Cut a run of `text`, from its beginning if possible, that encodes to exactly `tokens` tokens.

    One more character can add two tokens, so perhaps no prefix has that count; then the run starts
    a few characters later.

    Args:
        text: Text of the document.
        tokens: Tokens to keep, without the end token.
        encoder: Encoder that counts them.

    Raises:
        ShardError: No run that starts near the beginning has that number of tokens.
    """
    for start in range(min(CUT_STARTS, len(text))):
        run = _cut_end(text[start:], tokens, encoder)
        if run is not None:
            return run
    raise ShardError(
        f"no part of the document starting '{text[:40]}' has exactly {tokens} tokens; "
        "change budget_tokens by a few tokens"
    )


def _cut_end(text: str, tokens: int, encoder: Encoder) -> str | None:
    """Return a prefix of exactly `tokens` tokens, or None if none ends near the estimate."""
    low, high = 0, len(text)
    # Token counts are almost monotonic in the length of a prefix: merges across the cut can change
    # them by a token or two. So bisection only estimates the end; its surroundings are searched.
    while low < high:
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


def check_text(shard: ShardOnDisk, text_format: TextFormat, problems: list[str]) -> None:
    """Tokenise a shard's text again and compare each document's tokens with the provenance.

    Args:
        shard: Shard to read.
        text_format: Its format, configured.
        problems: Differences are appended to it.
    """
    manifest, pieces, stem = shard.manifest, shard.pieces, shard.record.stem
    tokenizer = tokenizers.load(shard.directory / "tokenizer.json", manifest.tokenizer.eos)
    if tokenizer.fingerprint != manifest.tokenizer.fingerprint:
        problems.append("tokenizer.json: not the one that made the dataset")
        return
    backend = manifest.tokenizer.backend.split()[0]
    try:
        with stranger_at_work():
            encoder = guarded(partial(kept_encoder, backend, tokenizer), "cannot be loaded")
    except BackendRefused as error:
        problems.append(f"tokenizer.json: {error}")
        return
    position = cut_documents = 0
    for batch in text_format.read(shard.directory / stem):
        rows = pieces[position : position + len(batch.texts)]
        position += len(batch.texts)
        if len(rows) < len(batch.texts):
            break
        try:
            with stranger_at_work(sum(map(len, batch.texts))):
                encode = partial(encoder.encode, batch.texts)
                _, offsets = guarded(encode, "cannot encode a document")
        except BackendRefused as error:
            problems.append(f"{stem}: {error}, as tokenizer.json says")
            return
        tokens = np.diff(offsets) + _end_tokens(tokenizer)
        worked(int(tokens.sum()), COPYING)
        names = [manifest.domains[number] for number in rows["domain"]]
        if not np.array_equal(tokens, rows["tokens"]) or names != batch.domains:
            problems.append(f"{stem}: documents differ from the provenance")
            return
        hashes = [xxhash.xxh3_128_intdigest(text.encode()) >> 64 for text in batch.texts]
        cut_documents += int(np.sum(np.array(hashes, np.uint64) != rows["content"]))
    if position != len(pieces):
        problems.append(f"{stem}: {counted(position, 'document')}, provenance has {len(pieces)}")
    if cut_documents > 2 * len(manifest.domains):
        problems.append(f"{stem}: {cut_documents} documents are not the ones named")
