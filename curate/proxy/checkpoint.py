"""State of a group of runs on disk: one safetensors file, replaced whole, nothing executable."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from curate.storage import atomic_path


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
