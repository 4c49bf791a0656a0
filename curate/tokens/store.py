"""The token store: immutable parts on disk, and the domains they make up.

A *part* is a directory written once: flat little-endian tokens, a document table, the documents'
identifiers, the bad records, and `part.json`. This is sealed, and has the hashes of the other files
and one *entry* for each segment of a file that the part holds. Entries are identified by a hash of
the file's content and of how it was read, so a renamed file is recognised, and only new or changed
files are tokenised.

Every small addition makes a small part, so many of them are joined in one by a later run. This part
names those it *replaces*, which are not read any more, and removed after a week.

A *domain* consists of the entries of its files. Its documents are sorted by content hash, so that
nothing built from it depends on how files were cut, named or ordered.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from curate.runtime.files import (
    append,
    begin_directory,
    hash_bytes,
    place_directory,
    remove_at_once,
    remove_tree,
    sweep,
)
from curate.runtime.memory import placed
from curate.runtime.owners import ABANDONED_SECONDS
from curate.runtime.sealed import SealError, first_damaged, read_sealed, seal_of
from curate.runtime.workers import map_tasks
from curate.tokens.entries import OBJECTS, Entry, EntryTable, narrowed

TABLES = 64
"""Tables of a few thousand entries that are joined at once, where there may be very many."""

SCHEMA = 6
"""Version of parts. Raise it when their content changes, when the fields of `Entry` change their
order, and when files are cut into other segments, as segment numbers then mean other bytes."""

INFO = "part.json"

JOINED = "part-joined"
"""Start of the names of joined parts, after those of all others in the order of the alphabet."""

HASHED = ("tokens.bin", "documents.bin", "ids.bin", "bad.jsonl")
"""Files of a part whose hashes `part.json` holds."""

CHECK_BYTES = 64 << 20
"""Bytes of parts to check for each process: hashing them takes as long as starting one."""

SPILL_TOKENS = 16 << 20
"""Most tokens of an unfinished part in memory. A segment that is a whole file can be very large."""

SPILL_BAD_RECORDS = 1 << 14
"""Most bad records of an unfinished part in memory, each up to a kilobyte."""

DOCUMENT = np.dtype(
    [
        ("token_stop", "<u8"),  # one past the last token in the part, end token included
        ("text_bytes", "<u8"),
        ("content_high", "<u8"),  # xxh3-128 of the UTF-8 text
        ("content_low", "<u8"),
        ("identity", "<u8"),  # xxh3-64 of the record's own identifier
        ("id_stop", "<u8"),  # one past its last byte in ids.bin
        ("line", "<u8"),  # 1-based, from the start of the segment
    ]
)
"""One row of `documents.bin`."""


class PartInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """Content of `part.json`."""

    backend: str
    documents: int
    tokens: int
    hashes: tuple[str, ...]
    """Hashes of the files in `HASHED`, which are checked once by every command that uses them."""
    entries: list[Entry]
    replaces: tuple[str, ...] = ()
    """Names of the parts whose entries these are; see `join_parts`."""


class StoredBadRecord(msgspec.Struct, frozen=True):
    """One line of a part's `bad.jsonl`."""

    key: str
    segment: int
    line: int
    """1-based, from the start of the segment; 0 stands for the whole file."""
    reason: str
    excerpt: str


class TokenStore:
    """All parts made with one tokenizer."""

    def __init__(self, root: Path, fingerprint: str, dtype: np.dtype[Any]) -> None:
        """Open the store of a tokenizer.

        Args:
            root: The cache directory.
            fingerprint: `Tokenizer.fingerprint`.
            dtype: Type of a token.
        """
        self.directory = root / "tokens" / f"{fingerprint[:16]}-v{SCHEMA}"
        self.dtype = dtype
        self.parts: dict[Path, PartInfo] = {}
        """The parts that are used, each with its first entry only."""
        self._use(EntryTable.of(()))
        self._replaced: dict[str, Path] = {}
        """Names of parts that others replace, and the one that does."""
        self._damaged: dict[Path, Path] = {}
        """Parts whose `part.json` is damaged, and its path."""

    def scan(self, *, clean: bool = True) -> None:
        """Read the parts on disk that have not been read yet.

        Args:
            clean: Whether to remove what killed runs left.
        """
        if clean:
            sweep(self.directory)
        read: dict[Path, PartInfo] = {}
        tables, small = [self.entries], list[EntryTable]()
        held: list[tuple[Path, str, list[Entry]]] = []
        objects = 0
        # Backwards, joined parts come first, so that those they replace are not read.
        paths = sorted(self.directory.glob("part-*"), reverse=True)
        for path in paths:
            if path in self.parts or path.name in self._replaced:
                continue
            info = read_info(path)
            if info is not None:
                held.append((path, info.backend, info.entries))
                objects += len(info.entries)
                if objects >= OBJECTS:
                    small.append(EntryTable.of(held))
                    held, objects = [], 0
                if len(small) == TABLES:
                    tables.append(EntryTable.joined(small))
                    small = []
                read[path] = msgspec.structs.replace(info, entries=info.entries[:1])
                self._replaced.update(dict.fromkeys(info.replaces, path))
            elif path.is_dir():  # not removed meanwhile
                self._damaged[path] = path / INFO
        for path, info in read.items():
            if path.name not in self._replaced:  # by a part that was joined with it later
                self.parts[path] = info
        if read:
            joined = EntryTable.joined([*tables, *small, EntryTable.of(held)])
            del tables, small
            self._use(joined.of_parts(self.parts))
        if clean:
            self._remove_replaced(paths)

    def _use(self, entries: EntryTable) -> None:
        """Take entries, and index them by the first bits of a hash of their keys."""
        self.entries = entries
        """Entries of these parts; of those with the same key and segment, the first is used."""
        bits = max(1, len(entries).bit_length())  # a bucket or two for each entry
        self._shift = shift = 64 - bits
        hashes = map(xxhash.xxh3_64_intdigest, entries.keys.pieces())
        buckets = np.fromiter((number >> shift for number in hashes), np.uint32, len(entries))
        self._order = placed(narrowed(np.argsort(buckets, kind="stable"))).data
        counts = np.bincount(buckets, minlength=1 << bits)
        del buckets
        self._starts = placed(narrowed(np.append(0, np.cumsum(counts)))).data
        self._segments = entries.columns["segment"].data

    def _remove_replaced(self, paths: Sequence[Path]) -> None:
        """Remove parts that another has replaced for so long that no run uses them."""
        by_joined: dict[Path, list[Path]] = {}
        for path in paths:
            if path.name in self._replaced and path not in self.parts:
                by_joined.setdefault(self._replaced[path.name], []).append(path)
        for joined, replaced in by_joined.items():
            is_old = joined.is_dir() and time.time() - joined.stat().st_mtime > ABANDONED_SECONDS
            if is_old and part_damage(joined) is None:
                for path in replaced:
                    with contextlib.suppress(OSError):  # another user's; open on Windows; no room
                        remove_at_once(path)

    def damage(
        self, keys: Iterable[str], workers: int, on_tick: Callable[[], None] = lambda: None
    ) -> dict[Path, Path]:
        """Compare the parts that hold files with their hashes.

        Args:
            keys: Keys of the files; see `FilePlan.keys`.
            workers: Number of processes.
            on_tick: Called now and then.

        Returns:
            Damaged parts, each with the path of its first damaged file. A part whose `part.json` is
            damaged may hold any file, so it is always among them.
        """
        parts = sorted(self.parts_of(keys))
        token_bytes = sum(self.parts[part].tokens for part in parts) * self.dtype.itemsize
        workers = min(workers, 1 + token_bytes // CHECK_BYTES)
        checked = zip(parts, map_tasks(part_damage, parts, workers, on_tick), strict=True)
        return {**self._damaged, **{part: file for part, file in checked if file is not None}}

    def discard(self, parts: Collection[Path]) -> None:
        """Remove parts, so that what no other part holds is tokenised again."""
        for part in parts:
            remove_tree(part)
            self._damaged.pop(part, None)
            self.parts.pop(part, None)
        self._replaced = {name: by for name, by in self._replaced.items() if by not in parts}
        self._use(self.entries.of_parts(self.parts))

    def segments_of(self, key: str) -> dict[int, int]:
        """Return the rows in `entries` of a file's stored segments, by segment."""
        bucket = xxhash.xxh3_64_intdigest(key.encode()) >> self._shift
        keys = self.entries.keys
        rows: dict[int, int] = {}
        for row in self._order[self._starts[bucket] : self._starts[bucket + 1]]:
            if keys[row] == key:
                rows.setdefault(self._segments[row], row)
        return rows

    def parts_of(self, keys: Iterable[str]) -> set[Path]:
        """Return the parts that hold segments of files."""
        part = self.entries.columns["part"]
        numbers = {int(part[row]) for key in keys for row in self.segments_of(key).values()}
        return {self.entries.parts[number][0] for number in numbers}

    def begins_well(self, key: str) -> bool:
        """Whether the first segment of a file is stored, without a bad record."""
        first = self.segments_of(key).get(0)
        return first is not None and not self.entries.columns["bad_records"][first]

    def file_rows(self, key: str, count: int | None) -> tuple[int, ...] | None:
        """Return the rows in `entries` of a file's segments in order; None while any is missing.

        Args:
            key: See `FilePlan.keys`.
            count: Segments of the file; None if only reading it to the end shows how many.
        """
        stored = self.segments_of(key)
        if count is None:
            last = self.entries.columns["last"]
            ends = [segment for segment, row in stored.items() if last[row]]
            if not ends:
                return None
            count = min(ends) + 1
        if count == 1:  # a shortcut, as there may be very many small files
            return (stored[0],) if 0 in stored else None
        whole = tuple([stored[segment] for segment in range(count) if segment in stored])
        return whole if len(whole) == count else None


class PartWriter:
    """Collects entries in memory and on disk, and writes them as a part."""

    def __init__(self, store: Path, backend: str) -> None:
        """Start an empty part.

        Args:
            store: Directory of the store.
            backend: Name and version of the backend.
        """
        self._store = store
        self._backend = backend
        self._reset()

    def _reset(self) -> None:
        self._directory: Path | None = None
        self._hashes = {name: xxhash.xxh3_128() for name in HASHED}
        self._held_tokens = 0
        self.tokens: list[NDArray[Any]] = []
        self.documents: list[NDArray[Any]] = []
        self.ids: list[bytes] = []
        self.entries: list[Entry] = []
        self.bad: list[StoredBadRecord] = []
        self.token_count = 0
        self.document_count = 0
        self.id_bytes = 0
        self.text_bytes = 0

    def add_documents(
        self, tokens: NDArray[Any], table: NDArray[Any], ids: Sequence[bytes]
    ) -> None:
        """Append documents.

        Args:
            tokens: shape (tokens,), documents back to back with their end tokens.
            table: shape (documents,) of `DOCUMENT`, with stops relative to `tokens` and to the
                joined `ids`; changed in place.
            ids: Identifier of each document.
        """
        table["token_stop"] += self.token_count
        table["id_stop"] += self.id_bytes
        self.tokens.append(tokens)
        self.documents.append(table)
        joined = b"".join(ids)
        self.ids.append(joined)
        self.token_count += len(tokens)
        self._held_tokens += len(tokens)
        self.document_count += len(table)
        self.id_bytes += len(joined)
        self.text_bytes += int(table["text_bytes"].sum())

    @property
    def is_heavy(self) -> bool:
        """Whether enough is held in memory to call `spill`."""
        return self._held_tokens >= SPILL_TOKENS or len(self.bad) >= SPILL_BAD_RECORDS

    def spill(self) -> Path:
        """Write all but the entries to the temporary directory that becomes the part."""
        if self._directory is None:
            self._directory = begin_directory(self._store / "part")
        directory = self._directory
        records = [msgspec.json.encode(record) + b"\n" for record in self.bad]
        # Hash while writing: reading the files again would take longer than writing them.
        held: tuple[Sequence[Any], ...] = (self.tokens, self.documents, self.ids, records)
        for name, pieces in zip(HASHED, held, strict=True):
            append(directory / name, *pieces)
            for piece in pieces:
                self._hashes[name].update(memoryview(piece))
        self.tokens, self.documents, self.ids, self.bad = [], [], [], []
        self._held_tokens = 0
        return directory

    def discard(self) -> None:
        """Drop the collected entries, on disk too."""
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._reset()

    def flush(self, replaces: Sequence[str] = ()) -> Path | None:
        """Write the collected entries as one part, named by a hash of their names.

        Args:
            replaces: Names of the parts that were joined in this one.
        """
        if not self.entries:
            return None
        keys = [entry.name.encode() for entry in self.entries]
        kind = JOINED if replaces else "part"
        path = self._store / f"{kind}-{hash_bytes(*keys)[:24]}"
        directory = self.spill()
        info = PartInfo(
            backend=self._backend,
            documents=self.document_count,
            tokens=self.token_count,
            hashes=tuple(self._hashes[name].hexdigest() for name in HASHED),
            entries=self.entries,
            replaces=tuple(replaces),
        )
        payload = msgspec.json.encode(info)
        append(directory / INFO, seal_of(payload), payload)
        if path.is_dir() and part_damage(path) is not None:  # it would keep this one out
            remove_tree(path)
        place_directory(directory, path, durable=True)
        self._reset()
        return path


def read_info(part: Path) -> PartInfo | None:
    """Read `part.json`; None if it is absent or damaged."""
    try:
        return msgspec.json.decode(read_sealed(part / INFO), type=PartInfo)
    except (FileNotFoundError, SealError):
        return None


def part_damage(part: Path) -> Path | None:
    """Return the first file of a part that is absent or does not match its hash; None if all do."""
    info = read_info(part)
    if info is None:
        return part / INFO
    return first_damaged(part, HASHED, info.hashes)
