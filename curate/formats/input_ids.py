"""Parquet of token ids: one column `input_ids`, a list a row, for readers of tokenised rows.

Rows are documents, or sequences of `sequence_length`. levanter takes them as its `prebuilt` format
(`format: {type: prebuilt, input_ids_key: input_ids}`) and makes its own tensor store of them. To it
a row is an example, and a row shorter than the trainer's sequences ends the run. So the last
sequence of a file is filled up with end tokens, whose number is in the file's metadata; `read`
leaves them out.

Row groups hold about two million tokens, and pages carry checksums. `token_pages` explains why
pyarrow does not write them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
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
    Option,
    Settings,
    TokenBatch,
    TokenFormat,
    check_dtype,
    narrowest,
    runs,
    sibling,
    to_dtype,
)
from curate.formats.dropped_tokens import cut_rows, whole_rows
from curate.formats.parquet import check_magic, damage_named, describe
from curate.formats.token_pages import TokenPages
from curate.formats.trainers.mixtures import HUGGING_FACE, LEVANTER_PREBUILT
from curate.runtime.files import atomic_path

DTYPES = (np.dtype("<u2"), np.dtype("<i4"))
COLUMN = "input_ids"
FILL_KEY = "curate.fill_tokens"
"""Key in the file's metadata: number of final end tokens that only fill up the last row."""
GROUP_TOKENS = 1 << 21
GROUP_ROWS = 1 << 14
SHARD_TOKENS = 64_000_000


def dtype_for(highest_id: int) -> np.dtype[Any]:
    """Return uint16 or int32, the types that readers accept for ids.

    Example:
        >>> dtype_for(65_535).name, dtype_for(65_536).name
        ('uint16', 'int32')
    """
    return narrowest(highest_id, DTYPES, "input_ids")


def schema(dtype: np.dtype[Any]) -> Any:
    """Return the Arrow schema of the one column."""
    import pyarrow as pa

    return pa.schema([(COLUMN, pa.list_(pa.from_numpy_dtype(dtype)))])


@dataclass
class Fill:
    """Fill up the last sequence of a file to the length of the others."""

    sequence_tokens: int
    eos_id: int
    tokens: int = 0
    """End tokens added; 0 before the last sequence."""

    def __call__(self, batch: TokenBatch) -> TokenBatch:
        """Return the batch, its last sequence filled up.

        Raises:
            ValueError: A sequence is too long, or short and not the last of the file.
        """
        missing = self.sequence_tokens - batch.lengths
        if len(missing) and (self.tokens or missing[:-1].any() or missing[-1] < 0):
            raise ValueError(
                f"all sequences but the last must have {self.sequence_tokens} tokens, got "
                f"{batch.lengths.tolist()[:8]}"
            )
        if not missing.any():
            return batch
        self.tokens = int(missing[-1])
        added = np.full(self.tokens, self.eos_id, batch.tokens.dtype)
        return TokenBatch(np.concatenate([batch.tokens, added]), batch.lengths + missing)


def write(
    stem: Path,
    batches: Iterable[TokenBatch],
    dtype: np.dtype[Any],
    sequence_tokens: int | None = None,
    eos_id: int = 0,
) -> list[Path]:
    """Write `<stem>.parquet`; row groups do not depend on how sequences were batched.

    Args:
        stem: Path of the shard without suffix.
        batches: Documents or sequences, one row each.
        dtype: uint16 or int32.
        sequence_tokens: Tokens of every row, to which the last is filled up; None: any length.
        eos_id: Token that fills up the last row.

    Raises:
        ValueError: `dtype` is neither uint16 nor int32, or a batch contradicts itself.
        ShardError: A token id does not fit.
    """
    check_dtype(dtype, DTYPES)
    path = sibling(stem, ".parquet")
    fill = None if sequence_tokens is None else Fill(sequence_tokens, eos_id)
    with atomic_path(path) as temporary, temporary.open("wb", buffering=0) as file:
        pages = TokenPages(file, COLUMN, schema(dtype))
        tokens, lengths = np.empty(0, dtype), np.empty(0, np.int64)
        for batch in batches if fill is None else map(fill, batches):
            tokens = np.concatenate([tokens, to_dtype(batch, dtype)])
            lengths = np.concatenate([lengths, batch.lengths])
            groups = list(runs(lengths, GROUP_TOKENS, GROUP_ROWS))
            stops = np.concatenate([[0], np.cumsum(lengths)])
            for start, stop in groups[:-1]:
                pages.add(tokens[stops[start] : stops[stop]], lengths[start:stop])
            if groups:  # the last group may still grow
                start = groups[-1][0]
                tokens, lengths = tokens[stops[start] :], lengths[start:]
        if len(lengths):
            pages.add(tokens, lengths)
        pages.finish({FILL_KEY: str(fill.tokens)} if fill is not None and fill.tokens else {})
    return [path]


def read(stem: Path, dtype: np.dtype[Any]) -> Iterator[TokenBatch]:
    """Yield the rows of `<stem>.parquet`, up to 4M tokens at a time; a row group is in memory.

    Raises:
        ShardError: The file is absent, cut or damaged, or its column is not that of `write`.
    """
    import pyarrow.parquet as pq

    path = sibling(stem, ".parquet")
    check_magic(path)
    with damage_named(path):
        file = pq.ParquetFile(str(path), page_checksum_verification=True)
    with file:
        if not file.schema_arrow.equals(schema(dtype)):
            for stored in DTYPES:
                if file.schema_arrow.equals(schema(stored)):
                    raise ShardError(
                        f"{path}: expected tokens of {dtype.name}, found {stored.name}"
                    )
            raise ShardError(
                f"{path}: expected the column {describe(schema(dtype))}, found "
                f"{describe(file.schema_arrow)}"
            )
        for batch in _without_fill(path, file):
            yield from _cut(batch)


def _without_fill(path: Path, file: Any) -> Iterator[TokenBatch]:
    """Yield row groups, the last row without the end tokens that fill it up.

    Raises:
        ShardError: The metadata states more such tokens than the row holds.
    """
    fill_text = (file.metadata.metadata or {}).get(FILL_KEY.encode(), b"0")
    rows = 0
    for batch in _groups(path, file):
        rows += len(batch.lengths)
        if rows == file.metadata.num_rows and fill_text != b"0":
            if not fill_text.isdigit() or not 0 < int(fill_text) < batch.lengths[-1]:
                raise ShardError(
                    f"{path}: expected {FILL_KEY} below the {batch.lengths[-1]} tokens of the last "
                    f"row, found {fill_text.decode(errors='replace')}"
                )
            batch.lengths[-1] -= int(fill_text)
            batch = TokenBatch(batch.tokens[: -int(fill_text)], batch.lengths)
        yield batch


def _groups(path: Path, file: Any) -> Iterator[TokenBatch]:
    """Yield row groups, joining small ones up to 4M tokens."""
    from curate.runtime import arrow

    waiting: list[TokenBatch] = []
    for group in range(file.num_row_groups):
        with damage_named(path):
            rows = file.read_row_group(group).column(0).combine_chunks()
        if rows.null_count or rows.flatten().null_count:
            raise ShardError(f"{path}: row group {group}: {COLUMN} has a null")
        lengths = np.diff(arrow.numbers(rows.offsets)).astype(np.int64)
        batch = TokenBatch(arrow.numbers(rows.flatten()), lengths)
        if waiting and sum(one.tokens.size for one in [*waiting, batch]) > READ_BATCH_TOKENS:
            yield _joined(waiting)
            waiting = []
        waiting.append(batch)
    if waiting:
        yield _joined(waiting)


def _joined(batches: list[TokenBatch]) -> TokenBatch:
    if len(batches) == 1:
        return batches[0]
    return TokenBatch(
        np.concatenate([batch.tokens for batch in batches]),
        np.concatenate([batch.lengths for batch in batches]),
    )


def _cut(batch: TokenBatch) -> Iterator[TokenBatch]:
    """Cut a batch into runs of up to 4M tokens."""
    stops: NDArray[np.int64] = np.concatenate([[0], np.cumsum(batch.lengths)])
    for start, stop in runs(batch.lengths, READ_BATCH_TOKENS):
        yield TokenBatch(batch.tokens[stops[start] : stops[stop]], batch.lengths[start:stop])


def configure(settings: Settings) -> TokenFormat:
    """Fill up the last of fixed-length rows, and count dropped tokens only where rows are cut."""
    configured = FORMAT
    if settings.row_tokens is not None and settings.eos_id is not None:
        writer = partial(write, sequence_tokens=settings.row_tokens, eos_id=settings.eos_id)
        configured = replace(configured, write=writer)
    if settings.sequence_length is None or settings.options["window_tokens"] is not None:
        return configured
    return replace(configured, dropped_tokens=whole_rows)


def notices(settings: Settings) -> list[str]:
    """Explain how a short last sequence is stored, or that readers weight rows, not tokens."""
    if settings.row_tokens is not None and settings.eos_id is None:
        return [
            "input_ids: the last sequence of a file may be short, which levanter refuses: it would "
            "be filled up with end tokens, but the tokenizer has none"
        ]
    if settings.row_tokens is not None:
        return [
            f"input_ids: the last sequence of a file is filled up to {settings.row_tokens} "
            "tokens with end tokens, which are in no count"
        ]
    return [
        "input_ids: rows are whole documents; readers that weight or cut rows do not count tokens: "
        "set sequence_length for rows of one length"
    ]


FORMAT = TokenFormat(
    name="input_ids",
    summary="Parquet with a column input_ids: documents, or sequences of one length",
    trainers="levanter (prebuilt), Hugging Face Trainer, axolotl, any reader of tokenised rows",
    sample_order="levanter and the Hugging Face Trainer permute rows by a seed of their own",
    keeps_documents=True,
    takes_sequences=True,
    dtype_for=dtype_for,
    write=write,
    read=read,
    options={"window_tokens": Option("the longest row the trainer takes, to state its loss", int)},
    configure=configure,
    dropped_tokens=cut_rows,
    notices=notices,
    shard_tokens_most=SHARD_TOKENS,
    hub_suffix=".parquet",
    drops_by_row=True,
    packings=(CONCAT, BEST_FIT, WHOLE),
    mixtures=(LEVANTER_PREBUILT, HUGGING_FACE),
    snippet="""import pyarrow.parquet as pq

rows = pq.read_table("{path}.parquet")["input_ids"]
# levanter: source train_urls: ["{path}.parquet"], format: {{type: prebuilt,
#     input_ids_key: input_ids}}
""",
)
