"""What a loader reads from: windows of tokens under a number, and orders of these numbers.

Written shards and the token store keep the same promise, so everything above is written once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from curate.loader.fields import Segments

Order = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""Positions in an epoch, ascending, → numbers of the windows that stand there; a bijection."""


class WindowSource(Protocol):
    """Windows of equal length."""

    @property
    def where(self) -> str:
        """Directory or recipe, for messages."""
        ...

    @property
    def windows(self) -> int:
        """How many there are, at least 1."""
        ...

    @property
    def window_tokens(self) -> int:
        """Tokens of each."""
        ...

    @property
    def left_over_tokens(self) -> int:
        """Tokens that lie in no window."""
        ...

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, by number."""
        ...

    @property
    def highest_id(self) -> int:
        """Of the tokenizer."""
        ...

    @property
    def seed(self) -> int:
        """Of the order, unless another is asked for."""
        ...

    def fingerprint(self) -> str:
        """Hash of everything that decides which tokens a number stands for."""
        ...

    def read(self, numbers: NDArray[np.int64], out: NDArray[Any]) -> Segments | None:
        """Fill `out`, shape (numbers, window_tokens); segments, if the source was opened so."""
        ...

    def order(self, seed: int, epoch: int) -> Order:
        """A shuffled order, another one for every seed and epoch."""
        ...

    def stored_order(self) -> Order:
        """The order of a build."""
        ...
