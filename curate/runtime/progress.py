"""Events of long work for a watcher such as the terminal; the library itself never prints."""

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
    """Floating-point operations to train on one token."""


class Observer:
    """Receives events; this base class ignores them."""

    def notice(self, message: str) -> None:
        """Report something the user should know, in one line."""

    def begin(self, stage: str, names: Sequence[str] = (), totals: Sequence[int] = ()) -> None:
        """Report that a stage starts.

        Args:
            stage: What it does, in two or three words.
            names: Domains, or the one thing that is worked on.
            totals: Expected work of each, in bytes or tokens; 0 where unknown.
        """

    def advance(self, counters: NDArray[np.int64]) -> None:
        """Report totals so far, shape (names, columns of `tokens.tasks.PROGRESS`)."""

    def tick(self) -> None:
        """Report that a stage which counts nothing is still at work."""
        self.advance(np.zeros((0, 0), np.int64))

    def train(self, progress: TrainingProgress) -> None:
        """Report that models have taken steps; called about once a second."""

    def end(self, summary: str = "") -> None:
        """Report that the stage is over, and what it did in a few words."""
