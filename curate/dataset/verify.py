"""Read a dataset back and compare it with its plan.

Checks: every file that curate wrote has the bytes that the manifest states; the format's own
reader yields as many tokens as the provenance accounts for; every token equals that of the document
it is said to come from (where the token store is available); tokens of each domain equal the plan;
no training document has the content hash of a validation document. The certificate also states how
far the mixture strays in windows of the output.

The order is what makes any damage safe: the manifest is compared with its own hash first, then
every file with the manifest, and only files that passed are parsed. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.dataset.certificate import WINDOWS, ShardCheck, Totals, certify, without_manifest
from curate.dataset.manifest import (
    CARD,
    CARDS,
    SCHEMA,
    SPLITS,
    DatasetLayout,
    FileRecord,
    Manifest,
    PlanRecord,
    ShardOnDisk,
    ShardRecord,
    file_damage,
    load_manifest,
    read_plan,
    read_provenance,
)
from curate.dataset.ownership import files_below, own_files
from curate.dataset.write_text import check_text
from curate.dataset.write_tokens import COPYING, HASHING, PREPARING, READING, by_domain
from curate.errors import CurateError, EngineError, ShardError
from curate.formats.base import BEST_FIT, CONCAT, WHOLE, TextFormat, TokenFormat
from curate.formats.trainer_files import DIRECTORY as TRAINER
from curate.plan import PAD, TokenCopier
from curate.plan.packing import Tally, tally
from curate.plan.per_domain import MIXED
from curate.runtime.artifact_names import MARK
from curate.runtime.limits import Limited, OverLimit
from curate.runtime.memory import block_rows, blocks, next_block, take
from curate.runtime.progress import Observer, in_proportion, metered, worked
from curate.runtime.workers import map_tasks
from curate.stats.copies import is_among
from curate.tokens.domain import DomainTokens
from curate.tokens.selftest import LIMITS

PlacedShard = tuple[ShardRecord, int]
"""A shard, and the position of its first token in the training set."""

Check = Callable[[PlacedShard], ShardCheck]


def verify(
    layout: DatasetLayout,
    domains: Sequence[DomainTokens] | None,
    workers: int,
    observer: Observer | None = None,
    *,
    with_cards: bool = True,
) -> dict[str, Any]:
    """Check a dataset.

    Args:
        layout: Paths of the dataset.
        domains: Its domains in the token store, whose parts have been checked, in the manifest's
            order; None: the store is not available, and files are only compared with their hashes.
        workers: Number of processes.
        observer: Receives progress.
        with_cards: Whether the cards are checked, too; a build writes them only after this.

    Returns:
        The fields of `certificate.json`; `ok` says whether everything held.
    """
    directory = layout.directory
    try:
        manifest = load_manifest(directory)
        output_format = manifest.configured()
    except CurateError as error:  # an unknown format, too
        return without_manifest(str(error).replace(str(directory), layout.where))
    files = [file for file in manifest.beside_shards if with_cards or file.path not in CARDS]
    observer = observer or Observer()
    enough = layout.workers_for(sum(file.bytes for file in files), workers)
    damage = map_tasks(partial(_damage, layout), files, enough, observer.tick)
    damaged = {file.path for file, problem in zip(files, damage, strict=True) if problem}
    plan, problem = (None, None) if "plan.json" in damaged else _read_plan(directory)
    problems = [*filter(None, [*damage, problem]), *_unlisted(directory, manifest)]
    if with_cards and manifest.schema == SCHEMA and all(file.path != CARD for file in files):
        problems.append(f"{CARD}: not in the manifest, so its build was cut off; run curate build")
    # Text cannot be tokenised again without its tokenizer, whose damage is reported once.
    is_readable = isinstance(output_format, TokenFormat) or "tokenizer.json" not in damaged
    reading = _Reading(layout, manifest, output_format if is_readable else None, domains)
    try:
        checks, totals = _check_shards(reading, workers, observer)
    except OverLimit as error:
        problems.append(
            f"tokenizer.json: {error} on the text of a shard, so no text was tokenised again; do "
            "not use a tokenizer that others wrote in this way"
        )
        checks, totals = _check_shards(replace(reading, format=None), workers, observer)
    return certify(manifest, plan, checks, problems, totals)


@dataclass(frozen=True, slots=True)
class _Reading:
    """A dataset whose shards are read back."""

    layout: DatasetLayout
    manifest: Manifest
    format: TokenFormat | TextFormat | None
    """None where its files are only compared with their hashes."""
    domains: Sequence[DomainTokens] | None
    """Its domains in the store."""


def _damage(layout: DatasetLayout, file: FileRecord) -> str | None:
    """Compare a file beside the shards with its record."""
    with layout.at_hand([layout.directory / file.path]):
        return file_damage(layout.directory, file)


def _check_shards(
    reading: _Reading, workers: int, observer: Observer
) -> tuple[list[ShardCheck], Totals]:
    """Read every shard back.

    Args:
        reading: The dataset.
        workers: Number of processes.
        observer: Receives progress.

    Returns:
        The shards' checks in the manifest's order, and their sums.

    Raises:
        OverLimit: The tokenizer of a dataset of text takes more time or memory than any should.
    """
    manifest = reading.manifest

    def limited(function: Check) -> Check:
        return Limited(function, LIMITS) if isinstance(reading.format, TextFormat) else function

    if not isinstance(reading.format, TextFormat):  # text is tokenised again
        shard_bytes = sum(file.bytes for shard in manifest.shards for file in shard.files)
        workers = reading.layout.workers_for(shard_bytes, workers)
    check = partial(_check_shard, reading)
    tasks = list(zip(manifest.shards, _shard_starts(manifest), strict=True))
    contents = [np.empty(0, np.uint64)]
    totals = Totals(len(manifest.domains))
    tokens = sum(shard.tokens for shard in manifest.shards)
    reads = tokens if reading.format is not None else 0
    work = [reads, tokens, reads if isinstance(reading.format, TokenFormat) else 0]
    with metered(observer, work, READING) as on_tick:
        # Held-out shards come first: of training documents, only those held out too are kept.
        held_out = map_tasks(
            limited(check),
            [task for task in tasks if not _is_train(task)],
            workers,
            on_tick,
            partial(totals.add, totals.held_out),
        )
        contents += [result.content for result in held_out]
        check = partial(check, held_out=np.unique(np.concatenate(contents)))
        train_tasks = [*filter(_is_train, tasks)]
        train = map_tasks(
            limited(check), train_tasks, workers, on_tick, partial(totals.add, totals.train)
        )
    rest_train, rest_held_out = iter(train), iter(held_out)
    return [next(rest_train if _is_train(task) else rest_held_out) for task in tasks], totals


def _is_train(task: PlacedShard) -> bool:
    return task[0].split == "train"


def _read_plan(directory: Path) -> tuple[PlanRecord | None, str | None]:
    """Return the plan, or a problem of its content."""
    try:
        return read_plan(directory / "plan.json"), None
    except ShardError as error:
        return None, str(error)


def _unlisted(directory: Path, manifest: Manifest) -> list[str]:
    """List files among the shards that a trainer would read though the manifest lacks them."""
    listed = {file.path for file in manifest.listed}
    owned = own_files(directory, manifest)
    return [
        f"{path.relative_to(directory).as_posix()}: not in the manifest"
        for split in (*SPLITS, TRAINER)
        for path in files_below(directory / split)
        if path.name != MARK
        and (path.is_symlink() or not path.is_dir())
        and not owned.is_reader_cache(path)
        and path.relative_to(directory).as_posix() not in listed
    ]


def _shard_starts(manifest: Manifest) -> list[int]:
    """Return the position of each training shard's first token in the dataset; 0 for others."""
    starts, position = [], 0
    for shard in manifest.shards:
        starts.append(position if shard.split == "train" else 0)
        position += shard.tokens if shard.split == "train" else 0
    return starts


def _check_shard(
    reading: _Reading, task: PlacedShard, held_out: NDArray[np.uint64] | None = None
) -> ShardCheck:
    """Read a shard back.

    Args:
        reading: The dataset.
        task: The shard, and the position of its first token in the training set.
        held_out: Content of documents that are held out, ascending; None to return all content.
    """
    shard, _ = task
    layout = reading.layout
    files = [layout.directory / file.path for file in [*shard.files, shard.provenance]]
    with layout.at_hand(files):
        return _check_at_hand(reading, task, held_out)


def _check_at_hand(
    reading: _Reading, task: PlacedShard, held_out: NDArray[np.uint64] | None
) -> ShardCheck:
    shard, start = task
    directory, manifest = reading.layout.directory, reading.manifest
    output_format, domains = reading.format, reading.domains
    result = ShardCheck()
    files = [*shard.files, shard.provenance]
    on_read = in_proportion(shard.tokens, sum(file.bytes for file in files), HASHING)
    damage = (file_damage(directory, file, on_read=on_read) for file in files)
    result.problems += filter(None, damage)
    if result.problems or output_format is None:
        return result
    try:
        pieces = read_provenance(directory / shard.provenance.path, shard, manifest)
        on_disk = ShardOnDisk(directory, manifest, shard, pieces)
        if isinstance(output_format, TokenFormat):
            _check_tokens(on_disk, output_format, domains, result)
        else:
            check_text(on_disk, output_format, result.problems)
            _check_content(pieces, domains, shard.stem)
            result.content_checked = domains is not None
    except EngineError:
        raise
    except CurateError as error:
        result.problems.append(str(error))
        return result
    result.is_read = True
    counts = _Counts(manifest, start, held_out)
    for part in blocks(len(pieces)):
        counts.add(np.array(pieces[part]))
    rows = _Rows(pieces, shard, manifest)
    result.tally = replace(counts.tally, rows=len(rows))
    result.tokens = {number: int(count) for number, count in enumerate(counts.tokens) if count}
    result.content = counts.distinct_content()
    if shard.split == "train":
        result.first_window, result.windows = counts.first_window, counts.windows
        if isinstance(output_format, TokenFormat) and output_format.dropped_tokens is not None:
            lengths = rows.tokens(0, len(rows))
            result.lost_tokens = output_format.dropped_tokens(
                lengths, manifest.settings.window_tokens
            )
    return result


class _Counts:
    """Sums over the pieces of a shard, which are added a block at a time."""

    def __init__(self, manifest: Manifest, start: int, held_out: NDArray[np.uint64] | None) -> None:
        self._manifest = manifest
        self._position = start
        """Tokens of the training set before the next piece."""
        self._held_out = held_out
        self._content: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)]
        self.tally = Tally()
        self.tokens = np.zeros(len(manifest.domains))
        """shape (domains,), tokens of each; whole numbers."""
        self.first_window = min(start * WINDOWS // manifest.budget_tokens, WINDOWS - 1)
        self.windows = np.zeros((0, len(manifest.domains)), np.int64)
        """Tokens by window, from the first on, and domain; a piece counts where it begins."""

    def add(self, pieces: NDArray[Any]) -> None:
        """Count consecutive pieces."""
        manifest, domains = self._manifest, len(self._manifest.domains)
        self.tally += tally(pieces, 0)
        if manifest.packing != CONCAT:
            pieces = pieces[pieces["domain"] != PAD]
        self.tokens += np.bincount(pieces["domain"], pieces["tokens"], domains)
        content = pieces["content"]
        if self._held_out is not None:
            content = content[is_among(content, self._held_out)]
        self._content.append(np.unique(content))
        stops = self._position + np.cumsum(pieces["tokens"])
        if manifest.shape == MIXED and len(pieces):
            begins = stops - pieces["tokens"]
            window = np.minimum(begins * WINDOWS // manifest.budget_tokens, WINDOWS - 1)
            first, last = int(window[0]), int(window[-1])
            place = (window - first) * domains + pieces["domain"]
            flat = np.bincount(place, pieces["tokens"], (last + 1 - first) * domains)
            begun = last + 1 - self.first_window
            if len(self.windows) < begun:
                self.windows = np.pad(self.windows, ((0, begun - len(self.windows)), (0, 0)))
            self.windows[first - self.first_window : begun] += flat.astype(np.int64).reshape(
                -1, domains
            )
        self._position = int(stops[-1]) if len(stops) else self._position

    def distinct_content(self) -> NDArray[np.uint64]:
        """Return the first halves of the content hashes that were looked for, ascending."""
        return np.unique(np.concatenate(self._content))


class _Rows:
    """Lengths of a shard's sequences: each is a piece, or all are full but the last."""

    def __init__(self, pieces: NDArray[Any], shard: ShardRecord, manifest: Manifest) -> None:
        self._pieces = pieces
        self._total = shard.tokens
        self._row_tokens = 0 if manifest.packing == WHOLE else manifest.sequence_length or 0
        """Tokens of a full sequence; 0: each sequence is a piece."""

    def __len__(self) -> int:
        """Count sequences."""
        if not self._row_tokens:
            return len(self._pieces)
        return -(-self._total // self._row_tokens)

    def tokens(self, begin: int, end: int) -> NDArray[np.int64]:
        """Return the tokens of sequences [begin, end), as far as there are any."""
        end = min(end, len(self))
        if not self._row_tokens:
            return np.array(self._pieces["tokens"][begin:end])
        lengths = np.full(end - begin, self._row_tokens, np.int64)
        if end == len(self) and len(lengths):
            lengths[-1] = self._total - (end - 1) * self._row_tokens
        return lengths


def _check_tokens(
    shard: ShardOnDisk,
    output_format: TokenFormat,
    domains: Sequence[DomainTokens] | None,
    result: ShardCheck,
) -> None:
    """Compare tokens on disk with the documents they are said to come from."""
    manifest, pieces, stem = shard.manifest, shard.pieces, shard.record.stem
    dtype = np.dtype(manifest.dtype)
    fills = (manifest.sequence_length or 0) if manifest.packing == BEST_FIT else 0
    pad_id = manifest.tokenizer.eos_id or 0
    copier = None if domains is None else TokenCopier(domains, pad_id, fills)
    _check_content(pieces, domains, stem)
    expected_pieces = _PieceReader(pieces)
    rows = _Rows(pieces, shard.record, manifest)
    total = shard.record.tokens
    position = sequences = 0
    worked(total, PREPARING)
    for batch in output_format.read(shard.directory / stem, dtype):
        if output_format.keeps_documents and not np.array_equal(
            batch.lengths, rows.tokens(sequences, sequences + len(batch.lengths))
        ):
            result.problems.append(f"{stem}: sequence lengths differ from the provenance")
            return
        sequences += len(batch.lengths)
        end = position + len(batch.tokens)
        if end > total:
            break
        if copier is not None:
            expected = np.empty(len(batch.tokens), dtype)
            copier.copy(expected_pieces.take(len(batch.tokens)), expected)
            if not np.array_equal(expected, batch.tokens):
                at = position + int(np.argmax(expected != batch.tokens))
                result.problems.append(f"{stem}: token {at} differs from its document")
                return
        position = end
        worked(len(batch.tokens), COPYING)
        next_block()
    if position != total:
        result.problems.append(
            f"{stem}: {position} tokens read back, provenance accounts for {total}, "
            f"the manifest says {total}"
        )
    result.content_checked = copier is not None


class _PieceReader:
    """Pieces of a shard in order, as many tokens of them as are asked for."""

    def __init__(self, pieces: NDArray[Any]) -> None:
        self._pieces = pieces
        self._next = 0
        """First piece that is not held."""
        self._held = np.array(pieces[:0])
        self._stops = np.zeros(1, np.int64)
        """shape (held + 1,), tokens before each held piece and after the last."""
        self._position = 0
        """Tokens of the held pieces that were taken."""

    def take(self, tokens: int) -> NDArray[Any]:
        """Return the pieces of the next tokens, the outer ones cut to fit."""
        while self._stops[-1] - self._position < tokens:
            self._hold_more()
        begin, end = self._position, self._position + tokens
        self._position = end
        first = int(np.searchsorted(self._stops, begin, side="right")) - 1
        last = int(np.searchsorted(self._stops, end, side="left"))
        clipped = np.array(self._held[first:last])
        if len(clipped):
            skipped = begin - int(self._stops[first])
            clipped["start"][0] += skipped
            clipped["tokens"][0] -= skipped
            clipped["tokens"][-1] -= int(self._stops[last]) - end
        return clipped

    def _hold_more(self) -> None:
        """Drop the pieces that were taken whole, and read a block of others."""
        done = int(np.searchsorted(self._stops, self._position, side="right")) - 1
        more = self._pieces[self._next : self._next + block_rows()]
        assert len(more)  # `read_provenance` has compared their sum with the shard's tokens
        self._next += len(more)
        self._position -= int(self._stops[done])
        self._held = np.concatenate([self._held[done:], more])
        self._stops = np.concatenate([[0], np.cumsum(self._held["tokens"])])


def _check_content(pieces: NDArray[Any], domains: Sequence[DomainTokens] | None, stem: str) -> None:
    """Raise `ShardError` if there is a store without the documents that the provenance names."""
    for rows in blocks(len(pieces) if domains else 0):
        part = np.array(pieces[rows])
        for number, members in by_domain(part):
            if domains is not None and number != PAD:
                _check_documents(part[members], domains[number], stem)


def _check_documents(pieces: NDArray[Any], domain: DomainTokens, stem: str) -> None:
    documents = pieces["document"]
    if (
        documents.max() >= len(domain)
        or not np.array_equal(take(domain.content_high, documents), pieces["content"])
        or np.any(pieces["tokens"] > take(domain.tokens, documents) - pieces["start"])
    ):
        raise ShardError(
            f"{stem}: the documents of '{domain.name}' in the token store are not those that "
            "were written; build again"
        )
