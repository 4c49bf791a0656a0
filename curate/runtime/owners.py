"""Mark temporary files with the process that makes them, and tell whether it is still there.

The number of a process says who it is only among the processes that this one can see, and only
until another process gets the same number. Containers restart with the same host name and the same
numbers, and several of them may share a directory. So a mark holds three things: the *space* in
which the number counts (machine, boot, and namespace of processes), the number, and the time at
which the process started.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import time
from pathlib import Path

import xxhash

ABANDONED_SECONDS = 7 * 86_400
"""A temporary file of another space, where nothing tells whether its process runs, counts as
abandoned after a week without a change. Runs change their files far more often."""

MARK = re.compile(r"\.([0-9a-f]{8})-(\d+)(?:-(\d+))?-[^-.]*\.tmp$")
"""Space, process and start in the name of a temporary file; earlier versions wrote no start."""


def owner_mark() -> str:
    """Return the part of a temporary file's name that names this process."""
    process = os.getpid()
    return f"{_space()}-{process}-{_started(process) or 0}"


def is_abandoned(path: Path) -> bool:
    """Whether a temporary file or directory was made by a process that is gone."""
    mark = MARK.search(path.name)
    if mark is None:
        return False
    if mark[1] != _space():
        return time.time() - _last_change(path) > ABANDONED_SECONDS
    process = int(mark[2])
    if not is_running(process):
        return True
    started = _started(process)
    return mark[3] not in (None, "0") and started is not None and started != int(mark[3])


def is_running(process: int) -> bool:
    """Whether a process with this number exists; True where the platform cannot tell."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True


@functools.cache
def _space() -> str:
    """Return a short name of the processes among which numbers are unique."""
    parts = [platform.node()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii"))
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:  # not Linux, or a sandbox: the name of the machine must do
        pass
    return xxhash.xxh3_64_hexdigest("\n".join(parts).encode())[:8]


def _started(process: int) -> int | None:
    """Return the time at which a process started, in clock ticks since boot; None if unknown."""
    try:
        status = Path(f"/proc/{process}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    return int(status.rpartition(")")[2].split()[19])  # the name before it may hold any character


def _last_change(path: Path) -> float:
    """Return the time of the last change to a file, or to anything in a directory."""
    times = [0.0]
    for item in (path, *path.rglob("*")):
        try:
            times.append(item.lstat().st_mtime)
        except OSError:  # it has just been removed, so somebody is at work there
            return time.time()
    return max(times)
