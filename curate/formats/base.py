"""What every output format promises.

A format turns batches of sequences into one shard file (or a few that belong together) and reads
them back. It knows nothing of domains, mixtures or plans: which sequence came from where is kept
beside the shards by `curate.dataset.write_tokens`. Shards are written under a temporary name and
renamed when whole, so a shard that exists is complete; the manifest is written after the last
shard.

What a recipe may choose about a format are its `options`; `configure` gives the format with these
choices and what it must know of the tokenizer. Formats whose readers want a file about the whole
folder write it in `finish`, when every shard is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from curate.errors import RecipeError, ShardError
from curate.formats.dropped_tokens import DEFAULT_WINDOW_TOKENS

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
class Option:
    """Something a recipe may choose about a format, under `output.options`."""

    summary: str
    kind: type
    """str, bool or int; an int is at least 1."""
    default: Any = None
    choices: tuple[str, ...] = ()
    """The only values a str may have; empty for any."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a format is configured with."""

    eos_id: int | None = 0
    """Of the token that ends every document; None for none."""
    vocabulary: int = 50_257
    """Number of ids: the highest and one."""
    tokenizer: str = "tokenizer.json"
    """A name that trainers can load it by."""
    sequence_length: int | None = None
    """Tokens of every sequence; None where sequences are documents."""
    row_tokens: int | None = None
    """Tokens of every row but perhaps the last; None where rows are of any length."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """One value for every option of the format."""

    @property
    def window_tokens(self) -> int:
        """Tokens of the windows that the trainer's reader cuts, as far as the recipe says."""
        for name in ("window_tokens", "step_tokens"):
            if self.options.get(name) is not None:
                return int(self.options[name])
        return self.sequence_length or DEFAULT_WINDOW_TOKENS


@dataclass(frozen=True, slots=True)
class Folder:
    """A dataset whose shards are all written."""

    directory: Path
    """Of the dataset; what is not a shard's neighbour goes to `trainer/` in it."""
    stems: Mapping[str, Sequence[Path]]
    """Stems of the shards of each split, `train` and `validation`, in order."""
    dtype: np.dtype[Any]
    """Of a token on disk; of no meaning for text."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """Where a shard's tokens lie in memory: runs, one after another in the shard's order."""

    content: NDArray[np.uint8]
    """All bytes of a file, memory-mapped."""
    starts: NDArray[np.int64]
    """shape (runs,), byte at which each run begins; of any alignment."""
    tokens: NDArray[np.int64]
    """shape (runs,), of each run; positive."""
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class TokenFormat:
    """A format that stores token ids."""

    name: str
    summary: str
    trainers: str
    """Whose readers take it, in words."""
    keeps_documents: bool
    """True: the boundaries of sequences are stored; False: the file is one stream."""
    dtype_for: Callable[[int], np.dtype[Any]]
    """Highest token id → dtype on disk; raises `RecipeError` where the format cannot hold it."""
    write: Callable[[Path, Iterable[TokenBatch], np.dtype[Any]], list[Path]]
    """(stem, batches, dtype) → the files written, final names; nothing remains on an exception."""
    read: Callable[[Path, np.dtype[Any]], Iterator[TokenBatch]]
    """(stem, dtype) → the sequences, bounded memory; raises `ShardError` on damage."""
    snippet: str
    """Python or shell lines that load `{path}`, the stem: a shard's path without suffix."""
    view: Callable[[Path, np.dtype[Any]], Mapped] | None = None
    """(stem, dtype) → where all tokens lie; raises `ShardError` on damage of a size or a header.
    None where they are stored as no plain integers."""
    takes_sequences: bool = False
    """Whether sequences may be of a fixed length though their boundaries are stored."""
    options: Mapping[str, Option] = field(default_factory=dict)
    configure: Callable[[Settings], TokenFormat] | None = None
    """Raises `RecipeError` where the format cannot do what is asked."""
    finish: Callable[[Folder], list[Path]] | None = None
    """Writes what its readers want beside the shards; returns these files."""
    folder_stems: tuple[str, ...] = ()
    """Names of these files without suffix; `*` at the end stands for anything."""
    loss_tokens: Callable[[NDArray[np.int64], int], int] | None = None
    """(tokens of each sequence of a shard, of a reader's window) → tokens its reader never shows.
    The options then have `window_tokens`."""
    notices: Callable[[Settings], list[str]] | None = None
    """What the user should know before writing."""
    shard_tokens_most: int | None = None
    """Larger shards its readers take badly or not at all."""
    shard_tokens_least: int = 1
    """Shorter training shards its readers refuse."""
    hub_suffix: str | None = None
    """Of the files that Hugging Face `load_dataset` reads; None where it does not."""


@dataclass(frozen=True, slots=True)
class TextFormat:
    """A format that stores text, tokenised by the trainer."""

    name: str
    summary: str
    trainers: str
    write: Callable[[Path, Iterable[TextBatch]], list[Path]]
    read: Callable[[Path], Iterator[TextBatch]]
    snippet: str
    options: Mapping[str, Option] = field(default_factory=dict)
    configure: Callable[[Settings], TextFormat] | None = None
    finish: Callable[[Folder], list[Path]] | None = None
    folder_stems: tuple[str, ...] = ()
    notices: Callable[[Settings], list[str]] | None = None
    hub_suffix: str | None = None


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


class UnbufferedFile(Protocol):
    """A binary file opened without a buffer; Windows wraps temporary ones in a class apart."""

    def write(self, content: memoryview, /) -> int | None:
        """Write a first part of `content`; return its length in bytes."""


def write_tokens(file: UnbufferedFile, batch: TokenBatch, dtype: np.dtype[Any]) -> None:
    """Append a batch's tokens to an unbuffered file, which copies them once if `dtype` is theirs.

    Raises:
        ValueError: The lengths do not add up to the tokens.
        ShardError: A token id does not fit `dtype`; NumPy would let it wrap round.
    """
    write_bytes(file, to_dtype(batch, dtype).view(np.uint8).data)


def to_dtype(batch: TokenBatch, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A batch's tokens, contiguous, as they go to disk.

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
    return np.ascontiguousarray(batch.tokens, dtype=dtype)


def write_bytes(file: UnbufferedFile, unwritten: Any) -> None:
    """Append a buffer of bytes; a raw write may stop short, on Linux always at 2 GiB."""
    unwritten = memoryview(unwritten)
    while unwritten:
        unwritten = unwritten[file.write(unwritten) :]


def check_dtype(dtype: np.dtype[Any], known: Sequence[np.dtype[Any]]) -> None:
    """Raise `ValueError` unless the format stores that dtype."""
    if dtype not in known:
        names = " or ".join(one.name for one in known)
        raise ValueError(f"dtype must be {names}, got {dtype.name}")


def narrowest(
    highest_id: int,
    known: Sequence[np.dtype[Any]],
    name: str,
    instead: str = "another format (curate formats)",
) -> np.dtype[Any]:
    """The first of `known` dtypes that holds every id; `instead` is what to take if none does.

    Raises:
        RecipeError: None does.

    Example:
        >>> narrowest(65_536, [np.dtype("<u2"), np.dtype("<u4")], "npy").name
        'uint32'
    """
    for dtype in known:
        if highest_id <= np.iinfo(dtype).max:
            return dtype
    raise RecipeError(
        f"output.format: {name} holds token ids up to {np.iinfo(known[-1]).max}, the tokenizer "
        f"has {highest_id}; take {instead}, or a smaller vocabulary"
    )


def expect_bytes(path: Path, expected_bytes: int, what: str) -> None:
    """Raise `ShardError` unless the file has exactly that size."""
    found_bytes = path.stat().st_size
    if found_bytes != expected_bytes:
        raise ShardError(f"{path}: expected {expected_bytes} bytes for {what}, found {found_bytes}")


def check_ends(tokens: NDArray[Any], lengths: NDArray[np.int64], eos_id: int, path: Path) -> None:
    """Refuse an end token that stands inside a document, whose readers would cut it there.

    Raises:
        ShardError: One does; says where.
    """
    found = np.flatnonzero(tokens == tokens.dtype.type(eos_id))
    stops = np.cumsum(lengths)
    at_ends = int(np.count_nonzero(tokens[stops[lengths > 0] - 1] == eos_id)) if len(stops) else 0
    if len(found) != at_ends:
        inside = found[~np.isin(found, stops - 1)]
        document = int(np.searchsorted(stops, inside[0], side="right"))
        raise ShardError(
            f"{path}: document {document} of a batch holds the end token {eos_id} inside, where "
            "readers of this format would cut it; remove it from the text or take megatron"
        )


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


def map_runs(
    path: Path, starts: NDArray[np.int64], tokens: NDArray[np.int64], dtype: np.dtype[Any]
) -> Mapped:
    """Runs of tokens in a file, memory-mapped; its size has been checked.

    Args:
        path: Of the file.
        starts: shape (runs,), byte at which each begins.
        tokens: shape (runs,), of each.
        dtype: Of a token.

    Raises:
        ShardError: It cannot be mapped.
    """
    kept = tokens > 0
    if not kept.any():  # an empty file cannot be mapped
        nothing = np.empty(0, np.int64)
        return Mapped(np.empty(0, np.uint8), nothing, nothing, dtype)
    try:
        content = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise ShardError(f"{path}: cannot be mapped ({error})") from error
    return Mapped(content, starts[kept], tokens[kept], dtype)


def map_tokens(path: Path, offset_bytes: int, count_tokens: int, dtype: np.dtype[Any]) -> Mapped:
    """Tokens that lie back to back in a file, as `map_runs`."""
    return map_runs(path, np.array([offset_bytes]), np.array([count_tokens]), dtype)


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
