"""Compute plug-in entropies of a domain from exact counts of its tokens.

They are in nats per token, and biased low on small domains. `intervals.entropy_report` gives
bias-corrected ones, with standard errors and 95 % intervals.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curate.tokens.count_tables import CountTable, read_table


@dataclass(frozen=True, slots=True)
class Entropies:
    """Entropies of one domain and the size of the sample they come from."""

    tokens: int
    """Tokens counted, each the first of one bigram; end-of-text tokens are not among them."""
    vocabulary_used: int
    """Distinct tokens."""
    bigrams_used: int
    """Distinct bigrams."""
    shannon: float
    joint: float
    conditional: float


def entropies(pieces: Iterable[CountTable]) -> Entropies:
    """Compute Shannon, joint and conditional entropy from bigram counts.

    With c(x, y) the times token x is followed by y in a document (y may be the document's end),
    c(x) = sum over y of c(x, y) the times x occurs, and N = sum over x of c(x):

        SE = ln N - (1/N) sum over x of c(x) ln c(x)
        JE = ln N - (1/N) sum over x, y of c(x, y) ln c(x, y)
        CE = (1/N) sum over x of [c(x) ln c(x) - sum over y of c(x, y) ln c(x, y)]

    so JE = SE + CE holds exactly, up to rounding of the arithmetic.

    Args:
        pieces: The table, as consecutive ranges of rows; see `count_tables.read_table`.

    Returns:
        Nats per token; all zero for a domain without tokens.

    Example:
        >>> from curate.tokens.counting import count_stream
        >>> table = count_stream(np.array([1, 2, 0, 1, 1, 0], np.uint16), end=0, symbols=3)
        >>> counted = entropies([table])
        >>> round(counted.shannon, 4), round(counted.conditional, 4)
        (0.5623, 0.824)

    References:
        Ge et al. 2024, "BiMix", arXiv:2405.14908v4, App. A and Eq. 12.

    Differs from the paper:
        The paper pools all positions of concatenated sequences, so some of its bigrams cross
        document borders; here none does, and a document's end is a successor of its last token.
    """
    tokens = vocabulary_used = bigrams_used = 0
    row_sum = pair_sum = 0.0
    for piece in pieces:
        rows = piece.unigrams()
        rows = rows[rows > 0]
        tokens += int(rows.sum())
        vocabulary_used += len(rows)
        bigrams_used += len(piece.count)
        row_sum += _count_log_count(rows)
        pair_sum += _count_log_count(piece.count)
    if not tokens:
        return Entropies(
            tokens=0, vocabulary_used=0, bigrams_used=0, shannon=0.0, joint=0.0, conditional=0.0
        )
    log_tokens = float(np.log(tokens))
    return Entropies(
        tokens=tokens,
        vocabulary_used=vocabulary_used,
        bigrams_used=bigrams_used,
        shannon=max(0.0, log_tokens - row_sum / tokens),
        joint=max(0.0, log_tokens - pair_sum / tokens),
        conditional=max(0.0, (row_sum - pair_sum) / tokens),
    )


def table_entropies(path: Path) -> Entropies:
    """Compute `entropies` of a table on disk, in bounded memory."""
    return entropies(piece for _, piece in read_table(path))


def _count_log_count(count: NDArray[np.int64]) -> float:
    """Return the sum of c ln c."""
    return float((count * np.log(count)).sum())
