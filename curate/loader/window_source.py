"""Interface that a loader reads from: numbered windows of tokens, and orders of the numbers.

Written shards and the token store implement it, so loaders do not distinguish them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from curate.loader.fields import Segments

Order = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""Function from ascending positions in an epoch to the numbers of their windows, one to one."""


class WindowSource(Protocol):
    """Numbered windows of equal length."""

    @property
    def where(self) -> str:
        """Directory or recipe, for messages."""
        ...

    @property
    def windows(self) -> int:
        """Number of windows, at least 1."""
        ...

    @property
    def window_tokens(self) -> int:
        """Tokens of each window."""
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
        """Highest token id of the tokenizer."""
        ...

    @property
    def seed(self) -> int:
        """Seed of the order, unless another is requested."""
        ...

    def fingerprint(self) -> str:
        """Hash everything that decides which tokens a number stands for."""
        ...

    def read(self, numbers: NDArray[np.int64], out: NDArray[Any]) -> Segments | None:
        """Fill `out`, shape (numbers, window_tokens); return segments if the source has them."""
        ...

    def order(self, seed: int, epoch: int) -> Order:
        """Return a shuffled order, different for every seed and epoch."""
        ...

    def stored_order(self) -> Order:
        """Return the order of a build."""
        ...
