"""Cut the files to tokenise into tasks for workers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from curate.sources.plans import FilePlan
from curate.sources.records import SEGMENT_BYTES
from curate.tokens.backends import BackendChoice, Encoder
from curate.tokens.bucket_store import StoreBucket
from curate.tokens.store import TokenStore
from curate.tokens.tokenizer import Tokenizer

SMALL_FILE_BYTES = 2 << 20
"""Files and groups of files up to this size share a task with others."""

FILES_A_TASK = 4096

TASK_SEGMENTS = 4
"""Most neighbouring segments in a task; fewer when little work is left."""

PROGRESS = (
    *("raw_bytes", "text_bytes", "tokens", "documents", "bad_records"),
    *("packed_bytes", "unpacked_bytes"),
)
"""Columns of the live counters, by worker and domain. The last two are bytes read of compressed
files, as they are on disk and once decoded."""


@dataclass(frozen=True, slots=True)
class TaskItem:
    """A file or a group of files, and the segments to read; None stands for all."""

    plan: FilePlan
    segments: tuple[int, ...] | None

    @property
    def size_bytes(self) -> int:
        """Bytes to read on disk."""
        whole_bytes = size_bytes(self.plan)
        if self.segments is None or not self.plan.count:
            return whole_bytes
        return whole_bytes * len(self.segments) // self.plan.count


@dataclass(frozen=True, slots=True)
class Task:
    """Items of one domain that a worker takes together."""

    domain: int
    items: tuple[TaskItem, ...]
    size_bytes: int
    shared: bool
    """Whether others help the worker that takes it, with segments of the one file."""


@dataclass(frozen=True)
class TokeniseJob:
    """Everything that the workers of a run need."""

    tokenizer: Tokenizer
    backend: BackendChoice
    encoder: Encoder | None
    """Encoder that forked workers share; None if each worker must build one."""
    store: Path
    spill: Path
    """Directory for count runs, emptied by the caller."""
    domains: tuple[str, ...]
    tasks: tuple[Task, ...]
    present: frozenset[tuple[str, int]]
    """(file key, segment) pairs of unfinished files that are stored already."""
    count_memory_bytes: int
    stop_on_bad_record: bool
    bucket: StoreBucket | None = None
    """Copy of the store in a bucket, to which new parts are sent."""


def size_bytes(plan: FilePlan) -> int:
    """Return the bytes of a plan's files, as they are on disk."""
    return sum(file.size_bytes for file in plan.files)


def is_packed(plan: FilePlan) -> bool:
    """Whether a plan's files, or the first of a group, are longer once read than on disk."""
    return bool(plan.cuts) or plan.files[0].compression not in ("plain", "")


def name_of(task: Task) -> str:
    """Name the files of a task by the first."""
    files = sum(len(item.plan.files) for item in task.items)
    path = task.items[0].plan.files[0].path
    return path if files == 1 else f"{path} or one of the {files - 1} files after it"


def plan_tasks(
    domains: Sequence[Sequence[FilePlan]], store: TokenStore, workers: int
) -> tuple[tuple[Task, ...], frozenset[tuple[str, int]]]:
    """Cut what the store lacks into tasks for workers, the largest domains first.

    Args:
        domains: The plans of each domain's files.
        store: The token store.
        workers: Number of processes.

    Returns:
        Tasks, and the (file key, segment) pairs of unfinished files that are stored already.
    """
    tasks: list[Task] = []
    present: set[tuple[str, int]] = set()
    seen: set[str] = set()
    for number, plans in enumerate(domains):
        pending: list[TaskItem] = []
        pending_bytes = 0
        for whole_plan in plans:
            plan = _missing_files(whole_plan, store, seen)
            if plan is None:
                continue
            plan_bytes = size_bytes(plan)
            first = plan.keys[0]
            stored = store.segments_of(first)
            present.update((first, segment) for segment in stored)
            if plan_bytes <= SMALL_FILE_BYTES:
                pending.append(TaskItem(plan, None))
                pending_bytes += plan_bytes
                if len(pending) >= FILES_A_TASK or pending_bytes >= 2 * SEGMENT_BYTES:
                    tasks.append(Task(number, tuple(pending), pending_bytes, False))
                    pending, pending_bytes = [], 0
            elif plan.count is None:
                tasks.append(Task(number, (TaskItem(plan, None),), plan_bytes, True))
            else:
                tasks += [
                    Task(number, (TaskItem(plan, (segment,)),), plan_bytes // plan.count, False)
                    for segment in range(plan.count)
                    if segment not in stored
                ]
        if pending:
            tasks.append(Task(number, tuple(pending), pending_bytes, False))
    totals: dict[int, int] = {}
    for task in tasks:
        totals[task.domain] = totals.get(task.domain, 0) + task.size_bytes
    tasks.sort(key=lambda task: (-totals[task.domain], task.domain, -task.size_bytes))
    by_domain = itertools.groupby(tasks, key=lambda task: task.domain)
    joined = [_joined(list(group), workers) for _, group in by_domain]
    return tuple(itertools.chain(*joined)), frozenset(present)


def most_at_once(remaining_bytes: int, workers: int) -> int:
    """Return the bytes of a worker's next task: fewer and fewer, so that all end together.

    Args:
        remaining_bytes: Bytes not taken yet.
        workers: Number of processes that share them.
    """
    return min(TASK_SEGMENTS * SEGMENT_BYTES, remaining_bytes // (2 * workers))


def _joined(tasks: Sequence[Task], workers: int) -> list[Task]:
    """Join tasks of neighbouring segments, so that workers read through a file."""
    remaining = sum(task.size_bytes for task in tasks)
    joined: list[Task] = []
    for task in tasks:
        most_bytes = most_at_once(remaining, workers)
        remaining -= task.size_bytes
        both = _followed_by(joined[-1], task) if joined else None
        if both is not None and both.size_bytes <= most_bytes:
            joined[-1] = both
        else:
            joined.append(task)
    return joined


def _followed_by(task: Task, other: Task) -> Task | None:
    """Join two tasks if the second continues the file of the first; None otherwise."""
    last, first = task.items[-1], other.items[0]
    if last.plan is not first.plan or not last.segments or not first.segments:
        return None
    if last.segments[-1] + 1 != first.segments[0]:
        return None
    item = TaskItem(last.plan, last.segments + first.segments)
    size_bytes = task.size_bytes + other.size_bytes
    return replace(task, items=(item,), size_bytes=size_bytes)


def _missing_files(plan: FilePlan, store: TokenStore, seen: set[str]) -> FilePlan | None:
    """Restrict a plan to files that are neither stored whole nor in `seen`; add them to `seen`."""
    lacking = []
    for file, key in zip(plan.files, plan.keys, strict=True):
        if key not in seen and store.file_rows(key, plan.count) is None:
            seen.add(key)  # identical content is tokenised once, in this plan too
            lacking.append(file)
    missing = tuple(lacking)
    if len(missing) == len(plan.files):
        return plan
    return replace(plan, files=missing) if missing else None
