"""Von Neumann entropy of documents, a measure of how many different things a domain holds.

It is the entropy of the eigenvalues of K / N, with K the cosine kernel of N documents; its
exponential is the Vendi score, an effective number of documents. The nonzero eigenvalues are also
those of the small Gram matrix of the embedding's coordinates, rho = (1/N) sum of v v^T over unit
rows v, so any number of documents costs one pass and one small eigenvalue problem.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.stats.estimate import GROUPS, Estimate, estimate


@dataclass(frozen=True, slots=True)
class NeumannReport:
    """Entropy of a sample of documents, and how it was measured."""

    entropy: Estimate
    """Its `sample_tokens` is 0, because the sample consists of excerpts."""
    plugin: float
    documents: int
    dimension: int
    encoder: str

    @property
    def vendi(self) -> float:
        """Effective number of documents."""
        return float(np.exp(self.entropy.nats))


def normalised_rows(embedding: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide rows by their lengths.

    Raises:
        ValueError: The array is not a matrix with a row, or the cosine of a row with others is
            undefined because it is zero or not finite.
    """
    if embedding.ndim != 2 or not len(embedding):
        raise ValueError(f"expected shape (documents, dimension), got {embedding.shape}")
    length = np.linalg.norm(embedding, axis=1)
    bad = ~(np.isfinite(length) & (length > 0))
    if bad.any():
        raise ValueError(f"row {int(np.argmax(bad))} is zero or not finite")
    return np.asarray(embedding / length[:, None])


def spectrum_entropy(matrix: NDArray[np.float64]) -> float:
    """Return the entropy, nats, of the eigenvalues of a symmetric matrix, scaled to sum to 1."""
    value = np.linalg.eigvalsh(matrix)
    value = value[value > 0]
    value = value / value.sum()
    return max(0.0, float(-(value * np.log(value)).sum()))


def neumann_report(
    embedding: NDArray[np.float64],
    encoder: str,
    block: NDArray[np.int64] | None = None,
) -> NeumannReport:
    """Estimate von Neumann entropy without the bias of sample size, with a jackknife interval.

    A sample of N documents spans less than its domain, so the plug-in is too low by about a / N;
    the delete-a-group jackknife G H(N) - (G - 1) mean H(N less a group) removes that term. Domains
    should still be compared at the same number of documents.

    Args:
        embedding: shape (documents, dimension).
        encoder: Name of the embedding, printed with the number.
        block: shape (documents,), number of the block of each document, from 0; a block is left out
            as a whole. None makes each document a block.

    Raises:
        ValueError: See `normalised_rows`.

    References:
        Friedman and Dieng 2023, "The Vendi Score", arXiv:2210.02410, Def. 3.1; Ge et al. 2024,
        "BiMix", arXiv:2405.14908v4, App. A.
    """
    unit = normalised_rows(embedding)
    documents, dimension = unit.shape
    blocks = np.arange(documents) if block is None else block
    groups = min(GROUPS, int(blocks.max()) + 1)
    part = [unit[blocks % groups == group] for group in range(groups)]
    grams = [rows.T @ rows for rows in part]
    total = np.sum(grams, axis=0)
    plugin = spectrum_entropy(total / documents)
    if groups < 2:
        entropy = estimate(plugin, [], 0.0, "jackknife", 0)
        return NeumannReport(entropy, plugin, documents, dimension, encoder)
    left_out = [spectrum_entropy(total - gram) for gram in grams]
    ceiling = float(np.log(min(dimension, documents)))
    corrected = groups * plugin - (groups - 1) * float(np.mean(left_out))
    corrected = min(ceiling, max(0.0, corrected))
    entropy = estimate(corrected, left_out, abs(corrected - plugin) / 2, "jackknife", 0)
    return NeumannReport(entropy, plugin, documents, dimension, encoder)
