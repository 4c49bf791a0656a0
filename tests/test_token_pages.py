"""Parquet written page by page: pyarrow must read it as if it had written it itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.formats import thrift
from curate.formats.base import TokenBatch
from curate.formats.input_ids import GROUP_TOKENS, schema, write
from curate.formats.token_pages import MANY, TokenPages, level_runs, levels, numbered, packed

LENGTHS = ([1], [0], [5, 0, 3], [0, 0], [1, 1, 1], [127, 128, 129], [16_383, 16_384, 70_000])


def written(path: Path, groups: list[TokenBatch], dtype: str) -> pq.ParquetFile:
    """Groups as a file of our own."""
    with path.open("wb", buffering=0) as file:
        pages = TokenPages(file, "input_ids", schema(np.dtype(dtype)))
        for group in groups:
            pages.add(group.tokens, group.lengths)
        pages.finish({"said": "yes"})
    return pq.ParquetFile(path, page_checksum_verification=True)


@pytest.mark.parametrize("dtype", ["<u2", "<i4"])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_pyarrow_reads_what_it_would_have_written(
    lengths: list[int], dtype: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(len(lengths))
    high = 65_536 if dtype == "<u2" else 2**31 - 1
    group = TokenBatch(rng.integers(0, min(high, 10**6), sum(lengths)).astype(dtype),
                       np.array(lengths))  # fmt: skip
    file = written(tmp_path / "ours.parquet", [group, group], dtype)
    offsets = np.concatenate([[0], np.cumsum(group.lengths)])
    rows = pa.ListArray.from_arrays(offsets.astype(np.int32), pa.array(group.tokens))
    table = pa.Table.from_arrays([rows], schema=schema(np.dtype(dtype)))
    expected = pa.concat_tables([table, table])
    assert file.read().equals(expected)
    assert file.schema_arrow.equals(expected.schema)
    assert file.num_row_groups == 2 and file.metadata.num_rows == 2 * len(lengths)
    assert file.metadata.metadata[b"said"] == b"yes"
    pq.write_table(expected, tmp_path / "theirs.parquet")
    theirs = pq.ParquetFile(tmp_path / "theirs.parquet").schema
    assert file.schema.equals(theirs)  # Parquet's own types, names and nullability


@pytest.mark.parametrize(
    ("dtype", "high", "tokens"),
    [
        ("<u2", 100, MANY * 101),  # all ids, in their order
        ("<u2", 65_536, 5000),  # those that occur
        ("<i4", 2_000_000, 200_000),  # more than 65,536 of them: numbers of 24 bits
    ],
)
def test_every_way_to_number_ids_comes_back(
    dtype: str, high: int, tokens: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(tokens)
    ids = rng.integers(0, high, tokens).astype(dtype)
    content, numbers = numbered(ids)
    table = np.frombuffer(content, "<i4")
    assert np.array_equal(table[numbers], ids)
    assert np.all(np.diff(table) > 0)
    assert numbers.dtype == ("<u4" if high > 10**6 else "<u2")
    group = TokenBatch(ids, np.array([tokens]))
    file = written(tmp_path / "ours.parquet", [group], dtype)
    assert np.array_equal(file.read()["input_ids"].combine_chunks().flatten().to_numpy(), ids)


def test_levels_by_hand() -> None:
    """Rows of 3, 0 and 1: 0 1 1, 0, 0 for repetition; thrice 3, then 1, then 3 for definition."""
    assert levels(np.array([3, 0, 1])).hex() == ("08000000020004010200020006000000060302010203")
    assert level_runs(np.array([64, 1 << 20]), np.array([1, 0], np.uint8)).hex() == (
        "080000008001018080800100"
    )


def test_numbers_are_packed_in_eights() -> None:
    assert packed(np.arange(8, dtype="<u2"))[:2] == bytes([16, 3])
    assert len(packed(np.arange(9, dtype="<u2"))) == 2 + 2 * 16
    assert packed(np.array([70_000], "<u4")).hex() == "1803" + "701101" + "00" * 21


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "00"), (-1, "01"), (1, "02"), (-(2**31), "ffffffff0f")]
)
def test_whole_numbers_of_either_sign(number: int, expected: str) -> None:
    assert thrift.int32(number)[1].hex() == expected


def test_long_lists_say_their_length_apart() -> None:
    assert thrift.array([thrift.int32(1)] * 15)[1].hex() == "f50f" + "02" * 15


def test_files_of_many_row_groups_are_of_even_size_and_little_larger_than_the_ids(
    tmp_path: Path,
) -> None:
    tokens = np.random.default_rng(3).integers(0, 50_000, GROUP_TOKENS * 2 + 5).astype("<u2")
    lengths = np.full(len(tokens) // 1000, 1000)
    lengths[-1] += len(tokens) - lengths.sum()
    (path,) = write(tmp_path / "shard", [TokenBatch(tokens, lengths)], np.dtype("<u2"))
    assert path.stat().st_size < 2.15 * len(tokens)
    assert pq.ParquetFile(path).num_row_groups == 3


def test_an_empty_file_has_the_column(tmp_path: Path) -> None:
    (path,) = write(tmp_path / "shard", [], np.dtype("<i4"))
    found = pq.read_table(path)
    assert found.num_rows == 0 and found.schema.equals(schema(np.dtype("<i4")))
