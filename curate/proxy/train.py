"""Train a swarm: runs of one model on many mixtures, in groups, resumable at any time.

Finished runs are rows of `runs.csv`. A group in training keeps one checkpoint (weights, moments,
losses so far) and replaces it as it goes; a killed group resumes from there with the same batches.
A run whose gradient stops being finite ends alone and is recorded in `proxy.json`. Processes with
the same swarm and directory share its runs, see `claims`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curate.proxy.checkpoint import Checkpoint, find_checkpoint, save_checkpoint
from curate.proxy.claims import RunClaims
from curate.proxy.curves import write_curves
from curate.proxy.device import stage
from curate.proxy.group import ModelGroup
from curate.proxy.memory import halve_until_it_fits
from curate.proxy.runs import RunRow
from curate.proxy.shared import SharedSwarm
from curate.proxy.swarm import Swarm, SwarmResult, SwarmRun, swarm_result
from curate.proxy.swarm_progress import SwarmProgress
from curate.proxy.training_batches import BatchSource, run_streams, supply_streams
from curate.runtime.files import hash_json
from curate.runtime.progress import Observer
from curate.runtime.registry import counted

if TYPE_CHECKING:
    from curate.proxy.board import Boards

CURVE = "train_loss"
"""Name of the training losses in a checkpoint; shape (K, steps)."""

SAVE_SECONDS = 60.0
"""Time between checkpoints of a group, unless an evaluation saves one earlier."""

SAVE_SHARE = 0.05
"""Largest share of the time that saving may take: what took 3 s is not saved again for a minute."""

WAIT_SECONDS = 0.5
"""Time between looks at what other processes train, once nothing is left to claim."""

EVALUATION_TOKENS = {"cpu": 1 << 11, "cuda": 1 << 19}
"""Tokens of a batch of held-out text, over all models that are computed together."""

Finish = Callable[[ModelGroup, Sequence[SwarmRun]], None]


def train_swarm(
    swarm: Swarm, directory: Path, observer: Observer, finish: Finish | None = None
) -> SwarmResult:
    """Train the runs that are not in `runs.csv` yet, beside other processes that do the same.

    Training losses of every step go to `curves/`, a Parquet file for each group.

    Args:
        swarm: The runs.
        directory: Folder for `runs.csv`, `proxy.json` and checkpoints. Processes and machines may
            share it; each claims groups of runs and waits at the end for those of the others.
        observer: Receives progress in tokens, and notices.
        finish: Called with each group's trained models before their rows are written.

    Raises:
        InfeasiblePlan: A domain has too few tokens for its share of a run.
        EngineError: Not even one model fits into memory.
        ShardError: Another process trains runs of other settings there.
    """
    shared = SharedSwarm(swarm, directory, RunClaims(directory))
    shared.open(observer.notice)
    pending = shared.pending()
    if len(pending) < len(swarm.runs):
        observer.notice(f"finished already: {counted(len(swarm.runs) - len(pending), 'run')}")
    check_supply(swarm, pending)
    flops = swarm.stack.shape.training_flops(swarm.sequence_length)
    progress = SwarmProgress(len(pending), swarm.steps, swarm.step_tokens, flops, observer)
    observer.begin("train proxies", ["proxies"], [progress.total_tokens])
    trained_here = trained_elsewhere = 0
    waited_for: set[str] = set()
    while left := shared.pending():
        elsewhere = len(pending) - len(left) - trained_here
        progress.elsewhere(elsewhere - trained_elsewhere)
        trained_elsewhere = elsewhere
        claim = shared.claim()
        if claim is None:
            for holder in shared.claims.elsewhere():
                if holder not in waited_for:
                    waited_for.add(holder)
                    observer.notice(f"waiting for runs: {holder}")
            time.sleep(WAIT_SECONDS)
            continue
        try:
            halve_until_it_fits(
                [run for run in left if run.name in claim.runs],
                swarm.group.micro_sequences,
                lambda runs, micro: _train_group(shared, runs, micro, progress, finish),
                observer.notice,
            )
        finally:
            shared.claims.release(claim)
        trained_here += len(claim.runs)
    shared.tidy()
    runs, tokens = counted(len(pending), "run"), swarm.steps * swarm.step_tokens
    observer.end(f"{runs} of {tokens:,} tokens{progress.speed()}")
    return swarm_result(swarm, directory)


def check_supply(swarm: Swarm, runs: Sequence[SwarmRun]) -> None:
    """Raise `InfeasiblePlan` if a domain has too few tokens for its share of a run."""
    seeds = {swarm.data_seed + run.seed for run in runs}
    supply = {seed: supply_streams(swarm.domains, seed) for seed in seeds}
    for run in runs:
        tokens = swarm.run_tokens(run)
        run_streams(tokens, swarm.domains, supply[tokens.seed])


def _group_path(directory: Path, runs: Sequence[SwarmRun]) -> Path:
    return directory / f"group-{hash_json([run.name for run in runs])[:12]}.safetensors"


def _train_group(
    shared: SharedSwarm,
    runs: Sequence[SwarmRun],
    micro: int,
    progress: SwarmProgress,
    finish: Finish | None,
) -> None:
    """Train runs together to their end, and append their rows."""
    swarm, directory = shared.swarm, shared.directory
    path = _group_path(directory, runs)
    names = [run.name for run in runs]
    state = find_checkpoint(directory, swarm.settings_hash, names)
    group = ModelGroup(
        swarm.stack,
        [run.seed for run in runs],
        replace(swarm.group, micro_sequences=micro),
        None if state is None else state.tensors,
    )
    rows, curve = _train_steps(shared, group, runs, state, progress)
    if finish is not None:
        finish(group, runs)
    write_curves(
        directory / "curves" / f"{swarm.settings_hash[:8]}-{path.stem}.parquet",
        [(run.name, run.seed) for run in runs],
        curve.cpu().numpy(),
        swarm.step_tokens,
    )
    failed = shared.failed()
    shared.append([row for row in rows if row.run not in failed])
    path.unlink(missing_ok=True)


def _train_steps(
    shared: SharedSwarm,
    group: ModelGroup,
    runs: Sequence[SwarmRun],
    state: Checkpoint | None,
    progress: SwarmProgress,
) -> tuple[list[RunRow], Tensor]:
    """Train a group from its state to the last step, measuring and saving it on the way.

    Returns:
        Rows of all measurements; and the training losses, shape (K, steps).
    """
    swarm, names = shared.swarm, [run.name for run in runs]
    path = _group_path(shared.directory, runs)
    rows: list[RunRow] = []
    curve: list[Tensor] = []
    if state is not None:
        kept = msgspec.json.decode(state.rows, type=list[RunRow])
        rows = [row for row in kept if row.run in names]
        curve = [state.tensors[CURVE].to(swarm.stack.device)]
        progress.resume(group.step_number, len(runs))
    source = BatchSource(
        [swarm.run_tokens(run) for run in runs],
        swarm.domains,
        swarm.sequence_length,
        swarm.start_id,
    )
    boards = _boards(swarm, names, group.step_number)
    pace = _SavePace()
    batches = source.batches(swarm.batch_sequences, group.step_number)
    for batch in stage(batches, swarm.stack.device):
        curve.append(group.train_step(batch))
        progress.add(group.step_number, curve[-1])
        measure = group.step_number in swarm.checkpoints
        if measure:
            rows += _measure(swarm, group, runs)
            _note_failures(shared, group, runs, progress.notice)
        save = pace.is_due(measure)
        if measure or save:
            curve = [torch.column_stack(curve)]  # one tensor again, else the list grows by a step
            for board in boards:
                board.add(curve[0].cpu().numpy(), rows)
        if save:
            with pace.saving():
                tensors = {**group.state(), CURVE: curve[0]}
                encoded = msgspec.json.encode(rows)
                save_checkpoint(path, swarm.settings_hash, names, encoded, tensors)
    for board in boards:
        board.close()
    return rows, torch.column_stack(curve)


class _SavePace:
    """Decides when to save, so that saving takes a bounded share of the time."""

    def __init__(self) -> None:
        self._last, self._cost = time.monotonic(), 0.0

    def is_due(self, measured: bool) -> bool:
        """Return whether to save now; `measured` if an evaluation would have to be repeated."""
        least = 0.0 if measured else SAVE_SECONDS
        return time.monotonic() - self._last >= max(least, self._cost / SAVE_SHARE)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Time what a save takes."""
        start = time.monotonic()
        yield
        self._last = time.monotonic()
        self._cost = self._last - start


def _boards(swarm: Swarm, names: Sequence[str], step: int) -> list[Boards]:
    """Open TensorBoard's event files; none if the swarm names no directory for them."""
    if swarm.tensorboard is None:
        return []
    from curate.proxy.board import Boards

    return [Boards(swarm.tensorboard, swarm, names, step)]


def _measure(swarm: Swarm, group: ModelGroup, runs: Sequence[SwarmRun]) -> list[RunRow]:
    """Measure the validation losses of every model, as rows."""
    nats: NDArray[np.float64] = group.domain_losses(swarm.validation, evaluation_tokens(group))
    per_token = nats / swarm.validation.domain_tokens
    per_byte = nats / swarm.validation.domain_bytes / np.log(2)
    return [
        RunRow(
            run=run.name,
            seed=run.seed,
            params=swarm.stack.shape.matmul_parameters,
            step=group.step_number,
            tokens=group.step_number * swarm.step_tokens,
            weights=run.weights,
            losses=tuple(per_token[model].tolist()),
            bits_per_byte=tuple(per_byte[model].tolist()),
        )
        for model, run in enumerate(runs)
    ]


def evaluation_tokens(group: ModelGroup) -> int:
    """Choose the held-out tokens of a batch for each model; a longer row is its own batch."""
    device = group.settings.device.type
    return EVALUATION_TOKENS.get(device, EVALUATION_TOKENS["cuda"]) // group.part_models


def _note_failures(
    shared: SharedSwarm, group: ModelGroup, runs: Sequence[SwarmRun], notice: Callable[[str], None]
) -> None:
    steps, recorded = group.failed_steps(), shared.failed()
    rate = shared.swarm.stack.optimiser.learning_rate
    for run, step in zip(runs, steps, strict=True):
        if step and run.name not in recorded:
            shared.fail(run.name, step)
            notice(
                f"run '{run.name}' is left out: its gradient was not finite at step {step}; "
                f"set a lower proxy.learning_rate (now {rate:g})"
            )
