"""Map files into memory without holding a descriptor for each.

Python's `mmap`, and so `numpy.memmap`, keeps a duplicate of the file's descriptor for as long as
the mapping lives, until Python 3.13 can do without. A store of 28 GB of text has a thousand parts,
which is more descriptors than a process may have by default. The system needs none of them, so
`map_file` calls it directly. What remains is the system's limit on mappings (`vm.max_map_count`,
65,530 on Linux): about 1.8 TB of text.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FAILED = ctypes.c_void_p(-1).value


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


def _map(path: Path, descriptor: int, start: int, length: int) -> Any:
    """Map bytes of an open file, and return an object with their buffer."""
    if sys.platform == "win32":  # its mappings hold no descriptors of the C library
        return mmap.mmap(descriptor, length, access=mmap.ACCESS_READ, offset=start)
    system = _system()
    address = system.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, start)
    if address == FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    buffer = (ctypes.c_char * length).from_address(address)
    weakref.finalize(buffer, system.munmap, address, length).atexit = False
    return buffer


@functools.cache
def _system() -> Any:
    """Load the C library's calls, with the types of a system of 64 bits."""
    system = ctypes.CDLL(None, use_errno=True)
    system.mmap.restype = ctypes.c_void_p
    system.mmap.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
    ]  # fmt: skip
    system.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return system
