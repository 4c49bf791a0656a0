"""State of a group of runs on disk: one safetensors file, replaced whole, nothing executable."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from curate.runtime.files import atomic_path


@dataclass(frozen=True)
class Checkpoint:
    """What a group goes on from."""

    runs: list[str]
    rows: bytes
    """Losses measured so far, as JSON."""
    tensors: dict[str, Tensor]
    """From `Stack.state`, on the CPU."""


def save_checkpoint(
    path: Path, settings: str, runs: Sequence[str], rows: bytes, tensors: dict[str, Tensor]
) -> None:
    """Write atomically, in place of the checkpoint before.

    Args:
        path: Of the file.
        settings: Hash of what the runs share; a checkpoint of other settings is not loaded.
        runs: Names, in the order of the models.
        rows: JSON.
        tensors: With models leading.
    """
    metadata = {"settings": settings, "runs": json.dumps(list(runs)), "rows": rows.decode()}
    with atomic_path(path) as temporary:
        save_file({name: t.contiguous() for name, t in tensors.items()}, temporary, metadata)


def load_checkpoint(path: Path, settings: str) -> Checkpoint | None:
    """Read a checkpoint; None where there is none of these settings, or it is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("settings") != settings:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None  # training again from the start gives the same
    return Checkpoint(json.loads(metadata["runs"]), metadata["rows"].encode(), tensors)


def checkpoint_runs(path: Path, settings: str) -> list[str]:
    """Names of the runs in a checkpoint; none where it is of other settings, or damaged."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError):
        return []
    if metadata.get("settings") != settings:
        return []
    names: list[str] = json.loads(metadata["runs"])
    return names


def find_checkpoint(directory: Path, settings: str, runs: Sequence[str]) -> Checkpoint | None:
    """State of these runs, from the group that holds all of them, which may be larger.

    A group that did not fit into memory was cut in halves; each half goes on where both were.

    Args:
        directory: Of checkpoints, `group-*.safetensors`.
        settings: See `save_checkpoint`.
        runs: Names; the models of the result are in this order, and its rows are still of all.
    """
    found: Checkpoint | None = None
    for path in sorted(directory.glob("group-*.safetensors")):
        state = load_checkpoint(path, settings)
        if state is None or not set(runs) <= set(state.runs):
            continue
        if found is None or int(state.tensors["step"][0]) > int(found.tensors["step"][0]):
            chosen = [state.runs.index(run) for run in runs]
            tensors = {name: tensor[chosen] for name, tensor in state.tensors.items()}
            found = Checkpoint(list(runs), state.rows, tensors)
    return found
