"""Find listed documents in a dataset, and measure what a rebuild changes of its shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xxhash

from curate.curation.excluded import CONTENT_HASH, ListedNames, match_names
from curate.dataset.manifest import Manifest
from curate.dataset.places import DocumentKey, Place, Provenance
from curate.plan import PAD
from curate.runtime.memory import blocks
from curate.stats.copies import is_among
from curate.tokens.domain import DomainTokens

PAGES = 1 << 20
"""Most pages of shards whose hashes are kept to compare them with later."""

SMALLEST_PAGE_BYTES = 4096


class HeldDocument(msgspec.Struct, frozen=True):
    """A listed document that a dataset was made from."""

    name: str
    """The name that the list gives it."""
    domain: str
    document: int
    """Number of the document in the domain."""
    id: str
    """Identifier of the record; empty without the token store."""
    content: str
    """Content hash; only its first 16 digits without the token store."""
    places: tuple[Place, ...]
    """Every place in the shards, in order; none for a document that no shard holds."""


@dataclass(frozen=True)
class Held:
    """The listed documents that a dataset holds."""

    documents: list[HeldDocument]
    unmatched: list[str]
    """Names that no document has."""
    copies: list[tuple[str, str]]
    """Identifier, or else content hash, and content hash of each document that is not listed and
    has the text of one that is.
    """


def find_listed(
    directory: Path,
    manifest: Manifest,
    domains: Sequence[DomainTokens] | None,
    listed: ListedNames,
) -> Held:
    """Find the listed documents of a dataset, and where its shards hold them.

    Args:
        directory: Directory of the dataset.
        manifest: Its manifest.
        domains: Its domains in the token store; None where that is missing: only content hashes are
            then found.
        listed: The list.

    Raises:
        ShardError: The provenance is absent or damaged.
    """
    provenance = Provenance(directory, manifest)
    named: dict[DocumentKey, str] = {}
    copies: list[tuple[str, str]] = []
    if domains is None:
        for name in listed.names:
            if CONTENT_HASH.fullmatch(name):
                named.update(dict.fromkeys(provenance.with_content(name[:16].lower()), name))
    else:
        for number, domain in enumerate(domains):
            documents, names = match_names(domain, listed)
            for document, name_number in zip(documents.tolist(), names.tolist(), strict=True):
                named.setdefault(DocumentKey(number, document), listed.names[name_number])
        copies = _copies(domains, named)
    standings = provenance.places(named)
    held = []
    for key, name in named.items():
        domain_name = manifest.domains[key.domain]
        identifier, content = "", standings[key].content
        if domains is not None:
            identifier = domains[key.domain].identifiers(np.array([key.number]))[0]
            content = domains[key.domain].content_hash(key.number)
        held.append(
            HeldDocument(
                name=name,
                domain=domain_name,
                document=key.number,
                id=identifier,
                content=content,
                places=standings[key].places,
            )
        )
    matched = set(named.values())
    return Held(held, [name for name in listed.names if name not in matched], copies)


def _copies(
    domains: Sequence[DomainTokens], named: dict[DocumentKey, str]
) -> list[tuple[str, str]]:
    """Name the documents that hold the text of a listed document and are not listed."""
    contents = {domains[key.domain].content_hash(key.number) for key in named}
    high = np.array(sorted({int(content[:16], 16) for content in contents}), np.uint64)
    copies = []
    for number, domain in enumerate(domains):
        for rows in blocks(len(domain)):
            same = rows.start + np.flatnonzero(is_among(domain.content_high[rows], high))
            for key in (DocumentKey(number, document) for document in same.tolist()):
                content = domain.content_hash(key.number)
                if key not in named and content in contents:
                    name = domain.identifiers(np.array([key.number]))[0]
                    copies.append((name or content, content))
    return copies


@dataclass(frozen=True)
class ShardState:
    """The content of a dataset's training shards, in little memory."""

    page_bytes: int
    pages: dict[str, list[int]]
    """Hashes of the pages of each file, by path."""
    sizes_bytes: dict[str, int]
    content_tokens: Counter[int]
    """Tokens by the first half of the document's content hash."""


class Changed(msgspec.Struct, frozen=True):
    """The difference of a dataset's training shards before and after a rebuild."""

    shards: int
    """Files of shards afterwards."""
    changed_shards: int
    """Those that differ, or are new."""
    bytes: int
    """Bytes of all of them."""
    changed_bytes: int
    """Bytes at places where something else, or nothing, was, rounded up to whole pages."""
    tokens: int
    new_tokens: int
    """Tokens of documents that appear, or appear more often, than before."""

    @property
    def changed_share(self) -> float:
        """The share of shard bytes that changed."""
        return self.changed_bytes / max(1, self.bytes)


def read_state(directory: Path, manifest: Manifest, page_bytes: int | None = None) -> ShardState:
    """Hash the training shards page by page, and count the tokens of each document.

    Args:
        directory: Directory of the dataset.
        manifest: Its manifest.
        page_bytes: Bytes of a page; None for as few as keep the number of pages small.
    """
    records = [shard for shard in manifest.shards if shard.split == "train"]
    sizes = {file.path: file.bytes for record in records for file in record.files}
    if page_bytes is None:
        page_bytes = max(SMALLEST_PAGE_BYTES, -(-sum(sizes.values()) // PAGES))
    pages = {}
    for path in sizes:
        with (directory / path).open("rb") as file:
            pages[path] = [
                xxhash.xxh3_64_intdigest(page) for page in iter(lambda: file.read(page_bytes), b"")
            ]
    tokens: Counter[int] = Counter()
    for pieces in _train_pieces(directory, manifest):
        contents, place = np.unique(pieces["content"], return_inverse=True)
        sums = np.bincount(place, pieces["tokens"], len(contents)).astype(np.int64)
        tokens.update(dict(zip(contents.tolist(), sums.tolist(), strict=True)))
    return ShardState(page_bytes, pages, sizes, tokens)


def compare(before: ShardState, after: ShardState) -> Changed:
    """Measure what changed between two states that were read with pages of one size."""
    changed_bytes = changed_shards = 0
    for path, pages in after.pages.items():
        earlier = before.pages.get(path, [])
        size_bytes = after.sizes_bytes[path]
        differing = [
            number
            for number, page in enumerate(pages)
            if number >= len(earlier) or earlier[number] != page
        ]
        is_longer = before.sizes_bytes.get(path, 0) > size_bytes
        changed_shards += bool(differing) or is_longer
        for number in differing:
            start = number * after.page_bytes
            changed_bytes += min(after.page_bytes, size_bytes - start)
    new_tokens = after.content_tokens - before.content_tokens
    return Changed(
        shards=len(after.pages),
        changed_shards=changed_shards,
        bytes=sum(after.sizes_bytes.values()),
        changed_bytes=changed_bytes,
        tokens=after.content_tokens.total(),
        new_tokens=new_tokens.total(),
    )


def contents_left(directory: Path, manifest: Manifest, contents: set[int]) -> int:
    """Count the runs of tokens in any shard whose document has one of these content hashes.

    Args:
        directory: Directory of the dataset.
        manifest: Its manifest.
        contents: First halves of content hashes.
    """
    sought = np.array(sorted(contents), np.uint64)
    provenance = Provenance(directory, manifest)
    count = 0
    for number in range(len(manifest.shards)):
        rows = provenance.shard(number).rows
        count += int((is_among(rows["content"], sought) & (rows["domain"] != PAD)).sum())
    return count


def _train_pieces(directory: Path, manifest: Manifest) -> Any:
    """Yield the provenance of the training shards, in blocks, without filling."""
    provenance = Provenance(directory, manifest)
    for number in provenance.shard_numbers("train"):
        rows = provenance.shard(number).rows
        for part in blocks(len(rows)):
            pieces = np.array(rows[part])
            yield pieces[pieces["domain"] != PAD]
