"""Compare a recipe's sources with those of the last build in its output directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import msgspec

from curate.curation.reasons import REMOVED_FIELDS
from curate.dataset.manifest import file_damage, find_manifest
from curate.errors import InputError
from curate.pipeline.losses import limit_allowing
from curate.recipe import LoadedRecipe, source_of
from curate.runtime.files import read_json
from curate.runtime.registry import counted, list_first
from curate.sources.hub import is_commit
from curate.stats.losses import Shrinkage
from curate.tokens.domain import DomainTokens

STATS = "stats.json"


class _Lost(msgspec.Struct, frozen=True):
    shrunk_files: int = 0
    shrunk_documents: int = 0
    shrunk_bytes: int = 0
    shrunk_share: float = 0.0

    @property
    def shrinkage(self) -> Shrinkage:
        return Shrinkage(
            self.shrunk_files, self.shrunk_documents, self.shrunk_bytes, self.shrunk_share
        )


class _Amounts(msgspec.Struct, frozen=True):
    documents: int
    bytes: int


class _Row(msgspec.Struct, frozen=True):
    files: int
    documents: int
    bytes: int
    amounts: dict[str, _Amounts] = {}
    lost: _Lost = _Lost()

    @property
    def read(self) -> tuple[int, int]:
        """Return documents and bytes of text before curation."""
        removed = [self.amounts[reason] for reason in REMOVED_FIELDS if reason in self.amounts]
        return (
            self.documents + sum(amounts.documents for amounts in removed),
            self.bytes + sum(amounts.bytes for amounts in removed),
        )


class _Inputs(msgspec.Struct, frozen=True):
    documents: str


class _Stats(msgspec.Struct, frozen=True):
    """`stats.json`, as far as it is compared with the sources."""

    recipe_hash: str
    inputs: _Inputs
    domains: dict[str, _Row]

    def read(self) -> dict[str, tuple[int, int, int]]:
        """Return files, documents and bytes read by the recipe's domains, which may be split."""
        totals: dict[str, tuple[int, int, int]] = {}
        for name, row in self.domains.items():
            source = source_of(name)
            _, documents, size_bytes = totals.get(source, (0, 0, 0))
            more_documents, more_bytes = row.read
            totals[source] = row.files, documents + more_documents, size_bytes + more_bytes
        return totals


@dataclass(frozen=True)
class LastBuild:
    """Amounts that the last build in a directory read, or the last `stats`, `mix` or `plan`."""

    directory: Path
    stats: _Stats | None = None
    """None where there was none, or where its `stats.json` is damaged."""
    paths: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Its files by domain; empty without a dataset."""

    @cached_property
    def read(self) -> Mapping[str, tuple[int, int, int]]:
        """Files, documents and bytes read by the recipe's domains; empty without `stats`."""
        return {} if self.stats is None else self.stats.read()

    def shrinkage(self, domain: DomainTokens) -> Shrinkage:
        """Return what a domain, before curation, lacks of what this build read."""
        read = self.read.get(domain.name)
        if read is None:
            return Shrinkage()
        files_before, documents, size_bytes = read
        less_documents = max(0, documents - len(domain))
        less_bytes = max(0, size_bytes - domain.total_bytes)
        share = max(less_documents / max(1, documents), less_bytes / max(1, size_bytes))
        files = max(0, files_before - len(domain.files))
        return Shrinkage(files, less_documents, less_bytes, share)

    def repeated(self, content_hash: str, domains: Sequence[DomainTokens]) -> list[Shrinkage]:
        """Return what each domain lacked in this build, if it was one of the same documents.

        So a run that is repeated or resumed gives the same files.

        Args:
            content_hash: Hash of all documents of the recipe.
            domains: The domains.

        Returns:
            shape (domains,), or empty for a build of other documents.
        """
        if self.stats is None or self.stats.inputs.documents != content_hash:
            return []
        rows = self.stats.domains
        return [rows[domain.name].lost.shrinkage for domain in domains]

    def files_gone(self, domain: DomainTokens) -> list[str]:
        """List the files that it read of a domain and that the domain no longer has."""
        return sorted(self.paths.get(domain.name, frozenset()).difference(domain.files.paths))


def last_build(directory: Path) -> LastBuild:
    """Read what the last build in an output directory read.

    Args:
        directory: The output directory, which need not exist.
    """
    manifest = find_manifest(directory)
    records = () if manifest is None else manifest.files
    if any(file_damage(directory, file) for file in records if file.path == STATS):
        return LastBuild(directory)
    try:
        stats = msgspec.convert(read_json(directory / STATS), _Stats)
    except (InputError, msgspec.ValidationError):
        return LastBuild(directory)  # none, or damaged: it is about to be written
    paths: dict[str, set[str]] = {}
    for record in manifest.inputs if manifest is not None else ():
        paths.setdefault(record.domain, set()).add(record.path)
    return LastBuild(directory, stats, {name: frozenset(files) for name, files in paths.items()})


def check_shrinkage(
    loaded: LoadedRecipe,
    domains: Sequence[DomainTokens],
    shrunk: Sequence[Shrinkage],
    last: LastBuild,
) -> None:
    """Stop if the sources of the same recipe lack more than `limits.lost_share` allows.

    Another recipe may read less on purpose; replacing its dataset takes `--overwrite` anyway. So
    may one that names another commit of the Hub, as a commit itself never shrinks.

    Args:
        loaded: The recipe.
        domains: Its domains.
        shrunk: What each of them lacks.
        last: The build that they are compared with.

    Raises:
        InputError: A domain lacks more; names the files that are gone, and what to type.
    """
    most_share = loaded.recipe.limits.lost_share
    if last.stats is None or last.stats.recipe_hash != loaded.hash:
        return
    pinned = {
        domain.name
        for domain in loaded.recipe.domains
        if domain.hf is not None and domain.hf.revision and is_commit(domain.hf.revision)
    }
    over = [
        (domain, loss)
        for domain, loss in zip(domains, shrunk, strict=True)
        if loss.share > most_share and domain.name not in pinned
    ]
    if not over:
        return
    domain, worst = max(over, key=lambda pair: pair[1].share)
    names = [f"'{other.name}'" for other, _ in over if other is not domain]
    others = f" (so have {list_first(names)})" if names else ""
    raise InputError(
        f"domain '{domain.name}' has shrunk by {worst.share:.1%} since the last run in "
        f"{last.directory}, more than limits.lost_share ({most_share:.4g}){others}: "
        f"{_amounts(domain, worst, last)}; restore them, accept this with --set "
        f"limits.lost_share={limit_allowing(worst.share):.4g}, or leave that dataset as it is with "
        "--out DIR"
    )


def shrinkage_notices(
    domains: Sequence[DomainTokens], shrunk: Sequence[Shrinkage], last: LastBuild
) -> Iterator[str]:
    """Say which domains hold less than at the last run in the directory, and which are gone.

    Args:
        domains: The domains now.
        shrunk: What each of them lacks.
        last: The build that they are compared with.
    """
    remaining = {domain.name for domain in domains}
    for name, (_, documents_before, _) in last.read.items():
        if name not in remaining:
            documents = counted(documents_before, "document")
            yield f"domain '{name}' is gone: it had {documents} at the last run here"
    for domain, loss in zip(domains, shrunk, strict=True):
        if loss.documents or loss.bytes:
            yield (
                f"domain '{domain.name}' has shrunk since the last run here: "
                f"{_amounts(domain, loss, last)}"
            )


def _amounts(domain: DomainTokens, loss: Shrinkage, last: LastBuild) -> str:
    gone = last.files_gone(domain)
    files = f"; {counted(len(gone), 'file')} gone: {list_first(gone)}" if gone else ""
    return (
        f"{counted(loss.documents, 'document')} and {loss.bytes:,} bytes of text fewer; now "
        f"{len(domain):,} and {domain.total_bytes:,}{files}"
    )
