"""The parts that sections are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

ROWS_SHOWN = 12
"""Rows from which a list of runs is folded."""
NAMES_CROSSED = 40
"""Most domains in a matrix, which has the square of their number of cells."""


@dataclass(frozen=True, slots=True)
class PageColumn:
    """A column of a table."""

    heading: str
    reading: str
    """How to read it, in a line."""
    is_number: bool = True


DOMAIN = PageColumn("domain", "Name in the recipe.", False)
"""First column of tables with a row for each domain."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a line that explains each of its columns."""

    title: str
    columns: Sequence[PageColumn]
    rows: Sequence[Sequence[str]]
    total: Sequence[str] = ()
    note: str = ""
    folded: bool = False
    """Whether its rows are shown on demand."""
    kind: str = "table"


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values."""

    rows: Sequence[tuple[str, str]]
    kind: str = "facts"


@dataclass(frozen=True, slots=True)
class Drawing:
    """One or two figures side by side."""

    figures: Sequence[Markup]
    kind: str = "drawing"


@dataclass(frozen=True, slots=True)
class Note:
    """Lines of text."""

    lines: Sequence[str]
    tone: str = "plain"
    """`good`, `bad`, `warning` or `plain`."""
    kind: str = "note"


@dataclass(frozen=True, slots=True)
class Missing:
    """Evidence that is not there, and the command that makes it."""

    what: str
    command: str
    kind: str = "missing"


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts to unfold, under a title each."""

    title: str
    items: Sequence[tuple[str, Sequence[str]]]
    kind: str = "texts"


Part = Table | Facts | Drawing | Note | Missing | Texts


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page."""

    id: str
    title: str
    lead: str
    """The question that it answers, in a sentence."""
    parts: Sequence[Part] = field(default_factory=tuple)
