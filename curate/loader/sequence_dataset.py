"""Sequences by position, as NumPy arrays; torch calls this a map-style dataset.

`torch.utils.data.DataLoader` accepts it directly. Positions follow the order of the build, which is
already mixed; a trainer's sampler may shuffle them. `loader` gives shuffled batches that resume.
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
from curate.loader.weighted_loader import DomainDraws, WeightedLoader
from curate.loader.window_source import WindowSource

if TYPE_CHECKING:
    from curate.loader.torch_batches import TorchLoader


class Sequences:
    """Sequences of equal length over a source."""

    def __init__(
        self,
        source: WindowSource,
        fields: Sequence[str] = ("tokens",),
        dtype: DTypeLike = np.int64,
        draws: DomainDraws | None = None,
    ) -> None:
        """Wrap a source that was opened for these fields.

        Args:
            source: Windows, one token longer than a sequence if there are labels.
            fields: Names from `FIELDS`.
            dtype: Integer type of `tokens` and `labels`.
            draws: For windows by domain, the weights that loaders draw them with.

        Raises:
            RecipeError: A field is unknown, or the dtype is not of integers.
        """
        self.reader = SequenceReader(source, fields, dtype)
        self._draws = draws
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
        """Names of the domains; the field `domains` holds indices into them."""
        return self.reader.source.domains

    @property
    def vocabulary(self) -> int:
        """Number of ids of the tokenizer."""
        return self.reader.source.highest_id + 1

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
            IndexError: The position is out of range.
        """
        index = position + len(self) if position < 0 else position
        if not 0 <= index < len(self):
            raise IndexError(f"expected a position from 0 to {len(self) - 1}, got {position}")
        batch = self.read(self._stored_order(np.array([index], np.int64)))
        return {
            name: values if name == "cu_seqlens" else values[0] for name, values in batch.items()
        }

    def __getitems__(self, positions: Sequence[int]) -> list[Batch]:
        """Read several sequences; torch's `DataLoader` calls this for each batch."""
        return [self[position] for position in positions]

    def read(self, numbers: NDArray[np.int64]) -> Batch:
        """Read a batch of sequences by their numbers in the source, which differ from positions.

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
        """Make a loader of batches of NumPy arrays, shuffled and read ahead by a thread.

        Args:
            batch_sequences: Sequences of a batch, on each rank.
            rank: Number of this process, from 0.
            ranks: Processes that share an epoch.
            options: Order, seed, last step, batches read ahead.

        Raises:
            RecipeError: An argument is out of range.
        """
        share, options = Share(batch_sequences, rank, ranks), options or LoaderOptions()
        if self._draws is None:
            return BatchLoader(self.reader, share, options)
        return WeightedLoader(self.reader, share, options, self._draws)

    def torch_loader(
        self,
        batch_sequences: int,
        share: tuple[int, int] | None = None,
        workers: int = 0,
        options: LoaderOptions | None = None,
    ) -> TorchLoader:
        """Make a loader of the same batches as tensors, a `torch.utils.data.DataLoader`.

        Args:
            batch_sequences: Sequences of a batch, on each rank.
            share: (rank, ranks); None takes them from `torch.distributed`, or (0, 1) without it.
            workers: Number of processes that read; 0 for a thread of this process.
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
