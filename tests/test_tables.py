"""Parquet and Arrow rows become the right documents, whatever the type and the cut."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import io
import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import zstandard
from fsspec.implementations.memory import MemoryFileSystem
from source_files import Found, plan, read, read_plan, write

from curate.sources import SegmentReader
from curate.sources.columns import jsonable
from curate.sources.decompress.open import StreamDamage
from curate.sources.documents import is_cut
from curate.sources.first_records import is_key_fault
from curate.sources.plans import PlanRequest, plan_whole
from curate.sources.records import BLOCK_BYTES, InputFile, ReadOptions
from curate.sources.table_extent import check_parquet
from curate.sources.tables import extent_of, plan_table

TEXTS = [f"row {number} " + "wörter 文 " * (number % 5) for number in range(30)]


def write_table(path: Path, table: Any, rows_a_run: int = 7) -> Path:
    """Write a table as the suffix says, in runs of some rows."""
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=rows_a_run)
    elif path.suffix == ".feather":
        feather.write_feather(table, str(path), compression="zstd", chunksize=rows_a_run)
    else:
        opened = pa.ipc.new_file if path.suffix == ".arrow" else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as file, opened(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=rows_a_run)
    return path


KINDS = [".parquet", ".arrow", ".stream", ".feather"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary()])
@pytest.mark.parametrize("suffix", KINDS)
def test_every_text_type_in_every_format(tmp_path: Path, suffix: str, kind: Any) -> None:
    table = pa.table({"id": pa.array(range(30)), "text": pa.array(TEXTS, kind)})
    found = read(write_table(tmp_path / f"a{suffix}", table))
    assert (found.texts, found.bad) == (TEXTS, [])
    assert (found.ids, found.lines) == ([str(i) for i in range(30)], list(range(1, 31)))
    assert found.lines_read == 30


@pytest.mark.parametrize("suffix", KINDS)
def test_dictionaries(tmp_path: Path, suffix: str) -> None:
    text = pa.array(["a", None, "b", "a", " ", "b"]).dictionary_encode()
    path = write_table(tmp_path / f"a{suffix}", pa.table({"text": text}), rows_a_run=99)
    found = read(path)
    assert (found.texts, found.lines) == (["a", "b", "a", "b"], [1, 3, 4, 6])
    assert found.bad == [(2, "'text' is null"), (5, "empty document")]


@pytest.mark.parametrize("suffix", KINDS)
def test_any_cut_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    texts = [*TEXTS[:9], None, "", *TEXTS[9:]]
    path = write_table(tmp_path / f"a{suffix}", pa.table({"text": texts}), rows_a_run=3)
    whole = read(path)
    assert (len(whole.texts), whole.bad) == (30, [(10, "'text' is null"), (11, "empty document")])
    counts = set()
    for segment_bytes in (1, 150, 400, 900, 1 << 30):
        cut = read(path, segment_bytes=segment_bytes)
        assert (cut.texts, cut.lines, cut.bad) == (whole.texts, whole.lines, whole.bad)
        counts.add(cut.segments)
    assert counts == {1} if suffix == ".stream" else {1, 11} <= counts


@pytest.mark.parametrize("suffix", KINDS)
def test_bytes_that_are_not_utf8_cost_their_row_alone(tmp_path: Path, suffix: str) -> None:
    good_bad = pa.array([b"good", b"caf\xe9", b"\xe6\x96\x87"])
    for text in (good_bad, pa.StringArray.from_buffers(3, *good_bad.buffers()[1:])):
        path = write_table(tmp_path / f"a{suffix}", pa.table({"text": text}))
        found = read(path)
        assert (found.texts, found.lines) == (["good", "文"], [1, 3])
        assert found.bad == [(2, "'text' is not UTF-8")]
        assert found.excerpts == ["caf\ufffd"]


@pytest.mark.parametrize("suffix", KINDS)
def test_a_column_of_another_type_makes_every_row_bad(tmp_path: Path, suffix: str) -> None:
    found = read(
        write_table(tmp_path / f"a{suffix}", pa.table({"text": [1, None], "n": ["a", "b"]}))
    )
    reason = "'text' is int64, not a string (columns: text int64, n string)"
    assert (found.texts, found.bad) == ([], [(1, reason), (2, reason)])


@pytest.mark.parametrize("suffix", KINDS)
def test_a_missing_column_is_one_bad_record(tmp_path: Path, suffix: str) -> None:
    table = pa.table({"id": ["1"] * 20, "doc": [{"body": "x"}] * 20})
    path = write_table(tmp_path / f"a{suffix}", table)
    found = read(path, segment_bytes=1)
    reason = "no column 'text' (columns: id string, doc struct<body: string>)"
    assert (found.texts, found.bad, found.segments) == ([], [(0, reason)], 1)
    nested = read(path, ReadOptions(text="doc.body"), segment_bytes=1)
    assert (nested.texts, nested.ids, nested.bad) == (["x"] * 20, ["1"] * 20, [])
    assert read(path, ReadOptions(text="doc.none")).bad[0][1].startswith("no column 'doc.none'")


@pytest.mark.parametrize("suffix", KINDS)
def test_structs_with_nulls(tmp_path: Path, suffix: str) -> None:
    rows = [{"body": "x", "n": 1}, None, {"body": None, "n": 2}]
    path = write_table(tmp_path / f"a{suffix}", pa.table({"doc": rows}))
    found = read(path, ReadOptions(text="doc.body", id="doc.n"), keep_metadata=True)
    assert (found.texts, found.ids, found.metadata) == (["x"], ["1"], [{"doc": {}}])
    assert found.bad == [(2, "'doc.body' is null"), (3, "'doc.body' is null")]


def test_a_column_whose_name_has_a_dot(tmp_path: Path) -> None:
    for suffix in KINDS:
        path = write_table(tmp_path / f"a{suffix}", pa.table({"data.body": ["x"], "id": [None]}))
        assert read(path, ReadOptions(text="data.body"), keep_metadata=True).metadata == [{}]
        assert read(path, ReadOptions(text="data.body")).texts == ["x"]


@pytest.mark.parametrize("suffix", KINDS)
def test_metadata_is_what_json_can_hold(tmp_path: Path, suffix: str) -> None:
    moment = datetime.datetime(2024, 2, 29, 12, 30, 0, 250_000)
    table = pa.table(
        {
            "id": ["a"],
            "text": ["x"],
            "when": pa.array([1_709_209_800_000_000_001], pa.timestamp("ns")),
            "zoned": pa.array([moment], pa.timestamp("ms", "UTC")),
            "far": pa.array([10**14], pa.timestamp("s")),
            "day": [datetime.date(2024, 2, 29)],
            "price": [decimal.Decimal("1.50")],
            "raw": [b"\xff\x00"],
            "ascii": [b"abc"],
            "lists": pa.array([[1, None]], pa.list_(pa.int8())),
            "times": pa.array([[1]], pa.list_(pa.timestamp("ns"))),
            "pairs": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())),
            "nan": [float("nan")],
            "none": pa.nulls(1),
            "deep": [{"a": {"b": datetime.date(2000, 1, 1)}}],
        }
    )
    if suffix == ".parquet":
        table = table.drop_columns(["far"])
    (metadata,) = read(write_table(tmp_path / f"a{suffix}", table), keep_metadata=True).metadata
    assert orjson.loads(orjson.dumps(metadata)) == metadata
    assert "id" not in metadata
    assert "text" not in metadata
    assert metadata["when"] == "2024-02-29 12:30:00.000000001"
    assert (metadata["day"], metadata["price"]) == ("2024-02-29", "1.50")
    assert (metadata["raw"], metadata["ascii"]) == ("/wA=", "abc")
    assert (metadata["lists"], metadata["pairs"]) == ([1, None], [["k", 1]])
    assert (metadata["nan"], metadata["none"]) == (None, None)
    assert metadata["deep"] == {"a": {"b": "2000-01-01"}}
    assert metadata["times"] == ["1970-01-01 00:00:00.000000001"]
    assert jsonable({"a"}) == "{'a'}"


@pytest.mark.parametrize("suffix", KINDS)
def test_no_rows_and_no_runs(tmp_path: Path, suffix: str) -> None:
    table = pa.table({"text": pa.array([], pa.string())})
    found = read(write_table(tmp_path / f"a{suffix}", table), segment_bytes=1)
    assert (found.texts, found.bad, found.segments) == ([], [], 1)


@pytest.mark.parametrize("suffix", KINDS)
def test_damage_never_raises_and_is_told(tmp_path: Path, suffix: str) -> None:
    """Cut and flipped files: what is read is a run of true rows, or nothing, plus a reason."""
    texts = [f"row {number} " + "word " * 40 for number in range(400)]
    content = write_table(
        tmp_path / f"whole{suffix}", pa.table({"text": texts}), rows_a_run=50
    ).read_bytes()
    choose = random.Random(9)
    for _ in range(25):
        cut = choose.randrange(8, len(content))
        found = read(write(tmp_path / f"a{suffix}", content[:cut]))
        assert found.texts == texts[: len(found.texts)]
        assert found.bad or suffix == ".stream" or len(found.texts) % 50 == 0
        if suffix != ".stream":
            assert (found.texts, len(found.bad)) == ([], 1)
    for _ in range(60):
        flipped = bytearray(content)
        for _ in range(choose.choice([1, 1, 8])):
            flipped[choose.randrange(len(flipped))] ^= 1 << choose.randrange(8)
        found = read(write(tmp_path / f"a{suffix}", bytes(flipped)), keep_metadata=True)
        assert len("".join(found.texts).encode()) < 2 * len("".join(texts))


def test_a_spoilt_row_group_leaves_the_others(tmp_path: Path) -> None:
    texts = [
        f"row {number} " + "".join(random.Random(number).choices("abcdef", k=300))
        for number in range(90)
    ]
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"text": texts}),
        path,
        row_group_size=30,
        write_page_checksum=True,
        compression="zstd",
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(bytes(content))
    for segment_bytes in (1, 1 << 30):
        found = read(path, segment_bytes=segment_bytes)
        assert found.texts == texts[:30] + texts[60:]
        assert found.lines == [*range(1, 31), *range(61, 91)]
        assert [line for line, _ in found.bad] == [31]
        assert found.lines_read == 90


def test_what_is_no_table_is_one_bad_record(tmp_path: Path) -> None:
    options = ReadOptions(reader="parquet")
    assert read(write(tmp_path / "a", b"text"), options).bad == [
        (0, "neither Parquet nor Arrow data")
    ]
    whole = write_table(tmp_path / "b.parquet", pa.table({"text": ["x"]})).read_bytes()
    squeezed = read(write(tmp_path / "c", zstandard.ZstdCompressor().compress(whole)))
    assert squeezed.bad == [(0, "a table inside zstd cannot be read; decompress the file")]


def test_a_compressed_arrow_stream_is_read(tmp_path: Path) -> None:
    whole = write_table(tmp_path / "a.stream", pa.table({"text": TEXTS})).read_bytes()
    path = write(tmp_path / "b.zst", zstandard.ZstdCompressor(write_checksum=True).compress(whole))
    assert read(path).texts == TEXTS
    cut = read(write(tmp_path / "c.zst", path.read_bytes()[:-5]))
    assert cut.texts == TEXTS[: len(cut.texts)]
    assert ["cut short" in reason for _, reason in cut.bad] == [True]


def test_what_follows_an_arrow_stream_is_told(tmp_path: Path) -> None:
    stream = write_table(tmp_path / "a.stream", pa.table({"text": TEXTS})).read_bytes()
    joined = read(write(tmp_path / "b.arrow", stream + stream))
    reason = "data follows the end of the Arrow stream; give each stream a file of its own"
    assert (joined.texts, joined.bad) == (TEXTS, [(31, reason)])


@pytest.mark.parametrize("sizes", [(90, 90), (90, 30), (1, 1), (90, 0)])
@pytest.mark.parametrize(
    ("suffix", "settings"),
    [
        (".parquet", {}),
        (".parquet", {"write_page_index": True, "compression": "zstd", "use_dictionary": False}),
        (".arrow", {}),
    ],
)
def test_tables_that_were_joined_are_refused(
    tmp_path: Path, suffix: str, settings: dict[str, Any], sizes: tuple[int, int]
) -> None:
    contents = []
    for name, rows in zip("ab", sizes, strict=True):
        table = pa.table({"text": [f"{name} {row}" for row in range(rows)], "id": range(rows)})
        path = tmp_path / f"{name}{suffix}"
        if suffix == ".parquet":
            pq.write_table(table, path, row_group_size=30, **settings)
        else:
            write_table(path, table, rows_a_run=30)
        alone = read(path)
        assert (len(alone.texts), alone.bad) == (rows, [])
        contents.append(path.read_bytes())
    for segment_bytes in (1, 1 << 30):
        joined = read(write(tmp_path / f"c{suffix}", b"".join(contents)), None, segment_bytes)
        ((line, reason),) = joined.bad
        assert (joined.texts, line) == ([], 0)
        size, _, rest = reason.partition(" ")
        assert int(size.replace(",", "")) == pytest.approx(len(contents[0]), abs=64)
        assert rest == (
            "bytes belong to nothing that the footer names, as where tables were joined; give each "
            "table a file of its own"
        )


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("before", [1, 2])
def test_a_table_shorter_than_the_footer_behind_it_is_found(
    tmp_path: Path, rows: int, before: int
) -> None:
    first = write_table(tmp_path / "a.parquet", pa.table({"text": TEXTS[:rows]})).read_bytes()
    table = pa.table({"text": ["PAR1PAR1"] * 99, "id": range(99)})
    last = write_table(tmp_path / "b.parquet", table, rows_a_run=1)
    assert pq.read_metadata(last).serialized_size > before * len(first)
    assert read(last).texts == ["PAR1PAR1"] * 99
    joined = read(write(tmp_path / "c.parquet", before * first + last.read_bytes()))
    assert not joined.texts
    ((line, reason),) = joined.bad
    assert line == 0
    assert "as where tables were joined; give each table a file of its own" in reason


def test_metadata_behind_each_chunk_is_no_loss(tmp_path: Path) -> None:
    """Arrow wrote a copy of each column chunk's metadata behind it until version 14 or so."""
    path = tmp_path / "a.parquet"
    metadata = pq.read_metadata(write_table(path, pa.table({"text": TEXTS}), rows_a_run=30))
    content, footer_bytes = path.read_bytes(), metadata.serialized_size
    chunks = [extent_of(metadata.row_group(0).column(0))]
    end = len(content) - 8 - footer_bytes
    for copied_bytes in (0, 100, footer_bytes):
        copied = content[:end] + b"m" * copied_bytes + content[end:]
        check_parquet(io.BytesIO(copied), len(copied), footer_bytes, chunks)


@pytest.mark.parametrize("compression", ["uncompressed", "zstd"])
def test_the_footer_accounts_for_all_of_what_other_writers_leave(
    tmp_path: Path, compression: Any
) -> None:
    long = "a longest value, of which statistics keep the beginning " * 9
    columns = {f"c{n}": [f"{long}{n} {row}" for row in range(999)] for n in range(9)}
    frame = pl.DataFrame(columns)
    frame.write_parquet(tmp_path / "a.parquet", row_group_size=100, compression=compression)
    # With a copy of the metadata behind each chunk.
    frame.select("c3")[:40].write_parquet(tmp_path / "b.parquet", compression=compression)
    frame.write_ipc(tmp_path / "a.arrow", compression=compression)
    for path in tmp_path.iterdir():
        rows = 40 if path.name == "b.parquet" else 999
        assert read(path, ReadOptions(text="c3")).texts == frame["c3"].to_list()[:rows]


def test_padding_between_row_groups_is_no_loss(tmp_path: Path) -> None:
    metadata = pq.read_metadata(
        write_table(tmp_path / "a.parquet", pa.table({"text": TEXTS}), rows_a_run=30)
    )
    chunks = [extent_of(metadata.row_group(0).column(0))]
    content = (tmp_path / "a.parquet").read_bytes()
    footer = len(content) - 8 - metadata.serialized_size
    for padding, is_loss in ((bytes(5000), False), (b"x" + bytes(4999), True)):
        padded = content[:footer] + padding + content[footer:]
        with contextlib.nullcontext() if not is_loss else pytest.raises(StreamDamage, match="^5,0"):
            check_parquet(io.BytesIO(padded), len(padded), metadata.serialized_size, chunks)


@pytest.mark.parametrize("compression", ["plain", "zstd"])
def test_an_arrow_stream_without_its_end_mark_is_cut_short(
    tmp_path: Path, compression: str
) -> None:
    table = pa.table({"text": [f"{number} words" for number in range(90)]})
    whole = write_table(tmp_path / "a.stream", table, rows_a_run=30).read_bytes()
    ends = [end for end in range(200, len(whole)) if whole[end : end + 4] == b"\xff" * 4]
    for end in range(ends[-2] - 9, len(whole) + 1):
        content = whole[:end]
        if compression == "zstd":
            content = zstandard.ZstdCompressor().compress(content)
        cut = read(write(tmp_path / "b.arrow", content))
        batches = sum(stop <= end for stop in ends)
        assert cut.texts == table["text"].to_pylist()[: 30 * batches]
        assert [is_cut(reason) is not None for _, reason in cut.bad] == [True] * (end < len(whole))
        if end == ends[-1]:
            reason = "the arrow data is cut short, or its writer was not closed: it has no end mark"
            assert cut.bad == [(91, reason)]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_remote_table_is_opened_twice_to_plan_it(tmp_path: Path, suffix: str) -> None:
    opened = []

    class Counted(MemoryFileSystem):
        protocol = "counted"
        store: ClassVar[dict[str, Any]] = {}

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.removeprefix("counted:/")

        def _open(self, path: str, *arguments: Any, **options: Any) -> Any:
            opened.append(path)
            return super()._open(path, *arguments, **options)

    fsspec.register_implementation("counted", Counted, clobber=True)
    content = write_table(tmp_path / f"a{suffix}", pa.table({"text": TEXTS})).read_bytes()
    Counted().pipe_file("/a", content)
    file = InputFile("counted://a", len(content), "0" * 32)
    opened.clear()
    request = PlanRequest(suffix[1:], file, ReadOptions(), "plain", segment_bytes=1)
    assert plan_table(request).count == 5
    assert len(opened) == 2, "for its first bytes, and as a table"
    with closing(SegmentReader()) as reader:
        blocks = reader.read(plan_whole(request).segment(0))
        assert [text for block in blocks for text in block.texts] == TEXTS
    Counted().pipe_file("/a", content + content)
    joined = file._replace(size_bytes=2 * len(content))
    assert plan_table(replace(request, file=joined)).count == 1, "it is no whole table"


@pytest.mark.parametrize("suffix", KINDS)
def test_two_columns_of_one_name_are_not_guessed_between(tmp_path: Path, suffix: str) -> None:
    table = pa.Table.from_arrays([pa.array(TEXTS), pa.array(TEXTS[::-1])], ["text", "text"])
    path = tmp_path / f"a{suffix}"
    if suffix == ".feather":
        path = path.with_suffix(".arrow")  # feather refuses to write them
    found = read(write_table(path, table))
    reason = "no single column 'text' (columns: text string, text string)"
    assert (found.texts, found.bad) == ([], [(0, reason)])
    assert is_key_fault(reason)


def test_blocks_stay_small_in_large_row_groups(tmp_path: Path) -> None:
    texts = ["".join(random.Random(number).choices("abcdef ", k=1 << 16)) for number in range(20)]
    table = pa.table({"text": texts * 10, "other": [b"x" * 5000] * 200})
    path = write_table(tmp_path / "a.parquet", table, rows_a_run=200)

    def blocks() -> Iterator[int]:
        with closing(SegmentReader()) as reader:
            for block in reader.read(plan(path, ReadOptions()).segment(0)):
                yield sum(map(len, block.texts))

    sizes_bytes = list(blocks())
    assert sum(sizes_bytes) == 200 << 16
    assert max(sizes_bytes) <= 2 * BLOCK_BYTES


def test_a_reader_goes_from_file_to_file(tmp_path: Path) -> None:
    plans = [
        plan(
            write_table(tmp_path / f"{n}{suffix}", pa.table({"text": [f"{n}"] * 9}), 2),
            ReadOptions(),
            1,
        )
        for n, suffix in enumerate(KINDS)
    ]
    with closing(SegmentReader()) as reader:
        found: list[Found] = [read_plan(each, reader) for each in [*plans, *plans]]
    assert [set(each.texts) for each in found] == [{"0"}, {"1"}, {"2"}, {"3"}] * 2
