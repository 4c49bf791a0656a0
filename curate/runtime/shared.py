"""Numbers and locks that worker processes share.

Where workers fork, these need neither /dev/shm nor a temporary directory, as those of
`multiprocessing` do: containers may lack both, or have them read-only.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

WIDTH_BYTES = 8


def context() -> multiprocessing.context.BaseContext:
    """Return the start method of workers: fork on Linux, spawn elsewhere.

    Forking is unsafe on macOS and does not exist on Windows.
    """
    return multiprocessing.get_context("fork" if workers_share_memory() else "spawn")


def workers_share_memory() -> bool:
    """Whether workers see objects that the parent made before they started."""
    return sys.platform == "linux"


def shared_numbers(values: Sequence[int]) -> Any:
    """Return 64-bit whole numbers that workers started later read and write by index.

    Example:
        >>> numbers = shared_numbers([3, 0])
        >>> numbers[1] += 2
        >>> list(numbers)
        [3, 2]
    """
    if not workers_share_memory():
        process: Any = context()
        return process.RawArray("q", list(values))
    memory = mmap.mmap(-1, max(1, len(values)) * WIDTH_BYTES)  # an empty one cannot be made
    numbers = memoryview(memory).cast("q")[: len(values)]
    for position, value in enumerate(values):
        numbers[position] = value
    return numbers


def shared_lock() -> AbstractContextManager[Any]:
    """Return a lock for workers started later; a worker that dies with it ends the run anyway."""
    if not workers_share_memory():
        process: Any = context()
        lock: AbstractContextManager[Any] = process.Lock()
        return lock
    return _PipeLock()


class _PipeLock(AbstractContextManager[None]):
    """A pipe with a single byte, which the holder of the lock has taken out."""

    def __init__(self) -> None:
        self._taken_from, self._put_into = multiprocessing.Pipe(duplex=False)
        self.__exit__()

    def __enter__(self) -> None:
        os.read(self._taken_from.fileno(), 1)

    def __exit__(self, *_: object) -> None:
        os.write(self._put_into.fileno(), b".")
