"""Show comparisons of recipes, mixtures and datasets on a terminal."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from curate.dataset.differences import Change, Differences, DomainDifference, DomainSide
from curate.report.terminal import numbers_table, plain
from curate.runtime.registry import counted, list_first

NUMBERS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "weight": ("weight", "{:.4%}".format),
    "tokens": ("tokens", "{:,}".format),
    "epochs": ("epochs", "{:.3f}".format),
    "documents": ("texts", "{:,}".format),
}
"""Heading and format of each number of a domain."""


MOST_SHOWN = 20
"""Most domains, and keys of one section of a recipe, that are shown."""


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
        parts.append(_changes_table(_shortened(changes)))
    if result.domains:
        ordered = list(result.domains)
        if len(ordered) > MOST_SHOWN:
            ordered.sort(key=_moved, reverse=True)
        parts += [_domains_heading(len(ordered)), _domains_table(ordered[:MOST_SHOWN])]
    if result.equal_domains:
        are = "is" if result.equal_domains == 1 else "are"
        parts.append(f"{counted(result.equal_domains, 'domain')} {are} the same in both")
    for one in result.stranded:
        which = "all" if len(one.stranded) == one.runs else f"{len(one.stranded):,} of {one.runs:,}"
        parts.append(
            f"[yellow]stranded[/] {which} runs of {plain(one.table)}: {plain(one.reason)} "
            f"({plain(list_first(one.stranded))})"
        )
    return Group(*parts, *notes)


def _domains_heading(domains: int) -> str:
    if domains <= MOST_SHOWN:
        return "domains that differ"
    return (
        f"domains that differ: {MOST_SHOWN} of {domains:,}, those whose share changes most; --csv "
        "lists all"
    )


def _moved(domain: DomainDifference) -> float:
    """Return how much a domain's share changes; infinite for a domain that only one side has."""
    if domain.before is None or domain.after is None:
        return math.inf
    before, after = domain.before.weight, domain.after.weight
    return 0.0 if before is None or after is None else abs(after - before)


def _shortened(changes: Sequence[Change]) -> list[Change]:
    """Sum up keys of one section where many changed, such as the weights of all domains."""
    sections = Counter(change.key.rpartition(".")[0] for change in changes)
    shown: Counter[str] = Counter()
    rows = []
    for change in changes:
        section = change.key.rpartition(".")[0]
        shown[section] += 1
        left = sections[section] - MOST_SHOWN
        if not section or shown[section] <= MOST_SHOWN:
            rows.append(change)
        elif shown[section] == MOST_SHOWN + 1:
            rows.append(Change(f"{section}.…", f"{left:,} keys more", "--csv lists all"))
    return rows


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
