"""Kill runs at random moments, run them again, and compare what they leave with undisturbed runs.

Signals: KILL, TERM and INT. Targets: the whole process group, the parent alone, one worker. A
killed run must obey at once, say one line, and leave nothing of its own running; the run after it
must end well, with the bytes of a run that nobody disturbed and no other file.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from trials import (
    CURATED,
    Finished,
    Row,
    curate,
    difference,
    finish,
    main,
    start,
    tree,
    workplace,
    write_recipe,
)

OBEY_SECONDS = 10.0
"""A signal that has not ended a run by then is lost. Generous, for machines under load."""

NEARLY_DONE_SECONDS = 1.0
"""A run that ends well so soon after a signal may have been leaving already."""

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

TARGETS = ("group", "parent", "worker")

START_SECONDS = 0.15
"""Earliest signal: while Python itself starts, it may lose one, before curate's first line."""

EARLY = "ended before"
"""The outcome of a run that had ended when its signal was due."""

TIMES = ("seconds", "wall_seconds", "train_seconds", "fit_seconds")
"""JSON fields and columns that hold times, which no two runs share."""

PROXY: dict[str, Any] = {
    "preset": "nano",
    "runs": 4,
    "tokens": 8192,
    "sequence_length": 32,
    "batch": 4,
    "checkpoints": 4,
    "validation_tokens": 400,
}

SMALL: dict[str, Any] = {"budget_tokens": 8_000, "max_epochs": 20}


@dataclass(frozen=True)
class Job:
    """A command that is killed, and what lies in its directory before."""

    name: str
    arguments: tuple[str, ...]
    recipe: dict[str, Any]
    before: tuple[tuple[str, ...], ...] = ()
    """Commands that are run once to make the state in which every trial starts."""
    needs_torch: bool = False


JOBS = (
    Job("build", ("build", "recipe.yaml", "--workers", "2"), {}),
    Job(
        "rewrite",
        ("build", "recipe.yaml", "--overwrite", "--set", "mixture={method: uniform}"),
        {"output": {"dir": "out", "shard_tokens": 4_000}},
        (("build", "recipe.yaml"),),
    ),
    Job("build, all of curation", ("build", "recipe.yaml", "--workers", "2"), CURATED),
    Job("stats", ("stats", "recipe.yaml", "--intervals"), {}),
    Job("mix --compare", ("mix", "recipe.yaml", "--compare"), {}),
    Job(
        "proxy",
        ("proxy", "recipe.yaml"),
        {"mixture": {"method": "bimix", "evidence": {"proxy": PROXY}}, **SMALL},
        needs_torch=True,
    ),
    Job(
        "validate",
        ("validate", "recipe.yaml", "--seeds", "2"),
        {"mixture": {"method": "bimix", "evidence": {"proxy": PROXY}}, **SMALL},
        (("build", "recipe.yaml"),),
        needs_torch=True,
    ),
)


def run(trials: int, seed: int) -> list[Row]:
    """Spread trials over all jobs."""
    rows = []
    with workplace() as root:
        for number, job in enumerate(JOBS):
            share = trials // len(JOBS) + (number < trials % len(JOBS))
            if share:
                rows.append(_kill_job(job, root, share, np.random.default_rng([seed, number])))
    return rows


def _kill_job(job: Job, root: Path, trials: int, generator: np.random.Generator) -> Row:
    """Kill one job again and again, each time from the same state."""
    row = Row(f"kill: {job.name}")
    began = time.monotonic()
    work, initial = root / "work", root / "initial"
    # All runs have one path: artifacts name the cache and the files that they were made from.
    _reset(work, root)
    write_recipe(work / "recipe.yaml", **job.recipe)
    for arguments in job.before:
        _must(curate(arguments, work), arguments)
    shutil.copytree(work, initial)
    started = time.monotonic()
    _must(curate(job.arguments, work), job.arguments)
    usual_seconds = time.monotonic() - started
    expected = _comparable(work)
    for trial in range(trials):
        number, target = SIGNALS[trial % 3], TARGETS[trial // 3 % 3]
        complaint, outcome = None, EARLY
        while outcome == EARLY and not complaint:  # not killed, so no trial: draw again
            shutil.rmtree(work)
            shutil.copytree(initial, work)
            moment = float(generator.uniform(START_SECONDS, usual_seconds))
            complaint, outcome = _trial(job, work, (number, target), moment)
        place = f"{number.name} to {target} after {moment:.2f} s"
        again = curate(job.arguments, work)
        complaint = complaint or again.complaint([0]) or difference(expected, _comparable(work))
        if complaint:
            row.failed(f"{place}: {complaint}")
        else:
            row.held(outcome)
    shutil.rmtree(initial)
    row.seconds = time.monotonic() - began
    return row


def _trial(
    job: Job, work: Path, aim: tuple[signal.Signals, str], moment: float
) -> tuple[str | None, str]:
    """Run a job and send it a signal; return what is wrong, and how it ended."""
    number, target = aim
    process = start(job.arguments, work)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(moment)
    if process.poll() is not None:
        return finish(process).complaint([0]), EARLY
    if target == "group":
        os.killpg(process.pid, number)
    elif target == "parent" or not (workers := _children(process.pid)):
        process.send_signal(number)
        target = "parent"
    else:
        with contextlib.suppress(ProcessLookupError):
            os.kill(workers[int(moment * 1e6) % len(workers)], number)
    sent = time.monotonic()
    if target == "worker":  # the run may end in an error, or go on if the worker had ended
        return finish(process).complaint([0, 2]), "worker"
    ended = finish(process, OBEY_SECONDS)
    if ended.code == 0 and time.monotonic() - sent > NEARLY_DONE_SECONDS:
        return f"{number.name} was lost: the run went on", ""
    return _obeyed(ended, number), number.name


def _obeyed(ended: Finished, number: signal.Signals) -> str | None:
    """Describe what is wrong with the end of a run that got a signal."""
    if number == signal.SIGKILL:
        return ended.complaint([-number, 0])
    if ended.code == -number and not ended.errors:  # before curate's first line ran
        return ended.complaint([-number])
    lines = [line for line in ended.errors.splitlines() if line.startswith("curate: ")]
    if ended.code == 128 + number and len(lines) != 1:
        return f"{len(lines)} lines of curate"
    return ended.complaint([128 + number, 0])


def _children(process: int) -> list[int]:
    """List the processes that a process has started, one level down."""
    try:
        tasks = list(Path(f"/proc/{process}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def _reset(work: Path, root: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    shutil.copytree(root / "data", work / "data")
    for name in ("tokenizer.json", "ids.txt", "scores.csv", "quiz.jsonl"):
        shutil.copy(root / name, work)


def _must(finished: Finished, arguments: tuple[str, ...]) -> None:
    if finished.code:
        raise SystemExit(f"curate {' '.join(arguments)}: {finished.errors}")


def _comparable(work: Path) -> dict[str, str]:
    """Hash what a run leaves outside the cache, without the times that files record."""
    for path in (work / "out").rglob("*.json"):
        content = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps(_without_times(content), indent=2) + "\n", "utf-8")
    return {name: value for name, value in tree(work).items() if not name.startswith("cache/")}


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in TIMES}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main(run, "Kill runs at random moments and run them again.", 300)
