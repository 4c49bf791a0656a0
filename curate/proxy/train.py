"""A swarm: runs of one model on many mixtures, groups of them at once, resumable at any time.

Finished runs are rows of `runs.csv`. A group that trains keeps one checkpoint (weights, moments,
losses so far) that replaces itself; killed and started again, it goes on from there, drawing the
same batches. A run whose gradient stops being finite ends alone and is noted in `proxy.json`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curate.errors import InputError
from curate.observer import Observer
from curate.proxy.batches import (
    BatchSource,
    ProxyDomain,
    RunTokens,
    ValidationRows,
    run_streams,
    supply_streams,
)
from curate.proxy.checkpoint import (
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from curate.proxy.curves import write_curves
from curate.proxy.memory import Fit, halve_until_it_fits
from curate.proxy.progress import Progress
from curate.proxy.runs import RunRow, append_runs, read_runs
from curate.proxy.stack import Stack, StackSettings
from curate.storage import hash_json, read_json, write_json

CURVE = "train_loss"
"""Name of the training losses in a checkpoint, shape (K, steps)."""

SAVE_SECONDS = 60.0
"""Between checkpoints of a group, beside those at every evaluation."""

EVALUATION_TOKENS = {"cpu": 1 << 14, "cuda": 1 << 19}
"""Of a batch of held-out tokens, over all models of a stack."""


@dataclass(frozen=True, slots=True)
class SwarmRun:
    """One run that is to be."""

    name: str
    """Unique; `run` of `runs.csv`."""
    seed: int
    """Of initial weights, and added to the data's."""
    weights: tuple[float, ...]
    """shape (domains,), shares of tokens as `runs.csv` says them."""
    drawn: tuple[float, ...]
    """shape (domains,), shares of the tokens that batches are made of; differ from `weights` where
    proxies have a tokenizer of their own."""


@dataclass(frozen=True)
class Swarm:
    """Everything that decides the numbers of `runs.csv`, and how work is cut."""

    stack: StackSettings
    runs: tuple[SwarmRun, ...]
    domains: tuple[ProxyDomain, ...]
    validation: ValidationRows
    sequence_length: int
    batch_sequences: int
    checkpoints: tuple[int, ...]
    """Steps after which losses are measured, ascending; the last ends a run."""
    start_id: int
    data_seed: int
    data_hash: str
    """Of documents and tokenizer."""
    fit: Fit
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Name the domains."""
        object.__setattr__(self, "names", tuple(d.tokens.name for d in self.domains))

    @property
    def steps(self) -> int:
        """Of a run."""
        return self.checkpoints[-1]

    @property
    def step_tokens(self) -> int:
        """Of a run in one step."""
        return self.batch_sequences * self.sequence_length

    @property
    def settings_hash(self) -> str:
        """Hash of what every run shares and depends on; how work is cut does not count."""
        shared = [
            asdict(self.stack.shape), asdict(self.stack.optimiser), str(self.stack.compute),
            self.sequence_length, self.batch_sequences, self.checkpoints, self.data_seed,
            self.data_hash, [domain.supply_share for domain in self.domains],
            self.validation.domain_tokens.tolist(),
        ]  # fmt: skip
        return hash_json(shared)

    def run_tokens(self, run: SwarmRun) -> RunTokens:
        """What a run reads."""
        tokens = self.steps * self.step_tokens
        return RunTokens(run.name, run.drawn, tokens, self.data_seed + run.seed)


Finish = Callable[[Stack, Sequence[SwarmRun]], None]


def checkpoint_steps(steps: int, count: int) -> tuple[int, ...]:
    """At most `count` steps, evenly spaced in their logarithm, from steps / 32 to `steps`.

    Example:
        >>> checkpoint_steps(1000, 6), checkpoint_steps(3, 6), checkpoint_steps(50, 1)
        ((31, 62, 125, 250, 500, 1000), (1, 2, 3), (50,))
    """
    if count == 1:
        return (steps,)
    found = np.geomspace(max(1.0, steps / 32), steps, count)
    return tuple(sorted({int(step) for step in np.round(found)} | {steps}))


@dataclass(frozen=True)
class SwarmResult:
    """What became of the runs."""

    rows: list[RunRow]
    failed: dict[str, int]
    """Run → step in which its gradient stopped being finite."""


def train_swarm(
    swarm: Swarm, directory: Path, observer: Observer, finish: Finish | None = None
) -> SwarmResult:
    """Train what is not in `runs.csv` yet.

    Args:
        swarm: The runs.
        directory: For `runs.csv`, `proxy.json` and checkpoints.
        observer: Hears of progress in tokens.
        finish: Given each group's trained models before their rows are written.

    Training losses of every step go to `curves/`, a Parquet file for each group.

    Raises:
        InfeasiblePlan: A domain has too few tokens for its share of a run.
        EngineError: Not even one model fits into memory.
    """
    record = _open_record(swarm, directory, observer)
    finished = {row.run for row in read_runs(directory / "runs.csv", swarm.names)}
    pending = [run for run in swarm.runs if run.name not in finished | set(record.failed)]
    if len(pending) < len(swarm.runs):
        observer.notice(f"{len(swarm.runs) - len(pending)} runs are there already")
    _check_supply(swarm, pending)
    flops = swarm.stack.shape.training_flops(swarm.sequence_length)
    progress = Progress(len(pending), swarm.steps, swarm.step_tokens, flops, observer)
    observer.begin("train proxies", ["proxies"], [progress.total_tokens])
    for group in _groups(swarm, pending, directory):
        halve_until_it_fits(
            group,
            swarm.fit.micro_sequences,
            lambda runs, micro: _train_group(swarm, runs, micro, record, progress, finish),
            observer.notice,
        )
    for leftover in directory.glob("group-*.safetensors"):  # of groups that were halved
        leftover.unlink()
    observer.end(
        f"{len(pending)} runs of {swarm.steps * swarm.step_tokens:,} tokens{progress.speed()}"
    )
    known = {run.name for run in swarm.runs}
    rows = [row for row in read_runs(directory / "runs.csv", swarm.names) if row.run in known]
    if not rows:
        raise InputError(
            "proxy: no run ended with finite losses; set a lower proxy.learning_rate "
            f"(it was {swarm.stack.optimiser.learning_rate:g})"
        )
    return SwarmResult(rows, {run: step for run, step in record.failed.items() if run in known})


def _check_supply(swarm: Swarm, runs: Sequence[SwarmRun]) -> None:
    seeds = {swarm.data_seed + run.seed for run in runs}
    supply = {seed: supply_streams(swarm.domains, seed) for seed in seeds}
    for run in runs:
        tokens = swarm.run_tokens(run)
        run_streams(tokens, swarm.domains, supply[tokens.seed])


@dataclass
class _Record:
    """`proxy.json`: what the runs in `runs.csv` share, and which failed."""

    directory: Path
    settings: str
    failed: dict[str, int]

    def save(self) -> None:
        value = {"schema": 1, "settings": self.settings, "failed": self.failed}
        write_json(self.directory / "proxy.json", value)


def _open_record(swarm: Swarm, directory: Path, observer: Observer) -> _Record:
    """The record beside `runs.csv`; runs of other settings are set aside, not mixed with ours."""
    path, runs = directory / "proxy.json", directory / "runs.csv"
    found = read_json(path) if path.exists() else None
    if found is not None and found["settings"] == swarm.settings_hash:
        return _Record(directory, found["settings"], dict(found["failed"]))
    if runs.exists():
        mark = found["settings"][:8] if found is not None else "unknown"
        aside = directory / f"runs-{mark}.csv"
        runs.replace(aside)
        observer.notice(f"{runs} is of other settings: kept as {aside.name}")
    record = _Record(directory, swarm.settings_hash, {})
    record.save()
    return record


def _groups(swarm: Swarm, pending: Sequence[SwarmRun], directory: Path) -> list[Sequence[SwarmRun]]:
    """Groups that were begun, as they were, then the other runs, so many at once as fit."""
    by_name = {run.name: run for run in pending}
    groups: list[Sequence[SwarmRun]] = []
    for path in sorted(directory.glob("group-*.safetensors")):
        state = load_checkpoint(path, swarm.settings_hash)
        if state is None or not set(state.runs) <= set(by_name):
            path.unlink()
            continue
        groups.append([by_name.pop(name) for name in state.runs])
    rest = [run for run in pending if run.name in by_name]
    models = swarm.fit.models
    groups += [rest[first : first + models] for first in range(0, len(rest), models)]
    return groups


def _group_path(directory: Path, runs: Sequence[SwarmRun]) -> Path:
    return directory / f"group-{hash_json([run.name for run in runs])[:12]}.safetensors"


def _train_group(  # noqa: PLR0913 - one stage, all of whose inputs are its own
    swarm: Swarm,
    runs: Sequence[SwarmRun],
    micro: int,
    record: _Record,
    progress: Progress,
    finish: Finish | None,
) -> None:
    """Train runs together to their end, and append their rows."""
    stack = Stack(swarm.stack, [run.seed for run in runs])
    path = _group_path(record.directory, runs)
    names = [run.name for run in runs]
    state = find_checkpoint(record.directory, swarm.settings_hash, names)
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
    saved = time.monotonic()
    for batch in source.batches(swarm.batch_sequences, stack.step_number):
        curve.append(stack.train_step(batch, micro))
        progress.add(stack.step_number, curve[-1])
        measure = stack.step_number in swarm.checkpoints
        if measure:
            rows += _measure(swarm, stack, runs)
            _note_failures(swarm, stack, runs, record, progress.notice)
        if measure or time.monotonic() - saved > SAVE_SECONDS:
            encoded = msgspec.json.encode(rows)
            curve = [torch.column_stack(curve)]
            tensors = {**stack.state(), CURVE: curve[0]}
            save_checkpoint(path, swarm.settings_hash, names, encoded, tensors)
            saved = time.monotonic()
    if finish is not None:
        finish(stack, runs)
    write_curves(
        record.directory / "curves" / f"{swarm.settings_hash[:8]}-{path.stem}.parquet",
        [(run.name, run.seed) for run in runs],
        torch.column_stack(curve).cpu().numpy(),
        swarm.step_tokens,
    )
    complete = [row for row in rows if row.run not in record.failed]
    append_runs(record.directory / "runs.csv", swarm.names, complete)
    path.unlink(missing_ok=True)


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
    swarm: Swarm,
    stack: Stack,
    runs: Sequence[SwarmRun],
    record: _Record,
    notice: Callable[[str], None],
) -> None:
    steps = stack.optimiser.failed_step_K.tolist()
    for run, step in zip(runs, steps, strict=True):
        if step and run.name not in record.failed:
            record.failed[run.name] = step
            record.save()
            notice(
                f"run '{run.name}': its gradient was not finite at step {step}, so it is left out; "
                f"a lower proxy.learning_rate (now {swarm.stack.optimiser.learning_rate:g}) helps"
            )
