"""Local copies of datasets in buckets, for what reads them in place: loaders, look-ups, reports.

A copy lies in the user's cache. It holds the files beside the shards, and the shards and provenance
that were asked for; each is fetched once and compared with the manifest's hash. When the dataset in
the bucket is another one, its copy is made anew.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from curate.dataset.manifest import DatasetLayout, FileRecord, Manifest, ShardRecord, load_manifest
from curate.dataset.staged import find_stages
from curate.errors import CurateError, ShardError
from curate.runtime.files import atomic_path, hash_file, name_in_cache, remove_tree, user_cache
from curate.runtime.locks import FileLock
from curate.runtime.objects import refuse_access
from curate.runtime.transfers import download, read_whole


def copy_from_bucket(url: str, splits: Collection[str] = (), provenance: bool = False) -> Path:
    """Fetch what is needed of a dataset in a bucket, and return the directory of the copy.

    Args:
        url: URL of the dataset.
        splits: Splits whose shards are needed.
        provenance: Whether the provenance of every shard is needed.

    Raises:
        InputError: The URL holds credentials.
        ShardError: There is no finished dataset, or a file differs from the manifest.
        EngineError: The store does not answer, or the disk is too small.
    """
    refuse_access(url)  # before a lock is named like it
    name = name_in_cache(url)
    directory = user_cache() / "datasets" / name
    with FileLock(directory.with_name(f"{name}.lock")).held():  # ranks open it at the same time
        _copy(url, directory, splits, provenance)
    return directory


@contextlib.contextmanager
def at_hand(place: Path, url: str | None) -> Iterator[Path]:
    """Yield the directory of a dataset, or its copy without shards, during a block.

    Args:
        place: The directory.
        url: URL of the dataset, if it is in a bucket; errors in the block name this.
    """
    if url is None:
        yield place
        return
    directory = copy_from_bucket(url, provenance=True)
    try:
        yield directory
    except CurateError as error:
        raise type(error)(str(error).replace(str(directory), url)) from error


def fetch_shard(url: str, directory: Path, shard: ShardRecord) -> None:
    """Fetch a shard to a copy, unless it is there.

    Args:
        url: URL of the dataset.
        directory: Directory of the copy.
        shard: The shard.

    Raises:
        ShardError: A file is absent, or differs from the manifest.
        EngineError: The store does not answer.
    """
    with FileLock(directory.with_name(f"{directory.name}.lock")).held():
        for file in shard.files:
            if not _is_there(directory / file.path, file):
                _fetch(url, directory, file)


def _copy(url: str, directory: Path, splits: Collection[str], provenance: bool) -> None:
    answer = read_whole(f"{url}/manifest.json")
    if answer is None:
        raise ShardError(f"{url}: no manifest.json, so no finished dataset; run curate build")
    _renew(directory, answer[0])
    stages = find_stages(directory)
    if stages is None:
        needed = _needed(load_manifest(directory), splits, provenance)
    else:
        needed = [file for file in stages.files if "/" not in file.path]
    missing = [file for file in needed if not _is_there(directory / file.path, file)]
    _check_room(url, directory, missing)
    for file in missing:
        _fetch(url, directory, file)
    for stage in () if stages is None else stages.stages:
        _copy(f"{url}/{stage.name}", directory / stage.name, splits, provenance)


def _renew(directory: Path, content: bytes) -> None:
    """Drop the copy of another dataset, and begin that of this one."""
    path = DatasetLayout(directory).manifest
    if path.is_file() and path.read_bytes() == content:
        return
    remove_tree(directory)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _needed(manifest: Manifest, splits: Collection[str], provenance: bool) -> list[FileRecord]:
    files = [file for file in manifest.beside_shards if "/" not in file.path]
    for shard in manifest.shards:
        if shard.split in splits:
            files += shard.files
        if provenance or shard.split in splits:
            files.append(shard.provenance)
    return files


def _is_there(path: Path, file: FileRecord) -> bool:
    """Whether a file was fetched; it has its name only once it has been compared."""
    return path.is_file() and path.stat().st_size == file.bytes


def _check_room(url: str, directory: Path, missing: Collection[FileRecord]) -> None:
    needed, free = sum(file.bytes for file in missing), shutil.disk_usage(directory).free
    if needed > free:
        raise ShardError(
            f"{url}: its copy in {directory} needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are "
            "free; make room, or set XDG_CACHE_HOME to a directory on another disk"
        )


def _fetch(url: str, directory: Path, file: FileRecord) -> None:
    source, path = f"{url}/{file.path}", directory / file.path
    with atomic_path(path) as temporary:
        if not download(source, temporary):
            raise ShardError(f"{source}: missing; run curate verify {url}")
        if hash_file(temporary) != file.xxh3:
            raise ShardError(
                f"{source}: content differs from the manifest's hash; run curate verify {url}"
            )
