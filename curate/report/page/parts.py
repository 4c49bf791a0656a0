"""The parts that sections are made of, and how numbers are written in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from curate.report.numbers import NATS_TO_BITS
from curate.report.page.material import number

ROWS_DRAWN = 60
"""Most domains in a figure; the table beside it has all."""
ROWS_SHOWN = 12
"""Rows from which a list of runs is folded."""
NAMES_CROSSED = 40
"""Most domains in a matrix, which has the square of their number of cells."""
POINTS = 400
"""Most points of a line or runs in a table of the page."""


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


def whole(value: Any) -> str:
    """Format a count; nothing for what is no number.

    Example:
        >>> whole(1234567), whole(None)
        ('1,234,567', '')
    """
    plain = number(value)
    return "" if plain is None else f"{plain:,.0f}"


def percent(value: Any, decimals: int = 2) -> str:
    """Format a share."""
    plain = number(value)
    return "" if plain is None else f"{100 * plain:.{decimals}f} %"


def decimal(value: Any, decimals: int = 3) -> str:
    """Format a number."""
    plain = number(value)
    return "" if plain is None else f"{plain:,.{decimals}f}"


def bits(nats: Any) -> str:
    """Format nats as bits."""
    plain = number(nats)
    return "" if plain is None else f"{plain * NATS_TO_BITS:.3f}"


def interval(low: Any, high: Any, text: Callable[[Any], str]) -> str:
    """Format an interval; nothing if an end is missing.

    Args:
        low: The lower end.
        high: The upper end.
        text: Formats an end; returns nothing for one that is missing.
    """
    ends = text(low), text(high)
    return "" if "" in ends else f"{ends[0].removesuffix(' %')} to {ends[1]}"


def first_only(rows: Sequence[Any], shown: Sequence[Any]) -> str:
    """Say that a figure shows some rows only."""
    return "" if len(rows) == len(shown) else f" The {len(shown)} largest of {len(rows)}."


def in_bits(nats: Any) -> float | None:
    """Convert nats to bits; None for what is no number."""
    plain = number(nats)
    return None if plain is None else plain * NATS_TO_BITS


def lines_of(value: Any) -> list[str]:
    """Return the lines of a list; none if it is no list."""
    return [str(line) for line in value] if isinstance(value, list) else []
