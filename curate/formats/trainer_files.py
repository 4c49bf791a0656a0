"""Files under `trainer/` that some readers expect: one for all shards of a split."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from curate.runtime.files import atomic_path

DIRECTORY = "trainer"
"""Folder in a dataset's directory that curate owns, like `train`."""


def link(source: Path, target: Path) -> Path:
    """Make `target` the same file as `source`, or a copy where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
    return target
