"""Measure what Ray costs: a task that does nothing, this process's memory, and a whole build.

Run as `python tools/bench/cluster.py --tasks 1000,10000,100000`. Each count of tasks runs in a
process of its own, on a Ray that is started for it; `map_tasks` with local workers does the same
tasks for comparison. With `--recipe FILE`, that recipe is built both ways, each three times in
turn, with an empty cache but for the tokenizer and the embedded corpus. Needs ray.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Literal

import curate
from curate.runtime.workers import default_workers, map_tasks

ROUNDS = 3


def measure_tasks(tasks: int, engine: Literal["local", "ray"]) -> tuple[float, float]:
    """Return seconds, and the growth of this process's peak memory in MB, for empty tasks."""
    with curate.engine(engine):
        workers = max(2, default_workers())
        map_tasks(abs, range(4 * workers), workers)  # starts the processes
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        map_tasks(abs, range(tasks), workers)
        seconds = time.perf_counter() - began
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def apart(tasks: int, engine: Literal["local", "ray"]) -> tuple[float, float]:
    """Measure in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure_tasks, tasks, engine).result()


def build_seconds(recipe: Path, engine: str) -> float:
    """Build a recipe into new directories; the cache keeps what both engines need."""
    with tempfile.TemporaryDirectory() as root:
        shutil.copytree(recipe.parent / "kept", Path(root, "cache"))
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "curate.cli", "build", recipe, "--engine", engine, "--quiet",
             "--out", f"{root}/out", "--set", f"cache={root}/cache"], check=True,
        )  # fmt: skip
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what Ray costs.")
    parser.add_argument("--tasks", default="1000,10000,100000")
    parser.add_argument("--recipe", type=Path)
    options = parser.parse_args()
    print(f"{'tasks':>9}{'local ms/task':>15}{'Ray ms/task':>13}{'local MB':>10}{'Ray MB':>8}")
    for tasks in map(int, options.tasks.split(",")):
        local, ray = apart(tasks, "local"), apart(tasks, "ray")
        each = [1000 * seconds / tasks for seconds, _ in (local, ray)]
        print(
            f"{tasks:>9,}{each[0]:>15.3f}{each[1]:>13.3f}{local[1]:>10.1f}{ray[1]:>8.1f}",
            flush=True,
        )
    if options.recipe is None:
        return
    with tempfile.TemporaryDirectory() as root:
        recipe = Path(root, "recipe.yaml")
        shutil.copy(options.recipe, recipe)
        subprocess.run([sys.executable, "-m", "curate.cli", "tokenize", recipe, "--quiet",
                        "--set", f"cache={root}/kept"], check=True)  # fmt: skip
        for name in ("tokens", "counts"):
            shutil.rmtree(Path(root, "kept", name))
        times: dict[str, list[float]] = {"local": [], "ray": []}
        for _ in range(ROUNDS):
            for engine, seconds in times.items():
                seconds.append(build_seconds(recipe, engine))
    for engine, seconds in times.items():
        print(
            f"build, {engine}: median {median(seconds):.1f} s of {[round(s, 1) for s in seconds]}"
        )
    print(f"Ray against local: {median(times['ray']) / median(times['local']):.2f}")


if __name__ == "__main__":
    main()
