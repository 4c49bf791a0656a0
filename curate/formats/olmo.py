"""OLMo-core's flat arrays: `<stem>.npy` holds token ids and nothing else, in spite of its name.

`numpy.save` puts a header of 128 bytes first, which OLMo-core would train on. So there is none
here, and `numpy.load` refuses the file. The dtype must be given in the trainer's configuration,
since OLMo-core otherwise takes uint8 for a vocabulary up to 256.

Beside it, `<stem>.csv.gz` has a row `start,end` in tokens for each document. OLMo-core finds
documents by the end token and needs the rows only for their addresses; here they also give the
file's length. `documents: false` leaves them out, and then only the manifest reveals a cut file.
The gzip header is fixed (no time, no name), so the same documents give the same bytes.

Left out: the columns id, src and loc that dolma adds, and label masks.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import RecipeError, ShardError
from curate.formats.base import (
    FILL,
    READ_BATCH_TOKENS,
    Mapped,
    Option,
    Settings,
    TokenBatch,
    TokenFormat,
    check_dtype,
    check_ends,
    expect_bytes,
    map_tokens,
    narrowest,
    open_shard,
    read_tokens,
    runs,
    sibling,
    to_dtype,
    write_bytes,
)
from curate.formats.dropped_tokens import tails
from curate.formats.trainers import config_files, draws
from curate.formats.trainers.mixtures import TrainerMixture
from curate.runtime.files import atomic_path

DTYPES = (np.dtype("<u2"), np.dtype("<u4"))
GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
GZIP_LEVEL = 1
ROWS_AT_ONCE = 1 << 16
READ_CHUNK_BYTES = 1 << 20
SMALL_VOCABULARY = 256
MOST_TOKENS = 2**32 - 1
"""OLMo-core's indices of instances are uint32."""


def dtype_for(highest_id: int) -> np.dtype[Any]:
    """Return the narrower of uint16 and uint32 that holds every id, as OLMo-core chooses above 256.

    Example:
        >>> dtype_for(65_535).name, dtype_for(100_277).name
        ('uint16', 'uint32')
    """
    return narrowest(highest_id, DTYPES, "olmo")


def write(
    stem: Path,
    batches: Iterable[TokenBatch],
    dtype: np.dtype[Any],
    eos_id: int | None = None,
    documents: bool = True,
) -> list[Path]:
    """Write `<stem>.npy` and `<stem>.csv.gz`.

    Args:
        stem: Path of the shard without suffix.
        batches: Documents, in order.
        dtype: uint16 or uint32.
        eos_id: Id that no document may hold before its end; None: unchecked.
        documents: Whether to write the `.csv.gz`.

    Raises:
        ValueError: `dtype` is neither, or a batch contradicts itself.
        ShardError: A token id does not fit, an end token is inside a document, or the file has
            more tokens than OLMo-core can index.
    """
    check_dtype(dtype, DTYPES)
    path, rows_path = sibling(stem, ".npy"), sibling(stem, ".csv.gz")
    pieces: list[NDArray[np.int64]] = []
    total_tokens = 0
    with atomic_path(path) as temporary:
        with temporary.open(FILL, buffering=0) as file:
            for batch in batches:
                tokens = to_dtype(batch, dtype)
                if eos_id is not None:
                    check_ends(tokens, batch.lengths, eos_id, path)
                total_tokens += tokens.size
                if total_tokens > MOST_TOKENS:
                    raise ShardError(
                        f"{path}: more than {MOST_TOKENS} tokens, which OLMo-core cannot index; "
                        "lower output.shard_tokens"
                    )
                write_bytes(file, tokens.view(np.uint8).data)
                pieces.append(batch.lengths.astype(np.int64))
        rows_path.unlink(missing_ok=True)  # rows of an earlier run would not fit these tokens
        if documents:
            write_rows(rows_path, np.concatenate([np.empty(0, np.int64), *pieces]))
    return [path, rows_path] if documents else [path]


def write_rows(path: Path, lengths: NDArray[np.int64]) -> None:
    """Write a row `start,end` of each document to a gzip file of one member."""
    with atomic_path(path) as temporary, temporary.open(FILL) as file:
        file.write(GZIP_HEADER)
        deflate = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        checksum = size_bytes = start = 0
        for first in range(0, len(lengths), ROWS_AT_ONCE):
            rows = []
            for length in lengths[first : first + ROWS_AT_ONCE].tolist():
                rows.append(f"{start},{start + length}\n")
                start += length
            text = "".join(rows).encode()
            checksum = zlib.crc32(text, checksum)
            size_bytes += len(text)
            file.write(deflate.compress(text))
        file.write(deflate.flush())
        file.write(checksum.to_bytes(4, "little") + (size_bytes % 2**32).to_bytes(4, "little"))


def read(stem: Path, dtype: np.dtype[Any], documents: bool = True) -> Iterator[TokenBatch]:
    """Yield the documents of a shard, up to 4M tokens at a time, or its stream without documents.

    Args:
        stem: Path of the shard without suffix.
        dtype: Type of a token on disk.
        documents: Whether there is a `.csv.gz` of document boundaries to read.

    Raises:
        ShardError: A file is absent, cut or too long, or the rows contradict it.
    """
    path = sibling(stem, ".npy")
    lengths = read_rows(sibling(stem, ".csv.gz")) if documents else None
    with open_shard(path) as file:
        size_bytes = path.stat().st_size
        if lengths is None:
            whole, rest = divmod(size_bytes, READ_BATCH_TOKENS * dtype.itemsize)
            if rest % dtype.itemsize:
                raise ShardError(f"{path}: {size_bytes} bytes are no whole {dtype.name} tokens")
            lengths = np.array([READ_BATCH_TOKENS] * whole + [rest // dtype.itemsize] * (rest > 0))
        count_tokens = int(lengths.sum())
        for stored in DTYPES:
            if stored != dtype and size_bytes == count_tokens * stored.itemsize and count_tokens:
                raise ShardError(f"{path}: expected tokens of {dtype.name}, found {stored.name}")
        expect_bytes(path, count_tokens * dtype.itemsize, f"{count_tokens} tokens")
        for start, stop in runs(lengths, READ_BATCH_TOKENS):
            tokens = read_tokens(file, int(lengths[start:stop].sum()), dtype, path)
            yield TokenBatch(tokens, lengths[start:stop].astype(np.int64))


def view(stem: Path, dtype: np.dtype[Any]) -> Mapped:
    """Memory-map all tokens of `<stem>.npy`; the rows of documents are not read.

    Raises:
        ShardError: The file is absent, or not a whole number of tokens.
    """
    path = sibling(stem, ".npy")
    with open_shard(path):
        count_tokens, rest = divmod(path.stat().st_size, dtype.itemsize)
    if rest:
        raise ShardError(f"{path}: {path.stat().st_size} bytes are no whole {dtype.name} tokens")
    return map_tokens(path, 0, count_tokens, dtype)


def read_rows(path: Path) -> NDArray[np.int64]:
    """Return the tokens of each document, computed from the rows.

    Raises:
        ShardError: The file is not the gzip that `write_rows` makes, or its rows do not follow
            each other.
    """
    pieces: list[NDArray[np.int64]] = []
    left, start, row = b"", 0, 0
    for text in inflate(path):
        whole, _, left = (left + text).rpartition(b"\n")
        if not whole:
            continue
        try:
            values = np.array(whole.replace(b"\n", b",").split(b","), np.int64).reshape(-1, 2)
        except (ValueError, OverflowError) as error:
            raise ShardError(f"{path}: rows from {row}: expected start,end ({error})") from error
        begins = np.concatenate([[start], values[:-1, 1]])
        wrong = np.flatnonzero((values[:, 0] != begins) | (values[:, 1] < values[:, 0]))
        if len(wrong):
            first = int(wrong[0])
            raise ShardError(
                f"{path}: row {row + first}: expected a document starting at {begins[first]}, "
                f"found {values[first, 0]},{values[first, 1]}"
            )
        pieces.append(values[:, 1] - values[:, 0])
        start, row = int(values[-1, 1]), row + len(values)
    if left:
        raise ShardError(f"{path}: expected whole rows, found one ending {left[-20:]!r}")
    return np.concatenate([np.empty(0, np.int64), *pieces])


def inflate(path: Path) -> Iterator[bytes]:
    """Yield the text of a gzip file of one member with curate's header, a chunk at a time.

    Raises:
        ShardError: The file is absent, damaged, cut or too long.
    """
    member = zlib.decompressobj(zlib.MAX_WBITS | 16)
    with open_shard(path) as file:
        header = file.read(len(GZIP_HEADER))
        if header != GZIP_HEADER:
            raise ShardError(f"{path}: expected gzip starting {GZIP_HEADER!r}, found {header!r}")
        file.seek(0)
        while chunk := file.read(READ_CHUNK_BYTES):
            try:
                yield member.decompress(chunk)
            except zlib.error as error:
                raise ShardError(f"{path}: gzip is damaged ({error})") from error
            if member.unused_data or (member.eof and file.read(1)):
                raise ShardError(f"{path}: expected the end of its gzip, found more bytes")
    if not member.eof:
        raise ShardError(f"{path}: gzip is cut")


def configure(settings: Settings) -> TokenFormat:
    """Configure the format for a tokenizer.

    Raises:
        RecipeError: There is no end token: OLMo-core's packing would find no document, silently.
    """
    if settings.eos_id is None:
        raise RecipeError(
            "output.format: olmo needs a tokenizer with an end token: OLMo-core finds documents by "
            "it, and gives none where there is none; set tokenizer.eos, or output.format: npy"
        )
    documents = settings.options["documents"]
    return replace(
        FORMAT,
        keeps_documents=documents,
        write=partial(write, eos_id=settings.eos_id, documents=documents),
        read=partial(read, documents=documents),
    )


def notices(settings: Settings) -> list[str]:
    """Warn that a small vocabulary makes OLMo-core read bytes."""
    if settings.vocabulary > SMALL_VOCABULARY:
        return []
    return [
        f"olmo: OLMo-core takes uint8 for a vocabulary of {settings.vocabulary}, these files are "
        "uint16: give dtype: uint16 in its dataset configuration"
    ]


FORMAT = TokenFormat(
    name="olmo",
    summary="headerless token ids (.npy) with rows of documents (.csv.gz)",
    trainers="OLMo-core, MaxText (olmo_grain)",
    sample_order="OLMo-core permutes its instances by a seed of its own",
    keeps_documents=True,
    dtype_for=dtype_for,
    write=write,
    read=read,
    view=view,
    options={
        "documents": Option("write the .csv.gz of document boundaries", bool, True),
        "window_tokens": Option("the trainer's sequence length, to state its loss", int),
    },
    configure=configure,
    dropped_tokens=tails,
    notices=notices,
    shard_tokens_most=2**31,
    mixtures=(
        TrainerMixture(
            "OLMo-core source mixture",
            "windows",
            exact=True,
            draw=draws.olmo,
            config_files=config_files.olmo,
            config_stems=("mixture",),
        ),
    ),
    mixture_suffix=".npy",
    snippet="""import numpy as np

tokens = np.memmap("{path}.npy", dtype=np.uint16, mode="r")  # manifest.json says the dtype
# OLMo-core: NumpyFSLDatasetConfig(paths=["{path}.npy"], dtype="uint16", sequence_length=...,
#     tokenizer=TokenizerConfig(vocab_size=..., eos_token_id=..., pad_token_id=...))
""",
)
