"""One holder at a time, whatever the threads, processes, machines, and who is killed."""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from curate.errors import EngineError, ShardError
from curate.runtime import locks
from curate.runtime.locks import DIRECTORY_LOCK, FileLock, directory_lock

HOLD = """
import sys, time
from pathlib import Path
from curate.runtime.locks import FileLock
lock = FileLock(Path(sys.argv[1]))
print(lock.take(), flush=True)
time.sleep(60)
"""


@contextmanager
def another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until it is killed."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == "True\n"
        yield process
        process.kill()


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.take({"runs": ["a"]}) and not second.take()
    holder = second.holder()
    assert holder is not None and not holder.is_elsewhere and not holder.has_ended
    assert (holder.machine, holder.process) == (platform.node(), os.getpid())
    assert holder.note == {"runs": ["a"]}
    first.release()
    assert second.holder() is None and not (tmp_path / "lock").exists()
    assert second.take()
    second.release()


def test_two_threads_are_two_holders(tmp_path: Path) -> None:
    answers: list[str] = []

    def lock() -> None:
        try:
            with directory_lock(tmp_path):
                answers.append("held")
        except ShardError as error:
            answers.append(str(error))

    with directory_lock(tmp_path):
        thread = threading.Thread(target=lock)
        thread.start()
        thread.join()
    assert f"process {os.getpid()} of {platform.node()} (since " in answers[0]
    assert answers[0].endswith("has locked it; wait for it, or give another --out")
    lock()
    assert answers[1:] == ["held"]


def test_a_file_that_is_removed_meanwhile_is_not_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second opens the file, the first releases it, a third takes it, the second locks it."""
    first, second, third = (FileLock(tmp_path / "lock") for _ in range(3))
    assert first.take()
    lock_file = locks._lock

    def late(file: object) -> bool:
        monkeypatch.setattr(locks, "_lock", lock_file)
        first.release()
        assert third.take()
        return lock_file(file)  # type: ignore[arg-type]

    monkeypatch.setattr(locks, "_lock", late)
    assert not second.take()
    third.release()
    assert second.take()
    second.release()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    with another_process(tmp_path / "lock") as process:
        ours = FileLock(tmp_path / "lock")
        assert not ours.take()
        process.send_signal(signal.SIGKILL)
        with ours.held():
            pass
    assert not (tmp_path / "lock").exists()


def test_a_directory_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    with another_process(tmp_path / DIRECTORY_LOCK) as process:
        with pytest.raises(ShardError, match=f"process {process.pid} of .* has locked it"):
            directory_lock(tmp_path).__enter__()
        process.kill()
        process.wait()
        with directory_lock(tmp_path):
            pass


def test_a_lock_of_another_machine_is_respected(tmp_path: Path) -> None:
    path = tmp_path / DIRECTORY_LOCK
    path.write_text(json.dumps({"machine": "node9", "process": 71, "since": 1.8e9}))
    with pytest.raises(ShardError) as caught:
        directory_lock(tmp_path).__enter__()
    assert str(caught.value) == (
        f"{tmp_path}: process 71 of node9 (since 2027-01-15 08:00 UTC) has locked it; wait for it, "
        f"or, if it is gone, type: rm '{path}', or give another --out"
    )
    path.unlink()
    with directory_lock(tmp_path):
        pass


def test_waiting_for_another_machine_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "GRACE_SECONDS", 0.2)
    (tmp_path / "lock").write_text('{"machine": "node9", "process": 71, "since": 0}')
    with pytest.raises(ShardError, match="node9 .* type: rm"):
        FileLock(tmp_path / "lock").held().__enter__()


@pytest.mark.parametrize("content", ["", "71\n", "[]", '{"machine": 3}', "\0\0"])
def test_a_file_that_names_nobody_is_taken_over(tmp_path: Path, content: str) -> None:
    (tmp_path / DIRECTORY_LOCK).write_text(content)
    with directory_lock(tmp_path):
        pass


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(EngineError, match=r"has no locks \(No locks available\), .* put --out"):
        FileLock(tmp_path / "lock").take()
