"""Map files into memory without holding a descriptor for each.

Python's `mmap`, and so `numpy.memmap`, keeps a duplicate of the file's descriptor for as long as
the mapping lives, until Python 3.13 can do without. A store of 28 GB of text has a thousand parts,
which is more descriptors than a process may have by default. The system needs none of them, so
`map_file` calls it directly. What remains is the system's limit on mappings (`vm.max_map_count`,
65,530 on Linux): about 1.8 TB of text.

Pages that were read count as this process's memory until the system wants them back.
`forget_pages` gives them back at once; they stay in the system's cache.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FAILED = ctypes.c_void_p(-1).value

CAN_FORGET = hasattr(mmap, "MADV_DONTNEED")
"""Whether files can be mapped for writing, and their pages be given back."""

_live: dict[int, int] = {}
"""Length of each mapping of this process, by its address."""

_mapped_bytes = [0]
"""Their sum."""

_unmapping = threading.RLock()
"""Held while a mapping begins or ends, or pages are given back: once a mapping has ended, its
addresses may be memory of another thread, whose pages would be lost, and the sum of lengths must
miss none. Collecting garbage can end a mapping at any moment, so a thread may take the lock
twice."""


def _renew_lock() -> None:
    global _unmapping
    _unmapping = threading.RLock()


if sys.platform != "win32":  # the thread that held the lock does not exist in a forked process
    os.register_at_fork(after_in_child=_renew_lock)


def map_file(
    path: Path, dtype: Any, offset_bytes: int = 0, items: int | None = None
) -> NDArray[Any]:
    """Map a file, or a range of it, as a read-only array.

    Args:
        path: The file.
        dtype: Type of an item.
        offset_bytes: Byte at which the first item begins.
        items: Number of items; None: as many as the rest of the file holds.

    Returns:
        shape (items,), whose memory is given back with the last array that uses it.

    Raises:
        OSError: The file cannot be opened, is shorter than the range, or the process has as many
            mappings as the system allows; the error names the file.
    """
    dtype = np.dtype(dtype)
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        rest_bytes = os.fstat(descriptor).st_size - offset_bytes
        if items is None:
            items = max(0, rest_bytes) // dtype.itemsize
        if items * dtype.itemsize > rest_bytes:
            raise OSError(
                0, f"it ends {items * dtype.itemsize - rest_bytes} bytes early", str(path)
            )
        if not items:  # an empty range cannot be mapped
            return np.empty(0, dtype)
        skipped_bytes = offset_bytes % mmap.ALLOCATIONGRANULARITY
        length = skipped_bytes + items * dtype.itemsize
        buffer = _map(path, descriptor, offset_bytes - skipped_bytes, length)
    finally:
        os.close(descriptor)
    read_only = memoryview(buffer).toreadonly()  # writing there would end the process
    array: NDArray[Any] = np.frombuffer(read_only, dtype, items, skipped_bytes)
    return array


def map_scratch(directory: Path, size_bytes: int) -> NDArray[np.uint8]:
    """Map a new file that has no name, so that nothing is left of it once the array is gone.

    Processes that are forked share the array.

    Args:
        directory: A directory on the disk to use.
        size_bytes: Length of the array, at least 1.

    Raises:
        OSError: The directory cannot be written to, or its disk is too small.
    """
    try:
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            if hasattr(os, "posix_fallocate"):  # or a full disk would end the process, by SIGBUS
                os.posix_fallocate(file.fileno(), 0, size_bytes)
            else:
                os.ftruncate(file.fileno(), size_bytes)
            buffer = _map(directory, file.fileno(), 0, size_bytes, writable=True)
    except OSError as error:
        error.filename = str(directory)
        raise
    return np.frombuffer(buffer, np.uint8)


def mapped_bytes() -> int:
    """Return the bytes of all files that this process maps."""
    return _mapped_bytes[0]


def forget_pages() -> None:
    """Give the pages of all mapped files back to the system, which keeps what was written."""
    if sys.platform != "win32" and CAN_FORGET:
        system = _system()
        with _unmapping:
            for address, length in list(_live.items()):
                if address in _live:
                    system.madvise(address, length, mmap.MADV_DONTNEED)


def _map(path: Path, descriptor: int, start: int, length: int, writable: bool = False) -> Any:
    """Map bytes of an open file, and return an object with their buffer."""
    if sys.platform == "win32":  # its mappings hold no descriptors of the C library
        return mmap.mmap(descriptor, length, access=mmap.ACCESS_READ, offset=start)
    system = _system()
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    with _unmapping:
        address = system.mmap(None, length, access, mmap.MAP_SHARED, descriptor, start)
        if address == FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
        _live[address] = length
        _mapped_bytes[0] += length
    buffer = (ctypes.c_char * length).from_address(address)
    weakref.finalize(buffer, _unmap, address, length).atexit = False
    return buffer


def _unmap(address: int, length: int) -> None:
    with _unmapping:
        del _live[address]  # first, as another thread may get the same address at once
        _mapped_bytes[0] -= length
        _system().munmap(address, length)


@functools.cache
def _system() -> Any:
    """Load the C library's calls, with the types of a system of 64 bits."""
    system = ctypes.CDLL(None, use_errno=True)
    system.mmap.restype = ctypes.c_void_p
    system.mmap.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
    ]  # fmt: skip
    system.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    system.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return system
