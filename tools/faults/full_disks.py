"""Fill the disk under a run, at random points, and see that it says so and that nothing is wrong.

The output, the cache or the directory of temporary files lies on a small tmpfs in a mount namespace
of this program. A run that meets its end must name a file there in one line; with more room, the
next run must leave the bytes of a run that always had room. Linux only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from trials import CURATED, Finished, Row, curate, difference, main, tree, workplace, write_recipe

FORMATS = (
    "megatron", "npy", "olmo", "datatrove", "mds", "litdata", "llmc", "input_ids", "parquet",
    "jsonl", "arrow", "webdataset",
)  # fmt: skip

ROOM_BYTES = 1 << 28
"""Size of a disk that no run fills."""

PAGE_BYTES = 4096


@dataclass(frozen=True)
class Case:
    """A command, its output format, and the directory that fills up."""

    command: tuple[str, ...]
    output_format: str
    disk: str
    """`out`, `cache` or `tmp`, below the working directory."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Keys of the recipe that are added or replaced."""

    @property
    def kind(self) -> str:
        """Name of the row."""
        curated = ", all of curation" if self.changes else ""
        return f"full {self.disk}: {self.command[0]}, {self.output_format}{curated}"


CASES = (
    *(Case(("build",), name, "out") for name in FORMATS),
    Case(("build",), "npy", "cache"),
    Case(("build",), "jsonl", "cache"),
    Case(("build",), "jsonl", "cache", CURATED),
    Case(("build",), "jsonl", "out", CURATED),
    Case(("stats", "--intervals"), "npy", "cache"),
    Case(("mix", "--compare"), "npy", "out"),
    Case(("build",), "npy", "tmp"),
)


def run(trials: int, seed: int) -> list[Row]:
    """Spread trials over all cases; each has its own row."""
    rows = []
    order = np.random.default_rng(seed).permutation(len(CASES))  # few trials see other cases
    with workplace() as root:
        for place, number in enumerate(order):
            case, share = CASES[number], trials // len(CASES) + (place < trials % len(CASES))
            if share:
                rows.append(_fill(case, root, share, np.random.default_rng([seed, number])))
    return rows


def _fill(case: Case, root: Path, trials: int, generator: np.random.Generator) -> Row:
    """Run one case on disks of random sizes."""
    row = Row(case.kind)
    began = time.monotonic()
    _prepare(case, root, ROOM_BYTES)
    work = root / "work"
    finished = _run(case, work)
    if finished.code:
        raise SystemExit(f"{case.kind}: {finished.errors}")
    expected = _kept(work)
    status = os.statvfs(work / case.disk)
    used_bytes = (status.f_blocks - status.f_bfree) * status.f_frsize
    _umount(work / case.disk)
    # What a run needs at most is more than what it leaves: spills, temporary files.
    for _ in range(trials):
        pages = int(generator.integers(1, max(2, used_bytes * 1.2 // PAGE_BYTES)))
        _prepare(case, root, pages * PAGE_BYTES)
        finished = _run(case, work)
        complaint = finished.complaint([0, 2])
        last = finished.errors.strip().rpartition("\n")[2]
        if complaint is None and finished.code == 2 and str(work / case.disk) not in last:
            complaint = f"names no file on the full disk: {last}"
        _mount(work / case.disk, ROOM_BYTES, "remount,")
        again = _run(case, work)
        complaint = complaint or again.complaint([0]) or difference(expected, _kept(work))
        _umount(work / case.disk)
        if complaint:
            row.failed(f"{pages * PAGE_BYTES // 1024} KiB: {complaint}")
        else:
            row.held("one line" if finished.code else "enough room")
    row.seconds = time.monotonic() - began
    return row


def _prepare(case: Case, root: Path, size_bytes: int) -> None:
    work = root / "work"
    shutil.rmtree(work, ignore_errors=True)
    for name in ("out", "cache", "tmp"):
        (work / name).mkdir(parents=True)
    shutil.copytree(root / "data", work / "data")
    for name in ("tokenizer.json", "ids.txt", "scores.csv", "quiz.jsonl"):
        shutil.copy(root / name, work)
    output = {"format": case.output_format, "dir": str(work / "out"), "shard_tokens": 40_000}
    write_recipe(
        work / "recipe.yaml", output=output, cache=str(work / "cache"), budget_tokens=150_000,
        max_epochs=40, **case.changes,
    )  # fmt: skip
    _mount(work / case.disk, size_bytes, "")


def _run(case: Case, work: Path) -> Finished:
    command, *options = case.command
    return curate([command, "recipe.yaml", *options], work, TMPDIR=str(work / "tmp"))


def _kept(work: Path) -> dict[str, str]:
    """Hash the output; the cache is made again from it whenever needed."""
    return tree(work / "out")


def _mount(path: Path, size_bytes: int, how: str) -> None:
    options = f"{how}size={size_bytes}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)


def _umount(path: Path) -> None:
    subprocess.run(["umount", str(path)], check=True)


def in_namespace() -> None:
    """Start this program again in a mount namespace of its own, unless it is in one."""
    if os.environ.get("CURATE_FAULTS_NAMESPACE"):
        return
    os.environ["CURATE_FAULTS_NAMESPACE"] = "1"
    os.execvp("unshare", ["unshare", "--map-root-user", "--mount", sys.executable, *sys.argv])


if __name__ == "__main__":
    in_namespace()
    main(run, "Fill the disk under runs, and run them again with room.", 60)
