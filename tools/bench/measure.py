"""Run a command as a process tree of its own, and what it took.

Wall time is that of the command. CPU time and the peak are read from the kernel with `wait4`: CPU
is user plus system of the command and of every descendant that was waited for; those whose parent
died first are adopted and added. The peak is the resident set of the largest single process, which
includes pages of mapped files. A caller should be small itself: a process counts at least what its
parent held when it was started.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SHOWN_CHARACTERS = 3000
"""Characters shown of the end of the output of a command that failed."""

STRAGGLER_SECONDS = 20.0
"""How long descendants may outlive the command before that is an error."""

_SET_CHILD_SUBREAPER = 36  # of prctl(2)


class CommandError(Exception):
    """A measured command failed, or ran too long."""


@dataclass(frozen=True)
class Usage:
    """Time and memory that a process tree took."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    """Largest resident set of a single process."""
    output: str
    """Standard output and error together."""


def run(
    command: Sequence[str],
    *,
    directory: Path,
    environment: Mapping[str, str] | None = None,
    limit_seconds: float = 1800.0,
) -> Usage:
    """Run a command to its end.

    Args:
        command: Program and arguments.
        directory: Where it runs; its output goes to `command.log` there.
        environment: Added to ours.
        limit_seconds: After which it and its descendants are killed.

    Raises:
        CommandError: It exited with another code than 0, ran too long, or left processes behind.
    """
    _adopt_orphans()
    signal.signal(signal.SIGTERM, _leave)  # or the command would outlive us
    os.sync()  # so that it does not pay for what was written before it
    log = directory / "command.log"
    with log.open("wb") as file:
        start = time.perf_counter()
        process = subprocess.Popen(
            list(command),
            cwd=directory,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        timer = threading.Timer(limit_seconds, _kill_group, [process.pid])
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            _kill_group(process.pid)
            raise
        finally:
            timer.cancel()
        wall_seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    output = log.read_text("utf-8", "replace")
    if process.returncode:
        _kill_group(process.pid)
        raise CommandError(
            f"{' '.join(command)}\nexited with {process.returncode} after {wall_seconds:.1f} s:\n"
            f"{output[-SHOWN_CHARACTERS:]}"
        )
    cpu_seconds = usage.ru_utime + usage.ru_stime
    peak = usage.ru_maxrss
    for orphan in _collect_orphans(process.pid):
        cpu_seconds += orphan.cpu_seconds
        peak = max(peak, orphan.peak_units)
    return Usage(wall_seconds, cpu_seconds, peak * PEAK_UNIT_BYTES, output)


PEAK_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class _Orphan:
    cpu_seconds: float
    peak_units: int


def _adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _collect_orphans(group: int) -> list[_Orphan]:
    """Wait for adopted processes; the caller has no other children."""
    orphans: list[_Orphan] = []
    deadline = time.monotonic() + STRAGGLER_SECONDS
    while True:
        try:
            pid, _, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return orphans
        if pid:
            orphans.append(_Orphan(usage.ru_utime + usage.ru_stime, usage.ru_maxrss))
        elif time.monotonic() > deadline:
            _kill_group(group)
            raise CommandError(f"processes were still there {STRAGGLER_SECONDS:.0f} s after it")
        else:
            time.sleep(0.01)


def _leave(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
