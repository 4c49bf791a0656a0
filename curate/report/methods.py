"""Tables that compare several mixtures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from curate.report.numbers import RATIO, loss_unit
from curate.report.terminal import NumbersTable, numbers_table, plain

SHARES_SHOWN = 5

Row = Mapping[str, Any]


def comparison_tables(comparison: Mapping[str, Any]) -> list[RenderableType]:
    """Show the shares of every domain by method, what each mixture costs, and who has none.

    Columns that no mixture fills are left out.

    Args:
        comparison: The fields of `mixtures.json`.
    """
    budget, rows = comparison["budget_tokens"], comparison["mixtures"]
    of_budget = "" if budget is None else f" of {budget:,} tokens"
    shares = numbers_table(
        f"mixtures{of_budget}; shares in %, 95 % intervals",
        ("domain", *map(plain, rows)),
    )
    for name in next(iter(rows.values()), {"weights": ()})["weights"]:
        shares.add_row(plain(name), *(_share(row, name) for row in rows.values()))
    columns = {
        heading: cells
        for heading, cell in COLUMNS.items()
        if any(cells := [cell(row) for row in rows.values()])
    }
    worth = numbers_table("what each costs", ("method", *columns))
    worth.caption = " ".join(text for heading, text in MEANINGS.items() if heading in columns)
    for place, name in enumerate(rows):
        worth.add_row(plain(name), *(cells[place] for cells in columns.values()))
    tables: list[RenderableType] = [shares, worth] if rows else []
    for reason, names in _by_reason(comparison["left_out"]).items():
        tables.append(plain(f"left out, {', '.join(names)}: {reason}"))
    return tables


def front_table(front: Mapping[str, Any]) -> Table:
    """Show one mixture of a front a row: what it loses on each group, and its largest shares.

    Args:
        front: The fields of `front.json`.
    """
    from curate.laws.calibration import NORMAL_95  # loads SciPy, for 0.5 s

    groups, points = list(front["natural"]), front["points"]
    errors, reference = front["relative_error"], front["reference"]
    unit = loss_unit(front.get("unit"))
    lines = [f"front of {plain(', '.join(groups))} by {front['law'] or front['method']}"]
    if errors is not None:
        inside: list[bool] = []
        for name in groups:
            losses = [point["losses"][name] for point in points]
            span = max(losses) / min(losses) - 1
            # Two predictions are distinct at 95 % where they differ by more errors than this.
            inside.append(span <= 2**0.5 * NORMAL_95 * errors[name])
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
        caption=f"losses are group means, {unit.name}"
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
            cells.append(f"{unit.show(loss)}{over}")
        shares = _largest(point["weights"]) if "weights" in point else "natural"
        table.add_row(*cells, plain(shares))
    return table


def _by_reason(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    """Group methods whose reasons differ in the method's name alone."""
    groups: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        groups.setdefault(reason.replace(f"method '{name}'", "the method"), []).append(name)
    return groups


def _largest(weights: Mapping[str, float]) -> str:
    largest = sorted(weights.items(), key=lambda item: (-item[1], item[0]))[:SHARES_SHOWN]
    return ", ".join(f"{name} {100 * share:.1f}" for name, share in largest)


def _share(row: Row, name: str) -> str:
    share = f"{100 * row['weights'][name]:.1f}"
    if row["low"] is None:
        return share
    return f"{share} [{100 * row['low'][name]:.1f}–{100 * row['high'][name]:.1f}]"


def _distance(row: Row) -> str:
    return "" if row["tv_natural"] is None else f"{row['tv_natural'] * 100:.1f}"


def _loss(row: Row) -> str:
    unit = loss_unit(row.get("unit"))
    return unit.show(row["predicted_loss"])


def _regret(row: Row) -> str:
    regret = row.get("regret", {}).get("recommendation")
    if regret is None:
        return ""
    is_ratio = (row.get("objective") or {}).get("against") is not None
    return (RATIO if is_ratio else loss_unit(row.get("unit"))).show(regret["mean"])


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
"""Columns about the cost of each mixture: functions that format a cell, by heading."""

MEANINGS = {
    "distance": "distance: % of tokens that differ from natural.",
    "loss": "loss: predicted by the method's own law; bits a token where the runs tell their unit.",
    "support": "support: distance to the nearest run, and how far runs are from each other; "
    "! outside",
}
"""Meanings of columns, by heading, for the line below the table."""
