"""Figures as data: the page draws them as SVG, plots draw them with matplotlib."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from curate.report.numbers import short

SERIES = 6
"""Colours, shapes and line styles that a figure has."""


@dataclass(frozen=True, slots=True)
class Axes:
    """Names and kinds of a figure's axes."""

    x: str
    y: str = ""
    log_x: bool = False
    diagonal: bool = False
    """Whether both axes have one range, with a line where they are equal."""
    zero: bool = False
    """Whether a line marks zero on the vertical axis."""
    from_zero: bool = False
    """Whether the horizontal axis of a dot plot has zero on it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A value in a dot plot."""

    series: int
    value: float
    low: float | None = None
    """Ends of its interval, if any."""
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Dots:
    """Values side by side in rows, each with its interval if it has one."""

    axes: Axes
    """The horizontal axis; the vertical one is the rows."""
    rows: Sequence[tuple[str, Sequence[Mark]]]
    series: Mapping[int, str] = field(default_factory=dict)
    """Names of the series, where there are several."""
    text: Callable[[float], str] = short
    """Formats a value."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a line plot."""

    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines over one horizontal axis."""

    axes: Axes
    lines: Sequence[Line]
    most_named: int = 48
    """Lines up to which each has a name and a look of its own; more are drawn alike."""


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a scatter plot."""

    x: float
    y: float
    about: str
    series: int = 0


@dataclass(frozen=True, slots=True)
class Points:
    """Points over two axes."""

    axes: Axes
    points: Sequence[Point]
    series: Mapping[int, str] = field(default_factory=dict)
    """Names of the series, where there are several."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Numbers by row and column, darker where they are larger; None leaves a cell empty."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    text: Callable[[float], str] = short
    """Formats a value."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure and the sentences below it."""

    drawing: Dots | Lines | Points | Matrix
    caption: str


def powers(low: float, high: float) -> list[float]:
    """Choose powers of ten between two positive ends, and twice and five times them where few.

    Example:
        >>> powers(9.0, 1e4), powers(8e3, 6e4)
        ([10.0, 100.0, 1000.0, 10000.0], [10000.0, 20000.0, 50000.0])
    """
    steps = (1, 2, 5) if high / low < 300 else (1,)
    first, last = math.floor(math.log10(low)), math.floor(math.log10(high))
    marked = [step * 10.0**exponent for exponent in range(first, last + 1) for step in steps]
    return [value for value in marked if low * 0.999 <= value <= high * 1.001]


def spread(places: Sequence[float], step: float, highest: float) -> list[float]:
    """Move labels apart that would overlap, with as many as possible where they belong.

    Args:
        places: Where each label belongs, ascending.
        step: Least distance between two.
        highest: Largest place; labels that rose above it push those below them down again.

    Example:
        >>> spread([0.0, 5.0, 5.5, 9.9], 2.0, 10.0)
        [0.0, 5.0, 7.0, 9.9]
        >>> spread([9.0, 9.5], 2.0, 10.0)
        [8.0, 10.0]
    """
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + step) if moved else place)
    for at in range(len(moved) - 1, -1, -1):
        moved[at] = min(moved[at], highest)
        highest = moved[at] - step
    return moved
