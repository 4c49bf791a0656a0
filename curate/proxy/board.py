"""Event files for TensorBoard, a folder for each run; needs the package `tensorboard`.

Each run counts its steps from 1. Scalars are written whenever a checkpoint is saved, so training
does not wait for the device in between. A run that resumes from a checkpoint replaces what it had
written beyond it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curate.proxy.optimiser import schedule_factor
from curate.proxy.runs import RunRow
from curate.proxy.swarm import Swarm

LOSS, RATE, SPEED = "train/loss", "train/learning_rate", "train/tokens_per_second"
VALIDATION, BITS = "validation", "bits_per_byte"


class Boards:
    """Event files of runs that train together."""

    def __init__(self, directory: Path, swarm: Swarm, runs: Sequence[str], step: int) -> None:
        """Open a folder for each run.

        Args:
            directory: Folder that holds one for each run of the swarm.
            swarm: Swarm of these runs.
            runs: Names, in the order of the models.
            step: Steps taken so far; events of later steps in the files are void.
        """
        from torch.utils.tensorboard import SummaryWriter

        self._swarm, self._names = swarm, runs
        self._writers = {
            run: SummaryWriter(str(directory / run), purge_step=step + 1) for run in runs
        }
        self._step, self._since = step, time.monotonic()

    def add(self, losses: NDArray[np.float32], rows: Sequence[RunRow]) -> None:
        """Write the steps since the last call.

        Args:
            losses: shape (runs, steps so far), nats per token of each step's own batch.
            rows: Held-out losses so far.
        """
        steps = range(self._step + 1, losses.shape[1] + 1)
        if not steps:
            return
        seconds = max(time.monotonic() - self._since, 1e-9)
        speed = len(steps) * self._swarm.step_tokens / seconds
        optimiser = self._swarm.stack.optimiser
        for model, run in enumerate(self._names):
            write = self._writers[run].add_scalar
            for step in steps:
                write(LOSS, float(losses[model, step - 1]), step)
                write(RATE, optimiser.learning_rate * schedule_factor(optimiser, step), step)
            write(SPEED, speed, steps[-1])
        for row in rows:
            if row.step <= self._step:
                continue
            write = self._writers[row.run].add_scalar
            for domain, loss, bits in zip(
                self._swarm.names, row.losses, row.bits_per_byte, strict=True
            ):
                write(f"{VALIDATION}/{domain}", loss, row.step)
                write(f"{BITS}/{domain}", bits, row.step)
        for writer in self._writers.values():
            writer.flush()
        self._step, self._since = steps[-1], time.monotonic()

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()
