"""The `verify` command: read a dataset back, whatever its state, and give a verdict.

Damage is a problem in the certificate, never an error: only what is no dataset at all is refused.
Nothing but the certificate is written, and where that cannot be, as on a read-only disk, the
verdict is the same.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import UNSET

from curate.curation.apply import buckets_path, removals_path
from curate.curation.excluded import list_path, read_names
from curate.curation.step import CACHE_NAME
from curate.dataset.certificate import certificate_damage, write_certificate
from curate.dataset.manifest import (
    OLD_SCHEMA,
    RECIPE,
    DatasetLayout,
    Manifest,
    SelectionRecord,
    find_manifest,
    load_manifest,
)
from curate.dataset.ownership import has_traces
from curate.dataset.removal import find_listed
from curate.dataset.verify import verify
from curate.errors import CurateError, InputError, ShardError
from curate.pipeline.results import CertificateResult
from curate.recipe import load_recipe, source_of
from curate.runtime.external_sort import metered_sorts
from curate.runtime.machine import fault_or
from curate.runtime.memory import DEFAULT_BYTES, bounded
from curate.runtime.progress import Observer
from curate.runtime.registry import counted
from curate.tokens.domain import DomainTokens, Selection
from curate.tokens.entries import DomainFiles
from curate.tokens.store import TokenStore
from curate.tokens.tokenizer import UINT16_LIMIT

CERTIFICATE = "certificate.json"


def read_back(
    layout: DatasetLayout, report: Path | None, workers: int, observer: Observer
) -> CertificateResult:
    """Check a dataset and write its certificate.

    Args:
        layout: Paths of the dataset.
        report: Where to write the certificate; None: to the dataset, if that is possible.
        workers: Number of processes.
        observer: Receives notices.

    Raises:
        ShardError: The directory holds nothing of curate.
        InputError: `report` cannot be written.
    """
    directory = layout.directory
    _check_directory(directory)
    with bounded(DEFAULT_BYTES, _scratch(directory), observer.tick):
        domains = _checked_domains(directory, workers, observer)
        observer.begin("verify", [directory.name])
        certificate = verify(layout, domains, workers, observer)
        _check_list(layout, domains, certificate, observer)
    add_damage(directory, certificate)
    observer.end(verdict(certificate))
    bad_records = None if domains is None else {d.name: d.bad_records for d in domains}
    return written(directory, report, certificate, bad_records, observer)


def verdict(certificate: dict[str, Any]) -> str:
    """Say in a few words whether a dataset is as it should be."""
    return "ok" if certificate["ok"] else counted(len(certificate["problems"]), "problem")


def add_damage(directory: Path, certificate: dict[str, Any]) -> None:
    """Add to a verdict what is wrong with the certificate that it replaces, if anything is.

    Args:
        directory: Directory of the dataset.
        certificate: The fields of `certificate.json`, changed in place.
    """
    damage = certificate_damage(directory / CERTIFICATE)
    if damage is not None:
        certificate["problems"].append(f"{damage}; this verdict takes its place")
        certificate["ok"] = False


def written(
    directory: Path,
    report: Path | None,
    certificate: dict[str, Any],
    bad_records: dict[str, int] | None,
    observer: Observer,
) -> CertificateResult:
    """Write a certificate, and return it as a result.

    Args:
        directory: Directory of the dataset.
        report: Where to write the certificate; None: to the dataset, if that is possible.
        certificate: Its fields.
        bad_records: Bad records by domain; None where unknown.
        observer: Receives a notice if nothing can be written.

    Raises:
        InputError: `report` cannot be written.
    """
    path = report or directory / CERTIFICATE
    try:
        write_certificate(path, certificate)
    except OSError as error:
        if report is not None:
            unwritable = InputError(f"{report}: cannot be written ({error.strerror or error})")
            raise fault_or(unwritable, error, str(report)) from error
        observer.notice(
            f"{path}: not written ({error.strerror or error}); the verdict holds all the same, "
            "and --report PATH writes it elsewhere"
        )
        return CertificateResult(certificate, directory, bad_records)
    return CertificateResult(certificate, directory, bad_records, path)


def check_excluded(
    layout: DatasetLayout,
    domains: Sequence[DomainTokens] | None,
    names: Path,
    certificate: dict[str, Any],
) -> None:
    """Add to a certificate whether shards hold documents that a list excludes.

    Args:
        layout: Paths of the dataset.
        domains: Its domains in the token store; without them only content hashes are compared.
        names: The list.
        certificate: The fields of `certificate.json`, changed in place.

    Raises:
        InputError: The list cannot be read.
    """
    directory = layout.directory
    manifest = find_manifest(directory)
    if manifest is None:  # the verdict says what is wrong with it
        return
    listed = read_names(names)
    try:
        with layout.at_hand(directory / shard.provenance.path for shard in manifest.shards):
            held = find_listed(directory, manifest, domains, listed)
    except ShardError as error:
        if str(error) not in certificate["problems"]:
            certificate["problems"].append(str(error))
        certificate["ok"] = False
        return
    standing = [document for document in held.documents if document.places]
    certificate["excluded"] = {"names": len(listed.names), "in_shards": len(standing)}
    if standing:
        certificate["problems"].append(
            f"{layout.where}: holds {counted(len(standing), 'document')} that exclude lists, as "
            f"'{standing[0].name}'; run curate remove {layout.where} {names} --rebuild"
        )
        certificate["ok"] = False


def _check_list(
    layout: DatasetLayout,
    domains: Sequence[DomainTokens] | None,
    certificate: dict[str, Any],
    observer: Observer,
) -> None:
    """Check the list that a dataset's own recipe names, if that is still there."""
    try:
        names = list_path(load_recipe(layout.directory / RECIPE))
    except CurateError:  # a damaged recipe is among the problems already
        return
    if names is None:
        return
    if not names.is_file():
        observer.notice(f"exclude: {names} is gone, so what it lists is not looked for")
        return
    check_excluded(layout, domains, names, certificate)


def _scratch(directory: Path) -> Path | None:
    """Return the cache of a dataset if this user may write there, for files without a name."""
    manifest = find_manifest(directory)
    cache = None if manifest is None else Path(manifest.cache)
    return cache if cache and cache.is_dir() and os.access(cache, os.W_OK) else None


def _check_directory(directory: Path) -> None:
    """Refuse what is not the directory of a dataset, and name the one that is meant.

    Raises:
        ShardError: It is a file, it is absent, or it holds nothing of curate.
    """
    if not directory.is_file():
        if not has_traces(directory):
            load_manifest(directory)  # raises, and says what to do
        return
    meant = directory.parent
    if not has_traces(meant):
        try:
            meant = load_recipe(directory).output_dir
        except CurateError:
            meant = Path("DIRECTORY")
    raise ShardError(
        f"{directory}: a file, but a dataset is a directory; type curate verify {meant}"
    )


def _checked_domains(
    directory: Path, workers: int, observer: Observer
) -> Sequence[DomainTokens] | None:
    """Open the dataset's domains in the token store; None if they are no longer all there."""
    manifest = find_manifest(directory)
    if manifest is None:  # the verdict says what is wrong with it
        return None
    if manifest.schema == OLD_SCHEMA:
        observer.notice(
            f"an earlier version of curate ({manifest.curate_version}) wrote this dataset: its "
            "manifest lists shards, provenance and plan, so other files are not checked"
        )
    return reopen(manifest, workers, observer)


def reopen(manifest: Manifest, workers: int, observer: Observer) -> Sequence[DomainTokens] | None:
    """Open the domains of a dataset in its token store, if that is there and whole.

    Args:
        manifest: Manifest of the dataset.
        workers: Number of processes that check the store.
        observer: Receives a notice if there is no store to compare with.
    """
    store = open_store(manifest)
    damage = store.damage([record.content for record in manifest.inputs], workers, observer.tick)
    if damage:
        file = next(iter(damage.values()))
        observer.notice(f"{file} is damaged: tokens are compared by hash only; build mends it")
        return None
    domains = domains_in(store, manifest, observer)
    if domains is None:
        observer.notice("the token store is missing; tokens are compared by hash only")
    return domains


def open_store(manifest: Manifest) -> TokenStore:
    """Open the token store that a dataset was made from; empty if it is no longer there."""
    tokenizer = manifest.tokenizer
    dtype = np.dtype("<u2" if tokenizer.vocabulary <= UINT16_LIMIT else "<u4")
    store = TokenStore(Path(manifest.cache), tokenizer.fingerprint, dtype)
    store.scan(clean=False)  # nothing is removed where a manifest, perhaps a stranger's, leads
    return store


def domains_in(
    store: TokenStore, manifest: Manifest, observer: Observer
) -> list[DomainTokens] | None:
    """Return the domains of a dataset from its token store; None unless all are whole there.

    Args:
        store: The token store.
        manifest: Manifest of the dataset.
        observer: Receives progress.
    """
    paths: dict[str, list[str]] = {source_of(name): [] for name in manifest.domains}
    rows_of: dict[str, list[tuple[int, ...]]] = {name: [] for name in paths}
    for record in manifest.inputs:
        if record.domain in paths:
            rows = store.file_rows(record.content, record.segments)
            if rows is None:
                return None
            paths[record.domain].append(record.path)
            rows_of[record.domain].append(rows)
    files = {name: DomainFiles(store.entries, rows_of[name], paths[name]) for name in paths}
    documents = sum(int(of_domain.documents.sum()) for of_domain in files.values())
    observer.begin("sort documents", [*paths])
    with metered_sorts(observer, documents):
        wholes = {name: DomainTokens(name, files[name], store.dtype) for name in paths}
    observer.end(counted(documents, "document"))
    selections = {} if manifest.selections is UNSET else manifest.selections
    cache = Path(manifest.cache) / CACHE_NAME
    domains = []
    for name in manifest.domains:
        domain, record_of = wholes[source_of(name)], selections.get(name)
        if record_of is not None:
            try:
                domain = domain.select(name, _selection(record_of, cache))
            except InputError:  # what curation kept is no longer in the cache
                return None
        domains.append(domain)
    return domains


def _selection(record: SelectionRecord, cache: Path) -> Selection:
    removals, buckets = record.removals, record.buckets
    return Selection(
        None if removals is UNSET else removals_path(cache / removals, record.source),
        None if buckets is UNSET else buckets_path(cache / buckets, record.source),
        record.bucket,
        has_bad_records=not record.bucket,
    )
