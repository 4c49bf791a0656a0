"""A swarm: runs of one model on many mixtures, groups of them at once, resumable at any time.

Finished runs are rows of `runs.csv`. A group that trains keeps one checkpoint (weights, moments,
losses so far) that replaces itself; killed and started again, it goes on from there, drawing the
same batches. A run whose gradient stops being finite ends alone and is noted in `proxy.json`.
Processes that are given the same swarm and directory share its runs, see `claims`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
from curate.proxy.memory import halve_until_it_fits
from curate.proxy.runs import RunRow
from curate.proxy.shared import SharedSwarm
from curate.proxy.stack import Stack
from curate.proxy.swarm import Swarm, SwarmResult, SwarmRun, swarm_result
from curate.proxy.swarm_progress import SwarmProgress
from curate.proxy.training_batches import BatchSource, run_streams, supply_streams
from curate.runtime.files import hash_json
from curate.runtime.progress import Observer

if TYPE_CHECKING:
    from curate.proxy.board import Boards

CURVE = "train_loss"
"""Name of the training losses in a checkpoint, shape (K, steps)."""

SAVE_SECONDS = 60.0
"""Between checkpoints of a group, beside those at every evaluation."""

WAIT_SECONDS = 0.5
"""Between looks at what other processes train, when nothing is left to claim."""

EVALUATION_TOKENS = {"cpu": 1 << 14, "cuda": 1 << 19}
"""Of a batch of held-out tokens, over all models of a stack."""


Finish = Callable[[Stack, Sequence[SwarmRun]], None]


def train_swarm(
    swarm: Swarm, directory: Path, observer: Observer, finish: Finish | None = None
) -> SwarmResult:
    """Train what is not in `runs.csv` yet, beside any other process that does the same.

    Args:
        swarm: The runs.
        directory: For `runs.csv`, `proxy.json` and checkpoints; processes and machines may share
            it, each claims groups of runs and waits at the end for what others train.
        observer: Hears of progress in tokens.
        finish: Given each group's trained models before their rows are written.

    Training losses of every step go to `curves/`, a Parquet file for each group.

    Raises:
        InfeasiblePlan: A domain has too few tokens for its share of a run.
        EngineError: Not even one model fits into memory.
        ShardError: Another process trains runs of other settings there.
    """
    shared = SharedSwarm(swarm, directory, RunClaims(directory))
    shared.open(observer.notice)
    pending = shared.pending()
    if len(pending) < len(swarm.runs):
        observer.notice(f"{len(swarm.runs) - len(pending)} runs are there already")
    check_supply(swarm, pending)
    flops = swarm.stack.shape.training_flops(swarm.sequence_length)
    progress = SwarmProgress(len(pending), swarm.steps, swarm.step_tokens, flops, observer)
    observer.begin("train proxies", ["proxies"], [progress.total_tokens])
    own = elsewhere = 0
    while left := shared.pending():
        ended = len(pending) - len(left) - own
        progress.elsewhere(ended - elsewhere)
        elsewhere = ended
        claim = shared.claim()
        if claim is None:
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
        own += len(claim.runs)
    shared.tidy()
    observer.end(
        f"{len(pending)} runs of {swarm.steps * swarm.step_tokens:,} tokens{progress.speed()}"
    )
    return swarm_result(swarm, directory)


def check_supply(swarm: Swarm, runs: Sequence[SwarmRun]) -> None:
    """Raise `InfeasiblePlan` where a domain has too few tokens for its share of a run."""
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
    stack = Stack(swarm.stack, [run.seed for run in runs])
    path = _group_path(directory, runs)
    names = [run.name for run in runs]
    state = find_checkpoint(directory, swarm.settings_hash, names)
    rows: list[RunRow] = []
    if state is not None:
        stack.load(state.tensors)
        kept = msgspec.json.decode(state.rows, type=list[RunRow])
        rows = [row for row in kept if row.run in names]
        progress.resume(stack.step_number, len(runs))
    curve = _curve_so_far(state, swarm.stack.device)
    source = BatchSource(
        [swarm.run_tokens(run) for run in runs],
        swarm.domains,
        swarm.sequence_length,
        swarm.start_id,
    )
    boards = _boards(swarm, names, stack.step_number)
    saved = time.monotonic()
    for batch in source.batches(swarm.batch_sequences, stack.step_number):
        curve.append(stack.train_step(batch, micro))
        progress.add(stack.step_number, curve[-1])
        measure = stack.step_number in swarm.checkpoints
        if measure:
            rows += _measure(swarm, stack, runs)
            _note_failures(shared, stack, runs, progress.notice)
        if measure or time.monotonic() - saved > SAVE_SECONDS:
            encoded = msgspec.json.encode(rows)
            curve = [torch.column_stack(curve)]
            tensors = {**stack.state(), CURVE: curve[0]}
            save_checkpoint(path, swarm.settings_hash, names, encoded, tensors)
            for board in boards:
                board.add(curve[0].cpu().numpy(), rows)
            saved = time.monotonic()
    for board in boards:
        board.close()
    if finish is not None:
        finish(stack, runs)
    write_curves(
        directory / "curves" / f"{swarm.settings_hash[:8]}-{path.stem}.parquet",
        [(run.name, run.seed) for run in runs],
        torch.column_stack(curve).cpu().numpy(),
        swarm.step_tokens,
    )
    failed = shared.failed()
    shared.append([row for row in rows if row.run not in failed])
    path.unlink(missing_ok=True)


def _boards(swarm: Swarm, names: Sequence[str], step: int) -> list[Boards]:
    """Where TensorBoard is to be told; nobody where the swarm names no directory."""
    if swarm.tensorboard is None:
        return []
    from curate.proxy.board import Boards

    return [Boards(swarm.tensorboard, swarm, names, step)]


def _curve_so_far(state: Checkpoint | None, device: torch.device) -> list[Tensor]:
    """Training losses of the steps before a checkpoint, as columns of shape (K, steps)."""
    return [] if state is None else [state.tensors[CURVE].to(device)]


def _measure(swarm: Swarm, stack: Stack, runs: Sequence[SwarmRun]) -> list[RunRow]:
    """Validation losses of every model, as rows."""
    nats: NDArray[np.float64] = stack.domain_losses(swarm.validation, evaluation_tokens(stack))
    per_token = nats / swarm.validation.domain_tokens
    per_byte = nats / swarm.validation.domain_bytes / np.log(2)
    return [
        RunRow(
            run.name, run.seed, swarm.stack.shape.matmul_parameters, stack.step_number,
            stack.step_number * swarm.step_tokens, run.weights,
            tuple(per_token[model].tolist()), tuple(per_byte[model].tolist()),
        )
        for model, run in enumerate(runs)
    ]  # fmt: skip


def evaluation_tokens(stack: Stack) -> int:
    """Held-out tokens of a batch, for each model; a row that is longer is a batch of its own."""
    device = stack.settings.device.type
    return EVALUATION_TOKENS.get(device, EVALUATION_TOKENS["cuda"]) // stack.models


def _note_failures(
    shared: SharedSwarm, stack: Stack, runs: Sequence[SwarmRun], notice: Callable[[str], None]
) -> None:
    steps, known = stack.optimiser.failed_step_K.tolist(), shared.failed()
    rate = shared.swarm.stack.optimiser.learning_rate
    for run, step in zip(runs, steps, strict=True):
        if step and run.name not in known:
            shared.fail(run.name, step)
            notice(
                f"run '{run.name}': its gradient was not finite at step {step}, so it is left out; "
                f"a lower proxy.learning_rate (now {rate:g}) helps"
            )
