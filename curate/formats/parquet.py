"""Parquet with four string columns: `text`, `id`, `source` (the domain) and `metadata`.

`metadata` is a JSON object as text, because readers that merge shards want the same column types
in each, and nested types differ from document to document. The schema is fixed, so nothing is
guessed from the data. Row groups are small (1 024 rows, as in nanochat's own files) because readers
deal them out to ranks. Text has neither dictionary nor statistics, which would only copy it. Pages
carry checksums, so any reader that verifies them finds damage.

nanochat takes one flat directory of at least two files, whose last by name is for validation:
`variant: nanochat` makes it in `trainer/`: links to the training shards as `shard_00000.parquet` …,
then one file with the validation documents of all domains. nanochat ignores columns but `text`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import ShardError
from curate.formats.base import (
    READ_BATCH_BYTES,
    DatasetFolder,
    Option,
    Settings,
    TextBatch,
    TextFormat,
    chained,
    open_shard,
    runs,
    sibling,
)
from curate.formats.trainer_files import DIRECTORY, link
from curate.formats.trainers.mixtures import HUGGING_FACE, LEVANTER, TORCHTITAN
from curate.runtime.files import atomic_path
from curate.runtime.machine import fault_or

COLUMNS = ("text", "id", "source", "metadata")
MAGIC = b"PAR1"
ROW_GROUP_ROWS = 1024
ROW_GROUP_BYTES = 64 << 20
"""Bytes of text in a row group; far below the 2 GiB that its string column can hold."""


def write(stem: Path, batches: Iterable[TextBatch]) -> list[Path]:
    """Write `<stem>.parquet`; row groups do not depend on how documents were batched.

    Raises:
        ValueError: The lists of a batch differ in length.
        ShardError: A text cannot be stored as UTF-8.
    """
    import pyarrow.parquet as pq

    path = sibling(stem, ".parquet")
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(
            str(temporary),
            schema(),
            compression="zstd",
            compression_level=3,
            use_dictionary=["source"],
            write_statistics=["id", "source"],
            write_page_checksum=True,
        ) as writer,
    ):
        for rows in row_groups(batches, ROW_GROUP_BYTES, ROW_GROUP_ROWS):
            writer.write_table(rows)
    return [path]


def row_groups(batches: Iterable[TextBatch], limit_bytes: int, most_rows: int) -> Iterator[Any]:
    """Regroup documents into Arrow tables that do not depend on how they were batched.

    Args:
        batches: Documents, in order.
        limit_bytes: Most bytes of text in a group, unless a single document is longer.
        most_rows: Most documents in a group.

    Yields:
        Tables of the four columns, each in one chunk.
    """
    import pyarrow as pa

    pending = to_table(TextBatch([], [], [], []))
    for batch in batches:
        pending = pa.concat_tables([pending, to_table(batch)])
        groups = list(runs(text_bytes(pending), limit_bytes, most_rows))
        for start, stop in groups[:-1]:
            yield pending.slice(start, stop - start).combine_chunks()
        if groups:  # the last group may still grow
            pending = pending.slice(groups[-1][0])
    if pending.num_rows:
        yield pending.combine_chunks()


def schema() -> Any:
    """Return the Arrow schema of the four string columns."""
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in COLUMNS])


def to_table(batch: TextBatch) -> Any:
    """Convert a batch to an Arrow table.

    Raises:
        ValueError: The lists differ in length.
        ShardError: A text holds a lone surrogate, which UTF-8 has no bytes for.
    """
    from curate.runtime import arrow

    columns = (batch.texts, batch.ids, batch.domains, batch.metadata)
    try:
        return arrow.table(dict(zip(COLUMNS, columns, strict=True)), schema())
    except UnicodeEncodeError as error:
        raise ShardError(f"a document cannot be stored as UTF-8 ({error})") from error


def text_bytes(table: Any) -> NDArray[np.int64]:
    """Return the UTF-8 bytes of each text, shape (rows,)."""
    import pyarrow.compute as pc

    from curate.runtime import arrow

    return arrow.numbers(pc.binary_length(table["text"]).combine_chunks()).astype(np.int64)


def read(stem: Path) -> Iterator[TextBatch]:
    """Yield the documents of `<stem>.parquet`, up to 8 MB of text at a time.

    One row group is held in memory.

    Raises:
        ShardError: The file is absent, cut or damaged, or its columns are not the four of `write`.
    """
    import pyarrow.parquet as pq

    path = sibling(stem, ".parquet")
    check_magic(path)
    with damage_named(path):
        file = pq.ParquetFile(str(path), page_checksum_verification=True)
    with file:
        if not file.schema_arrow.equals(schema()):
            raise ShardError(
                f"{path}: expected the columns {describe(schema())}, found "
                f"{describe(file.schema_arrow)}"
            )
        for group in range(file.num_row_groups):
            with damage_named(path):
                table = file.read_row_group(group)
            refuse_nulls(table, f"{path}: row group {group}")
            for start, stop in runs(text_bytes(table), READ_BATCH_BYTES):
                with damage_named(path):
                    columns = table.slice(start, stop - start).to_pydict()
                yield TextBatch(*(columns[name] for name in COLUMNS))


def refuse_nulls(rows: Any, where: str) -> None:
    """Raise `ShardError`, which names the place, if a column has a null."""
    for name in COLUMNS:
        if rows[name].null_count:
            raise ShardError(f"{where}: {name} has a null")


def check_magic(path: Path) -> None:
    """Raise `ShardError` unless the file begins and ends as Parquet does."""
    with open_shard(path) as file:
        size_bytes = path.stat().st_size
        first = file.read(len(MAGIC))
        file.seek(max(0, size_bytes - len(MAGIC)))
        last = file.read()
    if first != MAGIC or last != MAGIC:
        raise ShardError(
            f"{path}: expected a Parquet file that begins and ends with {MAGIC!r}, "
            f"found {first!r} and {last!r} ({size_bytes} bytes)"
        )


@contextlib.contextmanager
def damage_named(path: Path, kind: str = "Parquet file") -> Iterator[None]:
    """Turn Arrow's error about a damaged file into a `ShardError` that names the file.

    Raises:
        ShardError: The file is damaged.
        EngineError: The machine lacks memory, or its disk fails, which says nothing of the file.
    """
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split())  # Arrow's messages may end in a line break
        damage = ShardError(f"{path}: expected a whole {kind}, found damage: {reason}")
        raise fault_or(damage, error, str(path)) from error


def describe(columns: Any) -> str:
    """Name columns and their types in one line."""
    return ", ".join(f"{field.name} {field.type}" for field in columns)


def finish_nanochat(folder: DatasetFolder) -> Iterator[Path]:
    """Fill `trainer/` with the flat directory that nanochat reads.

    Raises:
        ShardError: There is no validation document for its last file.
    """
    directory = folder.directory / DIRECTORY
    train, held_out = folder.stems["train"], folder.stems["validation"]
    if not held_out:
        raise ShardError(
            "output.options.variant: nanochat takes its last file for validation, and no document "
            "is held out; raise validation.documents"
        )
    for number, stem in enumerate(train):
        source = sibling(stem, ".parquet")
        with folder.at_hand([source]):
            yield link(source, directory / f"shard_{number:05d}.parquet")
    last = directory / f"shard_{len(train):05d}"
    yield from write(last, chained(folder, held_out, ".parquet", read))


def configure(settings: Settings) -> TextFormat:
    """Configure the format for its variant."""
    if settings.options["variant"] == "parquet":
        return FORMAT
    return replace(
        FORMAT,
        finish=finish_nanochat,
        folder_stems=("shard_*",),
        snippet=NANOCHAT_SNIPPET,
        mixtures=(),
    )


NANOCHAT_SNIPPET = """import pyarrow.parquet as pq

rows = pq.ParquetFile("trainer/shard_00000.parquet").read_row_group(0)["text"]
# nanochat: link trainer/ to base_data_climbmix/ in its base directory; ranks <= row groups a file
"""

FORMAT = TextFormat(
    name="parquet",
    summary="text in Parquet with zstd: text, id, source, metadata",
    trainers="Hugging Face datasets, torchtitan, nanochat, levanter, MaxText, datatrove, axolotl",
    write=write,
    read=read,
    options={"variant": Option("whose folder", str, "parquet", ("parquet", "nanochat"))},
    configure=configure,
    hub_suffix=".parquet",
    mixtures=(HUGGING_FACE, TORCHTITAN, LEVANTER),
    snippet="""import pyarrow.parquet as pq

documents = pq.read_table("{path}.parquet")
""",
)
