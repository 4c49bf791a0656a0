"""datatrove's tokenised files, read by nanotron's Nanoset: `.ds` and two files beside it.

`<stem>.ds` holds token ids and nothing else; `.ds.index` the end of each document in tokens, u64
without a leading 0; `.ds.metadata` three lines: `tokenizer|bytes of a token`, the number of tokens,
and that number abbreviated. nanotron reads the metadata of the first file of each folder, splits
the first line at `|` in two and loads the tokenizer it names. So the name must be one that
`transformers` can load, without a `|`. Folders that are mixed must all name the same tokenizer.

Windows never cross files, so the tail of each file is lost. Left out: `.ds.loss`.
"""

from __future__ import annotations

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
from curate.formats.dropped_tokens import labelled_tails
from curate.formats.trainers import config_files, draws, staged_files
from curate.formats.trainers.mixtures import TrainerMixture
from curate.runtime.files import atomic_path

DTYPES = (np.dtype("<u2"), np.dtype("<u4"))
ENDS = np.dtype("<u8")
METADATA_BYTES = 4096
"""More than the three lines of metadata ever need."""


def dtype_for(highest_id: int) -> np.dtype[Any]:
    """Return the narrower of uint16 and uint32 that holds every id.

    Example:
        >>> dtype_for(65_535).name, dtype_for(65_536).name
        ('uint16', 'uint32')
    """
    return narrowest(highest_id, DTYPES, "datatrove")


def write(
    stem: Path,
    batches: Iterable[TokenBatch],
    dtype: np.dtype[Any],
    tokenizer: str = "tokenizer.json",
    eos_id: int | None = None,
) -> list[Path]:
    """Write `<stem>.ds`, `.ds.index` and, last, `.ds.metadata`.

    Args:
        stem: Path of the shard without suffix.
        batches: Documents, in order.
        dtype: uint16 or uint32.
        tokenizer: Name that nanotron loads the tokenizer by.
        eos_id: Id that no document may hold before its end; None: unchecked.

    Raises:
        ValueError: `dtype` is neither uint16 nor uint32, or a batch contradicts itself.
        ShardError: A token id does not fit, or an end token is inside a document.
    """
    check_dtype(dtype, DTYPES)
    paths = [sibling(stem, suffix) for suffix in (".ds", ".ds.index", ".ds.metadata")]
    total_tokens = 0
    with (
        atomic_path(paths[2]) as metadata,
        atomic_path(paths[1]) as index,
        atomic_path(paths[0]) as temporary,
    ):
        with temporary.open(FILL, buffering=0) as file, index.open(FILL, buffering=0) as ends_file:
            for batch in batches:
                tokens = to_dtype(batch, dtype)
                if eos_id is not None:
                    check_ends(tokens, batch.lengths, eos_id, paths[0])
                write_bytes(file, tokens.view(np.uint8).data)
                ends = (np.cumsum(batch.lengths) + total_tokens).astype(ENDS)
                write_bytes(ends_file, ends.view(np.uint8).data)
                total_tokens += tokens.size
        metadata.write_bytes(metadata_lines(tokenizer, dtype, total_tokens))
        for path in paths[1:]:  # files of an earlier run would not fit the new tokens
            path.unlink(missing_ok=True)
    return paths


def metadata_lines(tokenizer: str, dtype: np.dtype[Any], count_tokens: int) -> bytes:
    r"""Make the three lines of `.ds.metadata`.

    Args:
        tokenizer: Name that nanotron loads the tokenizer by.
        dtype: Type of a token on disk.
        count_tokens: Tokens in the shard.

    Example:
        >>> metadata_lines("gpt2", np.dtype("uint16"), 2_500_000)
        b'gpt2|2\n2500000\n2.5 MT\n'
    """
    return f"{tokenizer}|{dtype.itemsize}\n{count_tokens}\n{in_words(count_tokens)}\n".encode()


def in_words(count_tokens: int) -> str:
    """Abbreviate a number of tokens, such as `2.5 MT`.

    Example:
        >>> in_words(999), in_words(12_340)
        ('999 T', '12.34 KT')
    """
    for unit, tokens in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("K", 10**3)):
        if count_tokens >= tokens:
            return f"{round(count_tokens / tokens, 2):g} {unit}T"
    return f"{count_tokens} T"


def read(stem: Path, dtype: np.dtype[Any]) -> Iterator[TokenBatch]:
    """Yield the documents of a shard, up to 4M tokens at a time; a longer document comes alone.

    Raises:
        ShardError: A file is absent, cut or too long, or the three contradict each other.
    """
    path = sibling(stem, ".ds")
    count_tokens = read_metadata(sibling(stem, ".ds.metadata"), dtype)
    lengths = read_index(sibling(stem, ".ds.index"), count_tokens)
    with open_shard(path) as file:
        expect_bytes(path, count_tokens * dtype.itemsize, f"{count_tokens} tokens")
        for start, stop in runs(lengths, READ_BATCH_TOKENS):
            tokens = read_tokens(file, int(lengths[start:stop].sum()), dtype, path)
            yield TokenBatch(tokens, lengths[start:stop])


def view(stem: Path, dtype: np.dtype[Any]) -> Mapped:
    """Memory-map all tokens of `<stem>.ds`; the index is not read.

    Raises:
        ShardError: A file is absent, cut or too long, or of another dtype.
    """
    path = sibling(stem, ".ds")
    count_tokens = read_metadata(sibling(stem, ".ds.metadata"), dtype)
    with open_shard(path):
        expect_bytes(path, count_tokens * dtype.itemsize, f"{count_tokens} tokens")
    return map_tokens(path, 0, count_tokens, dtype)


def read_metadata(path: Path, dtype: np.dtype[Any]) -> int:
    """Return the number of tokens that the metadata states.

    Raises:
        ShardError: The metadata is not the three lines of `write`, or states another dtype.
    """
    with open_shard(path) as file:
        content = file.read(METADATA_BYTES)
    lines = content.decode("utf-8", "replace").split("\n")
    name, _, token_bytes = lines[0].rpartition("|")
    stored = {str(one.itemsize): one for one in DTYPES}.get(token_bytes)
    if len(lines) != 4 or not lines[1].isdecimal() or not name or stored is None:
        raise ShardError(
            f"{path}: expected 'tokenizer|bytes', tokens and tokens in words, found "
            f"{content[:80]!r}"
        )
    if stored != dtype:
        raise ShardError(f"{path}: expected tokens of {dtype.name}, found {stored.name}")
    count_tokens = int(lines[1])
    if content != metadata_lines(name, dtype, count_tokens):
        raise ShardError(f"{path}: expected {in_words(count_tokens)} at its end, found {lines[2:]}")
    return count_tokens


def read_index(path: Path, count_tokens: int) -> NDArray[np.int64]:
    """Return the tokens of each document, shape (documents,).

    Raises:
        ShardError: The document ends do not ascend to the number of tokens.
    """
    with open_shard(path) as file:
        size_bytes = path.stat().st_size
        if size_bytes % ENDS.itemsize:
            raise ShardError(f"{path}: {size_bytes} bytes are no whole 8-byte document ends")
        ends = read_tokens(file, size_bytes // ENDS.itemsize, ENDS, path).astype(np.int64)
    lengths = np.diff(ends, prepend=0)
    if lengths.size and lengths.min() < 0:
        raise ShardError(f"{path}: document {int(lengths.argmin())} ends before it begins")
    last_end = int(ends[-1]) if ends.size else 0
    if last_end != count_tokens:
        raise ShardError(f"{path}: expected the last end {count_tokens}, found {last_end}")
    return lengths


def configure(settings: Settings) -> TokenFormat:
    """Configure the format for a tokenizer; `tokenizer` is the name that nanotron loads.

    Raises:
        RecipeError: The name is empty or holds a character that the metadata line cannot.
    """
    name = settings.options["tokenizer"] or settings.tokenizer
    if "|" in name or "\n" in name or not name:
        raise RecipeError(
            f"output.options.tokenizer: {name!r} cannot stand in the metadata, where nanotron "
            "splits at '|'; give a hub id or a directory without it"
        )
    return replace(FORMAT, write=partial(write, tokenizer=name, eos_id=settings.eos_id))


def notices(settings: Settings) -> list[str]:
    """Warn that nanotron loads the tokenizer that the metadata names."""
    if settings.options["tokenizer"]:
        return []
    return [
        f"datatrove: the metadata names the tokenizer {settings.tokenizer!r}, which nanotron "
        "loads; give output.options.tokenizer: another hub id or directory if it cannot"
    ]


FORMAT = TokenFormat(
    name="datatrove",
    summary="token ids (.ds) with document ends (.ds.index) and metadata (.ds.metadata)",
    trainers="nanotron (Nanoset), datatrove",
    sample_order="nanotron shuffles windows by a seed of its own",
    keeps_documents=True,
    dtype_for=dtype_for,
    write=write,
    read=read,
    view=view,
    options={
        "tokenizer": Option("hub id or directory that nanotron loads", str),
        "window_tokens": Option("the trainer's sequence length, to state its loss", int),
    },
    configure=configure,
    dropped_tokens=labelled_tails,
    notices=notices,
    mixtures=(
        TrainerMixture(
            "nanotron Nanoset",
            "windows",
            exact=True,
            draw=draws.nanotron,
            config_files=config_files.nanotron,
            config_stems=("nanoset",),
            staged_files=staged_files.nanotron,
            repeats_order=True,
        ),
    ),
    snippet="""from datatrove.utils.dataset import DatatroveFileDataset

windows = DatatroveFileDataset("{path}.ds", seq_len=2048, token_size=2)
# nanotron: dataset_folder: the directory of {path}.ds
""",
)
