"""Claims on runs, for processes or machines that share a swarm's directory; needs no torch.

A claim is a lock whose file also names runs. When its process exits, the next process of the same
machine to look takes its runs over from their checkpoint; a claim of another machine is respected
until that machine releases it or its file is removed. Claims are read and written under one lock of
the directory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from curate.runtime.files import hash_json
from curate.runtime.locks import FileLock, LockHolder, held_by

Choose = Callable[[set[str]], Sequence[str]]


@dataclass(frozen=True)
class RunClaim:
    """Runs that this process trains."""

    runs: tuple[str, ...]
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
        """Return the runs that other processes train, and remove claims of dead ones.

        Call it under the lock only.
        """
        return {run for holder in self._holders().values() for run in holder.note["runs"]}

    def elsewhere(self) -> list[str]:
        """Name each process of another machine that trains runs, and its claim."""
        with self.lock():
            return [
                held_by(lock) for lock, holder in self._holders().items() if holder.is_elsewhere
            ]

    def _holders(self) -> dict[FileLock, LockHolder]:
        holders = {}
        for path in sorted(self._directory.glob("*.json")):
            lock = FileLock(path)
            holder = None if lock.take() else lock.holder()
            if holder is None or "runs" not in holder.note:
                lock.release()  # only a process that has ended leaves its claim unlocked
            else:
                holders[lock] = holder
        return holders

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
            lock = FileLock(self._directory / f"{hash_json(runs)[:12]}.json")
            taken = lock.take({"runs": runs})
            assert taken, "runs that nobody trains were locked"
            return RunClaim(runs, lock)

    def release(self, claim: RunClaim) -> None:
        """Give up runs that have ended, or that another process may train."""
        with self.lock():
            claim.lock.release()
