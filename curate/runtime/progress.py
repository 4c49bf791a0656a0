"""Progress events, which an observer such as the terminal displays; the library never prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
