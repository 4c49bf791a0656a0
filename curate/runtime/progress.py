"""What long work tells whoever watches; the library itself never prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """How far models that train together have come."""

    models: int
    step: int
    steps: int
    loss: float
    """Mean over the models, of the last batch, nats per token."""
    done_tokens: int
    """Of all groups of the stage, those that an earlier process trained on included."""
    fresh_tokens: int
    """Of those, what this process trained on: what speed is told from."""
    total_tokens: int
    token_flops: float
    """Floating-point operations to train on a token."""


class Observer:
    """Hears what happens; this one does nothing with it."""

    def notice(self, message: str) -> None:
        """Something the user should know, in one line."""

    def begin(self, stage: str, names: Sequence[str] = (), totals: Sequence[int] = ()) -> None:
        """A stage starts.

        Args:
            stage: What it does, in two or three words.
            names: Domains, or the one thing that is worked on.
            totals: Expected work of each, in bytes or tokens; 0 where unknown.
        """

    def advance(self, counters: NDArray[np.int64]) -> None:
        """Totals so far, shape (names, columns of `tokens.jobs.PROGRESS`)."""

    def tick(self) -> None:
        """Work goes on in a stage that counts nothing."""
        self.advance(np.zeros((0, 0), np.int64))

    def train(self, progress: TrainingProgress) -> None:
        """Models have taken steps; told about once a second."""

    def end(self, summary: str = "") -> None:
        """The stage is over; what it did, in a few words."""
