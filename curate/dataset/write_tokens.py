"""Write the shards of a dataset that stores tokens.

Each shard is made by one task from the plan alone, so any number of workers writes the same bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from curate.dataset.manifest import PROVENANCE, DatasetLayout, ShardRecord, record_file
from curate.formats.base import BEST_FIT, CONCAT, TextFormat, TokenBatch, TokenFormat
from curate.plan import PAD, PIECE, Samples, TokenCopier
from curate.plan.packing import pack_parts
from curate.plan.streams import joined
from curate.runtime.files import atomic_path
from curate.runtime.memory import blocks, next_block, take
from curate.runtime.progress import in_proportion, worked
from curate.runtime.workers import map_tasks
from curate.tokens.domain import DomainTokens

BATCH_TOKENS = 4 << 20
"""Tokens copied and handed to a writer at once."""


COPYING, HASHING, PREPARING = 0, 1, 2
"""Kinds of work on a token: to write it or read it back, to hash it, and to find its document."""

WRITING, READING = (15.0, 1.0, 0.0), (5.0, 1.0, 0.0)
"""Ratios of the times that they take, until they have been measured."""


class Sampler(Protocol):
    """A sampler of `curate.plan`, such as `DocumentSampler` or `SequenceSampler`."""

    def parts(self, number: int, shards: int) -> Iterator[Samples]:
        """Yield the samples of shard `number` in parts, where the dataset is cut into `shards`."""
        ...


@dataclass(frozen=True)
class ShardTask:
    """One shard to write."""

    split: str
    name: str
    number: int
    """Number among the training shards; of the domain for a validation shard."""


@dataclass(frozen=True)
class ShardWriter:
    """Everything that the shards of a dataset share."""

    layout: DatasetLayout
    format: TokenFormat | TextFormat
    dtype: np.dtype[Any]
    """Type of a token on disk; meaningless for text."""
    sampler: Sampler
    shards: int
    domains: Sequence[DomainTokens]
    validation: Sequence[NDArray[np.bool_]]
    sequence_length: int | None
    threads: int
    """Threads that copy tokens for one shard; above 1 where shards are fewer than workers."""
    packing: str = CONCAT
    pad_id: int = 0
    """Id of the end token, which fills up rows."""

    def write(self, task: ShardTask) -> ShardRecord:
        """Write one shard and its provenance."""
        assert isinstance(self.format, TokenFormat)
        stem = self.layout.stem(task.split, task.name)
        fills = self.packing == BEST_FIT
        copier = TokenCopier(self.domains, self.pad_id, (self.sequence_length or 0) if fills else 0)
        provenance = self.layout.provenance(task.split, task.name)
        with provenance_file(provenance, self.domains) as rows:
            written = _Written(self.parts(task), rows)
            batches = _counted(token_batches(written, copier, self.dtype, self.threads))
            files = self.format.write(stem, batches, self.dtype)
        directory = self.layout.directory
        hashed = hashing([*files, provenance], written.tokens)
        record = ShardRecord(
            split=task.split,
            stem=self.layout.relative(stem),
            sequences=self._sequences(written),
            tokens=written.tokens,
            files=[record_file(path, directory, hashed) for path in files],
            provenance=record_file(provenance, directory, hashed),
        )
        worked(written.tokens, PREPARING)
        self.layout.settle([*files, provenance])
        return record

    def samples(self, task: ShardTask) -> Samples:
        """Return the samples of a shard, in order."""
        return joined(self.parts(task))

    def parts(self, task: ShardTask) -> Iterator[Samples]:
        """Yield the samples of a shard in parts of about a block, in order."""
        if task.split == "train":
            return self.sampler.parts(task.number, self.shards)
        return self._held_out(task.number)

    def _sequences(self, written: _Written) -> int:
        """Count sequences as a reader sees them: documents, or cuts of `sequence_length`."""
        keeps_documents = isinstance(self.format, TextFormat) or self.format.keeps_documents
        if keeps_documents or self.sequence_length is None:
            return written.samples
        return -(-written.tokens // self.sequence_length)

    def _held_out(self, domain: int) -> Iterator[Samples]:
        """Yield a domain's validation documents, in the order of their content hash."""
        pieces = self._held_out_pieces(domain)
        if isinstance(self.format, TokenFormat) and self.format.takes_sequences:
            if self.sequence_length is not None and self.packing != CONCAT:
                return pack_parts(pieces, self.sequence_length, self.packing)
            if self.sequence_length is not None:
                return _in_sequences(pieces, self.sequence_length)
        return (Samples(part, part["tokens"].astype(np.int64)) for part in pieces)

    def _held_out_pieces(self, domain: int) -> Iterator[NDArray[Any]]:
        mask, tokens = self.validation[domain], self.domains[domain].tokens
        for rows in blocks(len(mask)):
            numbers = rows.start + np.flatnonzero(mask[rows])
            pieces = np.zeros(len(numbers), PIECE)
            pieces["domain"] = domain
            pieces["document"] = numbers
            pieces["tokens"] = tokens[numbers]
            yield pieces


def hashing(files: Sequence[Path], tokens: int) -> Callable[[int], None]:
    """Return a function that counts the hashing of a shard's files, called with bytes."""
    worked(0, COPYING)  # to which waiting for the disk belongs
    return in_proportion(tokens, sum(path.stat().st_size for path in files), HASHING)


def _counted(batches: Iterable[TokenBatch]) -> Iterator[TokenBatch]:
    """Yield batches, and count each as work once it is written."""
    for number, batch in enumerate(batches):
        if number == 0:
            worked(0, PREPARING)  # what the first batch waited for
        yield batch
        worked(len(batch.tokens), COPYING)


class _Written:
    """Samples on their way to a shard, which are counted and noted in its provenance."""

    def __init__(self, parts: Iterable[Samples], rows: ProvenanceFile) -> None:
        """Start at the first part."""
        self._parts = parts
        self._rows = rows
        self.samples = self.tokens = 0

    def __iter__(self) -> Iterator[Samples]:
        """Yield the parts."""
        for part in self._parts:
            self.samples += len(part.lengths)
            self.tokens += int(part.lengths.sum())
            self._rows.add(part.pieces)
            yield part
            next_block()


def _in_sequences(parts: Iterable[NDArray[Any]], sequence_length: int) -> Iterator[Samples]:
    """Cut consecutive pieces into sequences of one length; the last may be shorter."""
    held = np.zeros(0, PIECE)
    for pieces in parts:
        whole, held = _cut_after(np.concatenate([held, pieces]), sequence_length)
        if len(whole):
            yield _cut_sequences(whole, sequence_length)
    if len(held):
        yield _cut_sequences(held, sequence_length)


def _cut_after(pieces: NDArray[Any], sequence_length: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Part pieces after the last whole sequence, through one of them where need be."""
    stops = np.cumsum(pieces["tokens"])
    whole_tokens = int(stops[-1]) // sequence_length * sequence_length if len(stops) else 0
    last = int(np.searchsorted(stops, whole_tokens))  # the piece that holds the cut, or ends there
    whole, rest = pieces[: last + (whole_tokens > 0)].copy(), pieces[last:].copy()
    if whole_tokens:
        kept = int(whole["tokens"][-1]) - (int(stops[last]) - whole_tokens)
        whole["tokens"][-1] = kept
        rest["start"][0] += kept
        rest["tokens"][0] -= kept
    return whole, rest[rest["tokens"] > 0]


def _cut_sequences(pieces: NDArray[Any], sequence_length: int) -> Samples:
    stops = np.cumsum(pieces["tokens"])
    total = int(stops[-1])
    sequence_stops = np.append(np.arange(sequence_length, total, sequence_length), total)
    cuts = np.union1d(stops, sequence_stops)
    begins = np.concatenate([[0], cuts[:-1]])
    owner = np.searchsorted(stops, begins, side="right")
    cut = pieces[owner]
    cut["start"] += begins - (stops - pieces["tokens"])[owner]
    cut["tokens"] = cuts - begins
    return Samples(cut, np.diff(sequence_stops, prepend=0))


def write_shards(
    writer: ShardWriter, tasks: Sequence[ShardTask], workers: int, on_tick: Callable[[], None]
) -> list[ShardRecord]:
    """Write all shards and return their records, in the order of the tasks.

    Args:
        writer: Properties that the shards share.
        tasks: Shards to write.
        workers: Number of processes.
        on_tick: Called now and then.
    """
    return map_tasks(partial(ShardWriter.write, writer), tasks, workers, on_tick)


def token_batches(
    parts: Iterable[Samples], copier: TokenCopier, dtype: np.dtype[Any], threads: int = 1
) -> Iterator[TokenBatch]:
    """Yield samples in batches of whole sequences, about `BATCH_TOKENS` tokens each.

    Copying releases the interpreter's lock, so `threads` batches are made at once while an earlier
    one is written.

    Args:
        parts: Sequences of a shard, in order.
        copier: Source of the tokens.
        dtype: Type of a token on disk.
        threads: Batches to copy at once.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[TokenBatch]] = deque()
        for lengths, pieces in _cut(parts):
            waiting.append(pool.submit(_copy_batch, copier, lengths, pieces, dtype))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _copy_batch(
    copier: TokenCopier, lengths: NDArray[np.int64], pieces: NDArray[Any], dtype: np.dtype[Any]
) -> TokenBatch:
    tokens = np.empty(int(lengths.sum()), dtype)
    copier.copy(pieces, tokens)
    return TokenBatch(tokens, lengths)


def _cut(parts: Iterable[Samples]) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Yield the lengths and the pieces of runs of whole sequences, wherever parts end."""
    held = Samples(np.zeros(0, PIECE), np.zeros(0, np.int64))
    for part in parts:
        *runs, held = _runs(joined([held, part]) if len(held.lengths) else part)
        yield from ((run.lengths, run.pieces) for run in runs)
    if len(held.lengths):
        yield held.lengths, held.pieces


def _runs(samples: Samples) -> list[Samples]:
    """Cut samples into runs, each as long as `BATCH_TOKENS` allow; the last may be empty."""
    sequence_stops = np.cumsum(samples.lengths)
    piece_stops = np.cumsum(samples.pieces["tokens"])
    runs = []
    sequence = piece = position = 0
    while sequence < len(samples.lengths):
        limit = position + BATCH_TOKENS
        stop = max(sequence + 1, int(np.searchsorted(sequence_stops, limit, side="right")))
        position = int(sequence_stops[stop - 1])
        piece_stop = int(np.searchsorted(piece_stops, position, side="left")) + 1
        runs.append(Samples(samples.pieces[piece:piece_stop], samples.lengths[sequence:stop]))
        sequence, piece = stop, piece_stop
    return runs or [samples]


def write_provenance(path: Path, pieces: NDArray[Any], domains: Sequence[DomainTokens]) -> None:
    """Write the document of each piece, and the first half of the document's content hash.

    Args:
        path: File to write.
        pieces: shape (pieces,), dtype `PIECE`.
        domains: Domains that the pieces number.
    """
    with provenance_file(path, domains) as rows:
        rows.add(pieces)


@contextmanager
def provenance_file(path: Path, domains: Sequence[DomainTokens]) -> Iterator[ProvenanceFile]:
    """Write a shard's provenance whole or not at all.

    Args:
        path: File to write.
        domains: Domains that the pieces number.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        rows = ProvenanceFile(file, domains)
        yield rows
        rows.finish()


class ProvenanceFile:
    """Provenance that is written in parts, into the bytes of `numpy.save`."""

    def __init__(self, file: BinaryIO, domains: Sequence[DomainTokens]) -> None:
        """Begin with a header that is written again once the rows are counted."""
        self._file = file
        self._domains = domains
        self._rows = 0
        self._write_header()

    def _write_header(self) -> int:
        # NumPy pads the header so that it is as long for any number of rows.
        fields = {"descr": PROVENANCE.descr, "fortran_order": False, "shape": (self._rows,)}
        np.lib.format.write_array_header_1_0(self._file, fields)
        return self._file.tell()

    def add(self, pieces: NDArray[Any]) -> None:
        """Append pieces, shape (pieces,), dtype `PIECE`."""
        rows = np.zeros(len(pieces), PROVENANCE)  # the content of padding stays zero
        for name in PIECE.names or ():
            rows[name] = pieces[name]
        for number, members in by_domain(pieces):
            if number != PAD:
                content = self._domains[number].content_high
                rows["content"][members] = take(content, pieces["document"][members])
        self._file.write(rows.data)
        self._rows += len(rows)

    def finish(self) -> None:
        """Write the header again, now with the number of rows."""
        end = self._file.tell()
        self._file.seek(0)
        begin = self._write_header()
        assert end == begin + self._rows * PROVENANCE.itemsize


def by_domain(pieces: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each domain number among pieces, and the places of its pieces."""
    order = np.argsort(pieces["domain"], kind="stable")
    cuts = np.flatnonzero(np.diff(pieces["domain"][order])) + 1
    for members in np.split(order, cuts) if len(order) else []:
        yield int(pieces["domain"][members[0]]), members
