"""Remember how files at commits of the Hub are cut, so that a warm cache needs no network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from curate.runtime.files import hash_json
from curate.runtime.sealed import read_cached, write_sealed
from curate.sources.plans import FilePlan, PlanRequest, plan_whole
from curate.sources.remote import pinned_parts


class HubCut(msgspec.Struct, frozen=True, array_like=True):
    """The parts of a `FilePlan` that reading a file shows."""

    count: int | None
    step_bytes: int
    cuts: tuple[int, ...]
    fault: str


class PinnedCuts:
    """Cuts of files whose URLs name a commit, in a file of the cache."""

    def __init__(self, cache: Path) -> None:
        """Read what is in the cache."""
        self._path = cache / "hub" / "cuts.json"
        payload = read_cached(self._path, "tables are looked at again", lambda _: None)
        self._cuts = {} if payload is None else msgspec.json.decode(payload, type=dict[str, HubCut])
        self._is_new = False

    def plan(self, request: PlanRequest, plan: Callable[[PlanRequest], FilePlan]) -> FilePlan:
        """Cut a file as before, or by `plan`.

        Args:
            request: The file.
            plan: Cuts it into segments, which may read from it.
        """
        if not pinned_parts(request.file.path):
            return plan(request)
        whole = plan_whole(request)
        name = hash_json([whole.keys[0], request.options.columns, request.segment_bytes])
        cut = self._cuts.get(name)
        if cut is None:
            made = plan(request)
            self._cuts[name] = HubCut(made.count, made.step_bytes, made.cuts, made.fault)
            self._is_new = True
            return made
        return replace(
            whole, count=cut.count, step_bytes=cut.step_bytes, cuts=cut.cuts, fault=cut.fault
        )

    def save(self) -> None:
        """Write what was added."""
        if self._is_new:
            write_sealed(self._path, msgspec.json.encode(self._cuts))
