"""Kill a rewrite before each of its steps on disk, run it again, and compare.

The state to begin from is a dataset of another mixture or another shape. Steps are what Python's
audit hooks report below the output directory: files opened for writing, removed and renamed,
directories made and removed.
"""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from trials import Row, difference, main, timed, tree, workplace, write_recipe

from curate.pipeline.build import build
from curate.recipe import LoadedRecipe, load
from curate.runtime.progress import Observer

STEPS = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "open")
KILLED = 77

OVERRIDES = ("mixture={method: uniform}", "output.shape=per-domain")


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


def count_steps(function: Callable[[], None], directory: Path) -> int:
    """Run a function in a child process, and count its steps on disk."""
    receiver, sender = os.pipe()

    def counted() -> None:
        steps = kill_before(1 << 30, directory)
        function()
        os.write(sender, str(steps()).encode())

    if forked(counted):
        raise SystemExit("the rewrite cannot be built")
    return int(os.read(receiver, 32))


def kill_before(step: int, directory: Path) -> Callable[[], int]:
    """End this process, as by SIGKILL, just before its step of this number.

    Returns:
        A function that says how many steps there were.
    """
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
    return lambda: steps


def run(trials: int, seed: int) -> list[Row]:
    """Spread kills over the steps of a rewrite, for each kind of rewrite."""
    rows = []
    for number, override in enumerate(OVERRIDES):
        row = Row(f"rewrite killed at a step: {override.partition('=')[0]}")
        share = trials // len(OVERRIDES) + (number < trials % len(OVERRIDES))
        with workplace() as root:
            timed(
                row,
                partial(_rewrite, row, write_recipe(root / "recipe.yaml"), override, share, seed),
            )
        rows.append(row)
    return rows


def _rewrite(row: Row, recipe: Path, override: str, kills: int, seed: int) -> None:
    before, after = load(recipe), load(recipe, (override,))
    directory = before.output_dir
    saved = directory.with_name("saved")

    def make(loaded: LoadedRecipe) -> None:
        build(loaded, 1, Observer(), overwrite=True)

    def make_until(step: int) -> None:
        kill_before(step, directory)
        make(after)

    if forked(lambda: make(before)):
        raise SystemExit("the first dataset cannot be built")
    shutil.copytree(directory, saved)
    # No rewrite has so many steps, so that this one ends, and says how many there are.
    steps = count_steps(lambda: make(after), directory)
    expected = tree(directory)
    stride = max(1, steps // kills)
    for step in range(1 + seed % stride, steps + 1, stride):
        shutil.rmtree(directory)
        shutil.copytree(saved, directory)
        code = forked(partial(make_until, step))
        again = forked(lambda: make(after))
        changed = difference(expected, tree(directory))
        if code != KILLED or again or changed:
            row.failed(f"step {step}: exit codes {code}, {again}; {changed}")
        else:
            row.held("same bytes")


if __name__ == "__main__":
    main(run, "Kill a rewrite before its steps on disk.", 60)
