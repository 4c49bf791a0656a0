"""Read sequences by number into batches of the requested fields."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

from curate.errors import RecipeError
from curate.loader.fields import Batch, assemble, check_fields, extra_tokens
from curate.loader.window_source import WindowSource


class SequenceReader:
    """Reads batches of sequences from a source of windows."""

    def __init__(self, source: WindowSource, fields: Sequence[str], dtype: DTypeLike) -> None:
        """Wrap a source that was opened for these fields.

        Args:
            source: Windows, one token longer than a sequence if there are labels.
            fields: Names from `fields.FIELDS`.
            dtype: Integer type of `tokens` and `labels`.

        Raises:
            RecipeError: A field is unknown, or the dtype cannot hold the tokens.
        """
        self.source = source
        self.fields = check_fields(fields)
        self.dtype = np.dtype(dtype)
        if self.dtype.kind not in "iu" or not self.dtype.isnative:
            raise RecipeError(
                f"curate.load: dtype: {self.dtype} is not an integer type in this machine's byte "
                f"order; take int64, which torch embeddings and losses need"
            )
        if np.iinfo(self.dtype).max < source.highest_id:
            raise RecipeError(
                f"curate.load: dtype: {self.dtype} holds ids up to {np.iinfo(self.dtype).max}, but "
                f"the tokenizer has ids up to {source.highest_id}; take int32 or int64"
            )
        self.sequence_length = source.window_tokens - extra_tokens(self.fields)

    def __len__(self) -> int:
        """Count the sequences."""
        return self.source.windows

    def read(self, numbers: NDArray[np.int64]) -> Batch:
        """Read a batch, arrays by field.

        Raises:
            IndexError: A number is out of range.
        """
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(self):
            raise IndexError(f"expected numbers from 0 to {len(self) - 1}, got {numbers}")
        windows = np.empty((len(numbers), self.source.window_tokens), self.dtype)
        segments = self.source.read(numbers, windows)
        return assemble(self.fields, windows, self.sequence_length, segments, numbers)

    def __repr__(self) -> str:
        """Describe the sequences, and the tokens left over."""
        return (
            f"<{len(self):,} sequences of {self.sequence_length:,} tokens from "
            f"{self.source.where}; {self.source.left_over_tokens:,} tokens fill none>"
        )
