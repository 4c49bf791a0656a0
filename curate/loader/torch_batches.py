"""Batches for torch: an `IterableDataset`, and a `DataLoader` with exact state.

Only this module of the loader imports torch. Worker processes read blocks of batches in turn, so
torch delivers them in order. Blocks are large because each is transferred between processes. The
training process cuts them and counts the batches that it yields, so the state is exact however far
the workers have read ahead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from curate.errors import RecipeError
from curate.loader.batch_loader import BatchBlock, BatchLoader
from curate.loader.draws import DrawnDomain, Weights
from curate.loader.fields import Batch
from curate.loader.weighted_loader import WeightedLoader

Tensors = dict[str, torch.Tensor]
Read = tuple[BatchBlock, Tensors]
"""How to cut a block into batches, and its tensors."""


class TorchBatches(IterableDataset[Read]):
    """The rest of an epoch as blocks of batches.

    It is for a `DataLoader` with batch_size=None and any number of workers.
    """

    def __init__(self, loader: BatchLoader) -> None:
        """Wrap a loader; each worker gets a copy, and a spawned one maps the files again."""
        self.loader = loader

    def __iter__(self) -> Iterator[Read]:
        """Yield the blocks of this worker, or all of them without workers."""
        worker = get_worker_info()
        index, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for block, read in self.loader.blocks(index, workers):
            yield block, to_tensors(read)


class TorchLoader(DataLoader[Read]):
    """Iterates over the rest of an epoch; the next iteration takes the next epoch."""

    def __init__(self, loader: BatchLoader, workers: int) -> None:
        """Read in `workers` processes, or in a thread of this one if 0.

        Raises:
            RecipeError: The number of workers is negative, or weights would not reach them.
        """
        if workers > 0 and isinstance(loader, WeightedLoader):
            raise RecipeError(
                f"curate.load: workers: {workers} processes would not learn of new weights; with "
                "weights=, set workers=0, which reads ahead in a thread"
            )
        if workers < 0:
            raise RecipeError(
                f"curate.load: workers: {workers} is below 0; 0 reads in this process"
            )
        super().__init__(
            TorchBatches(loader),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=1 if workers else None,
            collate_fn=_as_it_is,
        )
        self.loader = loader

    def __len__(self) -> int:
        """Count the batches that are left in this epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Tensors]:  # type: ignore[override]
        """Yield batches from the current position to the end of the epoch."""
        if isinstance(self.loader, WeightedLoader):
            yield from map(to_tensors, self.loader)
            return
        for block, read in super().__iter__():
            arrays = {name: values.numpy() for name, values in read.items()}
            for epoch, position, batch in block.batches(arrays):
                self.loader.epoch, self.loader.position = epoch, position
                yield to_tensors(batch)

    def set_weights(self, weights: Weights) -> None:
        """Change the shares from the next step on; see `WeightedLoader.set_weights`."""
        self.loader.set_weights(weights)

    @property
    def weights(self) -> dict[str, float]:
        """Shares that are asked for, by domain."""
        return self.loader.weights

    @property
    def drawn(self) -> dict[str, DrawnDomain]:
        """Compare what was asked for and drawn so far, by domain; see `WeightedLoader.drawn`."""
        return self.loader.drawn

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the last batch yielded; see `BatchLoader.state_dict`."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a state, saved with any number of ranks and workers, torch or NumPy.

        Raises:
            ShardError: See `BatchLoader.load_state_dict`.
        """
        self.loader.load_state_dict(state)


def to_tensors(batch: Batch) -> Tensors:
    """Make tensors that share the arrays' memory."""
    return {name: torch.from_numpy(values) for name, values in batch.items()}


def default_share() -> tuple[int, int]:
    """Return rank and ranks of `torch.distributed`, or (0, 1) without it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _as_it_is(read: Any) -> Any:
    return read
