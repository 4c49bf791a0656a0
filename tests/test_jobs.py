"""How what is to be tokenised becomes tasks: all of it, once, and ever less towards the end."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import END, write_jsonl

from curate.pipeline.tokenize import tokenize_domains
from curate.recipe import load
from curate.runtime.progress import Observer
from curate.sources.plans import FilePlan, PlanRequest, plan_lines
from curate.sources.records import SEGMENT_BYTES, InputFile, ReadOptions
from curate.tokens.entries import Entry
from curate.tokens.store import PartWriter, TokenStore
from curate.tokens.tasks import TASK_SEGMENTS, TaskItem, plan_tasks

OPTIONS = ReadOptions()


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path, "0" * 32, np.dtype("<u2"))


def lines_plan(name: str, size_bytes: int) -> FilePlan:
    file = InputFile(name, size_bytes, name, name)
    return plan_lines(PlanRequest("jsonl", file, OPTIONS, "plain", SEGMENT_BYTES))


def pieces(items: tuple[TaskItem, ...]) -> list[tuple[str, int]]:
    return [(item.plan.files[0].path, segment) for item in items for segment in item.segments or ()]


@pytest.mark.parametrize("workers", [1, 2, 7, 64])
def test_every_segment_is_in_one_task(store: TokenStore, workers: int) -> None:
    sizes = [300 << 20, 5 << 20, 90 << 20, (64 << 20) + 1]
    plans = [lines_plan(f"file-{number}", size) for number, size in enumerate(sizes)]
    tasks, _ = plan_tasks([plans[:2], plans[2:]], store, workers)
    found = [piece for task in tasks for piece in pieces(task.items)]
    wanted = [(plan.files[0].path, number) for plan in plans for number in range(plan.count or 0)]
    assert sorted(found) == sorted(wanted)
    for task in tasks:
        numbers = [segment for _, segment in pieces(task.items)]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert len({path for path, _ in pieces(task.items)}) == 1


def test_tasks_are_long_at_first_and_short_at_the_end(store: TokenStore) -> None:
    tasks, _ = plan_tasks([[lines_plan("a", 800 << 20)]], store, workers=2)
    lengths = [len(pieces(task.items)) for task in tasks]
    assert lengths[0] == TASK_SEGMENTS
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-4:] == [1, 1, 1, 1]
    # Whoever takes the next task when free, two workers end within a segment of each other.
    busy = [0, 0]
    for length in lengths:
        busy[busy.index(min(busy))] += length
    assert abs(busy[0] - busy[1]) <= 1


def test_what_is_stored_is_not_bridged(store: TokenStore) -> None:
    plan = lines_plan("a", 10 * SEGMENT_BYTES)
    (key,) = plan.keys
    writer = PartWriter(store.directory, "a backend")
    writer.entries.append(Entry(key, 3, False, "a", 0, 0, 0, 0, 0, 0, 0, 0))
    writer.flush()
    store.scan()
    tasks, present = plan_tasks([[plan]], store, workers=1)
    assert present == {(key, 3)}
    found = [[segment for _, segment in pieces(task.items)] for task in tasks]
    assert list(itertools.chain(*found)) == [0, 1, 2, *range(4, 10)]
    assert not any({2, 4} <= set(numbers) for numbers in found)


def test_segments_in_which_no_line_starts(
    recipe: Path, bpe: dict[str, Any], tmp_path: Path
) -> None:
    """The line before reaches the end of the file, and yet what follows has to be seen as read."""
    rows = [{"text": f"the river {number}"} for number in range(3)]
    long = {"text": "the long river " * (13 * SEGMENT_BYTES // 2 // 15)}
    path = write_jsonl(tmp_path / "long.jsonl", [*rows, long])
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(json.dumps(bpe))
    overrides = (
        f"domains=[{{name: long, paths: {path}}}]",
        f"tokenizer={{path: {tokenizer}, eos: '{END}'}}",
    )
    found = tokenize_domains(load(recipe, overrides), 1, Observer())
    assert [stats.documents for stats in found.stats] == [4]
    assert found.plans[0][0].count == 7
