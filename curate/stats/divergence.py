"""Distances between domains: Jensen-Shannon divergence and shared pairs of tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from curate.stats.bigram_sample import PairCounts
from curate.stats.unseen_species import unseen


def jensen_shannon(
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    estimator: Callable[[NDArray[np.int64]], float] = unseen,
) -> float:
    """Estimate the divergence of two distributions of tokens from samples of the same size.

    JS = H((P + Q)/2) - (H(P) + H(Q))/2. With equal numbers of tokens, both samples together are a
    sample of the even mixture, so an estimator that corrects the bias of H corrects that of JS;
    the plug-in finds differences between two samples of one source.

    Args:
        left: shape (symbols,), counts.
        right: shape (symbols,), counts of as many tokens.
        estimator: Entropy in nats from counts, shape (symbols,).

    Returns:
        Nats, between 0 and ln 2.

    Raises:
        ValueError: Shapes or totals differ by more than one in a hundred, or there is no token.

    Example:
        >>> round(jensen_shannon(np.array([500, 0]), np.array([0, 500])), 4)
        0.6931

    References:
        Lin 1991, "Divergence measures based on the Shannon entropy", doi:10.1109/18.61115.
    """
    if left.shape != right.shape:
        raise ValueError(f"expected counts of the same symbols, got {left.shape}, {right.shape}")
    totals = int(left.sum()), int(right.sum())
    if not min(totals) or max(totals) > 1.01 * min(totals):
        raise ValueError(f"expected samples of the same positive size, got {totals} tokens")
    nats = estimator(left + right) - (estimator(left) + estimator(right)) / 2
    return min(math.log(2), max(0.0, nats))


def js_matrix(counts: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Return `jensen_shannon` of every two domains, shape (domains, domains)."""
    size = max((len(count) for count in counts), default=0)
    padded = [np.pad(count, (0, size - len(count))) for count in counts]
    matrix = np.zeros((len(counts), len(counts)))
    for row in range(len(counts)):
        for column in range(row):
            nats = jensen_shannon(padded[row], padded[column])
            matrix[row, column] = matrix[column, row] = nats
    return matrix


def pair_overlap(samples: Sequence[PairCounts]) -> NDArray[np.float64]:
    """Return the share of each domain's tokens that begin a pair which another's sample has too.

    The shares depend on the sizes of the samples, which should be equal.

    Returns:
        Shape (domains, domains), [a, b] for tokens of a whose pair is in b; 1 on the diagonal.
    """
    symbols = max((sample.symbols for sample in samples), default=1)
    keys = [sample.first * symbols + sample.second for sample in samples]
    matrix = np.eye(len(samples))
    for row, sample in enumerate(samples):
        for column in range(len(samples)):
            if row != column:
                shared = np.isin(keys[row], keys[column], assume_unique=True)
                matrix[row, column] = sample.count[shared].sum() / max(1, sample.tokens)
    return matrix
