"""The table of laws compared on one run table, from `fit.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from curate.report.terminal import plain

HEADINGS = ("error %", "R2 mean", "R2 worst", "Spearman", "of the mean", "later %", "CPU s")


def law_table(fit: Mapping[str, Any]) -> Table:
    """Laws that could be fitted, best first; `=` marks those that tie with the best."""
    runs = fit["table"]
    table = Table(
        title=f"{runs['runs']:,} runs, {runs['rows']:,} rows, {len(runs['domains'])} domains, "
        f"{len(runs['targets'])} losses; {fit['folds']}-fold cross-validation by mixture",
        title_justify="left",
    )
    table.add_column("law", overflow="fold")
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    table.add_column("", overflow="fold")
    for name, found in fit["laws"].items():
        unseen, later = found["unseen_mixtures"], found["later_tokens"]
        if unseen is None:
            continue
        note = "=" if found["ties_with_best"] else ""
        table.add_row(
            plain(name),
            _number(unseen["mean_relative_error"], 2, 100),
            _number(unseen["r2_mean"], 3),
            _number(unseen["r2_worst"], 3),
            _number(unseen["spearman_mean"], 1, 100),
            _number(unseen["spearman_of_mean"], 1, 100),
            _number(None if later is None else later["mean_relative_error"], 2, 100),
            f"{found['seconds']:.1f}",
            note if found["beats_dummies"] else f"{note} not better than a dummy".strip(),
        )
    return table


def problems(fit: Mapping[str, Any]) -> list[str]:
    """Laws that could not be fitted, and why, a line each."""
    return [found["problem"] for found in fit["laws"].values() if found["problem"]]


def _number(value: float | None, digits: int, scale: float = 1) -> str:
    return "" if value is None else f"{value * scale:.{digits}f}"
