"""Claims on runs, for processes or machines that share a swarm's directory; needs no torch.

A claim is a file that names its runs and that its process keeps locked. The operating system
releases the lock when the process exits, so the next process to look takes its runs over from
their checkpoint. Claims are read and written under one lock of the directory.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from curate.runtime.files import FileLock, hash_json

Choose = Callable[[set[str]], Sequence[str]]


@dataclass(frozen=True)
class RunClaim:
    """Runs that this process trains."""

    runs: tuple[str, ...]
    path: Path
    lock: FileLock


class RunClaims:
    """Claims on the runs of a directory."""

    def __init__(self, directory: Path) -> None:
        """Use the folder `claims` of a swarm's directory."""
        self._directory = directory / "claims"

    def lock(self) -> AbstractContextManager[None]:
        """Return the lock to hold, briefly, while reading or writing what processes share."""
        return FileLock(self._directory / "lock").held()

    def held(self) -> set[str]:
        """Return the runs that living processes train, and remove claims of dead ones.

        Call it under the lock only.
        """
        runs: set[str] = set()
        for path in sorted(self._directory.glob("*.json")):
            lock = FileLock(path)
            abandoned = lock.take()  # only a process that has ended leaves its claim unlocked
            lock.close()
            if abandoned:
                path.unlink()
                continue
            runs |= set(json.loads(path.read_text("utf-8"))["runs"])
        return runs

    def take(self, choose: Choose) -> RunClaim | None:
        """Claim the runs that `choose` picks; None if it picks none.

        Args:
            choose: Takes the runs that others train and returns names of runs to claim; called
                under the lock.
        """
        with self.lock():
            runs = tuple(choose(self.held()))
            if not runs:
                return None
            path = self._directory / f"{hash_json(runs)[:12]}.json"
            lock = FileLock(path)
            taken = lock.take()
            assert taken, "runs that nobody trains were locked"
            content = {"runs": runs, "process": os.getpid(), "machine": platform.node()}
            path.write_text(json.dumps(content), "utf-8")
            return RunClaim(runs, path, lock)

    def release(self, claim: RunClaim) -> None:
        """Give up runs that have ended, or that another process may train."""
        with self.lock():
            claim.lock.close()
            claim.path.unlink()
