"""Run builds in poor environments: each works, or ends with one line that says what to do.

Those that need mounts of their own are left out where `unshare -m` is not allowed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from trials import RUN_SECONDS, Row, main, timed, workplace, write_recipe

ENVIRONMENTS: dict[str, tuple[str, str | None]] = {
    "descriptors": ("ulimit -n 16; {build}", "ulimit -n"),
    "file size": ("ulimit -f 8; {build}", "ulimit -f"),
    "memory": ("ulimit -v 300000; {build}", "out of memory"),
    "stack": ("ulimit -s 256; {build}", None),
    "ASCII locale": ("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {build}", None),
    "cp1252 output": ("PYTHONIOENCODING=cp1252 {build}", None),
    "narrow terminal": ("TERM=dumb COLUMNS=20 {build}", None),
    "no HOME": ("unset HOME XDG_CACHE_HOME; {build}", None),
    "no TMPDIR": ("TMPDIR=/nonexistent {build}", None),
    "closed output": ("{build} <&- >&- 2>&-", None),
    "full output": ("{build} >/dev/full", "standard output: No space left"),
    "no /dev/shm": (
        "unshare -m bash -c 'mount -t tmpfs -o ro none /dev/shm; {build}'", None,
    ),
    "read-only cache": (
        "mkdir -p {root}/cache; unshare -m bash -c 'mount --bind {root}/cache {root}/cache; "
        "mount -o remount,ro,bind {root}/cache; {build}'",
        "Read-only file system; choose places",
    ),
    "read-only output": (
        "mkdir -p {root}/out; unshare -m bash -c 'mount --bind {root}/out {root}/out; "
        "mount -o remount,ro,bind {root}/out; {build}'",
        "nothing can be written there",
    ),
}  # fmt: skip
"""A shell command for each environment, and what its one line says; None if the build works."""


def run(trials: int, seed: int) -> list[Row]:
    """Build once in each environment, in their order; the seed is the recipe's."""
    own_mounts = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    row = Row("poor environment")
    with workplace() as root:
        write_recipe(root / "recipe.yaml", seed=seed)
        for name, (command, expected) in list(ENVIRONMENTS.items())[:trials]:
            if "unshare" in command and own_mounts.returncode:
                continue
            for directory in ("cache", "out"):
                shutil.rmtree(root / directory, ignore_errors=True)
            timed(row, partial(_trial, row, root, name, (command, expected)))
    return [row]


def _trial(row: Row, root: Path, name: str, environment: tuple[str, str | None]) -> None:
    """Build in one environment, and judge how it ended."""
    command, expected = environment
    build = f"{sys.executable} -m curate.cli build {root}/recipe.yaml"
    filled = command.replace("{build}", build).replace("{root}", str(root))
    done = subprocess.run(
        ["bash", "-c", filled],
        capture_output=True,
        check=False,
        timeout=RUN_SECONDS,
    )
    errors = done.stderr.decode(errors="replace")
    if expected is None and (done.returncode or errors):
        row.failed(f"{name}: exit code {done.returncode}, {errors[-300:]}")
    elif expected is not None and (
        done.returncode != 2 or errors.count("\n") != 1 or expected not in errors
    ):
        row.failed(f"{name}: exit code {done.returncode}, {errors[-300:]}")
    else:
        row.held("works" if expected is None else "one line")


if __name__ == "__main__":
    main(run, "Build in poor environments.", len(ENVIRONMENTS))
