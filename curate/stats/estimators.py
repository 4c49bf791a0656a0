"""The plug-in entropy, from the times that symbols were seen.

Biased low; `curate.stats.unseen_species` corrects it, and `curate.stats.conditional` does better on
undersampled pairs. Joint entropies come from counts of pairs; a conditional entropy is joint minus
Shannon by the same estimator, which keeps JE = SE + CE exact.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def histogram(count: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return the distinct positive counts, the number of symbols with each, and all tokens.

    Raises:
        ValueError: A count is negative.
    """
    if len(count) and count.min() < 0:
        raise ValueError(f"expected counts of at least 0, got {int(count.min())}")
    value, symbols = np.unique(count[count > 0], return_counts=True)
    return value, symbols, int((value * symbols).sum())


def plugin(count: NDArray[np.int64]) -> float:
    """Return the entropy of the frequencies: ln N - (1/N) sum of c ln c, nats.

    Example:
        >>> round(plugin(np.array([2, 2])), 4)
        0.6931
    """
    value, symbols, tokens = histogram(count)
    if not tokens:
        return 0.0
    return max(0.0, math.log(tokens) - float((symbols * value * np.log(value)).sum()) / tokens)
