"""Remove copies: of whole texts, exactly or but for case and white space, and near copies.

Domains are compared in groups. In a group, documents are numbered by priority: by the order of
domains, then by content hash. Copies are linked into clusters, of which the lowest number stays, so
which one that is does not depend on files, their order or workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curate.curation.by_part import PartFacts, gather, stored_columns
from curate.curation.links import link_equal, new_clusters, settle
from curate.curation.signatures import (
    Banding,
    band_facts,
    band_version,
    best_banding,
    normalised_facts,
    shared_decoder,
)
from curate.curation.words import VERSION
from curate.recipe.structs import DuplicatesRecipe, NearRecipe, ValidationRecipe
from curate.runtime import arrow
from curate.runtime.memory import Columns, blocks, columns
from curate.runtime.progress import Observer
from curate.stats.copies import held_out_documents
from curate.tokens.domain import DomainTokens, document_mask
from curate.tokens.tokenizer import Tokenizer

DEFAULT_BANDS, DEFAULT_ROWS, DEFAULT_PERMUTATIONS = 14, 8, 128


class Kind(IntEnum):
    """The rules by which a document is a copy."""

    KEPT = 0
    TEXT = 1
    NORMALISED = 2
    NEAR = 3
    HELD_OUT = 4

    @property
    def words(self) -> str:
        """Return the words for it, to go before the document that stays."""
        return {
            Kind.KEPT: "kept",
            Kind.TEXT: "same text as",
            Kind.NORMALISED: "same normalised text as",
            Kind.NEAR: "near copy of",
            Kind.HELD_OUT: "near copy of held-out",
        }[self]


@dataclass(frozen=True)
class CopiesRequest:
    """Domains in which to find copies."""

    domains: Sequence[DomainTokens]
    staying: Sequence[NDArray[np.bool_]]
    """For each domain, shape (documents,), the documents to compare."""
    settings: DuplicatesRecipe
    validation: ValidationRecipe
    tokenizer: Tokenizer
    cache: Path
    """Directory for signatures, which later runs use again."""
    workers: int
    observer: Observer


@dataclass(frozen=True)
class Clusters:
    """Copies in a group of domains."""

    members: tuple[int, ...]
    """Numbers of the domains, in the order of priority."""
    offsets: NDArray[np.int64]
    """shape (members + 1,), documents before each domain."""
    keepers: NDArray[np.int64]
    """shape (documents,), the document that stays of each one's cluster."""
    kinds: NDArray[np.uint8]
    """shape (documents,), the `Kind` of each; `KEPT` for those without a copy, too."""


@dataclass(frozen=True)
class Copies:
    """All copies, each in one cluster."""

    clusters: tuple[Clusters, ...]
    masks: tuple[NDArray[np.bool_], ...]
    """For each domain, shape (documents,), the copies."""
    counts: NDArray[np.int64]
    """Number of documents by `Kind`, those that have no copy left out."""


def find_copies(request: CopiesRequest) -> Copies:
    """Find the copies in domains, all but one of each cluster.

    Args:
        request: The domains.
    """
    domains = request.domains
    names = [domain.name for domain in domains]
    masks = tuple(document_mask(len(domain)) for domain in domains)
    clusters = [_group_clusters(request, group) for group in groups_of(request.settings, names)]
    counts = np.zeros(len(Kind), np.int64)
    for group in clusters:
        counts += _mark(group, masks)
    if request.settings.near is not None and len(clusters) > 1:
        clusters.append(_near_held_out(request, masks))
        for mask, held in zip(_split(clusters[-1]), clusters[-1].members, strict=True):
            for rows in blocks(len(mask)):
                masks[held][rows] |= mask[rows] == Kind.HELD_OUT
        counts[Kind.HELD_OUT] = _count(clusters[-1].kinds, Kind.HELD_OUT)
    return Copies(tuple(clusters), masks, counts)


def banding_of(near: NearRecipe) -> Banding:
    """Return the bands of a recipe."""
    if near.threshold is not None:
        permutations = near.permutations or DEFAULT_PERMUTATIONS
        return best_banding(near.threshold, permutations, near.ngram)
    return Banding(near.bands or DEFAULT_BANDS, near.rows or DEFAULT_ROWS, near.ngram)


def fingerprint(settings: DuplicatesRecipe, validation: ValidationRecipe) -> list[Any]:
    """Return what decides beside the documents and the settings, as JSON.

    Args:
        settings: The section of the recipe.
        validation: How documents are held out, which decides on near copies in other groups.
    """
    version: list[Any] = [VERSION] if settings.exact == "normalised" else []
    if settings.near is not None:
        version += [band_version(banding_of(settings.near)), validation.documents, validation.key]
    return version


def lossy_notices(settings: DuplicatesRecipe, tokenizer: Tokenizer) -> list[str]:
    """Say what the tokenizer changes in texts, where texts are compared and not their hashes."""
    if settings.exact != "normalised" and settings.near is None:
        return []
    notice = shared_decoder(tokenizer).lossy_notice()
    return [notice] if notice else []


def groups_of(settings: DuplicatesRecipe, names: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the groups of domains to compare, by number, each in the order of priority.

    Args:
        settings: The section of the recipe.
        names: Names of all domains.

    Example:
        >>> groups_of(DuplicatesRecipe(order=["c"], within=[["a", "c"]]), ["a", "b", "c"])
        [(2, 0), (1,)]
    """
    first = {name: place for place, name in enumerate(settings.order)}
    ranked = sorted(range(len(names)), key=lambda n: (first.get(names[n], len(first)), n))
    if settings.within == "all":
        return [tuple(ranked)]
    listed = [] if isinstance(settings.within, str) else settings.within
    group_of = {name: number for number, group in enumerate(listed) for name in group}
    groups: dict[Any, list[int]] = {}
    for number in ranked:
        groups.setdefault(group_of.get(names[number], names[number]), []).append(number)
    return [tuple(group) for group in groups.values()]


def _group_clusters(request: CopiesRequest, group: Sequence[int]) -> Clusters:
    """Find the copies in a group of domains."""
    domains = [request.domains[number] for number in group]
    offsets = np.zeros(len(group) + 1, np.int64)
    np.cumsum([len(domain) for domain in domains], out=offsets[1:])
    parents = new_clusters(int(offsets[-1]))
    kinds: NDArray[np.uint8] = columns(len(parents), {"kind": np.uint8})["kind"]
    live = document_mask(len(parents))  # those that stay so far, to compare further
    for number, start in zip(group, offsets[:-1], strict=True):
        staying = request.staying[number]
        for rows in blocks(len(staying)):
            live[start + rows.start : start + rows.stop] = staying[rows]
    for rows in blocks(len(kinds)):
        kinds[rows] = Kind.KEPT
    for kind, tables in _stages(request, domains, live):
        for table in tables:
            link_equal(parents, table)
        settle(parents)
        for rows in blocks(len(parents)):
            is_new = live[rows] & (parents[rows] != np.arange(rows.start, rows.stop))
            kinds[rows][is_new] = kind
            live[rows][is_new] = False
    return Clusters(tuple(group), offsets, parents, kinds)


Table = Callable[[], Iterable[Columns]]


def _stages(
    request: CopiesRequest, domains: Sequence[DomainTokens], live: NDArray[np.bool_]
) -> Iterator[tuple[Kind, Iterable[Table]]]:
    """Yield the kinds of copies that are asked for, each with the tables of what is compared."""
    settings = request.settings
    if settings.exact != "none":
        yield Kind.TEXT, [lambda: _content_rows(domains, live)]
    if settings.exact == "normalised":
        facts = normalised_facts(request.cache / "normalised", request.tokenizer)
        yield Kind.NORMALISED, _stored_tables(request, domains, live, (facts, ["high", "low"], 1))
    if settings.near is not None:
        banding = banding_of(settings.near)
        facts = band_facts(request.cache / "bands", request.tokenizer, banding)
        tables = _stored_tables(request, domains, live, (facts, ["high"], banding.bands))
        yield Kind.NEAR, tables


def _content_rows(domains: Sequence[DomainTokens], live: NDArray[np.bool_]) -> Iterator[Columns]:
    start = 0
    yield _table_rows({"high": np.empty(0, np.uint64), "low": np.empty(0, np.uint64)}, [], [])
    for domain in domains:
        for rows in blocks(len(domain)):
            numbers = np.arange(start + rows.start, start + rows.stop)
            hashes = {"high": domain.content_high[rows], "low": domain.content_low[rows]}
            yield _table_rows(hashes, numbers, live[numbers])
        start += len(domain)


def _table_rows(hashes: Columns, numbers: Any, kept: Any) -> Columns:
    mask = np.asarray(kept, bool)
    return {
        **{name: column[mask] for name, column in hashes.items()},
        "number": np.asarray(numbers, np.int64)[mask],
    }


def _stored_tables(
    request: CopiesRequest,
    domains: Sequence[DomainTokens],
    live: NDArray[np.bool_],
    kept: tuple[PartFacts, list[str], int],
) -> Iterator[Table]:
    """Yield tables of facts that are kept by part.

    Args:
        request: The domains.
        domains: Those to compare.
        live: shape (documents,), the documents to compare.
        kept: The facts, names for the columns of one table, and the number of tables.
    """
    facts, names, tables = kept
    parts = sorted({part for domain in domains for part in domain.part_paths})
    observer = request.observer
    gather(facts, parts, request.workers, observer.tick, observer.notice)
    made, numbers = stored_columns(facts, domains, [np.uint64] * (len(names) * tables))
    for table in range(tables):
        places = range(table * len(names), (table + 1) * len(names))
        hashes = {name: made[str(place)] for name, place in zip(names, places, strict=True)}

        def batches(hashes: Columns = hashes) -> Iterator[Columns]:
            empty = {name: np.empty(0, np.uint64) for name in hashes}
            yield _table_rows(empty, [], [])
            for rows in blocks(len(numbers)):
                here = {name: column[rows] for name, column in hashes.items()}
                number = numbers[rows]
                yield _table_rows(here, number, live[number] & (here["high"] != 0))

        yield batches


def _mark(group: Clusters, masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.int64]:
    """Write a group's copies into the masks of its domains, and count them by kind."""
    counts = np.zeros(len(Kind), np.int64)
    for kinds, number in zip(_split(group), group.members, strict=True):
        for rows in blocks(len(kinds)):
            masks[number][rows] = kinds[rows] != Kind.KEPT
            counts += np.bincount(kinds[rows], minlength=len(Kind))
    counts[Kind.KEPT] = _count(_has_copies(group), True)
    return counts


def _split(group: Clusters) -> list[NDArray[np.uint8]]:
    """Return the kinds of a group's documents by domain."""
    return np.split(group.kinds, group.offsets[1:-1])


def _count(values: NDArray[Any], value: int) -> int:
    return sum(int(np.count_nonzero(values[rows] == value)) for rows in blocks(len(values)))


def _has_copies(group: Clusters) -> NDArray[np.bool_]:
    """Return which documents stay and have a copy that does not."""
    marks = document_mask(len(group.kinds))
    for rows in blocks(len(marks)):
        marks[rows] = False
    for rows in blocks(len(marks)):
        marks[group.keepers[rows][group.kinds[rows] != Kind.KEPT]] = True
    return marks


def _near_held_out(request: CopiesRequest, copies: Sequence[NDArray[np.bool_]]) -> Clusters:
    """Find the documents that stay for training and are near copies of ones held out elsewhere.

    Args:
        request: The domains.
        copies: For each domain, the copies within its group.
    """
    staying = []
    for here, mask in zip(request.staying, copies, strict=True):
        left = document_mask(len(mask))
        for rows in blocks(len(mask)):
            left[rows] = here[rows] & ~mask[rows]
        staying.append(left)
    validation = request.validation
    held_out = held_out_documents(request.domains, validation.documents, validation.key, staying)
    group = _group_clusters(replace(request, staying=staying), range(len(request.domains)))
    nobody = len(group.keepers)
    keepers: NDArray[np.int64] = columns(nobody, {"keeper": np.int64})["keeper"]
    for rows in blocks(nobody):
        keepers[rows] = nobody
    for mask, left, start in zip(held_out, staying, group.offsets[:-1], strict=True):
        for rows in blocks(len(mask)):
            numbers = start + rows.start + np.flatnonzero(mask[rows] & left[rows])
            np.minimum.at(keepers, group.keepers[numbers], numbers)
    for mask, left, start in zip(held_out, staying, group.offsets[:-1], strict=True):
        for rows in blocks(len(mask)):
            place = slice(start + rows.start, start + rows.stop)
            keeper = keepers[group.keepers[place]]
            removed = left[rows] & ~mask[rows] & (keeper < nobody)
            group.kinds[place] = np.where(removed, Kind.HELD_OUT, Kind.KEPT)
            group.keepers[place] = np.where(removed, keeper, np.arange(place.start, place.stop))
    return group


def write_details(copies: Copies, domains: Sequence[DomainTokens], path: Path) -> None:
    """Write a Parquet file with `domain` and `row`, numbers, and `detail` of every copy.

    Args:
        copies: The copies.
        domains: All domains.
        path: The file.
    """
    schema = pa.schema([("domain", pa.int32()), ("row", pa.int64()), ("detail", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for member in _members(copies, domains):
            if member.kind != Kind.KEPT:
                columns_of: dict[str, arrow.Values] = {
                    "domain": np.full(len(member.rows), member.domain),
                    "row": member.rows,
                    "detail": [
                        f"{member.kind.words} {content} in '{member.keeper_domain}'"
                        for content in member.keepers
                    ],
                }
                writer.write_table(arrow.table(columns_of, schema))


def write_clusters(copies: Copies, domains: Sequence[DomainTokens], path: Path) -> None:
    """Write a Parquet file with the members of all clusters, those that stay included.

    Its columns: `cluster`, the content hash of the document that stays; `domain`, its name;
    `content`, a content hash; and `kind`: `kept`, `text`, `normalised`, `near` or `held_out`.

    Args:
        copies: The copies.
        domains: All domains.
        path: The file.
    """
    schema = pa.schema([(name, pa.string()) for name in ("cluster", "domain", "content", "kind")])
    with pq.ParquetWriter(path, schema) as writer:
        for member in _members(copies, domains):
            domain = domains[member.domain]
            content = [domain.content_hash(row) for row in member.rows.tolist()]
            columns_of = {
                "cluster": member.keepers,
                "domain": [domain.name] * len(content),
                "content": content,
                "kind": [member.kind.name.lower()] * len(content),
            }
            writer.write_table(arrow.table(columns_of, schema))


@dataclass(frozen=True)
class _Members:
    """Members of clusters, of one domain and kind, whose clusters' keepers are of one domain."""

    domain: int
    kind: Kind
    rows: NDArray[np.int64]
    keeper_domain: str
    keepers: list[str]
    """Content hash of the document that stays, for each row."""


def _members(copies: Copies, domains: Sequence[DomainTokens]) -> Iterator[_Members]:
    """Yield all members of clusters, in blocks."""
    for group in copies.clusters:
        has_copies = _has_copies(group)
        for place, number in enumerate(group.members):
            start = int(group.offsets[place])
            for block in blocks(len(domains[number])):
                here = slice(start + block.start, start + block.stop)
                in_cluster = np.flatnonzero(has_copies[here] | (group.kinds[here] != Kind.KEPT))
                keepers = group.keepers[here][in_cluster]
                kinds = group.kinds[here][in_cluster]
                homes = np.searchsorted(group.offsets, keepers, side="right") - 1
                for kind, home in sorted({*zip(kinds.tolist(), homes.tolist(), strict=True)}):
                    taken = (kinds == kind) & (homes == home)
                    keeper_domain = domains[group.members[home]]
                    keeper_rows = (keepers[taken] - group.offsets[home]).tolist()
                    yield _Members(
                        domain=number,
                        kind=Kind(kind),
                        rows=in_cluster[taken] + block.start,
                        keeper_domain=keeper_domain.name,
                        keepers=[keeper_domain.content_hash(row) for row in keeper_rows],
                    )
