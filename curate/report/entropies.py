"""Tables of entropies with intervals, and of mixtures side by side; bits per token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from curate.report.terminal import NATS_TO_BITS, plain

MEASURES = {"shannon": "SE", "joint": "JE", "conditional": "CE"}


def entropy_tables(report: Mapping[str, Any]) -> list[Table]:
    """Everything in `entropy_report.json` that is read at a glance."""
    tables = [_entropies(report), _signals(report)]
    if "comparison" in report:
        tables += [_weights(report["comparison"]), _epochs(report["comparison"])]
    return tables


def _table(title: str, headings: list[str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(headings[0], overflow="fold")
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    return table


def _entropies(report: Mapping[str, Any]) -> Table:
    headings = ["domain", "sample", *(f"{short} [95 %]" for short in MEASURES.values())]
    table = _table(
        f"bits per token with 95 % intervals, bias corrected, on at most "
        f"{report['sample']['tokens']:,} tokens a domain",
        [*headings, "CE plug-in", "CE held-out"],
    )
    for name, row in report["domains"].items():
        found = row["entropy"]
        table.add_row(
            plain(name), f"{found['shannon']['sample_tokens']:,}",
            *(_interval(found[measure]) for measure in MEASURES),
            _bits(found["conditional"]["plugin"]), _bits(found["conditional"]["held_out"]),
        )  # fmt: skip
    return table


def _signals(report: Mapping[str, Any]) -> Table:
    sample = report["sample"]
    headings = ["domain", "von Neumann bits [95 %]", "Vendi", "compression", "bytes/token",
                "copied docs", "copied tokens", "CE bits/byte"]  # fmt: skip
    table = _table(
        f"other signals; von Neumann and Vendi by {plain(sample['encoder'])} on at most "
        f"{sample['excerpts']:,} excerpts; compression is bytes by compressed bytes",
        headings,
    )
    for name, row in report["domains"].items():
        found = row["entropy"]
        table.add_row(
            plain(name), _interval(found["von_neumann"]), f"{found['von_neumann']['vendi']:.1f}",
            f"{row['compression_ratio']:.2f}", f"{row['bytes_per_token']:.2f}",
            f"{row['duplicates']['document_share']:.2%}",
            f"{row['duplicates']['token_share']:.2%}",
            f"{found['conditional']['bits_per_byte']:.3f}",
        )  # fmt: skip
    return table


def _weights(comparison: Mapping[str, Any]) -> Table:
    mixtures = comparison["mixtures"]
    table = _table(
        "mixtures: shares of tokens before caps (UniMax: within them), in %",
        ["domain", *mixtures],
    )
    for name in mixtures["natural"]["weights"]:
        cells = []
        for mixture in mixtures.values():
            cell = f"{mixture['weights'][name] * 100:.2f}"
            if mixture["low"] is not None:
                low, high = mixture["low"][name] * 100, mixture["high"][name] * 100
                cell += f" \\[{low:.2f}, {high:.2f}]"
            cells.append(cell)
        table.add_row(plain(name), *cells)
    table.add_section()
    distances = (f"{mixture['tv_natural'] * 100:.2f}" for mixture in mixtures.values())
    table.add_row("distance to natural", *distances)
    return table


def _epochs(comparison: Mapping[str, Any]) -> Table:
    mixtures = comparison["mixtures"]
    table = _table(
        f"epochs at {comparison['budget_tokens']:,} tokens, if nothing capped them",
        ["domain", *mixtures],
    )
    for name in mixtures["natural"]["weights"]:
        epochs = (mixture["epochs"][name] for mixture in mixtures.values())
        table.add_row(plain(name), *("" if value is None else f"{value:.3f}" for value in epochs))
    return table


def _interval(found: Mapping[str, Any]) -> str:
    """Such as `7.182 [7.021, 7.343]`; no bracket where nothing could be resampled."""
    bits = _bits(found["nats"])
    if found["low"] is None:
        return bits
    return f"{bits} \\[{_bits(found['low'])}, {_bits(found['high'])}]"


def _bits(nats: float | None) -> str:
    return "" if nats is None or math.isnan(nats) else f"{nats * NATS_TO_BITS:.3f}"
