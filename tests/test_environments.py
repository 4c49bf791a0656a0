"""A poor environment works, or is named in one line with a remedy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from curate.runtime.shared import shared_lock, shared_numbers
from curate.runtime.workers import map_tasks, run_workers

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="limits and mounts of Linux"),
    pytest.mark.usefixtures("own_store"),
]


def build(recipe: Path, before: str = "", after: str = "") -> subprocess.CompletedProcess[str]:
    """Build by the shell, after a command such as `ulimit -f 20;`."""
    command = f"{before} exec '{sys.executable}' -m curate.cli build '{recipe}' {after}"
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, timeout=120
    )


def one_line(done: subprocess.CompletedProcess[str], *expected: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for text in expected:
        assert text in done.stderr


def test_files_that_may_not_grow(recipe: Path) -> None:
    one_line(build(recipe, "ulimit -f 20;"), "tokens", "File too large", "ulimit -f unlimited")


def test_too_few_descriptors(recipe: Path) -> None:
    one_line(build(recipe, "ulimit -n 16;"), "Too many open files; raise the limit (ulimit -n")


def test_address_space_of_the_stated_memory(recipe: Path) -> None:
    """1 GiB by `limits.memory_mb`, and 150 MB of programs."""
    done = build(recipe, f"ulimit -v {(1 << 20) + 150_000};")
    assert done.returncode == 0, done.stderr


def test_little_processor_time_is_no_error_of_ours(recipe: Path) -> None:
    """The limits of the self-test stay below those of the user."""
    done = build(recipe, "ulimit -t 600;")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_errors_that_nobody_can_read(recipe: Path) -> None:
    assert build(recipe, "", "--set seed=x 2>/dev/full").returncode == 2


def test_places_that_cannot_be_written(recipe: Path) -> None:
    cache = recipe.parent / "cache"
    cache.mkdir(mode=0o500)
    if os.access(cache, os.W_OK):
        pytest.skip("the superuser can write everywhere")
    one_line(build(recipe, "", f"--set cache={cache}"), str(cache), "cache for the token store")


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs mounts of its own",
)
@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ("mount -t tmpfs -o ro none /dev/shm", ""),
        ("mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3; mknod -m 666 /dev/urandom c 1 9",
         ""),
        ("mkdir -p {0}/cache; mount --bind {0}/cache {0}/cache; mount -o remount,ro,bind {0}/cache",
         "Read-only file system; choose places that can be written"),
    ],
)  # fmt: skip
def test_mounts(recipe: Path, mounts: str, expected: str) -> None:
    mounted = mounts.format(recipe.parent)
    command = f"{mounted}; '{sys.executable}' -m curate.cli build '{recipe}' --set cache=cache"
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", command], capture_output=True, text=True, check=False
    )
    if expected:
        one_line(done, str(recipe.parent / "cache"), expected)
    else:
        assert done.returncode == 0, done.stderr


def test_numbers_and_locks_are_shared_among_processes() -> None:
    numbers, lock = shared_numbers([0, 5]), shared_lock()

    def count(number: int, _: object) -> None:
        for _ in range(2000):
            with lock:
                numbers[0] += 1

    run_workers(count, 4, lambda _: None, lambda: None)
    assert list(numbers) == [8000, 5]
    assert list(shared_numbers([])) == []
    assert map_tasks(abs, [-3, 1, -2], workers=3) == [3, 1, 2]
