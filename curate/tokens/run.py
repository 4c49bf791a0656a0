"""Run the workers that fill the token store, in one pass from bytes to tokens and counts.

Each worker takes segments, decompresses, parses, encodes, appends end-of-text tokens, counts, and
writes parts, without passing data to another process. Only a file that cannot be cut beforehand (a
compressed one) is shared: the worker that decompresses it gathers segments for those that have
nothing else to do, so that one huge file occupies all cores too. Segments that are already stored
are not read again.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from curate.errors import EngineError, TokenizerError
from curate.runtime import workers as local
from curate.runtime.machine import machine_fault
from curate.runtime.shared import shared_numbers
from curate.tokens.counting import count_stream
from curate.tokens.rows import append_ends
from curate.tokens.task_queue import TaskQueue
from curate.tokens.tasks import PROGRESS, Task, TokeniseJob, name_of
from curate.tokens.tokenizer import Tokenizer
from curate.tokens.worker import SharedState, work

CountRuns: TypeAlias = dict[int, list[tuple[Path, list[str]]]]
"""Count tables on disk by domain, each with the names of the entries it counts."""

GROUP_BYTES = 1 << 30
"""Most bytes of files that a task on a cluster tokenises, for each of which there is one table of
counts."""

GROUPS_A_WORKER = 4
"""Fewest such tasks for each worker, so that all end together."""


def tokenise(
    job: TokeniseJob,
    workers: int,
    on_progress: Callable[[NDArray[np.int64]], None],
    test_backend: Callable[[], None],
) -> CountRuns:
    """Run a job, and return its count tables.

    Args:
        job: Tasks, at least one, and how to do them.
        workers: Most processes, or tasks at once on a cluster.
        on_progress: Called about ten times a second with shape (domains, len(PROGRESS)) totals.
        test_backend: Run in the parent while workers start. An exception from it ends the run
            before any part is written.

    Raises:
        InputError: A file cannot be read, or a bad record where the recipe allows none.
    """
    if local.uses_cluster() and workers > 1:
        test_backend()
        return _tokenise_apart(job, workers, on_progress)
    runs: CountRuns = {}
    if not any(task.shared for task in job.tasks):  # any number can help with a shared one
        workers = min(workers, len(job.tasks))
    shared, totals = _shared_state(job, workers)

    def keep(message: tuple[int, Path, list[str]]) -> None:
        domain, run, counted = message
        runs.setdefault(domain, []).append((run, counted))

    def tick() -> None:
        if shared.verdict[0] == 0:
            test_backend()
            shared.verdict[0] = 1
        on_progress(totals.sum(axis=0))

    def work_of(number: int) -> str:
        position = shared.current[number]
        return "" if position < 0 else name_of(job.tasks[position])

    try:
        local.run_workers(partial(work, job, shared), workers, keep, tick, work_of)
    except (EngineError, TokenizerError, RuntimeError) as error:
        if shared.verdict[0] == 0:  # the backend may have killed the worker, or failed there
            try:
                test_backend()
            except Exception as second:
                if machine_fault(second):  # the worker's error names a file
                    raise error from second
                raise
        raise
    on_progress(totals.sum(axis=0))
    return runs


def _shared_state(job: TokeniseJob, workers: int) -> tuple[SharedState, NDArray[np.int64]]:
    """Make the memory that workers share, and the view of its counters by worker and domain."""
    shape = (workers, len(job.domains), len(PROGRESS))
    shared = SharedState(
        counters=shared_numbers([0] * int(np.prod(shape))),
        verdict=shared_numbers([0]),
        queue=TaskQueue(job.tasks),
        current=shared_numbers([-1] * workers),
    )
    return shared, np.frombuffer(shared.counters, np.int64).reshape(shape)


def _tokenise_apart(
    job: TokeniseJob, workers: int, on_progress: Callable[[NDArray[np.int64]], None]
) -> CountRuns:
    """Tokenise groups of tasks on a cluster, whose machines share nothing but files."""
    runs: CountRuns = {}
    totals = np.zeros((len(job.domains), len(PROGRESS)), np.int64)

    def keep(result: _GroupResult) -> None:
        domain, counted, progress = result
        totals[domain] += progress
        runs.setdefault(domain, []).extend(counted)

    local.map_tasks(
        partial(_tokenise_group, replace(job, tasks=(), encoder=None)),
        list(_groups(job.tasks, workers)),
        workers,
        on_tick=lambda: on_progress(totals),
        on_result=keep,
    )
    on_progress(totals)
    return runs


_GroupResult: TypeAlias = tuple[int, list[tuple[Path, list[str]]], NDArray[np.int64]]


def _tokenise_group(job: TokeniseJob, tasks: tuple[Task, ...]) -> _GroupResult:
    """Do tasks of one domain here; return its number, count tables and shape (len(PROGRESS),)."""
    # A second attempt, perhaps beside a first that is not dead but cut off, needs its own place.
    job = replace(job, tasks=tasks, spill=job.spill / f"group-{uuid.uuid4().hex}")
    shared, totals = _shared_state(job, 1)
    shared.verdict[0] = 1
    counted: list[tuple[int, Path, list[str]]] = []
    work(job, shared, 0, counted.append)
    domain = tasks[0].domain
    return domain, [(run, names) for _, run, names in counted], totals[0, domain].copy()


def _groups(tasks: Sequence[Task], workers: int) -> Iterator[tuple[Task, ...]]:
    """Join neighbouring tasks of one domain, in their order."""
    total_bytes = sum(task.size_bytes for task in tasks)
    most_bytes = min(GROUP_BYTES, total_bytes // (GROUPS_A_WORKER * workers))
    group: list[Task] = []
    group_bytes = 0
    for task in tasks:
        if group and (task.domain != group[0].domain or group_bytes + task.size_bytes > most_bytes):
            yield tuple(group)
            group, group_bytes = [], 0
        group.append(task)
        group_bytes += task.size_bytes
    if group:
        yield tuple(group)


def load_kernels(tokenizer: Tokenizer) -> None:
    """Run every compiled loop once, so that workers forked later share the loaded code."""
    end = tokenizer.end_symbol
    stream = np.full(2, end, tokenizer.stream_dtype)
    append_ends(np.empty(0, np.uint32), np.zeros(2, np.int64), end, stream[:1])
    table = count_stream(stream, end, tokenizer.symbols)
    _ = table + table
