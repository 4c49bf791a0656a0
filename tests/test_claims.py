"""Workers share tasks: each taken once, a domain kept to one worker while there are others."""

from __future__ import annotations

import json
import time
from codecs import BOM_UTF8
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from conftest import make_documents, slow_if, write_jsonl

from curate.pipeline.tokenize import tokenize_domains
from curate.recipe import load
from curate.runtime.progress import Observer
from curate.runtime.workers import Send, run_workers
from curate.sources import segments
from curate.sources.records import SEGMENT_BYTES
from curate.tokens.entries import Entry
from curate.tokens.task_queue import WAITING_SEGMENTS, TaskQueue
from curate.tokens.tasks import Task


def tasks_of(*domains: list[int], shared: bool = False) -> list[Task]:
    """Tasks of these sizes, domain by domain."""
    return [
        Task(number, (), size, shared) for number, sizes in enumerate(domains) for size in sizes
    ]


@pytest.mark.parametrize("seed", range(20))
def test_every_task_is_taken_once(seed: int) -> None:
    draw = np.random.default_rng(seed)
    sizes = [draw.integers(0, 9, draw.integers(1, 6)).tolist() for _ in range(draw.integers(1, 9))]
    tasks = tasks_of(*sizes)
    workers = int(draw.integers(1, 6))
    claims = TaskQueue(tasks)
    last: dict[int, int | None] = dict.fromkeys(range(workers))
    taken = []
    while last:
        worker = int(draw.choice(list(last)))
        position = claims.take(last[worker])
        if position is None:
            del last[worker]
            continue
        before, last[worker] = last[worker], tasks[position].domain
        left = {task.domain for number, task in enumerate(tasks) if number not in taken}
        assert before not in left or tasks[position].domain == before  # it stays where it was
        taken.append(position)
    assert sorted(taken) == list(range(len(tasks)))


def test_a_worker_begins_what_nobody_has_begun() -> None:
    claims = TaskQueue(tasks_of([9, 9], [5, 5], [1, 1]))
    assert [claims.take(None), claims.take(None)] == [0, 2]
    assert [claims.take(1), claims.take(1)] == [3, 4]
    assert [claims.take(0), claims.take(0), claims.take(2), claims.take(2)] == [1, 5, None, None]


def test_helpers_go_where_there_is_most_to_do_for_each() -> None:
    claims = TaskQueue(tasks_of([6] * 5, [8] * 3))
    assert [claims.take(None), claims.take(None)] == [0, 5]
    assert claims.take(None) == 1  # 24 bytes left for two, not 16
    assert claims.take(None) == 6  # 16 left for two, not 18 for three


def test_no_task_is_no_work() -> None:
    claims = TaskQueue([])
    assert claims.take(None) is None
    assert claims.help_with() is None


def test_a_reader_gathers_two_segments_for_each_helper_and_all_are_received() -> None:
    claims = TaskQueue(tasks_of([SEGMENT_BYTES], shared=True))
    assert claims.take(None) == 0
    assert not claims.is_wanted(0)
    assert [claims.help_with(), claims.help_with()] == [0, 0]
    for number in range(2 * WAITING_SEGMENTS):
        assert claims.is_wanted(0)
        assert claims.next_gathered(0) == number
        claims.add_gathered(0)
    assert not claims.is_wanted(0)
    assert [claims.receive(0), claims.receive(0)] == [0, 1]
    assert claims.is_wanted(0)
    claims.end(0)
    assert [claims.receive(0), claims.receive(0), claims.receive(0)] == [2, 3, None]


def test_helpers_join_the_file_with_most_left_for_each_and_none_at_its_end() -> None:
    claims = TaskQueue(tasks_of([9 * SEGMENT_BYTES], [5 * SEGMENT_BYTES], shared=True))
    assert [claims.take(None), claims.take(None)] == [0, 1]
    assert [claims.help_with(), claims.help_with()] == [0, 1]
    claims.set_left(0, SEGMENT_BYTES - 1)
    assert claims.help_with() == 1
    claims.end(1)
    assert claims.help_with() is None


def about(entry: Entry) -> dict[str, Any]:
    """Return the fields of an entry, but for its place in the part."""
    fields = msgspec.structs.asdict(entry)
    for unit in ("document", "token"):
        fields[unit] = fields.pop(f"{unit}_stop") - fields.pop(f"{unit}_start")
    return fields


def test_a_compressed_file_is_read_the_same_by_any_number_of_workers(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has records that are bad, cut and longer than segments, a mark, and is damaged."""
    rows = [json.dumps(row).encode() for row in make_documents("wiki", 3000)]
    rows[40:41] = [b"{", json.dumps({"text": "long " * 9000}).encode()]
    rows[900] = json.dumps({"text": "longer " * 40_000}).encode()
    data = zstandard.compress(BOM_UTF8 + b"\n".join(rows))
    path = tmp_path / "one.jsonl.zst"
    path.write_bytes(data[:-100])
    overrides = [f"domains=[{{name: one, paths: {path}}}]", "limits.record_bytes=100000",
                 "limits.lost_share=1"]  # fmt: skip
    cut = partial(segments, segment_bytes=20_000)
    monkeypatch.setattr("curate.pipeline.tokenize.segments", cut)
    monkeypatch.setattr("curate.tokens.tasks.SMALL_FILE_BYTES", 0)
    monkeypatch.setattr("curate.tokens.task_queue.SEGMENT_BYTES", 1)

    def is_wanted_of_helpers(queue: TaskQueue, position: int) -> bool:
        while not queue._helpers[position]:
            time.sleep(0.001)  # or the file may end before a helper has started
        return is_wanted(queue, position)

    is_wanted = TaskQueue.is_wanted
    results = []
    for workers in (1, 2, 4):
        loaded = load(recipe, [*overrides, f"cache=by-{workers}"])
        results.append(tokenize_domains(loaded, workers, Observer()))
        monkeypatch.setattr(TaskQueue, "is_wanted", is_wanted_of_helpers)
    alone = results[0].domains[0]
    for number, result in enumerate(results):
        (domain,) = result.domains
        assert result.content_hash == results[0].content_hash
        assert domain.total_tokens == alone.total_tokens
        assert (len({stored.part for stored in domain.files[0].entries}) > 1) == (number > 0)
        assert list(domain.bad_record_rows()) == list(alone.bad_record_rows())
        assert [about(stored.entry) for stored in domain.files[0].entries] == [
            about(stored.entry) for stored in alone.files[0].entries
        ]
    assert not list(recipe.parent.glob("by-*/spill/*"))


def test_processes_take_each_task_once() -> None:
    tasks = tasks_of([1] * 300, [1] * 200, [1] * 7)
    claims = TaskQueue(tasks)
    found: list[int] = []

    def body(number: int, send: Send) -> None:
        domain, mine = None, []
        while (position := claims.take(domain)) is not None:
            domain = tasks[position].domain
            mine.append(position)
        send(mine)

    run_workers(body, 3, found.extend, lambda: None)
    assert sorted(found) == list(range(len(tasks)))


@pytest.mark.parametrize("workers", slow_if(lambda count: count > 2, [1, 2, 3, 5]))
def test_counts_do_not_depend_on_who_counted(
    recipe: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker's table of a domain is taken over as it is; those of several are added."""
    monkeypatch.setattr("curate.sources.GROUP_FILES", 1)
    monkeypatch.setattr("curate.tokens.tasks.FILES_A_TASK", 1)  # so that each file is a task
    rows = []
    for number, name in enumerate(("wiki", "code", "talk")):
        for part in range(number + 1):
            path = tmp_path / f"{name}-{part}.jsonl"
            write_jsonl(path, make_documents(name, 300, seed=part))
        rows.append(f"{{name: {name}, paths: {tmp_path}/{name}-*.jsonl}}")
    overrides = [f"domains=[{', '.join(rows)}]"]
    alone = tokenize_domains(load(recipe, [*overrides, "cache=alone"]), 1, Observer())
    found = tokenize_domains(load(recipe, [*overrides, f"cache=by-{workers}"]), workers, Observer())
    assert found.stats == alone.stats
    tables = [
        {path.name: path.read_bytes() for path in directory.iterdir()}
        for name in ("alone", f"by-{workers}")
        for directory in sorted((recipe.parent / name / "counts").glob("*/*"))
    ]
    assert tables[:3] == tables[3:]
