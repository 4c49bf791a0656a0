"""The table that compares laws on one run table, from `fit.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from curate.report.terminal import numbers_table, plain

HEADINGS = ("error %", "R2 mean", "R2 worst", "Spearman", "of the mean", "later %", "CPU s")


def law_table(fit: Mapping[str, Any]) -> Table:
    """Compare the laws that could be fitted, best first; `=` marks ties with the best."""
    runs = fit["table"]
    table = numbers_table(
        f"{runs['runs']:,} runs, {runs['rows']:,} rows, {len(runs['domains'])} domains, "
        f"{len(runs['targets'])} losses; {fit['folds']}-fold cross-validation by mixture",
        ("law", *HEADINGS),
        overflow="fold",
    )
    table.add_column("", overflow="fold")
    for name, law in fit["laws"].items():
        unseen, later = law["unseen_mixtures"], law["later_tokens"]
        if unseen is None:
            continue
        note = "=" if law["ties_with_best"] else ""
        cells = [
            _number(unseen["mean_relative_error"], 2, 100),
            _number(unseen["r2_mean"], 3),
            _number(unseen["r2_worst"], 3),
            _number(unseen["spearman_mean"], 1, 100),
            _number(unseen["spearman_of_mean"], 1, 100),
            _number(None if later is None else later["mean_relative_error"], 2, 100),
            f"{law['seconds']:.1f}",
        ]
        verdict = note if law["beats_dummies"] else f"{note} not better than a dummy".strip()
        table.add_row(plain(name), *cells, verdict)
    return table


def problems(fit: Mapping[str, Any]) -> list[str]:
    """List the laws that could not be fitted, each with its reason."""
    return [law["problem"] for law in fit["laws"].values() if law["problem"]]


def _number(value: float | None, digits: int, scale: float = 1) -> str:
    return "" if value is None else f"{value * scale:.{digits}f}"
