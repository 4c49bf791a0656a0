"""Fields of artifacts, which may come from strangers, and how their numbers are written.

These are apart from what a page is made of, which a build does not import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from curate.report.numbers import NATS_TO_BITS


def dig(value: Any, *keys: str) -> Any:
    """Return a part of nested mappings; None where it is absent, or what holds it is no mapping.

    Artifacts may come from strangers, so nothing about their shape is taken for granted.

    Example:
        >>> dig({"a": {"b": 1}}, "a", "b"), dig({"a": 3}, "a", "b")
        (1, None)
    """
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def mapping(value: Any, *keys: str) -> Mapping[str, Any]:
    """Return a part of nested mappings that is a mapping itself, else an empty one."""
    part = dig(value, *keys)
    return part if isinstance(part, Mapping) else {}


def number(value: Any) -> float | None:
    """Return a finite number, or None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e300 else None


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
