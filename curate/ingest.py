"""From a recipe to measured domains: find files, load the tokenizer, tokenise, count.

Everything made here lives in the cache directory and is shared by all recipes that use it. What is
there already is not made again.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from curate.engine.local import ahead, map_tasks, workers_share_memory
from curate.errors import InputError, RecipeError, TokenizerError
from curate.observer import Observer
from curate.recipe import DomainRecipe, LoadedRecipe
from curate.sources import READERS, InputPath, SegmentReader, expand, identify, segments
from curate.sources.corpus import SCHEME, resolve
from curate.sources.plans import FilePlan
from curate.sources.records import ReadOptions
from curate.stats.entropy import table_entropies
from curate.stats.report import DomainStats, domain_stats
from curate.storage import hash_json, is_running
from curate.tokens import tokenizer as tokenizers
from curate.tokens import train
from curate.tokens.backends import (
    BACKENDS,
    Answers,
    BackendRefused,
    Choice,
    first_choice,
    judge,
    reference_answers,
    reference_choice,
)
from curate.tokens.domain_counts import CountRequest, domain_counts
from curate.tokens.pipeline import PROGRESS, Job, Tokenised, keys_of, plan_tasks, tokenise
from curate.tokens.store import DomainFile, DomainTokens, TokenStore
from curate.tokens.tokenizer import Tokenizer

SAMPLE_BYTES = 96 << 10
"""Text of the user's own documents that a fast tokenizer must get right, all domains together."""


@dataclass(frozen=True)
class Ingested:
    """Domains in the store, measured."""

    tokenizer: Tokenizer
    backend: str
    """Name and version of what tokenised; several, where parts were made at different times."""
    plans: tuple[tuple[FilePlan, ...], ...]
    """By domain, how its files are read."""
    domains: tuple[DomainTokens, ...]
    validation: tuple[NDArray[np.bool_], ...]
    """By domain, which documents are held out."""
    stats: tuple[DomainStats, ...]
    content_hash: str
    """Hash of all documents, whatever files they came in."""
    tokenised_bytes: int
    """Text that had to be tokenised in this run."""


def ingest(loaded: LoadedRecipe, workers: int, observer: Observer) -> Ingested:
    """Tokenise what is new, and measure every domain.

    Raises:
        CurateError: What the user can mend: the recipe, a file, the tokenizer.
    """
    recipe, cache = loaded.recipe, loaded.cache_dir
    plans = find_files(loaded, observer)
    tokenizer = load_tokenizer(loaded, plans, workers, observer)
    store = TokenStore(cache, tokenizer.fingerprint, tokenizer.dtype)
    store.scan()
    with _spill(cache) as spill:
        made, tokenised_bytes = _fill(loaded, plans, tokenizer, store, spill, workers, observer)
        store.scan()
        domains = tuple(
            _open_domain(domain, plans[number], store, tokenizer, recipe.on_bad_record)
            for number, domain in enumerate(recipe.domains)
        )
        observer.begin("count", [domain.name for domain in domains])
        requests = [
            CountRequest(
                domain,
                tokenizer,
                cache / "counts" / tokenizer.fingerprint[:16],
                spill / f"domain-{number}",
                tuple((run, tuple(counted)) for run, counted in made.runs.get(number, [])),
                recipe.counting.memory_mb << 20,
            )
            for number, domain in enumerate(domains)
        ]
        tables = map_tasks(domain_counts, requests, workers)
    share, key = recipe.validation.documents, recipe.validation.key
    validation = _held_out(domains, share, key)
    stats = tuple(
        domain_stats(domain, held_out, table_entropies(table))
        for domain, held_out, table in zip(domains, validation, tables, strict=True)
    )
    observer.end()
    return Ingested(
        tokenizer=tokenizer,
        backend=", ".join(sorted(_backends(domains))) or "none",
        plans=tuple(tuple(found) for found in plans),
        domains=domains,
        validation=validation,
        stats=stats,
        content_hash=_content_hash(domains),
        tokenised_bytes=tokenised_bytes,
    )


def find_files(loaded: LoadedRecipe, observer: Observer) -> list[list[FilePlan]]:
    """The files of every domain, identified by content, and how each will be read."""
    recipe = loaded.recipe
    for domain in recipe.domains:
        _check_reader(domain)
    _harvest(loaded, observer)
    observer.begin("find files")
    expanded = [_expand(domain, loaded) for domain in recipe.domains]
    files = identify([path for paths in expanded for path in paths], loaded.cache_dir)
    remaining = iter(files)
    plans = [
        segments(list(itertools.islice(remaining, len(paths))), _options(domain))
        for domain, paths in zip(recipe.domains, expanded, strict=True)
    ]
    size_bytes = sum(file.size_bytes for file in files)
    observer.end(f"{len(files)} files, {size_bytes / 1e6:.1f} MB")
    return plans


def _harvest(loaded: LoadedRecipe, observer: Observer) -> None:
    """Make the embedded corpus if a domain is of it."""
    patterns = [
        pattern
        for domain in loaded.recipe.domains
        for pattern in _patterns(domain)
        if pattern.startswith(SCHEME)
    ]
    if patterns:
        observer.begin("harvest corpus")
        for pattern in patterns:
            resolve(pattern, loaded.cache_dir)
        observer.end("the embedded corpus, from this Python installation")


def load_tokenizer(
    loaded: LoadedRecipe, plans: list[list[FilePlan]], workers: int, observer: Observer
) -> Tokenizer:
    """The recipe's tokenizer, trained first if it says so."""
    recipe = loaded.recipe.tokenizer
    eos = None if isinstance(recipe.eos, msgspec.UnsetType) else recipe.eos
    if recipe.path is not None:
        found = tokenizers.load(loaded.base / recipe.path, eos)
    elif recipe.hub is not None:
        found = tokenizers.load_hub(recipe.hub, eos)
    else:
        assert recipe.train is not None
        request = train.TrainRequest(
            recipe.train.vocab_size,
            recipe.train.sample_bytes,
            eos or train.END_OF_TEXT,
            loaded.cache_dir,
        )
        found = train.train(request, plans, workers, observer)
    for notice in found.notices:
        observer.notice(notice)
    return found


def _fill(  # noqa: PLR0913 - one stage, all of whose inputs are its own
    loaded: LoadedRecipe,
    plans: list[list[FilePlan]],
    tokenizer: Tokenizer,
    store: TokenStore,
    spill: Path,
    workers: int,
    observer: Observer,
) -> tuple[Tokenised, int]:
    """Tokenise what the store lacks; what was made, and its bytes of text."""
    recipe = loaded.recipe
    names = [domain.name for domain in recipe.domains]
    tasks, present = plan_tasks(plans, store)
    if not tasks:
        observer.notice("tokenised already: every file is in the store")
        return Tokenised(), 0
    last = np.zeros((len(names), len(PROGRESS)), np.int64)
    totals = [
        sum(task.size_bytes for task in tasks if task.domain == number)
        for number in range(len(names))
    ]

    def progress(counters: NDArray[np.int64]) -> None:
        last[:] = counters
        observer.advance(counters)

    def attempt(choice: Choice) -> Tokenised:
        def ask_reference() -> Answers:
            sample = sample_documents([task.items[0].plan for task in tasks])
            return reference_answers(tokenizer, choice.name, sample, memory_dir())

        with ahead(ask_reference) as answers:  # while the backend is loaded
            encoder = BACKENDS[choice.name](tokenizer)

            def test() -> None:
                verdict = judge(tokenizer, choice.name, encoder, answers(), memory_dir())
                for notice in verdict.notices:
                    observer.notice(notice)
                if verdict.problem is not None:
                    raise BackendRefused(verdict.problem)

            job = Job(
                tokenizer=tokenizer,
                backend=choice,
                encoder=encoder if workers_share_memory() else None,
                store=store.directory,
                spill=spill / choice.name,
                domains=tuple(names),
                tasks=tasks,
                present=present,
                count_memory_bytes=recipe.counting.memory_mb << 20,
                stop_on_bad_record=recipe.on_bad_record == "error",
            )
            observer.begin("tokenise", names, totals)
            return tokenise(job, workers, progress, test)

    choice = first_choice(recipe.tokenizer.backend)
    if choice.notice:
        observer.notice(choice.notice)
    try:
        made = attempt(choice)
    except BackendRefused as error:
        if recipe.tokenizer.backend != "auto":
            raise TokenizerError(
                f"tokenizer.backend: {error}; use backend: auto or backend: tokenizers"
            ) from error
        choice = reference_choice(str(error))
        observer.notice(choice.notice or "")
        made = attempt(choice)
    observer.end(f"{last[:, 1].sum() / 1e6:.1f} MB of text, {last[:, 2].sum():,} tokens")
    return made, int(last[:, 1].sum())


def memory_dir() -> Path:
    """Where verdicts on tokenizer backends are remembered, for this user and machine."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "curate" / "backends"


def sample_documents(plans: Sequence[FilePlan]) -> list[str]:
    """Beginnings of documents at the start of some files, spread over the list of files."""
    chosen = list(plans)[:: max(1, len(plans) // 8)]
    room = SAMPLE_BYTES // max(1, len(chosen))
    sample: list[str] = []
    reader = SegmentReader()
    for plan in chosen:
        taken = 0
        for block in reader.read(plan.beginning(4 * room)):
            for text in block.texts:
                piece = text[: room - taken]
                sample.append(piece)
                taken += len(piece)
                if taken >= room:
                    break
            break
    return sample


def _expand(domain: DomainRecipe, loaded: LoadedRecipe) -> list[InputPath]:
    local = [
        str(resolve(pattern, loaded.cache_dir)) if pattern.startswith(SCHEME) else pattern
        for pattern in _patterns(domain)
    ]
    try:
        return expand(local, _options(domain), loaded.base)
    except InputError as error:
        raise InputError(f"domains[{domain.name}].paths: {error}") from error


def _patterns(domain: DomainRecipe) -> list[str]:
    return [domain.paths] if isinstance(domain.paths, str) else domain.paths


def _options(domain: DomainRecipe) -> ReadOptions:
    return ReadOptions(domain.text, domain.id, domain.reader, domain.glob)


def _check_reader(domain: DomainRecipe) -> None:
    if domain.reader != "auto" and domain.reader not in READERS:
        raise RecipeError(
            f"domains[{domain.name}].reader: no reader is called '{domain.reader}' "
            f"(known: auto, {', '.join(READERS)})"
        )


def _open_domain(
    domain: DomainRecipe,
    plans: Sequence[FilePlan],
    store: TokenStore,
    tokenizer: Tokenizer,
    on_bad_record: str,
) -> DomainTokens:
    files = []
    for plan in plans:
        for file, key in zip(plan.files, keys_of(plan), strict=True):
            entries = store.file_entries(key, plan.count)
            if entries is None:
                raise InputError(f"{file.path}: changed while it was read; run again")
            files.append(DomainFile(file.path, tuple(entries)))
    opened = DomainTokens(domain.name, files, tokenizer.dtype)
    if on_bad_record == "error" and opened.bad_records:
        path, line, reason, _ = next(iter(opened.bad_record_rows()))
        raise InputError(
            f"{path}:{line}: {reason}; mend it, or set on_bad_record: quarantine "
            f"({opened.bad_records} bad records in '{domain.name}')"
        )
    if not len(opened):
        first = next(iter(opened.bad_record_rows()), None)
        reason = f"; {first[0]}:{first[1]}: {first[2]}" if first else f" ({files[0].path})"
        raise InputError(
            f"domain '{domain.name}' has no document: {len(files)} files, "
            f"{opened.bad_records} bad records{reason}"
        )
    return opened


def _held_out(
    domains: Sequence[DomainTokens], share: float, key: int
) -> tuple[NDArray[np.bool_], ...]:
    """Documents held out, by domain: also those that another domain holds out the text of."""
    chosen = [domain.validation(share, key) for domain in domains]
    held = [domain.content_high[own] for domain, own in zip(domains, chosen, strict=True)]
    texts = np.unique(np.concatenate(held))
    return tuple(
        own | np.isin(domain.content_high, texts)
        for domain, own in zip(domains, chosen, strict=True)
    )


def _backends(domains: Sequence[DomainTokens]) -> set[str]:
    return {
        stored.backend for domain in domains for file in domain.files for stored in file.entries
    }


def _content_hash(domains: Sequence[DomainTokens]) -> str:
    """Hash of the domains' documents in canonical order."""
    return hash_json([[domain.name, domain.fingerprint] for domain in domains])


@contextmanager
def _spill(cache: Path) -> Iterator[Path]:
    cache.mkdir(parents=True, exist_ok=True)
    for stale in cache.glob(".spill-[0-9]*-*"):  # of runs that were killed
        process = stale.name.split("-")[1]
        if process.isdigit() and not is_running(int(process)):
            shutil.rmtree(stale, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=f".spill-{os.getpid()}-", dir=cache))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
