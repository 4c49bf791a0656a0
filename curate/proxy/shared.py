"""Files of a swarm that processes share: which runs ended, failed, or are claimed."""

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
from curate.runtime.registry import counted
from curate.tokens.content_sample import content_of


@dataclass(frozen=True)
class SharedSwarm:
    """A swarm in its directory: `runs.csv` has runs that ended, `proxy.json` those that failed."""

    swarm: Swarm
    directory: Path
    claims: RunClaims

    @property
    def record(self) -> Path:
        """Path of the record that all runs share."""
        return self.directory / "proxy.json"

    def open(self, notice: Callable[[str], None]) -> None:
        """Begin or extend the record; move runs of other settings or mixtures to another file.

        Raises:
            ShardError: Another process trains runs of other settings or mixtures there.
        """
        runs, ours = self.directory / "runs.csv", self.swarm.settings_hash
        fingerprints = {run.name: run.fingerprint for run in self.swarm.runs}
        with self.claims.lock():
            record = read_json(self.record) if self.record.exists() else None
            kept: dict[str, Any] = {} if record is None else record.get("domains", {})
            if record is not None and record["settings"] == ours:
                self._resume(record, fingerprints, notice)
                return
            if self.claims.held():
                raise ShardError(
                    f"{self.directory}: another process trains proxies of other settings there; "
                    "wait for it, or give another --out"
                )
            if runs.exists():
                mark = record["settings"][:8] if record is not None else "unknown"
                aside = self.directory / f"runs-{mark}.csv"
                runs.replace(aside)
                if runs.name in kept:
                    kept[aside.name] = kept[runs.name]
                notice(f"{runs} has runs of other settings; it is kept as {aside.name}")
            fields = {"schema": 1, "settings": ours, "runs": fingerprints, "failed": {}}
            write_json(self.record, {**fields, "domains": {**kept, runs.name: self._contents()}})

    def _resume(
        self, record: dict[str, Any], fingerprints: dict[str, str], notice: Callable[[str], None]
    ) -> None:
        """Add our runs to the record, and set runs aside whose name means another mixture now.

        Rows of drawn mixtures stay: only other epoch caps can have changed the draw, and such a row
        is still evidence.
        """
        table, recorded = self.directory / "runs.csv", record["runs"]
        changed = {name for name, mark in fingerprints.items() if recorded.get(name, mark) != mark}
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
                notice(f"rows drawn within other epoch caps stay: {counted(len(stay), 'run')}")
            fingerprints = {name: mark for name, mark in fingerprints.items() if name not in stay}
            self._set_aside(changed, rows, notice)
        failed = {run: step for run, step in record["failed"].items() if run not in changed}
        kept = record.get("domains", {})
        contents = kept.get(table.name) or self._contents()
        # Runs that were set aside drew from the same documents.
        names = (
            {table.name, f"runs-{self.swarm.settings_hash[:8]}.csv"} if changed else {table.name}
        )
        domains = {**kept, **dict.fromkeys(names, contents)}
        write_json(
            self.record,
            {**record, "runs": {**recorded, **fingerprints}, "failed": failed, "domains": domains},
        )

    def _contents(self) -> dict[str, Any]:
        """Return what each domain holds, for runs to be known by when domains change."""
        return {d.tokens.name: content_of(d.tokens).to_json() for d in self.swarm.domains}

    def _set_aside(
        self, changed: set[str], rows: Sequence[RunRow], notice: Callable[[str], None]
    ) -> None:
        """Move these runs' rows to another file, and remove checkpoints that hold any of them."""
        settings, domains = self.swarm.settings_hash, self.swarm.names
        moved = [row for row in rows if row.run in changed]
        if moved:
            aside = self.directory / f"runs-{settings[:8]}.csv"
            append_runs(aside, domains, moved)
            left = [row for row in rows if row.run not in changed]
            write_runs(self.directory / "runs.csv", domains, left)
            count = len({row.run for row in moved})
            notice(f"rows with other mixtures are kept in {aside.name}: {counted(count, 'run')}")
        for path in self.directory.glob("group-*.safetensors"):
            if changed.intersection(checkpoint_runs(path, settings)):
                path.unlink()

    def failed(self) -> dict[str, int]:
        """Return the step in which the gradient stopped being finite, by run."""
        return dict(read_json(self.record)["failed"])

    def fail(self, run: str, step: int) -> None:
        """Record that a run has failed."""
        with self.claims.lock():
            record = read_json(self.record)
            write_json(self.record, {**record, "failed": {**record["failed"], run: step}})

    def append(self, rows: Sequence[RunRow]) -> None:
        """Add the rows of runs that have ended."""
        with self.claims.lock():
            append_runs(self.directory / "runs.csv", self.swarm.names, rows)

    def pending(self) -> list[SwarmRun]:
        """Return the runs that have not ended, even if another process trains them."""
        rows = read_runs(self.directory / "runs.csv", self.swarm.names)
        ended = {row.run for row in rows} | set(self.failed())
        return [run for run in self.swarm.runs if run.name not in ended]

    def held(self) -> set[str]:
        """Return the runs that living processes train."""
        with self.claims.lock():
            return self.claims.held()

    def claim(self) -> RunClaim | None:
        """Claim the runs to train next: a group that was begun, else as many as fit at once."""
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
            path.unlink()  # all its runs have ended: a halved group has left it behind
        return free[: self.swarm.group.models]

    def tidy(self) -> None:
        """Remove the checkpoints that halved groups left behind."""
        with self.claims.lock():
            if not self.claims.held():
                for leftover in self.directory.glob("group-*.safetensors"):
                    leftover.unlink()
