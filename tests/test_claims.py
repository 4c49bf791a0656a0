"""Workers share tasks: each taken once, a domain kept to one worker while there are others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import make_documents, write_jsonl

from curate.pipeline.tokenize import tokenize_domains
from curate.recipe import load
from curate.runtime.progress import Observer
from curate.runtime.workers import Send, run_workers
from curate.sources.records import SEGMENT_BYTES
from curate.tokens.task_queue import COMPRESSION, TaskQueue
from curate.tokens.tasks import TASK_SEGMENTS, Task


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
    claims = TaskQueue(tasks, workers)
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
    claims = TaskQueue(tasks_of([9, 9], [5, 5], [1, 1]), 2)
    assert [claims.take(None), claims.take(None)] == [0, 2]
    assert [claims.take(1), claims.take(1)] == [3, 4]
    assert [claims.take(0), claims.take(0), claims.take(2), claims.take(2)] == [1, 5, None, None]


def test_helpers_go_where_there_is_most_to_do_for_each() -> None:
    claims = TaskQueue(tasks_of([6] * 5, [8] * 3), 4)
    assert [claims.take(None), claims.take(None)] == [0, 5]
    assert claims.take(None) == 1  # 24 bytes left for two, not 16
    assert claims.take(None) == 6  # 16 left for two, not 18 for three


def test_no_task_is_no_work() -> None:
    claims = TaskQueue([], 3)
    assert claims.take(None) is None
    assert claims.shared_task() is None


def test_segments_of_a_shared_task_are_taken_in_ever_smaller_runs() -> None:
    decoded = 40 * SEGMENT_BYTES
    claims = TaskQueue(tasks_of([decoded // COMPRESSION], shared=True), 2)
    assert claims.take(None) == 0
    assert claims.take(None) is None
    streams = [claims.segments(0), claims.segments(0)]
    taken = [next(stream) for _ in range(25) for stream in streams]
    assert sorted(taken) == list(range(50))  # on past where it was thought to end
    assert taken[: 2 * TASK_SEGMENTS : 2] == list(range(TASK_SEGMENTS))
    assert claims.shared_task() == 0
    claims.end(0)
    assert claims.shared_task() is None


def test_runs_are_single_segments_at_the_end() -> None:
    claims = TaskQueue(tasks_of([40 * SEGMENT_BYTES // COMPRESSION], shared=True), 2)
    starts = [next(claims.segments(0))]
    while starts[-1] < 45:
        starts.append(next(claims.segments(0)))  # of another worker, of a run of its own
    lengths = np.diff(starts).tolist()
    assert lengths[0] == TASK_SEGMENTS
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-9:] == [1] * 9


def test_processes_take_each_task_once() -> None:
    tasks = tasks_of([1] * 300, [1] * 200, [1] * 7)
    claims = TaskQueue(tasks, 3)
    found: list[int] = []

    def body(number: int, send: Send) -> None:
        domain, mine = None, []
        while (position := claims.take(domain)) is not None:
            domain = tasks[position].domain
            mine.append(position)
        send(mine)

    run_workers(body, 3, found.extend, lambda: None)
    assert sorted(found) == list(range(len(tasks)))


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
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
