"""K models as parts, each a stack of its own: one part on a GPU, many small ones on a CPU.

A GPU works best on all models at once. A CPU does on few, whose activations stay in its caches, and
threads that each train a part of their own wait for one another once a step, not in every product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curate.proxy.memory import GroupSize
from curate.proxy.model import Weights
from curate.proxy.stack import Stack, StackSettings
from curate.proxy.training_batches import ValidationRows

Result = TypeVar("Result")


class ModelGroup:
    """Models that train together, step by step, and are saved together."""

    def __init__(
        self,
        settings: StackSettings,
        seeds: Sequence[int],
        size: GroupSize,
        state: Weights | None = None,
    ) -> None:
        """Draw the initial weights, or take them from a state.

        Args:
            settings: Settings that the models share.
            seeds: shape (K,); each model starts as it would alone.
            size: Models of a part, and sequences of each at a time.
            state: Result of `state` of the same models, to resume from.
        """
        self.settings, self.models = settings, len(seeds)
        self.part_models = min(size.part_models, self.models)
        self._micro_sequences = size.micro_sequences
        starts = range(0, self.models, size.part_models)
        self._slices = [slice(start, start + size.part_models) for start in starts]
        self._parts = [
            Stack(
                settings,
                seeds[part],
                state=None if state is None else {n: t[part] for n, t in state.items()},
            )
            for part in self._slices
        ]
        threads = min(settings.threads, len(self._parts))
        if settings.device.type == "cpu":
            torch.set_num_threads(settings.threads // threads)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    @property
    def step_number(self) -> int:
        """Number of steps taken."""
        return self._parts[0].step_number

    def _each(self, work: Callable[[Stack, slice], Result]) -> list[Result]:
        pairs = (self._parts, self._slices)
        if self._pool is None:
            return list(map(work, *pairs))
        return list(self._pool.map(work, *pairs))

    def train_step(self, batch: Tensor) -> Tensor:
        """Update every model once; see `Stack.train_step`."""
        micro = self._micro_sequences
        return _joined(self._each(lambda part, models: part.train_step(batch[models], micro)))

    def row_losses(self, batch: NDArray[np.int64]) -> Tensor:
        """Compute the loss of every token of a shared batch; see `Stack.row_losses`."""
        return _joined(self._each(lambda part, _: part.row_losses(batch)))

    def domain_losses(self, rows: ValidationRows, most_tokens: int) -> NDArray[np.float64]:
        """Sum losses over validation tokens; see `Stack.domain_losses`."""
        return np.concatenate(self._each(lambda part, _: part.domain_losses(rows, most_tokens)))

    def failed_steps(self) -> list[int]:
        """Return the step in which each model's gradient was not finite; 0 for never."""
        return [step for part in self._parts for step in part.optimiser.failed_step_K.tolist()]

    def state(self) -> Weights:
        """Return everything that training resumes from, as named tensors with a leading axis K."""
        states = [part.state() for part in self._parts]
        return {name: _joined([state[name] for state in states]) for name in states[0]}


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Join tensors along the axis of models, without a copy if there is only one."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
