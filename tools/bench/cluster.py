"""Measure what Ray costs: a task that does nothing, this process's memory, and a whole build.

Run as `python tools/bench/cluster.py --tasks 1000,10000,100000`. Each count of tasks runs in a
process of its own, on a Ray that is started for it; `map_tasks` with local workers does the same
tasks for comparison. With `--stand-in`, a module that runs each task at once takes the place of
Ray, so that a million tasks take half a minute: what grows then is this process's own part,
`map_tasks` and the code behind it, which is the same. With `--recipe FILE`, that recipe is built
both ways, each three times in turn, with an empty cache but for the tokenizer and the embedded
corpus. Needs ray, but for the stand-in.
"""

from __future__ import annotations

import argparse
import multiprocessing
import pickle
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any, Literal

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


class Reference(bytes):
    """A result, pickled, or the bytes of an object that tasks share."""

    def hex(self, *_: Any) -> str:
        """Return a name, as Ray's references do."""
        return "the function"


class StandIn(ModuleType):
    """The calls of Ray that curate makes, answered in this process; half of what runs has ended."""

    def __init__(self) -> None:
        """Name it as Ray."""
        super().__init__("ray")
        self.exceptions = ModuleType("ray.exceptions")
        self.exceptions.RayError = OSError  # type: ignore[attr-defined]

    is_initialized = staticmethod(lambda: True)
    cluster_resources = staticmethod(lambda: {"CPU": 64})
    nodes = staticmethod(lambda: [{"Alive": True, "Resources": {"memory": 1 << 40}}])
    cancel = staticmethod(lambda *_, **__: None)

    def put(self, value: Any) -> Reference:
        """Keep an object."""
        return Reference(pickle.dumps(value))

    def get(self, references: Any) -> Any:
        """Return what one reference or several stand for."""
        if isinstance(references, Reference):
            return pickle.loads(references)
        return [pickle.loads(reference.result) for reference in references]

    def remote(self, function: Any) -> Any:
        """Make a task of a function."""

        class Task:
            options = staticmethod(lambda **_: Task)

            def __init__(self, result: bytes) -> None:
                self.result = result

            @staticmethod
            def remote(*arguments: Any) -> Task:
                return Task(pickle.dumps(function(*arguments)))

        return Task

    def wait(self, running: Any, num_returns: int = 1, timeout: float = 0) -> Any:
        """Say that the first half has ended."""
        ended = running[: max(1, len(running) // 2)]
        return ended, running[len(ended) :]


def stand_in() -> None:
    """Let `import ray` find the stand-in."""
    module = StandIn()
    sys.modules |= {"ray": module, "ray.exceptions": module.exceptions}


def apart(
    tasks: int, engine: Literal["local", "ray"], setup: Callable[[], None] | None = None
) -> tuple[float, float]:
    """Measure in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), setup) as pool:
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
    parser.add_argument("--stand-in", action="store_true", help="no Ray, only this process's part")
    parser.add_argument("--recipe", type=Path)
    options = parser.parse_args()
    print(f"{'tasks':>9}{'local ms/task':>15}{'Ray ms/task':>13}{'local MB':>10}{'Ray MB':>8}")
    for tasks in map(int, options.tasks.split(",")):
        local = apart(tasks, "local")
        ray = apart(tasks, "ray", stand_in if options.stand_in else None)
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
