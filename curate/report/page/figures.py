"""Figures as inline SVG, coloured by the page's style sheet and told apart by shape as well.

They are drawn here because a page without network cannot load a plotting library, and a library's
own SVG has fixed colours that cannot follow the reader's dark mode.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup, escape

from curate.report.charts import SERIES, Axes, Chart, Dots, Lines, Matrix, Points, powers, spread
from curate.report.numbers import short
from curate.report.page.fields import first_only

WIDTH = 460
"""Units of a figure; about a pixel each, so that text keeps its size on a phone."""
LABELS = 130
"""Width of the labels left of a dot plot."""
ROW = 22
ROWS_DRAWN = 60
"""Most domains in a figure; the table beside it has all."""
HEIGHT = 300
MOST_CELL = 60
"""Largest height of a matrix's rows."""
LABEL_LETTERS = 17
TAGS = 8
"""Most lines that get a colour and a label each."""


def svg(height: float, title: str, parts: Sequence[Markup]) -> Markup:
    """Wrap the parts of a figure.

    Args:
        height: Height of the drawing, in the units of `WIDTH`.
        title: Label for readers who do not see it.
        parts: Elements of SVG, in the order in which they are drawn.
    """
    head = Markup(
        '<svg viewBox="0 0 {} {:.0f}" width="{}" height="{:.0f}" role="img" aria-label="{}">'
    ).format(WIDTH, height, WIDTH, height, title)
    return head + Markup("").join(parts) + Markup("</svg>")


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Choose round numbers between two ends.

    Args:
        low: The lower end.
        high: The upper end.
        count: Rough number of steps.

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


def clipped(text: str, letters: int = LABEL_LETTERS) -> str:
    """Shorten a label to its beginning and its end; the whole one is in the figure's tooltip.

    The end stays since it tells sub-domains apart.

    Example:
        >>> clipped("web:a_long_topic_name:q4")
        'web:a_lo…_name:q4'
    """
    if len(text) <= letters:
        return text
    last = (letters - 1) // 2
    return f"{text[: letters - 1 - last]}…{text[-last:]}"


def text_at(x: float, y: float, text: str) -> Markup:
    """Write text that begins at a place of the drawing.

    Args:
        x: Left end of the text, in units of the drawing.
        y: Its baseline, from the top.
        text: One line; escaped here.
    """
    return _text(x, y, text, "label", "start")


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "middle") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>').format(
        x, y, style, anchor, text
    )


def _line(x: float, y: float, to_x: float, to_y: float, style: str) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(
        x, y, to_x, to_y, style
    )


def shape(series: int, x: float, y: float, tooltip: str = "") -> Markup:
    """Draw a mark of a series: each has a shape of its own, for readers who see no colours.

    Args:
        series: Number of the series, from 0.
        x: Place in the drawing, from the left.
        y: Place in the drawing, from the top.
        tooltip: Text that is shown when the mark is pointed at.
    """
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


def dot_plot(dots: Dots) -> Markup:
    """Draw values side by side in rows, each with its interval if it has one."""
    rows, axes, text = dots.rows, dots.axes, dots.text
    every = [
        v for _, marks in rows for m in marks for v in (m.value, m.low, m.high) if v is not None
    ]
    every += [0.0] if axes.from_zero else []
    low, high = min(every), max(every)
    if not axes.from_zero:
        low -= (high - low) * 0.04
    if not high > low:
        high = low + 1.0
    right, height = WIDTH - 24, len(rows) * ROW

    def place(value: float) -> float:
        return LABELS + (right - LABELS) * (value - low) / (high - low)

    marked = ticks(low, high, 5)
    parts = [_line(place(v), 4, place(v), height + 4, "grid") for v in marked]
    if axes.from_zero and low < 0 < high:
        parts.append(_line(place(0.0), 4, place(0.0), height + 4, "rule"))
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

    right: float = WIDTH - 16
    """Right end of the rectangle."""

    LEFT = 56
    TOP = 10
    BOTTOM = HEIGHT - 44

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the place of a point."""
        low, high = self.x
        across = math.log(x / low) / math.log(high / low) if self.axes.log_x else (
            (x - low) / (high - low)
        )  # fmt: skip
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            self.LEFT + across * (self.right - self.LEFT),
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
            drawn.append(_line(self.LEFT, y, self.right, y, "grid"))
            drawn.append(_text(self.LEFT - 6, y + 4, short(value), "tick", "end"))
        drawn.append(_text((self.LEFT + self.right) / 2, HEIGHT - 8, self.axes.x, "axis"))
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


def _point(x: float, y: float, about: str) -> Markup:
    """Draw a small mark that lets those below shine through."""
    return Markup(
        '<circle cx="{:.1f}" cy="{:.1f}" r="3" class="point"><title>{}</title></circle>'
    ).format(x, y, about)


def scatter(drawing: Points) -> Markup:
    """Draw points, each with a tooltip."""
    axes, points = drawing.axes, drawing.points
    xs, ys = [point.x for point in points], [point.y for point in points]
    x, y = _ends(xs, axes.log_x), _ends(ys)
    if axes.diagonal:
        x = y = _ends([*xs, *ys])
    frame = _Frame(axes, x, y)
    marks = [
        shape(point.series, *frame.at(point.x, point.y), point.about)
        if drawing.series
        else _point(*frame.at(point.x, point.y), point.about)
        for point in points
    ]
    return svg(HEIGHT, f"{axes.y} by {axes.x}", [*frame.parts(), *marks])


def line_plot(drawing: Lines) -> Markup:
    """Draw lines; up to eight get a colour and a label at their end."""
    axes, lines = drawing.axes, drawing.lines
    tagged = 1 < len(lines) <= TAGS
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    right = WIDTH - (LABELS if tagged else 16)
    frame = _Frame(axes, _ends(xs, axes.log_x), _ends(ys), right)
    parts, ends = frame.parts(), []
    for at, line in enumerate(lines):
        places = [frame.at(x, y) for x, y in line.points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        style = f"line series-{at % SERIES}{' dashed' if at >= SERIES else ''}"
        parts.append(
            Markup('<path d="{}" class="{}"><title>{}</title></path>').format(
                path, style if len(lines) <= TAGS else "line many", line.label
            )
        )
        if tagged:
            parts.append(shape(at, *places[-1], line.label))
        ends.append((places[-1][1], at, line.label))
    if tagged:
        parts += _tags(sorted(ends), frame)
    return svg(HEIGHT, f"{axes.y} by {axes.x}", parts)


def _tags(ends: Sequence[tuple[float, int, str]], frame: _Frame) -> list[Markup]:
    """Name lines right of their ends, moved apart where they would overlap."""
    parts = []
    places = spread([y for y, _, _ in ends], 14, frame.BOTTOM)
    for place, (_, series, label) in zip(places, ends, strict=True):
        parts.append(shape(series, frame.right + 10, place))
        parts.append(_text(frame.right + 19, place + 4, clipped(label), "label", "start"))
    return parts


def heat_map(matrix: Matrix) -> Markup:
    """Draw a matrix, darker where values are larger, with each number where they fit."""
    side = (WIDTH - LABELS - 6) / len(matrix.columns)
    height = min(side, MOST_CELL)
    most = max((v for row in matrix.values for v in row if v is not None), default=0.0) or 1.0
    parts = []
    for row, name in enumerate(matrix.rows):
        y = row * height + 4
        parts.append(_text(LABELS - 8, y + height / 2 + 4, clipped(name), "label", "end"))
        for column, other in enumerate(matrix.columns):
            value = matrix.values[row][column]
            if value is None:
                continue
            x, text = LABELS + column * side, matrix.text(value)
            parts.append(
                Markup(
                    '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="cell" '
                    'fill-opacity="{:.2f}"><title>{} and {}: {}</title></rect>'
                ).format(x, y, side - 1.5, height - 1.5, 0.7 * value / most, name, other, text)
            )
            if side >= 6 * len(text) + 2:
                parts.append(_text(x + side / 2 - 1, y + height / 2 + 4, text, "value"))
    bottom = len(matrix.rows) * height
    for column, name in enumerate(matrix.columns):
        x = LABELS + (column + 0.5) * side
        parts.append(
            Markup('<text transform="translate({:.1f} {:.1f}) rotate(-40)" class="label" '
                   'text-anchor="end">{}</text>').format(x + 4, bottom + 16, clipped(name))
        )  # fmt: skip
    return svg(bottom + 92, matrix.title, parts)


def draw(chart: Chart) -> Markup:
    """Draw a figure with its caption; of many rows the first ones, as the caption then says."""
    drawing, caption = chart.drawing, chart.caption
    if isinstance(drawing, Dots):
        rows = drawing.rows[:ROWS_DRAWN]
        caption += first_only(drawing.rows, rows)
        return figure(dot_plot(replace(drawing, rows=rows)), caption, drawing.series)
    if isinstance(drawing, Points):
        return figure(scatter(drawing), caption, drawing.series)
    if isinstance(drawing, Lines):
        return figure(line_plot(drawing), caption)
    return figure(heat_map(drawing), caption)


def figure(drawing: Markup, caption: str, names: Mapping[int, str] | None = None) -> Markup:
    """Put a caption and the list of series below a figure.

    Args:
        drawing: The figure.
        caption: Sentence that says how to read it.
        names: Names of its series by number; None where it has no list.
    """
    return Markup(
        '<figure><div class="scroll" tabindex="0" role="region" aria-label="{}">{}</div>'
        "{}<figcaption>{}</figcaption></figure>"
    ).format(caption, drawing, legend(names) if names else Markup(""), escape(caption))
