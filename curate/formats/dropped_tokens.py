"""Count the tokens that a trainer's reader drops when it cuts files into windows.

Pure arithmetic over one shard, so counts add up over shards. Left out: tokens dropped by a
reader's random choices (nanoGPT's offsets, nanochat's cropping).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DEFAULT_WINDOW_TOKENS = 2048
"""Tokens of a reader's window where neither the recipe's options nor its sequence length set it."""


def tails(row_tokens: NDArray[np.int64], window_tokens: int) -> int:
    """Count the tokens after the last whole window, where windows do not overlap.

    Args:
        row_tokens: shape (rows,), tokens of each document or sequence of the file.
        window_tokens: Tokens of a window as the reader cuts it, labels included.

    Example:
        >>> tails(np.array([60, 40]), 32)
        4
    """
    return int(row_tokens.sum()) % window_tokens


def labelled_tails(row_tokens: NDArray[np.int64], sequence_tokens: int) -> int:
    """Count the tail left by windows of `sequence_tokens` plus one, for the last label.

    Example:
        >>> labelled_tails(np.array([60, 40]), 32)
        1
    """
    return tails(row_tokens, sequence_tokens + 1)


def overlapping_tails(row_tokens: NDArray[np.int64], step_tokens: int) -> int:
    """Count the tail left by windows of `step_tokens` plus one, which the next window rereads.

    A file of T tokens gives (T - 1) // step windows, which cover that many steps and one token. A
    file too short for a window is lost whole.

    Example:
        >>> [overlapping_tails(np.array([tokens]), 32) for tokens in (65, 66, 32)]
        [0, 1, 32]
    """
    tokens = int(row_tokens.sum())
    windows = max(0, tokens - 1) // step_tokens
    return tokens - (windows * step_tokens + 1) if windows else tokens


def cut_rows(row_tokens: NDArray[np.int64], most_tokens: int) -> int:
    """Count the tokens beyond `most_tokens` of each row, for readers that truncate rows.

    Example:
        >>> cut_rows(np.array([10, 40, 33]), 32)
        9
    """
    return int(np.maximum(row_tokens - most_tokens, 0).sum())


def whole_rows(row_tokens: NDArray[np.int64], most_tokens: int) -> int:
    """Return 0, for readers whose sequences are the rows, whatever their length.

    Example:
        >>> whole_rows(np.array([33, 33]), 32)
        0
    """
    del row_tokens, most_tokens
    return 0


def worst_tails(shards: int, window_tokens: int, budget_tokens: int) -> int:
    """Bound the tokens in the tails of files whose lengths are not yet known.

    No reader's window exceeds `window_tokens` plus one, and a tail is shorter than a window.

    Args:
        shards: Number of files.
        window_tokens: Tokens of the trainer's windows.
        budget_tokens: Tokens in all files.

    Example:
        >>> worst_tails(4, 2048, 10**6), worst_tails(4, 2048, 1000)
        (8192, 1000)
    """
    return min(budget_tokens, shards * window_tokens)
