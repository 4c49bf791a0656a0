"""Tokens that a trainer's reader never shows, from how it cuts files into windows.

Pure arithmetic over one shard, so that losses add up over shards. What a reader drops by its own
random choices (nanoGPT's offsets, nanochat's cropping) is not computed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DEFAULT_WINDOW_TOKENS = 2048
"""Where neither the recipe's options nor its sequence length say what the trainer takes."""


def tails(row_tokens: NDArray[np.int64], window_tokens: int) -> int:
    """Non-overlapping windows within each file; its tail is never read.

    Args:
        row_tokens: shape (rows,), tokens of the file's documents or sequences.
        window_tokens: Of a window as the reader cuts it, labels included.

    Example:
        >>> tails(np.array([60, 40]), 32)
        4
    """
    return int(row_tokens.sum()) % window_tokens


def labelled_tails(row_tokens: NDArray[np.int64], sequence_tokens: int) -> int:
    """As `tails`, for readers that cut `sequence_tokens` and one more for the last label.

    Example:
        >>> labelled_tails(np.array([60, 40]), 32)
        1
    """
    return tails(row_tokens, sequence_tokens + 1)


def overlapping_tails(row_tokens: NDArray[np.int64], step_tokens: int) -> int:
    """Windows of `step_tokens` and one more, which the next window reads again.

    A file of T tokens gives (T - 1) // step windows; what they cover is that many steps and one
    token. A file too short for a window is lost whole.

    Example:
        >>> [overlapping_tails(np.array([tokens]), 32) for tokens in (65, 66, 32)]
        [0, 1, 32]
    """
    tokens = int(row_tokens.sum())
    windows = max(0, tokens - 1) // step_tokens
    return tokens - (windows * step_tokens + 1) if windows else tokens


def cut_rows(row_tokens: NDArray[np.int64], most_tokens: int) -> int:
    """Readers that take a row as a sequence and cut it at `most_tokens`.

    Example:
        >>> cut_rows(np.array([10, 40, 33]), 32)
        9
    """
    return int(np.maximum(row_tokens - most_tokens, 0).sum())


def whole_rows(row_tokens: NDArray[np.int64], most_tokens: int) -> int:
    """Readers whose sequences are the rows, whatever their length: nothing is lost.

    Example:
        >>> whole_rows(np.array([33, 33]), 32)
        0
    """
    del row_tokens, most_tokens
    return 0


def worst_tails(shards: int, window_tokens: int, budget_tokens: int) -> int:
    """Most tokens that the tails of files of yet unknown length can lose.

    Each reader's tail is at most a window of `window_tokens` and one more, less one.

    Example:
        >>> worst_tails(4, 2048, 10**6), worst_tails(4, 2048, 1000)
        (8192, 1000)
    """
    return min(budget_tokens, shards * window_tokens)
