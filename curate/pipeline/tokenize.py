"""Tokenise and count a recipe's domains: find files, load the tokenizer, tokenise, count.

Everything made here is stored in the cache directory. Recipes that name the same cache share it,
and nothing is made twice.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from curate.curation.apply import Curation, curate_domains
from curate.curation.levels import DomainSettings, domain_settings
from curate.curation.step import CurationRequest
from curate.curation.steps import check_columns, check_steps
from curate.dataset.manifest import BESIDE_SHARDS, OWN_DIRECTORIES, OWN_FILES
from curate.errors import InputError, RecipeError
from curate.pipeline.losses import (
    check_first_records,
    check_losses,
    held_out_notices,
    loss_notices,
    same_file_notices,
    shared_notices,
)
from curate.pipeline.shrinkage import (
    LastBuild,
    check_shrinkage,
    last_build,
    shrinkage_notices,
)
from curate.pipeline.stage_supply import StageSupply
from curate.plan.uses import Pool
from curate.recipe import DomainRecipe, LoadedRecipe
from curate.recipe.structs import RECORD_BYTES
from curate.runtime.artifact_names import ARTIFACTS
from curate.runtime.external_sort import metered_sorts
from curate.runtime.files import atomic_path, begin_directory, hash_json, sweep
from curate.runtime.memory import blocks
from curate.runtime.progress import Observer
from curate.runtime.registry import counted
from curate.runtime.workers import map_tasks, uses_cluster, workers_for
from curate.sources import InputPath, check_reader, expand, identify, segments
from curate.sources.first_records import loose_files, loose_notice, may_be_mixed
from curate.sources.hub import find_hub_files
from curate.sources.overlaps import copy_notices, left_out_notices, without_links
from curate.sources.places import Places
from curate.sources.plans import FilePlan
from curate.sources.records import SCHEME, InputFile, ReadOptions
from curate.sources.remote_cuts import RemoteCuts
from curate.sources.search import CACHE_SIGNATURE, CACHE_TAG
from curate.stats.copies import held_out_documents, shared_documents
from curate.stats.domain_stats import DomainStats, domain_stats
from curate.stats.entropy import Entropies, table_entropies
from curate.stats.losses import DomainLosses, Shrinkage, domain_losses, part_losses
from curate.tokens import tokenizer as tokenizers
from curate.tokens import train_tokenizer
from curate.tokens.backends import first_choice
from curate.tokens.bucket_store import StoreBucket
from curate.tokens.domain import DomainTokens, complement
from curate.tokens.domain_counts import CountRequest, domain_counts
from curate.tokens.entries import DomainFiles
from curate.tokens.fill import FillRequest, FillResult, fill
from curate.tokens.join_parts import join_small_parts
from curate.tokens.store import TokenStore
from curate.tokens.tokenizer import Tokenizer

OTHER_OUTPUTS = (
    "mixtures.json", "mixtures.partial", "entropy_report.json", "design.csv", "runs.csv",
    "proxy.json", "curves", "claims", "experts", "experts.parquet", "validation.json",
    "validation_runs",
)  # fmt: skip
"""Files and folders that commands other than `build` write to the output directory."""


@dataclass(frozen=True)
class TokenizedDomains:
    """Domains in the token store, counted."""

    tokenizer: Tokenizer
    backend: str
    """Names and versions of the backends that tokenised the documents."""
    plans: tuple[tuple[FilePlan, ...], ...]
    """shape (domains, plans), how the files of each domain are read."""
    domains: tuple[DomainTokens, ...]
    validation: tuple[NDArray[np.bool_], ...]
    """For each domain, shape (documents,), whether a document is held out."""
    stats: tuple[DomainStats, ...]
    content_hash: str
    """Hash of all documents, however they are divided into files."""
    tokenised_bytes: int
    """Bytes of text that this run tokenised; the rest was in the store."""
    sources: tuple[int, ...]
    """shape (domains,), number of the recipe's domain that each is, or is a part of."""
    settings: DomainSettings
    """The recipe's settings of the domains; where it splits one, of its sub-domains."""
    curation: Curation | None
    """Everything removed, and why; None where the recipe removes nothing and splits no domain."""
    stage: StageSupply | None = None
    """Supply of a stage; None outside of stages, where it is all but what is held out."""

    def drawable(self, number: int) -> NDArray[np.bool_]:
        """Return which documents of a domain may be drawn for training, shape (documents,)."""
        pool = None if self.stage is None else self.stage.domains[number].pool
        return drawable_documents(self.validation[number], pool)


def drawable_documents(held_out: NDArray[np.bool_], pool: Pool | None) -> NDArray[np.bool_]:
    """Return which documents of a domain may be drawn, shape (documents,).

    Args:
        held_out: shape (documents,), those for validation.
        pool: Those that a stage may draw; None for all.
    """
    drawable = complement(held_out)
    if pool is not None:
        for rows in blocks(len(drawable)):
            drawable[rows] &= pool.mask[rows]
    return drawable


def tokenize_domains(loaded: LoadedRecipe, workers: int, observer: Observer) -> TokenizedDomains:
    """Tokenise documents that the token store lacks, and count every domain.

    Args:
        loaded: The recipe.
        workers: Number of processes.
        observer: Receives progress and notices.

    Raises:
        CurateError: Any user-fixable error in the recipe, a file or the tokenizer.
    """
    recipe = loaded.recipe
    choice = first_choice(recipe.tokenizer.backend)
    plans, tokenizer, store = _prepare(loaded, workers, observer)
    bucket = _store_bucket(loaded, store)
    with _spill(loaded.cache_dir) as spill:
        if bucket is not None:
            bucket.share(store, _keys(plans), workers, observer)
        _discard_damage(store, plans, workers, observer)
        filling = FillRequest(
            recipe=recipe,
            tokenizer=tokenizer,
            store=store,
            spill=spill,
            workers=workers,
            observer=observer,
            choice=choice,
            bucket=bucket,
        )
        filled = fill(filling, plans)
        store.scan()  # again, for the entries that were just written
        kept = _keep(filling, loaded, plans)
        settings = domain_settings(
            loaded,
            names=[domain.name for domain in kept.domains],
            sources=kept.sources,
            tokens=[domain.total_tokens for domain in kept.domains],
        )
        observer.begin("count", [domain.name for domain in kept.domains])
        requests = _count_requests(filling, kept.domains, kept.sources, filled)
        tokens = sum(domain.total_tokens for domain in kept.domains)
        enough = workers_for(tokens * tokenizer.dtype.itemsize, workers)
        results = map_tasks(_entropies, requests, enough, observer.tick)
    for notice in itertools.chain(*(notices for _, notices in results), kept.notices):
        observer.notice(notice)
    validation = held_out_documents(
        kept.domains, recipe.validation.documents, recipe.validation.key
    )
    content_hash = hash_json([[domain.name, domain.fingerprint] for domain in kept.domains])
    stats = _stats(kept, validation, [entropies for entropies, _ in results], content_hash)
    observer.end()
    tokenized = TokenizedDomains(
        tokenizer=tokenizer,
        backend=_backends(kept.domains) or "none",
        plans=tuple(tuple(plans[source]) for source in kept.sources),
        domains=kept.domains,
        validation=validation,
        stats=stats,
        content_hash=content_hash,
        tokenised_bytes=filled.text_bytes,
        sources=tuple(kept.sources),
        settings=settings,
        curation=kept.curation,
    )
    for notice in _notices(loaded, tokenized):
        observer.notice(notice)
    return tokenized


def _prepare(
    loaded: LoadedRecipe, workers: int, observer: Observer
) -> tuple[list[list[FilePlan]], Tokenizer, TokenStore]:
    """Check the recipe, plan how files are read, and open the tokenizer and its store."""
    cache, recipe = loaded.cache_dir, loaded.recipe
    if cache.exists() and not cache.is_dir():
        raise RecipeError(f"cache: {cache} is no directory; name another one, or remove it")
    for domain in recipe.domains:
        check_reader(domain.reader, f"domains[{domain.name}].reader")
    check_steps(loaded)
    # A tokenizer to train needs the files first. Any other is loaded before files are hashed, so
    # that a wrong path is reported at once.
    plans = find_files(loaded, observer) if recipe.tokenizer.train else None
    tokenizer = load_tokenizer(loaded, plans or [], workers, observer)
    store = _open_store(loaded, tokenizer, observer)
    # A wrong path ends the run here, before an empty cache is made.
    plans = plans or find_files(loaded, observer, store)
    check_columns(loaded, plans)
    return plans, tokenizer, store


def _open_store(loaded: LoadedRecipe, tokenizer: Tokenizer, observer: Observer) -> TokenStore:
    """Open the token store of a tokenizer, whose small parts are joined first."""
    store = TokenStore(loaded.cache_dir, tokenizer.fingerprint, tokenizer.dtype)
    store.scan()
    joined = join_small_parts(store, observer) if loaded.cache_url is None else 0
    if not joined:
        return store
    observer.notice(f"{counted(joined, 'small part')} of the token store joined")
    store = TokenStore(loaded.cache_dir, tokenizer.fingerprint, tokenizer.dtype)
    store.scan()
    return store


@dataclass(frozen=True)
class _Kept:
    """The documents that are left of the recipe's domains, and what was lost on the way."""

    domains: tuple[DomainTokens, ...]
    sources: list[int]
    """For each domain, the number of the recipe's domain that it is, or is a part of."""
    losses: list[DomainLosses]
    """For each domain."""
    shrunk: list[Shrinkage]
    """For each of the recipe's domains."""
    last: LastBuild
    curation: Curation | None
    notices: list[str]


def _keep(filling: FillRequest, loaded: LoadedRecipe, plans: Sequence[Sequence[FilePlan]]) -> _Kept:
    """Open the domains, stop at losses beyond the limits, and curate."""
    tokenizer, observer = filling.tokenizer, filling.observer
    domains = _open_domains(loaded, plans, filling)
    losses = [domain_losses(domain) for domain in domains]
    check_losses(domains, losses, loaded.recipe.limits.lost_share)
    last = last_build(loaded.output_dir)
    shrunk = [last.shrinkage(domain) for domain in domains]
    check_shrinkage(loaded, domains, shrunk, last)
    notices = list(shrinkage_notices(domains, shrunk, last))
    request = CurationRequest(
        loaded=loaded,
        domains=domains,
        plans=plans,
        tokenizer=tokenizer,
        workers=filling.workers,
        observer=observer,
    )
    curation = curate_domains(request)
    sources = list(range(len(domains)))
    if curation is not None:
        domains = tuple(curated.domain for curated in curation.domains)
        sources = [curated.source for curated in curation.domains]
        losses = [
            losses[source] if not domain.is_part else part_losses(domain, losses[source])
            for domain, source in zip(domains, sources, strict=True)
        ]
    return _Kept(domains, sources, losses, shrunk, last, curation=curation, notices=notices)


def _stats(
    kept: _Kept,
    validation: Sequence[NDArray[np.bool_]],
    entropies: Sequence[Entropies],
    content_hash: str,
) -> tuple[DomainStats, ...]:
    """Gather the numbers of every domain."""
    domains = kept.domains
    shared = shared_documents(domains)
    shrunk = kept.last.repeated(content_hash, domains) or [
        kept.shrunk[source] if domain.has_bad_records else Shrinkage()
        for domain, source in zip(domains, kept.sources, strict=True)
    ]
    losses = [replace(loss, shrunk=less) for loss, less in zip(kept.losses, shrunk, strict=True)]
    by_domain = zip(domains, validation, entropies, losses, strict=True)
    counts = [domain_stats(*of_domain, shared) for of_domain in by_domain]
    if kept.curation is None:
        return tuple(counts)
    return tuple(
        replace(row, removed=curated.removed)
        for row, curated in zip(counts, kept.curation.domains, strict=True)
    )


def _notices(loaded: LoadedRecipe, tokenized: TokenizedDomains) -> Iterator[str]:
    """Say what is lost on the way to documents, and what is shared."""
    domains, stats = tokenized.domains, tokenized.stats
    yield from loss_notices(domains, [row.losses for row in stats])
    for domain, row in zip(domains, stats, strict=True):
        if not domain.is_part:
            yield from same_file_notices(domain, row)
    yield from shared_notices(stats)
    yield from held_out_notices(stats, loaded.recipe.validation.documents)


def find_files(
    loaded: LoadedRecipe, observer: Observer, store: TokenStore | None = None
) -> list[list[FilePlan]]:
    """Find the files of every domain, identify them by content, and plan how each is read.

    Args:
        loaded: The recipe.
        observer: Receives progress and notices.
        store: Says which files were read before, so that no first record is looked at again; None
            for a tokenizer that is still to be trained on them.

    Returns:
        shape (domains, plans).
    """
    recipe = loaded.recipe
    _harvest(loaded, observer)
    observer.begin("find files")
    places = _places(loaded)
    expanded = [_expand(domain, loaded, places, observer) for domain in recipe.domains]
    paths = [path for domain_paths in expanded for path in domain_paths]
    files = identify(paths, loaded.cache_dir, observer.notice)
    remaining = iter(files)
    by_domain = {
        domain.name: without_links(list(itertools.islice(remaining, len(domain_paths))))
        for domain, domain_paths in zip(recipe.domains, expanded, strict=True)
    }
    notices = []
    for domain, domain_paths in zip(recipe.domains, expanded, strict=True):
        left = _loose_text(domain, domain_paths, by_domain[domain.name])
        if left:
            notices.append(loose_notice(domain.name, left))
            paths_left = {file.path for file in left}
            kept = [file for file in by_domain[domain.name] if file.path not in paths_left]
            by_domain[domain.name] = kept
    cuts = RemoteCuts(loaded.cache_dir)
    plans = [
        segments(by_domain[domain.name], _options(domain, recipe.limits.record_bytes), cuts=cuts)
        for domain in recipe.domains
    ]
    cuts.save()
    begins_well = (lambda _: False) if store is None else store.begins_well
    for domain, domain_plans in zip(recipe.domains, plans, strict=True):
        check_first_records(domain.name, domain_plans, begins_well, recipe.limits.lost_share)
    files = [file for domain_files in by_domain.values() for file in domain_files]
    size_bytes = sum(file.size_bytes for file in files)
    observer.end(f"{counted(len(files), 'file')}, {size_bytes / 1e6:.1f} MB")
    for notice in (*left_out_notices(places), *notices, *copy_notices(by_domain)):
        observer.notice(notice)
    return plans


def _loose_text(
    domain: DomainRecipe, paths: Sequence[InputPath], files: Sequence[InputFile]
) -> list[InputFile]:
    """List the files to leave out because a search met tables, too."""
    if domain.reader != "auto" or domain.glob != "*" or not may_be_mixed(files):
        return []
    patterns = {path.path: path.pattern for path in paths}
    left = []
    for pattern in sorted({*patterns.values()} - {""}):
        found_by = [file for file in files if patterns[file.path] == pattern]
        try:
            left += loose_files(found_by, _options(domain), pattern)
        except InputError as error:
            raise InputError(f"domains[{domain.name}].paths: {error}") from error
    return left


def _places(loaded: LoadedRecipe) -> Places:
    """List where this recipe writes; the output directory may hold sources beside that."""
    output = loaded.output_url or os.path.realpath(loaded.output_dir)
    names = (*OWN_DIRECTORIES, *OWN_FILES, *ARTIFACTS, *BESIDE_SHARDS, *OTHER_OUTPUTS)
    written = [os.path.realpath(loaded.cache_dir), *(os.path.join(output, name) for name in names)]
    if loaded.cache_url is not None:
        written.append(loaded.cache_url)
    return Places(output, frozenset(written))


def _store_bucket(loaded: LoadedRecipe, store: TokenStore) -> StoreBucket | None:
    """Return the copy of the token store in a bucket; None where the cache is a directory.

    Raises:
        RecipeError: A cluster does the work, whose machines share no local cache then.
    """
    url = loaded.cache_url
    if url is None:
        return None
    if uses_cluster():
        raise RecipeError(
            f"cache: {url}: the machines of a cluster must see the same cache; name a directory "
            "that they share, or leave out --engine ray"
        )
    return StoreBucket.of(url, store)


def _keys(plans: Sequence[Sequence[FilePlan]]) -> list[str]:
    return [key for domain_plans in plans for plan in domain_plans for key in plan.keys]


def _discard_damage(
    store: TokenStore, plans: Sequence[Sequence[FilePlan]], workers: int, observer: Observer
) -> None:
    """Check the parts that hold the files of a recipe, and remove damaged ones."""
    while damage := store.damage(_keys(plans), workers, observer.tick):
        for file in damage.values():
            observer.notice(f"{file} is damaged: what no other part holds is tokenised again")
        store.discard(damage)
        store.scan()  # parts that a damaged one was joined from may still be there


def _harvest(loaded: LoadedRecipe, observer: Observer) -> None:
    """Make the embedded corpus if a domain uses it."""
    patterns = [
        pattern
        for domain in loaded.recipe.domains
        for pattern in _patterns(domain)
        if pattern.startswith(SCHEME)
    ]
    if patterns:
        from curate.sources.embedded.corpus import resolve

        observer.begin("harvest corpus")
        for pattern in patterns:
            resolve(pattern, loaded.cache_dir, observer.notice)
        observer.end("the embedded corpus, from this Python installation")


def load_tokenizer(
    loaded: LoadedRecipe, plans: list[list[FilePlan]], workers: int, observer: Observer
) -> Tokenizer:
    """Load the recipe's tokenizer, or train it.

    Args:
        loaded: The recipe.
        plans: shape (domains, plans), the text to train on; empty for a tokenizer that is loaded.
        workers: Number of processes.
        observer: Receives progress, and the tokenizer's notices.
    """
    recipe = loaded.recipe.tokenizer
    eos = None if isinstance(recipe.eos, msgspec.UnsetType) else recipe.eos
    if recipe.path is not None:
        tokenizer = tokenizers.load(loaded.base / recipe.path, eos)
    elif recipe.hub is not None:
        tokenizer = tokenizers.load_hub(recipe.hub, eos)
    else:
        assert recipe.train is not None
        request = train_tokenizer.TrainRequest(
            recipe.train.vocab_size,
            recipe.train.sample_bytes,
            eos or train_tokenizer.END_OF_TEXT,
            loaded.cache_dir,
        )
        tokenizer = train_tokenizer.train(request, plans, workers, observer)
    for notice in tokenizer.notices:
        observer.notice(notice)
    return tokenizer


def _expand(
    domain: DomainRecipe, loaded: LoadedRecipe, places: Places, observer: Observer
) -> list[InputPath]:
    if domain.hf is not None:
        directories = loaded.base, loaded.cache_dir
        place = f"domains[{domain.name}].hf"
        try:
            return find_hub_files(
                domain.hf,
                domain.reader,
                directories,
                lambda line: observer.notice(f"{place}: {line}"),
            )
        except InputError as error:
            raise InputError(f"{place}: {error}") from error
    from_corpus = [
        _corpus_file(pattern, loaded.cache_dir)
        for pattern in _patterns(domain)
        if pattern.startswith(SCHEME)
    ]
    others = [pattern for pattern in _patterns(domain) if not pattern.startswith(SCHEME)]
    try:
        return from_corpus + expand(others, _options(domain), loaded.base, places)
    except InputError as error:
        raise InputError(f"domains[{domain.name}].paths: {error}") from error


def _corpus_file(pattern: str, cache: Path) -> InputPath:
    """Return the file of a domain of the embedded corpus."""
    from curate.sources.embedded.corpus import resolve

    path = resolve(pattern, cache)
    return InputPath(str(path), path.name)


def _patterns(domain: DomainRecipe) -> list[str]:
    return [domain.paths] if isinstance(domain.paths, str) else domain.paths


def _options(domain: DomainRecipe, record_bytes: int = RECORD_BYTES) -> ReadOptions:
    columns = () if domain.hf is None else tuple(domain.hf.columns)
    return ReadOptions(
        text=domain.text,
        id=domain.id,
        reader=domain.reader,
        glob=domain.glob,
        record_bytes=record_bytes,
        columns=columns,
    )


def _open_domains(
    loaded: LoadedRecipe,
    plans: Sequence[Sequence[FilePlan]],
    filling: FillRequest,
) -> tuple[DomainTokens, ...]:
    """Open every domain of the recipe in the token store."""
    recipe, observer, dtype = loaded.recipe, filling.observer, filling.tokenizer.dtype
    files = [_stored_files(domain_plans, filling.store) for domain_plans in plans]
    documents = sum(int(of_domain.documents.sum()) for of_domain in files)
    observer.begin("sort documents", [domain.name for domain in recipe.domains])
    with metered_sorts(observer, documents):
        opened = tuple(
            _open_domain(domain, of_domain, dtype, recipe.on_bad_record)
            for domain, of_domain in zip(recipe.domains, files, strict=True)
        )
    observer.end(counted(documents, "document"))
    return opened


def _stored_files(plans: Sequence[FilePlan], store: TokenStore) -> DomainFiles:
    """Find the files of a domain in the token store."""
    inputs = [file for plan in plans for file in plan.files]
    entries = []
    for plan in plans:
        for file, key in zip(plan.files, plan.keys, strict=True):
            rows = store.file_rows(key, plan.count)
            if rows is None:
                raise InputError(f"{file.path}: changed while it was read; run again")
            entries.append(rows)
    paths, sizes = [file.path for file in inputs], [file.size_bytes for file in inputs]
    return DomainFiles(store.entries, entries, paths, sizes)


def _open_domain(
    domain: DomainRecipe, files: DomainFiles, dtype: np.dtype[Any], on_bad_record: str
) -> DomainTokens:
    opened = DomainTokens(domain.name, files, dtype)
    if on_bad_record == "error" and opened.bad_records:
        path, line, reason, _ = next(iter(opened.bad_record_rows()))
        raise InputError(
            f"{path}:{line}: {reason}; fix it, or set on_bad_record: quarantine "
            f"({counted(opened.bad_records, 'bad record')} in '{domain.name}')"
        )
    if not len(opened):
        first = next(iter(opened.bad_record_rows()), None)
        reason = f"; {first[0]}:{first[1]}: {first[2]}" if first else f" ({files.paths[0]})"
        raise InputError(
            f"domain '{domain.name}' has no document: {counted(len(files), 'file')}, "
            f"{counted(opened.bad_records, 'bad record')}{reason}"
        )
    return opened


def _count_requests(
    filling: FillRequest,
    domains: Sequence[DomainTokens],
    sources: Sequence[int],
    filled: FillResult,
) -> list[CountRequest]:
    """Ask for the counts of every domain, from the runs that tokenising left.

    Args:
        filling: What was tokenised.
        domains: The domains.
        sources: Number of the recipe's domain of each.
        filled: The runs, by number of the recipe's domain.
    """
    tokenizer, cache = filling.tokenizer, filling.store.directory.parents[1]
    return [
        CountRequest(
            domain=domain,
            tokenizer=tokenizer,
            directory=cache / "counts" / tokenizer.fingerprint[:16],
            spill=filling.spill / f"domain-{number}",
            runs=tuple((run, tuple(keys)) for run, keys in filled.runs.get(source, [])),
            memory_bytes=filling.recipe.counting.memory_mb << 20,
        )
        for number, (domain, source) in enumerate(zip(domains, sources, strict=True))
    ]


def _entropies(request: CountRequest) -> tuple[Entropies, list[str]]:
    """Count a domain, and return its entropies with notices of what was damaged."""
    notices: list[str] = []
    return table_entropies(domain_counts(request, notices.append)), notices


def _backends(domains: Sequence[DomainTokens]) -> str:
    return ", ".join(sorted(set().union(*(domain.files.backends for domain in domains))))


@contextmanager
def _spill(cache: Path) -> Iterator[Path]:
    sweep(cache)  # directories left by killed runs
    path = begin_directory(cache / "spill")
    # The tag keeps recipes from taking the cache for text, and backups from keeping it.
    tag = cache / CACHE_TAG
    content = CACHE_SIGNATURE + b"\n# Made by curate; it can be deleted at any time.\n"
    if not tag.exists() or tag.read_bytes() != content:
        with atomic_path(tag) as temporary:
            temporary.write_bytes(content)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
