"""Lines of JSON, arrays, CSV and text become the right documents, however files are cut."""

from __future__ import annotations

import gzip
import io
import os
import random
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec
import orjson
import pytest
import zstandard
from source_files import documents, json_lines, plan, read, read_plan, source, write

from curate.errors import EngineError, InputError
from curate.runtime.files import read_known, read_new
from curate.sources import SegmentReader, expand, identify, identities, segments
from curate.sources.decompress.open import CHUNK_BYTES
from curate.sources.identities import hash_small, read_whole
from curate.sources.json_records import count_records
from curate.sources.records import BLOCK_BYTES, InputFile, ReadOptions

GOOD = '{"id": "g", "text": "fine"}'

BAD_JSON = "not valid JSON: "
"""The rest is in the words of the parser, and differs by its version."""

LINES: dict[str, tuple[bytes, str | None]] = {
    "good": (b'{"id": 7, "text": "x"}', None),
    "pair of surrogates": (b'{"text": "\\ud83d\\ude00"}', None),
    "escaped NUL": (b'{"text": "a\\u0000b"}', None),
    "last of two keys": (b'{"text": null, "text": "x"}', None),
    "bad bytes elsewhere": (b'{"text": "x", "m": "\xff"}', None),
    "special token": (b'{"text": "<|endoftext|>"}', None),
    "nested 1000 deep": (b'{"text": "x", "m": ' + b"[" * 1000 + b"]" * 1000 + b"}", None),
    "joined behind a mark": (b'\xef\xbb\xbf{"text": "x"}', None),
    "cut": (b'{"text": "cut off', BAD_JSON),
    "trailing comma": (b'{"text": "x",}', BAD_JSON),
    "single quotes": (b"{'text': 'x'}", BAD_JSON),
    "prose": (b"plain text, not JSON", BAD_JSON),
    "array": (b'["a", "list"]', "the record is list, not an object"),
    "string": (b'"a string"', "the record is str, not an object"),
    "number": (b"42", "the record is int, not an object"),
    "null": (b"null", "the record is null, not an object"),
    "two objects": (b'{"text": "a"}{"text": "b"}', BAD_JSON),
    "two by return": (b'{"text": "a"}\r{"text": "b"}', BAD_JSON),
    "raw control": (b'{"text": "a\tb"}', BAD_JSON),
    "raw NUL": (b'{"text": "a\0b"}', BAD_JSON),
    "no comma": (b'{"id": 1 "text": "x"}', BAD_JSON),
    "lone brace": (b"{", BAD_JSON),
    "NULs": (b"\0\0\0\0", BAD_JSON),
    "too deep": (b'{"text": "x", "m": ' + b"[" * 100_000, BAD_JSON),
    "missing": (b'{"id": 1, "body": "x"}', "no field 'text' (fields: id, body)"),
    "no fields": (b"{}", "no field 'text' (fields: none)"),
    "null text": (b'{"text": null}', "'text' is null"),
    "number text": (b'{"text": 17}', "'text' is int, not a string"),
    "bool text": (b'{"text": true}', "'text' is bool, not a string"),
    "list text": (b'{"text": ["a"]}', "'text' is list, not a string"),
    "object text": (b'{"text": {"raw": "x"}}', "'text' is dict, not a string"),
    "bad byte": (b'{"text": "caf\xe9"}', "not UTF-8 at byte 13 (0xe9)"),
    "cut character": (b'{"text": "\xe4\xbd"}', "not UTF-8 at byte 10 (0xe4)"),
    "overlong": (b'{"text": "\xc0\xaf"}', "not UTF-8 at byte 10 (0xc0)"),
    "surrogate bytes": (b'{"text": "\xed\xa0\x80"}', "not UTF-8 at byte 10 (0xed)"),
    "lone high": (b'{"text": "a \\ud83d b"}', BAD_JSON),
    "lone low": (b'{"text": "a \\ude00"}', BAD_JSON),
    "empty": (b'{"text": ""}', "empty document"),
    "space": (b'{"text": " \\n\\t"}', "empty document"),
    "wide space": ('{"text": "\u00a0\u2003\u3000\u2028"}'.encode(), "empty document"),
    "invisible": ('{"text": "\u200b\ufeff\u200d\u00ad\u2060"}'.encode(), "empty document"),
}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_each_kind_of_line(tmp_path: Path, name: str, end: bytes) -> None:
    line, reason = LINES[name]
    found = read(write(tmp_path / "a.jsonl", end.join([GOOD.encode(), line, GOOD.encode()])))
    if reason is None:
        assert (found.lines, found.bad) == ([1, 2, 3], [])
        readable = line.removeprefix(b"\xef\xbb\xbf").replace(b"\xff", b"?")
        assert found.texts[1] == orjson.loads(readable)["text"]
    else:
        assert (found.lines, len(found.bad)) == ([1, 3], 1)
        assert found.bad[0][0] == 2
        assert found.bad[0][1].startswith(reason)
        assert len(found.excerpts[0]) <= 200
        assert line[:100].decode("utf-8", "replace").startswith(found.excerpts[0][:80])


def test_a_line_is_judged_alike_whatever_its_neighbours(tmp_path: Path) -> None:
    """The fast path takes runs of good lines, the slow one all others; both must agree."""
    choose = random.Random(5)
    names = [name for name in LINES if "deep" not in name]
    for _ in range(60):
        chosen = [choose.choice([*names, "good", "good"]) for _ in range(choose.randrange(1, 9))]
        content = b"\n".join(LINES[name][0] for name in chosen)
        path = write(tmp_path / "a.jsonl", content)
        found = read(path, ReadOptions(reader="jsonl"), segment_bytes=choose.randrange(1, 99))
        reasons = dict(found.bad)
        for number, name in enumerate(chosen, 1):
            expected = LINES[name][1]
            assert (number in found.lines) == (expected is None)
            assert reasons.get(number, "").startswith(expected or "")


def test_lines_that_could_hide_a_record_are_not_taken_for_whole_ones() -> None:
    # As many values as lines, yet not one on each.
    for lines in (b'{"text": "a"}{"text": "b"}\n\n', b'{"text":\n"a"}{"text": "b"}\n', b"\n{}\n"):
        assert count_records(lines) == 0
    assert count_records(b"{}\n{}\r\n{}\n") == 3
    assert count_records(b"}\n") == 0


def test_blank_lines_count_but_are_no_fault(tmp_path: Path) -> None:
    content = b"\n\n" + GOOD.encode() + b"\n   \n\t\r\n" + GOOD.encode() + b"\n\n"
    found = read(write(tmp_path / "a.jsonl", content))
    assert (found.lines, found.bad, found.lines_read) == ([3, 6], [], 7)
    for empty in (b"", b"\n", b"\xef\xbb\xbf"):
        found = read(write(tmp_path / "empty.jsonl", empty))
        assert (found.texts, found.bad, found.raw_bytes) == ([], [], len(empty))


def test_identifiers_and_fields(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"id": "a", "text": "x", "n": 1},
        {"id": 12345678901234567890123, "text": "x"},
        {"id": None, "text": "x"},
        {"id": 1.5, "text": "x"},
        {"id": True, "text": "x"},
        {"text": "x", "m": {"k": [1]}},
    ]
    content = "\n".join(str(record).replace("'", '"') for record in records)
    content = content.replace("None", "null").replace("True", "true")
    path = write(tmp_path / "a.jsonl", content.encode())
    expected = ["a", "12345678901234567890123", "", "", "", ""]
    assert read(path).ids == expected
    kept = read(path, keep_metadata=True)
    assert kept.ids == expected
    assert kept.metadata == [{"n": 1}, {}, {}, {}, {}, {"m": {"k": [1]}}]


def test_dotted_paths_reach_into_objects(tmp_path: Path) -> None:
    lines = [
        b'{"data": {"body": "one", "n": 1}, "meta": {"id": 5}}',
        b'{"data": {"body": null}}',
        b'{"data": {"other": "x"}}',
        b'{"data": "flat"}',
        b'{"data": {"body": "two"}, "meta": null}',
    ]
    options = ReadOptions(text="data.body", id="meta.id")
    path = write(tmp_path / "a.jsonl", b"\n".join(lines))
    found = read(path, options, keep_metadata=True)
    assert (found.texts, found.ids, found.lines) == (["one", "two"], ["5", ""], [1, 5])
    assert found.metadata == [{"data": {"n": 1}, "meta": {}}, {"data": {}, "meta": None}]
    assert [reason for _, reason in found.bad] == [
        "'data.body' is null",
        "no field 'data.body' (fields: other)",
        "'data' is str, not an object",
    ]
    shared = read(write(tmp_path / "b.jsonl", lines[0]), ReadOptions(text="data.body", id="data.n"))
    assert (shared.texts, shared.ids) == (["one"], ["1"])


def test_metadata_survives_bad_bytes_in_other_fields(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"text": "x", "m": "\xff"}\n{"text": "y", "m": 1e999}\n')
    found = read(path, keep_metadata=True)
    assert (found.texts, found.metadata) == (["x", "y"], [{"m": "\ufffd"}, {"m": None}])


def encodings(content: bytes) -> dict[str, bytes]:
    """Content as files that must give the same documents."""
    middle = len(content) // 2
    compress = zstandard.ZstdCompressor().compress
    return {
        "plain": content,
        "gzip": gzip.compress(content[:middle]) + gzip.compress(content[middle:]),
        "zstd": b"".join(compress(content[at : at + 37]) for at in range(0, len(content), 37)),
    }


MIXED = (
    b"\xef\xbb\xbf"
    + json_lines(documents(5))
    + b"\n \nnot JSON\n"
    + json_lines([{"id": "long", "text": "long " * 60}], b"\r\n")
    + json_lines(documents(4, start=5))
    + GOOD.encode()
)


@pytest.mark.parametrize("kind", ["plain", "gzip", "zstd"])
def test_any_cut_gives_the_same_documents_and_lines(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "a.jsonl", encodings(MIXED)[kind])
    whole = read(path)
    assert whole.ids == [*(f"d{n}" for n in range(5)), "long", *(f"d{n}" for n in range(5, 9)), "g"]
    assert whole.lines == [1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14]
    for segment_bytes in [*range(1, 60), 99, 150, 301, len(MIXED) - 1, len(MIXED)]:
        cut = read(path, segment_bytes=segment_bytes)
        assert (cut.texts, cut.lines, cut.bad) == (whole.texts, whole.lines, whole.bad)
        assert (cut.lines_read, cut.raw_bytes) == (14, len(MIXED))


@pytest.mark.parametrize("kind", ["plain", "gzip", "zstd"])
def test_segments_do_not_depend_on_what_was_read_before(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "a.jsonl", encodings(MIXED)[kind])
    choose = random.Random(6)
    for segment_bytes in (7, 60, 200):
        cut = plan(path, ReadOptions(), segment_bytes)
        alone = {}
        for index in range(len(MIXED) // segment_bytes + 1):
            with closing(SegmentReader()) as reader:
                alone[index] = list(reader.read(cut.segment(index)))
        with closing(SegmentReader()) as reader:
            for index in sorted(choose.sample(sorted(alone), len(alone) // 2)):
                assert list(reader.read(cut.segment(index))) == alone[index]
            for index in choose.choices(sorted(alone), k=10):
                assert list(reader.read(cut.segment(index))) == alone[index]


def test_what_lies_beyond_the_end_is_an_empty_block(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", gzip.compress(json_lines(documents(3))))
    cut = plan(path, ReadOptions(), segment_bytes=50)
    assert cut.count is None
    with closing(SegmentReader()) as reader:
        (block,) = reader.read(cut.segment(900))
    assert (block.texts, block.bad, block.lines_read, block.end_of_file) == ([], [], 0, True)
    plain = plan(write(tmp_path / "b.jsonl", json_lines(documents(3))), ReadOptions(), 50)
    assert plain.count == -(-len(json_lines(documents(3))) // 50)
    with pytest.raises(ValueError, match="expected a segment from 0 to"):
        plain.segment(plain.count)


def damaged(kind: str) -> bytes:
    content = encodings(json_lines(documents(40)))[kind]
    return content[: len(content) * 6 // 10]


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize("segment_bytes", [64, 333, 1 << 20])
def test_damage_is_one_bad_record_after_the_documents_before_it(
    tmp_path: Path, kind: str, segment_bytes: int
) -> None:
    path = write(tmp_path / "a.jsonl", damaged(kind))
    whole = read(path)
    assert whole.texts == [record["text"] for record in documents(len(whole.texts))]
    assert len(whole.texts) > 10
    assert len(whole.bad) == 1
    assert "cut short" in whole.bad[0][1]
    assert whole.bad[0][0] == len(whole.texts) + 1
    cut = read(path, segment_bytes=segment_bytes)
    assert (cut.texts, cut.bad) == (whole.texts, whole.bad)
    with closing(SegmentReader()) as reader:
        reports = [
            bad
            for index in range(9000 // segment_bytes + 1)
            for block in reader.read(plan(path, ReadOptions(), segment_bytes).segment(index))
            for bad in block.bad
        ]
    assert len(reports) == 1


def test_a_whole_record_at_the_point_of_damage_is_kept(tmp_path: Path) -> None:
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    content = bytearray(compressor.compress(json_lines(documents(3))[:-1]))
    content[-1] ^= 1
    found = read(write(tmp_path / "a.jsonl", bytes(content)))
    assert found.texts == [record["text"] for record in documents(3)]
    assert [line for line, _ in found.bad] == [4]


def test_lines_longer_than_any_buffer(tmp_path: Path) -> None:
    choose = random.Random(7)
    lengths = [10, 700_000, 3, 262_144, 262_143, 1_500_000, 5, 5, 65_536, 300_000]
    texts = ["".join(choose.choices("ab cd\n", k=length)) for length in lengths]
    content = json_lines({"text": text} for text in texts)
    for name, data in {"a": content, "b": gzip.compress(content, 1)}.items():
        path = write(tmp_path / name, data)
        for segment_bytes in (100_000, 262_144, 1 << 25):
            found = read(path, segment_bytes=segment_bytes)
            assert (found.texts, found.lines) == (texts, list(range(1, 11)))
            assert found.raw_bytes == len(content)


def test_blocks_are_of_about_their_size(tmp_path: Path) -> None:
    records = [{"text": "word " * 200}] * 15_000
    contents = {
        "a.jsonl": json_lines(records),
        "a.json": orjson.dumps(records),
        "a.csv": b"text\n" + b"".join(record["text"].encode() + b"\n" for record in records),
    }
    for name, content in contents.items():
        found = read(write(tmp_path / name, content))
        assert (len(found.texts), found.raw_bytes) == (15_000, len(content))
        # They end with what was read of a stream at once, or with a run of rows.
        block_bytes = len(content) / found.blocks
        assert 0.8 * BLOCK_BYTES < block_bytes < BLOCK_BYTES + CHUNK_BYTES
    files = [source(write(tmp_path / f"{n}.txt", b"word " * 25_000)) for n in range(10)]
    (group,) = segments(files, ReadOptions())
    with closing(SegmentReader()) as reader:
        assert [len(block.texts) for block in reader.read(group.segment(0))] == [5, 5]


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, compress: Any) -> None:
    content = json_lines({"text": "word " * 400} for _ in range(12_000))
    path = write(tmp_path / "a.jsonl", compress(content))
    whole = plan(path, ReadOptions(), segment_bytes=64 << 20)
    tracemalloc.start()
    try:
        with closing(SegmentReader()) as reader:
            documents = sum(len(block.texts) for block in reader.read(whole.segment(0)))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert documents == 12_000
    assert len(content) > 20 << 20
    assert peak_bytes < 8 << 20


def test_a_reader_left_half_way_can_go_on_with_another_segment(tmp_path: Path) -> None:
    content = json_lines({"text": "word " * 200} for _ in range(12_000))
    path = write(tmp_path / "a.jsonl", gzip.compress(content, 1))
    cut = plan(path, ReadOptions(), segment_bytes=9 << 20)
    with closing(SegmentReader()) as reader:
        next(iter(reader.read(cut.segment(0))))
        assert len(read_plan(cut, reader).texts) == 12_000


def test_small_files_of_lines_are_read_as_a_group(tmp_path: Path) -> None:
    contents = [
        json_lines(documents(2)),
        b"\xef\xbb\xbf" + json_lines(documents(1)).rstrip(b"\n"),  # a mark, and no last line end
        b'{"text": 1}\n\n{"id": "x", "text": "late"}\n',
        b"",
    ]
    files = [
        source(write(tmp_path / f"{number}.jsonl", content))
        for number, content in enumerate(contents)
    ]
    (group,) = segments(files, ReadOptions())
    with closing(SegmentReader()) as reader:
        (block,) = reader.read(group.segment(0))
        alone = [next(reader.read(segments([file], ReadOptions())[0].segment(0))) for file in files]
    assert block.texts == [text for one in alone for text in one.texts]
    assert (block.files, block.lines) == ([0, 0, 1, 2], [1, 2, 1, 3])
    assert [(bad.file, bad.line) for bad in block.bad] == [(2, 1)]
    assert block.lines_read == sum(one.lines_read for one in alone)
    (tmp_path / "1.jsonl").write_bytes(b"{}\n")
    with (
        closing(SegmentReader()) as reader,
        pytest.raises(InputError, match=r"1\.jsonl: changed while"),
    ):
        list(reader.read(group.segment(0)))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_small_files_are_what_was_identified(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "in" / name, b'{"text": "one"}\n')
    write(tmp_path / "in" / f"b{path.suffix}", b'{"text": "two"}\n')
    found = expand([str(tmp_path / "in")], ReadOptions(), tmp_path)
    (group,) = segments(identify(found, tmp_path), ReadOptions())
    with closing(SegmentReader()) as reader:
        assert sum(len(block.texts) for block in reader.read(group.segment(0))) == 2
    first = group.beginning(1)
    assert [file.path for file in first.files] == [str(path)]
    assert group.beginning(10**6) == group.segment(0)
    path.write_bytes(b'{"text": "ONE"}\n')  # as long as before
    os.utime(path, ns=(1, 1))
    with (
        closing(SegmentReader()) as reader,
        pytest.raises(InputError, match="changed while it was being"),
    ):
        list(reader.read(group.segment(0)))
    path.unlink()
    with closing(SegmentReader()) as reader, pytest.raises(InputError, match="cannot be read"):
        list(reader.read(group.segment(0)))


def test_damage_in_a_small_file_is_of_what_was_identified(tmp_path: Path) -> None:
    for name in ("a.txt.gz", "b.txt.gz"):
        write(tmp_path / "in" / name, gzip.compress(name.encode()))
    found = expand([str(tmp_path / "in")], ReadOptions(), tmp_path)
    (group,) = segments(identify(found, tmp_path), ReadOptions())
    path = tmp_path / "in" / "a.txt.gz"
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))  # as long as before
    os.utime(path, ns=(1, 1))
    with (
        closing(SegmentReader()) as reader,
        pytest.raises(InputError, match="changed while it was being"),
    ):
        list(reader.read(group.segment(0)))


def test_small_files_behind_urls(tmp_path: Path) -> None:
    content = b'{"text": "one"}\n'
    path = write(tmp_path / "a.jsonl", content)
    url = f"file://{path}"
    assert read_whole(InputFile(url, len(content), "", "a.jsonl")) == content
    for wrong_bytes in (len(content) - 1, len(content) + 1):
        with pytest.raises(InputError, match=r"file://.*a\.jsonl: changed while it was being read"):
            read_whole(InputFile(url, wrong_bytes, "", "a.jsonl"))


class Unreachable(io.RawIOBase):
    """A file whose store goes away once it is open."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        raise ConnectionResetError("the store has gone")


class Away(fsspec.AbstractFileSystem):
    protocol = "away"

    def _open(self, path: str, **_: Any) -> io.RawIOBase:
        return Unreachable()


def test_small_files_whose_store_goes_away(tmp_path: Path) -> None:
    fsspec.register_implementation("away", Away, clobber=True)
    with pytest.raises(EngineError, match=r"^away://x/y: cannot be read \(the store has gone\)"):
        read_whole(InputFile("away://x/y", 7, "", "y"))


def test_local_files_of_any_length_are_read_whole(tmp_path: Path) -> None:
    for length_bytes in (0, 1, 256 * 40_000):
        path = write(tmp_path / "a", (bytes(range(256)) * 40_000)[:length_bytes])
        found = read_new(str(path), length_bytes)
        assert found is not None
        assert found[0] == path.read_bytes()
        assert found[1].st_size == length_bytes
        assert [read_known(str(path), expected)[0] for expected in (0, length_bytes, 99)] == [
            found[0]
        ] * 3
    assert read_new(str(path), 256 * 40_000 - 1) is None


def test_very_many_files_are_identified_by_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        write(tmp_path / f"{number:02d}.txt", f"text {number % 7}".encode())
    write(tmp_path / "large.txt", bytes(3 << 20))
    paths = expand([str(tmp_path)], ReadOptions(), tmp_path)
    here = identify(paths, tmp_path / "a")
    monkeypatch.setattr(identities, "MANY_FILES", 8)
    assert identify(paths, tmp_path / "b") == here
    (tmp_path / "29.txt").unlink()
    with pytest.raises(InputError, match=r"29\.txt: No such file"):
        identify(paths, tmp_path / "c")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert read_new(str(tmp_path / "pipe"), 1 << 20) is None
    assert read_new(str(tmp_path), 1 << 20) is None


def test_a_file_that_grows_while_it_is_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.txt", b"some words")
    read = os.read

    def read_late(descriptor: int, length_bytes: int) -> bytes:
        path.write_bytes(b"some words and more")
        return read(descriptor, length_bytes)

    monkeypatch.setattr(os, "read", read_late)
    with pytest.raises(InputError, match="changed while it was being read"):
        hash_small(str(path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"text.txt\0\0\0ustar  \0some text", "not plain text: a NUL at byte 8, as in archives"),
        (
            gzip.compress(b"SQLite format 3\0", mtime=0),
            "not plain text: a NUL at byte 15, as in archives",
        ),
        ("hello".encode("utf-16-le"), "not plain text: a NUL at byte 1, as in archives"),
        (b"%PDF-1.4\nstream", "a PDF file: extract its text first"),
        (b"WARC/1.0\r\nWARC-Type: response", "a WARC file of web pages: extract"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS: type"),
    ],
)
def test_files_that_only_pass_for_text_are_bad(tmp_path: Path, content: bytes, reason: str) -> None:
    found = read(write(tmp_path / "a", content))
    assert (found.texts, [line for line, _ in found.bad]) == ([], [1])
    assert found.bad[0][1].startswith(reason)


def test_a_csv_with_two_columns_of_one_name_is_not_guessed_between(tmp_path: Path) -> None:
    found = read(write(tmp_path / "a.csv", b"text,text\na,b\n"))
    assert (found.texts, found.bad) == ([], [(1, "no single column 'text' (columns: text, text)")])
