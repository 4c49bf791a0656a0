"""Tokenise what the store lacks, with the fastest backend that gives the reference's ids.

The backend is built while another process encodes a sample with the reference, or before, as
`preload` says. Workers start before the two are compared, and write nothing until they agree.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError, TokenizerError
from curate.recipe import Recipe
from curate.runtime.files import is_url, user_cache
from curate.runtime.limits import OverLimit
from curate.runtime.progress import Observer
from curate.runtime.shared import workers_share_memory
from curate.runtime.workers import ahead
from curate.sources import SegmentReader
from curate.sources.decompress.open import StreamDamage, open_stream
from curate.sources.plans import FilePlan
from curate.tokens.backends import (
    BACKENDS,
    REFERENCE,
    BackendChoice,
    BackendRefused,
    reference_choice,
)
from curate.tokens.bucket_store import StoreBucket
from curate.tokens.selftest import (
    LIMITS,
    ReferenceAnswers,
    Verdict,
    judge,
    reference_answers,
    unfit,
)
from curate.tokens.store import TokenStore
from curate.tokens.task_queue import COMPRESSION
from curate.tokens.tasks import PROGRESS, Task, TokeniseJob, is_packed, plan_tasks
from curate.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from curate.tokens.run import CountRuns

SAMPLE_BYTES = 96 << 10
"""Text of the user's own documents that a fast tokenizer must encode correctly, in all domains."""

BEGINNING_BYTES = 64 << 10
"""Bytes on disk after which a domain's compression is told from its own files more than others'."""

SAMPLED_BYTES = 1 << 20
"""Decoded bytes of a file from which the compression of a domain is told before it is read."""

SAMPLED_DOMAINS = 16


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
    bucket: StoreBucket | None = None
    """Copy of the store in a bucket, to which new parts are sent."""


@dataclass(frozen=True)
class FillResult:
    """Count tables made, and text added to the store."""

    runs: CountRuns
    text_bytes: int


def fill(request: FillRequest, plans: Sequence[Sequence[FilePlan]]) -> FillResult:
    """Tokenise what the store lacks.

    Args:
        request: Tokenizer, store and workers.
        plans: The plans of each domain's files.

    Raises:
        TokenizerError: The recipe names a backend that cannot be used.
        InputError: A file cannot be read, or a bad record where the recipe allows none.
    """
    tasks, present = plan_tasks(plans, request.store, request.workers)
    if not tasks:
        request.observer.notice("tokenised already: every file is in the store")
        return FillResult({}, 0)
    choice, requested = request.choice, request.recipe.tokenizer.backend
    if choice.notice:
        request.observer.notice(choice.notice)
    try:
        return _attempt(request, choice, tasks, present)
    except BackendRefused as error:
        if requested != "auto":
            raise TokenizerError(
                f"tokenizer.backend: {error}; use backend: auto or backend: tokenizers"
            ) from error
        choice = reference_choice(str(error))
        request.observer.notice(choice.notice or "")
        return _attempt(request, choice, tasks, present)


def _attempt(
    request: FillRequest,
    choice: BackendChoice,
    tasks: tuple[Task, ...],
    present: frozenset[tuple[str, int]],
) -> FillResult:
    """Tokenise with one backend.

    Raises:
        BackendRefused: It cannot be built, or differs from the reference.
    """
    from curate.tokens.run import load_kernels, tokenise

    recipe, tokenizer, observer = request.recipe, request.tokenizer, request.observer
    names = [domain.name for domain in recipe.domains]
    done = np.zeros((len(names), len(PROGRESS)), np.int64)
    sizes = _Sizes(tasks, len(names))

    def progress(counters: NDArray[np.int64]) -> None:
        done[:] = counters
        observer.expect(sizes.decoded_bytes(counters))
        observer.advance(counters)

    def ask_reference() -> ReferenceAnswers:
        sample = sample_documents([task.items[0].plan for task in tasks])
        return reference_answers(tokenizer, choice.name, sample, memory_dir())

    with ahead(ask_reference, LIMITS) as receive:
        answers = partial(_answers, receive, tokenizer, choice.name)
        if workers_share_memory():
            load_kernels(tokenizer)
        if choice.name == REFERENCE:
            answers()  # it is built here only after it could be built within limits
        encoder = BACKENDS[choice.name](tokenizer)

        def test() -> None:
            opinion = partial(judge, tokenizer, choice.name, encoder, answers(), memory_dir())
            _check_candidate(choice.name, opinion, observer)
            sizes.sample()  # here, while workers are busy

        job = TokeniseJob(
            tokenizer=tokenizer,
            backend=choice,
            encoder=encoder if workers_share_memory() else None,
            store=request.store.directory,
            spill=request.spill / choice.name,
            domains=tuple(names),
            tasks=tasks,
            present=present,
            count_memory_bytes=recipe.counting.memory_mb << 20,
            stop_on_bad_record=recipe.on_bad_record == "error",
            bucket=request.bucket,
        )
        observer.begin("tokenise", names, sizes.decoded_bytes(done))
        runs = tokenise(job, request.workers, progress, test)
    text_bytes, tokens = int(done[:, 1].sum()), int(done[:, 2].sum())
    observer.end(f"{text_bytes / 1e6:.1f} MB of text, {tokens:,} tokens")
    return FillResult(runs, text_bytes)


def _answers(
    receive: Callable[[], ReferenceAnswers], tokenizer: Tokenizer, name: str
) -> ReferenceAnswers:
    """Wait for the reference's answers.

    Args:
        receive: Waits for the process that asks the reference.
        tokenizer: The tokenizer.
        name: Name of the backend to be tested.

    Raises:
        TokenizerError: The process broke its limits.
    """
    try:
        return receive()
    except OverLimit as error:
        has_odd_inputs = name != REFERENCE
        raise unfit(tokenizer, f"its self-test {error}", has_odd_inputs) from error


def _check_candidate(name: str, opinion: Callable[[], Verdict], observer: Observer) -> None:
    """Raise `BackendRefused` unless a backend passes its self-test.

    It encodes in a process of its own, since it may hang like the reference.

    Args:
        name: Name of the backend.
        opinion: Compares it with the reference.
        observer: Receives the notices of the verdict.
    """
    with ahead(opinion, LIMITS) as receive:
        try:
            verdict = receive()
        except OverLimit as error:
            raise BackendRefused(f"{name} {error} in its self-test") from error
    for notice in verdict.notices:
        observer.notice(notice)
    if verdict.problem is not None:
        raise BackendRefused(verdict.problem)


class _Sizes:
    """Sizes of what is read, by domain; estimated for compressed files from those read so far."""

    def __init__(self, tasks: Sequence[Task], domains: int) -> None:
        self._tasks = tasks
        self._sampled = np.zeros(domains)
        """How many times longer files are once decoded, by their beginning; 0 where unknown."""
        self._packed, self._plain = np.zeros((2, domains), np.int64)
        for task in tasks:
            for item in task.items:
                part = self._packed if is_packed(item.plan) else self._plain
                part[task.domain] += item.size_bytes

    def decoded_bytes(self, counters: NDArray[np.int64]) -> list[int]:
        """Estimate the bytes of each domain once decoded.

        Args:
            counters: shape (domains, len(PROGRESS)), what was read so far.
        """
        packed, unpacked = counters[:, -2:].T.astype(np.float64)
        overall = unpacked.sum() / packed.sum() if packed.any() else COMPRESSION
        before = np.where(self._sampled > 0, self._sampled, overall)
        # A domain's own factor counts as soon as more than a beginning of it was read.
        factor = (unpacked + before * BEGINNING_BYTES) / (packed + BEGINNING_BYTES)
        left = np.maximum(self._packed - packed, 0)
        whole: list[int] = (self._plain + unpacked + left * factor).astype(np.int64).tolist()
        return whole

    def sample(self) -> None:
        """Decompress the beginning of a file of each of the largest domains."""
        sampled: set[int] = set()
        for task in self._tasks:
            plan = task.items[0].plan
            file = plan.files[0]
            if task.domain in sampled or plan.cuts or not is_packed(plan) or is_url(file.path):
                continue
            # Whatever is wrong with a file is reported by the worker that reads it.
            with (
                contextlib.suppress(StreamDamage, InputError),
                open_stream(file.path, file.size_bytes, file.status) as stream,
            ):
                # Not `skip_to`, which stops within a piece: its bytes on disk count whole.
                while stream.position < SAMPLED_BYTES:
                    if not stream.read(SAMPLED_BYTES):
                        break
                self._sampled[task.domain] = stream.estimated_bytes / file.size_bytes
            sampled.add(task.domain)
            if len(sampled) == SAMPLED_DOMAINS:
                break


def memory_dir() -> Path:
    """Return the directory of earlier verdicts on tokenizer backends."""
    return user_cache() / "backends"


def sample_documents(plans: Sequence[FilePlan]) -> list[str]:
    """Sample beginnings of documents from the first bytes of about eight files, evenly spaced."""
    # A large file has a task for each of its segments, all with the same plan.
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
