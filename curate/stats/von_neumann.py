"""Von Neumann entropy of documents: how many different things a domain holds.

The entropy of the eigenvalues of the documents' cosine kernel over their number; its exponential is
the Vendi score, an effective number of documents. The nonzero eigenvalues are also those of the
small Gram matrix of the embedding's coordinates, so any number of documents costs one pass and one
small eigenvalue problem.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.stats.estimate import GROUPS, Estimate, estimate


@dataclass(frozen=True, slots=True)
class NeumannReport:
    """Entropy of a sample of documents, and what it was measured with."""

    entropy: Estimate
    """`sample_tokens` holds 0: the sample is one of documents."""
    plugin: float
    documents: int
    dimension: int
    encoder: str

    @property
    def vendi(self) -> float:
        """Effective number of documents."""
        return float(np.exp(self.entropy.nats))


def normalised_rows(embedding: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows divided by their lengths.

    Raises:
        ValueError: Not a matrix with a row, or a row is zero or not finite: its cosine with others
            is not defined.
    """
    if embedding.ndim != 2 or not len(embedding):
        raise ValueError(f"expected shape (documents, dimension), got {embedding.shape}")
    length = np.linalg.norm(embedding, axis=1)
    bad = ~(np.isfinite(length) & (length > 0))
    if bad.any():
        raise ValueError(f"row {int(np.argmax(bad))} is zero or not finite")
    return np.asarray(embedding / length[:, None])


def spectrum_entropy(matrix: NDArray[np.float64]) -> float:
    """Entropy, nats, of the eigenvalues of a symmetric matrix, scaled to sum to 1."""
    value = np.linalg.eigvalsh(matrix)
    value = value[value > 0]
    value = value / value.sum()
    return max(0.0, float(-(value * np.log(value)).sum()))


def neumann_report(
    embedding: NDArray[np.float64],
    encoder: str,
    block: NDArray[np.int64] | None = None,
) -> NeumannReport:
    """Entropy with the bias in sample size taken off, and an interval from leaving out groups.

    A sample of N documents spans less than its domain, so the plug-in is too low by about a / N;
    the delete-a-group jackknife G H(N) - (G - 1) mean H(N less a group) removes that term. Domains
    should still be compared at the same number of documents.

    Args:
        embedding: shape (documents, dimension).
        encoder: What made it, to be printed with the number.
        block: shape (documents,), documents that come and go together, numbered from 0; None: each
            by itself.

    Raises:
        ValueError: See `normalised_rows`.
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
