"""litdata chunks for its TokensLoader: `<stem>.bin` and, over a folder, `index.json`.

A chunk is u32 items, u32 offsets of the items and of the end, then the token ids of all items back
to back. TokensLoader sees one flat array a chunk, cut into blocks that never cross chunks, so the
tail of each is lost: few large chunks lose less. litgpt reads blocks of its sequence length plus
one. The dtype stands only in `index.json`: 20 is torch.uint16, 16 torch.int32.

Left out: compression and encryption.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import ShardError
from curate.formats.base import (
    BEST_FIT,
    CONCAT,
    READ_BATCH_TOKENS,
    DatasetFolder,
    Mapped,
    Option,
    TokenBatch,
    TokenFormat,
    check_dtype,
    map_tokens,
    narrowest,
    open_shard,
    read_tokens,
    runs,
    sibling,
    to_dtype,
)
from curate.formats.dropped_tokens import labelled_tails
from curate.formats.framed import OFFSET, read_offsets, write_framed
from curate.formats.trainers import config_files, draws
from curate.formats.trainers.mixtures import TrainerMixture
from curate.runtime.files import write_json

CODES: dict[np.dtype[Any], int] = {np.dtype("<u2"): 20, np.dtype("<i4"): 16}
DTYPES = tuple(CODES)
SHARD_TOKENS = 64_000_000
DATA_SPEC = '[1, {"type": null, "context": null, "children_spec": []}]'


def dtype_for(highest_id: int) -> np.dtype[Any]:
    """Return uint16 or int32: litdata's torch codes have no uint32.

    Example:
        >>> dtype_for(65_535).name, dtype_for(65_536).name
        ('uint16', 'int32')
    """
    return narrowest(highest_id, DTYPES, "litdata")


def write(stem: Path, batches: Iterable[TokenBatch], dtype: np.dtype[Any]) -> list[Path]:
    """Write `<stem>.bin`.

    Args:
        stem: Path of the shard without suffix.
        batches: Documents or sequences, one item each.
        dtype: uint16 or int32.

    Raises:
        ValueError: `dtype` is neither uint16 nor int32, or a batch contradicts itself.
        ShardError: A token id does not fit, or the chunk would be 4 GiB or more.
    """
    check_dtype(dtype, DTYPES)
    path = sibling(stem, ".bin")
    write_framed(path, (_block(batch, dtype) for batch in batches))
    return [path]


def _block(batch: TokenBatch, dtype: np.dtype[Any]) -> tuple[memoryview, NDArray[np.int64]]:
    tokens = to_dtype(batch, dtype)
    return tokens.view(np.uint8).data, batch.lengths * dtype.itemsize


def read(stem: Path, dtype: np.dtype[Any]) -> Iterator[TokenBatch]:
    """Yield the items of a chunk, up to 4M tokens at a time; a longer item comes alone.

    Raises:
        ShardError: The file is absent, cut or too long, or an item is not a whole number of tokens.
    """
    path = sibling(stem, ".bin")
    offsets, lengths = _items(path, dtype)
    with open_shard(path) as file:
        file.seek(int(offsets[0]))
        for start, stop in runs(lengths, READ_BATCH_TOKENS):
            tokens = read_tokens(file, int(lengths[start:stop].sum()), dtype, path)
            yield TokenBatch(tokens, lengths[start:stop])


def _items(path: Path, dtype: np.dtype[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the byte offsets of a chunk's items, and the tokens of each.

    Raises:
        ShardError: The file is absent, cut or too long, or an item is not a whole number of tokens.
    """
    offsets = read_offsets(path)
    if offsets[0] != OFFSET.itemsize * (len(offsets) + 1):
        raise ShardError(f"{path}: expected items right behind their offsets, found a gap")
    lengths, rest = np.divmod(np.diff(offsets), dtype.itemsize)
    if np.any(rest):
        first = int(np.flatnonzero(rest)[0])
        raise ShardError(f"{path}: item {first} is no whole number of {dtype.name} tokens")
    return offsets, lengths


def view(stem: Path, dtype: np.dtype[Any]) -> Mapped:
    """Memory-map all tokens of `<stem>.bin`.

    Raises:
        ShardError: The same damage as `read` refuses.
    """
    path = sibling(stem, ".bin")
    offsets, lengths = _items(path, dtype)
    return map_tokens(path, int(offsets[0]), int(lengths.sum()), dtype)


def finish(folder: DatasetFolder) -> list[Path]:
    """Write `index.json` of each split, which leaves out chunks without items."""
    written = []
    for stems in folder.stems.values():
        chunks = []
        for stem in stems:
            path = sibling(stem, ".bin")
            with folder.at_hand([path]):
                chunks.append(_chunk(path, folder.dtype))
        config = {
            "chunk_bytes": max((chunk["chunk_bytes"] for chunk in chunks), default=0),
            "chunk_size": None,
            "compression": None,
            "data_format": [f"no_header_tensor:{CODES[folder.dtype]}"],
            "data_spec": DATA_SPEC,
            "encryption": None,
            "item_loader": "TokensLoader",
        }
        if stems:
            path = stems[0].parent / "index.json"
            whole = [chunk for chunk in chunks if chunk["chunk_size"]]
            write_json(path, {"chunks": whole, "config": config, "updated_at": "0"})
            written.append(path)
    return written


def _chunk(path: Path, dtype: np.dtype[Any]) -> dict[str, Any]:
    offsets = read_offsets(path)
    return {
        "chunk_bytes": path.stat().st_size,
        "chunk_size": len(offsets) - 1,
        "dim": int(offsets[-1] - offsets[0]) // dtype.itemsize,
        "filename": path.name,
    }


FORMAT = TokenFormat(
    name="litdata",
    summary="litdata chunks of token ids (.bin, index.json) for TokensLoader",
    trainers="litdata, litgpt (LitData)",
    sample_order="litdata shuffles chunks and blocks by a seed of its own, unless shuffle=False",
    keeps_documents=True,
    takes_sequences=True,
    dtype_for=dtype_for,
    write=write,
    read=read,
    view=view,
    options={"window_tokens": Option("the trainer's sequence length, to state its loss", int)},
    finish=finish,
    folder_stems=("index",),
    dropped_tokens=labelled_tails,
    shard_tokens_most=SHARD_TOKENS,
    packings=(CONCAT, BEST_FIT),  # readers see rows only where all are full
    mixtures=(
        TrainerMixture(
            "litdata CombinedStreamingDataset",
            "windows",
            exact=False,
            draw=draws.litdata,
            config_files=config_files.litdata,
            config_stems=("combined",),
            ends_first=True,
        ),
    ),
    snippet="""from pathlib import Path

from litdata import StreamingDataset, TokensLoader

folder = str(Path("{path}").parent)  # holds index.json
blocks = StreamingDataset(folder, item_loader=TokensLoader(block_size=2049))
# litgpt pretrain --data LitData --data.data_path the directory above --data.split_names ...
""",
)
