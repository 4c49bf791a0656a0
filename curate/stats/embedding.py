"""Embed documents without a model: hashed byte n-grams, projected at random.

Every n-gram of 3 to 5 bytes falls into a hashed feature; a document is the vector of ln(1 + count)
over features, divided by its length, times a fixed random matrix of signs. Inner products survive
the projection to within about one over the root of the dimension. No tokenizer and no language is
assumed, and the numbers are the same on every machine. It sees wording, not meaning.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

DIMENSION = 256
FEATURES_LOG2 = 18
LONGEST_BYTES = 4096
"""Bytes of a document that are embedded; longer texts would all look alike."""


def hashed_ngrams(texts: Sequence[bytes]) -> NDArray[np.float64]:
    """Embed texts by their byte n-grams.

    Args:
        texts: UTF-8; only the first `LONGEST_BYTES` of each are used.

    Returns:
        Shape (texts, DIMENSION), rows of length 1, or 0 where a text has no n-gram.

    Example:
        >>> rows = hashed_ngrams([b"the same words", b"the same words", b"quite another"])
        >>> float(rows[0] @ rows[1]) > 0.999, abs(float(rows[0] @ rows[2])) < 0.5
        (True, True)

    References:
        Weinberger et al. 2009, "Feature hashing for large scale multitask learning",
        arXiv:0902.2206; Achlioptas 2003, "Database-friendly random projections",
        doi:10.1016/S0022-0000(03)00025-4, for matrices of signs.
    """
    cut = [text[:LONGEST_BYTES] for text in texts]
    stops = np.cumsum([len(text) for text in cut], dtype=np.int64)
    stream = np.frombuffer(b"".join(cut), np.uint8)
    rows = np.zeros((len(cut), DIMENSION))
    _embed(stream, stops, rows, np.zeros(1 << FEATURES_LOG2, np.int32))
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1.0))


@numba.njit(cache=True, nogil=True)
def _embed(stream, stops, rows, tally):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    used = np.empty(3 * LONGEST_BYTES, np.int64)
    shift = np.uint64(64 - FEATURES_LOG2)
    one = np.uint64(1)
    start = 0
    for document in range(len(stops)):
        stop = stops[document]
        distinct = 0
        for position in range(start, stop):
            word = np.uint64(0)
            for order in range(1, min(5, stop - position) + 1):
                word = (word << np.uint64(8)) | np.uint64(stream[position + order - 1])
                if order >= 3:
                    mixed = _mix(word + np.uint64(order) * np.uint64(0x9E3779B97F4A7C15))
                    feature = np.int64(mixed >> shift)
                    if tally[feature] == 0:
                        used[distinct] = feature
                        distinct += 1
                    tally[feature] += 1
        for index in range(distinct):
            feature = used[index]
            height = np.log1p(tally[feature])
            tally[feature] = 0
            for block in range(DIMENSION // 64):
                signs = _mix(np.uint64(feature * (DIMENSION // 64) + block + 1))
                for bit in range(64):
                    if (signs >> np.uint64(bit)) & one:
                        rows[document, 64 * block + bit] += height
                    else:
                        rows[document, 64 * block + bit] -= height
        start = stop


@numba.njit(cache=True, nogil=True)
def _mix(word):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    word ^= word >> np.uint64(30)
    word *= np.uint64(0xBF58476D1CE4E5B9)
    word ^= word >> np.uint64(27)
    word *= np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
