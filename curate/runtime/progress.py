"""Progress events, which an observer such as the terminal displays; the library never prints."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.runtime.files import write_json
from curate.runtime.log import LOG

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

    def advance(self, counters: NDArray[np.int64]) -> None:
        """Report totals so far.

        Args:
            counters: shape (names, columns), with the columns of `tokens.tasks.PROGRESS`.
        """

    def tick(self) -> None:
        """Report that a stage without counters is still running."""
        self.advance(np.zeros((0, 0), np.int64))

    def train(self, progress: TrainingProgress) -> None:
        """Report the progress of training, about once a second."""

    def end(self, summary: str = "") -> None:
        """Report that the stage has ended, with a summary of a few words."""

    def wrote(self, path: Path) -> None:
        """Report a file of results that was written."""


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
