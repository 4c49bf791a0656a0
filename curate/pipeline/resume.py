"""Decide what a run that is started again may keep.

A killed run resumes because each stage leaves finished work where the next run finds it:

* Tokens: `tokens.store` keeps parts by the content of files, so only absent parts are made.
* Counts and entropies: in the cache, by the content of the domain.
* Small models: finished rows of `runs.csv`, and checkpoints (`proxy.checkpoint`).
* Datasets: the manifest is written last and removed first, so shards without one are written anew,
  and a dataset with the manifest of the same build is only read back. Its artifacts are written
  between the two, so those beside a manifest are those of its build.

Every file is written under a temporary name and renamed when whole (`runtime.files.atomic_path`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curate.dataset.manifest import Manifest, file_damage, find_manifest
from curate.dataset.staged import find_stages
from curate.errors import ShardError
from curate.pipeline.shrinkage import last_build
from curate.recipe import LoadedRecipe
from curate.runtime.locks import directory_lock
from curate.runtime.progress import Observer
from curate.runtime.registry import list_first


def is_fresh(directory: Path, manifest: Manifest, build_hash: str) -> bool:
    """Return whether a finished dataset is that of a build, each file of its size.

    Args:
        directory: Directory of the dataset.
        manifest: Its manifest.
        build_hash: Hash of everything that the build is made from, `Planned.build_hash`.
    """
    if manifest.build_hash != build_hash:
        return False
    files = [file for shard in manifest.shards for file in [*shard.files, shard.provenance]]
    files += manifest.folder_files
    return all(file_damage(directory, file, hashed=False) is None for file in files)


def refuse_other_dataset(loaded: LoadedRecipe, overwrite: bool) -> None:
    """Refuse to replace a finished dataset of another recipe, unless the user says so.

    Another recipe is one that differs in anything that shapes the dataset (`LoadedRecipe.hash`).
    The same recipe with changed documents, or with another version of curate, replaces its dataset.

    Args:
        loaded: The recipe to build.
        overwrite: Whether the user has agreed.

    Raises:
        ShardError: There is such a dataset, and the user has not agreed.
    """
    manifest = find_manifest(loaded.output_dir)
    stages = None if manifest is not None else find_stages(loaded.output_dir)
    if stages is not None and not overwrite:
        names = list_first([stage.name for stage in stages.stages])
        raise ShardError(
            f"{loaded.output_dir}: holds a dataset in stages ({names}); give another directory "
            "with --out DIR, or replace the dataset with --overwrite"
        )
    if manifest is None or overwrite or manifest.recipe_hash == loaded.hash:
        return
    raise ShardError(
        f"{loaded.output_dir}: holds a dataset of another recipe, with {manifest.budget_tokens:,} "
        "tokens; give another directory with --out DIR, or replace the dataset with --overwrite"
    )


@contextmanager
def writable_artifacts(loaded: LoadedRecipe, observer: Observer) -> Iterator[bool]:
    """Lock the output directory, and yield whether artifacts may be written there.

    They may not beside a finished dataset, whose manifest has their hashes: only a build replaces
    those. Then nothing is locked either.

    Args:
        loaded: The recipe.
        observer: Receives a notice if the dataset is one of another recipe.

    Raises:
        ShardError: Another process has locked the directory, or nothing can be written there.
    """
    directory = loaded.output_dir
    if _keeps_dataset(loaded, observer):
        yield False
        return
    with directory_lock(directory):
        yield not _keeps_dataset(loaded, observer)  # it may have been finished meanwhile


def notice_other_documents(loaded: LoadedRecipe, content_hash: str, observer: Observer) -> None:
    """Say that the dataset in the output directory is of other documents, if so.

    Its artifacts are kept, so they differ from what a command shows.

    Args:
        loaded: The recipe.
        content_hash: Hash of the documents that the command was about.
        observer: Receives the notice.
    """
    manifest = find_manifest(loaded.output_dir)
    if manifest is None or manifest.recipe_hash != loaded.hash:
        return  # of another recipe: `writable_artifacts` says so
    stats = last_build(loaded.output_dir).stats
    if stats is not None and stats.inputs.documents != content_hash:
        observer.notice(
            f"{loaded.output_dir} holds a dataset made from other documents: its artifacts are "
            "kept, and nothing is written; curate build replaces it"
        )


def _keeps_dataset(loaded: LoadedRecipe, observer: Observer) -> bool:
    manifest = find_manifest(loaded.output_dir) or find_stages(loaded.output_dir)
    if manifest is not None and manifest.recipe_hash != loaded.hash:
        observer.notice(
            f"{loaded.output_dir} holds a dataset of another recipe: its artifacts are kept, and "
            "nothing is written"
        )
    return manifest is not None
