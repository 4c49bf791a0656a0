"""Show comparisons of recipes, mixtures and datasets on a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from curate.dataset.differences import Change, Differences, DomainDifference, DomainSide
from curate.report.terminal import numbers_table, plain
from curate.runtime.registry import list_first

NUMBERS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "weight": ("weight", "{:.4%}".format),
    "tokens": ("tokens", "{:,}".format),
    "epochs": ("epochs", "{:.3f}".format),
    "documents": ("texts", "{:,}".format),
}
"""Heading and format of each number of a domain."""


def difference_lines(result: Differences) -> RenderableType:
    """Show what differs between two artifacts.

    Args:
        result: The comparison.
    """
    notes = [f"[yellow]note[/] {plain(notice)}" for notice in result.notices]
    if result.same:
        extent = ", as far as they were compared" if notes else ""
        return Group(f"no difference between these {result.kind}s{extent}", *notes)
    parts: list[RenderableType] = [f"A {plain(result.a)}", f"B {plain(result.b)}"]
    changes = list(result.changes)
    for domain in result.domains:
        changes += [
            Change(f"{domain.domain}.{change.key}", change.before, change.after)
            for change in domain.changes
        ]
    if changes:
        parts.append(_changes_table(changes))
    if result.domains:
        parts += ["domains that differ", _domains_table(result.domains)]
    for one in result.stranded:
        which = "all" if len(one.stranded) == one.runs else f"{len(one.stranded):,} of {one.runs:,}"
        parts.append(
            f"[yellow]stranded[/] {which} runs of {plain(one.table)}: {plain(one.reason)} "
            f"({plain(list_first(one.stranded))})"
        )
    return Group(*parts, *notes)


def _changes_table(changes: Sequence[Change]) -> RenderableType:
    table = Table(box=None, pad_edge=False)
    for heading in ("key", "A", "B"):
        table.add_column(heading, overflow="fold")
    for change in changes:
        table.add_row(plain(change.key), _value(change.before), _value(change.after))
    return table


def _value(value: Any) -> str:
    if value is None:
        return "[dim]not set[/]"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return plain("\n".join(value))
    return plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _domains_table(domains: Sequence[DomainDifference]) -> RenderableType:
    """Show the numbers of each domain on both sides, as far as either has them."""
    sides = [side for domain in domains for side in (domain.before, domain.after)]
    shown = [name for name in NUMBERS if any(_number(side, name) for side in sides)]
    with_texts = any(domain.documents_in_both is not None for domain in domains)
    headings = [f"{NUMBERS[name][0]} {side}" for name in shown for side in "AB"]
    if with_texts:
        headings.append("texts in both")
    table = numbers_table("", ["domain", *headings])
    for domain in domains:
        kind = "" if domain.kind == "changed" else f" ({domain.kind})"
        cells = [_number(side, name) for name in shown for side in (domain.before, domain.after)]
        if with_texts:
            both = domain.documents_in_both
            cells.append("" if both is None else f"{both:,}")
        table.add_row(plain(domain.domain + kind), *cells)
    return table


def _number(side: DomainSide | None, name: str) -> str:
    value = None if side is None else getattr(side, name)
    return "" if value is None else NUMBERS[name][1](value)
