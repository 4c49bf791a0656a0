"""Figures as inline SVG, coloured by the page's style sheet and told apart by shape as well.

They are drawn here because a page without network cannot load a plotting library, and a library's
own SVG has fixed colours that cannot follow the reader's dark mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from curate.report.numbers import short

WIDTH = 460
"""Units of a figure; about a pixel each, so that text keeps its size on a phone."""
LABELS = 130
"""Width of the labels left of a dot plot."""
ROW = 22
HEIGHT = 300
SERIES = 6
"""Number of colours and shapes, `series-0` to `series-5` of the style sheet."""
LABEL_LETTERS = 17
TAGS = 8
"""Most lines that get a colour and a label each."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A value in a dot plot."""

    series: int
    value: float
    low: float | None = None
    """Ends of its interval, if any."""
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a line plot."""

    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Axes:
    """Names and kinds of a plot's axes."""

    x: str
    y: str = ""
    log_x: bool = False
    diagonal: bool = False
    """Whether both axes have one range, with a line where they are equal."""
    zero: bool = False
    """Whether a line marks zero on the vertical axis."""


def svg(height: float, title: str, parts: Sequence[Markup]) -> Markup:
    """Wrap the parts of a figure."""
    head = Markup(
        '<svg viewBox="0 0 {} {:.0f}" width="{}" height="{:.0f}" role="img" aria-label="{}">'
    ).format(WIDTH, height, WIDTH, height, title)
    return head + Markup("").join(parts) + Markup("</svg>")


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Choose round numbers between two ends.

    Example:
        >>> ticks(0.0, 1.0)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(place * step, 12) for place in range(first, math.floor(high / step + 1e-9) + 1)]


def powers(low: float, high: float) -> list[float]:
    """Choose powers of ten between two positive ends; round numbers where there is hardly one."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last - first < 1:
        return [value for value in ticks(low, high, 3) if value > 0]
    return [10.0**exponent for exponent in range(first, last + 1)]


def clipped(text: str, letters: int = LABEL_LETTERS) -> str:
    """Shorten a label; the whole one is in the figure's tooltip."""
    return text if len(text) <= letters else text[: letters - 1] + "…"


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "middle") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>').format(
        x, y, style, anchor, text
    )


def _line(x: float, y: float, to_x: float, to_y: float, style: str) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(
        x, y, to_x, to_y, style
    )


def shape(series: int, x: float, y: float, tooltip: str = "") -> Markup:
    """Draw a mark of a series: each has a shape of its own, for readers who see no colours."""
    size = 4.5
    outlines = (
        Markup('<circle cx="{x:.1f}" cy="{y:.1f}" r="4.2" class="mark series-0">'),
        Markup('<path d="M{x:.1f} {top:.1f}l5 5l-5 5l-5-5z" class="mark series-1">'),
        Markup('<path d="M{left:.1f} {upper:.1f}h8v8h-8z" class="mark series-2">'),
        Markup('<path d="M{x:.1f} {top:.1f}l5 9h-10z" class="mark series-3">'),
        Markup('<path d="M{left:.1f} {upper:.1f}l8 8m0-8l-8 8" class="stroke series-4">'),
        Markup('<path d="M{x:.1f} {high:.1f}v16" class="stroke series-5">'),
    )
    opened = outlines[series % SERIES].format(
        x=x, y=y, top=y - 5, high=y - 8, left=x - size + 0.5, upper=y - size + 0.5
    )
    name = "circle" if series % SERIES == 0 else "path"
    about = Markup("<title>{}</title>").format(tooltip) if tooltip else Markup("")
    return opened + about + Markup("</{}>").format(name)


def legend(names: Mapping[int, str]) -> Markup:
    """List the series of a figure by their numbers."""
    items = [
        Markup('<li><svg width="14" height="14" aria-hidden="true">{}</svg> {}</li>').format(
            shape(series, 7, 7), name
        )
        for series, name in names.items()
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))


def dot_plot(
    rows: Sequence[tuple[str, Sequence[Mark]]], axes: Axes, text: Callable[[float], str]
) -> Markup:
    """Draw values side by side in rows, each with its interval if it has one.

    Args:
        rows: Label and marks of each row.
        axes: The horizontal axis; the vertical one is the rows.
        text: Formats a value for the axis and tooltips.
    """
    every = [
        v for _, marks in rows for m in marks for v in (m.value, m.low, m.high) if v is not None
    ]
    low, high = (min(0.0, *every), max(every)) if not axes.log_x else (min(every), max(every))
    if not high > low:
        high = low + 1.0
    right, height = WIDTH - 24, len(rows) * ROW

    def place(value: float) -> float:
        if axes.log_x:
            return LABELS + (right - LABELS) * math.log(value / low) / math.log(high / low)
        return LABELS + (right - LABELS) * (value - low) / (high - low)

    marked = powers(low, high) if axes.log_x else ticks(low, high, 4)
    parts = [_line(place(v), 4, place(v), height + 4, "grid") for v in marked]
    parts += [_text(place(v), height + 18, text(v), "tick") for v in marked]
    parts.append(_text((LABELS + right) / 2, height + 36, axes.x, "axis"))
    for at, (label, marks) in enumerate(rows):
        y = at * ROW + ROW / 2 + 4
        parts.append(_text(LABELS - 8, y + 4, clipped(label), "label", "end"))
        for mark in marks:
            if mark.low is not None and mark.high is not None:
                style = f"interval series-{mark.series}"
                parts.append(_line(place(mark.low), y, place(mark.high), y, style))
        for mark in marks:
            interval = (
                f", 95 %: {text(mark.low)} to {text(mark.high)}"
                if mark.low is not None and mark.high is not None
                else ""
            )
            tooltip = f"{label}: {text(mark.value)}{interval}"
            parts.append(shape(mark.series, place(mark.value), y, tooltip))
    return svg(height + 42, axes.x, parts)


@dataclass(frozen=True, slots=True)
class _Frame:
    """A rectangle with linear or logarithmic axes."""

    axes: Axes
    x: tuple[float, float]
    y: tuple[float, float]

    LEFT = 56
    TOP = 10
    BOTTOM = HEIGHT - 44
    RIGHT = WIDTH - 16

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the place of a point."""
        low, high = self.x
        across = math.log(x / low) / math.log(high / low) if self.axes.log_x else (
            (x - low) / (high - low)
        )  # fmt: skip
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            self.LEFT + across * (self.RIGHT - self.LEFT),
            self.BOTTOM - up * (self.BOTTOM - self.TOP),
        )

    def parts(self) -> list[Markup]:
        """Draw grid, ticks and names."""
        drawn = []
        for value in powers(*self.x) if self.axes.log_x else ticks(*self.x):
            x, _ = self.at(value, self.y[0])
            drawn.append(_line(x, self.TOP, x, self.BOTTOM, "grid"))
            drawn.append(_text(x, self.BOTTOM + 16, short(value), "tick"))
        for value in ticks(*self.y):
            _, y = self.at(self.x[0], value)
            drawn.append(_line(self.LEFT, y, self.RIGHT, y, "grid"))
            drawn.append(_text(self.LEFT - 6, y + 4, short(value), "tick", "end"))
        drawn.append(_text((self.LEFT + self.RIGHT) / 2, HEIGHT - 8, self.axes.x, "axis"))
        drawn.append(
            Markup('<text transform="translate(13 {:.0f}) rotate(-90)" class="axis" '
                   'text-anchor="middle">{}</text>').format(
                (self.TOP + self.BOTTOM) / 2, self.axes.y
            )
        )  # fmt: skip
        if self.axes.diagonal:
            drawn.append(
                _line(*self.at(self.x[0], self.x[0]), *self.at(self.x[1], self.x[1]), "rule")
            )
        if self.axes.zero and self.y[0] < 0 < self.y[1]:
            drawn.append(_line(*self.at(self.x[0], 0.0), *self.at(self.x[1], 0.0), "rule"))
        return drawn


def _ends(values: Sequence[float], log: bool = False) -> tuple[float, float]:
    """Return the ends of an axis, with some room around the values."""
    low, high = min(values), max(values)
    if log:
        return low, high if high > low else low * 2
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return low - room, high + room


def scatter(points: Sequence[tuple[float, float, str]], axes: Axes) -> Markup:
    """Draw points, each with a tooltip."""
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
    x, y = _ends(xs, axes.log_x), _ends(ys)
    if axes.diagonal:
        x = y = _ends([*xs, *ys])
    frame = _Frame(axes, x, y)
    marks = [
        Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3" class="point"><title>{}</title></circle>')
        .format(*frame.at(px, py), about)
        for px, py, about in points
    ]  # fmt: skip
    return svg(HEIGHT, f"{axes.y} by {axes.x}", [*frame.parts(), *marks])


def line_plot(lines: Sequence[Line], axes: Axes) -> Markup:
    """Draw lines; up to eight get a colour and a label at their end."""
    points = [point for line in lines for point in line.points]
    frame = _Frame(axes, _ends([x for x, _ in points], True) if axes.log_x else
                   _ends([x for x, _ in points]), _ends([y for _, y in points]))  # fmt: skip
    parts, ends = frame.parts(), []
    tagged = len(lines) <= TAGS
    for at, line in enumerate(lines):
        places = [frame.at(x, y) for x, y in line.points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        style = f"line series-{at % SERIES}{' dashed' if at >= SERIES else ''}"
        parts.append(
            Markup('<path d="{}" class="{}"><title>{}</title></path>').format(
                path, style if tagged else "line many", line.label
            )
        )
        ends.append((places[-1][1], at, line.label))
    if tagged:
        parts += _tags(sorted(ends), frame)
    return svg(HEIGHT, f"{axes.y} by {axes.x}", parts)


def _tags(ends: Sequence[tuple[float, int, str]], frame: _Frame) -> list[Markup]:
    """Label lines at their right end, moved apart where they would overlap."""
    parts, last = [], -math.inf
    for y, series, label in ends:
        last = max(y, last + 12)
        style = f"tag series-{series % SERIES}"
        parts.append(
            _text(frame.RIGHT - 2, min(last, frame.BOTTOM) - 5, clipped(label), style, "end")
        )
    return parts


def heat_map(
    names: Sequence[str], matrix: Sequence[Sequence[float | None]], text: Callable[[float], str]
) -> Markup:
    """Draw a symmetric matrix, darker where values are larger, with each number where they fit."""
    count = len(names)
    side = (WIDTH - LABELS - 6) / count
    most = max((v for row in matrix for v in row if v is not None), default=0.0) or 1.0
    parts = []
    for row, name in enumerate(names):
        y = row * side + 4
        parts.append(_text(LABELS - 8, y + side / 2 + 4, clipped(name), "label", "end"))
        for column, other in enumerate(names):
            value = matrix[row][column] if column != row else None
            if value is None:
                continue
            x = LABELS + column * side
            parts.append(
                Markup(
                    '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="cell" '
                    'fill-opacity="{:.2f}"><title>{} and {}: {}</title></rect>'
                ).format(x, y, side - 1.5, side - 1.5, 0.7 * value / most, name, other, text(value))
            )
            if side >= 34:
                parts.append(_text(x + side / 2 - 1, y + side / 2 + 4, text(value), "value"))
    for column, name in enumerate(names):
        x = LABELS + (column + 0.5) * side
        parts.append(
            Markup('<text transform="translate({:.1f} {:.1f}) rotate(-40)" class="label" '
                   'text-anchor="end">{}</text>').format(x + 4, count * side + 16, clipped(name))
        )  # fmt: skip
    return svg(count * side + 92, "divergence between domains", parts)


def figure(drawing: Markup, caption: str, names: Mapping[int, str] | None = None) -> Markup:
    """Put a caption and the list of series below a figure."""
    return Markup(
        '<figure><div class="scroll" tabindex="0" role="region" aria-label="{}">{}</div>'
        "{}<figcaption>{}</figcaption></figure>"
    ).format(caption, drawing, legend(names) if names else Markup(""), escape(caption))
