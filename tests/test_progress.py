"""The time left follows from what is done: files compressed or not, writing and verifying."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from conftest import make_documents
from numpy.typing import NDArray
from rich.console import Console
from source_files import plan, source

import curate
from curate.report.terminal import TerminalObserver
from curate.runtime import progress
from curate.runtime.progress import Observer, Pace, in_proportion, metered, worked
from curate.runtime.workers import map_tasks
from curate.sources import SegmentReader, segments
from curate.sources.records import ReadOptions
from curate.tokens.fill import _Sizes
from curate.tokens.tasks import PROGRESS, Task, TaskItem, size_bytes

THIRD = 1 / 3
READ_AHEAD_BYTES = 2_000_000
"""Decoders take in more than they have given out, by a megabyte of text and less."""


@cache
def wiki_rows() -> list[dict[str, str]]:
    return [row for part in range(40) for row in make_documents("wiki", 300, seed=part)]


@cache
def wiki_lines() -> bytes:
    return "".join(json.dumps(row) + "\n" for row in wiki_rows()).encode()


def wiki_table() -> bytes:
    lines = (f'{row["id"]},"{row["text"]}",xx\n' for row in wiki_rows())
    return ("id,text,lang\n" + "".join(lines)).encode()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".zst": zstandard.ZstdCompressor(3).compress,
    ".gz": partial(gzip.compress, compresslevel=1),
    ".bz2": bz2.compress,
    ".xz": partial(lzma.compress, preset=1),
}

FILES: dict[str, Callable[[], bytes]] = {
    **{
        f"a.jsonl{suffix}": lambda pack=pack: pack(wiki_lines())  # type: ignore[misc]
        for suffix, pack in PACKERS.items()
    },
    "b.csv": wiki_table,
    "b.csv.gz": lambda: PACKERS[".gz"](wiki_table()),
    "c.json.zst": lambda: PACKERS[".zst"](json.dumps(wiki_rows()).encode()),
}


@cache
def content_of(name: str) -> bytes:
    return FILES[name]()


class Recorder(Observer):
    """Keeps the work done and expected of each report, by stage."""

    def __init__(self) -> None:
        self.reports: dict[str, list[tuple[int, int]]] = {}
        self._stage, self._expected = "", 0

    def begin(self, stage: str, names: Sequence[str] = (), totals: Sequence[int] = ()) -> None:
        self._stage, self._expected = stage, sum(totals)
        self.reports.setdefault(stage, [])

    def expect(self, totals: Sequence[int]) -> None:
        self._expected = sum(totals)

    def advance(self, counters: NDArray[np.int64]) -> None:
        if len(counters):
            self.reports[self._stage].append((int(counters[:, 0].sum()), self._expected))

    def work(self, done: int, total: int) -> None:
        self.reports[self._stage].append((done, total))


@pytest.mark.parametrize("name", FILES)
def test_readers_foretell_the_decoded_bytes_of_a_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content_of(name))
    file_plan, reader = plan(path, ReadOptions()), SegmentReader()
    blocks, segment = [], 0
    while not blocks or not blocks[-1].end_of_file:
        blocks += reader.read(file_plan.segment(segment))
        segment += 1
    whole = sum(block.raw_bytes for block in blocks)
    assert len(blocks) > 5 and blocks[-1].file_bytes == whole
    done = 0
    for block in blocks:
        done += block.raw_bytes
        if done >= READ_AHEAD_BYTES:
            assert abs(block.file_bytes / whole - 1) < THIRD


def test_a_frame_that_states_its_length_is_believed_from_the_start(tmp_path: Path) -> None:
    """Text of which the second half compresses 20 times as well as the first."""
    noise = np.random.default_rng(0).integers(97, 123, (8000, 250), np.uint8)
    rows = [bytes(row).decode() for row in noise] + ["the same words again " * 12] * 8000
    lines = "".join(json.dumps({"text": row}) + "\n" for row in rows).encode()
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(PACKERS[".zst"](lines))
    first = next(iter(SegmentReader().read(plan(path, ReadOptions()).segment(0))))
    assert first.raw_bytes < len(lines) / 4 and first.file_bytes == len(lines)


def test_all_that_is_expected_is_read_in_the_end(bpe: dict[str, object], tmp_path: Path) -> None:
    """One domain of every kind of file: plain, compressed, tables, and small ones in groups."""
    data = tmp_path / "data"
    data.mkdir()
    for name in FILES:
        (data / name).write_bytes(content_of(name))
    pq.write_table(
        pa.Table.from_pylist(wiki_rows()[:9000]), data / "d.parquet", row_group_size=1000
    )
    for number in range(20):
        rows = make_documents("code", 20, seed=number)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (data / f"e{number}.jsonl").write_text(text)
    (tmp_path / "tokenizer.json").write_text(json.dumps(bpe))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: kinds\ntokenizer: {path: tokenizer.json, eos: '<|endoftext|>'}\n"
        "domains: [{name: all, paths: ['data/*']}]\nbudget_tokens: 1000\n"
    )
    recorder = Recorder()
    curate.tokenize(recipe, workers=2, progress=recorder)
    done, expected = recorder.reports["tokenise"][-1]
    assert expected > 8 * len(wiki_lines()) and abs(done / expected - 1) < 0.01


def test_a_domain_is_estimated_by_its_own_beginning_before_it_is_read(tmp_path: Path) -> None:
    """Three domains that compress differently, and one that is damaged from its start."""
    rng = np.random.default_rng(0)
    plans, decoded = [], []
    for number, words in enumerate((1 << 16, 1 << 10, 1 << 4, 1 << 4)):
        rows = [{"text": " ".join(map(str, rng.integers(0, words, 50)))} for _ in range(9000)]
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path = tmp_path / f"{number}.jsonl.gz"
        packed = PACKERS[".gz"](lines)
        path.write_bytes(packed if number < 3 else packed[:10] + b"\xff" * 1000)
        file = source(path)._replace(reader="jsonl", compression="gzip")
        plans += segments([file], ReadOptions())
        decoded.append(len(lines))
    tasks = [
        Task(number, (TaskItem(file, None),), size_bytes(file), False)
        for number, file in enumerate(plans)
    ]
    sizes, nothing = _Sizes(tasks, len(plans)), np.zeros((len(plans), len(PROGRESS)), np.int64)
    guessed = sizes.decoded_bytes(nothing)
    sizes.sample()
    sampled = sizes.decoded_bytes(nothing)
    assert max(abs(np.divide(guessed, decoded) - 1)[:3]) > 0.2
    assert max(abs(np.divide(sampled, decoded) - 1)[:3]) < 0.05
    assert sampled[3] == guessed[3]


@pytest.mark.parametrize("output", ["npy", "jsonl"])
@pytest.mark.parametrize("workers", [1, 2])
def test_planning_writing_and_verifying_say_how_much_is_done(
    output: str, workers: int, recipe: Path
) -> None:
    with recipe.open("a", encoding="utf-8") as file:
        file.write(f"output: {{format: {output}}}\n")
    building, verifying = Recorder(), Recorder()
    directory = curate.build(recipe, workers=workers, progress=building).directory
    curate.verify(directory, workers=workers, progress=verifying)
    assert list(verifying.reports) == ["sort documents", "verify"]
    stages = [(name, building.reports[name]) for name in ("sort documents", "plan", "write")]
    for stage, reports in [*stages, *verifying.reports.items()]:
        done = [of_report[0] for of_report in reports]
        assert done == sorted(done) and done[-1] == reports[-1][1] > 0, stage


def test_workers_report_to_the_stage_that_runs() -> None:
    recorder = Recorder()
    recorder.begin("outer")
    with metered(recorder, [4]) as on_outer:
        worked(1)
        with metered(recorder, [100]) as on_tick:
            map_tasks(worked, [30, 40, 20, 10], 2, on_tick)
        on_outer()
    worked(5)  # of no stage
    (spent, expected), outer = recorder.reports["outer"][-2:]
    assert spent == expected > 0
    assert outer == (0, 0)  # no pace is told from one report


def test_kinds_of_work_have_paces_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing is guessed as 2 % of copying, and takes as long."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic_ns", lambda: round(1e9 * clock[0]))
    recorder = Recorder()
    with metered(recorder, [100, 100], [50, 1]):
        recorder.begin("stage")
        hashed = in_proportion(100, 4 * 50, 1)
        for kind in (0, 1):
            for _ in range(50):
                clock[0] += 1
                hashed(4) if kind else worked(2)
    left = [(expected - done) / 1e9 for done, expected in recorder.reports["stage"]]
    assert left[:2] == [0, 0]  # the beginning, from which no pace is told
    assert left[2:40] == pytest.approx(range(48, 10, -1))
    assert left[52:] == pytest.approx(range(47, -1, -1))


def test_what_is_mostly_guessed_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic_ns", lambda: round(1e9 * clock[0]))
    recorder = Recorder()
    recorder.begin("stage")
    with metered(recorder, [100, 100], [1, 5]):
        for kind, amount in ((0, 10), (0, 40), (1, 10), (1, 10)):
            clock[0] += 1
            worked(amount, kind)
    assert [expected for _, expected in recorder.reports["stage"][:3]] == [0, 0, 0]
    done, expected = recorder.reports["stage"][3]
    assert (expected - done) / 1e9 == pytest.approx(50 / 40 + 80 / 10)


def test_the_pace_leaves_out_the_beginning() -> None:
    pace = Pace()
    assert [pace.seconds_left(done, 1000, 30 + done / 10) for done in (0, 20, 100)] == [None] * 3
    assert pace.seconds_left(200, 1000, 50.0) == pytest.approx(80)
    assert pace.seconds_left(1100, 1000, 140.0) == 0
    assert Pace().seconds_left(10, 0, 1.0) is None


@pytest.mark.parametrize("slowed_at", [0.05, 0.2, 0.5])
def test_a_pace_that_changes_for_good_is_soon_told(slowed_at: float) -> None:
    """The work gets four times as slow, as when the disk's cache is full."""

    def took(done: float) -> float:
        return done + 3 * max(0.0, done - slowed_at)

    pace = Pace()
    for done in np.arange(0, 1, 0.01):
        left = pace.seconds_left(done, 1, took(done))
        if done > slowed_at + 0.12:
            assert left == pytest.approx(took(1) - took(done), rel=THIRD)
    stalled = pace.seconds_left(done, 1, took(1) + 1)
    assert left is not None and stalled is not None and stalled > 2 * left


def test_the_terminal_shows_the_share_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=True)
    observer = TerminalObserver(console)
    observer.begin("write", ["mix"])
    for done, seconds in ((0, 1.0), (100, 10.0), (400, 40.0)):
        monkeypatch.setattr(observer, "_seconds", lambda seconds=seconds: seconds)
        observer._shown = 0.0
        observer.work(done, 1000)
    observer.begin("tokenise", ["only"], [1000])  # a single domain has a time left, too
    for done, seconds in ((100, 10.0), (400, 40.0)):
        monkeypatch.setattr(observer, "_seconds", lambda seconds=seconds: seconds)
        observer._shown = 0.0
        observer.advance(np.array([[done, done, 1, 1, 0, 0, 0]]))
    observer.begin("verify", ["mix"])
    observer.work(1000, 1000)
    observer.end("ok")
    observer._shown = 0.0
    observer.tick()  # of no stage
    observer.close()
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "verify · 40 s · 100 %" in shown and "100 %," not in shown
    after = shown.rpartition("✓")[2]
    assert "ok" in after and "verify ·" not in after and "\x1b[2K" not in after
    assert "write · 40 s · 40 %, ≈ 60 s left" in shown
    assert any("only" in line and "≈ 60 s" in line for line in shown.splitlines())
