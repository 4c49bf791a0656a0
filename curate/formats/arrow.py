"""Arrow streams as Hugging Face `save_to_disk` lays them out, for `load_from_disk`.

`<stem>.arrow` holds the four string columns of Parquet in the Arrow *stream* format, uncompressed,
so that it can be memory-mapped; `state.json` and `dataset_info.json` are in the folder of each
split. Arrow has no checksums, so each batch of rows carries a hash of its text in the message's
custom metadata, which other readers ignore. Other readers take a stream that is cut between batches
for a shorter one; `read` requires the end mark.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from curate.errors import ShardError
from curate.formats.base import (
    READ_BATCH_BYTES,
    DatasetFolder,
    TextBatch,
    TextFormat,
    open_shard,
    runs,
    sibling,
)
from curate.formats.parquet import (
    COLUMNS,
    damage_named,
    refuse_nulls,
    row_groups,
    schema,
    text_bytes,
)
from curate.formats.trainers.mixtures import HUGGING_FACE
from curate.runtime.files import atomic_path, hash_bytes, write_json

BATCH_ROWS = 1000
BATCH_BYTES = 8 << 20
END = b"\xff\xff\xff\xff\0\0\0\0"
HASH_KEY = b"xxh3"
STREAM = "Arrow stream"


def write(stem: Path, batches: Iterable[TextBatch]) -> list[Path]:
    """Write `<stem>.arrow`; its batches of rows do not depend on how documents were batched.

    Raises:
        ValueError: The lists of a batch differ in length.
        ShardError: A text cannot be stored as UTF-8.
    """
    import pyarrow as pa

    path = sibling(stem, ".arrow")
    with atomic_path(path) as temporary, pa.ipc.new_stream(str(temporary), schema()) as stream:
        for table in row_groups(batches, BATCH_BYTES, BATCH_ROWS):
            rows = table.to_batches()[0]
            stream.write_batch(rows, custom_metadata={HASH_KEY: rows_hash(rows)})
    return [path]


def rows_hash(rows: Any) -> bytes:
    """Hash the strings of a batch of rows and their lengths: xxh3-128, 32 hexadecimal digits."""
    import pyarrow.compute as pc

    from curate.runtime import arrow

    digest = xxhash.xxh3_128()
    for column in rows.columns:
        lengths = arrow.numbers(pc.binary_length(column)).astype(np.int64)
        digest.update(lengths.tobytes())
        _, offsets, data = column.buffers()
        first = np.frombuffer(offsets, np.int32)[column.offset] if data is not None else 0
        digest.update(memoryview(data or b"")[first : first + int(lengths.sum())])
    return digest.hexdigest().encode()


def read(stem: Path) -> Iterator[TextBatch]:
    """Yield the documents of `<stem>.arrow`, up to 8 MB of text at a time.

    One batch of rows is held in memory.

    Raises:
        ShardError: The file is absent, cut or damaged, or its columns are not the four of `write`.
    """
    import pyarrow as pa

    path = sibling(stem, ".arrow")
    _check_ends(path)
    # A map needs no memory for what a damaged length asks for: it is beyond the file's end.
    with pa.memory_map(str(path)) as file:
        with damage_named(path, STREAM):
            stream = pa.ipc.open_stream(file)
        number = 0
        while True:
            with damage_named(path, STREAM):
                try:
                    rows, metadata = stream.read_next_batch_with_custom_metadata()
                except StopIteration:
                    break
                rows.validate(full=True)
                refuse_nulls(rows, f"{path}: batch {number}")
                digest = rows_hash(rows)
            if metadata is None or metadata.get(HASH_KEY) != digest:
                raise ShardError(f"{path}: batch {number}: its rows differ from their hash")
            number += 1
            for start, stop in runs(text_bytes(pa.Table.from_batches([rows])), READ_BATCH_BYTES):
                with damage_named(path, STREAM):
                    columns = rows.slice(start, stop - start).to_pydict()
                yield TextBatch(*(columns[name] for name in COLUMNS))
        if file.tell() != path.stat().st_size:
            raise ShardError(f"{path}: expected its end at {file.tell()}, found more bytes")


def _check_ends(path: Path) -> None:
    """Raise `ShardError` unless the file begins with our schema and ends as a stream does."""
    start = schema().serialize().to_pybytes()
    with open_shard(path) as file:
        size_bytes = path.stat().st_size
        head = file.read(len(start))
        file.seek(max(0, size_bytes - len(END)))
        end = file.read()
    if head != start:
        raise ShardError(
            f"{path}: expected an Arrow stream of the columns {', '.join(COLUMNS)}, found one "
            f"starting {head[:16]!r}"
        )
    if end != END or size_bytes < len(start) + len(END):
        raise ShardError(f"{path}: expected the end mark of an Arrow stream, found {end!r}")


def finish(folder: DatasetFolder) -> list[Path]:
    """Write `state.json` and `dataset_info.json` of each split."""
    features = {name: {"dtype": "string", "_type": "Value"} for name in COLUMNS}
    written = []
    for split, stems in folder.stems.items():
        if not stems:
            continue
        names = [sibling(stem, ".arrow").name for stem in stems]
        directory = stems[0].parent
        state: dict[str, object] = {
            "_data_files": [{"filename": name} for name in names],
            "_fingerprint": hash_bytes(split.encode(), *(name.encode() for name in names))[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": split,
        }
        write_json(directory / "state.json", state)
        info = {"citation": "", "description": "", "features": features, "homepage": "",
                "license": ""}  # fmt: skip
        write_json(directory / "dataset_info.json", info)
        written += [directory / "state.json", directory / "dataset_info.json"]
    return written


FORMAT = TextFormat(
    name="arrow",
    summary="text in Arrow streams as save_to_disk lays them out: text, id, source, metadata",
    trainers="Hugging Face datasets (load_from_disk)",
    write=write,
    read=read,
    finish=finish,
    folder_stems=("state", "dataset_info"),
    mixtures=(HUGGING_FACE,),
    mixture_suffix=".arrow",
    snippet="""from pathlib import Path

from datasets import load_from_disk

documents = load_from_disk(str(Path("{path}").parent))
""",
)
