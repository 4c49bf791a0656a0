"""Locks on paths: one holder at a time, whether threads, processes or machines.

A lock is a file that exists while it is held, that its holder has locked (`flock`), and that names
the holder. The operating system ends the file lock with the process, even if that is killed, so a
file that nobody has locked is left over and is taken over. Where machines share a file system that
keeps file locks to each machine (NFS mounted with `nolock`, some FUSE), the content is what other
machines see: a file that names another machine is respected even if nobody seems to have locked it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

from curate.errors import EngineError, ShardError
from curate.runtime.files import name_errors, sweep
from curate.runtime.machine import fault_or, raise_fault
from curate.runtime.owners import is_running

POLL_SECONDS = 0.05

GRACE_SECONDS = 30.0
"""Longest wait for the workers of a killed process, which share its lock until they have ended."""

DIRECTORY_LOCK = ".curate.lock"
"""Name of the file that locks an output directory."""

LOCKED_BYTE = 1 << 40
"""Offset of the byte to lock on Windows, beyond the file's content so that it stays readable."""


@dataclass(frozen=True, slots=True)
class LockHolder:
    """The process that holds a lock, as the lock's file names it."""

    machine: str
    process: int
    since: float
    """Time at which it took the lock, seconds since 1970."""
    note: dict[str, Any]
    """Further fields that the process wrote."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether it runs on another machine, where nothing here can tell if it still does."""
        return self.machine != platform.node()

    @property
    def has_ended(self) -> bool:
        """Whether it ran on this machine and has ended."""
        return not self.is_elsewhere and not is_running(self.process)

    def __str__(self) -> str:
        """Describe the process in a message, such as `process 71 of node3`."""
        since = datetime.fromtimestamp(self.since, timezone.utc)
        return f"process {self.process} of {self.machine} (since {since:%Y-%m-%d %H:%M} UTC)"


class FileLock:
    """A lock on a path. Two locks on a path exclude each other in one process, too.

    The file is created and removed only by a process that has it locked, so whoever has locked the
    file that is at the path is the only holder.
    """

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is opened yet."""
        self.path = path
        self._file: BinaryIO | None = None

    def take(self, note: Mapping[str, Any] | None = None) -> bool:
        """Take the lock unless somebody else holds it, and return whether this succeeded.

        Args:
            note: Fields to write beside this process's name, for others to read.

        Raises:
            EngineError: The file system has no locks.
            OSError: The file cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with contextlib.ExitStack() as stack:
                file = stack.enter_context(open(self.path, "a+b", buffering=0))
                if not _lock(file):
                    return False
                # The last holder removes the file while it has it locked. A file that was opened
                # before and locked afterwards is then no longer the one at the path.
                if not self._is_at_path(file):
                    continue
                holder = _read(file)
                if holder is not None and holder.is_elsewhere:
                    return False
                _write(file, note or {})
                stack.pop_all()  # the file stays open: closing it would release the lock
                self._file = file
                return True

    def _is_at_path(self, file: BinaryIO) -> bool:
        """Return whether the open file is still the one at the path."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    def holder(self) -> LockHolder | None:
        """Return who holds the lock; None if nobody does, or its name is not written yet."""
        try:
            with open(self.path, "rb", buffering=0) as file:
                return _read(file)
        except FileNotFoundError:
            return None

    def release(self) -> None:
        """Remove the file and release the lock; without the lock this does nothing."""
        if self._file is None:
            return
        file, self._file = self._file, None
        with file:
            if sys.platform != "win32":
                self.path.unlink(missing_ok=True)
        if sys.platform == "win32":  # an open file cannot be removed; another holder may have it
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the lock, and release it when the `with` block ends.

        Raises:
            ShardError: It names a process of another machine all the time that this one waits.
        """
        since, waited_for = time.monotonic(), None
        while not self.take():
            holder = self.holder()
            if holder is None or holder != waited_for:
                since, waited_for = time.monotonic(), holder
            elif holder.is_elsewhere and time.monotonic() - since > GRACE_SECONDS:
                raise ShardError(f"{self.path.parent}: {held_by(self)}")
            time.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            self.release()


def held_by(lock: FileLock) -> str:
    """Say who holds a lock, and what to type if that process is gone."""
    holder = lock.holder()
    if holder is None:
        return "another process has just locked it; run again"
    if holder.is_elsewhere:
        return f"{holder} has locked it; wait for it, or, if it is gone, type: rm '{lock.path}'"
    return f"{holder} has locked it; wait for it"


@contextlib.contextmanager
def directory_lock(directory: Path, name: str | None = None) -> Iterator[None]:
    """Lock an output directory, and remove temporary files that killed processes left in it.

    A function that others call with the directory locked must not lock it again.

    Args:
        directory: The output directory.
        name: What messages call it, if it is the staging directory of a bucket.

    Raises:
        ShardError: Another process or thread has locked it, or nothing can be written there.
    """
    lock = FileLock(directory / DIRECTORY_LOCK)
    deadline = time.monotonic() + GRACE_SECONDS
    try:
        while not lock.take():
            holder = lock.holder()
            is_going = holder is None or holder.has_ended
            if not is_going or time.monotonic() > deadline:
                raise ShardError(f"{name or directory}: {held_by(lock)}, or give another --out")
            time.sleep(POLL_SECONDS)
    except OSError as error:
        unwritable = ShardError(
            f"{directory}: nothing can be written there ({error.strerror}); choose another "
            "directory with output.dir or --out"
        )
        raise fault_or(unwritable, error, str(directory)) from error
    try:
        sweep(directory)
        yield
    finally:
        lock.release()


def _lock(file: BinaryIO) -> bool:
    """Lock an open file unless another one has it locked, and return whether this succeeded."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:  # ENOLCK, ENOSYS, ENOTSUP: network file systems without locks
        raise_fault(error, str(file.name))
        raise EngineError(
            f"{file.name}: its file system has no locks ({error.strerror}), which keep two "
            "processes from writing the same files; put --out on a local disk, or mount it with "
            "locks"
        ) from error
    return True


def _write(file: BinaryIO, note: Mapping[str, Any]) -> None:
    """Name this process in its locked file."""
    with name_errors(Path(file.name)):
        file.truncate(0)
        file.write(holder_line(note))


def holder_line(note: Mapping[str, Any]) -> bytes:
    """Name this process in a line, with further fields, as `parse_holder` reads it."""
    name = {"machine": platform.node(), "process": os.getpid(), "since": time.time()}
    return json.dumps({**name, **note}).encode() + b"\n"


def _read(file: BinaryIO) -> LockHolder | None:
    file.seek(0)
    return parse_holder(file.read())


def parse_holder(content: bytes) -> LockHolder | None:
    """Return who is named in a lock; None if it is empty, or was written by something else."""
    try:
        fields = json.loads(content)
        names = {name: fields.pop(name) for name in ("machine", "process", "since")}
        return LockHolder(
            machine=str(names["machine"]),
            process=int(names["process"]),
            since=float(names["since"]),
            note=fields,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
