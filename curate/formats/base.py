"""The contract of output formats.

A format turns batches of sequences into one shard file (or a few that belong together) and reads
them back. It knows nothing of domains, mixtures or plans: which sequence came from where is kept
beside the shards by `curate.dataset.write_tokens`. Shards are written under a temporary name and
renamed when whole, so a shard that exists is complete; the manifest is written after the last
shard.

A recipe sets a format's `options`; `configure` returns the format with these values and with what
it must know about the tokenizer. Formats whose readers expect a file about the whole folder write
it in `finish`, when every shard is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from curate.errors import RecipeError, ShardError
from curate.formats.dropped_tokens import DEFAULT_WINDOW_TOKENS
from curate.formats.trainers.mixtures import TrainerMixture
from curate.runtime.machine import fault_or
from curate.runtime.mapping import map_file

FILL: Final = "r+b"
"""Mode that opens the empty file made by `atomic_path`. "wb" would truncate it again, and ext4 then
flushes the file when it is closed: 1.0 GB/s measured instead of 3.3 GB/s."""

Batch = TypeVar("Batch")

CONCAT, BEST_FIT, WHOLE = "concat", "best-fit", "whole"
"""Values of the recipe's `packing`; `curate.plan.packing` explains them."""

TEXT_SHARD_TOKENS = 64_000_000
"""Largest shard of text, about 250 MB, because readers load text one file at a time."""

READ_BATCH_TOKENS = 4 << 20
"""Most tokens in a batch that is read, unless a single sequence is longer."""

READ_BATCH_BYTES = 8 << 20
"""Most bytes of text in a batch that is read, unless a single document is longer."""


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
    """JSON objects as text."""


@dataclass(frozen=True, slots=True)
class Option:
    """A setting of a format that a recipe may change, under `output.options`."""

    summary: str
    kind: type
    """str, bool or int; an int is at least 1."""
    default: Any = None
    choices: tuple[str, ...] = ()
    """The only values a str may have; empty: any."""
    variants: tuple[str, ...] = ()
    """Values of the option `variant` that read this one; empty: all."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The recipe's options and the properties of tokens that a format is configured with."""

    eos_id: int | None = 0
    """Id of the token that ends every document; None where the tokenizer has none."""
    vocabulary: int = 50_257
    """Number of ids: the highest id plus one."""
    tokenizer: str = "tokenizer.json"
    """Name under which trainers can load the tokenizer."""
    sequence_length: int | None = None
    """Tokens of every sequence; None where sequences are documents."""
    row_tokens: int | None = None
    """Tokens of every row but perhaps the last; None where rows are of any length."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """One value for every option of the format."""

    @property
    def window_tokens(self) -> int:
        """Length in tokens of the windows that the trainer's reader cuts, or a default."""
        for name in ("window_tokens", "step_tokens"):
            if self.options.get(name) is not None:
                return int(self.options[name])
        return self.sequence_length or DEFAULT_WINDOW_TOKENS


@dataclass(frozen=True, slots=True)
class DatasetFolder:
    """A dataset whose shards are all written."""

    directory: Path
    """Directory of the dataset; files that are not beside shards go to its `trainer/`."""
    stems: Mapping[str, Sequence[Path]]
    """Stems of the shards of each split, `train` and `validation`, in order."""
    dtype: np.dtype[Any]
    """Type of a token on disk; meaningless for text."""
    at_hand: Callable[[Sequence[Path]], AbstractContextManager[None]] = lambda _: nullcontext()
    """Has the content of shards on disk during a block; they may be in a bucket already."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """A memory-mapped shard: runs of tokens in the shard's order."""

    content: NDArray[np.uint8]
    """All bytes of a file, memory-mapped."""
    starts: NDArray[np.int64]
    """shape (runs,), byte at which each run begins; of any alignment."""
    tokens: NDArray[np.int64]
    """shape (runs,), tokens of each run; positive."""
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """Everything that the rest of curate needs to know about a format."""

    name: str
    summary: str
    trainers: str
    """Trainers that read it, in words."""
    snippet: str
    """Python or shell lines that load `{path}`, the stem: a shard's path without suffix."""
    options: Mapping[str, Option] = field(default_factory=dict)
    finish: Callable[[DatasetFolder], Iterable[Path]] | None = None
    """Writes the files that readers expect beside the shards; yields the path of each."""
    folder_stems: tuple[str, ...] = ()
    """Names of the files written by `finish`, without suffix; a final `*` matches anything."""
    notices: Callable[[Settings], list[str]] | None = None
    """Lines that the user should read before anything is written."""
    shard_tokens_most: int | None = None
    """Largest training shard that readers handle well; None: no limit."""
    shard_tokens_least: int = 1
    """Smallest training shard that readers accept."""
    hub_suffix: str | None = None
    """Suffix of the files that Hugging Face `load_dataset` reads; None where it does not."""
    packings: tuple[str, ...] = (CONCAT,)
    """Values of the recipe's `packing` whose rows survive in the readers."""
    mixtures: tuple[TrainerMixture, ...] = ()
    """Trainers that can mix separately written domains; the certificate reports the first."""
    mixture_suffix: str | None = None
    """Suffix of the files that trainers' mixtures name; None: `hub_suffix`, else bare stems."""

    @property
    def data_suffix(self) -> str:
        """Suffix of the files that trainers' mixtures name; empty where they name stems."""
        return self.mixture_suffix or self.hub_suffix or ""

    def mixtures_for(self, settings: Settings) -> list[TrainerMixture]:
        """Return the trainers' mixtures that accept rows of these settings' length."""
        return [
            mixture
            for mixture in self.mixtures
            if settings.row_tokens is not None or not mixture.one_length
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFormat(OutputFormat):
    """A format that stores token ids."""

    keeps_documents: bool
    """True: the boundaries of sequences are stored; False: the file is one stream."""
    dtype_for: Callable[[int], np.dtype[Any]]
    """Highest token id → dtype on disk; raises `RecipeError` where the format cannot hold it."""
    write: Callable[[Path, Iterable[TokenBatch], np.dtype[Any]], list[Path]]
    """(stem, batches, dtype) → the files written, final names; nothing remains on an exception."""
    read: Callable[[Path, np.dtype[Any]], Iterator[TokenBatch]]
    """(stem, dtype) → the sequences, bounded memory; raises `ShardError` on damage."""
    configure: Callable[[Settings], TokenFormat] | None = None
    """Applies a recipe's options; raises `RecipeError` where the format cannot do as asked."""
    view: Callable[[Path, np.dtype[Any]], Mapped] | None = None
    """(stem, dtype) → where all tokens lie; raises `ShardError` on a wrong size or header.
    None where they are not stored as plain integers."""
    takes_sequences: bool = False
    """Whether stored sequences may be fixed-length rows in place of whole documents."""
    dropped_tokens: Callable[[NDArray[np.int64], int], int] | None = None
    """(tokens of each sequence of a shard, tokens of a window) → tokens that the reader drops.
    Formats that set it have the option `window_tokens`."""
    drops_by_row: bool = False
    """Whether readers truncate single rows, so that dropped tokens do not depend on shards."""
    sample_order: str = ""
    """Sentence about trainers that do not read samples in the order of the shards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFormat(OutputFormat):
    """A format that stores text, tokenised by the trainer."""

    write: Callable[[Path, Iterable[TextBatch]], list[Path]]
    """(stem, batches) → the files written, final names; nothing remains on an exception."""
    read: Callable[[Path], Iterator[TextBatch]]
    """stem → the documents, bounded memory; raises `ShardError` on damage."""
    configure: Callable[[Settings], TextFormat] | None = None
    """Applies a recipe's options; raises `RecipeError` where the format cannot do as asked."""
    shard_tokens_most: int | None = TEXT_SHARD_TOKENS


def sibling(stem: Path, suffix: str) -> Path:
    """Append a suffix to the stem, keeping dots in the stem, unlike `Path.with_suffix`.

    Example:
        >>> sibling(Path("mix-v1.5"), ".npy").name
        'mix-v1.5.npy'
    """
    return stem.with_name(stem.name + suffix)


def chained(
    folder: DatasetFolder,
    stems: Iterable[Path],
    suffix: str,
    read: Callable[[Path], Iterator[Batch]],
) -> Iterator[Batch]:
    """Yield the batches of shards, one after the other.

    Args:
        folder: The dataset.
        stems: Shards of it, each of one file.
        suffix: Suffix of that file.
        read: Reads a shard by its stem.
    """
    for stem in stems:
        with folder.at_hand([sibling(stem, suffix)]):
            yield from read(stem)


def open_shard(path: Path) -> BufferedReader:
    """Open a file of a shard for reading.

    Raises:
        ShardError: The file is absent or cannot be opened.
    """
    try:
        return path.open("rb")
    except OSError as error:
        unopened = ShardError(f"{path}: cannot be opened ({error.strerror or error})")
        raise fault_or(unopened, error, str(path)) from error


class UnbufferedFile(Protocol):
    """A binary file without a buffer; Windows wraps temporary files in a class of their own."""

    def write(self, content: memoryview, /) -> int | None:
        """Write a prefix of `content` and return its length in bytes."""


def write_tokens(file: UnbufferedFile, batch: TokenBatch, dtype: np.dtype[Any]) -> None:
    """Append a batch's tokens to a file, without conversion where they already have `dtype`.

    Args:
        file: Unbuffered, open for writing.
        batch: Sequences to append.
        dtype: Type of a token on disk.

    Raises:
        ValueError: The lengths do not add up to the tokens.
        ShardError: A token id does not fit `dtype`; NumPy would let it wrap round.
    """
    write_bytes(file, to_dtype(batch, dtype).view(np.uint8).data)


def to_dtype(batch: TokenBatch, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert a batch's tokens to contiguous values of the dtype on disk.

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
    """Append all bytes of a buffer: a raw write may stop short, on Linux always at 2 GiB."""
    unwritten = memoryview(unwritten)
    while unwritten:
        unwritten = unwritten[file.write(unwritten) :]


def check_dtype(dtype: np.dtype[Any], stored: Sequence[np.dtype[Any]]) -> None:
    """Raise `ValueError` unless the format stores that dtype."""
    if dtype not in stored:
        names = " or ".join(one.name for one in stored)
        raise ValueError(f"dtype must be {names}, got {dtype.name}")


def narrowest(
    highest_id: int,
    stored: Sequence[np.dtype[Any]],
    name: str,
    instead: str = "another format (curate formats)",
) -> np.dtype[Any]:
    """Return the first dtype that holds every id.

    Args:
        highest_id: Highest token id of the tokenizer.
        stored: Dtypes that the format can store, narrowest first.
        name: Name of the format, for the message.
        instead: The remedy in the message.

    Raises:
        RecipeError: No dtype holds every id.

    Example:
        >>> narrowest(65_536, [np.dtype("<u2"), np.dtype("<u4")], "npy").name
        'uint32'
    """
    for dtype in stored:
        if highest_id <= np.iinfo(dtype).max:
            return dtype
    raise RecipeError(
        f"output.format: {name} holds token ids up to {np.iinfo(stored[-1]).max}, the tokenizer "
        f"has {highest_id}; take {instead}, or a smaller vocabulary"
    )


def expect_bytes(path: Path, expected_bytes: int, content: str) -> None:
    """Check the size of a file.

    Args:
        path: An existing file.
        expected_bytes: Its exact size.
        content: Content that takes these bytes, for the message.

    Raises:
        ShardError: The size differs.
    """
    size_bytes = path.stat().st_size
    if size_bytes != expected_bytes:
        raise ShardError(
            f"{path}: expected {expected_bytes} bytes for {content}, found {size_bytes}"
        )


def check_ends(tokens: NDArray[Any], lengths: NDArray[np.int64], eos_id: int, path: Path) -> None:
    """Refuse a document with an end token inside, where the format's readers would cut it.

    Args:
        tokens: shape (sum of lengths,), documents back to back.
        lengths: shape (documents,), tokens of each document.
        eos_id: Id of the end token.
        path: File being written, for the message.

    Raises:
        ShardError: An end token is inside a document; the message says which.
    """
    end_places = np.flatnonzero(tokens == tokens.dtype.type(eos_id))
    stops = np.cumsum(lengths)
    at_ends = int(np.count_nonzero(tokens[stops[lengths > 0] - 1] == eos_id)) if len(stops) else 0
    if len(end_places) != at_ends:
        inside = end_places[~np.isin(end_places, stops - 1)]
        document = int(np.searchsorted(stops, inside[0], side="right"))
        raise ShardError(
            f"{path}: document {document} of a batch holds the end token {eos_id} inside, where "
            "readers of this format would cut it; remove it from the text or take megatron"
        )


def read_tokens(
    file: BufferedReader, count_tokens: int, dtype: np.dtype[Any], path: Path
) -> NDArray[Any]:
    """Read the next tokens of an open file.

    Args:
        file: Open at the first of them.
        count_tokens: Number of tokens to read.
        dtype: Type of a token on disk.
        path: Path of the file, for the message.

    Raises:
        ShardError: The file ends early: it has shrunk since it was measured.
    """
    tokens = np.empty(count_tokens, dtype)
    read_bytes = file.readinto(tokens.view(np.uint8).data)
    if read_bytes != tokens.nbytes:
        raise ShardError(f"{path}: expected {tokens.nbytes} more bytes, found {read_bytes}")
    return tokens


def map_runs(
    path: Path, starts: NDArray[np.int64], tokens: NDArray[np.int64], dtype: np.dtype[Any]
) -> Mapped:
    """Memory-map runs of tokens in a file whose size has been checked.

    Args:
        path: Path of the file.
        starts: shape (runs,), byte at which each run begins.
        tokens: shape (runs,), tokens of each run; empty runs are left out.
        dtype: Type of a token on disk.

    Raises:
        ShardError: The file cannot be mapped.
    """
    kept = tokens > 0
    if not kept.any():  # an empty file cannot be mapped
        nothing = np.empty(0, np.int64)
        return Mapped(np.empty(0, np.uint8), nothing, nothing, dtype)
    try:
        content = map_file(path, np.uint8)
    except (OSError, ValueError) as error:
        raise fault_or(
            ShardError(f"{path}: cannot be mapped ({error})"), error, str(path)
        ) from error
    return Mapped(content, starts[kept], tokens[kept], dtype)


def map_tokens(path: Path, offset_bytes: int, count_tokens: int, dtype: np.dtype[Any]) -> Mapped:
    """Memory-map one run of tokens in a file whose size has been checked.

    Args:
        path: Path of the file.
        offset_bytes: Byte at which the run begins.
        count_tokens: Tokens in the run.
        dtype: Type of a token on disk.

    Raises:
        ShardError: The file cannot be mapped.
    """
    return map_runs(path, np.array([offset_bytes]), np.array([count_tokens]), dtype)


def runs(lengths: NDArray[Any], limit: int, most: int = 1 << 16) -> Iterator[tuple[int, int]]:
    """Cut consecutive items into runs, each as long as the limits allow and never empty.

    Args:
        lengths: shape (items,), length of each item; not negative.
        limit: Most length in a run, unless a single item is longer.
        most: Most items in a run.

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
