"""Tables that compare several mixtures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.table import Table

from curate.report.terminal import plain

SHARES_SHOWN = 5
REASON_CHARACTERS = 90

Row = Mapping[str, Any]


def comparison_tables(comparison: Mapping[str, Any]) -> list[Table]:
    """Show one mixture a row: its largest shares, distance, loss, epochs and support.

    Columns that no mixture fills are left out; a second table lists methods without a mixture.

    Args:
        comparison: The fields of `mixtures.json`.
    """
    budget = comparison["budget_tokens"]
    table = Table(
        title="mixtures"
        + ("" if budget is None else f" of {budget:,} tokens")
        + "; shares in %, 95 % intervals",
        title_justify="left",
        caption="distance: % of tokens that differ from natural. loss: predicted by the method's "
        "own law. support: distance to the nearest run, and how far runs are from each other; "
        "! outside",
        caption_justify="left",
    )
    table.add_column("method")
    table.add_column(f"largest {SHARES_SHOWN} shares", overflow="fold")
    rows = comparison["mixtures"]
    columns = []
    for heading, cell in COLUMNS.items():
        cells = {name: cell(row) for name, row in rows.items()}
        if any(cells.values()):
            table.add_column(heading, justify="right")
            columns.append(cells)
    for name, row in rows.items():
        table.add_row(plain(name), plain(_shares(row)), *(cells[name] for cells in columns))
    if not comparison["left_out"]:
        return [table]
    left_out = Table(title="left out", title_justify="left")
    left_out.add_column("method")
    left_out.add_column("why")
    for name, reason in comparison["left_out"].items():
        shown = reason if len(reason) <= REASON_CHARACTERS else reason[:REASON_CHARACTERS] + "…"
        left_out.add_row(plain(name), plain(shown))
    return [table, left_out]


def _shares(row: Row) -> str:
    largest = sorted(row["weights"].items(), key=lambda item: (-item[1], item[0]))[:SHARES_SHOWN]
    low, high = row["low"], row["high"]
    return ", ".join(
        f"{name} {100 * share:.1f}"
        + ("" if low is None else f" [{100 * low[name]:.1f}–{100 * high[name]:.1f}]")
        for name, share in largest
    )


def _distance(row: Row) -> str:
    return "" if row["tv_natural"] is None else f"{row['tv_natural'] * 100:.1f}"


def _loss(row: Row) -> str:
    return "" if row["predicted_loss"] is None else f"{row['predicted_loss']:.4f}"


def _regret(row: Row) -> str:
    regret = row.get("regret", {}).get("recommendation")
    return "" if regret is None else f"{regret['mean']:.4f}"


def _most_epochs(row: Row) -> str:
    return "" if row["max_epochs"] is None else f"{row['max_epochs']:.2f}"


def _support(row: Row) -> str:
    support = row.get("support")
    if support is None:
        return ""
    return (
        f"{support['distance']:.3f} of {support['radius']:.3f}{'' if support['inside'] else ' !'}"
    )


COLUMNS: dict[str, Callable[[Row], str]] = {
    "distance": _distance,
    "loss": _loss,
    "regret": _regret,
    "most epochs": _most_epochs,
    "support": _support,
}
"""Columns after the shares: functions that format a cell, by heading."""
