"""Count what a domain's files hold, by what becomes of it: lost, held out, for training.

Bytes of losses are bytes on disk, so that whole files and single records can be compared: a record
has its part of the file's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from curate.sources.documents import is_cut, is_damage
from curate.tokens.domain import DomainTokens
from curate.tokens.entries import DomainFile, DomainFiles

NAMED_FILES = 8
"""Most damaged files of a domain that `stats.json` names."""


class FileLoss(NamedTuple):
    """A file that lost records, or gave no document."""

    file: DomainFile
    documents: int
    lost_records: int
    """Records that gave no document, as far as known."""
    lost_bytes: int
    """Their bytes on disk, by estimate."""
    damage: str = ""
    """Place and reason of the first damage to the file; empty for bad records alone."""
    is_cut: bool = False
    """Whether the file ends too early, so that an unknown amount is missing."""


class Shrinkage(NamedTuple):
    """Amounts that the last build here read more of a domain; 0 where it grew."""

    files: int = 0
    documents: int = 0
    bytes: int = 0
    """UTF-8 bytes of text."""
    share: float = 0.0
    """The larger share of the documents and the bytes of that build, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class DomainLosses:
    """Records and bytes of a domain's files that gave no document."""

    name: str
    documents: int
    size_bytes: int
    """Bytes of its files on disk."""
    file_count: int
    files: tuple[FileLoss, ...]
    """Files with a loss, the largest loss first."""
    shrunk: Shrinkage = Shrinkage()

    @property
    def lost_records(self) -> int:
        """Count records that gave no document; an empty file loses nothing."""
        return sum(loss.lost_records for loss in self.files if loss.file.size_bytes)

    @property
    def lost_bytes(self) -> int:
        """Count their bytes on disk, by estimate."""
        return sum(loss.lost_bytes for loss in self.files)

    @property
    def records_share(self) -> float:
        """Share of the records that is lost, from 0 to 1."""
        read = self.documents + self.lost_records
        return self.lost_records / read if read else 0.0

    @property
    def bytes_share(self) -> float:
        """Share of the bytes on disk that is lost, from 0 to 1."""
        return self.lost_bytes / self.size_bytes if self.size_bytes else 0.0

    @property
    def damaged(self) -> tuple[FileLoss, ...]:
        """Files that are damaged or cut short."""
        return tuple(loss for loss in self.files if loss.damage)

    @property
    def cut(self) -> tuple[FileLoss, ...]:
        """Files that lack an unknown amount."""
        return tuple(loss for loss in self.files if loss.is_cut)

    @property
    def unknown_share(self) -> float:
        """Share of the bytes on disk that may be missing, from 0 to 1.

        A file that is cut short counts as a whole, since nothing in it says what followed, and as
        the mean of the others where it is smaller.
        """
        if not self.cut:
            return 0.0
        whole_bytes = self.size_bytes - sum(loss.file.size_bytes for loss in self.cut)
        mean_bytes = whole_bytes / max(1, self.file_count - len(self.cut))
        cut_bytes = sum(max(loss.file.size_bytes, mean_bytes) for loss in self.cut)
        return float(cut_bytes / (whole_bytes + cut_bytes))

    @property
    def lost_share(self) -> float:
        """The larger of the shares of records and bytes that are lost, from 0 to 1."""
        return max(self.records_share, self.bytes_share)

    @property
    def largest_share(self) -> float:
        """The largest share that is lost or may be, from 0 to 1."""
        return max(self.lost_share, self.unknown_share)

    @property
    def barren(self) -> tuple[FileLoss, ...]:
        """Files of any size that gave no document."""
        return tuple(loss for loss in self.files if not loss.documents and loss.file.size_bytes)

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `stats.json`."""
        return {
            "records": self.lost_records,
            "bytes": self.lost_bytes,
            "records_share": self.records_share,
            "bytes_share": self.bytes_share,
            "files_without_document": len(self.barren),
            "damaged_files": len(self.damaged),
            "unknown_share": self.unknown_share,
            "damaged": [loss.damage for loss in self.damaged[:NAMED_FILES]],
            **{f"shrunk_{unit}": value for unit, value in self.shrunk._asdict().items()},
        }


def domain_losses(domain: DomainTokens) -> DomainLosses:
    """Add up what a domain's files lost."""
    damage = _damage(domain) if domain.bad_records else {}
    losses = [
        loss._replace(damage=reason, is_cut=is_cut)
        for loss in _losses(domain.files)
        for reason, is_cut in (damage.get(loss.file.path, ("", False)),)
    ]
    losses.sort(key=lambda loss: (-loss.lost_bytes, loss.file.path))
    size_bytes = int(domain.files.sizes.sum(dtype=np.int64))
    return DomainLosses(
        domain.name, len(domain), size_bytes, len(domain.files), files=tuple(losses)
    )


def part_losses(part: DomainTokens, whole: DomainLosses) -> DomainLosses:
    """Return the losses of a sub-domain: all of its domain's for the first, none for the others.

    Args:
        part: The sub-domain.
        whole: The losses of the domain that was split.
    """
    if part.has_bad_records:
        return replace(whole, name=part.name)
    return DomainLosses(part.name, len(part), 0, 0, files=())


def _damage(domain: DomainTokens) -> dict[str, tuple[str, bool]]:
    """Return place and reason of the first damage to each file, and whether the file is cut."""
    damage: dict[str, tuple[str, bool]] = {}
    for path, line, reason, _ in domain.bad_record_rows():
        is_end = is_cut(reason) is not None
        if is_end or is_damage(reason):
            first, was_cut = damage.get(path, (f"{path}{f':{line}' if line else ''}: {reason}", 0))
            damage[path] = first, bool(was_cut or is_end)
    return damage


def _losses(files: DomainFiles) -> Iterator[FileLoss]:
    has_bad_records = files.summed(files.column("bad_records")) > 0
    documents_of = files.summed(files.documents)
    for number in np.flatnonzero((documents_of == 0) | has_bad_records).tolist():
        file, documents = files[number], int(documents_of[number])
        entries = [stored.entry for stored in file.entries]
        lost_records = sum(entry.lost_records for entry in entries)
        lost_bytes = sum(entry.lost_bytes for entry in entries)
        share = 1.0 if lost_records else 0.0
        if documents:
            read_bytes = sum(entry.raw_bytes for entry in entries) or file.size_bytes
            share = min(1.0, lost_bytes / read_bytes) if read_bytes else 0.0
        yield FileLoss(file, documents, lost_records, round(share * file.size_bytes))
