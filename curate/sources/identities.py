"""Identify files by content hash and kind; files that have not changed are not read again.

A file counts as unchanged if its size, modification time, inode and status change time are. The
last also changes with permissions and links, which cost another look at the content. A file hashed
right after its modification is not cached, because another change in the same clock tick would go
unnoticed.
For URLs, the store's own information decides, such as an entity tag; objects are read under the
condition that they still have it.
"""

from __future__ import annotations

import io
import itertools
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import xxhash

from curate.errors import CurateError, InputError
from curate.runtime.files import (
    STAT_SAFETY_NANOSECONDS,
    hash_stream,
    is_url,
    open_input,
    read_known,
    read_new,
)
from curate.runtime.machine import fault_or
from curate.runtime.objects import is_lasting_version, is_object_url, map_apart
from curate.runtime.sealed import Notice, read_cached, write_sealed
from curate.runtime.workers import default_workers, map_tasks
from curate.sources.decompress.open import MAGIC_BYTES, compression_of, recognise_stream
from curate.sources.decompress.stream import RawInput
from curate.sources.discover import InputPath
from curate.sources.plans import HEAD_BYTES, reader_of, reader_of_name, recognise
from curate.sources.records import InputFile
from curate.sources.remote import hub_content_hash, pinned_parts, remote_details, remote_status

CACHE_NAME = "files.json"
CACHE_VERSION = 4
HASH_THREADS = 4
OBJECTS = 16
"""Objects that one process hashes at a time."""
READ_THREADS, AHEAD_BYTES = 8, 4 << 20
"""Small objects are fetched by so many threads, up to so many bytes ahead of their reader."""
LARGE_FILE_BYTES = 1 << 20
MANY_FILES = 40_000
"""More small files than this are hashed by several processes. Fewer are not worth it while another
core builds a tokenizer: tokenising 20,000 files of 10 KB on two cores took 1.03 times as long."""

Status = tuple[int | str, ...]
"""Size in bytes, and other properties that change when a file does."""


class Identity(NamedTuple):
    """A file's content hash and kind, and its status when it was read."""

    size_bytes: int
    content_hash: str
    reader: str
    compression: str
    status: Status
    is_lasting: bool
    """Whether the same status always means the same content, so that this can be cached."""


def identify(
    paths: Sequence[InputPath], cache: Path, notice: Notice = lambda _: None
) -> list[InputFile]:
    """Hash the files that are new or have changed.

    Args:
        paths: Files from `expand`; a path may occur twice.
        cache: Directory of the cache; identities are kept in `files.json` there.
        notice: Called with a line if that file is damaged.

    Returns:
        One file for each of `paths`, in the same order.

    Raises:
        InputError: A file cannot be read, or changes while it is read.
    """
    cached = read_cache(cache, notice)
    keys = {path: _cache_key(path) for path, _, _ in paths}
    identities: dict[str, Identity] = {}
    unknown: list[str] = []
    for path, key in keys.items():
        entry = cached.get(key)
        if entry is not None and tuple(entry[4:]) == (status := status_of(path)):
            identities[path] = Identity._make((*entry[:4], status, True))
        else:
            unknown.append(path)
    for path, identity in zip(unknown, hash_all(unknown), strict=True):
        identities[path] = identity
        cached.pop(keys[path], None)
        if identity.is_lasting:
            cached[keys[path]] = [
                identity.size_bytes, identity.content_hash, identity.reader, identity.compression,
                *identity.status,
            ]  # fmt: skip
    if unknown:
        write_cache(cache, cached)
    return [
        InputFile(
            path=path,
            name=name,
            size_bytes=identity.size_bytes,
            content_hash=identity.content_hash,
            reader=identity.reader,
            compression=identity.compression,
            status=identity.status,
        )
        for path, name, _ in paths
        for identity in (identities[path],)
    ]


def _cache_key(path: str) -> str:
    """Return a file's key in the cache, which does not depend on the working directory."""
    return path if path.startswith(os.sep) or is_url(path) else os.path.abspath(path)


def status_of(path: str) -> Status:
    """Return a file's status: size and `_local_status` if it is local."""
    if is_url(path):
        return remote_status(path)
    try:
        status = os.stat(path)
    except OSError as error:
        if os.path.islink(path) and not os.path.exists(path):
            raise InputError(f"{path}: a link to {os.readlink(path)}, which is gone") from error
        raise fault_or(InputError(f"{path}: {error.strerror}"), error, path) from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: not a regular file; name files that can be read again")
    return _local_status(status)


def _local_status(status: os.stat_result) -> Status:
    """Return size, modification time, inode and status change time, which no user sets."""
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns


def hash_all(paths: Sequence[str]) -> list[Identity]:
    """Hash files: small ones one after the other, then URLs and large ones in a few threads.

    Small files do not gain from threads, which spend their time passing the interpreter's lock on:
    20,000 files of 1 KB took 0.4 s in one thread and up to 1.2 s in four.
    """
    small: list[Identity | None]
    if len(paths) > MANY_FILES:
        step = MANY_FILES // 4
        runs = [paths[start : start + step] for start in range(0, len(paths), step)]
        hashed = itertools.chain(*map_tasks(_hash_run, runs, default_workers()))
        small = [None if row is None else Identity._make(row) for row in hashed]
    else:
        small = [hash_small(path) for path in paths]
    # Look at every file before hashing large ones, so that errors appear at once.
    left = [
        (path, status_of(path))
        for path, identity in zip(paths, small, strict=True)
        if identity is None
    ]
    objects = [row for row in left if is_object_url(row[0])]
    parts = [objects[start : start + OBJECTS] for start in range(0, len(objects), OBJECTS)]
    of_objects = itertools.chain(*map_apart(_hash_objects, parts))
    with ThreadPoolExecutor(HASH_THREADS) as threads:
        large = [threads.submit(hash_path, *row) for row in left if not is_object_url(row[0])]
        try:
            results = iter(large)
            return [
                identity
                or (
                    Identity._make(next(of_objects))
                    if is_object_url(path)
                    else next(results).result()
                )
                for path, identity in zip(paths, small, strict=True)
            ]
        finally:
            threads.shutdown(cancel_futures=True)


def _hash_objects(run: Sequence[tuple[str, Status]]) -> list[tuple[Any, ...]]:
    """Hash objects in a few threads, which wait for the store in turn."""
    with ThreadPoolExecutor(HASH_THREADS) as threads:
        return [tuple(identity) for identity in threads.map(lambda row: hash_path(*row), run)]


def _hash_run(run: Sequence[str]) -> list[tuple[Any, ...] | None]:
    """Hash small files; plain tuples pass between processes four times as fast as `Identity`."""
    identities = map(hash_small, run)
    return [None if identity is None else tuple(identity) for identity in identities]


def hash_small(path: str) -> Identity | None:
    """Hash a small local file in a third of the time of `hash_path`; None for other files.

    The status returned is from before reading, so if the file is written to meanwhile, `read_whole`
    and the next run see another status.

    Raises:
        InputError: The file cannot be read, or grows or shrinks.
    """
    if is_url(path):
        return None
    started = time.time_ns()
    try:
        content_and_status = read_new(path, LARGE_FILE_BYTES)
    except OSError as error:
        status_of(path)  # raises a more precise error if it can
        raise _unreadable(path, error) from error
    if content_and_status is None:
        return None
    content, status = content_and_status[0], _local_status(content_and_status[1])
    if len(content) != status[0]:
        raise _changing(path)
    compression = compression_of(content[:MAGIC_BYTES])
    if compression == "plain":
        reader = reader_of(content[:HEAD_BYTES], path)
    else:
        stream = recognise_stream(RawInput(io.BytesIO(content), path, len(content)))
        reader, compression = recognise(stream, path)
    return Identity(
        size_bytes=len(content),
        content_hash=xxhash.xxh3_128_hexdigest(content),
        reader=reader,
        compression=compression,
        status=status,
        is_lasting=_is_lasting(started, status),
    )


def read_whole(file: InputFile) -> bytes:
    """Read all bytes of a file that fits in memory, and check that it has not changed.

    Objects are read if they have the version that was identified; of other URLs only the length is
    compared; see `check_unchanged`.

    Raises:
        InputError: The file cannot be read, or has changed since it was identified.
    """
    now: Status = ()
    try:
        if is_url(file.path):
            with open_input(file.path, status=file.status) as remote:
                content = remote.read(file.size_bytes + 1)
        else:
            content, status = read_known(file.path, file.size_bytes)
            now = _local_status(status)
    except OSError as error:
        raise _unreadable(file.path, error) from error
    if len(content) != file.size_bytes:
        raise _changing(file.path)
    if now and file.status and now != file.status:
        if now[:3] != file.status[:3] or xxhash.xxh3_128_hexdigest(content) != file.content_hash:
            raise _changing(file.path)
    return content


def read_each(files: Sequence[InputFile]) -> Iterator[Callable[[], bytes]]:
    """Yield for each file a function like `read_whole`; objects are fetched a few ahead."""
    if not files or not is_object_url(files[0].path):
        for file in files:
            yield partial(read_whole, file)
        return
    with ThreadPoolExecutor(READ_THREADS) as threads:
        coming: deque[tuple[int, Future[bytes]]] = deque()
        ahead_bytes = 0
        try:
            for file in files:
                while coming and ahead_bytes + file.size_bytes > AHEAD_BYTES:
                    size_bytes, future = coming.popleft()
                    ahead_bytes -= size_bytes
                    yield future.result
                coming.append((file.size_bytes, threads.submit(read_whole, file)))
                ahead_bytes += file.size_bytes
            for _, future in coming:
                yield future.result
        finally:
            threads.shutdown(cancel_futures=True)


def hash_path(path: str, status: Status) -> Identity:
    """Hash a file of any size or a URL, and recognise its kind.

    Args:
        path: A local path or a URL.
        status: Its status now.

    Raises:
        InputError: The file cannot be read, or changes meanwhile.
    """
    started = time.time_ns()
    if pinned_parts(path):
        return _pinned_identity(path, status)
    try:
        with open_input(path, status=status) as file:
            content_hash = hash_stream(file)
            size_bytes = file.tell()
            stream = recognise_stream(RawInput(file, path, size_bytes))
            reader, compression = recognise(stream, path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if is_object_url(path):  # every read was of this version
        is_lasting = is_lasting_version(str(status[1]))
    elif status_of(path) != status:
        raise _changing(path)
    else:
        is_lasting = is_url(path) or _is_lasting(started, status)
    return Identity(
        size_bytes=size_bytes,
        content_hash=content_hash,
        reader=reader,
        compression=compression,
        status=status,
        is_lasting=is_lasting,
    )


def _pinned_identity(url: str, status: Status) -> Identity:
    """Identify a file at a commit of the Hub, which says its hash, so it is not read for that."""
    details = remote_details(url)
    reader, compression = reader_of_name(url), "plain"
    if reader != "parquet":  # the others are only known by their content
        with open_input(url) as file:
            stream = recognise_stream(RawInput(file, url, details["size"]))
            reader, compression = recognise(stream, url)
    return Identity(
        size_bytes=details["size"],
        content_hash=hub_content_hash(details),
        reader=reader,
        compression=compression,
        status=status,
        is_lasting=True,
    )


def _is_lasting(started: int, status: Status) -> bool:
    return started - int(status[1]) > STAT_SAFETY_NANOSECONDS


def check_unchanged(file: InputFile) -> None:
    """Check, after a local file was read again, that it has not changed since it was identified.

    URLs are not checked: objects were read as one version, and asking other stores for every part
    would take too long.

    Raises:
        InputError: The file has changed, or is gone.
    """
    if not file.status or is_url(file.path):
        return
    now = status_of(file.path)
    if now == file.status:
        return
    # With another status change time alone, permissions or links may have changed, or the content.
    if now[:3] != file.status[:3] or hash_path(file.path, now).content_hash != file.content_hash:
        raise _changing(file.path)


def _unreadable(path: str, error: OSError) -> CurateError:
    return fault_or(InputError(f"{path}: cannot be read ({error.strerror or error})"), error, path)


def _changing(path: str) -> InputError:
    return InputError(
        f"{path}: changed while it was being read; let whatever writes it finish, then run again"
    )


def read_cache(cache: Path, notice: Notice = lambda _: None) -> dict[str, list[Any]]:
    """Read the identities by path; none if the cache is absent, damaged or of another version.

    Args:
        cache: Directory of the cache.
        notice: Called with a line if the file is damaged.
    """
    payload = read_cached(cache / CACHE_NAME, "input files are hashed again", notice)
    if payload is None:
        return {}
    content = orjson.loads(payload)
    if content["version"] != CACHE_VERSION:
        return {}
    files: dict[str, list[Any]] = content["files"]
    return files


def write_cache(cache: Path, identities: dict[str, list[Any]]) -> None:
    """Write the identities by path.

    If two runs write at once, the last one wins, and the other's new files are hashed again later.
    """
    content = orjson.dumps({"version": CACHE_VERSION, "files": identities})
    write_sealed(cache / CACHE_NAME, content)
