"""What every output format promises.

A format turns batches of sequences into one shard file (or a few that belong together) and reads
them back. It knows nothing of domains, mixtures or plans: which sequence came from where is kept
beside the shards by `curate.write`. Shards are written under a temporary name and renamed when
whole, so a shard that exists is complete; the manifest is written after the last shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from curate.errors import ShardError

FILL: Final = "r+b"
"""Mode that opens the empty file `atomic_path` has made. "wb" would truncate it once more, upon
which ext4 writes the file out when it is closed: measured 1.0 GB/s instead of 3.3 GB/s."""

READ_BATCH_TOKENS = 4 << 20
"""Tokens a reader's batch holds at most; a longer sequence makes a longer batch."""

READ_BATCH_BYTES = 8 << 20
"""Bytes of text a reader's batch holds at most; a longer document makes a longer batch."""


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Consecutive sequences, back to back."""

    tokens: NDArray[Any]
    """shape (sum of lengths,), uint16, int32 or uint32."""
    lengths: NDArray[np.int64]
    """shape (sequences,), tokens of each sequence."""


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Consecutive documents as text; the lists have equal lengths."""

    texts: list[str]
    ids: list[str]
    domains: list[str]
    metadata: list[str]
    """Each a JSON object as text."""


@dataclass(frozen=True, slots=True)
class TokenFormat:
    """A format that stores token ids."""

    name: str
    summary: str
    trainers: str
    """Whose readers take it, in words."""
    keeps_documents: bool
    """True: a sequence is a document; False: the file is one stream, cut by sequence length."""
    dtype_for: Callable[[int], np.dtype[Any]]
    """Highest token id → dtype on disk; raises `RecipeError` where the format cannot hold it."""
    write: Callable[[Path, Iterable[TokenBatch], np.dtype[Any]], list[Path]]
    """(stem, batches, dtype) → the files written, final names; nothing remains on an exception."""
    read: Callable[[Path, np.dtype[Any]], Iterator[TokenBatch]]
    """(stem, dtype) → the sequences, bounded memory; raises `ShardError` on damage."""
    snippet: str
    """Python or shell lines that load `{path}`, the stem: a shard's path without suffix."""
    view: Callable[[Path, np.dtype[Any]], NDArray[Any]] | None = None
    """(stem, dtype) → all tokens, memory-mapped; raises `ShardError` on damage. None where they do
    not lie back to back in one file."""


@dataclass(frozen=True, slots=True)
class TextFormat:
    """A format that stores text, tokenised by the trainer."""

    name: str
    summary: str
    trainers: str
    write: Callable[[Path, Iterable[TextBatch]], list[Path]]
    read: Callable[[Path], Iterator[TextBatch]]
    snippet: str


def sibling(stem: Path, suffix: str) -> Path:
    """The stem with a suffix appended; dots in the stem stay, unlike `Path.with_suffix`.

    Example:
        >>> sibling(Path("mix-v1.5"), ".npy").name
        'mix-v1.5.npy'
    """
    return stem.with_name(stem.name + suffix)


def open_shard(path: Path) -> BufferedReader:
    """Open a file of a shard for reading.

    Raises:
        ShardError: It is absent or cannot be opened.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise ShardError(f"{path}: cannot be opened ({error.strerror or error})") from error


def write_tokens(file: RawIOBase, batch: TokenBatch, dtype: np.dtype[Any]) -> None:
    """Append a batch's tokens to an unbuffered file, which copies them once if `dtype` is theirs.

    Raises:
        ValueError: The lengths do not add up to the tokens.
        ShardError: A token id does not fit `dtype`; NumPy would let it wrap round.
    """
    length_tokens = int(batch.lengths.sum())
    if batch.tokens.shape != (length_tokens,) or np.any(batch.lengths < 0):
        raise ValueError(f"lengths add up to {length_tokens}, tokens have {batch.tokens.shape}")
    if batch.tokens.dtype != dtype and batch.tokens.size:
        limit = int(np.iinfo(dtype).max)
        for token in (int(batch.tokens.max()), int(batch.tokens.min())):
            if not 0 <= token <= limit:
                raise ShardError(
                    f"token id {token} does not fit {dtype.name} (0 to {limit}); the dtype must "
                    "come from the tokenizer's highest id"
                )
    tokens = np.ascontiguousarray(batch.tokens, dtype=dtype)
    unwritten = tokens.view(np.uint8).data
    while unwritten:  # a raw write may stop short, on Linux always at 2 GiB
        unwritten = unwritten[file.write(unwritten) :]


def read_tokens(
    file: BufferedReader, count_tokens: int, dtype: np.dtype[Any], path: Path
) -> NDArray[Any]:
    """The next `count_tokens` of an open file.

    Raises:
        ShardError: The file ends before, having shrunk since it was measured.
    """
    tokens = np.empty(count_tokens, dtype)
    found_bytes = file.readinto(tokens.view(np.uint8).data)
    if found_bytes != tokens.nbytes:
        raise ShardError(f"{path}: expected {tokens.nbytes} more bytes, found {found_bytes}")
    return tokens


def map_tokens(
    path: Path, offset_bytes: int, count_tokens: int, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Tokens in a file, memory-mapped; its size has been checked.

    Raises:
        ShardError: It cannot be mapped.
    """
    if not count_tokens:
        return np.empty(0, dtype)  # an empty range cannot be mapped
    try:
        return np.memmap(path, dtype, "r", offset_bytes, (count_tokens,))
    except (OSError, ValueError) as error:
        raise ShardError(f"{path}: cannot be mapped ({error})") from error


def runs(lengths: NDArray[Any], limit: int, most: int = 1 << 16) -> Iterator[tuple[int, int]]:
    """Cut consecutive items into runs, each as long as the limits allow and never empty.

    Args:
        lengths: shape (items,), of each item; not negative.
        limit: A run's lengths add up to at most this, unless one item alone is longer.
        most: Items a run holds at most.

    Yields:
        (first, one past the last) of each run; together they cover every item once.

    Example:
        >>> list(runs(np.array([3, 3, 9, 1, 1, 1]), limit=6, most=2))
        [(0, 2), (2, 3), (3, 5), (5, 6)]
    """
    start = 0
    while start < len(lengths):
        within = np.cumsum(lengths[start : start + most], dtype=np.int64) <= limit
        stop = start + max(1, int(np.count_nonzero(within)))
        yield start, stop
        start = stop
