"""Faults in fields that nobody reads make no record bad; faults in the text do, in every reader."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest
from source_files import Found, read, write

from curate.sources.odd_json import all_fields, split_object
from curate.sources.records import ReadOptions

GOOD = [
    b'{"ppl": NaN, "text": "a"}',
    b'{"text": "a", "ppl": [-Infinity, {"x": NaN}], "n": Infinity}',
    b'{"text": "a", "n": 1e999, "m": -1e-999}',
    b'{"text": "a", "n": ' + b"9" * 6000 + b"}",
    b'{"text": "a", "n": 007, "m": +1, "o": .5}',
    b'{"text": "a", "x": "\\ud800"}',
    b'{"\\ud800": 1, "text": "a"}',
    b'{"text": "a", "x": "caf\xe9"}',
    b'{"caf\xe9": 1, "text": "a"}',
    b'{"text": "a", "x": "\x01\ttab", "y": "\\q"}',
    b'{"text": "a", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"text": "a", "x": ' + b'{"y":' * 5000 + b"1" + b"}" * 5000 + b"}",
    b'{"text": "b", "text": "a", "x": 1, "x": NaN}',
    b'{"te\\u0078t": "a", "x": NaN}',
    b'{"text": "a", "id": NaN}',
    b'{"text": "a", "id": "\\ud800"}',
    b'{ "x" : NaN , "text" : "a" } ',
]
BAD = [
    b'{"text": NaN}',
    b'{"text": "a\\ud800"}',
    b'{"text": "caf\xe9"}',
    b'{"text": "a\x01"}',
    b'{"text": "a\\q"}',
    b'{"text": 1e999}',
    b'{"text": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"text": "a", "text": "\\ud800"}',
    b'{"text": "a", "x": NaN',
    b'{"text": "a", "x": [NaN}',
    b'{"text": "a", "x": NaN]',
    b'{"text": "a", "x": NaN, }',
    b'{"text": "a" "x": NaN}',
    b'{"text": "a", "x" NaN}',
    b'{"text": "a", NaN}',
    b'{"text": "a", "x": NaN} {}',
    b'{"text": "a", "x": "unclosed}',
    b'{"x": NaN}',
    b"NaN",
    b'{"text": "a", "x": [1 2]}',
    b'{"text": "a", "x": [1,, NaN]}',
]
PLAIN = b'{"text": "plain"}'


def outcome(path: Path, keep_metadata: bool) -> Found:
    return read(path, ReadOptions(reader="jsonl"), keep_metadata=keep_metadata)


@pytest.mark.parametrize("keep_metadata", [False, True])
@pytest.mark.parametrize("around", [[], [PLAIN]])
@pytest.mark.parametrize("record", GOOD)
def test_odd_fields_are_no_fault(
    tmp_path: Path, record: bytes, around: list[bytes], keep_metadata: bool
) -> None:
    path = write(tmp_path / "a.jsonl", b"\n".join([*around, record, *around]) + b"\n")
    found = outcome(path, keep_metadata)
    plain = ["plain"] * len(around)
    assert (found.texts, found.bad) == ([*plain, "a", *plain], [])
    assert set(found.ids) == {""}
    if keep_metadata:
        orjson.dumps(found.metadata)


@pytest.mark.parametrize("keep_metadata", [False, True])
@pytest.mark.parametrize("around", [[], [PLAIN]])
@pytest.mark.parametrize("record", BAD)
def test_faults_of_the_text_and_of_the_form_are(
    tmp_path: Path, record: bytes, around: list[bytes], keep_metadata: bool
) -> None:
    path = write(tmp_path / "a.jsonl", b"\n".join([*around, record, *around]) + b"\n")
    found = outcome(path, keep_metadata)
    assert found.texts == ["plain"] * 2 * len(around)
    ((line, reason),) = found.bad
    assert line == 1 + len(around)
    assert reason


def test_odd_elements_of_an_array(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", b"[" + b",\n".join(GOOD) + b"]")
    found = read(path)
    assert (found.texts, found.bad) == (["a"] * len(GOOD), [])


def test_a_dotted_text_beside_odd_fields(tmp_path: Path) -> None:
    rows = [
        b'{"data": {"ppl": NaN, "body": "a"}, "id": 7}',
        b'{"data": {"ppl": NaN, "body": NaN}, "id": 7}',
        b'{"data": NaN, "id": 7}',
    ]
    path = write(tmp_path / "a.jsonl", b"\n".join(rows))
    found = read(path, ReadOptions(text="data.body"))
    assert (found.texts, found.ids) == (["a"], ["7"])
    assert found.bad == [
        (2, "'data.body' is float, not a string"),
        (3, "'data' is float, not an object"),
    ]


def test_a_line_cut_short_is_no_object() -> None:
    whole = b'{"text": "a", "x": [NaN, {"y": "\\ud800"}], "z": {}}'
    assert split_object(whole) == {"text": b'"a"', "x": b'[NaN, {"y": "\\ud800"}]', "z": b"{}"}
    for stop in range(len(whole)):
        assert split_object(whole[:stop]) is None


def test_metadata_keeps_what_json_cannot_say() -> None:
    record = b'{"a": [NaN, 1], "b": 99999999999999999999, "c": "\\ud800", "d": "caf\xe9", "e": 01}'
    assert all_fields(record) == {
        "a": [None, 1], "b": 99999999999999999999, "c": '"\\ud800"', "d": "caf\ufffd", "e": "01"
    }  # fmt: skip


WHOLE = 2**64, -(2**63) - 1, 10**307 + 1
"""Whole numbers that 64 bits cannot hold."""


@pytest.mark.parametrize("odd", ["", ', "ppl": NaN'])
@pytest.mark.parametrize("around", [[], [PLAIN]])
@pytest.mark.parametrize("number", WHOLE)
def test_whole_numbers_beyond_64_bits_stay_whole(
    tmp_path: Path, number: int, around: list[bytes], odd: str
) -> None:
    record = f'{{"text": "a", "id": {number}, "n": [{{"m": {number}}}], "f": 1e30{odd}}}'.encode()
    path = write(tmp_path / "a.jsonl", b"\n".join([*around, record]) + b"\n")
    for key in ("id", 'i"d'):  # the second is read without a decoder of two fields
        path.write_bytes(path.read_bytes().replace(b'"id"', json.dumps(key).encode()))
        block = read(path, ReadOptions(id=key), keep_metadata=True)
        assert block.ids[-1] == str(number)
        assert block.metadata is not None
        assert block.metadata[-1]["n"] == [{"m": number}]
        assert block.metadata[-1]["f"] == 1e30
        assert read(path, ReadOptions(id=key)).ids[-1] == str(number)


def test_a_number_that_no_double_holds_is_kept_as_text() -> None:
    digits = "7" * 400
    assert all_fields(f'{{"a": {digits}, "b": [{digits}, 1]}}'.encode()) == {
        "a": digits,
        "b": [digits, 1],
    }


@pytest.mark.parametrize("key", ['a"b', "a\\b", "a\nb", "a\x00", "a\x1f", "é", "文"])
def test_any_key_is_obeyed(tmp_path: Path, key: str) -> None:
    rows = [{key: f"text {number}", key + "i": number} for number in range(3)]
    path = write(tmp_path / "a.jsonl", b"".join(orjson.dumps(row) + b"\n" for row in rows))
    found = read(path, ReadOptions(text=key, id=key + "i"))
    assert found.texts == ["text 0", "text 1", "text 2"]
    assert found.ids == ["0", "1", "2"]
    missing = read(path, ReadOptions(text="text", id=key + "i"))
    assert len(missing.bad) == 3
    assert missing.bad[0][1].startswith("no field 'text' (fields: ")
