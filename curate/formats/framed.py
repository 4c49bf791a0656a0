"""Files that begin with an index of their samples: u32 count, u32 offsets, filler, samples.

MDS and litdata share this frame. Offsets come first but are known last, so samples go to a nameless
file in the same directory and are copied behind the offsets: everything is written twice, but
memory does not grow with the shard.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from curate.errors import ShardError
from curate.formats.base import FILL, open_shard, read_tokens, write_bytes
from curate.runtime.files import atomic_path

COPY_BYTES = 1 << 20
OFFSET = np.dtype("<u4")
MOST_BYTES = 2**32 - 1


def write_framed(
    path: Path, blocks: Iterable[tuple[bytes | memoryview, NDArray[np.int64]]], between: bytes = b""
) -> None:
    """Write one file of samples.

    Args:
        path: Path of the file.
        blocks: (consecutive samples back to back, shape (samples,) bytes of each).
        between: Filler between offsets and samples.

    Raises:
        ShardError: The file would be 4 GiB or more, beyond what an offset can say.
    """
    sizes: list[NDArray[np.int64]] = []
    with atomic_path(path) as temporary, temporary.open(FILL, buffering=0) as file:
        with tempfile.TemporaryFile(dir=path.parent, prefix=f".{path.name}.", buffering=0) as body:
            for content, sizes_bytes in blocks:
                write_bytes(body, content)
                sizes.append(sizes_bytes)
            body.seek(0)
            _write_offsets(path, file, np.concatenate([np.empty(0, np.int64), *sizes]), between)
            shutil.copyfileobj(body, file, COPY_BYTES)


def _write_offsets(
    path: Path, file: IO[bytes], sizes_bytes: NDArray[np.int64], between: bytes
) -> None:
    """Write everything that precedes the samples."""
    first = OFFSET.itemsize * (len(sizes_bytes) + 2) + len(between)
    ends = np.cumsum(sizes_bytes) + first
    if len(ends) and ends[-1] > MOST_BYTES:
        raise ShardError(
            f"{path}: {int(ends[-1])} bytes, its offsets reach {MOST_BYTES}; lower "
            "output.shard_tokens"
        )
    head = np.concatenate([[len(sizes_bytes), first], ends]).astype(OFFSET)
    file.write(head.tobytes() + between)


def read_offsets(path: Path) -> NDArray[np.int64]:
    """Return byte offsets of the samples and of the end, shape (samples + 1,), after checking them.

    Raises:
        ShardError: The file is absent, cut or too long, or its offsets do not ascend.
    """
    with open_shard(path) as file:
        size_bytes = path.stat().st_size
        if size_bytes < 2 * OFFSET.itemsize:
            raise ShardError(f"{path}: expected a count and an offset, found {size_bytes} bytes")
        samples = int(read_tokens(file, 1, OFFSET, path)[0])
        if OFFSET.itemsize * (samples + 2) > size_bytes:
            raise ShardError(f"{path}: {size_bytes} bytes cannot hold {samples} offsets")
        offsets = read_tokens(file, samples + 1, OFFSET, path).astype(np.int64)
    if offsets[0] < OFFSET.itemsize * (samples + 2) or np.any(np.diff(offsets) < 0):
        raise ShardError(f"{path}: the offsets of its {samples} samples do not ascend")
    if offsets[-1] != size_bytes:
        raise ShardError(f"{path}: expected {offsets[-1]} bytes, found {size_bytes}")
    return offsets
