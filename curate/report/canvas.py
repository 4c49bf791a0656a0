"""Charts drawn by matplotlib, as figures for papers and notebooks.

The result depends on the chart and the version of matplotlib alone: styles that the user has set do
not matter, and files carry no date.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes as Plane
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from curate.report.charts import SERIES, Chart, Dots, Line, Lines, Matrix, Points, powers, spread
from curate.report.numbers import short
from curate.report.palette import INK, LIGHT, QUIET, RULE
from curate.runtime.escape import visible
from curate.runtime.files import atomic_path

MARKERS = ("o", "D", "s", "^", "x", "|")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
"""Line styles; with the colours, 24 lines that differ."""

STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so it is the same everywhere
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a domain may be called $x$
    "axes.titlesize": 9,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "svg.hashsalt": "curate",
    "savefig.dpi": 200,
}
PANEL_INCHES = 4.6
ROW_INCHES = 0.24
DENSE_ROWS = 40
"""Rows from which rows and labels are small, and panels stand side by side."""
DENSE_INCHES = 0.13
MOST_ROWS = 100
"""Rows of a dot plot that are drawn; a page has no room for more."""
PANELS_ABREAST = 2
LABEL_LETTERS = 33
"""Most letters of a label."""
TAG_INCHES = 0.15
"""Height of a line's label."""
FEW_TAGS = 8
SHORT_LETTERS = 14
LEGEND_COLUMNS = 3
"""Columns of a legend whose names have at most `SHORT_LETTERS`."""
ROOMY_COLUMNS = 20
"""Columns of a matrix up to which cells are wide."""
NUMBERED_COLUMNS = 40
"""Columns of a matrix up to which cells have their numbers."""
MOST_POINTS_MARKED = 12
"""Points of a line up to which each has a marker."""


class PlotFigure(Figure):
    """A matplotlib figure that notebooks show without pyplot."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        with styled():
            self.savefig(stream, format="png", dpi=110)
        return stream.getvalue()


def styled() -> AbstractContextManager[None]:
    """Return a context in which matplotlib has its defaults and our style."""
    defaults: dict[Any, Any] = {**mpl.rcParamsDefault, "backend": mpl.get_backend()}
    return mpl.rc_context({**defaults, **STYLE})


def draw(charts: Sequence[Chart]) -> PlotFigure:
    """Draw charts side by side."""
    with styled():
        drawings = [_shortened(chart.drawing) for chart in charts]
        is_dense = any(isinstance(one, Dots) and len(one.rows) > DENSE_ROWS for one in drawings)
        abreast = len(charts) if is_dense else min(len(charts), PANELS_ABREAST)
        down = -(-len(charts) // abreast)
        inches = [_inches(drawing) for drawing in drawings]
        width, height = max(w for w, _ in inches), max(h for _, h in inches)
        figure = PlotFigure(figsize=(width * abreast, height * down), layout="constrained")
        planes = figure.subplots(down, abreast, squeeze=False).ravel()
        for plane, drawing in zip(planes, drawings, strict=False):
            _draw(plane, drawing, height)
        for plane in planes[len(charts) :]:
            plane.remove()
        return figure


def save(figure: Figure, path: Path) -> list[str]:
    """Write a figure in the format of the path's suffix, whole or not at all.

    Returns:
        Warnings, such as that the font lacks characters of a name.

    Raises:
        OSError: It cannot be written.
    """
    kind = path.suffix.removeprefix(".")
    metadata = {"svg": {"Creator": "curate report", "Date": None},
                "png": {"Software": "curate report"}}[kind]  # fmt: skip
    with warnings.catch_warnings(record=True) as caught, styled():
        warnings.simplefilter("always")
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            figure.savefig(stream, format=kind, metadata=metadata)
    return list(dict.fromkeys(f"{path.name}: {warning.message}" for warning in caught))


def _shortened(drawing: Dots | Lines | Points | Matrix) -> Dots | Lines | Points | Matrix:
    """Keep the first rows of a dot plot, which are the largest, and say so below it."""
    if not isinstance(drawing, Dots) or len(drawing.rows) <= MOST_ROWS:
        return drawing
    note = f"{drawing.axes.x}; the {MOST_ROWS} largest of {len(drawing.rows)} rows"
    axes = replace(drawing.axes, x=note)
    return replace(drawing, rows=drawing.rows[:MOST_ROWS], axes=axes)


def _row_inches(rows: int) -> float:
    return DENSE_INCHES if rows > DENSE_ROWS else ROW_INCHES


def _inches(drawing: Dots | Lines | Points | Matrix) -> tuple[float, float]:
    """Return width and height of a panel that its rows and labels fit into."""
    if isinstance(drawing, Dots):
        rows, names = len(drawing.rows), len(drawing.series)
        return PANEL_INCHES + 0.9, 1.1 + _row_inches(rows) * rows + ROW_INCHES * names
    if isinstance(drawing, Matrix):
        cell = 0.42 if len(drawing.columns) <= ROOMY_COLUMNS else 0.3
        if len(drawing.columns) > NUMBERED_COLUMNS:
            cell = DENSE_INCHES
        width = max(PANEL_INCHES + 0.7, 2.4 + cell * len(drawing.columns))  # as wide as the title
        return width, 1.9 + min(cell, 0.3) * len(drawing.rows)
    if isinstance(drawing, Lines) and len(drawing.lines) <= drawing.most_named:
        return PANEL_INCHES + 1.2, max(3.4, 0.9 + TAG_INCHES * len(drawing.lines))
    return PANEL_INCHES, 3.6


def _draw(plane: Plane, drawing: Dots | Lines | Points | Matrix, height: float) -> None:
    """Draw a panel of that height, inches."""
    if isinstance(drawing, Dots):
        _draw_dots(plane, drawing)
    elif isinstance(drawing, Lines):
        _draw_lines(plane, drawing, height)
    elif isinstance(drawing, Points):
        _draw_points(plane, drawing)
    else:
        _draw_matrix(plane, drawing)


def label(name: str) -> str:
    """Return a name as a label; of a long one, its beginning and its end.

    Example:
        >>> label("short"), label("a_very_long_name_of_a_domain_that_goes_on_and_on_and_on")
        ('short', 'a_very_long_name_of_…nd_on_and_on')
    """
    text = visible(name)
    if len(text) <= LABEL_LETTERS:
        return text
    return f"{text[:20]}…{text[20 - LABEL_LETTERS + 1 :]}"


def _draw_dots(plane: Plane, dots: Dots) -> None:
    rows = len(dots.rows)
    size = 4 if rows > DENSE_ROWS else 6
    for at, (_, marks) in enumerate(dots.rows):
        for mark in marks:
            colour, marker = LIGHT[mark.series], MARKERS[mark.series]
            if mark.low is not None and mark.high is not None:
                plane.plot([mark.low, mark.high], [at, at], color=colour, alpha=0.55, linewidth=2)
            plane.plot([mark.value], [at], color=colour, marker=marker, markersize=size,
                       markeredgewidth=1.8 if marker in "x|" else 0.6,
                       markeredgecolor=colour if marker in "x|" else "white")  # fmt: skip
    plane.set_yticks(range(rows), [label(name) for name, _ in dots.rows])
    plane.set_ylim(rows - 0.5, -0.5)
    plane.grid(visible=True, axis="y", linewidth=0.4)
    plane.tick_params(axis="y", length=0, labelsize=6 if rows > DENSE_ROWS else 9)
    plane.set_xlabel(dots.axes.x)
    plane.xaxis.set_major_locator(MaxNLocator(5))
    plane.xaxis.set_major_formatter(_formatter(dots.text))
    if dots.axes.from_zero:
        low, high = plane.get_xlim()
        plane.set_xlim(min(low, -0.01 * (high - low)), max(high, 0.01 * (high - low)))
        plane.axvline(0, color=QUIET, linewidth=1, zorder=1)
    _legend(plane, dots.series)


def _legend(plane: Plane, names: Mapping[int, str]) -> None:
    """Name the series above a panel."""
    if not names:
        return
    handles = [
        Line2D([], [], linestyle="none", color=LIGHT[at], marker=MARKERS[at], markersize=6,
               markeredgewidth=1.8 if MARKERS[at] in "x|" else 0.6, label=visible(name))
        for at, name in names.items()
    ]  # fmt: skip
    columns = 1 if max(map(len, names.values())) > SHORT_LETTERS else LEGEND_COLUMNS
    plane.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2,
                 ncols=columns, handletextpad=0.4)  # fmt: skip


def _formatter(text: Callable[[float], str]) -> FuncFormatter:
    return FuncFormatter(lambda value, _: text(value))


def _draw_lines(plane: Plane, drawing: Lines, height: float) -> None:
    named = len(drawing.lines) <= drawing.most_named
    for at, line in enumerate(drawing.lines):
        xs, ys = zip(*line.points, strict=True)
        if named:
            plane.plot(xs, ys, linewidth=1.6, **_line_style(at, line))
        else:
            plane.plot(xs, ys, color=LIGHT[0], alpha=0.35, linewidth=0.8)
    _name_axes(plane, drawing.axes.x, drawing.axes.y)
    if drawing.axes.log_x:
        plane.set_xscale("log")
        _tick_logarithm(plane)
    else:
        plane.xaxis.set_major_formatter(_formatter(short))
    plane.yaxis.set_major_formatter(_formatter(short))
    if named and len(drawing.lines) > 1:
        _tag(plane, drawing.lines, height)


def _line_style(at: int, line: Line) -> dict[str, Any]:
    """Return the colour, dashes and marker of a line; 24 lines differ."""
    marks = len(line.points) <= MOST_POINTS_MARKED
    return {
        "color": LIGHT[at % SERIES],
        "linestyle": DASHES[at // SERIES % len(DASHES)],
        "marker": MARKERS[(at + at // SERIES) % SERIES] if marks else "",
        "markersize": 4,
    }


def _tick_logarithm(plane: Plane) -> None:
    """Label 1, 2 and 5 times powers of ten where the axis is short, else powers of ten."""
    low, high = plane.get_xlim()
    plane.set_xlim(low, high)
    plane.xaxis.set_major_locator(FixedLocator(powers(low, high)))
    plane.xaxis.set_minor_formatter(NullFormatter())
    plane.xaxis.set_major_formatter(_formatter(short))


def _tag(plane: Plane, lines: Sequence[Line], height: float) -> None:
    """Name lines right of the panel, in the order of their ends, each with its marker."""
    low, high = plane.get_ylim()
    step = TAG_INCHES / (height - 0.8)
    order = sorted(range(len(lines)), key=lambda at: (lines[at].points[-1][1], at))
    wishes = [(lines[at].points[-1][1] - low) / (high - low) for at in order]
    places = spread(wishes, step, 1.0)
    for at, place in zip(order, places, strict=True):
        style = _line_style(at, lines[at])
        plane.plot([1.015, 1.06], [place, place], transform=plane.transAxes, clip_on=False,
                   linewidth=1.6, **style)  # fmt: skip
        plane.annotate(
            label(lines[at].label), (1.085, place), xycoords="axes fraction",
            va="center", fontsize=8 if len(lines) > FEW_TAGS else 9, annotation_clip=False,
        )  # fmt: skip


def _name_axes(plane: Plane, across: str, up: str) -> None:
    plane.set_xlabel(visible(across))
    plane.set_ylabel(visible(up))


def _draw_points(plane: Plane, drawing: Points) -> None:
    for series in sorted({point.series for point in drawing.points}):
        points = [point for point in drawing.points if point.series == series]
        plane.plot([point.x for point in points], [point.y for point in points], linestyle="none",
                   color=LIGHT[series], marker=MARKERS[series], markersize=5,
                   alpha=1.0 if drawing.series else 0.65, markeredgewidth=0)  # fmt: skip
    _name_axes(plane, drawing.axes.x, drawing.axes.y)
    if drawing.axes.diagonal:
        low = min(plane.get_xlim()[0], plane.get_ylim()[0])
        high = max(plane.get_xlim()[1], plane.get_ylim()[1])
        plane.set_xlim(low, high)
        plane.set_ylim(low, high)
        plane.axline((low, low), (high, high), color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
        plane.set_aspect("equal")
    if drawing.axes.zero:
        plane.axhline(0, color=QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    plane.xaxis.set_major_locator(MaxNLocator(5))
    plane.xaxis.set_major_formatter(_formatter(short))
    plane.yaxis.set_major_formatter(_formatter(short))
    _legend(plane, drawing.series)


def _draw_matrix(plane: Plane, matrix: Matrix) -> None:
    most = max((v for row in matrix.values for v in row if v is not None), default=0.0) or 1.0
    numbered = len(matrix.columns) <= NUMBERED_COLUMNS
    for row, values in enumerate(matrix.values):
        for column, value in enumerate(values):
            if value is None:
                continue
            plane.fill_between([column + 0.02, column + 0.98], row + 0.03, row + 0.97,
                               color=LIGHT[0], alpha=0.75 * value / most, linewidth=0)  # fmt: skip
            if numbered:
                plane.text(column + 0.5, row + 0.5, matrix.text(value), ha="center", va="center",
                           fontsize=7.5 if len(matrix.columns) <= ROOMY_COLUMNS else 6,
                           color="white" if value > 0.65 * most else INK)  # fmt: skip
    columns, rows = len(matrix.columns), len(matrix.rows)
    plane.set_xlim(0, columns)
    plane.set_ylim(rows, 0)
    plane.set_yticks([at + 0.5 for at in range(rows)], [label(name) for name in matrix.rows])
    plane.set_xticks([at + 0.5 for at in range(columns)], [label(n) for n in matrix.columns],
                     rotation=45, ha="right", rotation_mode="anchor")  # fmt: skip
    plane.grid(visible=False)
    plane.tick_params(length=0, labelsize=9 if numbered else 6)
    for spine in plane.spines.values():
        spine.set_visible(False)
    darkest = "" if numbered else f"; the darkest is {matrix.text(most)}"
    plane.set_title(f"{matrix.title}{darkest}", loc="left")
