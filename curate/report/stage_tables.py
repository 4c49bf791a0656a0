"""Tables of recipes and datasets in stages, from the JSON of their plans and certificates."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from curate.report.terminal import numbers_table, plain


def passes_table(fields: dict[str, Any]) -> Table:
    """Show passes over each domain by stage and in sum.

    Args:
        fields: The fields of `plan.json` or `certificate.json` of all stages.
    """
    stages = list(fields["stages"])
    table = numbers_table(
        "passes over each domain by stage",
        ("domain", *map(plain, stages), "in all", "at most", "tokens", "supply"),
    )
    for name, row in fields["domains"].items():
        tokens = row.get("realised_tokens", row.get("tokens"))
        table.add_row(
            plain(name),
            *(f"{row['epochs_by_stage'][stage]:.3f}" for stage in stages),
            f"{row['epochs']:.3f}",
            f"{row['max_epochs']:g}",
            f"{tokens:,}",
            f"{row['supply_tokens']:,}",
        )
    return table


def stage_heading(name: str, fields: dict[str, Any]) -> str:
    """Return a line above the table of a stage.

    Args:
        name: The stage.
        fields: Its part of the plan or the certificate.
    """
    length = fields.get("sequence_length")
    rows = "" if length is None else f", rows of {length:,}"
    return plain(f"stage {name}: {fields['budget_tokens']:,} tokens{rows}")
