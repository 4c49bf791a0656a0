"""A record above the limit is one bad record, in every reader, and is never held in memory."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import slow_if
from source_files import read, write

from curate.sources.records import ReadOptions

ROOT = Path(__file__).parents[1]
LIMIT_BYTES = 100_000
REASON = "record larger than limits.record_bytes (100,000 bytes)"

Rows = list[dict[str, Any]]


def to_csv(rows: Rows) -> bytes:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, ["id", "text", "more"])
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue().encode()


def to_parquet(rows: Rows) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=7)
    return sink.getvalue()


def to_arrow(rows: Rows, kind: Any = None) -> bytes:
    table = pa.Table.from_pylist(rows)
    if kind is not None:
        table = table.set_column(1, "text", table["text"].combine_chunks().cast(kind))
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def to_dictionary(rows: Rows) -> bytes:
    return to_arrow(rows, pa.dictionary(pa.int32(), pa.large_string()))


FORMS: dict[str, Callable[[Rows], bytes]] = {
    "a.jsonl": lambda rows: "".join(
        json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(),
    "b.jsonl": lambda rows: "\r\n".join(json.dumps(row) for row in rows).encode(),
    "c.json": lambda rows: json.dumps(rows, ensure_ascii=False, indent=1).encode(),
    "d.json": lambda rows: "\n".join(json.dumps(row, indent=2) for row in rows).encode(),
    "e.csv": to_csv,
    "f.parquet": to_parquet,
    "g.arrow": to_arrow,
    "h.arrow": to_dictionary,
    "i.arrow": lambda rows: to_arrow(rows, pa.string_view()),
    "j.arrow": lambda rows: to_arrow(rows, pa.large_binary()),
}  # fmt: skip

PIECES = ["word ", "\\", '"', "\n", "{[", "]}", ", ", "é文", ",", "\r\n", '""']


def make_rows(seed: int) -> tuple[Rows, list[str]]:
    """Rows far below and far above the limit, and the texts of those below."""
    choose = random.Random(seed)
    rows, small = [], []
    for number in range(12):
        is_large = choose.random() < 0.4
        pieces = choose.choices(PIECES, k=choose.choice([60_000, 150_000]) if is_large else 50)
        if choose.random() < 0.2:  # no line ends, or nothing but what escapes
            pieces = [choose.choice(["w", "\\", '"'])] * (len(pieces) * 3)
        text = f"{number} " + "".join(pieces)
        more = choose.choice(PIECES) * 9
        rows.append({"id": str(number), "text": text, "more": more})
        if not is_large:
            small.append(text)
    return rows, small


@pytest.mark.parametrize("seed", slow_if(bool, range(2)))
@pytest.mark.parametrize("name", FORMS)
def test_a_large_record_costs_no_other(tmp_path: Path, name: str, seed: int) -> None:
    rows, small = make_rows(seed)
    options = ReadOptions(record_bytes=LIMIT_BYTES)
    content = FORMS[name](rows)
    is_table = name.endswith((".parquet", ".arrow"))
    for suffix, compress in ("", bytes), (".gz", gzip.compress):
        path = write(tmp_path / (name + suffix), compress(content))
        found = read(path, options, segment_bytes=200_000)
        assert found.texts == small
        assert [reason for _, reason in found.bad] == [REASON] * (len(rows) - len(small))
        if name == "a.jsonl":
            assert found.lines == [int(row["id"]) + 1 for row in rows if row["text"] in small]
        if is_table:
            break
    assert read(path, segment_bytes=200_000).texts == [row["text"] for row in rows]


def test_lines_of_csv_are_counted_across_large_records(tmp_path: Path) -> None:
    # 52 lines: a return before a line feed ends one line with it.
    large = "a\r\n" * 40 + "b" * 400_000 + '\n""\r' * 10
    content = f'id,text\n1,x\n2,"{large}"\n3,y\n4,{"z" * 900_000}\n5,u\n'
    found = read(write(tmp_path / "a.csv", content.encode()), ReadOptions(record_bytes=LIMIT_BYTES))
    assert (found.texts, found.ids) == (["x", "y", "u"], ["1", "3", "5"])
    assert found.lines == [2, 3 + 52, 3 + 54]
    assert found.bad == [(3, REASON), (3 + 53, REASON)]


def test_a_large_header_leaves_no_table(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b"text," + b"x" * 900_000 + b"\ntext,b\n1,2\n")
    found = read(path, ReadOptions(record_bytes=LIMIT_BYTES))
    assert (found.texts, found.bad) == ([], [(1, REASON)])


def test_a_text_file_is_one_record(tmp_path: Path) -> None:
    options = ReadOptions(record_bytes=LIMIT_BYTES)
    for content, is_large in (b"x" * LIMIT_BYTES, False), (b"x" * (LIMIT_BYTES + 1), True):
        for suffix, compress in ("", bytes), (".gz", gzip.compress):
            found = read(write(tmp_path / f"a.txt{suffix}", compress(content)), options)
            assert bool(found.texts) != is_large
            assert [reason for _, reason in found.bad] == [REASON] * is_large


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_the_limit_is_exact_for_a_line(tmp_path: Path, end: bytes) -> None:
    record = b'{"text": "' + b"x" * (LIMIT_BYTES - 12) + b'"}'
    for more, is_large in (b"", False), (b" ", True):
        for before in (b"", b"\xef\xbb\xbf", b'{"text": "first"}\n'):
            path = write(tmp_path / "a.jsonl", before + record + more + end)
            found = read(path, ReadOptions(record_bytes=LIMIT_BYTES))
            assert len(found.bad) == is_large
            assert len(found.texts) == (not is_large) + before.count(b"first")


def test_damage_behind_a_large_line_is_reported(tmp_path: Path) -> None:
    unfinished = random.Random(0).randbytes(900_000).hex().encode()
    content = gzip.compress(b'{"text": "a"}\n{"text": "' + unfinished)
    path = write(tmp_path / "a.jsonl.gz", content[:-9])
    found = read(path, ReadOptions(record_bytes=LIMIT_BYTES))
    assert found.texts == ["a"]
    assert found.bad == [(2, "the gzip data is cut short")]


HEAVY = """
    import resource, sys
    from pathlib import Path
    from curate.runtime.files import hash_file
    from curate.sources import ReadOptions, SegmentReader, segments
    from curate.sources.records import InputFile

    def peak_bytes():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

    path = Path(sys.argv[1])
    file = InputFile(str(path), path.stat().st_size, hash_file(path), path.name)
    (plan,) = segments([file], ReadOptions(record_bytes=4_000_000))
    before = peak_bytes()
    reader, number, ended, bad = SegmentReader(), 0, False, 0
    while not ended:
        for block in reader.read(plan.segment(number)):
            bad, ended = bad + len(block.bad), block.end_of_file
        number += 1
    print(bad, peak_bytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in other units elsewhere")
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_memory_follows_the_limit_not_the_record(tmp_path: Path, name: str) -> None:
    begin, end = {
        "a.jsonl": (b'{"text": "', b'"}\n'),
        "a.json": (b'[{"text": "', b'"}]'),
        "a.csv": (b'text\n"', b'"\n'),
        "a.txt": (b"", b""),
    }[name]
    path = tmp_path / f"{name}.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(begin)
        for _ in range(150):
            file.write(b"x" * (1 << 20))
        file.write(end)
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HEAVY), str(path)],
        capture_output=True, text=True, cwd=ROOT, check=True, timeout=120,
    )  # fmt: skip
    bad, growth_bytes = map(int, ended.stdout.split())
    assert bad == 1
    assert growth_bytes < 60_000_000
