"""Build a dataset: tokenise, measure, mix, plan, write, read back and certify.

Stages pass state through files in the dataset's directory, each written whole, each with the hash
of the recipe it was made from. An infeasible plan ends the build before any shard is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.dataset import manifest as dataset
from curate.dataset.manifest import Manifest
from curate.dataset.verify import verify
from curate.errors import ShardError, TokenizerError
from curate.pipeline.check import check_names
from curate.pipeline.plan import plan_dataset
from curate.pipeline.resume import is_fresh
from curate.pipeline.tokenize import TokenizedDomains
from curate.pipeline.write import write_dataset
from curate.plan.budget import Plan
from curate.recipe import LoadedRecipe
from curate.report.card import write_card
from curate.runtime.locks import directory_lock
from curate.runtime.progress import Observer
from curate.tokens import tokenizer as tokenizers
from curate.tokens.domain import DomainFile, DomainTokens
from curate.tokens.store import TokenStore


@dataclass(frozen=True)
class BuiltDataset:
    """A finished dataset."""

    directory: Path
    tokenized: TokenizedDomains
    plan: Plan
    certificate: dict[str, Any]
    reused: bool
    """Whether the same dataset existed already and was only read back."""


def build(loaded: LoadedRecipe, workers: int, observer: Observer) -> BuiltDataset:
    """Run every stage, reusing what is up to date.

    Args:
        loaded: The recipe.
        workers: Number of processes.
        observer: Receives progress and warnings.

    Raises:
        CurateError: Any user-fixable error, including an infeasible plan.
    """
    check_names(loaded)  # before a directory is made
    with directory_lock(loaded.output_dir):
        return _build(loaded, workers, observer)


def _build(loaded: LoadedRecipe, workers: int, observer: Observer) -> BuiltDataset:
    planned = plan_dataset(loaded, workers, observer)
    tokenized = planned.tokenized
    reused = is_fresh(loaded.output_dir, planned.build_hash)
    if reused:
        observer.notice("built already: reading it back")
    else:
        write_dataset(loaded, planned, workers, observer)
    observer.begin("verify", [loaded.recipe.name])
    certificate = verify(loaded.output_dir, tokenized.domains, workers, observer.tick)
    observer.end("ok" if certificate["ok"] else f"{len(certificate['problems'])} problems")
    if reused and not certificate["ok"]:  # files of the right sizes, but not with the right bytes
        observer.notice("the dataset is damaged: writing it again")
        write_dataset(loaded, planned, workers, observer)
        certificate, reused = verify(loaded.output_dir, tokenized.domains, workers), False
    write_card(loaded, tokenized.stats, certificate)
    return BuiltDataset(
        directory=loaded.output_dir,
        tokenized=tokenized,
        plan=planned.plan,
        certificate=certificate,
        reused=reused,
    )


def reopen(
    directory: Path, workers: int, observer: Observer
) -> tuple[Manifest, Sequence[DomainTokens] | None]:
    """Open a dataset: its manifest and, if its token store is there and whole, its domains.

    Args:
        directory: Directory of the dataset.
        workers: Number of processes that check the store.
        observer: Told why there is no store to compare with.

    Raises:
        ShardError: There is no finished dataset.
    """
    manifest = dataset.load_manifest(directory)
    try:
        tokenizer = tokenizers.load(directory / "tokenizer.json", manifest.tokenizer.eos)
    except TokenizerError as error:
        raise ShardError(str(error)) from error
    if tokenizer.fingerprint != manifest.tokenizer.fingerprint:
        raise ShardError(
            f"{directory}/tokenizer.json is not the tokenizer that made the dataset; restore it"
        )
    store = TokenStore(Path(manifest.cache), tokenizer.fingerprint, tokenizer.dtype)
    store.scan()
    domains = []
    damage = store.damage([record.content for record in manifest.inputs], workers, observer.tick)
    if damage:
        file = next(iter(damage.values()))
        observer.notice(f"{file} is damaged: tokens are compared by hash only; build mends it")
        return manifest, None
    for name in manifest.domains:
        files = []
        for record in manifest.inputs:
            if record.domain == name:
                entries = store.file_entries(record.content, record.segments)
                if entries is None:
                    observer.notice("the token store is missing; tokens are compared by hash only")
                    return manifest, None
                files.append(DomainFile(record.path, entries))
        domains.append(DomainTokens(name, files, tokenizer.dtype))
    return manifest, domains
