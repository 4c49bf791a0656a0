"""A swarm's files, as processes share them: what has ended, what has failed, what is claimed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from curate.errors import ShardError
from curate.proxy.checkpoint import checkpoint_runs
from curate.proxy.claims import Claim, Claims
from curate.proxy.runs import RunRow, append_runs, read_runs
from curate.proxy.swarm import Swarm, SwarmRun
from curate.storage import read_json, write_json


@dataclass(frozen=True)
class Shared:
    """`runs.csv` holds what has ended; `proxy.json` what the runs share, and which failed."""

    swarm: Swarm
    directory: Path
    claims: Claims

    @property
    def record(self) -> Path:
        """What all runs share."""
        return self.directory / "proxy.json"

    def open(self, notice: Callable[[str], None]) -> None:
        """Begin the record; runs of other settings are set aside, not mixed with ours."""
        runs, ours = self.directory / "runs.csv", self.swarm.settings_hash
        with self.claims.lock():
            found = read_json(self.record) if self.record.exists() else None
            if found is not None and found["settings"] == ours:
                return
            if self.claims.held():
                raise ShardError(
                    f"{self.directory}: another process trains proxies of other settings there; "
                    "wait for it, or give another --out"
                )
            if runs.exists():
                mark = found["settings"][:8] if found is not None else "unknown"
                aside = self.directory / f"runs-{mark}.csv"
                runs.replace(aside)
                notice(f"{runs} is of other settings: kept as {aside.name}")
            write_json(self.record, {"schema": 1, "settings": ours, "failed": {}})

    def failed(self) -> dict[str, int]:
        """Run → step in which its gradient stopped being finite."""
        return dict(read_json(self.record)["failed"])

    def fail(self, run: str, step: int) -> None:
        """Note that a run has failed."""
        with self.claims.lock():
            failed = {**self.failed(), run: step}
            settings = self.swarm.settings_hash
            write_json(self.record, {"schema": 1, "settings": settings, "failed": failed})

    def append(self, rows: Sequence[RunRow]) -> None:
        """Add rows of runs that have ended."""
        with self.claims.lock():
            append_runs(self.directory / "runs.csv", self.swarm.names, rows)

    def pending(self) -> list[SwarmRun]:
        """Runs that have not ended, whoever trains them."""
        rows = read_runs(self.directory / "runs.csv", self.swarm.names)
        ended = {row.run for row in rows} | set(self.failed())
        return [run for run in self.swarm.runs if run.name not in ended]

    def held(self) -> set[str]:
        """Runs that living processes train."""
        with self.claims.lock():
            return self.claims.held()

    def claim(self) -> Claim | None:
        """Runs to train next: a group that was begun, as it was, else so many as fit at once."""
        return self.claims.take(self._choose)

    def _choose(self, held: set[str]) -> Sequence[str]:
        free = [run.name for run in self.pending() if run.name not in held]
        for path in sorted(self.directory.glob("group-*.safetensors")):
            begun = checkpoint_runs(path, self.swarm.settings_hash)
            if held.intersection(begun):
                continue
            group = [name for name in begun if name in free]
            if group:
                return group
            path.unlink()
        return free[: self.swarm.fit.models]

    def tidy(self) -> None:
        """Remove the checkpoints that groups left which were halved."""
        with self.claims.lock():
            if not self.claims.held():
                for leftover in self.directory.glob("group-*.safetensors"):
                    leftover.unlink()
