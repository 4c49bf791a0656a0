"""A domain's documents in the token store, in an order that does not depend on their files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from curate.errors import InputError
from curate.runtime.files import hash_bytes
from curate.runtime.mapping import map_file
from curate.tokens.store import DOCUMENT, StoredBadRecord, StoredEntry

VALIDATION_KEY = 0x76616C69
"""Makes the choice of validation documents independent of all other uses of the content hash."""


class DomainFile(NamedTuple):
    """A file of a domain and its stored entries in order."""

    path: str
    entries: tuple[StoredEntry, ...]
    size_bytes: int = 0
    """Its bytes on disk; 0 if unknown."""


class DomainTokens:
    """The documents of a domain, in the order of their content hash, memory-mapped.

    All arrays have shape (documents,), in the same order. A document takes about 60 bytes of
    memory; tokens stay on disk.
    """

    def __init__(self, name: str, files: Sequence[DomainFile], dtype: np.dtype[Any]) -> None:
        """Open the parts that hold `files`.

        Args:
            name: The domain's name.
            files: Its files.
            dtype: Type of a token in the store.

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
                if stored.entry.documents:
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
        """Count documents."""
        return len(self.tokens)

    @property
    def part_paths(self) -> list[Path]:
        """Directories of the parts that hold the domain's documents."""
        return sorted({stored.part for stored in self._slices})

    def __reduce__(self) -> tuple[Any, ...]:
        """Send names of files to other processes, not tokens."""
        return DomainTokens, (self.name, self.files, self.dtype)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the documents, which does not depend on the files that hold them."""
        return hash_bytes(
            self.content_high.tobytes(), self.content_low.tobytes(), self.identity.tobytes()
        )

    @property
    def total_tokens(self) -> int:
        """Tokens of all documents, end tokens included."""
        return int(self.tokens.sum())

    @property
    def bad_records(self) -> int:
        """Number of records that gave no document."""
        return sum(stored.entry.bad_records for file in self.files for stored in file.entries)

    def validation(self, share: float, key: int) -> NDArray[np.bool_]:
        """Select the documents to hold out by their content hash, so duplicates stay together.

        If chance selects none, as in a small domain, the document with the smallest hash is held
        out, unless it is the only one.

        Args:
            share: Share of the documents to hold out, 0 to 1.
            key: Each key holds out other documents.

        Returns:
            shape (documents,), True for documents held out.
        """
        mixed = mix64(self.content_high ^ mix64_scalar(key ^ VALIDATION_KEY), self.content_low)
        held_out: NDArray[np.bool_] = mixed < np.uint64(min(int(share * 2.0**64), 2**64 - 1))
        if share > 0 and len(mixed) and not held_out.any():
            smallest = mixed == mixed.min()
            return smallest if not smallest.all() else held_out
        return held_out

    @cached_property
    def addresses(self) -> NDArray[np.uint64]:
        """Memory address of each document's first token."""
        bases = np.array([part.ctypes.data for part in self.parts], np.uint64)
        offsets = self.token_start.astype(np.uint64) * np.uint64(self.dtype.itemsize)
        return bases[self.part] + offsets if len(bases) else np.empty(0, np.uint64)

    def document(self, number: int) -> NDArray[Any]:
        """Return the tokens of one document, end token included."""
        start = int(self.token_start[number])
        tokens: NDArray[Any] = self.parts[self.part[number]][start : start + self.tokens[number]]
        return tokens

    def content_hash(self, number: int) -> str:
        """Return the xxh3-128 of a document's text, 32 hexadecimal digits."""
        return f"{int(self.content_high[number]):016x}{int(self.content_low[number]):016x}"

    @property
    def file_numbers(self) -> NDArray[np.int64]:
        """Index into `files` of each document."""
        return np.array(self._slice_file, np.int64)[self._slice]

    def locate(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return each document's index into `files`, and its 1-based line or row there."""
        lines = np.zeros(len(numbers), np.int64)
        slices = self._slice[numbers]
        for number in np.unique(slices):
            table = _map(self._slices[number].part / "documents.bin", DOCUMENT)
            in_slice = slices == number
            rows = self._row[numbers[in_slice]]
            lines[in_slice] = table["line"][rows].astype(np.int64) + self._slice_lines[number]
        return np.array(self._slice_file, np.int64)[slices], lines

    def identifiers(self, numbers: NDArray[np.int64]) -> list[str]:
        """Return the identifier of each document's record; empty where it has none."""
        names: list[str] = []
        for slice_number, row in zip(self._slice[numbers], self._row[numbers], strict=True):
            part = self._slices[slice_number].part
            stops = _map(part / "documents.bin", DOCUMENT)["id_stop"]
            start = int(stops[row - 1]) if row else 0
            name = _map(part / "ids.bin", np.dtype(np.uint8))[start : int(stops[row])]
            names.append(name.tobytes().decode())
        return names

    def with_identifier(self, identifier: str) -> NDArray[np.int64]:
        """Return the numbers of the documents whose record has this identifier, ascending."""
        same_hash = self.identity == np.uint64(xxhash.xxh3_64_intdigest(identifier.encode()))
        numbers: NDArray[np.int64] = np.flatnonzero(same_hash)
        same = [name == identifier for name in self.identifiers(numbers)]
        kept: NDArray[np.int64] = numbers[np.array(same, bool)]
        return kept

    def bad_record_rows(
        self, files: Sequence[DomainFile] | None = None
    ) -> Iterable[tuple[str, int, str, str]]:
        """Yield path, line in the file (0: the whole file), reason and excerpt of bad records.

        Args:
            files: Files to look at, of this domain's; None for all.
        """
        part, records = None, {}
        for file in self.files if files is None else files:
            lines = 0
            for stored in file.entries:
                if stored.entry.bad_records:
                    if stored.part != part:  # entries of one part mostly follow each other
                        part, records = stored.part, _bad_records(stored.part)
                    for record in records[stored.entry.key, stored.entry.segment]:
                        line = record.line + lines if record.line else 0
                        yield file.path, line, record.reason, record.excerpt
                lines += stored.entry.lines


def _bad_records(part: Path) -> dict[tuple[str, int], list[StoredBadRecord]]:
    """Read the bad records of a part, by key and segment."""
    decoder = msgspec.json.Decoder(StoredBadRecord)
    records: dict[tuple[str, int], list[StoredBadRecord]] = {}
    for text in (part / "bad.jsonl").read_bytes().splitlines():
        record = decoder.decode(text)
        records.setdefault((record.key, record.segment), []).append(record)
    return records


def _columns(slices: Sequence[StoredEntry], paths: Sequence[Path]) -> dict[str, NDArray[Any]]:
    """Read the columns of all documents, in the order of the entries that hold them."""
    part_number = {path: number for number, path in enumerate(paths)}
    tables = [_map(path / "documents.bin", DOCUMENT) for path in paths]
    columns = [
        _run_columns(tables[part_number[path]], part_number[path], start, stop)
        for path, start, stop in _runs(slices)
    ]
    joined: dict[str, NDArray[Any]] = {
        key: np.concatenate([column[key] for column in columns])
        if columns
        else np.empty(0, np.uint64 if key in _HASHES else np.int64)
        for key in _COLUMNS
    }
    documents = [stored.entry.documents for stored in slices]
    joined["slice"] = np.repeat(np.arange(len(slices)), documents)
    return joined


_HASHES = ("content_high", "content_low", "identity")

_COLUMNS = (*_HASHES, "part", "token_start", "tokens", "text_bytes", "row")


def _runs(slices: Sequence[StoredEntry]) -> Iterator[tuple[Path, int, int]]:
    """Join entries that follow each other in a part; yield the part and its range of documents."""
    run: tuple[Path, int, int] | None = None
    for part, entry, _ in slices:
        start, stop = entry.document_start, entry.document_stop
        if run is not None and run[0] is part and run[2] == start:  # faster than `==`
            run = run[0], run[1], stop
            continue
        if run is not None:
            yield run
        run = part, start, stop
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
    """Sort by (high, low, identity), using the last two only for documents with equal `high`."""
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
    """Mix two 64-bit words into one, each bit of which depends on all bits of both.

    A finaliser like Stafford's variant 13 of MurmurHash3's, with the second word added halfway.
    """
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
    """Apply `mix64` to one number, as both words."""
    word = np.array([value & (2**64 - 1)], np.uint64)
    return np.uint64(mix64(word, word)[0])


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        return map_file(path, dtype)
    except OSError as error:
        raise InputError(f"{path}: cannot be mapped ({error})") from error
