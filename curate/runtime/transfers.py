"""Send files to object storage and fetch them, whole or not at all.

Objects that are sent carry the hashes of their content as metadata, by which a later run tells what
is there already. S3 compares what it receives with a checksum of each part.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from curate.runtime.files import HASH_CHUNK_BYTES, atomic_path
from curate.runtime.objects import (
    MissingObject,
    ObjectChanged,
    ObjectExists,
    apart,
    object_info,
    patiently,
    read_object,
    store_of,
)

PIECE_BYTES = 8 << 20
"""Least bytes of a part of an upload, and most of a range that is fetched."""

MOST_PARTS = 9_000
"""Most parts of an upload; S3 takes 10,000."""

AT_ONCE = 4
"""Parts of one file that are sent or fetched at once."""


Version = dict[str, str]
"""Entity tag of an object, or what else its store tells versions by."""


@dataclass(frozen=True, slots=True)
class SentObject:
    """An object with the metadata that it was sent with."""

    bytes: int
    metadata: Mapping[str, str]


def describe(url: str) -> SentObject | None:
    """Ask a store about an object; None if it is absent."""
    return apart(_describe, url)


def _describe(url: str) -> SentObject | None:
    store, key = store_of(url)
    import obstore

    def asking() -> Any:
        return obstore.get(store, key, options={"head": True})

    try:
        answer = patiently(asking, url)
    except MissingObject:
        return None
    return SentObject(int(answer.meta["size"]), dict(answer.attributes))


def read_whole(url: str) -> tuple[bytes, Version] | None:
    """Read a small object, and return it with its version; None if it is absent."""
    return apart(_read_whole, url)


def _read_whole(url: str) -> tuple[bytes, Version] | None:
    store, key = store_of(url)
    import obstore

    try:
        row = patiently(lambda: obstore.head(store, key), url)
        seen = str(row["e_tag"] or row["last_modified"])
        content = read_object(url, 0, row["size"], seen)  # a short answer is asked for again
    except MissingObject:
        return None
    tags = {"e_tag": row["e_tag"], "version": row["version"]}
    return content, {name: tag for name, tag in tags.items() if tag is not None}


def write_object(url: str, content: bytes) -> None:
    """Write a small object in the place of any other."""
    apart(_write, url, content, None)


def write_new(url: str, content: bytes, version: Version | None = None) -> bool:
    """Write a small object if it is absent or still of a version, and say whether it was.

    Args:
        url: The object.
        content: What to write; no other process writes the same.
        version: Version that the object must have; None: it must be absent.
    """
    try:
        apart(_write, url, content, "create" if version is None else version)
    except (ObjectExists, ObjectChanged):
        current = read_whole(url)  # the answer to an earlier try may have been lost
        return current is not None and current[0] == content
    return True


def _write(url: str, content: bytes, mode: Any) -> None:
    store, key = store_of(url)
    import obstore

    patiently(lambda: obstore.put(store, key, content, mode=mode), url, "written")


def delete_objects(urls: Sequence[str]) -> None:
    """Delete objects; those that are absent stay absent."""
    apart(_delete, urls)


def _delete(urls: Sequence[str]) -> None:
    for url in urls:
        with suppress(MissingObject):
            _delete_one(url)


def _delete_one(url: str) -> None:
    store, key = store_of(url)
    import obstore

    patiently(lambda: obstore.delete(store, key), url, "deleted")


def upload(path: Path, url: str) -> None:
    """Send a file, unless the object is there with its size and hashes.

    Args:
        path: The file.
        url: The object.
    """
    apart(_upload, path, url)


def _upload(path: Path, url: str) -> None:
    size_bytes, hashes = path.stat().st_size, _hashes(path)
    there = _describe(url)
    if there is not None and there.bytes == size_bytes and hashes.items() <= there.metadata.items():
        return
    store, key = store_of(url)
    import obstore

    def sending() -> None:
        obstore.put(
            store,
            key,
            path,
            attributes=hashes,
            chunk_size=max(PIECE_BYTES, -(-size_bytes // MOST_PARTS)),
            max_concurrency=AT_ONCE,
        )

    patiently(sending, url, "written")


def _hashes(path: Path) -> dict[str, str]:
    """Return the metadata of an object with a file's content."""
    fast, strong, chunk = xxhash.xxh3_128(), hashlib.sha256(), bytearray(HASH_CHUNK_BYTES)
    with path.open("rb", buffering=0) as file:
        while read_bytes := file.readinto(chunk):
            fast.update(memoryview(chunk)[:read_bytes])
            strong.update(memoryview(chunk)[:read_bytes])
    return {"xxh3": fast.hexdigest(), "sha256": strong.hexdigest()}


def download(url: str, path: Path) -> bool:
    """Fetch one version of an object, and say whether it is there.

    Args:
        url: The object.
        path: The file to write, whole or not at all.

    Raises:
        ObjectChanged: The object was replaced meanwhile.
    """
    return apart(_download, url, path)


def _download(url: str, path: Path) -> bool:
    try:
        info = object_info(url)
    except MissingObject:
        return False
    with atomic_path(path) as temporary, temporary.open("r+b") as file:
        turn = threading.Lock()

        def fetch(start: int) -> None:
            stop = min(info.size_bytes, start + PIECE_BYTES)
            content = read_object(url, start, stop, info.version)
            with turn:
                file.seek(start)
                file.write(content)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(fetch, range(0, info.size_bytes, PIECE_BYTES)))  # raises what one raised
    return True
