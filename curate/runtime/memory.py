"""Bound the memory of a process for arrays with a row for each document.

Such arrays are made by `columns`: in memory while there is room, then in files without a name,
which are mapped. Functions go over them in `blocks`, and take scattered rows with `take`; both give
back the pages of mapped files that they have read, so the memory of a process does not grow with
the number of documents.

The bound holds for the whole process, as the memory does. What grows with something else, such as
the tables of the bigram counter or a single long record, has bounds of its own.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from curate.runtime.mapping import CAN_FORGET, forget_pages, map_scratch, mapped_bytes

Result = TypeVar("Result")
Columns = dict[str, NDArray[Any]]
"""Arrays of one length, by name."""

DEFAULT_BYTES = 1 << 30
"""Memory of a process unless `bounded` says otherwise."""

HELD_SHARE, MAPPED_SHARE = 4, 4
"""A quarter of the memory is for arrays that stay, and one for pages of mapped files."""

BLOCK_SHARE = 1024
"""Rows of a block: the memory in bytes over this number; a row takes about 100 bytes of it."""

FAULT_BYTES, SCATTERED_SHARE = 1 << 16, 16
"""Bytes that Linux maps around one that is read; and what of the memory scattered reads of one map
may take until pages are given back."""

SHEET_SHARE, CUT_SHARE = 64, 8
"""Small arrays share files, each as large as the memory over the first number: Linux allows a
process 65,530 maps, and giving back pages takes a call for each. An array is small up to the size
of such a file over the second number."""

FEWEST_ROWS = 64
"""Fewest rows of a block, which bounds the time that a very small memory costs."""

ALIGNMENT = 64
"""Columns of one file begin at multiples of this many bytes."""


@dataclass
class _Bound:
    limit_bytes: int
    directory: Path | None
    """Directory for files of large arrays; None for that of temporary files."""
    on_block: Callable[[], None]
    process: int = 0
    """Process that shows progress; workers forked from it do not."""
    read_blocks: float = 0.0
    """Blocks of rows that were read since pages were given back."""
    rest: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    """The rest of the file that small arrays share."""
    rest_process: int = 0
    """Process that may use it; a forked one would share what it cuts with its siblings."""


_bound = _Bound(DEFAULT_BYTES, None, lambda: None)

_held_bytes = [0]
"""Bytes in memory that `columns` made; those of one call count until its last array is gone."""


@contextmanager
def bounded(
    limit_bytes: int, directory: Path | None, on_block: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Bound the memory of this process, and of workers started inside.

    Args:
        limit_bytes: Memory for all that grows with the number of documents.
        directory: Existing directory for files of large arrays; None for that of the system.
        on_block: Called after each block of rows, to show progress.
    """
    global _bound
    before = _bound
    _bound = _Bound(limit_bytes, directory, on_block, os.getpid())
    try:
        yield
    finally:
        _bound = before


def bounded_here(function: Callable[..., Result]) -> Callable[..., Result]:
    """Return a function that runs under the present bound, even in a process that is spawned."""
    return partial(_call_bounded, (_bound.limit_bytes, _bound.directory), function)


def _call_bounded(
    bound: tuple[int, Path | None], function: Callable[..., Result], *arguments: Any
) -> Result:
    with bounded(*bound):
        return function(*arguments)


def memory_bound() -> int:
    """Return the bytes that a process may use for all that grows with the number of documents."""
    return _bound.limit_bytes


def columns(rows: int, dtypes: Mapping[str, Any]) -> Columns:
    """Make uninitialised arrays, in memory or in one file.

    Args:
        rows: Length of each.
        dtypes: Their types by name.

    Raises:
        OSError: The disk is too small; the error names the directory.
    """
    kinds = {name: np.dtype(kind) for name, kind in dtypes.items()}
    sizes = {name: rows * kind.itemsize for name, kind in kinds.items()}
    steps = {name: -(-size // ALIGNMENT) * ALIGNMENT for name, size in sizes.items()}
    total = sum(steps.values())
    if not CAN_FORGET or _has_room(total):
        content = np.empty(total, np.uint8)
        _held_bytes[0] += total
        weakref.finalize(content, _let_go, total).atexit = False
    else:
        content = _in_file(total)
    made, start = {}, 0
    for name, kind in kinds.items():
        made[name] = content[start : start + sizes[name]].view(kind)
        start += steps[name]
    return made


def placed(array: NDArray[Any]) -> NDArray[Any]:
    """Copy an array to where `columns` has room for it."""
    made = columns(len(array), {"": array.dtype})[""]
    made[...] = array
    return made


def _in_file(size_bytes: int) -> NDArray[np.uint8]:
    """Map a file of this size or, for a small array, cut it from one that others share."""
    directory = _bound.directory or Path(tempfile.gettempdir())
    sheet_bytes = _bound.limit_bytes // SHEET_SHARE
    if size_bytes > sheet_bytes // CUT_SHARE:
        return map_scratch(directory, size_bytes)
    if len(_bound.rest) < size_bytes or _bound.rest_process != os.getpid():
        _bound.rest, _bound.rest_process = map_scratch(directory, sheet_bytes), os.getpid()
    cut, _bound.rest = _bound.rest[:size_bytes], _bound.rest[size_bytes:]
    return cut


def _has_room(size_bytes: int) -> bool:
    return _held_bytes[0] + size_bytes <= _bound.limit_bytes // HELD_SHARE


def _let_go(size_bytes: int) -> None:
    _held_bytes[0] -= size_bytes


def block_rows() -> int:
    """Return the number of rows in a block."""
    return max(FEWEST_ROWS, _bound.limit_bytes // BLOCK_SHARE)


def blocks(rows: int) -> Iterator[slice]:
    """Yield consecutive ranges of rows; between them, show progress and give pages back."""
    step = block_rows()
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        yield slice(start, stop)
        next_block((stop - start) / step)


def scattered_blocks(rows: int, size_bytes: int | None = None) -> Iterator[slice]:
    """Yield consecutive ranges of rows, each of which leads to a place of its own in a few maps.

    Args:
        rows: Number of rows.
        size_bytes: Bytes of the arrays that they lead to; None for all maps.
    """
    whole = max(1, _bound.limit_bytes // (SCATTERED_SHARE * FAULT_BYTES))
    step = whole if maps_too_much(size_bytes) else max(1, rows)
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        yield slice(start, stop)
        give_back((stop - start) / whole)


def next_block(share: float = 1.0) -> None:
    """End a block of rows: give pages of mapped files back, and show progress.

    Args:
        share: The block's rows over those of a full one.
    """
    give_back(share)
    if _bound.process == os.getpid():
        _bound.on_block()


def give_back(share: float = 1.0) -> None:
    """Give back the pages of mapped files, now and then, if they could take too much memory.

    It takes a system call for each map, so that there must be a block of rows to make up for it.

    Args:
        share: What was read since the last call, as a share of a full block.
    """
    _bound.read_blocks += share
    if _bound.read_blocks >= 1:
        _bound.read_blocks = 0.0
        if maps_too_much():
            forget_pages()


def maps_too_much(size_bytes: int | None = None) -> bool:
    """Whether arrays of so many bytes, or all mapped files, exceed the memory for their pages."""
    mapped = mapped_bytes() if size_bytes is None else size_bytes
    return mapped > _bound.limit_bytes // MAPPED_SHARE


def take(array: NDArray[Any], numbers: NDArray[Any]) -> NDArray[Any]:
    """Return `array[numbers]`, without having all of a mapped array in memory at once.

    Args:
        array: shape (rows,).
        numbers: shape (numbers,), about a block of them, in any order.
    """
    step_bytes = _bound.limit_bytes // (2 * MAPPED_SHARE)
    if array.nbytes <= step_bytes or not maps_too_much():
        rows: NDArray[Any] = array[numbers]
        give_back(min(array.nbytes, FAULT_BYTES * len(numbers)) / step_bytes)
        return rows
    order = np.argsort(numbers, kind="stable")
    ranked = numbers[order]
    taken = np.empty(len(numbers), array.dtype)
    step = max(1, step_bytes // array.itemsize)
    cuts = np.searchsorted(ranked, np.arange(step, len(array), step))
    for part in np.split(np.arange(len(ranked)), cuts):
        if len(part):
            taken[order[part]] = array[ranked[part]]
            forget_pages()
    return taken


def hash_arrays(*arrays: NDArray[Any]) -> str:
    """Hash arrays as `files.hash_bytes` does their bytes, a block at a time.

    Example:
        >>> from curate.runtime.files import hash_bytes
        >>> first, second = np.arange(3), np.arange(2)
        >>> hash_arrays(first, second) == hash_bytes(first.tobytes(), second.tobytes())
        True
    """
    digest = xxhash.xxh3_128()
    for array in arrays:
        digest.update(array.nbytes.to_bytes(8, "little"))
        for rows in blocks(len(array)):
            digest.update(np.ascontiguousarray(array[rows]).data)
    return digest.hexdigest()
