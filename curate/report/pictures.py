"""Draw the pictures of the dataset card as SVG files that stand alone.

They need no plotting library, so every build has them and they have the same bytes everywhere; they
keep to light paper, since a page that shows them as images cannot hand on its own colours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from curate.dataset.manifest import PICTURES
from curate.report.artifact_charts import entropies, shares, stages
from curate.report.charts import Chart, Dots
from curate.report.page.figures import ROW, WIDTH, dot_plot, shape, text_at
from curate.report.palette import INK, QUIET, RULE, page_style
from curate.runtime.escape import visible
from curate.runtime.files import atomic_path

MARGIN = 12
MOST_ROWS = 30
"""Domains of a picture; a card shows pictures between its tables."""


def write_pictures(directory: Path, artifacts: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw shares and entropies beside the shards; remove a picture that has nothing to show.

    Args:
        directory: Directory of the dataset.
        artifacts: Fields of `mixture`, `stats` and `certificate`, by these names; in stages
            without a mixture.
    """
    domains = artifacts["stats"]["domains"]
    is_staged = "stages" in artifacts["certificate"]
    drawn = stages(artifacts) if is_staged else shares(artifacts)
    charts = (drawn, entropies(domains, "conditional") if len(domains) > 1 else None)
    for name, chart in zip(PICTURES, charts, strict=True):
        path = directory / name
        if chart is None or not isinstance(chart.drawing, Dots):
            path.unlink(missing_ok=True)
            continue
        with atomic_path(path) as temporary:
            temporary.write_text(picture(chart, chart.drawing), "utf-8")


def picture(chart: Chart, dots: Dots) -> str:
    """Draw a dot plot with its series and its style in one SVG document.

    Args:
        chart: What the caption says is the text for readers who do not see it.
        dots: The drawing of the chart; of very many rows the first ones are drawn.
    """
    rows = dots.rows[:MOST_ROWS]
    below = len(rows) * ROW + 52
    names = list(dots.series.items())
    if len(rows) < len(dots.rows):
        names.append((-1, f"the {len(rows)} largest of {len(dots.rows)} domains"))
    legend = [
        (Markup("") if series < 0 else shape(series, 8, below + at * ROW))
        + text_at(20 if series >= 0 else 4, below + at * ROW + 4, name)
        for at, (series, name) in enumerate(names)
    ]
    width, height = WIDTH + 2 * MARGIN, below + len(names) * ROW + 2 * MARGIN
    document = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="{0} {0} {1} {2:.0f}" width="{1}" '
        'height="{2:.0f}"><title>{3}</title><style>{4}</style><rect x="{0}" y="{0}" width="{1}" '
        'height="{2:.0f}" class="paper"/>{5}{6}</svg>\n'
    ).format(
        -MARGIN, width, height, chart.caption, Markup(_svg_style()),
        dot_plot(replace(dots, rows=rows)), Markup("").join(legend),
    )  # fmt: skip
    return visible(str(document), keep="\n")


def _svg_style() -> str:
    """Return the styles of figures alone, for light paper."""
    page_css = (files("curate.report.page") / "page.css").read_text("utf-8")
    rules = [line for line in page_css.splitlines() if line.startswith("svg ")]
    light = page_style().splitlines()[0]
    ink = f":root {{ --ink: {INK}; --quiet: {QUIET}; --rule: {RULE}; }}"
    own = ".paper { fill: var(--paper); } text { font-family: system-ui, sans-serif; }"
    return "\n".join([light, ink, own, *rules])
