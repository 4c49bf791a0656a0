"""A swarm's files, as processes share them: what has ended, what has failed, what is claimed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.errors import ShardError
from curate.proxy.checkpoint import checkpoint_runs
from curate.proxy.claims import RunClaim, RunClaims
from curate.proxy.runs import RunRow, append_runs, read_runs, write_runs
from curate.proxy.swarm import Swarm, SwarmRun
from curate.runtime.files import read_json, write_json


@dataclass(frozen=True)
class SharedSwarm:
    """`runs.csv` holds what has ended; `proxy.json` what the runs share, and which failed."""

    swarm: Swarm
    directory: Path
    claims: RunClaims

    @property
    def record(self) -> Path:
        """What all runs share."""
        return self.directory / "proxy.json"

    def open(self, notice: Callable[[str], None]) -> None:
        """Begin the record; runs of other settings or mixtures are set aside, not taken for ours.

        Raises:
            ShardError: Another process trains such runs there.
        """
        runs, ours = self.directory / "runs.csv", self.swarm.settings_hash
        own = {run.name: run.fingerprint for run in self.swarm.runs}
        with self.claims.lock():
            found = read_json(self.record) if self.record.exists() else None
            if found is not None and found["settings"] == ours:
                self._go_on(found, own, notice)
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
            write_json(self.record, {"schema": 1, "settings": ours, "runs": own, "failed": {}})

    def _go_on(
        self, record: dict[str, Any], own: dict[str, str], notice: Callable[[str], None]
    ) -> None:
        """Add our runs to the record; forget what is there of names that mean other mixtures now.

        Of a mixture that was drawn, rows stay, as the epoch caps alone can have moved the draw.
        """
        table, known = self.directory / "runs.csv", record["runs"]
        changed = {name for name in own if known.get(name, own[name]) != own[name]}
        if changed:
            if changed & self.claims.held():
                raise ShardError(
                    f"{self.directory}: another process trains other mixtures of the same names "
                    "there; wait for it, or give another --out"
                )
            rows = read_runs(table, self.swarm.names)
            drawn = {run.name for run in self.swarm.runs if not run.named}
            stay = changed & drawn & {row.run for row in rows}
            changed -= stay
            if stay:
                notice(f"{len(stay)} runs were drawn within other epoch caps: they stay")
            own = {name: mark for name, mark in own.items() if name not in stay}
            self._set_aside(changed, rows, notice)
        failed = {run: step for run, step in record["failed"].items() if run not in changed}
        write_json(self.record, {**record, "runs": {**known, **own}, "failed": failed})

    def _set_aside(
        self, changed: set[str], rows: Sequence[RunRow], notice: Callable[[str], None]
    ) -> None:
        """Move these runs' rows to another file, and leave nothing of them to go on from."""
        settings, domains = self.swarm.settings_hash, self.swarm.names
        moved = [row for row in rows if row.run in changed]
        if moved:
            aside = self.directory / f"runs-{settings[:8]}.csv"
            append_runs(aside, domains, moved)
            left = [row for row in rows if row.run not in changed]
            write_runs(self.directory / "runs.csv", domains, left)
            count = len({row.run for row in moved})
            notice(f"{count} runs were of other mixtures: their rows are kept in {aside.name}")
        for path in self.directory.glob("group-*.safetensors"):
            if changed.intersection(checkpoint_runs(path, settings)):
                path.unlink()

    def failed(self) -> dict[str, int]:
        """Run → step in which its gradient stopped being finite."""
        return dict(read_json(self.record)["failed"])

    def fail(self, run: str, step: int) -> None:
        """Note that a run has failed."""
        with self.claims.lock():
            record = read_json(self.record)
            write_json(self.record, {**record, "failed": {**record["failed"], run: step}})

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

    def claim(self) -> RunClaim | None:
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
        return free[: self.swarm.group.models]

    def tidy(self) -> None:
        """Remove the checkpoints that groups left which were halved."""
        with self.claims.lock():
            if not self.claims.held():
                for leftover in self.directory.glob("group-*.safetensors"):
                    leftover.unlink()
