"""Run the workers that fill the token store, in one pass from bytes to tokens and counts.

Each worker takes segments, decompresses, parses, encodes, appends end-of-text tokens, counts, and
writes parts, all without passing data to another process. A file that cannot be cut beforehand (a
compressed one) is shared by workers that each decompress it and keep every segment they claim, so
one huge file occupies all cores too. Segments that are already stored are not read again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curate.errors import EngineError
from curate.runtime import workers as local
from curate.tokens.counting import count_stream
from curate.tokens.rows import append_ends
from curate.tokens.task_queue import TaskQueue
from curate.tokens.tasks import PROGRESS, Task, TokeniseJob
from curate.tokens.tokenizer import Tokenizer
from curate.tokens.worker import SharedState, work


@dataclass
class Tokenised:
    """The count tables that a run made."""

    runs: dict[int, list[tuple[Path, list[str]]]] = field(default_factory=dict)
    """Count tables on disk by domain, each with the names of the entries it counts."""


def tokenise(
    job: TokeniseJob,
    workers: int,
    on_progress: Callable[[NDArray[np.int64]], None],
    test_backend: Callable[[], None],
) -> Tokenised:
    """Run a job, and return its count tables.

    Args:
        job: What to do.
        workers: Processes.
        on_progress: Called about ten times a second with shape (domains, len(PROGRESS)) totals.
        test_backend: Run in the parent while workers start. An exception from it ends the run
            before any part is written.

    Raises:
        InputError: A file cannot be read, or a bad record where the recipe allows none.
    """
    made = Tokenised()
    if not job.tasks:
        return made
    workers = min(workers, _useful_workers(job.tasks))
    process = local.context()
    shape = (workers, len(job.domains), len(PROGRESS))
    shared = SharedState(
        counters=process.RawArray("q", int(np.prod(shape))),
        verdict=process.RawValue("b", 0),
        queue=TaskQueue(job.tasks, workers),
    )
    totals = np.frombuffer(shared.counters, np.int64).reshape(shape)

    def keep(message: tuple[int, Path, list[str]]) -> None:
        domain, run, counted = message
        made.runs.setdefault(domain, []).append((run, counted))

    def tick() -> None:
        if shared.verdict.value == 0:
            test_backend()
            shared.verdict.value = 1
        on_progress(totals.sum(axis=0))

    try:
        local.run_workers(partial(work, job, shared), workers, keep, tick)
    except (EngineError, RuntimeError):
        if shared.verdict.value == 0:  # the backend may have killed the worker
            test_backend()
        raise
    on_progress(totals.sum(axis=0))
    return made


def load_kernels(tokenizer: Tokenizer) -> None:
    """Run every compiled loop once, so that workers forked later share the loaded code."""
    end = tokenizer.end_symbol
    stream = np.full(2, end, tokenizer.stream_dtype)
    append_ends(np.empty(0, np.uint32), np.zeros(2, np.int64), end, stream[:1])
    table = count_stream(stream, end, tokenizer.symbols)
    _ = table + table


def _useful_workers(tasks: Sequence[Task]) -> int:
    if any(task.shared for task in tasks):
        return 1 << 16
    return len(tasks)
