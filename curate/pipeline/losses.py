"""Say what was lost between the files and the dataset, and stop where it is more than allowed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from curate.errors import InputError
from curate.runtime.registry import counted, list_first
from curate.sources.first_records import head_faults
from curate.sources.plans import FilePlan
from curate.stats.copies import same_files
from curate.stats.domain_stats import DomainStats
from curate.stats.losses import DomainLosses, FileLoss
from curate.tokens.domain import DomainTokens

LIKELY_KEYS = (
    "text", "content", "contents", "raw_content", "body", "document", "article", "code", "story",
    "passage", "sentence", "abstract", "markdown", "value",
)  # fmt: skip
"""Names under which data sets keep text, likeliest first."""

FEW_TOKENS = 1000
"""Fewer held-out tokens than these in a domain make a loss mostly noise."""


def check_losses(
    domains: Sequence[DomainTokens], losses: Sequence[DomainLosses], most_share: float
) -> None:
    """Stop if a domain lost more than the recipe allows.

    Args:
        domains: The domains.
        losses: The losses of each.
        most_share: `limits.lost_share`.

    Raises:
        InputError: A domain did; names the files that lost most, the first reason and a remedy.
    """
    over = [
        (domain, loss)
        for domain, loss in zip(domains, losses, strict=True)
        if loss.largest_share > most_share
    ]
    if not over:
        return
    needed = max(loss.largest_share for _, loss in over)
    domain, worst = max(over, key=lambda pair: (pair[1].lost_share, pair[1].unknown_share))
    names = [f"'{other.name}'" for other, _ in over if other is not domain]
    others = f" (so do {list_first(names)})" if names else ""
    if worst.lost_share <= most_share:
        raise InputError(
            f"domain '{domain.name}' may lack up to {worst.unknown_share:.1%} of its bytes, more "
            f"than limits.lost_share ({most_share:.4g}){others}: "
            f"{counted(len(worst.cut), 'file')} cut short, and nothing says what followed: "
            f"{list_first([loss.damage for loss in worst.cut])}; fetch or write such files again, "
            f"leave them out of paths, or allow the loss with {_allowing(needed)}"
        )
    raise InputError(
        f"domain '{domain.name}' loses {worst.bytes_share:.1%} of its bytes and "
        f"{worst.records_share:.1%} of its records, more than limits.lost_share "
        f"({most_share:.4g}){others}: {describe_files(domain, worst.files)}; set text to the key "
        "or column that holds the text, mend these files or leave them out of paths, or allow the "
        f"loss with {_allowing(needed)}"
    )


def _allowing(share: float) -> str:
    """Return the recipe's key that allows this loss."""
    return f"limits: {{lost_share: {limit_allowing(share):.4g}}}"


def limit_allowing(share: float) -> float:
    """Round a lost share up to whole percents, for `limits.lost_share`."""
    return min(1, math.ceil(100 * share) / 100)


def check_first_records(
    name: str, plans: Sequence[FilePlan], begins_well: Callable[[str], bool], most_share: float
) -> None:
    """Stop before anything is tokenised if files lack the key or column of the text.

    Args:
        name: The domain's name.
        plans: How its files are read.
        begins_well: Says by its key that a file needs no look, see `head_faults`.
        most_share: `limits.lost_share`; files that are a smaller share of the bytes may lack it.

    Raises:
        InputError: Too much lacks it; names the first file, the keys that it has and a remedy.
    """
    faults = list(head_faults(plans, begins_well))
    lost_bytes = sum(fault.size_bytes for fault in faults)
    size_bytes = sum(file.size_bytes for plan in plans for file in plan.files)
    if not faults or lost_bytes <= most_share * size_bytes:
        return
    others = [fault.path for fault in faults[1:]]
    more = f" (and others: {list_first(others)})" if others else ""
    share = lost_bytes / size_bytes
    raise InputError(
        f"domains[{name}]: {faults[0].path}: {faults[0].reason}{more}; set text to the key or "
        f"column that holds the text{_key_hint(faults[0].reason)}, put files with another key in a "
        f"domain of their own, or allow the loss of {share:.1%} of the domain's bytes with "
        f"{_allowing(share)}"
    )


def _key_hint(reason: str) -> str:
    """Suggest the field of a reason that is likeliest to hold the text."""
    listed = reason.rpartition(": ")[2].removesuffix(")").split(", ")
    names = [field.split(" ")[0] for field in listed]
    likely = next((name for name in LIKELY_KEYS if name in names), None)
    return f", as in text: {likely}" if likely else ""


def loss_notices(domains: Sequence[DomainTokens], losses: Sequence[DomainLosses]) -> Iterator[str]:
    """Name the files that gave no document, and those that end too early."""
    for domain, loss in zip(domains, losses, strict=True):
        barren = loss.barren
        if barren:
            yield (
                f"domain '{domain.name}': {len(barren):,} of {counted(len(domain.files), 'file')} "
                f"gave no document: {describe_files(domain, barren)}"
            )
        damaged = [file.damage for file in loss.damaged if file.documents]
        if damaged:
            missing = ", so that more may be missing than is counted" if loss.cut else ""
            yield (
                f"domain '{domain.name}': {len(damaged):,} of {counted(len(domain.files), 'file')} "
                f"damaged or cut short{missing}: {list_first(damaged)}"
            )


def describe_files(domain: DomainTokens, files: Sequence[FileLoss]) -> str:
    """List the first files with a loss, and the reason of the first."""
    parts = []
    for loss in files:
        records, size_bytes = loss.documents + loss.lost_records, loss.file.size_bytes
        if loss.documents:
            amount = (
                f"{loss.lost_records:,} of {counted(records, 'record')}, {loss.lost_bytes:,} bytes"
            )
        else:
            amount = f"{counted(records, 'record')}, {counted(size_bytes, 'byte')}"
        parts.append(f"{loss.file.path} ({amount})")
    listed = list_first(parts)
    first = next(iter(domain.bad_record_rows([loss.file for loss in files[:1]])), None)
    if first is None:
        return listed
    path, line, reason, _ = first
    return f"{listed}; first: {path}{f':{line}' if line else ''}: {reason}"


def held_out_notices(stats: Sequence[DomainStats], share: float) -> Iterator[str]:
    """Say which domains have no validation set, or a very small one.

    Args:
        stats: Counts of every domain.
        share: `validation.documents`.
    """
    if not share:
        return
    lacking = [f"'{row.name}'" for row in stats if not row.documents_validation]
    whole = [f"'{row.name}'" for row in stats if row.documents_validation == row.documents]
    few = [
        f"'{row.name}' {row.tokens_validation:,}"
        for row in stats
        if 0 < row.tokens_validation < FEW_TOKENS
    ]
    if lacking:
        yield (
            f"no validation set for {list_first(lacking)}: no document could be held out; split "
            "the text into more documents to have one"
        )
    if whole:
        yield (
            f"every document of {list_first(whole)} is held out, for validation.documents is "
            f"{share:g} and copies of documents held out of other domains are held out, too; "
            "nothing is left to train on"
        )
    if few:
        yield (
            f"few held-out tokens, so that losses on them are noise: {list_first(few)}; raise "
            "validation.documents"
        )


def same_file_notices(domain: DomainTokens, stats: DomainStats) -> Iterator[str]:
    """Name files that hold the same documents as another, such as a file and its compressed copy.

    Args:
        domain: The domain.
        stats: Its counts.
    """
    pairs = list(same_files(domain)) if stats.repeats.documents else []
    if pairs:
        copy, original = (file.path for file in pairs[0])
        yield (
            f"domain '{domain.name}': {counted(len(pairs), 'file')} with the same documents as "
            f"another of the domain, counted again ({copy} holds those of {original})"
        )


def shared_notices(stats: Sequence[DomainStats]) -> Iterator[str]:
    """Say which domains hold texts several times, or texts that others hold too."""
    counts = {
        "documents whose text another of their domain has, and counts again": [
            (row, row.repeats.documents) for row in stats
        ],
        "documents whose text is in another domain too, and counts in both": [
            (row, row.copies.documents) for row in stats
        ],
    }
    for kind, rows in counts.items():
        named = [
            f"'{row.name}' {documents:,} ({documents / row.documents:.2%})"
            for row, documents in rows
            if documents
        ]
        if named:
            yield f"{kind}: {', '.join(named)}"
