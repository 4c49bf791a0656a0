"""Run the workers that fill the token store, in one pass from bytes to tokens and counts.

Each worker takes segments, decompresses, parses, encodes, appends end-of-text tokens, counts, and
writes parts, without passing data to another process. A file that cannot be cut beforehand (a
compressed one) is shared: each worker decompresses all of it and keeps the segments it claims, so
one huge file occupies all cores too. Segments that are already stored are not read again.
"""

from __future__ import annotations

from collections.abc import Callable
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
from curate.tokens.tasks import PROGRESS, TokeniseJob, name_of
from curate.tokens.tokenizer import Tokenizer
from curate.tokens.worker import SharedState, work

CountRuns: TypeAlias = dict[int, list[tuple[Path, list[str]]]]
"""Count tables on disk by domain, each with the names of the entries it counts."""


def tokenise(
    job: TokeniseJob,
    workers: int,
    on_progress: Callable[[NDArray[np.int64]], None],
    test_backend: Callable[[], None],
) -> CountRuns:
    """Run a job, and return its count tables.

    Args:
        job: Tasks, at least one, and how to do them.
        workers: Most processes.
        on_progress: Called about ten times a second with shape (domains, len(PROGRESS)) totals.
        test_backend: Run in the parent while workers start. An exception from it ends the run
            before any part is written.

    Raises:
        InputError: A file cannot be read, or a bad record where the recipe allows none.
    """
    runs: CountRuns = {}
    if not any(task.shared for task in job.tasks):  # any number of workers can join a shared one
        workers = min(workers, len(job.tasks))
    shape = (workers, len(job.domains), len(PROGRESS))
    shared = SharedState(
        counters=shared_numbers([0] * int(np.prod(shape))),
        verdict=shared_numbers([0]),
        queue=TaskQueue(job.tasks, workers),
        current=shared_numbers([-1] * workers),
    )
    totals = np.frombuffer(shared.counters, np.int64).reshape(shape)

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


def load_kernels(tokenizer: Tokenizer) -> None:
    """Run every compiled loop once, so that workers forked later share the loaded code."""
    end = tokenizer.end_symbol
    stream = np.full(2, end, tokenizer.stream_dtype)
    append_ends(np.empty(0, np.uint32), np.zeros(2, np.int64), end, stream[:1])
    table = count_stream(stream, end, tokenizer.symbols)
    _ = table + table
