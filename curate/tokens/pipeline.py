"""Fill the token store: one pass from bytes to tokens, document table and counts.

Each worker takes segments, decompresses, parses, encodes, appends end-of-text tokens, counts, and
writes parts, all without passing data to another process. A file that cannot be cut beforehand (a
compressed one) is shared by workers that each decompress it and keep every segment they claim, so
one huge file occupies all cores too. What a run finds already stored it does not read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from curate.engine import local
from curate.errors import EngineError, InputError
from curate.kernels import kernel
from curate.sources import SegmentReader
from curate.sources.plans import FilePlan
from curate.sources.records import SEGMENT_BYTES, BadRecord, Block, Segment
from curate.tokens.backends import BACKENDS, Choice, Encoder
from curate.tokens.counting import COUNT_TOKENS, BigramCounter, count_stream
from curate.tokens.store import (
    DOCUMENT,
    Entry,
    PartWriter,
    StoredBadRecord,
    TokenStore,
    file_key,
)
from curate.tokens.tokenizer import Tokenizer

SMALL_FILE_BYTES = 2 << 20
"""Files up to this many bytes on disk are taken several at a time, into one part."""

FILES_A_TASK = 4096

PART_BYTES = SEGMENT_BYTES // 2
"""Text after which a part is written."""

ENCODE_BYTES = 1 << 20
"""Bytes read before they are encoded; small files are encoded together."""

PROGRESS = ("raw_bytes", "text_bytes", "tokens", "documents", "bad_records")
"""Columns of the live counters, by worker and domain."""


@dataclass(frozen=True, slots=True)
class Item:
    """A file or a group of files, and which segments to read; None: all, until the end."""

    plan: FilePlan
    segments: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker takes at once: items of one domain that go into the same part."""

    domain: int
    items: tuple[Item, ...]
    size_bytes: int
    shared: bool
    """Several workers may join: each claims segments of the one file."""


@dataclass(frozen=True)
class Job:
    """All there is to tokenise in a run."""

    tokenizer: Tokenizer
    backend: Choice
    encoder: Encoder | None
    """Made before workers fork and shared by them; None where each must make its own."""
    store: Path
    spill: Path
    """Directory for count runs, emptied by the caller."""
    domains: tuple[str, ...]
    tasks: tuple[Task, ...]
    present: frozenset[tuple[str, int]]
    """(file key, segment) pairs of unfinished files that are stored already."""
    count_memory_bytes: int
    stop_on_bad_record: bool


@dataclass
class Tokenised:
    """What a run added."""

    parts: list[Path] = field(default_factory=list)
    runs: dict[int, list[tuple[Path, list[tuple[str, int]]]]] = field(default_factory=dict)
    """By domain: count tables on disk, each with the (file key, segment) pairs it counts."""


@dataclass(slots=True)
class Shared:
    """Memory that all workers see."""

    counters: Any
    """int64, workers x domains x len(PROGRESS)."""
    next_task: Any
    claimed: Any
    """Next segment of each shared task."""
    ended: Any
    """1 for each shared task whose end some worker has seen."""
    verdict: Any
    """0 while the backend is being tested, 1 passed, 2 failed."""


def plan_tasks(
    domains: Sequence[Sequence[FilePlan]], store: TokenStore
) -> tuple[tuple[Task, ...], frozenset[tuple[str, int]]]:
    """What is missing from the store, cut into tasks, the largest domains first."""
    tasks: list[Task] = []
    present: set[tuple[str, int]] = set()
    seen: set[str] = set()
    for number, plans in enumerate(domains):
        pending: list[Item] = []
        pending_bytes = 0
        for whole_plan in plans:
            plan = _missing_files(whole_plan, store, seen)
            if plan is None:
                continue
            size_bytes = sum(file.size_bytes for file in plan.files)
            first = file_key(plan.files[0], plan.reader, plan.options)
            stored = store.segments_of(first)
            present.update((first, segment) for segment in stored)
            if size_bytes <= SMALL_FILE_BYTES:
                pending.append(Item(plan, None))
                pending_bytes += size_bytes
                if len(pending) >= FILES_A_TASK or pending_bytes >= SEGMENT_BYTES // 2:
                    tasks.append(Task(number, tuple(pending), pending_bytes, False))
                    pending, pending_bytes = [], 0
            elif plan.count is None:
                tasks.append(Task(number, (Item(plan, None),), size_bytes, True))
            else:
                tasks += [
                    Task(number, (Item(plan, (segment,)),), size_bytes // plan.count, False)
                    for segment in range(plan.count)
                    if segment not in stored
                ]
        if pending:
            tasks.append(Task(number, tuple(pending), pending_bytes, False))
    totals: dict[int, int] = {}
    for task in tasks:
        totals[task.domain] = totals.get(task.domain, 0) + task.size_bytes
    tasks.sort(key=lambda task: (-totals[task.domain], task.domain, -task.size_bytes))
    return tuple(tasks), frozenset(present)


def _missing_files(plan: FilePlan, store: TokenStore, seen: set[str]) -> FilePlan | None:
    """The plan for those of its files that are not stored whole, nor in `seen`; adds to `seen`."""
    found = []
    for file, key in zip(plan.files, keys_of(plan), strict=True):
        if key not in seen and store.file_entries(key, plan.count) is None:
            seen.add(key)  # the same content again, in this plan too, is tokenised once
            found.append(file)
    missing = tuple(found)
    if len(missing) == len(plan.files):
        return plan
    return replace(plan, files=missing) if missing else None


def keys_of(plan: FilePlan) -> list[str]:
    """Identity in the store of each file of a plan."""
    return [file_key(file, plan.reader, plan.options) for file in plan.files]


def tokenise(
    job: Job,
    workers: int,
    on_progress: Callable[[NDArray[np.int64]], None],
    test_backend: Callable[[], None],
) -> Tokenised:
    """Run a job and return what it made.

    Args:
        job: What to do.
        workers: Processes.
        on_progress: Called about ten times a second with shape (domains, len(PROGRESS)) totals.
        test_backend: Run in the parent while workers start; what it raises ends the run before any
            part is written.

    Raises:
        InputError: A file cannot be read, or a bad record where the recipe allows none.
    """
    made = Tokenised()
    if not job.tasks:
        return made
    workers = min(workers, _useful_workers(job.tasks))
    process = local.context()
    shape = (workers, len(job.domains), len(PROGRESS))
    shared = Shared(
        counters=process.RawArray("q", int(np.prod(shape))),
        next_task=process.Value("q", 0),
        claimed=process.RawArray("q", len(job.tasks)),
        ended=process.RawArray("b", len(job.tasks)),
        verdict=process.Value("b", 0),
    )
    totals = np.frombuffer(shared.counters, np.int64).reshape(shape)
    if local.workers_share_memory():
        _load_kernels(job.tokenizer)

    def keep(message: tuple[str, Any]) -> None:
        kind, value = message
        if kind == "part":
            made.parts.append(value)
        else:
            domain, run, counted = value
            made.runs.setdefault(domain, []).append((run, counted))

    def tick() -> None:
        if shared.verdict.value == 0:
            test_backend()
            shared.verdict.value = 1
        on_progress(totals.sum(axis=0))

    try:
        local.run_workers(partial(_worker, job, shared, workers), workers, keep, tick)
    except (EngineError, RuntimeError):
        if shared.verdict.value == 0:  # what ended a worker may be the backend's fault
            test_backend()
        raise
    on_progress(totals.sum(axis=0))
    return made


def _load_kernels(tokenizer: Tokenizer) -> None:
    """Run every compiled loop once, so that forked workers need not load them each."""
    end = tokenizer.end_symbol
    stream = np.full(2, end, _stream_dtype(tokenizer))
    append_ends(np.empty(0, np.uint32), np.zeros(2, np.int64), end, stream[:1])
    table = count_stream(stream, end, symbol_count(tokenizer))
    _ = table + table


def symbol_count(tokenizer: Tokenizer) -> int:
    """One more than the highest id that counts may hold, the end symbol included."""
    return max(tokenizer.vocabulary, tokenizer.end_symbol + 1)


def _useful_workers(tasks: Sequence[Task]) -> int:
    if any(task.shared for task in tasks):
        return 1 << 16
    return len(tasks)


def _worker(job: Job, shared: Shared, workers: int, number: int, send: local.Send) -> None:
    """Take tasks until none is left, then help with shared ones."""
    worker = _Worker(job, shared, workers, number, send)
    while (position := worker.claim_task()) is not None:
        worker.run(position)
    while (position := worker.open_shared_task()) is not None:
        worker.run(position)
    worker.finish_domain()


@dataclass(slots=True)
class _FileTotals:
    """What one file of a segment gave."""

    documents: int = 0
    tokens: int = 0
    lines: int = 0
    raw_bytes: int = 0
    text_bytes: int = 0
    bad_records: int = 0


def _add_totals(
    found: list[_FileTotals],
    block: Block,
    tokens: NDArray[np.int64],
    text_bytes: NDArray[np.int64],
) -> None:
    if len(found) == 1:
        found[0].documents += len(block.files)
        found[0].tokens += int(tokens.sum())
        found[0].text_bytes += int(text_bytes.sum())
        return
    for file, line, document_tokens, document_bytes in zip(
        block.files, block.lines, tokens.tolist(), text_bytes.tolist(), strict=True
    ):
        totals = found[file]
        totals.documents += 1
        totals.tokens += document_tokens
        totals.text_bytes += document_bytes
        totals.lines = max(totals.lines, line)  # blank lines that end it count for nothing


def _merge(blocks: list[Block]) -> Block:
    """The documents of several blocks as one."""
    merged = Block()
    for block in blocks:
        merged.texts += block.texts
        merged.ids += block.ids
        merged.lines += block.lines
    return merged


def document_rows(block: Block, names: list[bytes]) -> NDArray[Any]:
    """A block's document table, but for where tokens stop."""
    encoded = [text.encode() for text in block.texts]
    table = np.zeros(len(encoded), DOCUMENT)
    table["text_bytes"] = list(map(len, encoded))
    hashes = np.frombuffer(b"".join(map(xxhash.xxh3_128_digest, encoded)), ">u8")
    table["content_high"] = hashes[0::2]
    table["content_low"] = hashes[1::2]
    table["identity"] = list(map(xxhash.xxh3_64_intdigest, names))
    table["id_stop"] = np.cumsum(list(map(len, names)))
    table["line"] = block.lines
    return table


class _Worker:
    """One process's tokenizer, part under construction, counter and open stream."""

    def __init__(
        self, job: Job, shared: Shared, workers: int, number: int, send: local.Send
    ) -> None:
        self._job = job
        self._shared = shared
        self._send = send
        self._number = number
        shape = (workers, len(job.domains), len(PROGRESS))
        self._progress = np.frombuffer(shared.counters, np.int64).reshape(shape)[number]
        self._encoder = job.encoder or BACKENDS[job.backend.name](job.tokenizer)
        label = f"{job.backend.name} {job.backend.version}"
        self._part = PartWriter(job.store, job.tokenizer.dtype, label)
        self._reader = SegmentReader()
        self._counter: BigramCounter | None = None
        self._streams: list[NDArray[Any]] = []
        self._uncounted_tokens = 0
        self._pending: list[tuple[Block, list[_FileTotals]]] = []
        self._pending_bytes = 0
        self._finished: list[tuple[list[str], Segment, list[_FileTotals], bool]] = []
        self._counted: list[tuple[str, int]] = []
        self._domain = -1
        self._runs = 0

    def claim_task(self) -> int | None:
        """The next task nobody has, or None."""
        with self._shared.next_task.get_lock():
            position = int(self._shared.next_task.value)
            self._shared.next_task.value += 1
        return position if position < len(self._job.tasks) else None

    def open_shared_task(self) -> int | None:
        """A shared task with the most bytes not claimed yet, or None."""
        remaining = {
            position: task.size_bytes - self._shared.claimed[position] * (SEGMENT_BYTES // 4)
            for position, task in enumerate(self._job.tasks)
            if task.shared and not self._shared.ended[position]
        }
        return max(remaining, key=lambda position: remaining[position]) if remaining else None

    def run(self, position: int) -> None:
        """Read a task's segments into parts."""
        task = self._job.tasks[position]
        if task.domain != self._domain:
            self.finish_domain()
            self._start_domain(task.domain)
        for item in task.items:
            segments = (
                self._claim_segments(position)
                if task.shared
                else iter(item.segments)
                if item.segments is not None
                else iter(range(1 << 40))
            )
            self._read_file(item.plan, segments, position)
        self._flush()

    def _claim_segments(self, position: int) -> Iterator[int]:
        while not self._shared.ended[position]:
            with self._shared.next_task.get_lock():
                segment = int(self._shared.claimed[position])
                self._shared.claimed[position] += 1
            yield segment

    def _read_file(self, plan: FilePlan, segments: Iterator[int], position: int) -> None:
        keys = keys_of(plan)
        for segment in segments:
            if plan.count is not None and segment >= plan.count:
                return
            if len(keys) == 1 and (keys[0], segment) in self._job.present:
                continue
            last = self._read_segment(keys, plan, segment)
            if self._part.text_bytes >= PART_BYTES:
                self._flush()
            if last:
                self._shared.ended[position] = 1
                return

    def _read_segment(self, keys: list[str], plan: FilePlan, number: int) -> bool:
        """Read one segment as one entry a file; whether it reached the end of its file."""
        segment = plan.segment(number)
        totals = [_FileTotals() for _ in keys]
        last = False
        for block in self._reader.read(segment):
            for record in block.bad:
                self._add_bad(keys[record.file], plan, number, record)
                totals[record.file].bad_records += 1
                if len(keys) > 1:
                    totals[record.file].lines = max(totals[record.file].lines, record.line)
            if len(keys) == 1:
                totals[0].lines += block.lines_read
            totals[0].raw_bytes += block.raw_bytes
            last = block.end_of_file
            self._progress[self._domain, 0] += block.raw_bytes
            self._progress[self._domain, 4] += len(block.bad)
            self._pending.append((block, totals))
            self._pending_bytes += block.raw_bytes
            if self._pending_bytes >= ENCODE_BYTES:
                self._encode_pending()
        self._finished.append((keys, segment, totals, last))
        return last

    def _encode_pending(self) -> None:
        """Encode what was read, small files together, and add the entries that are complete."""
        blocks = [(block, totals) for block, totals in self._pending if block.texts]
        if blocks:
            merged = blocks[0][0] if len(blocks) == 1 else _merge([block for block, _ in blocks])
            tokens, text_bytes = self._encode(merged)
            start = 0
            for block, totals in blocks:
                stop = start + len(block.texts)
                _add_totals(totals, block, tokens[start:stop], text_bytes[start:stop])
                start = stop
        self._pending, self._pending_bytes = [], 0
        for keys, segment, totals, last in self._finished:
            self._add_entries(keys, segment, totals, last)
        self._finished = []

    def _encode(self, block: Block) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Encode, end, and keep a block's documents; their tokens and bytes."""
        tokenizer = self._job.tokenizer
        ids, offsets = self._encoder.encode(block.texts)
        ended = np.empty(len(ids) + len(block.texts), _stream_dtype(tokenizer))
        append_ends(ids, offsets, tokenizer.end_symbol, ended)
        tokens, stops = ended, offsets[1:] + np.arange(1, len(offsets))
        if tokenizer.eos_id is None:
            tokens, stops = ids.astype(tokenizer.dtype), offsets[1:]
        names = [name.encode() for name in block.ids]
        table = document_rows(block, names)
        table["token_stop"] = stops
        text_bytes = table["text_bytes"].astype(np.int64)
        row = self._progress[self._domain]
        row[1] += int(text_bytes.sum())
        row[2] += len(tokens)
        row[3] += len(table)
        self._part.add_documents(tokens, table, names)
        self._streams.append(ended)
        self._uncounted_tokens += len(ended)
        return np.diff(stops, prepend=0), text_bytes

    def _add_entries(
        self, keys: list[str], segment: Segment, totals: list[_FileTotals], last: bool
    ) -> None:
        """Note what the part holds of each file of a segment, after what it holds already."""
        part = self._part
        document = part.entries[-1].document_stop if part.entries else 0
        token = part.entries[-1].token_stop if part.entries else 0
        for file, key, found in zip(segment.files, keys, totals, strict=True):
            part.entries.append(
                Entry(
                    key=key,
                    segment=segment.index,
                    last=last,
                    path=file.path,
                    document_start=document,
                    document_stop=document + found.documents,
                    token_start=token,
                    token_stop=token + found.tokens,
                    lines=found.lines,
                    raw_bytes=found.raw_bytes,
                    text_bytes=found.text_bytes,
                    bad_records=found.bad_records,
                )
            )
            document += found.documents
            token += found.tokens
            self._counted.append((key, segment.index))

    def _add_bad(self, key: str, plan: FilePlan, number: int, record: BadRecord) -> None:
        if self._job.stop_on_bad_record:
            path, line = plan.files[record.file].path, record.line
            if len(plan.files) == 1 and line:
                line += sum(
                    block.lines_read
                    for earlier in range(number)
                    for block in SegmentReader().read(plan.segment(earlier))
                )
            raise InputError(
                f"{path}:{line}: {record.reason}; mend it, or set on_bad_record: quarantine"
            )
        self._part.bad.append(
            StoredBadRecord(key, number, record.line, record.reason, record.excerpt)
        )

    def _flush(self) -> None:
        """Write the part, once the backend has passed its test, and count when it is worth it."""
        self._encode_pending()
        if self._uncounted_tokens >= COUNT_TOKENS // 2:
            self._count()
        while self._shared.verdict.value == 0:
            _pause()
        path = self._part.flush()
        if path is not None:
            self._send(("part", path))

    def _count(self) -> None:
        """Count what was encoded since the last time: many tokens at once cost less each."""
        if self._streams:
            assert self._counter is not None
            self._counter.add(np.concatenate(self._streams))
            self._streams, self._uncounted_tokens = [], 0

    def _start_domain(self, domain: int) -> None:
        self._domain = domain
        spill = self._job.spill / f"worker-{self._number}-{self._runs}"
        spill.mkdir(parents=True)
        tokenizer = self._job.tokenizer
        self._counter = BigramCounter(
            tokenizer.end_symbol, symbol_count(tokenizer), self._job.count_memory_bytes, spill
        )
        self._counted = []
        self._runs += 1

    def finish_domain(self) -> None:
        """Write the counts of the domain worked on until now."""
        if self._counter is None:
            return
        self._count()
        path = self._job.spill / f"counts-{self._number}-{self._runs}"
        self._counter.finish(path)
        self._send(("counts", (self._domain, path, self._counted)))
        self._counter = None


def _stream_dtype(tokenizer: Tokenizer) -> np.dtype[Any]:
    return np.dtype("<u4") if tokenizer.end_symbol >= 1 << 16 else tokenizer.dtype


def _pause() -> None:
    import time

    time.sleep(0.005)


def append_ends(ids: NDArray[Any], offsets: NDArray[np.int64], end: int, out: NDArray[Any]) -> None:
    """Copy documents into `out` with `end` after each.

    Args:
        ids: shape (tokens,), documents back to back.
        offsets: shape (documents + 1,), ascending from 0 to `tokens`.
        end: id of the end symbol.
        out: shape (tokens + documents,).
    """
    if len(out) != len(ids) + len(offsets) - 1 or offsets[-1] != len(ids):
        raise ValueError(f"{len(ids)} tokens and {len(offsets) - 1} ends for room of {len(out)}")
    _append_ends(ids, offsets, len(offsets) - 1, end, out)


@kernel
def _append_ends(ids, offsets, documents, end, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    write = 0
    for document in range(documents):
        for position in range(offsets[document], offsets[document + 1]):
            out[write] = ids[position]
            write += 1
        out[write] = end
        write += 1
    return write
