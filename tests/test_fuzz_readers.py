"""Damaged files through every reader: documents, bad records or one error, and nothing else."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from fuzzing import EDITS, damage, fuzz
from hypothesis import strategies as st
from source_files import read

from curate.errors import CurateError
from curate.sources.records import ReadOptions

ACCENTED = 'é🙂 a "quoted" '

ROWS: list[dict[str, Any]] = [
    {"id": f"n{row}", "text": ACCENTED * (row % 4) + f"line\n{row}", "score": row / 3}
    for row in range(40)
]


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink, row_group_size=7, compression="zstd")
    return sink.getvalue()


def arrow() -> bytes:
    table = pa.Table.from_pylist(ROWS)
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return sink.getvalue()


def comma_separated() -> bytes:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, list(ROWS[0]))
    writer.writeheader()
    writer.writerows(ROWS)
    return sink.getvalue().encode()


FILES: dict[str, bytes] = {
    "jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode(),
    "json_array": json.dumps(ROWS, indent=1).encode(),
    "csv": comma_separated(),
    "text": ROWS[3]["text"].encode() * 20,
    "parquet": parquet(),
    "arrow": arrow(),
}

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gz": gzip.compress,
    "zst": zstandard.ZstdCompressor().compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lz4": lambda content: pa.compress(content, "lz4", asbytes=True),
}

TABLES = ("parquet", "arrow")

FORMS = [
    (reader, compression, where)
    for reader in FILES
    for compression in (("plain",) if reader in TABLES else COMPRESSIONS)
    for where in (("content",) if compression == "plain" else ("content", "stream"))
]
"""Damage to a compressed file's content is compressed with it; damage to the stream is not."""


@pytest.mark.parametrize(("reader", "compression", "where"), FORMS)
def test_damage_gives_documents_bad_records_or_one_error(
    reader: str, compression: str, where: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"

    @fuzz(EDITS)
    def check(edits: list[Any]) -> None:
        compress = COMPRESSIONS[compression]
        content = FILES[reader]
        content = (
            compress(damage(content, edits))
            if where == "content"
            else damage(compress(content), edits)
        )
        path.write_bytes(content)
        whole = outcome(path, reader, 1 << 20)
        assert outcome(path, reader, 64) == whole, "segments change what is read"

    check()


def outcome(path: Path, reader: str, segment_bytes: int) -> Any:
    """Documents and bad records of a file, or the kind of error; other exceptions pass."""
    try:
        result = read(path, ReadOptions(reader=reader), segment_bytes)
    except CurateError as error:
        message = str(error)
        assert "\n" not in message
        assert str(path) in message
        return type(error)
    for text in result.texts:
        text.encode()
    return result.texts, result.ids, result.lines, result.bad


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)

VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("reader", ["jsonl", "json_array"])
def test_every_record_of_json_is_read_as_python_reads_it(reader: str, tmp_path: Path) -> None:
    """Whatever lies beside the text, NaN and nested values included, and however it is escaped."""
    path = tmp_path / "file"
    record = st.tuples(
        TEXT.filter(str.strip), st.dictionaries(TEXT, VALUE, max_size=4), st.booleans()
    )

    @fuzz(st.lists(record, min_size=1, max_size=6))
    def check(records: list[tuple[str, dict[str, Any], bool]]) -> None:
        rows = [
            json.dumps({**others, "text": text}, ensure_ascii=escaped)
            for text, others, escaped in records
        ]
        content = "\n".join(rows) if reader == "jsonl" else "[" + ",\n".join(rows) + "]"
        path.write_text(content, "utf-8", newline="")
        result = read(path, ReadOptions(reader=reader, id="-"), 64)
        assert result.texts == [text for text, _, _ in records]
        assert not result.bad

    check()
