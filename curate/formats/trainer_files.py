"""What some readers want beside the shards: one file for all of a split, under `trainer/`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from curate.runtime.files import atomic_path

DIRECTORY = "trainer"
"""Of a dataset; curate's own, like `train`."""

Batch = TypeVar("Batch")


def chained(stems: Iterable[Path], read: Callable[[Path], Iterator[Batch]]) -> Iterator[Batch]:
    """The batches of shards, one after the other."""
    for stem in stems:
        yield from read(stem)


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
