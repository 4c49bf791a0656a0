"""Make the fields of a batch from its tokens and the documents that they belong to.

A *segment* is a run of tokens of one document within one window. Attention that must not cross
documents takes `cu_seqlens` (variable-length kernels) or `segments` (masks), with `positions`,
which count from 0 in every segment, even if the document begins in an earlier window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import RecipeError
from curate.runtime.compiled import kernel
from curate.runtime.registry import nearest_hint

FIELDS = {
    "tokens": "shape (batch, L), token ids",
    "labels": "shape (batch, L), the token after each; windows then hold L + 1 tokens",
    "document_labels": "as labels, but -100 if the token after is of another document",
    "positions": "shape (batch, L), position of each token in its segment, from 0",
    "segments": "shape (batch, L), number of each token's segment in its sequence, from 0",
    "domains": "shape (batch, L), number of each token's domain",
    "cu_seqlens": "shape (segments + 1,), int32, starts of the segments in the flattened batch, "
    "then its length",
    "samples": "shape (batch,), number of each sequence in the dataset",
}
"""Names and meanings of the fields; int64 unless stated."""

LABEL_FIELDS = ("labels", "document_labels")
SEGMENT_FIELDS = ("document_labels", "positions", "segments", "domains", "cu_seqlens")
IGNORED_LABEL = -100
"""Label that losses ignore by default, as torch's `cross_entropy` does."""

Batch = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Segments:
    """Consecutive segments of windows; none crosses the border of a window."""

    domains: NDArray[np.int64]
    """shape (segments,), number of each segment's domain."""
    tokens: NDArray[np.int64]
    """shape (segments,), tokens of each segment; positive."""


def check_fields(fields: Sequence[str]) -> tuple[str, ...]:
    """Check the names of fields, and drop repeated ones.

    Raises:
        RecipeError: A field is unknown, or none is given.

    Example:
        >>> check_fields(["tokens", "labels"])
        ('tokens', 'labels')
    """
    names = (fields,) if isinstance(fields, str) else tuple(dict.fromkeys(fields))
    unknown = [name for name in names if name not in FIELDS]
    if unknown or not names:
        what = "none given"
        if unknown:
            what = f"there is no {unknown[0]!r}{nearest_hint(str(unknown[0]), FIELDS)}"
        raise RecipeError(f"curate.load: fields: {what}; there are {', '.join(FIELDS)}")
    return names


def extra_tokens(fields: Sequence[str]) -> int:
    """Return the number of tokens of a window beyond the sequence: 1 with labels, else 0."""
    return int(any(name in LABEL_FIELDS for name in fields))


def needs_segments(fields: Sequence[str]) -> bool:
    """Return whether a field is made from segments."""
    return any(name in SEGMENT_FIELDS for name in fields)


def assemble(
    fields: Sequence[str],
    windows: NDArray[Any],
    length: int,
    segments: Segments | None,
    numbers: NDArray[np.int64],
) -> Batch:
    """Make the fields of a batch.

    Args:
        fields: Names from `FIELDS`.
        windows: shape (batch, length or length + 1), tokens.
        length: Tokens of a sequence, L.
        segments: Segments of these windows, needed by `SEGMENT_FIELDS`.
        numbers: shape (batch,), numbers of the windows.

    Returns:
        Arrays by name. `tokens` and `labels` are views of `windows`.

    Example:
        >>> windows = np.array([[5, 6, 7, 8]])
        >>> segments = Segments(np.array([0, 1]), np.array([3, 1]))
        >>> names = ["labels", "document_labels", "positions", "cu_seqlens"]
        >>> batch = assemble(names, windows, 3, segments, np.array([0]))
        >>> {name: batch[name].tolist() for name in names[:2]}
        {'labels': [[6, 7, 8]], 'document_labels': [[6, 7, -100]]}
        >>> {name: batch[name].tolist() for name in names[2:]}
        {'positions': [[0, 1, 2]], 'cu_seqlens': [0, 3]}
    """
    batch: Batch = {}
    if "tokens" in fields:
        batch["tokens"] = windows[:, :length]
    if "labels" in fields:
        batch["labels"] = windows[:, 1:]
    if "samples" in fields:
        batch["samples"] = numbers
    if segments is not None and needs_segments(fields):
        batch.update(_from_segments(fields, windows, length, segments))
    return {name: batch[name] for name in fields}


def _spread(
    values: NDArray[np.int64], step: int, tokens: NDArray[np.int64], shape: tuple[int, ...]
) -> NDArray[np.int64]:
    """Fill an array with each segment's value, increased by `step` at each of its tokens."""
    out = np.empty(shape, np.int64)
    _fill(values, step, tokens, len(tokens), out)
    return out


@kernel
def _fill(values, step, tokens, segments, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write `tokens[n]` items for each segment, back to back."""
    write = 0
    for segment in range(segments):
        value = values[segment]
        for position in range(tokens[segment]):
            out[write + position] = value + step * position
        write += tokens[segment]
    return write


def cut_rows(batch: Batch, low: int, high: int, length: int) -> Batch:
    """Take the sequences [low, high) of a batch, as views.

    Args:
        batch: Arrays by field.
        low: First sequence.
        high: End of the range, exclusive.
        length: Tokens of a sequence, for `cu_seqlens`.

    Example:
        >>> batch = {"samples": np.arange(3), "cu_seqlens": np.array([0, 3, 4, 6, 8, 12])}
        >>> {name: values.tolist() for name, values in cut_rows(batch, 1, 3, 4).items()}
        {'samples': [1, 2], 'cu_seqlens': [0, 2, 4, 8]}
    """
    part = {}
    for name, values in batch.items():
        if name == "cu_seqlens":
            first, last = np.searchsorted(values, [low * length, high * length])
            part[name] = values[first : last + 1] - values[first]
        else:
            part[name] = values[low:high]
    return part


def _from_segments(
    fields: Sequence[str], windows: NDArray[Any], length: int, segments: Segments
) -> Batch:
    count, window_tokens = windows.shape
    tokens = segments.tokens
    begins = np.cumsum(tokens) - tokens
    window, offset = np.divmod(begins, window_tokens)
    batch: Batch = {}
    if "positions" in fields:
        batch["positions"] = _spread(np.zeros_like(tokens), 1, tokens, windows.shape)
    if "domains" in fields:
        batch["domains"] = _spread(segments.domains, 0, tokens, windows.shape)
    if "segments" in fields:
        firsts = np.flatnonzero(offset == 0)
        numbers = np.arange(len(tokens)) - firsts[window]
        batch["segments"] = _spread(numbers, 0, tokens, windows.shape)
    # Segments cover whole windows; the extra token of a window with labels is cut off here.
    batch = {name: values[:, :length] for name, values in batch.items()}
    if "document_labels" in fields:
        labels = windows[:, 1:].astype(np.int64)
        last = offset + tokens - 1
        within = last < length
        labels[window[within], last[within]] = IGNORED_LABEL
        batch["document_labels"] = labels
    if "cu_seqlens" in fields:
        within = offset < length
        starts = window[within] * length + offset[within]
        batch["cu_seqlens"] = np.append(starts, count * length).astype(np.int32)
    return batch
