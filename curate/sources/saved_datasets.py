"""Read folders of `datasets.save_to_disk` by what they list, not by what lies there.

Beside the Arrow files of such a folder, `datasets` keeps results of `map` and `filter`
(`cache-….arrow`), which hold the same rows again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from curate.errors import InputError
from curate.runtime.files import read_small
from curate.runtime.machine import fault_or

STATE = "state.json"
SPLITS = "dataset_dict.json"
MOST_BYTES = 64 << 20


def check_splits(directory: str) -> None:
    """Refuse a folder of several saved splits, which are rarely all meant.

    Raises:
        InputError: The folder has more than one split; names them.
    """
    content = _read(os.path.join(directory, SPLITS))
    splits = content.get("splits", [])
    if isinstance(splits, list) and len(splits) > 1:
        names = [str(name) for name in splits]
        raise InputError(
            f"{directory} holds the splits {', '.join(names)}; name one, as {directory}/{names[0]}"
        )


def unlisted_files(paths: Iterable[str]) -> dict[str, str]:
    """Find the Arrow files that lie in a saved dataset and are not part of it.

    Args:
        paths: Files that a directory or a glob led to.

    Returns:
        The reason for each file to leave out.

    Raises:
        InputError: A dataset keeps a selection of its rows as indices.
    """
    listed: dict[str, frozenset[str] | None] = {}
    left_out = {}
    for path in paths:
        if not path.endswith(".arrow"):
            continue
        directory, name = os.path.split(path)
        if directory not in listed:
            listed[directory] = _listed(directory)
        files = listed[directory]
        if files is not None and name not in files:
            left_out[path] = f"not part of the saved dataset, by its {STATE}"
    return left_out


def _listed(directory: str) -> frozenset[str] | None:
    """Return the files of a saved dataset; None if the directory is none."""
    state = _read(os.path.join(directory, STATE))
    files = state.get("_data_files")
    if not isinstance(files, list):
        return None
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise InputError(
            f"{directory} keeps a selection of its rows as indices, which are not read; save it "
            "again after flatten_indices()"
        )
    return frozenset(str(file.get("filename")) for file in files if isinstance(file, dict))


def _read(path: str) -> dict[str, Any]:
    """Read a JSON object; empty if there is no such file, or it is something else.

    Raises:
        InputError: There is one, and this user may not read it.
        EngineError: The machine is at fault.
    """
    try:
        value = orjson.loads(read_small(Path(path), MOST_BYTES))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, orjson.JSONDecodeError):
        return {}
    except OSError as error:
        unreadable = InputError(
            f"{path}: cannot be read ({error.strerror or error}), and says which files beside it "
            "are the dataset's"
        )
        raise fault_or(unreadable, error, path) from error
    return value if isinstance(value, dict) else {}
