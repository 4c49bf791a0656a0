"""Tokenise what the store lacks, with the fastest backend that gives the reference's ids.

The backend is built while another process encodes a sample with the reference. Workers start before
the two are compared, and write nothing until they agree. Building it still earlier, in a thread
while files are looked for or while curate is imported, made no run faster: 0.97 to 1.11 s of wall
time and 1.07 to 1.05 s of CPU for seven files with the tokenizer of GPT-NeoX, 3.15 to 2.66 s and
2.90 to 2.58 s with Qwen's (least of 8 to 10 alternating pairs, with both threads and with neither,
2 shared cores).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curate.errors import TokenizerError
from curate.recipe import Recipe
from curate.runtime.files import user_cache
from curate.runtime.progress import Observer
from curate.runtime.workers import ahead, workers_share_memory
from curate.sources import SegmentReader
from curate.sources.plans import FilePlan
from curate.tokens.backends import (
    BACKENDS,
    BackendChoice,
    BackendRefused,
    reference_choice,
)
from curate.tokens.run import Tokenised, load_kernels, tokenise
from curate.tokens.selftest import ReferenceAnswers, judge, reference_answers
from curate.tokens.store import TokenStore
from curate.tokens.tasks import PROGRESS, Task, TokeniseJob, plan_tasks
from curate.tokens.tokenizer import Tokenizer

SAMPLE_BYTES = 96 << 10
"""Text of the user's own documents that a fast tokenizer must get right, all domains together."""


@dataclass(frozen=True)
class FillRequest:
    """Everything needed to fill a token store."""

    recipe: Recipe
    tokenizer: Tokenizer
    store: TokenStore
    spill: Path
    """Directory for count runs, emptied by the caller."""
    workers: int
    observer: Observer
    choice: BackendChoice
    """The backend to try first."""


@dataclass(frozen=True)
class FillResult:
    """Counts and text added to the store."""

    made: Tokenised
    text_bytes: int


def fill(filling: FillRequest, plans: Sequence[Sequence[FilePlan]]) -> FillResult:
    """Tokenise what the store lacks.

    Args:
        filling: Tokenizer, store and workers.
        plans: By domain, its files.

    Raises:
        TokenizerError: The recipe pins a backend that cannot be used.
        InputError: A file cannot be read, or a bad record where the recipe allows none.
    """
    tasks, present = plan_tasks(plans, filling.store, filling.workers)
    if not tasks:
        filling.observer.notice("tokenised already: every file is in the store")
        return FillResult(Tokenised(), 0)
    choice, requested = filling.choice, filling.recipe.tokenizer.backend
    if choice.notice:
        filling.observer.notice(choice.notice)
    try:
        return _attempt(filling, choice, tasks, present)
    except BackendRefused as error:
        if requested != "auto":
            raise TokenizerError(
                f"tokenizer.backend: {error}; use backend: auto or backend: tokenizers"
            ) from error
        choice = reference_choice(str(error))
        filling.observer.notice(choice.notice or "")
        return _attempt(filling, choice, tasks, present)


def _attempt(
    filling: FillRequest,
    choice: BackendChoice,
    tasks: tuple[Task, ...],
    present: frozenset[tuple[str, int]],
) -> FillResult:
    """Tokenise with one backend.

    Raises:
        BackendRefused: It cannot be built, or differs from the reference.
    """
    recipe, tokenizer, observer = filling.recipe, filling.tokenizer, filling.observer
    names = [domain.name for domain in recipe.domains]
    done = np.zeros((len(names), len(PROGRESS)), np.int64)
    totals = [
        sum(task.size_bytes for task in tasks if task.domain == number)
        for number in range(len(names))
    ]

    def progress(counters: NDArray[np.int64]) -> None:
        done[:] = counters
        observer.advance(counters)

    def ask_reference() -> ReferenceAnswers:
        sample = sample_documents([task.items[0].plan for task in tasks])
        return reference_answers(tokenizer, choice.name, sample, memory_dir())

    with ahead(ask_reference) as answers:
        if workers_share_memory():
            load_kernels(tokenizer)
        encoder = BACKENDS[choice.name](tokenizer)

        def test() -> None:
            verdict = judge(tokenizer, choice.name, encoder, answers(), memory_dir())
            for notice in verdict.notices:
                observer.notice(notice)
            if verdict.problem is not None:
                raise BackendRefused(verdict.problem)

        job = TokeniseJob(
            tokenizer=tokenizer,
            backend=choice,
            encoder=encoder if workers_share_memory() else None,
            store=filling.store.directory,
            spill=filling.spill / choice.name,
            domains=tuple(names),
            tasks=tasks,
            present=present,
            count_memory_bytes=recipe.counting.memory_mb << 20,
            stop_on_bad_record=recipe.on_bad_record == "error",
        )
        observer.begin("tokenise", names, totals)
        made = tokenise(job, filling.workers, progress, test)
    text_bytes, tokens = int(done[:, 1].sum()), int(done[:, 2].sum())
    observer.end(f"{text_bytes / 1e6:.1f} MB of text, {tokens:,} tokens")
    return FillResult(made, text_bytes)


def memory_dir() -> Path:
    """Return the directory of remembered verdicts on tokenizer backends."""
    return user_cache() / "backends"


def sample_documents(plans: Sequence[FilePlan]) -> list[str]:
    """Beginnings of documents at the start of some files, spread over the list of files."""
    # A large file has a task for each of its segments, all with its one plan.
    different = list({id(plan): plan for plan in plans}.values())
    sampled = different[:: max(1, len(different) // 8)]
    room = SAMPLE_BYTES // max(1, len(sampled))
    sample: list[str] = []
    reader = SegmentReader()
    for plan in sampled:
        taken = 0
        for block in reader.read(plan.beginning(4 * room)):
            for text in block.texts:
                piece = text[: room - taken]
                sample.append(piece)
                taken += len(piece)
                if taken >= room:
                    break
            break
    return sample
