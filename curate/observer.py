"""What long work tells whoever watches; the library itself never prints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


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
        """Totals so far, shape (names, columns of `tokens.pipeline.PROGRESS`)."""

    def end(self, summary: str = "") -> None:
        """The stage is over; what it did, in a few words."""
