"""Decide what a run that is started again may keep.

A killed run resumes because each stage leaves finished work where the next run finds it:

* Tokens: `tokens.store` keeps parts by the content of files, so only absent parts are made.
* Counts and entropies: in the cache, by the content of the domain.
* Small models: finished rows of `runs.csv`, and checkpoints (`proxy.checkpoint`).
* Datasets: the manifest is written last and removed first, so shards without one are written anew,
  and a dataset with the manifest of the same build is only read back.

Every file is written under a temporary name and renamed when whole (`runtime.files.atomic_path`).
"""

from __future__ import annotations

from pathlib import Path

from curate.dataset.manifest import load_manifest
from curate.errors import ShardError
from curate.recipe import LoadedRecipe
from curate.runtime.progress import Observer


def is_fresh(directory: Path, build_hash: str) -> bool:
    """Return whether a directory holds the finished dataset of a build, each file of its size.

    Args:
        directory: Output directory.
        build_hash: Hash of everything that the build is made from, `Planned.build_hash`.
    """
    try:
        manifest = load_manifest(directory)
    except ShardError:
        return False
    if manifest.build_hash != build_hash:
        return False
    files = [file for shard in manifest.shards for file in [*shard.files, shard.provenance]]
    files += manifest.folder_files
    return all(
        (directory / file.path).is_file() and (directory / file.path).stat().st_size == file.bytes
        for file in files
    )


def keeps_other_dataset(loaded: LoadedRecipe, observer: Observer) -> bool:
    """Return whether the output directory holds another recipe's dataset, which must stay as it is.

    Args:
        loaded: The recipe.
        observer: Receives a notice if it does.
    """
    try:
        is_other = load_manifest(loaded.output_dir).recipe_hash != loaded.hash
    except ShardError:
        return False
    if is_other:
        observer.notice(
            f"{loaded.output_dir} holds a dataset of another recipe: its artifacts are kept, and "
            "nothing is written"
        )
    return is_other
