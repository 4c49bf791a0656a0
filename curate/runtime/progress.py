"""Progress events, which an observer such as the terminal displays; the library never prints."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.runtime.files import write_json
from curate.runtime.log import LOG
from curate.runtime.shared import shared_lock, shared_numbers

BEGINNING_SHARE = 0.02
"""Share of the work of a stage from which its pace is not told."""

RECENT_SHARE = 0.1
"""Share of the work of a stage after which what was measured before counts 1/e of what is new."""

GUESSED_SHARE = 1 / 3
"""Most of the time left that may be of kinds of work that have not been measured, to be shown."""

LOG_SECONDS = 60.0
"""Least time between two lines of the log about the progress of a stage."""


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Progress of models that train together."""

    models: int
    step: int
    steps: int
    loss: float
    """Loss of the last batch in nats per token, averaged over the models."""
    done_tokens: int
    """Tokens trained on in all groups of the stage, also by earlier processes."""
    fresh_tokens: int
    """Tokens that this process itself trained on, from which throughput is computed."""
    total_tokens: int
    token_flops: float
    """Floating-point operations per trained token."""


class Pace:
    """Time that a unit of a stage's work takes, measured where it matters: lately.

    The beginning is left out: workers start, and wait until a backend has passed its test. What was
    done long ago counts less: a disk that has taken all that its cache holds, or documents of
    another kind, change the pace for good.
    """

    def __init__(self) -> None:
        """Start with no report."""
        self._last: tuple[float, float] | None = None
        """Work done and time at the last report of more work, after the beginning."""
        self._work = self._time = 0.0
        """Weighted sums between reports."""

    def of(self, done: float, total: float, time: float) -> float | None:
        """Return the time that a unit takes; None where nothing is known yet.

        Args:
            done: Work done.
            total: Expected work, in the same unit; 0 if unknown.
            time: Time that it took, in any unit.
        """
        if not total:
            return None
        if self._last is None:
            if done > BEGINNING_SHARE * total:
                self._last = done, time
            return None
        work, more_time = done - self._last[0], time - self._last[1]
        if work > 0:
            kept = math.exp(-work / (RECENT_SHARE * total))
            self._work = kept * self._work + work
            self._time = kept * self._time + more_time
            self._last = done, time
            more_time = 0.0
        return (self._time + more_time) / self._work if self._work else None

    def seconds_left(self, done: int, total: int, seconds: float) -> float | None:
        """Return the time left, 0 once all of the work is done; None where nothing is known yet.

        Args:
            done: Work done.
            total: Expected work, in the same unit; 0 if unknown.
            seconds: Time since the stage began.

        Example:
            >>> pace = Pace()
            >>> [pace.seconds_left(done, 128, done / 8) for done in (0, 16, 32, 64, 128)]
            [None, None, 12.0, 8.0, 0.0]
        """
        pace = self.of(done, total, seconds)
        return None if pace is None else max(0, total - done) * pace


class Observer:
    """Receives events; this base class ignores them."""

    def notice(self, message: str) -> None:
        """Report something the user should know, in one line."""

    def begin(self, stage: str, names: Sequence[str] = (), totals: Sequence[int] = ()) -> None:
        """Report that a stage starts.

        Args:
            stage: The work in two or three words.
            names: The domains, or the single thing that is worked on.
            totals: Expected work for each name, in bytes or tokens; 0 where unknown.
        """

    def expect(self, totals: Sequence[int]) -> None:
        """Report a better estimate of the expected work than `begin` had.

        Args:
            totals: Expected work for each name, in the same unit.
        """

    def advance(self, counters: NDArray[np.int64]) -> None:
        """Report totals so far.

        Args:
            counters: shape (names, columns), with the columns of `tokens.tasks.PROGRESS`.
        """

    def tick(self) -> None:
        """Report that a stage without counters is still running."""
        self.advance(np.zeros((0, 0), np.int64))

    def work(self, done: int, total: int) -> None:
        """Report how much of a stage without counters is done.

        Args:
            done: Work done, in the unit of `total`; 0 where that is not known.
            total: All of the work; 0 where that is not known.
        """
        self.tick()

    def train(self, progress: TrainingProgress) -> None:
        """Report the progress of training, about once a second."""

    def end(self, summary: str = "") -> None:
        """Report that the stage has ended, with a summary of a few words."""

    def wrote(self, path: Path) -> None:
        """Report a file of results that was written."""


TOKENS = "tokens"
"""Unit of work of stages that write and verify."""

_count: list[tuple[str, Callable[[int, int], None]]] = []
"""Units and counters of the work of this process: the running stage's, and those around it."""


@contextmanager
def metered(
    observer: Observer,
    totals: Sequence[int],
    guesses: Sequence[float] = (1.0,),
    unit: str = TOKENS,
) -> Iterator[Callable[[], None]]:
    """Count the work that `worked` reports inside, in forked workers too, and yield an `on_tick`.

    Work is of several kinds, such as copying and hashing, whose paces differ from one machine and
    corpus to the next. So the observer receives nanoseconds: those that all workers have spent, and
    those that all of the work is expected to take at the pace of each kind so far.

    Workers of a cluster, and spawned ones, share no memory: what they do is not counted.

    Args:
        observer: Receives `work` whenever the yielded function is called.
        totals: All of the work of each kind, in the unit of `worked`.
        guesses: Time that a unit of each kind takes, in any unit, until it has been measured.
        unit: Unit of the totals; work in other units is not counted.
    """
    kinds = len(totals)
    numbers, lock, process = shared_numbers([0] * 2 * kinds), shared_lock(), os.getpid()
    since = [time.monotonic_ns()]
    """When this process, or the one that it was forked from, last reported work."""
    paces = [Pace() for _ in totals]

    def report() -> None:
        done, spent = numbers[:kinds], numbers[kinds:]
        each = [pace.of(*row) for pace, *row in zip(paces, done, totals, spent, strict=True)]
        rest = [max(0, total - amount) for amount, total in zip(done, totals, strict=True)]
        left = time_of(rest, each, guesses)
        measured = sum(amount * (pace or 0.0) for amount, pace in zip(rest, each, strict=True))
        if any(rest) and measured <= (1 - GUESSED_SHARE) * left:
            observer.work(0, 0)
        else:
            observer.work(sum(spent), sum(spent) + left)

    def count(amount: int, kind: int) -> None:
        now = time.monotonic_ns()
        with lock:
            numbers[kind] += amount
            numbers[kinds + kind] += now - since[0]
        since[0] = now
        if os.getpid() == process:  # no worker does it, so nothing else calls `on_tick` meanwhile
            report()

    def on_tick() -> None:
        since[0] = time.monotonic_ns()
        report()

    _count.append((unit, count))
    try:
        yield on_tick
    finally:
        _count.pop()


def time_of(work: Sequence[int], paces: Sequence[float | None], guesses: Sequence[float]) -> int:
    """Estimate how much time work of some kinds takes.

    Args:
        work: The work of each kind.
        paces: Time that a unit of each kind takes; None where that is not known yet.
        guesses: The same in any unit, which stands in by its ratio to those that are known.

    Example:
        >>> time_of([10, 30], [5.0, None], [1, 2])  # 10 at 5, and 30 at twice that
        350
    """
    pairs = list(zip(paces, guesses, strict=True))
    measured = sum(pace for pace, _ in pairs if pace is not None)
    guessed = sum(guess for pace, guess in pairs if pace is not None)
    scale = measured / guessed if guessed else 1.0
    each = [scale * guess if pace is None else pace for pace, guess in pairs]
    return round(sum(amount * pace for amount, pace in zip(work, each, strict=True)))


def worked(amount: int, kind: int = 0, unit: str = TOKENS) -> None:
    """Count work of the stage that runs, if it is `metered`, since this was called before.

    Args:
        amount: The work, in the unit of the stage's totals.
        kind: Place of its kind among the totals.
        unit: Unit of the amount; it is not counted if the stage has another one.
    """
    if _count and _count[-1][0] == unit:
        _count[-1][1](amount, kind)


def in_proportion(amount: int, total: int, kind: int) -> Callable[[int], None]:
    """Return a function that counts work in proportion to the numbers it is called with.

    Args:
        amount: Work to count once the numbers sum to `total`.
        total: The sum.
        kind: As for `worked`.
    """
    so_far = [0]

    def count(number: int) -> None:
        before = amount * so_far[0] // max(1, total)
        so_far[0] += number
        worked(amount * so_far[0] // max(1, total) - before, kind)

    return count


class LoggingObserver(Observer):
    """Logs each event, for `--log-file` and `-v`; logging without handlers costs nothing."""

    def __init__(self) -> None:
        """Start with no stage."""
        self.written: list[Path] = []
        """Files of results, in the order in which they were written."""
        self._stage = ""
        self._started = 0.0
        self._logged = 0.0

    def notice(self, message: str) -> None:
        """Log a note."""
        LOG.info("note: %s", message)

    def begin(self, stage: str, names: Sequence[str] = (), totals: Sequence[int] = ()) -> None:
        """Log that a stage starts, and with how much work.

        Args:
            stage: Name of the stage.
            names: Parts of it that are counted apart, such as domains.
            totals: Work of each part, in the unit of the first counter; empty if unknown.
        """
        self._stage, self._started = stage, time.monotonic()
        LOG.info("begin %s: %d names, %s expected", stage, len(names), f"{sum(totals):,}")

    def advance(self, counters: NDArray[np.int64]) -> None:
        """Log the sums of the counters, at most every `LOG_SECONDS`."""
        if len(counters) and self._is_due():
            LOG.info("%s: %s so far", self._stage, counters.sum(axis=0).tolist())

    def work(self, done: int, total: int) -> None:
        """Log the share that is done, at most every `LOG_SECONDS`."""
        if done and self._is_due():
            LOG.info("%s: %.0f %% so far", self._stage, 100 * done / total)
        self.tick()

    def train(self, progress: TrainingProgress) -> None:
        """Log progress of training, at most every `LOG_SECONDS`."""
        if self._is_due():
            LOG.info("%s: %s", self._stage, progress)

    def end(self, summary: str = "") -> None:
        """Log that the stage has ended, and its time."""
        LOG.info("end %s: %s (%.1f s)", self._stage, summary, self._seconds())

    def wrote(self, path: Path) -> None:
        """Log and remember a written file."""
        self.written.append(path)
        LOG.info("wrote %s", path)

    def _seconds(self) -> float:
        """Return the time since the stage began."""
        return time.monotonic() - self._started

    def _is_due(self) -> bool:
        now = time.monotonic()
        is_due = now - self._logged >= LOG_SECONDS
        if is_due:
            self._logged = now
        return is_due


def write_artifact(path: Path, fields: dict[str, Any], observer: Observer) -> None:
    """Write a file of results, and say so.

    Args:
        path: The file.
        fields: What it holds.
        observer: Told of it once it is written.
    """
    write_json(path, fields)
    observer.wrote(path)
