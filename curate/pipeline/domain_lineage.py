"""Find out from documents what became of the domains that small models were trained on.

`curate proxy` records a sample of each domain's documents beside its runs. Where these documents
lie today says which domains were renamed, divided, merged or dropped, whatever they are called. A
table without such a record has names only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.runtime.files import read_json
from curate.tokens.content_sample import DomainContent, shares_now
from curate.tokens.domain import DomainTokens

RECORD = "proxy.json"

SAME_CONTENT = 0.95
"""Share of the sampled documents from which a domain counts as the same."""
LEAST_PART = 0.02
"""Share of them below which a domain is no part: copies of a few texts lie everywhere."""


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Today's place of the domains of one run table."""

    became: dict[str, dict[str, float]]
    """Domain of the table → domains of today → their shares of it, for those that moved."""
    notices: tuple[str, ...]


def recorded_contents(table: Path) -> dict[str, DomainContent]:
    """Read what the domains of a run table held; empty where no record says it."""
    record = table.parent / RECORD
    if not record.is_file():
        return {}
    kept: Mapping[str, Any] = read_json(record).get("domains", {}).get(table.name, {})
    return {
        name: DomainContent(one["fingerprint"], one["tokens"], one["sample"])
        for name, one in kept.items()
    }


def whereabouts(
    table: Path, domains: Sequence[DomainTokens], said: Collection[str]
) -> Whereabouts | None:
    """Find out what became of a run table's domains.

    Args:
        table: The run table.
        domains: The domains of today.
        said: Domains of the table whose whereabouts the recipe gives.

    Returns:
        Their places; None where no record says what they held.
    """
    contents = recorded_contents(table)
    if not contents:
        return None
    fingerprints = {domain.fingerprint: domain.name for domain in domains}
    names = {domain.name for domain in domains}
    became, notices = {}, []
    for old, content in contents.items():
        if old in said or fingerprints.get(content.fingerprint) == old:
            continue
        shares = shares_now(content, domains)
        parts = {name: share for name, share in shares.items() if share >= LEAST_PART}
        gone = 1 - sum(parts.values())
        moved = sum(share for name, share in parts.items() if name != old)
        if old in names and moved < LEAST_PART:
            # Nothing else can speak for a domain whose texts were cleaned anew.
            notices.append(
                f"{table}: '{old}' has changed: {parts.get(old, 0.0):.0%} of the documents that "
                "the runs drew from are still in it; the runs are taken to speak for it by its name"
            )
            continue
        if not parts:
            continue
        if gone > 1 - SAME_CONTENT:
            parts[f"{old}, no longer there"] = gone
        total = sum(parts.values())
        became[old] = {name: share / total for name, share in parts.items()}
        listed = ", ".join(f"'{name}' {share:.0%}" for name, share in became[old].items())
        sampled = len(content.sample)
        notices.append(f"{table}: '{old}' is now {listed}, by {sampled} of its documents")
    return Whereabouts(became, tuple(notices))
