"""On a Ray cluster, every stage gives the same bytes, and every fault one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import curate
from curate.errors import EngineError, InputError
from curate.runtime import memory
from curate.runtime.workers import default_workers, map_tasks

pytestmark = pytest.mark.usefixtures("own_store")

ray = pytest.importorskip("ray")

CORES = 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of this process, which the command line uses, too."""
    context = ray.init(
        "local",
        num_cpus=CORES,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 << 20,
    )
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = context.address_info["address"]
    with curate.engine("ray"):
        yield
    if before is None:
        del os.environ["RAY_ADDRESS"]
    ray.shutdown()


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "curate.cli", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=180)


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_a_dataset_is_the_same_byte_for_byte(recipe: Path, cluster: None) -> None:
    datasets = []
    for engine in ("local", "ray"):
        done = run(recipe.parent, "build", recipe.name, "--engine", engine, "--set", "cache=cache",
                   "--set", "sequence_length=32", "--set", "output.format=npy",
                   "--set", "output.shard_tokens=2000")  # fmt: skip
        assert done.returncode == 0, done.stderr
        made = recipe.parent / "out" / "tiny"
        datasets.append(tree(made))
        made.rename(recipe.parent / f"out-{engine}")
        (recipe.parent / "cache").rename(recipe.parent / f"cache-{engine}")
    assert datasets[0] == datasets[1]


def test_results_come_in_order(cluster: None) -> None:
    seen: list[int] = []
    items = list(range(500))
    assert map_tasks(str, items, 2, on_result=lambda text: seen.append(int(text))) == [
        str(item) for item in items
    ]
    assert sorted(seen) == items
    assert default_workers() == CORES


def test_tasks_run_on_the_cluster_in_our_directory(cluster: None) -> None:
    processes = set(map_tasks(lambda _: os.getpid(), range(20), 2))
    assert os.getpid() not in processes
    assert set(map_tasks(lambda _: os.getcwd(), range(4), 2)) == {os.getcwd()}


def test_the_bound_of_memory_holds_there(cluster: None, tmp_path: Path) -> None:
    with memory.bounded(77 << 20, tmp_path):
        assert set(map_tasks(lambda _: memory.memory_bound(), range(4), 2)) == {77 << 20}


def test_errors_of_tasks_are_passed_on(cluster: None) -> None:
    def refuse(item: int) -> int:
        if item == 3:
            raise InputError("wiki.jsonl:7: empty document")
        return item

    with pytest.raises(InputError, match=r"^wiki.jsonl:7: empty document$"):
        map_tasks(refuse, range(8), 2)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        map_tasks(lambda item: 1 // item, range(8), 2)


def test_a_task_that_always_dies_ends_the_run(cluster: None) -> None:
    with pytest.raises(EngineError, match="engine ray: a task failed each time it was run"):
        map_tasks(lambda _: os._exit(9), range(2), 2)


def test_a_task_that_dies_once_runs_again(cluster: None, tmp_path: Path) -> None:
    def die_once(item: int) -> int:
        mark = tmp_path / f"{item}"
        if not mark.exists():
            mark.touch()
            os._exit(9)
        return item

    assert map_tasks(die_once, range(3), 2) == [0, 1, 2]


def test_more_memory_than_a_machine_has_is_refused(cluster: None, tmp_path: Path) -> None:
    with (
        memory.bounded(1 << 50, tmp_path),
        pytest.raises(EngineError, match=r"limits\.memory_mb: a task may use .* the largest mach"),
    ):
        map_tasks(abs, range(4), 2)


def test_an_interrupt_ends_the_run(recipe: Path, cluster: None) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "curate.cli", "build", recipe.name, "--engine", "ray",
         "--log-file", "log"],
        cwd=recipe.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    log = recipe.parent / "log"
    while not (log.exists() and "begin find files" in log.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint.strip().split(";")[0]) == (143, "curate: interrupted")


def test_doctor_looks_at_every_machine(recipe: Path, cluster: None) -> None:
    done = run(recipe.parent, "doctor", "--engine", "ray", "--path", ".")
    assert done.returncode == 0, done.stderr
    assert f"{CORES} cores" in done.stdout
    assert "1 machine: same paths, versions and time" in done.stdout
    assert not list(recipe.parent.glob(".curate-*"))
