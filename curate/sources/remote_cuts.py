"""Remember how tables behind URLs are cut, so that a second run does not read their footers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from curate.runtime.files import hash_json, is_url
from curate.runtime.sealed import read_cached, write_sealed
from curate.sources.plans import FilePlan, PlanRequest, plan_whole

TABLES = ("parquet", "arrow")
"""Readers that look into a file to cut it."""


class TableCut(msgspec.Struct, frozen=True, array_like=True):
    """The parts of a `FilePlan` that reading a file shows."""

    count: int | None
    step_bytes: int
    cuts: tuple[int, ...]
    fault: str


class RemoteCuts:
    """Cuts of tables behind URLs by content, in a file of the cache."""

    def __init__(self, cache: Path) -> None:
        """Read what is in the cache."""
        self._path = cache / "hub" / "cuts.json"
        payload = read_cached(self._path, "tables are looked at again", lambda _: None)
        self._cuts = (
            {} if payload is None else msgspec.json.decode(payload, type=dict[str, TableCut])
        )
        self._is_new = False

    def plan(self, request: PlanRequest, plan: Callable[[PlanRequest], FilePlan]) -> FilePlan:
        """Cut a file as before, or by `plan`.

        Args:
            request: The file.
            plan: Cuts it into segments, which may read from it.
        """
        if not is_url(request.file.path) or request.reader not in TABLES:
            return plan(request)
        whole = plan_whole(request)
        name = hash_json([whole.keys[0], request.options.columns, request.segment_bytes])
        cut = self._cuts.get(name)
        if cut is None:
            made = plan(request)
            self._cuts[name] = TableCut(made.count, made.step_bytes, made.cuts, made.fault)
            self._is_new = True
            return made
        return replace(
            whole, count=cut.count, step_bytes=cut.step_bytes, cuts=cut.cuts, fault=cut.fault
        )

    def save(self) -> None:
        """Write what was added."""
        if self._is_new:
            write_sealed(self._path, msgspec.json.encode(self._cuts))
