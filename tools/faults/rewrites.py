"""Kill a rewrite before each of its steps on disk, run it again, and compare.

    python tools/faults/rewrites.py RECIPE OVERRIDE FIRST STRIDE

The state to begin from is the recipe's dataset. Prints the number of kills as JSON, and each
difference. Steps are what Python's audit hooks report: files opened for writing, removed and
renamed, directories made and removed, all below the output directory.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from curate.pipeline.build import build
from curate.recipe import load
from curate.runtime.progress import Observer

STEPS = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "open")
KILLED = 77


def tree(directory: Path) -> dict[str, bytes]:
    """Content of every file, by path."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def forked(function: Callable[[], None]) -> int:
    """Run a function in a child process, and return its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_before(step: int, directory: Path) -> None:
    """End this process, as by SIGKILL, just before its step of this number."""
    steps = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal steps
        if event not in STEPS or (event == "open" and not arguments[2] & os.O_ACCMODE):
            return
        names = [name for name in arguments if isinstance(name, str | os.PathLike)]
        if any(str(directory) in os.fspath(name) for name in names):
            steps += 1
            if steps == step:
                os._exit(KILLED)

    sys.addaudithook(watch)


def main() -> None:
    """Kill before every step of a stride, until a run ends before its kill."""
    recipe, override, first, stride = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
    before, after = load(recipe), load(recipe, (override,))
    directory = before.output_dir
    saved = directory.with_name("saved")

    def make(loaded: Any) -> None:
        build(loaded, 1, Observer(), overwrite=True)

    assert forked(lambda: make(before)) == 0
    shutil.copytree(directory, saved)
    assert forked(lambda: make(after)) == 0
    expected = tree(directory)
    kills = 0
    for step in range(first, 10_000, stride):
        shutil.rmtree(directory)
        shutil.copytree(saved, directory)

        def killed(step: int = step) -> None:
            kill_before(step, directory)
            make(after)

        code = forked(killed)
        if code == 0:
            break
        kills += 1
        again = forked(lambda: make(after))
        content = tree(directory)
        if code != KILLED or again or content != expected:
            differ = sorted(
                name
                for name in content.keys() | expected.keys()
                if content.get(name) != expected.get(name)
            )
            print(f"step {step}: exit codes {code}, {again}; differ: {differ}")
    print(json.dumps({"kills": kills}))


if __name__ == "__main__":
    main()
