"""Remember how tables behind URLs are cut, so that a second run does not read their footers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import msgspec

from curate.runtime.files import hash_json, is_url
from curate.runtime.objects import is_object_url, map_apart
from curate.runtime.sealed import read_cached, write_sealed
from curate.sources.plans import FilePlan, PlanRequest, plan_whole

Plan: TypeAlias = Callable[[PlanRequest], FilePlan]

THREADS, TOGETHER = 4, 16
"""Threads of a process that look into tables, and how many it looks into at a time."""

TABLES = ("parquet", "arrow")
"""Readers that look into a file to cut it."""


class TableCut(msgspec.Struct, frozen=True, array_like=True):
    """The parts of a `FilePlan` that reading a file shows."""

    count: int | None
    step_bytes: int
    cuts: tuple[int, ...]
    fault: str


def _name(request: PlanRequest) -> str:
    """Return what the cuts of a table depend on, as a hash."""
    key = plan_whole(request).keys[0]
    return hash_json([key, request.options.columns, request.segment_bytes])


def _cut(plan: Plan, request: PlanRequest) -> TableCut:
    made = plan(request)
    return TableCut(made.count, made.step_bytes, made.cuts, made.fault)


def _cut_all(part: tuple[Plan, list[PlanRequest]]) -> list[TableCut]:
    """Cut tables in a few threads, which wait for the store in turn."""
    plan, requests = part
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(partial(_cut, plan), requests))


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

    def plan(self, request: PlanRequest, plan: Plan) -> FilePlan:
        """Cut a file as before, or by `plan`.

        Args:
            request: The file.
            plan: Cuts it into segments, which may read from it.
        """
        if not is_url(request.file.path) or request.reader not in TABLES:
            return plan(request)
        name = _name(request)
        cut = self._cuts.get(name)
        if cut is None:
            self._cuts[name] = cut = _cut(plan, request)
            self._is_new = True
        return replace(
            plan_whole(request),
            count=cut.count,
            step_bytes=cut.step_bytes,
            cuts=cut.cuts,
            fault=cut.fault,
        )

    def look(self, requests: Sequence[PlanRequest], plan: Plan) -> None:
        """Look into objects in parallel, before each is asked for with `plan`.

        Args:
            requests: Tables; those that are no objects, or were cut before, are passed over.
            plan: Cuts a table.
        """
        new = [
            request
            for request in requests
            if is_object_url(request.file.path) and _name(request) not in self._cuts
        ]
        parts = [(plan, new[start : start + TOGETHER]) for start in range(0, len(new), TOGETHER)]
        cuts = itertools.chain(*map_apart(_cut_all, parts))
        self._cuts.update(zip(map(_name, new), cuts, strict=True))
        self._is_new |= bool(new)

    def save(self) -> None:
        """Write what was added."""
        if self._is_new:
            write_sealed(self._path, msgspec.json.encode(self._cuts))
