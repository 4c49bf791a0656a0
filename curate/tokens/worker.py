"""The work of one process: turn segments into tokens, document tables, counts and parts."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError, TokenizerError
from curate.runtime import workers as local
from curate.runtime.machine import faults_named
from curate.sources import SegmentReader, check_unchanged
from curate.sources.jsonl import JsonlReader, read_gathered
from curate.sources.plans import FilePlan
from curate.sources.records import SEGMENT_BYTES, BadRecord, DocumentBlock, InputFile, Segment
from curate.tokens.backends import BACKENDS, REFERENCE, BackendRefused, guarded
from curate.tokens.counting import BigramCounter
from curate.tokens.entries import Entry
from curate.tokens.gathered import open_gathered, write_gathered
from curate.tokens.rows import FileTotals, add_totals, append_ends, document_rows, merge_blocks
from curate.tokens.selftest import end_in_text
from curate.tokens.store import PartWriter, StoredBadRecord
from curate.tokens.task_queue import TaskQueue
from curate.tokens.tasks import PROGRESS, TaskItem, TokeniseJob, is_packed, size_bytes

PART_BYTES = 7 * SEGMENT_BYTES // 2
"""Bytes of text after which a part is written: more than three segments usually hold, and less than
four."""

POLL_SECONDS = 0.005

ENCODE_BYTES = 512 << 10
"""Bytes read before they are encoded in one call, which small files share."""


@dataclass(slots=True)
class SharedState:
    """Memory shared by all workers."""

    counters: Any
    """int64, workers x domains x len(PROGRESS)."""
    verdict: Any
    """0 while the backend is being tested, 1 once it has passed."""
    queue: TaskQueue
    current: Any
    """int64, the task of each worker; -1 before its first."""


def work(job: TokeniseJob, shared: SharedState, number: int, send: local.Send) -> None:
    """Take tasks until none is left, then help with those of others.

    Args:
        job: All tasks.
        shared: Memory shared by all workers.
        number: This worker, from 0.
        send: Sends count tables to the parent.
    """
    # Records come by the hundred thousand and hardly form a cycle. Looking for cycles took 0.2 s
    # for 20,000 files before the threshold was raised, and 0.04 s after.
    thresholds = gc.get_threshold()
    gc.set_threshold(500_000)
    worker = _Worker(job, shared, number, send)
    try:
        while (position := shared.queue.take(worker.domain)) is not None:
            worker.run(position)
        while (position := shared.queue.help_with()) is not None:
            worker.help_with(position)
        worker.finish_domain()
    finally:
        worker.part.discard()  # if an exception left it unwritten
        gc.set_threshold(*thresholds)


class _Worker:
    """One process's tokenizer, part under construction, counter and open stream."""

    def __init__(
        self, job: TokeniseJob, shared: SharedState, number: int, send: local.Send
    ) -> None:
        self._job = job
        self._shared = shared
        self._send = send
        self._number = number
        shape = (-1, len(job.domains), len(PROGRESS))
        self._counters = np.frombuffer(shared.counters, np.int64).reshape(shape)[number]
        self._progress = self._counters[0]
        """Counters of the domain of the last task."""
        self._encoder = job.encoder or BACKENDS[job.backend.name](job.tokenizer)
        label = f"{job.backend.name} {job.backend.version}"
        self.part = PartWriter(job.store, label)
        self._reader = SegmentReader()
        self._counter: BigramCounter | None = None
        self._pending: list[tuple[DocumentBlock, list[FileTotals], tuple[InputFile, ...]]] = []
        self._pending_bytes = 0
        self._finished: list[tuple[tuple[str, ...], Segment, list[FileTotals], bool]] = []
        self._counted: list[str] = []
        self._unwritten: set[InputFile] = set()
        self._runs = 0
        self._packed_bytes = self._unpacked_bytes = 0
        """Bytes that this worker read of compressed files, on disk and once decoded."""
        self.domain: int | None = None
        """Domain of the last task."""

    def run(self, position: int) -> None:
        """Read a task's segments into parts."""
        task = self._job.tasks[position]
        self._begin(position)
        for item in task.items:
            self._packed_bytes = self._unpacked_bytes = 0
            with faults_named(item.plan.files[0].path):
                if task.shared:
                    self._read_shared(item.plan, position)
                else:
                    self._read_file(item)

    def _begin(self, position: int) -> None:
        """Note the task, and start its domain if the last task had another."""
        domain = self._job.tasks[position].domain
        self._shared.current[self._number] = position
        if domain != self.domain:
            self.finish_domain()
            self._start_domain(domain)

    def _read_file(self, item: TaskItem) -> None:
        plan = item.plan
        for number in item.segments or itertools.islice(itertools.count(), plan.count):
            if len(plan.files) == 1 and (plan.keys[0], number) in self._job.present:
                continue
            segment = plan.segment(number)
            last = self._read_segment(plan, segment, self._reader.read(segment))
            if last and plan.count is None:
                return

    def _read_shared(self, plan: FilePlan, position: int) -> None:
        """Decompress a file, and gather segments of it for the workers that help."""
        queue, key = self._shared.queue, plan.keys[0]
        with closing(JsonlReader()) as reader:
            for number in itertools.count():
                if (key, number) in self._job.present:
                    continue
                segment = plan.segment(number)
                gathered = reader.gather(segment) if queue.is_wanted(position) else None
                if gathered is not None:
                    path = self._gathered_path(position, queue.next_gathered(position))
                    write_gathered(path, number, *gathered)
                    queue.add_gathered(position)
                elif self._read_segment(plan, segment, reader.read(segment, keep_metadata=False)):
                    break
                queue.set_left(position, reader.undecoded_bytes)
        queue.end(position)
        self._receive(plan, position)

    def help_with(self, position: int) -> None:
        """Read segments of a compressed file that another worker gathers."""
        plan = self._job.tasks[position].items[0].plan
        self._begin(position)
        self._packed_bytes = self._unpacked_bytes = 0
        with faults_named(plan.files[0].path):
            self._receive(plan, position)

    def _receive(self, plan: FilePlan, position: int) -> None:
        """Read the segments gathered of a shared task, until its end."""
        while (number := self._shared.queue.receive(position)) is not None:
            with open_gathered(self._gathered_path(position, number)) as gathered:
                segment = plan.segment(gathered.segment)
                blocks = read_gathered(segment, gathered.lines, gathered.file_bytes)
                self._read_segment(plan, segment, blocks)

    def _gathered_path(self, position: int, number: int) -> Path:
        return self._job.spill / f"gathered-{position}-{number}"

    def _read_segment(
        self, plan: FilePlan, segment: Segment, blocks: Iterable[DocumentBlock]
    ) -> bool:
        """Read one segment, as one entry per file, and return whether its file ends there."""
        keys = plan.keys
        totals = [FileTotals() for _ in keys]
        last, before_bytes = False, int(self._progress[0])
        for block in blocks:
            for record in block.bad:
                self._add_bad(keys[record.file], plan, segment.index, record)
                total = totals[record.file]
                total.bad_records += 1
                total.lost_records += record.rows
                total.lost_bytes += record.bytes + record.unread_bytes
                total.raw_bytes += record.unread_bytes
                if len(keys) > 1:
                    totals[record.file].lines = max(totals[record.file].lines, record.line)
            if len(keys) == 1:
                totals[0].lines += block.lines_read
                totals[0].raw_bytes += block.raw_bytes
            last = block.end_of_file
            self._progress[0] += block.raw_bytes
            if block.file_bytes and is_packed(plan):
                self._count_packed(plan, block)
            self._progress[4] += len(block.bad)
            self._pending.append((block, totals, segment.files))
            self._pending_bytes += block.raw_bytes
            if self._pending_bytes >= ENCODE_BYTES:
                self._encode_pending()
        if is_packed(plan) and not block.file_bytes:  # tables, and groups of files
            assert plan.count
            read_bytes = int(self._progress[0]) - before_bytes
            self._progress[5:7] += size_bytes(plan) // plan.count, read_bytes
        self._finished.append((keys, segment, totals, last))
        if len(segment.files) == 1:  # readers of groups check each file as they read it
            self._unwritten.update(segment.files)
        if self.part.text_bytes >= PART_BYTES:
            self._flush()
        return last

    def _count_packed(self, plan: FilePlan, block: DocumentBlock) -> None:
        """Count what was read of a compressed file, by the estimate of its length so far."""
        self._unpacked_bytes += block.raw_bytes
        packed_bytes = size_bytes(plan) * self._unpacked_bytes // block.file_bytes
        self._progress[5:7] += packed_bytes - self._packed_bytes, block.raw_bytes
        self._packed_bytes = packed_bytes

    def _encode_pending(self) -> None:
        """Encode the pending blocks in one call, and add the entries of finished segments."""
        blocks = [(block, totals) for block, totals, _ in self._pending if block.texts]
        if blocks:
            merged = (
                blocks[0][0] if len(blocks) == 1 else merge_blocks([block for block, _ in blocks])
            )
            try:
                tokens, text_bytes = self._encode(merged)
            except BackendRefused as error:
                raise self._unencodable(error) from error
            start = 0
            for block, totals in blocks:
                stop = start + len(block.texts)
                add_totals(totals, block, tokens[start:stop], text_bytes[start:stop])
                start = stop
        self._pending, self._pending_bytes = [], 0
        for keys, segment, totals, last in self._finished:
            self._add_entries(keys, segment, totals, last)
        self._finished = []
        if self.part.is_heavy:
            self._wait_for_verdict()
            self.part.spill()

    def _encode(self, block: DocumentBlock) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Encode a block's documents, append end tokens, and add them to the part and the counts.

        Returns:
            Tokens and UTF-8 bytes of each document, shape (documents,) each.
        """
        tokenizer = self._job.tokenizer
        ids, offsets = guarded(lambda: self._encoder.encode(block.texts), "cannot encode a text")
        ended = np.empty(len(ids) + len(block.texts), tokenizer.stream_dtype)
        if append_ends(ids, offsets, tokenizer.end_symbol, ended):
            first = int(np.flatnonzero(ids == tokenizer.end_symbol)[0])
            document = int(np.searchsorted(offsets, first, side="right")) - 1
            raise end_in_text(tokenizer, block.texts[document])
        tokens, stops = ended, offsets[1:] + np.arange(1, len(offsets))
        if tokenizer.eos_id is None:
            tokens, stops = ids.astype(tokenizer.dtype), offsets[1:]
        names = [name.encode() for name in block.ids]
        table = document_rows(block, names)
        table["token_stop"] = stops
        text_bytes = table["text_bytes"].astype(np.int64)
        self._progress[1:4] += int(text_bytes.sum()), len(tokens), len(table)
        self.part.add_documents(tokens, table, names)
        assert self._counter is not None
        self._counter.add(ended)
        return np.diff(stops, prepend=0), text_bytes

    def _unencodable(self, refused: BackendRefused) -> TokenizerError:
        """Encode the pending texts one by one, to name the first that the encoder fails on."""
        path, shown = self._pending[0][2][0].path, ""
        texts = (
            (files[file].path, text)
            for block, _, files in self._pending
            for file, text in zip(block.files, block.texts, strict=True)
        )
        for text_path, text in texts:
            try:
                guarded(partial(self._encoder.encode, [text]), "cannot encode")
            except BackendRefused as error:
                path, shown, refused = text_path, f" the text that starts '{text[:80]}'", error
                break
        name = self._job.backend.name
        remedy = "" if name == REFERENCE else f", or set tokenizer.backend: {REFERENCE}"
        return TokenizerError(
            f"{path}: {name} {refused}{shown}; remove that text, or use another tokenizer{remedy}"
        )

    def _add_entries(
        self, keys: tuple[str, ...], segment: Segment, totals: list[FileTotals], last: bool
    ) -> None:
        """Append an entry to the part for each file of a segment."""
        part = self.part
        document = part.entries[-1].document_stop if part.entries else 0
        token = part.entries[-1].token_stop if part.entries else 0
        for file, key, total in zip(segment.files, keys, totals, strict=True):
            part.entries.append(
                Entry(
                    key=key,
                    segment=segment.index,
                    last=last,
                    path=file.path,
                    document_start=document,
                    document_stop=document + total.documents,
                    token_start=token,
                    token_stop=token + total.tokens,
                    lines=total.lines,
                    raw_bytes=total.raw_bytes,
                    text_bytes=total.text_bytes,
                    bad_records=total.bad_records,
                    lost_bytes=total.lost_bytes,
                    lost_records=total.lost_records,
                )
            )
            document += total.documents
            token += total.tokens
            if total.documents:
                self._counted.append(part.entries[-1].name)

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
                f"{path}:{line}: {record.reason}; correct it, or set on_bad_record: quarantine"
            )
        self.part.bad.append(
            StoredBadRecord(key, number, record.line, record.reason, record.excerpt)
        )

    def _flush(self) -> None:
        """Write the part, once the backend has passed its test.

        Raises:
            InputError: A file in it has changed since it was identified.
        """
        self._encode_pending()
        self._wait_for_verdict()
        for file in self._unwritten:  # new content must not be stored under the old hash
            check_unchanged(file)
        self._unwritten.clear()
        path = self.part.flush()
        if path is not None and self._job.bucket is not None:
            self._job.bucket.send(path)

    def _wait_for_verdict(self) -> None:
        # A plain read without a lock: the parent writes this byte once, from 0 to 1.
        while self._shared.verdict[0] == 0:
            time.sleep(POLL_SECONDS)

    def _start_domain(self, domain: int) -> None:
        self.domain, self._progress = domain, self._counters[domain]
        spill = self._job.spill / f"worker-{self._number}-{self._runs}"
        spill.mkdir(parents=True)
        tokenizer = self._job.tokenizer
        self._counter = BigramCounter(
            tokenizer.end_symbol, tokenizer.symbols, self._job.count_memory_bytes, spill
        )
        self._counted = []
        self._runs += 1

    def finish_domain(self) -> None:
        """Write the last part and the counts of the current domain."""
        if self._counter is None:
            return
        self._flush()
        path = self._job.spill / f"counts-{self._number}-{self._runs}"
        self._counter.finish(path)
        self._send((self.domain, path, self._counted))
        self._counter = None
