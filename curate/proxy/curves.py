"""Training losses of every step as Parquet, one file for each group of runs that finished.

Columns: run, seed, step (from 1), tokens (trained on after that step), loss (mean of the step's
batch before its update, nats per token). Losses on held-out text are in `runs.csv`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curate.runtime import arrow
from curate.runtime.files import atomic_path


def write_curves(
    path: Path, runs: Sequence[tuple[str, int]], losses: NDArray[np.float32], step_tokens: int
) -> None:
    """Write the curves of a group, whole or not at all.

    Args:
        path: Parquet file to write; its directory is made.
        runs: Name and seed of each run.
        losses: shape (runs, steps), nats per token.
        step_tokens: Tokens of a run in one step.

    Raises:
        ValueError: There are not as many rows of losses as runs.
    """
    if len(losses) != len(runs):
        raise ValueError(f"expected losses of {len(runs)} runs, got shape {losses.shape}")
    steps = losses.shape[1]
    step = np.tile(np.arange(1, steps + 1), len(runs))
    numbers = {
        "seed": np.repeat(np.array([seed for _, seed in runs], np.int64), steps),
        "step": step,
        "tokens": step * step_tokens,
        "loss": losses.ravel(),
    }
    names = arrow.array([name for name, _ in runs for _ in range(steps)]).dictionary_encode()
    table = arrow.table(numbers).add_column(0, "run", names)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
