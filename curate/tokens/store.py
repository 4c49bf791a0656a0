"""The token store: immutable parts on disk, and the domains they make up.

A *part* is a directory written once: flat little-endian tokens, a document table, the documents'
identifiers, the bad records, and `part.json` with one *entry* for each segment of a file that the
part holds. Entries are identified by a hash of the file's content and of how it was read, so a
renamed file is recognised, and only new or changed files are tokenised.

A *domain* consists of the entries of its files. Its documents are sorted by content hash, so that
nothing built from it depends on how files were cut, named or ordered.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from curate.runtime.files import (
    append,
    begin_directory,
    hash_bytes,
    hash_file,
    hash_json,
    place_directory,
    sweep,
)

SCHEMA = 4
"""Version of parts. Raise it when their content changes, when the fields of `Entry` change their
order, and when files are cut into other segments, as segment numbers then mean other bytes."""

HASHED = ("tokens.bin", "documents.bin", "ids.bin", "bad.jsonl")
"""Files of a part that its checksum covers."""

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


class Entry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The documents of a part that come from one segment of one file."""

    key: str
    """Key of the file; see `FilePlan.keys`."""
    segment: int
    last: bool
    """Whether the segment reaches the end of its file."""
    path: str
    """Path of the file when it was read."""
    document_start: int
    document_stop: int
    token_start: int
    token_stop: int
    lines: int
    """Lines or rows read, blank and bad ones included."""
    raw_bytes: int
    text_bytes: int
    bad_records: int

    @property
    def name(self) -> str:
        """File and segment in one word."""
        return f"{self.key}:{self.segment}"

    @property
    def documents(self) -> int:
        """Number of documents."""
        return self.document_stop - self.document_start


class PartInfo(msgspec.Struct, frozen=True):
    """Content of `part.json`."""

    schema: int
    backend: str
    dtype: str
    documents: int
    tokens: int
    checksum: str
    """Hash of the files in `HASHED`, checked when a dataset is verified."""
    entries: list[Entry]


class StoredBadRecord(msgspec.Struct, frozen=True):
    """One line of a part's `bad.jsonl`."""

    key: str
    segment: int
    line: int
    """1-based, from the start of the segment; 0 stands for the whole file."""
    reason: str
    excerpt: str


class StoredEntry(NamedTuple):
    """An entry and its part."""

    part: Path
    entry: Entry
    backend: str
    """Name and version of the backend that tokenised it."""


class TokenStore:
    """All parts made with one tokenizer."""

    def __init__(self, root: Path, fingerprint: str, dtype: np.dtype[Any]) -> None:
        """Open the store of a tokenizer.

        Args:
            root: The cache directory.
            fingerprint: `Tokenizer.fingerprint`.
            dtype: Type of a token.
        """
        self.directory = root / "tokens" / fingerprint[:16]
        self.dtype = dtype
        self._entries: dict[str, dict[int, StoredEntry]] = {}
        self._seen: set[str] = set()

    def scan(self) -> None:
        """Read the parts on disk that have not been read yet."""
        if not self.directory.is_dir():
            return
        sweep(self.directory)
        for path in sorted(self.directory.iterdir()):
            if path.name in self._seen or path.name.startswith("."):
                continue
            info = _read_info(path)
            if info is None:
                continue  # damaged or of another version: `PartWriter.flush` replaces damaged ones
            if info.schema != SCHEMA or np.dtype(info.dtype) != self.dtype:
                continue
            if not self._whole(path, info):
                shutil.rmtree(path, ignore_errors=True)  # it would block a whole one
                continue
            self._seen.add(path.name)
            for entry in info.entries:
                stored = StoredEntry(path, entry, info.backend)
                self._entries.setdefault(entry.key, {})[entry.segment] = stored

    def segments_of(self, key: str) -> dict[int, StoredEntry]:
        """Return the stored entries of a file, by segment."""
        return self._entries.get(key, {})

    def file_entries(self, key: str, count: int | None) -> tuple[StoredEntry, ...] | None:
        """Return all segments of a file in order, or None while any is missing.

        Args:
            key: See `FilePlan.keys`.
            count: Segments of the file; None if only reading it to the end shows how many.
        """
        stored = self.segments_of(key)
        if count == 1:  # a shortcut, as there may be very many small files
            return (stored[0],) if 0 in stored else None
        if count is None:
            ends = [segment for segment, part in stored.items() if part.entry.last]
            if not ends:
                return None
            count = min(ends) + 1
        whole = tuple(stored[segment] for segment in range(count) if segment in stored)
        return whole if len(whole) == count else None

    def _whole(self, path: Path, info: PartInfo) -> bool:
        """Whether files have the stated sizes; a part that lost data must not be mapped."""
        expected = {
            "tokens.bin": info.tokens * self.dtype.itemsize,
            "documents.bin": info.documents * DOCUMENT.itemsize,
        }
        try:
            return all((path / name).stat().st_size == size for name, size in expected.items())
        except OSError:
            return False


class PartWriter:
    """Collects entries in memory and on disk, and writes them as a part."""

    def __init__(self, store: Path, dtype: np.dtype[Any], backend: str) -> None:
        """Start an empty part.

        Args:
            store: Directory of the store.
            dtype: Type of a token.
            backend: Name and version of the backend.
        """
        self._store = store
        self._dtype = dtype
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

    def flush(self) -> Path | None:
        """Write the collected entries as one part, named by a hash of their names."""
        if not self.entries:
            return None
        # The name depends on the schema too, or a part of another version would keep this one out.
        keys = [f"schema {SCHEMA}".encode()]
        keys += [entry.name.encode() for entry in self.entries]
        path = self._store / f"part-{hash_bytes(*keys)[:24]}"
        directory = self.spill()
        checksum = hash_json([self._hashes[name].hexdigest() for name in HASHED])
        info = PartInfo(
            schema=SCHEMA,
            backend=self._backend,
            dtype=self._dtype.str,
            documents=self.document_count,
            tokens=self.token_count,
            checksum=checksum,
            entries=self.entries,
        )
        append(directory / "part.json", msgspec.json.encode(info))
        if path.is_dir() and _read_info(path) is None:  # its name says this version: damaged
            shutil.rmtree(path, ignore_errors=True)
        place_directory(directory, path)
        self._reset()
        return path


def _read_info(part: Path) -> PartInfo | None:
    """Read `part.json`; None if it is damaged or of another version."""
    try:
        return msgspec.json.decode((part / "part.json").read_bytes(), type=PartInfo)
    except (OSError, msgspec.DecodeError):
        return None


def part_damage(part: Path) -> str | None:
    """Describe the damage to a part in one line; None if its files match the checksum."""
    info = _read_info(part)
    with contextlib.suppress(OSError):
        if info and info.checksum == hash_json([hash_file(part / name) for name in HASHED]):
            return None
    return f"{part}: the token store is damaged there; remove that directory and build again"
