"""Cut the shards of a split into windows of one length, and number these.

Shards that hold fixed sequences are cut within each sequence; all others form one stream.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from curate.dataset.manifest import Manifest
from curate.plan import permute

SCHEDULE_STRETCHES = 100
"""Stretches of a dataset with a schedule whose windows are shuffled among each other."""


@dataclass(frozen=True)
class Cut:
    """Rule that cuts a stretch of tokens into windows."""

    length: int
    """Tokens from the start of a window to the start of the next."""
    window_tokens: int
    """Tokens of a window, `length` or one more."""
    sequence_tokens: int
    """Tokens of a stored sequence; windows do not cross its border."""

    @property
    def per_sequence(self) -> int:
        """Count the windows of a whole sequence."""
        return (self.sequence_tokens - self.window_tokens) // self.length + 1

    def windows(self, tokens: int) -> int:
        """Count the windows of a stretch.

        Example:
            >>> Cut(4, 5, 100).windows(9), Cut(4, 5, 100).windows(8), Cut(4, 4, 9).windows(18)
            (2, 1, 4)
        """
        whole, in_rest = self._whole_and_rest(tokens)
        return whole * self.per_sequence + in_rest

    def covered_tokens(self, tokens: int) -> int:
        """Count the tokens of a stretch that lie in a window."""
        shared = self.window_tokens - self.length
        whole, in_rest = self._whole_and_rest(tokens)
        covered = whole * (self.per_sequence * self.length + shared)
        return covered + (in_rest * self.length + shared if in_rest else 0)

    def _whole_and_rest(self, tokens: int) -> tuple[int, int]:
        """Count the whole sequences of a stretch, and the windows in what follows them."""
        whole, rest = divmod(tokens, self.sequence_tokens)
        return whole, max(0, (rest - self.window_tokens) // self.length + 1)

    def starts(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the first token of each window, counted from the start of the stretch."""
        sequence, within = np.divmod(numbers, self.per_sequence)
        starts: NDArray[np.int64] = sequence * self.sequence_tokens + within * self.length
        return starts


def shuffled(
    positions: NDArray[np.int64], count: int, key: int, stretches: int = 1
) -> NDArray[np.int64]:
    """Return the windows at positions of a shuffled epoch.

    Args:
        positions: shape (positions,), positions in the epoch.
        count: Number of windows, at least 1.
        key: Key of the order, such as `epoch_seed`.
        stretches: Equal parts of the dataset that keep their order, so that a schedule is kept;
            windows are shuffled within each.

    Example:
        >>> shuffled(np.arange(8), 8, 7, stretches=2).tolist()
        [2, 3, 0, 1, 4, 6, 7, 5]
    """
    if stretches == 1:
        return permute(positions, count, key)
    edges = np.arange(stretches + 1) * count // stretches
    numbers = np.empty_like(positions)
    owners = np.searchsorted(edges, positions, side="right") - 1
    for owner in np.unique(owners).tolist():
        members, first = owners == owner, int(edges[owner])
        within = permute(positions[members] - first, int(edges[owner + 1]) - first, key + owner)
        numbers[members] = first + within
    return numbers


def stretches_of(manifest: Manifest, windows: int) -> int:
    """Return the stretches within which training windows are shuffled: 1 without a schedule."""
    return 1 if manifest.schedule is UNSET else min(SCHEDULE_STRETCHES, windows)


class NumberedWindows:
    """Windows over consecutive stretches of tokens, numbered through."""

    def __init__(self, stretch_tokens: NDArray[np.int64], cut: Cut) -> None:
        """Count the windows.

        Args:
            stretch_tokens: shape (stretches,), tokens of each stretch; no window crosses its end.
            cut: Rule that cuts a stretch.
        """
        self._cut = cut
        counts = [cut.windows(tokens) for tokens in stretch_tokens.tolist()]
        self._stops = np.cumsum(counts)
        self._stretch_starts = np.cumsum(stretch_tokens) - stretch_tokens
        self.count = sum(counts)
        covered = sum(cut.covered_tokens(tokens) for tokens in stretch_tokens.tolist())
        self.left_over_tokens = int(stretch_tokens.sum()) - covered

    def starts(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the first token of each window, counted from the start of the first stretch."""
        stretch = np.searchsorted(self._stops, numbers, side="right")
        before = np.where(stretch > 0, self._stops[stretch - 1], 0)
        starts: NDArray[np.int64] = self._stretch_starts[stretch] + self._cut.starts(
            numbers - before
        )
        return starts
