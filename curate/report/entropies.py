"""Tables of entropies with intervals, in bits per token, and of a domain's other signals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from curate.report.methods import comparison_tables
from curate.report.numbers import NATS_TO_BITS
from curate.report.terminal import numbers_table, plain
from curate.runtime.registry import counted
from curate.stats import STATISTICS, Statistic
from curate.stats.statistic import TOKENS, Column

COLUMNS = 5
"""Largest sample sizes that the table of growth shows; the report has all."""


def entropy_tables(report: Mapping[str, Any]) -> list[RenderableType]:
    """Make the tables of `entropy_report.json`, with fewer numbers than the file."""
    tables: list[RenderableType] = [_entropies(report), _signals(report), _growth(report)]
    if len(report["domains"]) > 1:
        tables.append(_between(report))
    if "comparison" in report:
        tables += comparison_tables(report["comparison"])
    return tables


def _entropies(report: Mapping[str, Any]) -> Table:
    """Show entropies of tokens, highest conditional entropy first, and mark ties with the next."""
    columns = _columns(lambda row: row.entropy and row.sample == TOKENS)
    table = numbers_table(
        "entropies in bits per token ± to the upper end of 95 %, bias corrected, on at most "
        f"{report['sample']['tokens']:,} tokens a domain;\n≈ where CE differs from the next by "
        "less than its error",
        ["domain", "", *(column.heading for _, column in columns)],
    )
    for name, tied in _ranked(report):
        cells = (_cell(report["domains"][name], *column) for column in columns)
        table.add_row(plain(name), "≈" if tied else "", *cells)
    return table


def _columns(is_shown: Callable[[Statistic], bool]) -> list[tuple[Statistic, Column]]:
    """List the columns of some statistics, in the order of `STATISTICS`."""
    return [(row, column) for row in STATISTICS.values() if is_shown(row) for column in row.shown]


def _cell(domain: Mapping[str, Any], statistic: Statistic, column: Column) -> str:
    """Format one number of a domain's entry, nats as bits."""
    value: Any = (domain["entropy"] if statistic.entropy else domain)[statistic.name]
    for key in column.path:
        value = value[key]
    bytes_per_token = domain["bytes_per_token"] if column.per_byte else 1.0
    if column.interval:
        return _interval(value, bytes_per_token)
    if column.nats:
        return _bits(value, bytes_per_token)
    return "" if value is None else format(value, column.style)


def _ranked(report: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """List the domains, highest CE first, each with whether the next ties with it."""
    rows = {name: row["entropy"]["conditional"] for name, row in report["domains"].items()}
    names = sorted(rows, key=lambda name: -rows[name]["nats"])
    ranked = []
    for name, following in zip(names, [*names[1:], ""], strict=True):
        tied = False
        if following and None not in (rows[name]["low"], rows[following]["high"]):
            gap = rows[name]["nats"] - rows[following]["nats"]
            tied = gap < math.hypot(_half(rows[name]), _half(rows[following]))
        ranked.append((name, tied))
    return ranked


def _signals(report: Mapping[str, Any]) -> Table:
    """Show the statistics that are not entropies of tokens."""
    columns = _columns(lambda row: not (row.entropy and row.sample == TOKENS))
    sample = report["sample"]
    table = numbers_table(
        f"other signals: von Neumann entropy by {plain(sample['encoder'])} on at most "
        f"{sample['excerpts']:,} excerpts; zstd: bytes by compressed bytes;\nb/B: bits "
        "per byte, whatever the tokenizer",
        ["domain", *(column.heading for _, column in columns)],
    )
    for name, row in report["domains"].items():
        table.add_row(plain(name), *(_cell(row, *column) for column in columns))
    return table


def _growth(report: Mapping[str, Any]) -> Table:
    """Show estimates on growing samples; one that still moves is no property of the domain."""
    domains = report["domains"]
    sizes = sorted({point["sample_tokens"] for row in domains.values()
                    for point in row["convergence"]})[-COLUMNS:]  # fmt: skip
    table = numbers_table(
        "as the sample grows: CE bits per token (plug-in), and types",
        ["domain", *(counted(size, "token") for size in sizes)],
    )
    for name, row in domains.items():
        rows = {point["sample_tokens"]: point for point in row["convergence"]}
        types = dict(row["type_token"])
        cells = []
        for size in sizes:
            point = rows.get(size)
            cells.append(
                f"{point['conditional'] * NATS_TO_BITS:.2f} "
                f"({point['conditional_plugin'] * NATS_TO_BITS:.2f}) {types.get(size, 0):,}"
                if point
                else ""
            )
        table.add_row(plain(name), *cells)
    return table


def _between(report: Mapping[str, Any]) -> RenderableType:
    names = report["between"]["order"]
    js, overlap = report["between"]["js"], report["between"]["pair_overlap"]
    if sum(row[place] is not None for place, row in enumerate(js)) < 2:
        return (
            "divergence between domains: not shown, as fewer than two have a whole sample of "
            f"{report['sample']['tokens']:,} tokens"
        )
    table = numbers_table(
        "between domains: above the diagonal, Jensen-Shannon divergence of tokens in bits (0 to "
        "1); below, % of tokens whose pair both samples have, mean of both directions",
        ["domain", *(plain(name) for name in names)],
    )
    for row, name in enumerate(names):
        cells = []
        for column in range(len(names)):
            if column == row:
                cells.append("·")
            elif column > row:
                nats = js[row][column]
                cells.append("" if nats is None else f"{nats * NATS_TO_BITS:.3f}")
            else:
                both = overlap[row][column], overlap[column][row]
                cells.append("" if None in both else f"{sum(both) * 50:.1f}")
        table.add_row(plain(name), *cells)
    return table


def _half(entropy: Mapping[str, Any]) -> float:
    """Return the upper half of the interval, nats; the lower one may be cut off at 0."""
    return float(entropy["high"] - entropy["nats"])


def _interval(entropy: Mapping[str, Any], bytes_per_token: float) -> str:
    """Format an estimate like `7.182 ± 0.161`, without ± if it has no interval."""
    bits = _bits(entropy["nats"], bytes_per_token)
    return bits if entropy["low"] is None else f"{bits} ± {_bits(_half(entropy), bytes_per_token)}"


def _bits(nats: float | None, bytes_per_token: float) -> str:
    """Format nats per token as bits per byte, or per token if `bytes_per_token` is 1."""
    if nats is None or math.isnan(nats):
        return ""
    return f"{nats * NATS_TO_BITS / bytes_per_token:.3f}"
