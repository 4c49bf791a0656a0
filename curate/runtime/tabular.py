"""Results that can be read as a table: data frame, CSV, Markdown and HTML of the same rows."""

from __future__ import annotations

import html
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from curate.runtime.escape import markdown

if TYPE_CHECKING:
    import polars

Row = dict[str, Any]
"""One row of a result's table, by column."""


class Tabular:
    """Base of results that have rows."""

    __slots__ = ()

    @abstractmethod
    def rows(self) -> list[Row]:
        """Return the result as rows with the same columns."""

    def to_polars(self) -> polars.DataFrame:
        """Return the rows as a polars data frame."""
        import polars as pl

        return pl.DataFrame(self.rows(), infer_schema_length=None)

    def to_csv(self) -> str:
        """Return the rows as CSV, with unrounded numbers; the first line names the columns."""
        return self.to_polars().write_csv().rstrip("\n")

    def to_markdown(self) -> str:
        """Return the rows as a Markdown table, with numbers of five digits."""
        headings, body = self._cells()
        lines = [headings, ["---"] * len(headings), *body]
        return "\n".join("| " + " | ".join(map(markdown, line)) + " |" for line in lines)

    def to_html(self, title: str) -> str:
        """Return the rows as an HTML table with a caption, for notebooks."""
        headings, rows = self._cells()
        head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
            for cells in rows
        )
        return (
            f"<table><caption>{html.escape(title)}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and formatted cells."""
        rows = self.rows()
        headings = list(dict.fromkeys(key for row in rows for key in row))
        return headings, [[_cell(row.get(key)) for key in headings] for row in rows]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
