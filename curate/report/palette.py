"""Colours of figures, the same on the page and in plots.

Each series has a shape and a line style of its own as well, so that no figure needs its colours.
The palettes were searched for the largest least distance between two colours, as seen with full
colour vision and under simulated protanopia, deuteranopia and tritanopia, near those of Okabe and
Ito. `tests/test_plots.py` measures them.

References:
    Okabe and Ito 2008, "Color Universal Design".
    Machado, Oliveira and Fernandes 2009, "A physiologically-based model for simulation of color
    vision deficiency".
"""

from __future__ import annotations

LIGHT = ("#1072ae", "#d55e06", "#009e74", "#a32c71", "#605400", "#10171b")
"""Colours of series on light paper, each with a contrast of at least 3 to it."""

DARK = ("#0aafe6", "#e37205", "#66906c", "#ad7294", "#d8d703", "#b4b9be")
"""Colours of series on dark paper."""

INK, QUIET, RULE = "#1d2327", "#57606a", "#d7dbdf"
"""Colours of text, of axes and of lines on light paper."""

LIGHT_PAPER = "#fdfdfc"
DARK_PAPER = "#14181b"


def page_style() -> str:
    """Return the palettes as variables of a style sheet.

    Example:
        >>> page_style().splitlines()[0]
        ':root { --paper: #fdfdfc; --series-0: #1072ae; --series-1: #d55e06; --series-2: #009e74; \
--series-3: #a32c71; --series-4: #605400; --series-5: #10171b; }'
    """
    light, dark = _variables(LIGHT_PAPER, LIGHT), _variables(DARK_PAPER, DARK)
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n"


def _variables(paper: str, colours: tuple[str, ...]) -> str:
    series = " ".join(f"--series-{at}: {colour};" for at, colour in enumerate(colours))
    return f":root {{ --paper: {paper}; {series} }}"
