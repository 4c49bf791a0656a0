"""Show look-ups on a terminal."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from curate.dataset.look_up import LookUp, ShownDocument, ShownRemoval, ShownSequence
from curate.dataset.places import Place
from curate.report.terminal import plain
from curate.runtime.escape import one_line

TEXT_CHARACTERS = 2000
"""Most characters of a text that are shown."""

PLACES = 20
"""Most places of a document that are shown."""


def look_up_lines(result: LookUp) -> RenderableType:
    """Show the answer to a look-up.

    Args:
        result: The answer.
    """
    parts: list[RenderableType] = []
    if result.place is not None:
        parts += [*_position(result.place, result.excerpt), ""]
    if result.sequences:
        parts.append(_batch_table(result.sequences, result.documents))
    elif not result.documents and result.place is not None:
        parts.append("filling of a row: tokens of no document")
    else:
        for document in result.documents:
            parts += [*_document(document), ""]
    for removal in result.removed:
        parts += [*_removal(removal), ""]
    parts += [f"[yellow]note[/] {plain(notice)}" for notice in result.notices]
    return Group(*parts)


def _position(place: Place, excerpt: str) -> Iterable[RenderableType]:
    row = "" if place.row is None else f", row {place.row:,}"
    yield f"[bold]{plain(place.shard)}:{place.position}[/]{row}"
    if place.document is not None:
        yield f"token {place.start:,} of its document, pass {place.pass_number}; from here on:"
        yield Text(one_line(excerpt), style="cyan")


def _document(document: ShownDocument) -> Iterable[RenderableType]:
    facts = {
        "domain": document.domain,
        "document": document.id or f"number {document.document:,}, without an identifier",
        "file": None if document.file is None else f"{document.file}, line {document.line:,}",
        "licence": document.license or "not stated",
        "content": document.content,
        "tokens": None if document.tokens is None else f"{document.tokens:,}",
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, fact in facts.items():
        if fact is not None:
            table.add_row(name, plain(fact))
    yield table
    yield _places_table(document.places)
    yield Text(document.text[:TEXT_CHARACTERS])
    left = len(document.text) - TEXT_CHARACTERS
    if left > 0:
        yield f"[dim]{left:,} characters more; --json has all[/]"


def _removal(removal: ShownRemoval) -> Iterable[RenderableType]:
    facts = {
        "removed": removal.reason if removal.detail is None else (
            f"{removal.reason}: {removal.detail}"
        ),
        "domain": removal.domain,
        "document": removal.id or "without an identifier",
        "file": f"{removal.file}, line {removal.line:,}",
        "content": removal.content,
    }  # fmt: skip
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, fact in facts.items():
        table.add_row(name, plain(fact))
    yield table


def _places_table(places: Sequence[Place]) -> RenderableType:
    """Show where a document stands."""
    if not places:
        return "[bold]stands in no shard[/]: the plan does not use it"
    table = Table(box=None, pad_edge=False)
    table.add_column("stands at", overflow="fold")
    for heading in ("row", "tokens", "from token", "pass"):
        table.add_column(heading, justify="right", no_wrap=True)
    for place in places[:PLACES]:
        row = "" if place.row is None else f"{place.row:,}"
        table.add_row(
            plain(f"{place.shard}:{place.position}"), row, f"{place.tokens:,}", f"{place.start:,}",
            f"{place.pass_number}",
        )  # fmt: skip
    if len(places) > PLACES:
        table.caption = f"{len(places) - PLACES:,} places more; --json has all"
    return table


def _batch_table(
    sequences: Sequence[ShownSequence], documents: Sequence[ShownDocument]
) -> RenderableType:
    """Show which documents the sequences of a step hold."""
    by_key = {(document.domain, document.document): document for document in documents}
    folder = _common_folder([document.file for document in documents])
    table = Table(box=None, pad_edge=False, caption_justify="left")
    if folder:
        table.caption = f"files below {plain(folder)}"
    table.add_column("sequence", justify="right", no_wrap=True)
    table.add_column("tokens", justify="right", no_wrap=True)
    table.add_column("pass", justify="right", no_wrap=True)
    table.add_column("stands at", overflow="fold")
    table.add_column("document", overflow="fold")
    for sequence in sequences:
        for number, place in enumerate(sequence.places):
            table.add_row(
                f"{sequence.number}" if number == 0 else "",
                f"{place.tokens:,}",
                "" if place.pass_number is None else f"{place.pass_number}",
                plain(f"{place.shard}:{place.position}"),
                plain(_name(place, by_key, folder)),
            )
    return table


def _common_folder(files: Sequence[str | None]) -> str:
    """Return the folder that all files are in, with the slash after it; empty for none."""
    local = [file for file in files if file is not None]
    if not local or not all(map(os.path.isabs, local)):
        return ""
    return os.path.join(os.path.commonpath([os.path.dirname(file) for file in local]), "")


def _name(place: Place, by_key: dict[tuple[str, int], ShownDocument], folder: str) -> str:
    """Name a document by its domain, its identifier, and its line in its file."""
    if place.domain is None or place.document is None:
        return "filling"
    document = by_key[place.domain, place.document]
    name = document.id or f"number {document.document}"
    if document.file is None:
        return f"{document.domain}: {name}"
    return f"{document.domain}: {name}, {document.file.removeprefix(folder)}:{document.line}"
