"""Write the shards of a dataset that stores tokens.

Each shard is made by one task from the plan alone, so any number of workers writes the same bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from curate.dataset.manifest import PROVENANCE, DatasetLayout, ShardRecord, record_file
from curate.formats.base import BEST_FIT, CONCAT, TextFormat, TokenBatch, TokenFormat
from curate.plan import PIECE, Samples, TokenCopier
from curate.plan.packing import pack
from curate.runtime.files import atomic_path
from curate.runtime.workers import map_tasks
from curate.tokens.domain import DomainTokens

BATCH_TOKENS = 4 << 20
"""Tokens copied and handed to a writer at once."""


class Sampler(Protocol):
    """A sampler of `curate.plan`, such as `DocumentSampler` or `SequenceSampler`."""

    def shard(self, number: int, shards: int) -> Samples:
        """Return the samples of shard `number`, where the dataset is cut into `shards`."""
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
        samples = self.samples(task)
        stem = self.layout.stem(task.split, task.name)
        fills = self.packing == BEST_FIT
        copier = TokenCopier(self.domains, self.pad_id, (self.sequence_length or 0) if fills else 0)
        batches = token_batches(samples, copier, self.dtype, self.threads)
        files = self.format.write(stem, batches, self.dtype)
        provenance = self.layout.provenance(task.split, task.name)
        write_provenance(provenance, samples.pieces, self.domains)
        directory = self.layout.directory
        return ShardRecord(
            split=task.split,
            stem=self.layout.relative(stem),
            sequences=self._sequences(samples),
            tokens=int(samples.lengths.sum()),
            files=[record_file(path, directory) for path in files],
            provenance=record_file(provenance, directory),
        )

    def samples(self, task: ShardTask) -> Samples:
        """Return the samples of a shard, in order."""
        if task.split == "train":
            return self.sampler.shard(task.number, self.shards)
        return self._held_out(task.number)

    def _sequences(self, samples: Samples) -> int:
        """Count sequences as a reader sees them: documents, or cuts of `sequence_length`."""
        keeps_documents = isinstance(self.format, TextFormat) or self.format.keeps_documents
        if keeps_documents or self.sequence_length is None:
            return len(samples.lengths)
        return -(-int(samples.lengths.sum()) // self.sequence_length)

    def _held_out(self, domain: int) -> Samples:
        """Return a domain's validation documents, in the order of their content hash."""
        numbers = np.flatnonzero(self.validation[domain])
        pieces = np.zeros(len(numbers), PIECE)
        pieces["domain"] = domain
        pieces["document"] = numbers
        pieces["tokens"] = self.domains[domain].tokens[numbers]
        if isinstance(self.format, TokenFormat) and self.format.takes_sequences:
            if self.sequence_length is not None and self.packing != CONCAT:
                return pack(pieces, self.sequence_length, self.packing)
            if self.sequence_length is not None:
                return _in_sequences(pieces, self.sequence_length)
        return Samples(pieces, pieces["tokens"].astype(np.int64))


def _in_sequences(pieces: NDArray[Any], sequence_length: int) -> Samples:
    """Cut consecutive pieces into sequences of one length; the last may be shorter."""
    stops = np.cumsum(pieces["tokens"])
    total = int(stops[-1]) if len(stops) else 0
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
    samples: Samples, copier: TokenCopier, dtype: np.dtype[Any], threads: int = 1
) -> Iterator[TokenBatch]:
    """Yield samples in batches of whole sequences, about `BATCH_TOKENS` tokens each.

    Copying releases the interpreter's lock, so `threads` batches are made at once while an earlier
    one is written.

    Args:
        samples: Sequences of a shard, in order.
        copier: Source of the tokens.
        dtype: Type of a token on disk.
        threads: Batches to copy at once.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[TokenBatch]] = deque()
        for lengths, pieces in _cut(samples):
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


def _cut(samples: Samples) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Yield the lengths and the pieces of runs of whole sequences."""
    sequence_stops = np.cumsum(samples.lengths)
    piece_stops = np.cumsum(samples.pieces["tokens"])
    sequence = piece = position = 0
    while sequence < len(samples.lengths):
        limit = position + BATCH_TOKENS
        stop = max(sequence + 1, int(np.searchsorted(sequence_stops, limit, side="right")))
        position = int(sequence_stops[stop - 1])
        piece_stop = int(np.searchsorted(piece_stops, position, side="left")) + 1
        yield samples.lengths[sequence:stop], samples.pieces[piece:piece_stop]
        sequence, piece = stop, piece_stop


def write_provenance(path: Path, pieces: NDArray[Any], domains: Sequence[DomainTokens]) -> None:
    """Write the document of each piece, and the first half of the document's content hash.

    Args:
        path: File to write.
        pieces: shape (pieces,), dtype `PIECE`.
        domains: Domains that the pieces number.
    """
    rows = np.zeros(len(pieces), PROVENANCE)  # the content of padding stays zero
    for name in PIECE.names or ():
        rows[name] = pieces[name]
    for number, domain in enumerate(domains):
        of_domain = pieces["domain"] == number
        rows["content"][of_domain] = domain.content_high[pieces["document"][of_domain]]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, rows, allow_pickle=False)
