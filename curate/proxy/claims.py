"""Who trains which runs, where several processes or machines share a swarm's directory.

A claim is a file that names its runs and that its process holds a lock of. A process that is gone
holds nothing, so whoever looks next takes its runs over, from their checkpoint. All looking and
writing is done under one lock of the directory. Needs no torch.
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
    """The claims on the runs of a directory."""

    def __init__(self, directory: Path) -> None:
        """Of the swarm that `directory` holds."""
        self._directory = directory / "claims"

    def lock(self) -> AbstractContextManager[None]:
        """Held by whoever reads or writes what processes share; only shortly."""
        return FileLock(self._directory / "lock").held()

    def held(self) -> set[str]:
        """Runs that living processes train; claims of others are removed. Under the lock only."""
        runs: set[str] = set()
        for path in sorted(self._directory.glob("*.json")):
            lock = FileLock(path)
            abandoned = lock.take()
            lock.close()
            if abandoned:
                path.unlink()
                continue
            runs |= set(json.loads(path.read_text("utf-8"))["runs"])
        return runs

    def take(self, choose: Choose) -> RunClaim | None:
        """Claim what `choose` picks; None where it picks nothing.

        Args:
            choose: Given the runs that others train, returns names of runs to claim; it is called
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
            said = {"runs": runs, "process": os.getpid(), "machine": platform.node()}
            path.write_text(json.dumps(said), "utf-8")
            return RunClaim(runs, path, lock)

    def release(self, claim: RunClaim) -> None:
        """Let go of runs: they have ended, or somebody else may have them."""
        with self.lock():
            claim.lock.close()
            claim.path.unlink()
