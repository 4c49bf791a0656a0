"""State of a group of runs on disk: one safetensors file, replaced whole, without any code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from curate.runtime.files import atomic_path
from curate.runtime.machine import raise_fault


@dataclass(frozen=True)
class Checkpoint:
    """State that a group resumes from."""

    runs: list[str]
    """Names, in the order of the models."""
    rows: bytes
    """Losses measured so far, as JSON."""
    tensors: dict[str, Tensor]
    """Result of `Stack.state`, on the CPU."""


def save_checkpoint(
    path: Path, settings: str, runs: Sequence[str], rows: bytes, tensors: dict[str, Tensor]
) -> None:
    """Replace the checkpoint at `path`, atomically.

    Args:
        path: File to write.
        settings: Hash of what the runs share; a checkpoint of other settings is never loaded.
        runs: Names, in the order of the models.
        rows: Losses measured so far, as JSON.
        tensors: State with a leading axis of models.
    """
    metadata = {"settings": settings, "runs": json.dumps(list(runs)), "rows": rows.decode()}
    with atomic_path(path) as temporary:
        save_file({name: t.contiguous() for name, t in tensors.items()}, temporary, metadata)


def load_checkpoint(path: Path, settings: str) -> Checkpoint | None:
    """Read a checkpoint; None if there is none with these settings or it is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("settings") != settings:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise_fault(error, str(path))
        return None  # not an error: training again from the start gives the same losses
    return Checkpoint(json.loads(metadata["runs"]), metadata["rows"].encode(), tensors)


def checkpoint_runs(path: Path, settings: str) -> list[str]:
    """Return the names of the runs in a checkpoint; none if it has other settings or is damaged."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise_fault(error, str(path))
        return []
    if metadata.get("settings") != settings:
        return []
    names: list[str] = json.loads(metadata["runs"])
    return names


def find_checkpoint(directory: Path, settings: str, runs: Sequence[str]) -> Checkpoint | None:
    """Load the state of these runs from a group that holds all of them, and may hold more.

    A group that did not fit into memory was halved, and each half resumes where both were.

    Args:
        directory: Folder of the checkpoints, `group-*.safetensors`.
        settings: Hash of what the runs share.
        runs: Names of the runs.

    Returns:
        The furthest state, models in the order of `runs`; its rows are still those of the whole
        group. None if no checkpoint holds these runs.
    """
    furthest: Checkpoint | None = None
    for path in sorted(directory.glob("group-*.safetensors")):
        state = load_checkpoint(path, settings)
        if state is None or not set(runs) <= set(state.runs):
            continue
        if furthest is None or int(state.tensors["step"][0]) > int(furthest.tensors["step"][0]):
            models = [state.runs.index(run) for run in runs]
            tensors = {name: tensor[models] for name, tensor in state.tensors.items()}
            furthest = Checkpoint(list(runs), state.rows, tensors)
    return furthest
