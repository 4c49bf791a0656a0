"""Tables that compare several mixtures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.table import Table

from curate.laws.calibration import NORMAL_95
from curate.report.terminal import NumbersTable, plain

SHARES_SHOWN = 5
DISTINCT = 2**0.5 * NORMAL_95
"""Errors of one prediction by which two must differ to be distinct at 95 %."""

Row = Mapping[str, Any]


def comparison_tables(comparison: Mapping[str, Any]) -> list[Table]:
    """Show one mixture a row: its largest shares, distance, loss, epochs and support.

    Columns that no mixture fills are left out; a second table lists methods without a mixture, a
    row for each reason.

    Args:
        comparison: The fields of `mixtures.json`.
    """
    budget = comparison["budget_tokens"]
    table = NumbersTable(
        title="mixtures"
        + ("" if budget is None else f" of {budget:,} tokens")
        + "; shares in %, 95 % intervals",
        title_justify="left",
        caption="distance: % of tokens that differ from natural. loss: predicted by the method's "
        "own law. support: distance to the nearest run, and how far runs are from each other; "
        "! outside",
        caption_justify="left",
    )
    table.add_column("method", overflow="fold")
    table.add_column(f"largest {SHARES_SHOWN} shares", overflow="fold")
    rows = comparison["mixtures"]
    columns = []
    for heading, cell in COLUMNS.items():
        cells = {name: cell(row) for name, row in rows.items()}
        if any(cells.values()):
            table.add_column(heading, justify="right", no_wrap=True)
            columns.append(cells)
    for name, row in rows.items():
        table.add_row(plain(name), plain(_shares(row)), *(cells[name] for cells in columns))
    if not comparison["left_out"]:
        return [table]
    left_out = Table(title="left out", title_justify="left")
    left_out.add_column("methods", overflow="fold", ratio=1)
    left_out.add_column("why", overflow="fold", ratio=2)
    for reason, names in _by_reason(comparison["left_out"]).items():
        left_out.add_row(plain(", ".join(names)), plain(reason))
    return [table, left_out]


def front_table(front: Mapping[str, Any]) -> Table:
    """Show one mixture of a front a row: what it loses on each group, and its largest shares.

    Args:
        front: The fields of `front.json`.
    """
    groups, points = list(front["natural"]), front["points"]
    errors, reference = front["relative_error"], front["reference"]
    lines = [f"front of {plain(', '.join(groups))} by {front['law'] or front['method']}"]
    if errors is not None:
        inside: list[bool] = []
        for name in groups:
            losses = [point["losses"][name] for point in points]
            span = max(losses) / min(losses) - 1
            inside.append(span <= DISTINCT * errors[name])
            lines.append(
                f"{plain(name)}: the front spans {span:.2%}, the law errs by {errors[name]:.2%} on "
                "unseen mixtures"
            )
        if any(inside):
            lines.append("no trade beyond the law's errors: a group differs by less than those")
    if len(points) == 1:
        lines.append("one mixture is best for all groups")
    table = NumbersTable(
        title="\n".join(lines),
        title_justify="left",
        caption="losses are group means"
        + ("" if reference is None else "; in brackets, over the reference (best run or natural)")
        + ". Each row is the optimum of a weighted sum of the groups.",
        caption_justify="left",
    )
    for name in groups:
        table.add_column(plain(name), justify="right", no_wrap=True)
    table.add_column(f"largest {SHARES_SHOWN} shares, %", overflow="fold")
    rows = [*points, {"losses": front["natural"]}]
    for point in rows:
        cells = []
        for name in groups:
            loss = point["losses"][name]
            base = None if reference is None else reference[name]
            over = "" if base is None else f" ({loss / base - 1:+.2%})"
            cells.append(f"{loss:.4f}{over}")
        shares = _shares(point) if "weights" in point else "natural"
        table.add_row(*cells, plain(shares))
    return table


def _by_reason(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    """Group methods whose reasons differ in the method's name alone."""
    groups: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        groups.setdefault(reason.replace(f"method '{name}'", "the method"), []).append(name)
    return groups


def _shares(row: Row) -> str:
    largest = sorted(row["weights"].items(), key=lambda item: (-item[1], item[0]))[:SHARES_SHOWN]
    low, high = row.get("low"), row.get("high")
    return ", ".join(
        f"{name} {100 * share:.1f}"
        + (
            ""
            if low is None or high is None
            else f" [{100 * low[name]:.1f}–{100 * high[name]:.1f}]"
        )
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
