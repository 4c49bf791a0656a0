"""MosaicML's MDS: `<stem>.mds` and, over a folder, `index.json`; one column `tokens` a sample.

| part | type |
|---|---|
| samples | u32 |
| offset of each sample and of the end | u32[samples + 1] |
| columns and encodings | JSON with sorted keys |
| each sample | u32 bytes of the value, then the value |

The value is an array: a byte (dimensions << 2 | k), the shape as one integer (k: 0 u8, 1 u16,
2 u32, the smallest that fits), the token ids. Arrays must not be empty. Samples are documents, or
sequences of `sequence_length`; llm-foundry takes a sample as one sequence and truncates longer
ones, so set a sequence length for it. Shards hold at most 16M tokens, since each is fetched whole.
Left out: compression of shards, and hashes in `index.json`: the manifest has them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import ShardError
from curate.formats.base import (
    BEST_FIT,
    CONCAT,
    READ_BATCH_TOKENS,
    WHOLE,
    DatasetFolder,
    Mapped,
    Option,
    Settings,
    TokenBatch,
    TokenFormat,
    check_dtype,
    map_runs,
    narrowest,
    open_shard,
    read_tokens,
    runs,
    sibling,
    to_dtype,
)
from curate.formats.dropped_tokens import cut_rows, whole_rows
from curate.formats.framed import OFFSET, read_offsets, write_framed
from curate.formats.trainers import config_files, draws
from curate.formats.trainers.mixtures import TrainerMixture
from curate.runtime.files import write_json

DTYPES = (np.dtype("<u2"), np.dtype("<i4"))
VERSION = 2
ONE_DIMENSION = 1 << 2
LONGEST_HEAD_BYTES = 9
SHARD_TOKENS = 16_000_000
BLOCK_TOKENS = 1 << 18


def dtype_for(highest_id: int) -> np.dtype[Any]:
    """Return uint16 or int32: torch supports few operations on uint32.

    Example:
        >>> dtype_for(65_535).name, dtype_for(65_536).name
        ('uint16', 'int32')
    """
    return narrowest(highest_id, DTYPES, "mds")


def columns(dtype: np.dtype[Any]) -> dict[str, Any]:
    """Describe the samples for shard and index, keys sorted."""
    return {
        "column_encodings": [f"ndarray:{dtype.name}"],
        "column_names": ["tokens"],
        "column_sizes": [None],
        "compression": None,
        "format": "mds",
        "hashes": [],
        "size_limit": None,
        "version": VERSION,
    }


def columns_bytes(dtype: np.dtype[Any]) -> bytes:
    """Return the shard's description of its columns as JSON."""
    return json.dumps(columns(dtype), sort_keys=True).encode()


def write(stem: Path, batches: Iterable[TokenBatch], dtype: np.dtype[Any]) -> list[Path]:
    """Write `<stem>.mds`.

    Args:
        stem: Path of the shard without suffix.
        batches: Documents or sequences, one sample each.
        dtype: uint16 or int32.

    Raises:
        ValueError: `dtype` is neither uint16 nor int32, or a batch contradicts itself.
        ShardError: A token id does not fit, a sample is empty, or the shard is 4 GiB or more.
    """
    check_dtype(dtype, DTYPES)
    path = sibling(stem, ".mds")
    blocks = (block for batch in batches for block in _blocks(path, batch, dtype))
    write_framed(path, blocks, columns_bytes(dtype))
    return [path]


def _blocks(
    path: Path, batch: TokenBatch, dtype: np.dtype[Any]
) -> Iterator[tuple[bytes, NDArray[np.int64]]]:
    """Encode a batch in blocks small enough for the processor's cache."""
    tokens = to_dtype(batch, dtype)
    if batch.lengths.size and batch.lengths.min() < 1:
        raise ShardError(f"{path}: a sample has no tokens, which MDS refuses")
    stops = np.concatenate([[0], np.cumsum(batch.lengths)])
    for first, last in runs(batch.lengths, BLOCK_TOKENS):
        yield _block(tokens[stops[first] : stops[last]], batch.lengths[first:last])


def _block(tokens: NDArray[Any], lengths: NDArray[np.int64]) -> tuple[bytes, NDArray[np.int64]]:
    """Encode samples; return them back to back, and the bytes of each."""
    dtype = tokens.dtype
    values = tokens.view(np.uint8).data
    heads, head_bytes = sample_heads(lengths, dtype)
    stops = np.cumsum(lengths) * dtype.itemsize
    parts: list[bytes | memoryview] = []
    start = 0
    head_content = heads.reshape(-1).data
    for number, (stop, taken) in enumerate(zip(stops.tolist(), head_bytes.tolist(), strict=True)):
        at = number * LONGEST_HEAD_BYTES
        parts.append(head_content[at : at + taken])
        parts.append(values[start:stop])
        start = stop
    return b"".join(parts), head_bytes + lengths * dtype.itemsize


def sample_heads(
    lengths: NDArray[np.int64], dtype: np.dtype[Any]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    r"""Encode the head of each sample: its size in bytes, array type and length.

    Returns:
        shape (samples, 9), heads; shape (samples,), bytes of each head in use.

    Example:
        >>> heads, used = sample_heads(np.array([3]), np.dtype("uint16"))
        >>> bytes(heads[0, :used[0]])
        b'\x08\x00\x00\x00\x04\x03'
    """
    k = (lengths > 0xFF).astype(np.int64) + (lengths > 0xFFFF)
    shape_bytes = np.int64(1) << k
    value_bytes = 1 + shape_bytes + lengths * dtype.itemsize
    heads = np.zeros((len(lengths), LONGEST_HEAD_BYTES), np.uint8)
    heads[:, :4] = value_bytes.astype(OFFSET).view(np.uint8).reshape(-1, 4)
    heads[:, 4] = ONE_DIMENSION | k
    heads[:, 5:9] = lengths.astype(OFFSET).view(np.uint8).reshape(-1, 4)
    heads[:, 5:9][np.arange(4) >= shape_bytes[:, None]] = 0
    return heads, 5 + shape_bytes


def read(stem: Path, dtype: np.dtype[Any]) -> Iterator[TokenBatch]:
    """Yield the samples of a shard, up to 4M tokens at a time; a longer sample comes alone.

    Raises:
        ShardError: The file is absent, cut, or damaged anywhere but inside tokens.
    """
    path = sibling(stem, ".mds")
    with open_shard(path) as file:
        offsets, lengths = _samples(path, file, dtype)
        for first, stop in runs(lengths, READ_BATCH_TOKENS):
            stored = read_tokens(
                file, int(offsets[stop] - offsets[first]), np.dtype(np.uint8), path
            )
            begins = offsets[first:stop] - offsets[first]
            yield TokenBatch(
                _values(path, stored, begins, lengths[first:stop], dtype), lengths[first:stop]
            )


def _samples(
    path: Path, file: BufferedReader, dtype: np.dtype[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return byte offsets of the samples and tokens of each; leave the file at the first sample."""
    offsets = read_offsets(path)
    start = OFFSET.itemsize * (len(offsets) + 1)
    file.seek(start)
    _check_columns(path, file.read(int(offsets[0]) - start), dtype)
    return offsets, _sample_lengths(path, offsets, dtype)


def view(stem: Path, dtype: np.dtype[Any]) -> Mapped:
    """Memory-map the samples of `<stem>.mds`, one run each, of any alignment.

    Raises:
        ShardError: The file is absent, cut, too long, or of another dtype.
    """
    path = sibling(stem, ".mds")
    with open_shard(path) as file:
        offsets, lengths = _samples(path, file, dtype)
    return map_runs(path, offsets[:-1] + sample_heads(lengths, dtype)[1], lengths, dtype)


def _check_columns(path: Path, description: bytes, dtype: np.dtype[Any]) -> None:
    if description == columns_bytes(dtype):
        return
    for stored in DTYPES:
        if description == columns_bytes(stored):
            raise ShardError(f"{path}: expected tokens of {dtype.name}, found {stored.name}")
    raise ShardError(
        f"{path}: expected one column 'tokens' as curate writes it, found {description!r}"
    )


def _sample_lengths(
    path: Path, offsets: NDArray[np.int64], dtype: np.dtype[Any]
) -> NDArray[np.int64]:
    """Derive the tokens of each sample from its size: each head size allows its own lengths.

    Raises:
        ShardError: A sample's size is not that of a head and whole tokens.
    """
    sizes = np.diff(offsets)
    lengths = np.zeros(len(sizes), np.int64)
    for shape_bytes, least, most in ((1, 1, 0xFF), (2, 0x100, 0xFFFF), (4, 0x10000, 2**32)):
        tokens, rest = np.divmod(sizes - 5 - shape_bytes, dtype.itemsize)
        fits = (rest == 0) & (tokens >= least) & (tokens <= most)
        lengths[fits] = tokens[fits]
    if np.any(lengths == 0):
        first = int(np.flatnonzero(lengths == 0)[0])
        raise ShardError(
            f"{path}: sample {first}: expected an array of {dtype.name}, {sizes[first]} bytes hold "
            "none"
        )
    return lengths


def _values(
    path: Path,
    stored: NDArray[np.uint8],
    begins: NDArray[np.int64],
    lengths: NDArray[np.int64],
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """Check and strip the heads of consecutive samples; return the tokens back to back."""
    heads, head_bytes = sample_heads(lengths, dtype)
    places = np.minimum(begins[:, None] + np.arange(LONGEST_HEAD_BYTES), len(stored) - 1)
    used = np.arange(LONGEST_HEAD_BYTES) < head_bytes[:, None]
    wrong = np.flatnonzero(((stored[places] != heads) & used).any(axis=1))
    if len(wrong):
        head = bytes(stored[places[wrong[0]]])
        raise ShardError(
            f"{path}: expected an array of {lengths[wrong[0]]} {dtype.name}, found a sample "
            f"starting {head!r}"
        )
    starts = (begins + head_bytes).tolist()
    kept = 0
    for start, size_bytes in zip(starts, (lengths * dtype.itemsize).tolist(), strict=True):
        stored[kept : kept + size_bytes] = stored[
            start : start + size_bytes
        ]  # in place halves memory
        kept += size_bytes
    return stored[:kept].view(dtype)


def finish(folder: DatasetFolder) -> list[Path]:
    """Write `index.json` of each split, which leaves out shards without samples."""
    written = []
    for stems in folder.stems.values():
        shards = []
        for stem in stems:
            path = sibling(stem, ".mds")
            with folder.at_hand([path]):
                samples = len(read_offsets(path)) - 1
            if samples:
                raw = {"basename": path.name, "bytes": path.stat().st_size, "hashes": {}}
                shards.append(
                    {**columns(folder.dtype), "raw_data": raw, "samples": samples, "zip_data": None}
                )
        if stems:
            path = stems[0].parent / "index.json"
            write_json(path, {"shards": shards, "version": VERSION})
            written.append(path)
    return written


def notices(settings: Settings) -> list[str]:
    """Warn that llm-foundry cuts documents that are longer than its sequences."""
    if settings.sequence_length is not None:
        return []
    return [
        "mds: samples are whole documents, of which llm-foundry cuts off what is longer than its "
        "max_seq_len; set sequence_length to pack them into sequences that it takes whole"
    ]


def configure(settings: Settings) -> TokenFormat:
    """Count no dropped tokens where rows are sequences, unless the recipe states a window."""
    if settings.sequence_length is None or settings.options["window_tokens"] is not None:
        return FORMAT
    return replace(FORMAT, dropped_tokens=whole_rows)


FORMAT = TokenFormat(
    name="mds",
    summary="MosaicML shards (.mds, index.json): documents, or sequences of one length",
    trainers="MosaicML streaming, llm-foundry (StreamingTextDataset)",
    sample_order="MosaicML streaming shuffles rows by a seed of its own, unless shuffle=False",
    keeps_documents=True,
    takes_sequences=True,
    dtype_for=dtype_for,
    write=write,
    read=read,
    view=view,
    options={"window_tokens": Option("the trainer's max_seq_len, to state its loss", int)},
    finish=finish,
    folder_stems=("index",),
    configure=configure,
    dropped_tokens=cut_rows,
    notices=notices,
    shard_tokens_most=SHARD_TOKENS,
    drops_by_row=True,
    packings=(CONCAT, BEST_FIT, WHOLE),
    mixtures=(
        TrainerMixture(
            "streaming, choose",
            "rows",
            exact=True,
            draw=draws.mosaic,
            config_files=config_files.mosaic,
            config_stems=("streams",),
        ),
        TrainerMixture(
            "streaming, proportion",
            "rows",
            exact=True,
            draw=draws.mosaic_proportion,
            config_files=config_files.mosaic_proportion,
            config_stems=("streams_proportion",),
        ),
    ),
    snippet="""from pathlib import Path

from streaming import StreamingDataset

folder = str(Path("{path}").parent)  # holds index.json
samples = StreamingDataset(local=folder, shuffle=False, batch_size=1)
first = samples[0]["tokens"]
# llm-foundry: dataset.streams.mix.local: that folder; max_seq_len: the recipe's sequence_length
""",
)
