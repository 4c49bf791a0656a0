"""The token store: immutable parts on disk, and the domains they make up.

A *part* is a directory written once: flat little-endian tokens, a document table, the documents'
own identifiers, the bad records, and `part.json` with one *entry* for each segment of a file that
it holds. Entries are known by the hash of the file's content and of how it was read, so a renamed
file is recognised, and a changed or added file costs only its own tokenising.

A *domain* is the entries of its files. Its documents are put in the order of their content hash,
which makes everything built on it independent of how files were cut, named and ordered.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError
from curate.sources.records import ReadOptions, SourceFile
from curate.storage import atomic_directory, hash_bytes, hash_file, hash_json, sweep

SCHEMA = 2

VALIDATION_KEY = 0x76616C69
"""Keeps the choice of validation documents apart from every other use of the content hash."""

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


class Entry(msgspec.Struct, frozen=True):
    """What a part holds of one segment of one file."""

    key: str
    """Of the file; see `file_key`."""
    segment: int
    last: bool
    """The segment reaches the end of its file."""
    path: str
    """Where the file was when it was read."""
    document_start: int
    document_stop: int
    token_start: int
    token_stop: int
    lines: int
    """Lines or rows read, blank and bad ones included."""
    raw_bytes: int
    text_bytes: int
    bad_records: int


class PartInfo(msgspec.Struct, frozen=True):
    """`part.json`."""

    schema: int
    backend: str
    dtype: str
    documents: int
    tokens: int
    checksum: str
    """Hash of `tokens.bin` and `documents.bin`; checked when a dataset is verified."""
    entries: list[Entry]


class StoredBadRecord(msgspec.Struct, frozen=True):
    """One line of a part's `bad.jsonl`."""

    key: str
    segment: int
    line: int
    """1-based, from the start of the segment; 0: the file as a whole."""
    reason: str
    excerpt: str


@lru_cache(maxsize=1 << 18)
def file_key(file: SourceFile, reader: str, options: ReadOptions) -> str:
    """Identity of a file's documents: its content and how it is read.

    Asked for several times a file, and there may be many files. The name counts only for plain
    text, where it is the document's identifier.
    """
    name = file.name if reader == "text" else ""
    return hash_bytes(file.content_hash.encode(), reader.encode(), name.encode(), _key(options))


@lru_cache(maxsize=1024)
def _key(options: ReadOptions) -> bytes:
    return hash_json(asdict(options)).encode()


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry and the part it is in."""

    part: Path
    entry: Entry
    backend: str
    """Name and version of what tokenised it."""


class TokenStore:
    """All parts made with one tokenizer."""

    def __init__(self, root: Path, fingerprint: str, dtype: np.dtype[Any]) -> None:
        """Open the store of a tokenizer under the cache directory `root`."""
        self.directory = root / "tokens" / fingerprint[:16]
        self.dtype = dtype
        self._entries: dict[str, dict[int, StoredEntry]] = {}
        self._seen: set[str] = set()

    @property
    def is_empty(self) -> bool:
        """Whether no part is known."""
        return not self._entries

    def scan(self) -> None:
        """Learn of the parts that are on disk and not known yet."""
        if not self.directory.is_dir():
            return
        sweep(self.directory)
        decoder = msgspec.json.Decoder(PartInfo)
        for path in sorted(self.directory.iterdir()):
            if path.name in self._seen or path.name.startswith("."):
                continue
            try:
                info = decoder.decode((path / "part.json").read_bytes())
            except (OSError, msgspec.DecodeError):
                continue  # not a part of this version: it is neither used nor touched
            if info.schema != SCHEMA or np.dtype(info.dtype) != self.dtype:
                continue
            if not self._whole(path, info):
                shutil.rmtree(path, ignore_errors=True)  # it would stand in the way of a whole one
                continue
            self._seen.add(path.name)
            for entry in info.entries:
                self._entries.setdefault(entry.key, {})[entry.segment] = StoredEntry(
                    path, entry, info.backend
                )

    def segments_of(self, key: str) -> dict[int, StoredEntry]:
        """What is stored of a file, by segment."""
        return self._entries.get(key, {})

    def file_entries(self, key: str, count: int | None) -> list[StoredEntry] | None:
        """All segments of a file in order, or None while any is missing.

        Args:
            key: See `file_key`.
            count: Segments the file has; None where only reading to its end tells.
        """
        stored = self.segments_of(key)
        found = []
        for segment in range(len(stored)):
            if segment not in stored:
                return None
            found.append(stored[segment])
            if count is None and stored[segment].entry.last:
                return found
            if count is not None and segment + 1 == count:
                return found
        return found if count == 0 else None

    def _whole(self, path: Path, info: PartInfo) -> bool:
        """Sizes on disk as stated: a part that lost data is made again, never mapped."""
        expected = {
            "tokens.bin": info.tokens * self.dtype.itemsize,
            "documents.bin": info.documents * DOCUMENT.itemsize,
        }
        try:
            return all((path / name).stat().st_size == size for name, size in expected.items())
        except OSError:
            return False


class PartWriter:
    """Collects entries in memory and on disk until they are enough for a part."""

    def __init__(self, store: Path, dtype: np.dtype[Any], backend: str) -> None:
        """Write parts under `store`, naming the backend that made them."""
        self._store = store
        self._dtype = dtype
        self._backend = backend
        self._reset()

    def _reset(self) -> None:
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
        """Append documents; `table` has ends relative to `tokens` and to the joined `ids`."""
        table["token_stop"] += self.token_count
        table["id_stop"] += self.id_bytes
        self.tokens.append(tokens)
        self.documents.append(table)
        joined = b"".join(ids)
        self.ids.append(joined)
        self.token_count += len(tokens)
        self.document_count += len(table)
        self.id_bytes += len(joined)
        self.text_bytes += int(table["text_bytes"].sum())

    def flush(self) -> Path | None:
        """Write what was collected as one part; its name is made of what is in it."""
        if not self.entries:
            return None
        # The schema too: a part of another version would keep its place and never be read.
        keys = [f"schema {SCHEMA}".encode()]
        keys += [f"{entry.key}:{entry.segment}".encode() for entry in self.entries]
        path = self._store / f"part-{hash_bytes(*keys)[:24]}"
        with atomic_directory(path) as directory:
            with (directory / "tokens.bin").open("wb") as file:
                for tokens in self.tokens:
                    tokens.tofile(file)
            with (directory / "documents.bin").open("wb") as file:
                for table in self.documents:
                    table.tofile(file)
            (directory / "ids.bin").write_bytes(b"".join(self.ids))
            with (directory / "bad.jsonl").open("wb") as file:
                for record in self.bad:
                    file.write(msgspec.json.encode(record) + b"\n")
            info = PartInfo(
                SCHEMA, self._backend, self._dtype.str, self.document_count, self.token_count,
                part_checksum(directory), self.entries,
            )  # fmt: skip
            (directory / "part.json").write_bytes(msgspec.json.encode(info))
        self._reset()
        return path


def part_checksum(part: Path) -> str:
    """Hash of a part's tokens and document table."""
    hashes = [hash_file(part / name) for name in ("tokens.bin", "documents.bin")]
    return hash_json(hashes)


def part_damage(part: Path) -> str | None:
    """What is wrong with a part, in one line; None if it holds what was written."""
    try:
        info = msgspec.json.decode((part / "part.json").read_bytes(), type=PartInfo)
        whole = info.checksum == part_checksum(part)
    except (OSError, msgspec.DecodeError):
        whole = False
    if whole:
        return None
    return f"{part}: the token store is damaged there; remove that directory and build again"


@dataclass(frozen=True, slots=True)
class DomainFile:
    """A file of a domain and its stored entries in order."""

    path: str
    entries: tuple[StoredEntry, ...]


class DomainTokens:
    """The documents of a domain, in the order of their content hash, memory-mapped.

    Arrays have shape (documents,) and are aligned with each other. Memory is about 60 bytes a
    document; tokens stay on disk.
    """

    def __init__(self, name: str, files: Sequence[DomainFile], dtype: np.dtype[Any]) -> None:
        """Open the parts that hold `files`.

        Raises:
            InputError: A part cannot be mapped.
        """
        self.name = name
        self.files = tuple(files)
        self.dtype = dtype
        self._slices: list[StoredEntry] = []
        self._slice_file: list[int] = []
        self._slice_lines: list[int] = []
        for number, file in enumerate(files):
            lines = 0
            for stored in file.entries:
                if stored.entry.document_stop > stored.entry.document_start:
                    self._slices.append(stored)
                    self._slice_file.append(number)
                    self._slice_lines.append(lines)
                lines += stored.entry.lines
        paths = self.part_paths
        self.parts = [_map(path / "tokens.bin", dtype) for path in paths]
        unsorted = _columns(self._slices, paths)
        order = _canonical_order(
            unsorted["content_high"], unsorted["content_low"], unsorted["identity"]
        )
        self.part: NDArray[np.int64] = unsorted["part"][order]
        self.token_start: NDArray[np.int64] = unsorted["token_start"][order]
        self.tokens: NDArray[np.int64] = unsorted["tokens"][order]
        """Tokens of each document, its end token included."""
        self.text_bytes: NDArray[np.int64] = unsorted["text_bytes"][order]
        self.content_high: NDArray[np.uint64] = unsorted["content_high"][order]
        self.content_low: NDArray[np.uint64] = unsorted["content_low"][order]
        self.identity: NDArray[np.uint64] = unsorted["identity"][order]
        self._slice: NDArray[np.int64] = unsorted["slice"][order]
        self._row: NDArray[np.int64] = unsorted["row"][order]

    def __len__(self) -> int:
        """Documents."""
        return len(self.tokens)

    @property
    def part_paths(self) -> list[Path]:
        """Directories of the parts that hold its documents."""
        return sorted({stored.part for stored in self._slices})

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as names of files, not as tokens."""
        return DomainTokens, (self.name, self.files, self.dtype)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the documents, whatever files they lie in."""
        return hash_bytes(
            self.content_high.tobytes(), self.content_low.tobytes(), self.identity.tobytes()
        )

    @property
    def total_tokens(self) -> int:
        """Tokens of all documents, end tokens included."""
        return int(self.tokens.sum())

    @property
    def bad_records(self) -> int:
        """Records of the domain's files that gave no document."""
        return sum(stored.entry.bad_records for file in self.files for stored in file.entries)

    def validation(self, share: float, key: int) -> NDArray[np.bool_]:
        """Which documents are held out: decided by content hash, so duplicates stay together.

        A domain of few documents, of which chance would hold out none, gives the one with the
        smallest hash, if it has another.

        Args:
            share: Of documents, 0 to 1.
            key: Another key holds out others.
        """
        mixed = mix64(self.content_high ^ mix64_scalar(key ^ VALIDATION_KEY), self.content_low)
        chosen: NDArray[np.bool_] = mixed < np.uint64(min(int(share * 2.0**64), 2**64 - 1))
        if share > 0 and len(mixed) and not chosen.any():
            smallest = mixed == mixed.min()
            return smallest if not smallest.all() else chosen
        return chosen

    @cached_property
    def addresses(self) -> NDArray[np.uint64]:
        """Memory address of each document's first token."""
        bases = np.array([part.ctypes.data for part in self.parts], np.uint64)
        offsets = self.token_start.astype(np.uint64) * np.uint64(self.dtype.itemsize)
        return bases[self.part] + offsets if len(bases) else np.empty(0, np.uint64)

    def document(self, number: int) -> NDArray[Any]:
        """Tokens of one document, end token included."""
        start = int(self.token_start[number])
        tokens: NDArray[Any] = self.parts[self.part[number]][start : start + self.tokens[number]]
        return tokens

    def content_hash(self, number: int) -> str:
        """xxh3-128 of a document's text, 32 hexadecimal digits."""
        return f"{int(self.content_high[number]):016x}{int(self.content_low[number]):016x}"

    def locate(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Index into `files`, and 1-based line or row there, of each document."""
        lines = np.zeros(len(numbers), np.int64)
        slices = self._slice[numbers]
        for number in np.unique(slices):
            table = _map(self._slices[number].part / "documents.bin", DOCUMENT)
            chosen = slices == number
            rows = self._row[numbers[chosen]]
            lines[chosen] = table["line"][rows].astype(np.int64) + self._slice_lines[number]
        return np.array(self._slice_file, np.int64)[slices], lines

    def bad_record_rows(self) -> Iterable[tuple[str, int, str, str]]:
        """File, absolute line (0: the file as a whole), reason and excerpt of each bad record."""
        decoder = msgspec.json.Decoder(StoredBadRecord)
        for file in self.files:
            lines = 0
            for stored in file.entries:
                if stored.entry.bad_records:
                    for text in (stored.part / "bad.jsonl").read_bytes().splitlines():
                        record = decoder.decode(text)
                        same = (record.key, record.segment) == (
                            stored.entry.key, stored.entry.segment,
                        )  # fmt: skip
                        if same:
                            line = record.line + lines if record.line else 0
                            yield file.path, line, record.reason, record.excerpt
                lines += stored.entry.lines


def _columns(slices: Sequence[StoredEntry], paths: Sequence[Path]) -> dict[str, NDArray[Any]]:
    """The columns of all documents, in the order of the entries that hold them."""
    part_number = {path: number for number, path in enumerate(paths)}
    tables = [_map(path / "documents.bin", DOCUMENT) for path in paths]
    columns = [
        _run_columns(tables[part_number[path]], part_number[path], start, stop)
        for path, start, stop in _runs(slices)
    ]
    found: dict[str, NDArray[Any]] = {
        key: np.concatenate([column[key] for column in columns])
        if columns
        else np.empty(0, np.uint64 if key in _HASHES else np.int64)
        for key in _COLUMNS
    }
    documents = [stored.entry.document_stop - stored.entry.document_start for stored in slices]
    found["slice"] = np.repeat(np.arange(len(slices)), documents)
    return found


_HASHES = ("content_high", "content_low", "identity")

_COLUMNS = (*_HASHES, "part", "token_start", "tokens", "text_bytes", "row")


def _runs(slices: Sequence[StoredEntry]) -> Iterator[tuple[Path, int, int]]:
    """Part and document range of entries that follow each other in a part, taken together."""
    run: tuple[Path, int, int] | None = None
    for stored in slices:
        start, stop = stored.entry.document_start, stored.entry.document_stop
        if run is not None and run[0] == stored.part and run[2] == start:
            run = run[0], run[1], stop
            continue
        if run is not None:
            yield run
        run = stored.part, start, stop
    if run is not None:
        yield run


def _run_columns(table: NDArray[Any], part: int, start: int, stop: int) -> dict[str, NDArray[Any]]:
    rows = table[start:stop]
    first = table["token_stop"][start - 1] if start else 0
    stops = rows["token_stop"].astype(np.int64)
    starts = np.concatenate([np.array([first], np.int64), stops[:-1]])
    return {
        "content_high": rows["content_high"].copy(),
        "content_low": rows["content_low"].copy(),
        "identity": rows["identity"].copy(),
        "part": np.full(stop - start, part, np.int64),
        "token_start": starts,
        "tokens": stops - starts,
        "text_bytes": rows["text_bytes"].astype(np.int64),
        "row": np.arange(start, stop),
    }


def _canonical_order(
    high: NDArray[np.uint64], low: NDArray[np.uint64], identity: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Order by (high, low, identity); only equal `high` are looked at twice."""
    order = np.argsort(high, kind="stable")
    ranked = high[order]
    equal = ranked[1:] == ranked[:-1]
    if equal.any():
        tied = np.flatnonzero(np.append(equal, False) | np.insert(equal, 0, False))
        members = order[tied]
        again = np.lexsort((identity[members], low[members], high[members]))
        order[tied] = members[again]
    return order


def mix64(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix two 64-bit words into one, each bit depending on all (Stafford's variant 13 twice)."""
    value = high.copy()
    value ^= value >> np.uint64(30)
    value *= np.uint64(0xBF58476D1CE4E5B9)
    value ^= value >> np.uint64(27)
    value += low
    value *= np.uint64(0x94D049BB133111EB)
    value ^= value >> np.uint64(31)
    value *= np.uint64(0x9E3779B97F4A7C15)
    value ^= value >> np.uint64(32)
    return value


def mix64_scalar(value: int) -> np.uint64:
    """`mix64` of one number, for keys."""
    word = np.array([value & (2**64 - 1)], np.uint64)
    return np.uint64(mix64(word, word)[0])


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        if path.stat().st_size == 0:
            return np.empty(0, dtype)
        return np.memmap(path, dtype, mode="r")
    except OSError as error:
        raise InputError(f"{path}: cannot be mapped ({error})") from error
