"""Arrays, CSV and text become the right documents, and each file finds its reader."""

from __future__ import annotations

import gzip
import random
from contextlib import closing
from pathlib import Path

import orjson
import pytest
import zstandard
from source_files import Found, documents, json_lines, plan, read, read_plan, source, write

from curate.errors import InputError, RecipeError
from curate.sources import GROUP_FILES, READERS, SegmentReader, segments
from curate.sources.records import InputFile, ReadOptions


def test_arrays_of_records(tmp_path: Path) -> None:
    records = [{"id": i, "text": f'quote " brace }} [ \\ {i}'} for i in range(50)]
    for content in (
        orjson.dumps(records),
        orjson.dumps(records, option=orjson.OPT_INDENT_2),
        b"\xef\xbb\xbf \n" + orjson.dumps(records) + b"\n\n",
        gzip.compress(orjson.dumps(records)),
    ):
        found = read(write(tmp_path / "a.json", content), keep_metadata=True)
        assert found.texts == [record["text"] for record in records]
        assert (found.ids[49], found.lines) == ("49", list(range(1, 51)))
        assert (found.bad, found.metadata[0]) == ([], {})


@pytest.mark.parametrize(
    ("content", "texts", "bad"),
    [
        (b"[]", [], []),
        (b"[", [], [(0, "the array is not closed")]),
        (b'[{"text": "a"}, {"text": 1}]', ["a"], [(2, "'text' is int, not a string")]),
        (b'[{"text": "a"}, {"text": "b', ["a"], [(2, "the array is not closed")]),
        (b'[{"text": "a"}] [', ["a"], [(2, "the array is followed by something else")]),
        (b'[{"text": "a"}, {bad}, {"text": "c"}]', ["a", "c"], [(2, "not valid JSON")]),
        (b'[{"text": "a\\\\"}, {"text": "\\\\\\"b"}]', ["a\\", '\\"b'], []),
    ],
)
def test_faults_in_arrays(
    tmp_path: Path, content: bytes, texts: list[str], bad: list[tuple[int, str]]
) -> None:
    found = read(write(tmp_path / "a.json", content))
    assert found.texts == texts
    assert len(found.bad) == len(bad)
    for (line, reason), (expected_line, expected_reason) in zip(found.bad, bad, strict=True):
        assert line == expected_line
        assert reason.startswith(expected_reason)


def test_arrays_larger_than_any_buffer(tmp_path: Path) -> None:
    choose = random.Random(8)
    texts = [
        "".join(choose.choices('ab"\\ {}[],\n', k=choose.randrange(60_000))) for _ in range(60)
    ]
    content = orjson.dumps([{"text": f"x{text}", "m": [{"k": []}]} for text in texts])
    found = read(write(tmp_path / "a.json", content))
    assert found.texts == [f"x{text}" for text in texts]
    assert found.raw_bytes == len(content)
    cut = read(write(tmp_path / "b.json", gzip.compress(content)[:-30_000]))
    assert cut.texts == found.texts[: len(cut.texts)]
    assert [reason for _, reason in cut.bad] == ["the gzip data is cut short"]


def test_records_over_several_lines(tmp_path: Path) -> None:
    records = documents(3)
    content = b"\n".join(orjson.dumps(record, option=orjson.OPT_INDENT_2) for record in records)
    found = read(write(tmp_path / "a.json", content))
    assert found.texts == [record["text"] for record in records]
    cut = read(write(tmp_path / "a.json", content[:-3]))
    assert (len(cut.texts), cut.bad) == (2, [(3, "the object is not closed")])
    odd = read(write(tmp_path / "a.json", content + b" stray"))
    assert (len(odd.texts), odd.bad) == (3, [(4, "not a JSON object")])


CSV = (
    "id,text,n\r\n"
    'a,"quoted, with ""marks""\nand a line end",1\r\n'
    "\r\n"
    "b,plain,2\r\n"
    "c,too,many,fields\r\n"
    "d, ,4\r\n"
    "e,last,5"
)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv(tmp_path: Path, delimiter: str) -> None:
    content = CSV.replace(",", delimiter).encode()
    for data in (content, b"\xef\xbb\xbf" + content, zstandard.ZstdCompressor().compress(content)):
        found = read(write(tmp_path / "a.csv.zst", data), keep_metadata=True)
        text = f'quoted{delimiter} with "marks"\nand a line end'
        assert (found.texts, found.ids) == ([text, "plain", "last"], ["a", "b", "e"])
        assert (found.lines, found.lines_read) == ([2, 5, 8], 8)
        assert found.bad == [(6, "4 fields, the header has 3"), (7, "empty document")]
        assert found.metadata == [{"n": "1"}, {"n": "2"}, {"n": "5"}]


def test_csv_faults(tmp_path: Path) -> None:
    def check(content: bytes) -> Found:
        return read(write(tmp_path / "a.csv", content))

    assert check(b"id,body\n1,x\n").bad == [(1, "no column 'text' (columns: id, body)")]
    assert (check(b"").bad, check(b"\n\n").bad) == ([], [])
    bad_bytes = check(b"id,text\n1,caf\xe9\n2,fine\n\xff,id\n")
    assert (bad_bytes.texts, bad_bytes.ids) == (["fine", "id"], ["2", "\ufffd"])
    assert bad_bytes.bad == [(2, "'text' is not UTF-8")]
    assert check(b'id,text\n1,"never closed\n2,x\n').bad == [
        (2, "not valid CSV: unexpected end of data")
    ]
    stray = check(b'id,text\n1,"a"b\n2,x\n')
    assert (stray.texts, stray.bad) == (["x"], [(2, "not valid CSV: ',' expected after '\"'")])
    huge = check(b"id,text\n1," + b"x" * 200_000 + b"\n")
    assert (len(huge.texts[0]), huge.bad) == (200_000, [])
    rows = b"".join(b"%d,row number %d\n" % (i, i * i) for i in range(5000))
    cut = check(gzip.compress(b"id,text\n" + rows)[:-900])
    assert cut.texts == [f"row number {i * i}" for i in range(len(cut.texts))]
    assert len(cut.texts) > 1000
    assert cut.bad == [(len(cut.texts) + 2, "the gzip data is cut short")]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("header", [b"id,text,n", b"id, text , n", b'"id","text",n'])
def test_a_header_inside_joined_csv_is_no_document(
    tmp_path: Path, header: bytes, mark: bytes
) -> None:
    first, second = mark + header + b"\n1,one,5\n2,two,6\n", mark + header + b"\n3,three,7\n"
    block = read(write(tmp_path / "a.csv", first + second + second), keep_metadata=True)
    assert block.texts == ["one", "two", "three", "three"]
    reason = "the header again, as where files were joined"
    assert block.bad == [(4, reason), (6, reason)]
    # Its columns may stand in another order.
    turned = first + mark + b"text,n,id\nfour,8,4\n" + second
    block = read(write(tmp_path / "a.csv", turned), keep_metadata=True)
    assert (block.texts, block.ids) == (["one", "two", "four", "three"], ["1", "2", "4", "3"])
    assert block.metadata == [{"n": "5"}, {"n": "6"}, {"n": "8"}, {"n": "7"}]
    assert block.bad == [(4, reason), (6, reason)]
    # Without a line end between them, the row across the joint is bad.
    block = read(write(tmp_path / "a.csv", b"text,n\na,1\nb,2" + b"text,n\nc,3\n"))
    assert (block.texts, block.bad) == (["a", "c"], [(3, "3 fields, the header has 2")])


def test_text_files_are_documents_in_groups(tmp_path: Path) -> None:
    contents = {
        "a.txt": b"first\n",
        "b.py": b"{'looks': 'like JSON'}",
        "c.md": b"[link](url)",
        "d.txt": "Grüße".encode("latin-1"),
        "e.txt": b" \n",
        "f.txt": gzip.compress(b"\xef\xbb\xbfsqueezed"),
        "g.txt": gzip.compress(b"cut off" * 99)[:-9],
        "h": b"no suffix",
    }
    files = [source(write(tmp_path / name, content)) for name, content in contents.items()]
    (group,) = segments(files, ReadOptions())
    assert (group.reader, group.count) == ("text", 1)
    with closing(SegmentReader()) as reader:
        (block,) = reader.read(group.segment(0), keep_metadata=True)
    assert block.texts == [
        "first\n",
        "{'looks': 'like JSON'}",
        "[link](url)",
        "squeezed",
        "no suffix",
    ]
    assert block.ids == ["a.txt", "b.py", "c.md", "f.txt", "h"]
    assert (block.files, block.lines) == ([0, 1, 2, 5, 7], [1] * 5)
    assert [(bad.file, bad.line, bad.reason) for bad in block.bad] == [
        (3, 1, "not UTF-8 at byte 2 (0xfc)"),
        (4, 1, "empty document"),
        (6, 0, "the gzip data is cut short"),
    ]
    assert (block.lines_read, block.end_of_file, block.metadata) == (8, True, [{}] * 5)
    small = segments(files, ReadOptions(), segment_bytes=40)
    assert [len(plan.files) for plan in small] == [4, 3, 1]
    many = [InputFile(f"{number}.txt", 1, "", "") for number in range(GROUP_FILES + 3)]
    grouped = segments(many, ReadOptions(reader="text"))
    assert [len(plan.files) for plan in grouped] == [GROUP_FILES, 3]


RECOGNISED = {
    ("a.dat", b'{"text": "x"}\n{"text"'): "jsonl",
    ("a.txt", b'\xef\xbb\xbf \n{"text": "x"}'): "jsonl",
    ("a.txt", b'{"text": "' + b"x" * 70_000): "jsonl",
    ("a.c", b"{ int x; }"): "text",
    ("a.toml", b"[table]\nx = 1\n"): "text",
    ("a.toml", b"[1]\n"): "text",
    ("a.json", b"[table]\nx = 1\n"): "json_array",
    ("a.json", b'["a"]\n["b"]\n'): "jsonl",
    ("a.txt", b'[ {"text": "x"},\n'): "json_array",
    ("a.jsonl", b"{\n"): "jsonl",
    ("a.jsonl", b"not JSON"): "jsonl",
    ("a.jsonl.gz", gzip.compress(b"PAR1....PAR1", mtime=0)): "parquet",
    ("a.jsonl", b"ARROW1\0\0"): "arrow",
    ("a.bin", b"\xff\xff\xff\xff\x10\0\0\0"): "arrow",
    ("a.TSV.zst", b"id\ttext\n"): "csv",
    ("a.parquet", b""): "parquet",
    ("README", b"text"): "text",
}


@pytest.mark.parametrize(("name", "content"), RECOGNISED)
def test_readers_are_told_from_content_then_from_names(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = write(tmp_path / name, content)
    assert plan(path, ReadOptions()).reader == RECOGNISED[name, content]
    assert plan(path, ReadOptions(reader="text")).reader == "text"
    with closing(SegmentReader()) as reader:
        read_plan(plan(path, ReadOptions()), reader)


def test_an_unknown_reader_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="no reader is called 'json'; did you mean 'jsonl'"):
        segments([], ReadOptions(reader="json"))


def test_a_file_that_is_gone_is_the_users_to_mend(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.json", "a.csv", "a.txt", "a.parquet"):
        path = write(tmp_path / name, b'[{"text": "x"}]' if name == "a.json" else b"")
        planned = plan(path, ReadOptions())
        path.unlink()
        with (
            closing(SegmentReader()) as reader,
            pytest.raises(InputError, match="cannot be opened"),
        ):
            read_plan(planned, reader)
    assert READERS.keys() >= {"jsonl", "json_array", "parquet", "arrow", "csv", "text"}


def test_many_small_files_cost_little_each(tmp_path: Path) -> None:
    for number in range(300):
        write(tmp_path / f"{number}.jsonl", json_lines(documents(2, number)))
    files = [source(path) for path in sorted(tmp_path.iterdir())]
    with closing(SegmentReader()) as reader:
        found = [read_plan(each, reader) for each in segments(files, ReadOptions())]
    assert sum(len(each.texts) for each in found) == 600
    assert {each.blocks for each in found} == {1}
