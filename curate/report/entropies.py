"""Tables of entropies with intervals, in bits per token, and of the other signals of a domain."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from rich.table import Table

from curate.report.methods import comparison_tables
from curate.report.terminal import NATS_TO_BITS, plain
from curate.stats import STATISTICS, Statistic
from curate.stats.statistic import TOKENS, Column

COLUMNS = 5
"""Sample sizes in the table of growth, the largest; all are in the report."""


def entropy_tables(report: Mapping[str, Any]) -> list[Table]:
    """Everything in `entropy_report.json` that is read at a glance."""
    tables = [_entropies(report), _signals(report), _growth(report)]
    if len(report["domains"]) > 1:
        tables.append(_between(report))
    if "comparison" in report:
        tables += comparison_tables(report["comparison"])
    return tables


def _table(title: str, headings: list[str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(headings[0], overflow="fold")
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    return table


def _entropies(report: Mapping[str, Any]) -> Table:
    """Entropies of tokens by falling conditional entropy; a tie with the next domain is marked."""
    columns = _columns(lambda row: row.entropy and row.sample == TOKENS)
    table = _table(
        "entropies in bits per token ± half a 95 % interval, bias corrected, on at most "
        f"{report['sample']['tokens']:,} tokens a domain;\n≈ where CE differs from the next by "
        "less than its error",
        ["domain", "", *(column.heading for _, column in columns)],
    )
    for name, tied in _ranked(report):
        cells = (_cell(report["domains"][name], *column) for column in columns)
        table.add_row(plain(name), "≈" if tied else "", *cells)
    return table


def _columns(chosen: Callable[[Statistic], bool]) -> list[tuple[Statistic, Column]]:
    """Columns of some statistics, in the order of `STATISTICS`."""
    return [(row, column) for row in STATISTICS.values() if chosen(row) for column in row.shown]


def _cell(domain: Mapping[str, Any], statistic: Statistic, column: Column) -> str:
    """One number of a domain's entry, in bits where it is in nats."""
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
    """Domains by falling CE, and whether the next one could as well come first."""
    found = {name: row["entropy"]["conditional"] for name, row in report["domains"].items()}
    names = sorted(found, key=lambda name: -found[name]["nats"])
    ranked = []
    for name, following in zip(names, [*names[1:], ""], strict=True):
        tied = False
        if following and None not in (found[name]["low"], found[following]["high"]):
            gap = found[name]["nats"] - found[following]["nats"]
            tied = gap < math.hypot(_half(found[name]), _half(found[following]))
        ranked.append((name, tied))
    return ranked


def _signals(report: Mapping[str, Any]) -> Table:
    """Every statistic that is not an entropy of tokens."""
    columns = _columns(lambda row: not (row.entropy and row.sample == TOKENS))
    sample = report["sample"]
    table = _table(
        f"other signals: von Neumann entropy by {plain(sample['encoder'])} on at most "
        f"{sample['excerpts']:,} excerpts; zstd: bytes by compressed bytes;\nb/B: bits "
        "per byte, whatever the tokenizer",
        ["domain", *(column.heading for _, column in columns)],
    )
    for name, row in report["domains"].items():
        table.add_row(plain(name), *(_cell(row, *column) for column in columns))
    return table


def _growth(report: Mapping[str, Any]) -> Table:
    """What still moves with the sample: an estimate that does is no property of the domain."""
    sizes = sorted({row["sample_tokens"] for found in report["domains"].values()
                    for row in found["convergence"]})[-COLUMNS:]  # fmt: skip
    table = _table(
        "as the sample grows: CE bits per token (plug-in), and types",
        ["domain", *(f"{size:,} tokens" for size in sizes)],
    )
    for name, row in report["domains"].items():
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


def _between(report: Mapping[str, Any]) -> Table:
    names = report["between"]["order"]
    js, overlap = report["between"]["js"], report["between"]["pair_overlap"]
    table = _table(
        "between domains: above the diagonal, Jensen-Shannon divergence\nof tokens in bits (0 to "
        "1); below, % of tokens whose pair both\nsamples have, mean of both directions",
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


def _half(found: Mapping[str, Any]) -> float:
    """Half the interval, nats; the upper half, which nothing cuts off at 0."""
    return float(found["high"] - found["nats"])


def _interval(found: Mapping[str, Any], bytes_per_token: float = 1.0) -> str:
    """Such as `7.182 ± 0.161`; no ± where nothing could be resampled."""
    bits = _bits(found["nats"], bytes_per_token)
    return bits if found["low"] is None else f"{bits} ± {_bits(_half(found), bytes_per_token)}"


def _bits(nats: float | None, bytes_per_token: float = 1.0) -> str:
    """Bits per token, or per byte where tokens have so many bytes."""
    if nats is None or math.isnan(nats):
        return ""
    return f"{nats * NATS_TO_BITS / bytes_per_token:.3f}"
