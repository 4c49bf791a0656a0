"""Embed documents without a model: hashed byte n-grams, projected at random.

Every n-gram of 3 to 5 bytes falls into a hashed feature; a document is the vector of ln(1 + count)
over features, divided by its length, times a fixed random matrix of signs. Inner products survive
the projection to within about one over the root of the dimension. No tokenizer and no language is
assumed, and the numbers are the same on every machine. It sees wording, not meaning.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from curate.runtime.compiled import kernel

DIMENSION = 256
FEATURES_LOG2 = 18
LONGEST_BYTES = 4096
"""Bytes of a document that are embedded; longer texts would all look alike."""

FREQUENT = 5
"""Features that occur this often are added one by one, others by counts of their signs."""

LANES_HOLD = 255
"""Features whose signs a lane of 8 bits can count."""


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
    tally = np.zeros(1 << FEATURES_LOG2, np.int32)
    used = np.empty(3 * LONGEST_BYTES, np.int64)
    heights = np.log1p(np.arange(3 * LONGEST_BYTES + 1))
    lanes = np.zeros(DIMENSION // 8, np.uint64)
    _embed(stream, stops, len(stops), tally, used, heights, lanes, rows)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1.0))


@kernel
def _embed(stream, stops, documents, tally, used, heights, lanes, rows):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    """Add up the signs of every document's features, times the `heights` of their tallies."""
    start = 0
    height = 0.0
    for document in range(documents):
        stop = stops[document]
        distinct = _tally(stream, start, stop, tally, used)
        at = document * DIMENSION
        for level in range(1, FREQUENT + 1):
            waiting = 0
            for index in range(distinct + 1):  # once more, to empty the lanes
                if index < distinct:
                    times = tally[used[index]]
                    if times == level or (times > level and level == FREQUENT):
                        _add_signs(used[index], lanes)
                        waiting += 1
                        height = heights[times]
                due = waiting > 0 and (index == distinct or level == FREQUENT)
                if due or waiting == LANES_HOLD:
                    _empty(lanes, waiting, height, at, rows)
                    waiting = 0
        for index in range(distinct):
            tally[used[index]] = 0
        start = stop
    return 0


@kernel
def _tally(stream, start, stop, tally, used):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Tally the features of one document, list those it has, and return their number."""
    shift = np.uint64(64 - FEATURES_LOG2)
    distinct = 0
    for position in range(start, stop):
        word = np.uint64(0)
        for order in range(1, 6):
            if position + order > stop:
                break
            word = (word << np.uint64(8)) | np.uint64(stream[position + order - 1])
            if order >= 3:
                mixed = _mix(word + np.uint64(order) * np.uint64(0x9E3779B97F4A7C15))
                feature = np.int64(mixed >> shift)
                used[distinct] = feature  # always written, kept if new
                distinct += tally[feature] == 0
                tally[feature] += 1
    return distinct


@kernel
def _add_signs(feature, lanes):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Count a feature's positive signs, in 8 lanes of 8 bits a word."""
    for block in range(DIMENSION // 64):
        signs = _mix(np.uint64(feature * (DIMENSION // 64) + block + 1))
        for bit in range(8):
            lanes[8 * block + bit] += (signs >> np.uint64(bit)) & np.uint64(0x0101010101010101)


@kernel
def _empty(lanes, features, height, at, rows):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add the counted signs of some features of one height to a row, and clear the counts."""
    for block in range(DIMENSION // 64):
        for bit in range(8):
            lane = lanes[8 * block + bit]
            lanes[8 * block + bit] = 0
            for byte in range(8):
                positive = np.int64((lane >> np.uint64(8 * byte)) & np.uint64(255))
                rows[at + 64 * block + 8 * byte + bit] += height * (2 * positive - features)


@kernel
def _mix(word):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    word ^= word >> np.uint64(30)
    word *= np.uint64(0xBF58476D1CE4E5B9)
    word ^= word >> np.uint64(27)
    word *= np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
