"""llm.c's flat files and their relatives: `<stem>.bin`, most with a header of 256 integers.

| variant | header, i32[256] | tokens |
|---|---|---|
| `llmc` (llm.c, modded-nanogpt) | 20240520, 1, tokens, 0 … | uint16 |
| `nemo` (nemo-automodel) | 278895051, 1, tokens, bytes of a token, 0 … | uint16 or uint32 |
| `nanogpt` | none | uint16 |

llm.c and nemo-automodel expect the end token *before* each document; our documents end with it. In
a stream the difference is one token, which is moved from the end of the file to its front. Where
the last document was cut, so that no end token ends the file, one is added at the front, and the
last integer of the header, which no reader looks at, is 1. The document after a cut one has no end
token before it; a dataset cuts at most one document of each domain.

llm.c stops at a shard shorter than ranks × batch × sequence + 1 tokens: where `step_tokens` states
that product, no shorter shard is written. It seeks with a C int, so shards stay below 2 GiB.
nanoGPT reads `train.bin` and `val.bin`, which are made in `trainer/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

import numpy as np

from curate.errors import RecipeError, ShardError
from curate.formats.base import (
    FILL,
    READ_BATCH_TOKENS,
    DatasetFolder,
    Mapped,
    Option,
    Settings,
    TokenBatch,
    TokenFormat,
    chained,
    check_dtype,
    check_ends,
    expect_bytes,
    map_runs,
    map_tokens,
    narrowest,
    open_shard,
    read_tokens,
    sibling,
    to_dtype,
    write_bytes,
)
from curate.formats.dropped_tokens import labelled_tails, overlapping_tails
from curate.formats.trainer_files import DIRECTORY, link
from curate.runtime.files import atomic_path

HEADER_BYTES: Final = 1024
INTEGER = np.dtype("<i4")
ADDED: Final = HEADER_BYTES // INTEGER.itemsize - 1
"""Header integer that is 1 where the end token at the front was added."""
MOST_BYTES: Final = 2**31 - 1
UINT16, UINT32 = np.dtype("<u2"), np.dtype("<u4")


@dataclass(frozen=True, slots=True)
class Variant:
    """File layout of one family of readers."""

    name: str
    magic: int | None
    """None: no header."""
    dtypes: tuple[np.dtype[Any], ...]


VARIANTS = {
    "llmc": Variant("llmc", 20240520, (UINT16,)),
    "nemo": Variant("nemo", 278895051, (UINT16, UINT32)),
    "nanogpt": Variant("nanogpt", None, (UINT16,)),
}


def dtype_for(highest_id: int, variant: str = "llmc") -> np.dtype[Any]:
    """Return uint16, or the narrower of uint16 and uint32 for nemo-automodel.

    Raises:
        RecipeError: An id needs more than 16 bits.

    Example:
        >>> dtype_for(50_256).name, dtype_for(100_000, "nemo").name
        ('uint16', 'uint32')
    """
    instead = "variant: nemo if nemo-automodel reads it, another format (curate formats)"
    return narrowest(highest_id, VARIANTS[variant].dtypes, f"llmc (variant {variant})", instead)


def write(  # noqa: PLR0913 - three of a format, three of a variant
    stem: Path,
    batches: Iterable[TokenBatch],
    dtype: np.dtype[Any],
    variant: str = "llmc",
    eos_id: int = 0,
    documents: bool = False,
) -> list[Path]:
    """Write `<stem>.bin`; the header is filled in last.

    Args:
        stem: Path of the shard without suffix.
        batches: Documents or sequences, in order.
        dtype: One of the variant's dtypes.
        variant: A key of `VARIANTS`.
        eos_id: Id of the end token.
        documents: Whether sequences are documents, which may hold the end token only at their end.

    Raises:
        ValueError: `dtype` is not one of the variant's, or a batch contradicts itself.
        ShardError: A token id does not fit, an end token is inside a document, or the file would
            be 2 GiB or more.
    """
    kind = VARIANTS[variant]
    check_dtype(dtype, kind.dtypes)
    path = sibling(stem, ".bin")
    held = np.array([eos_id], dtype) if kind.magic is not None else np.empty(0, dtype)
    stored_tokens = added = 0
    with atomic_path(path) as temporary, temporary.open(FILL, buffering=0) as file:
        if kind.magic is not None:
            file.write(bytes(HEADER_BYTES))
        seen = False
        for batch in batches:
            tokens = to_dtype(batch, dtype)
            if not tokens.size:
                continue
            if documents:
                check_ends(tokens, batch.lengths, eos_id, path)
            stored_tokens += held.size + tokens.size - 1
            if stored_tokens * dtype.itemsize + HEADER_BYTES >= MOST_BYTES:
                raise ShardError(
                    f"{path}: 2 GiB or more, beyond what llm.c can seek; lower output.shard_tokens"
                )
            for part in (held, tokens[:-1]):
                write_bytes(file, part.view(np.uint8).data)
            held, seen = tokens[-1:], True  # a final end token is stored at the front, not here
        if seen and (kind.magic is None or int(held[0]) != eos_id):
            write_bytes(file, held.view(np.uint8).data)
            stored_tokens, added = stored_tokens + 1, 1
        if kind.magic is not None:
            file.seek(0)
            file.write(_header(kind, stored_tokens, dtype, added))
    return [path]


def _header(kind: Variant, stored_tokens: int, dtype: np.dtype[Any], added: int) -> bytes:
    """Make the 256 integers that precede the tokens."""
    integers = np.zeros(HEADER_BYTES // INTEGER.itemsize, INTEGER)
    integers[:3] = kind.magic or 0, 1, stored_tokens
    integers[3] = dtype.itemsize if kind.name == "nemo" else 0
    integers[ADDED] = added
    return integers.tobytes()


def read(
    stem: Path, dtype: np.dtype[Any], variant: str = "llmc", eos_id: int = 0
) -> Iterator[TokenBatch]:
    """Yield the tokens of `<stem>.bin` in the order they were given to `write`, 4M at a time.

    Args:
        stem: Path of the shard without suffix.
        dtype: Type of a token on disk.
        variant: A key of `VARIANTS`.
        eos_id: Id of the end token.

    Raises:
        ShardError: The file is absent, cut, too long, or its header is not the variant's.
    """
    kind = VARIANTS[variant]
    path = sibling(stem, ".bin")
    with open_shard(path) as file:
        left_tokens, ended = _open(path, file, kind, dtype)
        if kind.magic is not None and left_tokens:
            _check_front(path, file, dtype, eos_id)
            left_tokens -= 1
        while left_tokens:
            tokens = read_tokens(file, min(left_tokens, READ_BATCH_TOKENS), dtype, path)
            left_tokens -= tokens.size
            yield TokenBatch(tokens, np.array([tokens.size], np.int64))
        if ended:
            yield TokenBatch(np.array([eos_id], dtype), np.array([1], np.int64))


def view(stem: Path, dtype: np.dtype[Any], variant: str = "llmc", eos_id: int = 0) -> Mapped:
    """Memory-map the tokens of `<stem>.bin`, in the order of `read`.

    Args:
        stem: Path of the shard without suffix.
        dtype: Type of a token on disk.
        variant: A key of `VARIANTS`.
        eos_id: Id of the end token.

    Raises:
        ShardError: The same damage as `read` refuses.
    """
    kind = VARIANTS[variant]
    path = sibling(stem, ".bin")
    with open_shard(path) as file:
        stored_tokens, ended = _open(path, file, kind, dtype)
        if kind.magic is None or not stored_tokens:
            return map_tokens(path, 0, stored_tokens, dtype)
        _check_front(path, file, dtype, eos_id)
    # Where the last sequence ended, its end token is the one at the front.
    starts = np.array([HEADER_BYTES + dtype.itemsize, HEADER_BYTES])
    return map_runs(path, starts, np.array([stored_tokens - 1, int(ended)]), dtype)


def _check_front(path: Path, file: BufferedReader, dtype: np.dtype[Any], eos_id: int) -> None:
    front = int(read_tokens(file, 1, dtype, path)[0])
    if front != eos_id:
        raise ShardError(f"{path}: expected the end token {eos_id} first, found {front}")


def _open(
    path: Path, file: BufferedReader, kind: Variant, dtype: np.dtype[Any]
) -> tuple[int, bool]:
    """Return the tokens stored, and whether the last sequence's end token is at the front."""
    size_bytes = path.stat().st_size
    if kind.magic is None:
        if size_bytes % dtype.itemsize:
            raise ShardError(f"{path}: {size_bytes} bytes are no whole {dtype.name} tokens")
        return size_bytes // dtype.itemsize, False
    header = file.read(HEADER_BYTES)
    if len(header) != HEADER_BYTES:
        raise ShardError(f"{path}: expected a header of {HEADER_BYTES} bytes, found {len(header)}")
    integers = np.frombuffer(header, INTEGER)
    stored_tokens, added = int(integers[2]), int(integers[ADDED])
    for stored in kind.dtypes:
        if stored != dtype and header == _header(kind, stored_tokens, stored, added):
            raise ShardError(f"{path}: expected tokens of {dtype.name}, found {stored.name}")
    if header != _header(kind, stored_tokens, dtype, added) or added not in (0, 1):
        raise ShardError(
            f"{path}: expected the header of {kind.name} ({kind.magic}, 1, tokens, 0 …), found "
            f"{integers[:4].tolist()} or an integer behind them that is not 0"
        )
    expect_bytes(path, HEADER_BYTES + stored_tokens * dtype.itemsize, f"{stored_tokens} tokens")
    return stored_tokens, stored_tokens > 0 and not added


def finish(folder: DatasetFolder, variant: str = "llmc", eos_id: int = 0) -> Iterator[Path]:
    """Make one validation file of all domains and, for nanoGPT, one training file.

    Args:
        folder: Dataset whose shards are written.
        variant: A key of `VARIANTS`.
        eos_id: Id of the end token.
    """
    reader = partial(read, dtype=folder.dtype, variant=variant, eos_id=eos_id)
    names = {"train": "train", "validation": "val"}
    for split, stems in folder.stems.items():
        if not stems or (split == "train" and variant != "nanogpt"):
            continue
        target = folder.directory / DIRECTORY / names[split]
        if len(stems) == 1:
            source = sibling(stems[0], ".bin")
            with folder.at_hand([source]):
                yield link(source, sibling(target, ".bin"))
        else:
            batches = chained(folder, stems, ".bin", reader)
            yield from write(target, batches, folder.dtype, variant, eos_id)


def configure(settings: Settings) -> TokenFormat:
    """Configure the format for its variant.

    Raises:
        RecipeError: The variant's readers find documents by an end token that does not exist.
    """
    variant = settings.options["variant"]
    if settings.eos_id is None and variant != "nanogpt":
        raise RecipeError(
            f"output.format: llmc (variant {variant}) needs a tokenizer with an end token, which "
            "its readers expect before each document; set tokenizer.eos, or variant: nanogpt"
        )
    eos_id = settings.eos_id or 0
    variant_arguments: dict[str, Any] = {"variant": variant, "eos_id": eos_id}
    documents = settings.sequence_length is None and settings.eos_id is not None
    step_tokens = settings.options["step_tokens"]
    losses = {"llmc": overlapping_tails, "nemo": labelled_tails, "nanogpt": None}
    return replace(
        FORMAT,
        dtype_for=partial(dtype_for, variant=variant),
        write=partial(write, documents=documents, **variant_arguments),
        read=partial(read, **variant_arguments),
        view=partial(view, **variant_arguments),
        finish=partial(finish, **variant_arguments),
        dropped_tokens=losses[variant],
        shard_tokens_least=1 if step_tokens is None else step_tokens + 1,
        snippet=SNIPPETS[variant],
    )


def notices(settings: Settings) -> list[str]:
    """Warn that llm.c stops at a short shard, unless the recipe states how short."""
    if settings.options["variant"] != "llmc" or settings.options["step_tokens"] is not None:
        return []
    return [
        "llmc: llm.c stops at a shard of fewer than ranks x batch x sequence + 1 tokens; give "
        "output.options.step_tokens: that product, and no shard is shorter"
    ]


SNIPPETS = {
    "llmc": """import numpy as np

tokens = np.memmap("{path}.bin", dtype=np.uint16, mode="r", offset=1024)
# llm.c: -i "train/shard-*.bin" -j trainer/val.bin; modded-nanogpt: train_files the same pattern
""",
    "nemo": """import numpy as np

tokens = np.memmap("{path}.bin", dtype=np.uint16, mode="r", offset=1024)  # int 4 of the header: 2
# nemo-automodel: NanogptDataset("train/shard-*.bin", seq_len=...)
""",
    "nanogpt": """import numpy as np

tokens = np.memmap("{path}.bin", dtype=np.uint16, mode="r")
# nanoGPT: link trainer/train.bin and trainer/val.bin into data/mix/, then dataset = "mix"
""",
}

FORMAT = TokenFormat(
    name="llmc",
    summary="flat uint16 token ids (.bin) of llm.c; variants for nanoGPT and nemo-automodel",
    trainers="llm.c, modded-nanogpt; nanoGPT, nemo-automodel by variant",
    sample_order="nanoGPT draws windows at random; llm.c shuffles shards and windows if asked to",
    keeps_documents=False,
    dtype_for=dtype_for,
    write=write,
    read=read,
    view=view,
    options={
        "variant": Option("whose header", str, "llmc", tuple(VARIANTS)),
        "step_tokens": Option(
            "ranks x batch x sequence of llm.c; no shard is shorter", int, variants=("llmc",)
        ),
        "window_tokens": Option(
            "tokens of a reader's window, to state its loss", int, variants=("llmc", "nemo")
        ),
    },
    configure=configure,
    finish=finish,
    folder_stems=("train", "val"),
    dropped_tokens=overlapping_tails,
    notices=notices,
    shard_tokens_most=1_000_000_000,
    snippet=SNIPPETS["llmc"],
)
