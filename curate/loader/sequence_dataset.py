"""Sequences by number, in NumPy; torch calls this a map-style dataset.

`torch.utils.data.DataLoader` takes it as it is. Numbers follow the order of the build, which mixes
already; a sampler of the trainer's may shuffle them. `loader` gives shuffled batches that resume.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike, NDArray

from curate.errors import RecipeError
from curate.loader.batch_loader import BatchLoader, LoaderOptions, Share
from curate.loader.fields import Batch
from curate.loader.reader import SequenceReader
from curate.loader.window_source import WindowSource

if TYPE_CHECKING:
    from curate.loader.torch_batches import TorchLoader


class Sequences:
    """Sequences of equal length over a source."""

    def __init__(
        self, source: WindowSource, fields: Sequence[str] = ("tokens",), dtype: DTypeLike = np.int64
    ) -> None:
        """Wrap a source that was opened for these fields.

        Args:
            source: Windows, which are one token longer than a sequence if there are labels.
            fields: Names out of `FIELDS`.
            dtype: Integer type of `tokens` and `labels`.

        Raises:
            RecipeError: A field is unknown, or the dtype is not of integers.
        """
        self.reader = SequenceReader(source, fields, dtype)
        self._stored_order = source.stored_order()

    @property
    def sequence_length(self) -> int:
        """Tokens of a sequence."""
        return self.reader.sequence_length

    def __len__(self) -> int:
        """Count the sequences."""
        return len(self.reader)

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, by the number that the field `domains` holds."""
        return self.reader.source.domains

    @property
    def left_over_tokens(self) -> int:
        """Tokens at the end, or the ends of stored sequences, that fill no sequence."""
        return self.reader.source.left_over_tokens

    def __repr__(self) -> str:
        """Describe the sequences, and the tokens left over."""
        return repr(self.reader)

    def __getitem__(self, position: int) -> Batch:
        """Read one sequence, in the order of the build; arrays have no batch dimension.

        Raises:
            IndexError: There is no such sequence.
        """
        index = position + len(self) if position < 0 else position
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} sequences, {position} is none of them")
        batch = self.read(self._stored_order(np.array([index], np.int64)))
        return {
            name: values if name == "cu_seqlens" else values[0] for name, values in batch.items()
        }

    def __getitems__(self, positions: Sequence[int]) -> list[Batch]:
        """Read several sequences; torch's loader requests its batches this way."""
        return [self[position] for position in positions]

    def read(self, numbers: NDArray[np.int64]) -> Batch:
        """Read a batch of sequences by their numbers in the source, which are not positions.

        Raises:
            IndexError: A number is out of range.
        """
        return self.reader.read(numbers)

    def loader(
        self,
        batch_sequences: int,
        rank: int = 0,
        ranks: int = 1,
        options: LoaderOptions | None = None,
    ) -> BatchLoader:
        """Iterate over batches of NumPy arrays in a shuffled order, read ahead by a thread.

        Args:
            batch_sequences: Sequences of a batch, on each rank.
            rank: Number of this process, from 0.
            ranks: Processes that share an epoch.
            options: Order, seed, last step, batches read ahead.

        Raises:
            RecipeError: An argument is out of range.
        """
        share = Share(batch_sequences, rank, ranks)
        return BatchLoader(self.reader, share, options or LoaderOptions())

    def torch_loader(
        self,
        batch_sequences: int,
        share: tuple[int, int] | None = None,
        workers: int = 0,
        options: LoaderOptions | None = None,
    ) -> TorchLoader:
        """Iterate over the same batches as torch tensors, with a `torch.utils.data.DataLoader`.

        Args:
            batch_sequences: Sequences of a batch, on each rank.
            share: (rank, ranks); None takes them from `torch.distributed`, or (0, 1) without it.
            workers: Processes that read; 0 for a thread of this one.
            options: Order, seed, last step, batches that each worker reads ahead.

        Raises:
            RecipeError: torch is not installed, or an argument is out of range.
        """
        try:
            from curate.loader import torch_batches
        except ImportError as error:
            raise RecipeError(
                f"curate.load: torch_loader needs torch, which cannot be imported ({error}); run "
                "pip install torch, or take loader(), which gives NumPy arrays"
            ) from error
        rank, ranks = torch_batches.default_share() if share is None else share
        loader = self.loader(batch_sequences, rank, ranks, options)
        return torch_batches.TorchLoader(loader, workers)
