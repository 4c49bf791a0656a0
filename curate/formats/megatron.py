"""Megatron-LM's indexed dataset: `<stem>.bin` holds the tokens, `<stem>.idx` where documents begin.

One sequence a document. Left out: sequences of several parts, the modes of multimodal data, and
the loss masks of GPT-NeoX; `read` takes only the layout that `write` makes. All is little-endian:

| offset | type | value |
|---|---|---|
| 0 | 9 bytes | `MMIDIDX`, two zero bytes |
| 9 | u64 | 1, the version |
| 17 | u8 | code of the dtype: 8 uint16, 4 int32 |
| 18 | u64 | S, sequences |
| 26 | u64 | S + 1, document boundaries |
| 34 | i32[S] | tokens of each sequence |
| | i64[S] | byte of `.bin` where each sequence begins |
| | i64[S + 1] | first sequence of each document, 0 to S: a document is a sequence |

Megatron takes uint16 for a vocabulary below 65 500 and there is no code for uint32. Its
`fast_cache_load` path ignores the file and assumes uint16 up to a vocabulary of 65 536: do not use
it with 65 500 to 65 536 ids. Megatron cannot open an empty `.bin`, so a shard without a token is
only for curate to read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from curate.errors import ShardError
from curate.formats.base import (
    FILL,
    READ_BATCH_TOKENS,
    Mapped,
    Option,
    Settings,
    TokenBatch,
    TokenFormat,
    check_dtype,
    expect_bytes,
    map_tokens,
    narrowest,
    open_shard,
    read_tokens,
    runs,
    sibling,
    write_tokens,
)
from curate.formats.dropped_tokens import overlapping_tails
from curate.formats.trainers import config_files, draws
from curate.formats.trainers.mixtures import TrainerMixture
from curate.runtime.files import atomic_path

MAGIC = b"MMIDIDX\0\0"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
UINT16, INT32, INT64 = np.dtype("<u2"), np.dtype("<i4"), np.dtype("<i8")
CODES: dict[int, np.dtype[Any]] = {8: UINT16, 4: INT32}
VOCABULARY_OF_INT32 = 65_500
"""Smallest vocabulary that Megatron's own writer stores as int32."""
UINT16_IDS = 65_536
LONGEST_TOKENS = 2**31 - 1
INDEX_PIECE = 1 << 20
"""Entries of the index handled at a time, so that only the lengths are held in memory."""


def dtype_for(highest_id: int) -> np.dtype[Any]:
    """Return uint16 for a vocabulary below 65 500, else int32, as Megatron chooses.

    Raises:
        RecipeError: The highest id needs more than 31 bits.

    Example:
        >>> dtype_for(65_498).name, dtype_for(65_499).name
        ('uint16', 'int32')
    """
    narrowest(highest_id, [INT32], "megatron", "output.format: npy, which holds 32 bits")
    return UINT16 if highest_id + 1 < VOCABULARY_OF_INT32 else INT32


def write(stem: Path, batches: Iterable[TokenBatch], dtype: np.dtype[Any]) -> list[Path]:
    """Write `<stem>.bin`, then `<stem>.idx`: an index never stands without its tokens.

    Args:
        stem: Path of the shard without suffix.
        batches: Documents, in order.
        dtype: uint16 or int32.

    Raises:
        ValueError: `dtype` is neither uint16 nor int32, or a batch contradicts itself.
        ShardError: A document has 2^31 tokens or more, or a token id does not fit `dtype`.
    """
    check_dtype(dtype, (UINT16, INT32))
    bin_path, idx_path = sibling(stem, ".bin"), sibling(stem, ".idx")
    pieces: list[NDArray[np.int32]] = []
    with atomic_path(idx_path) as idx_temporary, atomic_path(bin_path) as bin_temporary:
        with bin_temporary.open(FILL, buffering=0) as file:
            for batch in batches:
                longest = int(batch.lengths.max(initial=0))
                if longest > LONGEST_TOKENS:
                    raise ShardError(
                        f"{bin_path}: a document has {longest} tokens, megatron indexes at most "
                        f"{LONGEST_TOKENS}; split it, or set output.format: npy"
                    )
                write_tokens(file, batch, dtype)
                pieces.append(batch.lengths.astype(INT32))
        lengths = np.concatenate([np.empty(0, INT32), *pieces])
        with idx_temporary.open(FILL) as index:
            write_index(index, lengths, dtype)
        # Between the two renames an index of an earlier run would describe the wrong tokens.
        idx_path.unlink(missing_ok=True)
    return [bin_path, idx_path]


def write_index(index: BinaryIO, lengths: NDArray[np.int32], dtype: np.dtype[Any]) -> None:
    """Write a whole `.idx`.

    Args:
        index: An empty file, open for writing.
        lengths: shape (sequences,), tokens of each sequence.
        dtype: Type of the tokens in `.bin`.
    """
    sequences = len(lengths)
    code = next(code for code, stored in CODES.items() if stored == dtype)
    index.write(HEADER.pack(MAGIC, VERSION, code, sequences, sequences + 1))
    index.write(lengths.view(np.uint8).data)
    for _, begins_bytes in sequence_begins(lengths, dtype):
        index.write(begins_bytes.view(np.uint8).data)
    for start in range(0, sequences + 1, INDEX_PIECE):
        boundaries = np.arange(start, min(start + INDEX_PIECE, sequences + 1), dtype=INT64)
        index.write(boundaries.view(np.uint8).data)


def sequence_begins(
    lengths: NDArray[np.int32], dtype: np.dtype[Any]
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield the byte offsets in `.bin` at which sequences begin, a piece at a time.

    Yields:
        (first sequence of the piece, shape (sequences of the piece,) offsets in bytes).
    """
    total_bytes = 0
    for start in range(0, len(lengths), INDEX_PIECE):
        lengths_bytes = lengths[start : start + INDEX_PIECE].astype(INT64) * dtype.itemsize
        ends_bytes = np.cumsum(lengths_bytes, dtype=INT64) + total_bytes
        yield start, ends_bytes - lengths_bytes
        total_bytes = int(ends_bytes[-1])


def read(stem: Path, dtype: np.dtype[Any]) -> Iterator[TokenBatch]:
    """Yield the documents of a shard, up to 4M tokens at a time; a longer document comes alone.

    Raises:
        ShardError: A file is absent, cut or too long, the index contradicts itself, or it says
            another dtype.
    """
    bin_path = sibling(stem, ".bin")
    lengths = read_index(sibling(stem, ".idx"), dtype)
    count_tokens = int(lengths.sum(dtype=np.int64))
    with open_shard(bin_path) as file:
        expect_bytes(bin_path, count_tokens * dtype.itemsize, f"{count_tokens} tokens")
        for start, stop in runs(lengths, READ_BATCH_TOKENS):
            batch_lengths = lengths[start:stop].astype(np.int64)
            tokens = read_tokens(file, int(batch_lengths.sum()), dtype, bin_path)
            yield TokenBatch(tokens, batch_lengths)


def view(stem: Path, dtype: np.dtype[Any]) -> Mapped:
    """Memory-map all tokens of `<stem>.bin`, reading only header and lengths of the index.

    Raises:
        ShardError: A file is absent, cut or too long, or the index says another dtype.
    """
    bin_path, idx_path = sibling(stem, ".bin"), sibling(stem, ".idx")
    with open_shard(idx_path) as index:
        sequences = _read_header(index, idx_path, dtype)
        count_tokens = 0
        for start in range(0, sequences, INDEX_PIECE):
            taken = min(INDEX_PIECE, sequences - start)
            count_tokens += int(read_tokens(index, taken, INT32, idx_path).sum(dtype=np.int64))
    with open_shard(bin_path):
        expect_bytes(bin_path, count_tokens * dtype.itemsize, f"{count_tokens} tokens")
    return map_tokens(bin_path, 0, count_tokens, dtype)


def read_index(path: Path, dtype: np.dtype[Any]) -> NDArray[np.int32]:
    """Return the tokens of each sequence, having checked every field of the index.

    Raises:
        ShardError: A field is not what the format and the lengths demand.
    """
    with open_shard(path) as index:
        sequences = _read_header(index, path, dtype)
        lengths = read_tokens(index, sequences, INT32, path)
        if sequences and lengths.min() < 0:
            where = int(lengths.argmin())
            raise ShardError(f"{path}: sequence {where} has {lengths[where]} tokens")
        for start, expected in sequence_begins(lengths, dtype):
            stored = read_tokens(index, len(expected), INT64, path)
            _expect_equal(f"{path}: byte offset of sequence", start, expected, stored)
        for start in range(0, sequences + 1, INDEX_PIECE):
            expected = np.arange(start, min(start + INDEX_PIECE, sequences + 1), dtype=INT64)
            stored = read_tokens(index, len(expected), INT64, path)
            _expect_equal(f"{path}: first sequence of document", start, expected, stored)
    return lengths


def _read_header(index: BufferedReader, path: Path, dtype: np.dtype[Any]) -> int:
    """Return the number of sequences that an index states, having checked header and file size.

    Raises:
        ShardError: The index is cut or too long, not Megatron's, or of another dtype.
    """
    header = index.read(HEADER.size)
    if len(header) != HEADER.size:
        raise ShardError(f"{path}: expected a header of {HEADER.size} bytes, found {len(header)}")
    magic, version, code, sequences, boundaries = HEADER.unpack(header)
    if (magic, version) != (MAGIC, VERSION):
        raise ShardError(
            f"{path}: expected a Megatron index starting {MAGIC!r}, version {VERSION}, "
            f"found {magic!r}, version {version}"
        )
    if code not in CODES or CODES[code] != dtype:
        stored = CODES[code].name if code in CODES else "a dtype curate does not write"
        raise ShardError(f"{path}: expected tokens of {dtype.name}, found code {code}: {stored}")
    if boundaries != sequences + 1:
        raise ShardError(
            f"{path}: expected {sequences + 1} document boundaries for {sequences} sequences, "
            f"found {boundaries}"
        )
    index_bytes = HEADER.size + 4 * sequences + 8 * sequences + 8 * boundaries
    expect_bytes(path, index_bytes, f"an index of {sequences} sequences")
    return int(sequences)


def _expect_equal(
    entry: str, start: int, expected: NDArray[np.int64], stored: NDArray[np.int64]
) -> None:
    """Raise `ShardError` at the first entry, counted from `start`, that differs."""
    differing = np.flatnonzero(expected != stored)
    if differing.size:
        first = int(differing[0])
        raise ShardError(
            f"{entry} {start + first}: expected {expected[first]}, found {stored[first]}"
        )


def notices(settings: Settings) -> list[str]:
    """Warn of vocabularies for which one of Megatron's code paths guesses the wrong dtype."""
    if not VOCABULARY_OF_INT32 <= settings.vocabulary <= UINT16_IDS:
        return []
    return [
        f"megatron: with a vocabulary of {settings.vocabulary} the files are int32, but Megatron's "
        "fast_cache_load and --per-dataset-sequences-path take uint16 and read garbage: do not use "
        "them, or pad the vocabulary beyond 65536"
    ]


FORMAT = TokenFormat(
    name="megatron",
    summary="token ids with an index of documents (.bin and .idx)",
    trainers="Megatron-LM, NeMo, Megatron-Bridge, GPT-NeoX (data_impl: mmap), MaxText",
    sample_order="Megatron-LM shuffles documents and samples by a seed of its own",
    keeps_documents=True,
    dtype_for=dtype_for,
    write=write,
    read=read,
    options={"window_tokens": Option("the trainer's sequence length, to state its loss", int)},
    dropped_tokens=overlapping_tails,
    notices=notices,
    mixtures=(
        TrainerMixture(
            "Megatron-LM",
            "windows",
            exact=True,
            draw=draws.megatron,
            config_files=config_files.megatron,
            config_stems=("blend", "neox"),
        ),
    ),
    snippet="""from megatron.core.datasets.indexed_dataset import IndexedDataset

documents = IndexedDataset("{path}")  # to train: --data-path {path}
""",
    view=view,
)
