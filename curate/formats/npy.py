"""NumPy's own `.npy`: the token ids of a shard as one array, in the order they were written.

The array always has one dimension. Rows of `sequence_length` would read well while every sequence
of a shard is full, but the last shard of an exact budget ends with a short one, and a shape that
changes from shard to shard breaks the reader that was tried on the first. A user who wants rows
types `tokens[: len(tokens) // L * L].reshape(-1, L)`, which copies nothing.

The file is byte for byte what `numpy.save` writes, so it has a header of 128 bytes: trainers that
want headerless arrays under the same suffix (OLMo-core, nanoGPT) would read it as tokens.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from curate.errors import ShardError
from curate.formats.base import (
    BEST_FIT,
    CONCAT,
    FILL,
    READ_BATCH_TOKENS,
    Mapped,
    TokenBatch,
    TokenFormat,
    check_dtype,
    expect_bytes,
    map_tokens,
    narrowest,
    open_shard,
    read_tokens,
    sibling,
    write_tokens,
)
from curate.runtime.files import atomic_path

MAGIC = b"\x93NUMPY\x01\x00"
HEADER_BYTES = 128
HEADER = re.compile(
    rb"\x93NUMPY\x01\x00v\x00"
    rb"\{'descr': '(<u[24])', 'fortran_order': False, 'shape': \(([0-9]+),\), \} *\n"
)
DTYPES = (np.dtype("<u2"), np.dtype("<u4"))


def dtype_for(highest_id: int) -> np.dtype[Any]:
    """Return the narrower of uint16 and uint32 that holds every id.

    Example:
        >>> dtype_for(65_535).name, dtype_for(65_536).name
        ('uint16', 'uint32')
    """
    return narrowest(highest_id, DTYPES, "npy")


def write(stem: Path, batches: Iterable[TokenBatch], dtype: np.dtype[Any]) -> list[Path]:
    """Write `<stem>.npy`; the header is filled in last, when the number of tokens is known.

    Args:
        stem: Path of the shard without suffix.
        batches: Sequences, in order.
        dtype: uint16 or uint32.

    Raises:
        ValueError: `dtype` is neither uint16 nor uint32, or a batch contradicts itself.
        ShardError: A token id does not fit `dtype`.
    """
    check_dtype(dtype, DTYPES)
    path = sibling(stem, ".npy")
    with atomic_path(path) as temporary, temporary.open(FILL, buffering=0) as file:
        file.write(bytes(HEADER_BYTES))
        count_tokens = 0
        for batch in batches:
            write_tokens(file, batch, dtype)
            count_tokens += batch.tokens.size
        file.seek(0)
        file.write(header(count_tokens, dtype))
    return [path]


def header(count_tokens: int, dtype: np.dtype[Any]) -> bytes:
    """Make the 128 bytes that `numpy.save` puts before a one-dimensional array."""
    fields = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': ({count_tokens},), }}"
    text_bytes = HEADER_BYTES - len(MAGIC) - 2
    return (
        MAGIC + struct.pack("<H", text_bytes) + fields.ljust(text_bytes - 1).encode("ascii") + b"\n"
    )


def read(stem: Path, dtype: np.dtype[Any]) -> Iterator[TokenBatch]:
    """Yield the tokens of `<stem>.npy` in order, 4M at a time.

    The file knows no boundaries, so each batch is one sequence that the next batch continues.

    Raises:
        ShardError: The file is absent, cut, too long, or its header is not the one that curate
            writes for `dtype`.
    """
    path = sibling(stem, ".npy")
    with open_shard(path) as file:
        left_tokens = _read_header(path, file.read(HEADER_BYTES), dtype)
        while left_tokens:
            tokens = read_tokens(file, min(left_tokens, READ_BATCH_TOKENS), dtype, path)
            left_tokens -= tokens.size
            yield TokenBatch(tokens, np.array([tokens.size], np.int64))


def view(stem: Path, dtype: np.dtype[Any]) -> Mapped:
    """Memory-map all tokens of `<stem>.npy`.

    Raises:
        ShardError: The same damage as `read` refuses.
    """
    path = sibling(stem, ".npy")
    with open_shard(path) as file:
        count_tokens = _read_header(path, file.read(HEADER_BYTES), dtype)
    return map_tokens(path, HEADER_BYTES, count_tokens, dtype)


def _read_header(path: Path, stored_header: bytes, dtype: np.dtype[Any]) -> int:
    """Return the number of tokens that the header states, having checked the file's size.

    Raises:
        ShardError: Header, dtype or size is not as expected.
    """
    if not stored_header.startswith(MAGIC):
        raise ShardError(
            f"{path}: expected a NumPy file starting {MAGIC!r}, found {stored_header[:8]!r}"
        )
    match = HEADER.fullmatch(stored_header)
    if not match or len(stored_header) != HEADER_BYTES:
        raise ShardError(
            f"{path}: expected a NumPy header of {HEADER_BYTES} bytes as curate writes it, "
            f"found {stored_header!r}"
        )
    stored = np.dtype(match[1].decode("ascii"))
    if stored != dtype:
        raise ShardError(f"{path}: expected tokens of {dtype.name}, found {stored.name}")
    count_tokens = int(match[2])
    expect_bytes(path, HEADER_BYTES + count_tokens * dtype.itemsize, f"{count_tokens} tokens")
    return count_tokens


FORMAT = TokenFormat(
    name="npy",
    summary="one NumPy array of token ids, without document boundaries",
    trainers="any training loop in Python: numpy.load with mmap_mode",
    keeps_documents=False,
    dtype_for=dtype_for,
    write=write,
    read=read,
    packings=(CONCAT, BEST_FIT),  # readers see rows only where all are full
    snippet="""import numpy as np

tokens = np.load("{path}.npy", mmap_mode="r")
""",
    view=view,
)
