"""Join small parts of the token store, one of which every small addition leaves behind.

A run that finds many joins some of them before it opens any: thousands of files to open, check and
map become a few. Documents, their order and all that is built from them stay what they were. Parts
that were joined are kept for a week, since runs that began before may open them; runs that begin
afterwards do not look at them. A run that is killed leaves the small parts as they were, or these
and the joined one. Copies of a store in buckets are left out: there, parts are never replaced.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import xxhash

from curate.errors import EngineError
from curate.runtime.locks import GRACE_SECONDS, FileLock, held_by
from curate.runtime.progress import Observer
from curate.tokens.store import (
    DOCUMENT,
    HASHED,
    INFO,
    PartWriter,
    StoredBadRecord,
    TokenStore,
    read_info,
)

MANY_PARTS = 64
"""Fewest small parts that are joined, so that each byte is copied a few times only."""

SMALL_BYTES = 4 << 20
"""Size of a small part. Tokenising larger files makes parts of 15 MB and more."""

JOINED_BYTES = 16 << 20
"""Size after which a joined part is complete."""

RUN_BYTES = 256 << 20
"""Most bytes that one run joins: a second's work. Later runs join the rest."""

LOCK = ".join.lock"


def join_small_parts(store: TokenStore, observer: Observer) -> int:
    """Join small parts of a store, if there are many and no other process is at it.

    Args:
        store: A store that has been scanned. It goes on using the parts that it has.
        observer: Receives a notice if another machine's lock has prevented it for a while, as that
            of a run that was killed there.

    Returns:
        Number of parts that were joined.
    """
    if len(store.parts) < MANY_PARTS:
        return 0
    groups = list(_groups(store))
    if sum(map(len, groups)) < MANY_PARTS:
        return 0
    lock = FileLock(store.directory / LOCK)
    try:
        if not lock.take():
            holder = lock.holder()
            is_old = holder is not None and time.time() - holder.since > GRACE_SECONDS
            if holder is not None and holder.is_elsewhere and is_old:
                observer.notice(f"small parts of the token store are not joined: {held_by(lock)}")
            return 0
        try:
            return sum(_join(store, group) for group in groups)
        finally:
            lock.release()
    except (EngineError, OSError):  # no locks there, no room, or a killed run's of another user
        return 0  # a run needs no joined parts, and goes on with those that it has


def _groups(store: TokenStore) -> Iterator[list[Path]]:
    """Divide small parts into groups to join, each of one backend, in the order of their files."""
    small = [
        (info.backend, info.entries[0].path, path.name, path)
        for path, info in store.parts.items()
        if info.entries and info.tokens * store.dtype.itemsize < SMALL_BYTES
    ]
    group: list[Path] = []
    backend, group_bytes, run_bytes = "", 0, 0
    for part_backend, _, _, path in sorted(small):
        size_bytes = _size_bytes(path)
        if size_bytes >= SMALL_BYTES:
            continue
        run_bytes += size_bytes
        if group and (part_backend != backend or group_bytes >= JOINED_BYTES):
            yield group
            group, group_bytes = [], 0
        if run_bytes > RUN_BYTES:
            break
        backend = part_backend
        group.append(path)
        group_bytes += size_bytes
    if group:
        yield group


def _size_bytes(part: Path) -> int:
    """Return the bytes of a part's files, beyond any bound if one is absent."""
    try:
        return sum((part / name).stat().st_size for name in (*HASHED, INFO))
    except FileNotFoundError:
        return SMALL_BYTES


def _join(store: TokenStore, group: list[Path]) -> int:
    """Write one part in place of several, and return how many; damaged ones are left alone."""
    writer = PartWriter(store.directory, store.parts[group[0]].backend)
    replaced: set[str] = set()
    joined = 0
    try:
        for path in group:
            if _copy(path, store, writer):
                joined += 1
                replaced |= {path.name, *store.parts[path].replaces}
        if joined < 2:
            return 0
        here = {path.name for path in store.directory.glob("part-*")}
        writer.flush(replaces=sorted(replaced & here))
    finally:
        writer.discard()
    return joined


def _copy(part: Path, store: TokenStore, writer: PartWriter) -> bool:
    """Append a part to another, unless it is damaged or gone, and return whether it was."""
    info = read_info(part)
    if info is None:
        return False
    try:
        contents = [(part / name).read_bytes() for name in HASHED]
    except FileNotFoundError:
        return False
    if info.hashes != tuple(map(xxhash.xxh3_128_hexdigest, contents)):
        return False
    tokens, documents, ids, bad = contents
    documents_before, tokens_before = writer.document_count, writer.token_count
    table = np.frombuffer(documents, DOCUMENT).copy()
    writer.add_documents(np.frombuffer(tokens, store.dtype), table, [ids])
    writer.entries += [
        msgspec.structs.replace(
            entry,
            document_start=documents_before + entry.document_start,
            document_stop=documents_before + entry.document_stop,
            token_start=tokens_before + entry.token_start,
            token_stop=tokens_before + entry.token_stop,
        )
        for entry in info.entries
    ]
    writer.bad += [msgspec.json.decode(row, type=StoredBadRecord) for row in bad.splitlines()]
    if writer.is_heavy:
        writer.spill()
    return True
