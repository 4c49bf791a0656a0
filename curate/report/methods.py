"""Tables of several methods' mixtures for the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table

from curate.mixture.compare_methods import Contender
from curate.report.terminal import plain

SHARES_SHOWN = 5
REASON_CHARACTERS = 90


def comparison_tables(comparison: dict[str, Any]) -> Group:
    """One row a method: its largest shares with intervals, its loss, epochs and support."""
    budget = comparison["budget_tokens"]
    table = Table(
        title="mixtures"
        + ("" if budget is None else f" of {budget:,} tokens")
        + "; shares in %, 95 % intervals",
        title_justify="left",
        caption="loss: predicted by the method's own law. support: distance to the nearest run, "
        "and how far runs are from each other; ! outside",
        caption_justify="left",
    )
    table.add_column("method")
    table.add_column(f"largest {SHARES_SHOWN} shares", overflow="fold")
    for heading in ("loss", "regret", "most epochs", "support"):
        table.add_column(heading, justify="right")
    for name, row in comparison["mixtures"].items():
        loss = row["predicted_loss"]
        regret = row.get("regret", {}).get("recommendation")
        table.add_row(
            plain(name), plain(_shares(row)), "" if loss is None else f"{loss:.4f}",
            "" if regret is None else f"{regret['mean']:.4f}",
            "" if row["max_epochs"] is None else f"{row['max_epochs']:.2f}",
            _support(row.get("support")),
        )  # fmt: skip
    if not comparison["left_out"]:
        return Group(table)
    left_out = Table(title="left out", title_justify="left")
    left_out.add_column("method")
    left_out.add_column("why")
    for name, reason in comparison["left_out"].items():
        shown = reason if len(reason) <= REASON_CHARACTERS else reason[:REASON_CHARACTERS] + "…"
        left_out.add_row(plain(name), plain(shown))
    return Group(table, left_out)


def contender_line(contender: Contender) -> str:
    """What a method came to, said as it ends."""
    if contender.mixture is None:
        return f"{contender.method}: left out"
    loss = contender.mixture.predicted_loss
    said = "" if loss is None else f"loss {loss:.4f}, "
    return f"{contender.method}: {said}{contender.seconds:.1f} s of CPU"


def _shares(row: dict[str, Any]) -> str:
    largest = sorted(row["weights"].items(), key=lambda item: (-item[1], item[0]))[:SHARES_SHOWN]
    low, high = row["low"], row["high"]
    return ", ".join(
        f"{name} {100 * share:.1f}"
        + ("" if low is None else f" [{100 * low[name]:.1f}–{100 * high[name]:.1f}]")
        for name, share in largest
    )


def _support(support: dict[str, Any] | None) -> str:
    if support is None:
        return ""
    mark = "" if support["inside"] else " !"
    return f"{support['distance']:.3f} of {support['radius']:.3f}{mark}"
