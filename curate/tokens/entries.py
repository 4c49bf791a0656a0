"""Entries of the token store, and the files of a domain, in columns: there may be very many.

As objects, the entries of a million small files take half a kilobyte each. Here they take what
their numbers and names do, and objects are made for those that are asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from os.path import commonprefix
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from curate.runtime.memory import Columns, block_rows, columns, next_block

OBJECTS = 1 << 12
"""Entries that are objects at a time."""


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
    """Decompressed bytes, those that could not be read included by estimate; 0 for small files,
    which are read in groups.
    """
    text_bytes: int
    bad_records: int
    lost_bytes: int = 0
    """Bytes of the bad records, which are among `raw_bytes`."""
    lost_records: int = 0
    """Records that were lost with the bad ones, these included."""

    @property
    def name(self) -> str:
        """File and segment in one word."""
        return f"{self.key}:{self.segment}"

    @property
    def documents(self) -> int:
        """Number of documents."""
        return self.document_stop - self.document_start


FIELDS = Entry.__struct_fields__
"""Names of its fields, in their order."""


class StoredEntry(NamedTuple):
    """An entry and its part."""

    part: Path
    entry: Entry
    backend: str
    """Name and version of the backend that tokenised it."""


class DomainFile(NamedTuple):
    """A file of a domain and its stored entries in order."""

    path: str
    entries: tuple[StoredEntry, ...]
    size_bytes: int = 0
    """Its bytes on disk; 0 if unknown."""


class Names:
    """Many short strings, joined."""

    def __init__(self, content: bytes | memoryview, stops: NDArray[Any], prefix: str = "") -> None:
        """Take joined strings.

        Args:
            content: Their bytes, without the prefix.
            stops: shape (strings,), one past the last byte of each.
            prefix: Text that all of them begin with.
        """
        self.prefix = prefix
        self.content = memoryview(content)
        self.stops = stops
        self._stops = stops.data  # gives a number in a fifth of the time that an array takes

    @classmethod
    def of(cls, strings: Iterable[str], prefix: str = "") -> Names:
        """Join strings, all of which begin with the prefix."""
        encoded = [string[len(prefix) :].encode(errors="surrogatepass") for string in strings]
        return cls(b"".join(encoded), narrowed(np.cumsum([0, *map(len, encoded)])[1:]), prefix)

    def __reduce__(self) -> tuple[Any, ...]:
        """Send other processes what it is made of."""
        return Names, (bytes(self.content), self.stops, self.prefix)

    def __len__(self) -> int:
        """Count the strings."""
        return len(self.stops)

    def __getitem__(self, number: int) -> str:
        """Return one string."""
        start = self._stops[number - 1] if number else 0
        rest = str(self.content[start : self._stops[number]], errors="surrogatepass")
        return self.prefix + rest

    def __iter__(self) -> Iterator[str]:
        """Yield all strings."""
        for piece in self.pieces():
            yield self.prefix + piece.decode(errors="surrogatepass")

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes of each string, without the prefix."""
        start = 0
        for rows in _ranges(len(self)):
            for stop in self.stops[rows].tolist():
                yield bytes(self.content[start:stop])
                start = stop

    def take(self, numbers: NDArray[Any]) -> Names:
        """Return some of the strings, in the order of their numbers."""
        return Names.of(map(self.__getitem__, numbers.tolist()))


@dataclass(frozen=True)
class EntryTable:
    """Entries of parts."""

    parts: tuple[tuple[Path, str], ...]
    """Each part, and the backend that tokenised it."""
    keys: Names
    paths: Names
    columns: Columns
    """For each of the other fields of `Entry`, shape (entries,), as small as its numbers allow;
    and `part`, the index into `parts`.
    """

    @classmethod
    def of(cls, parts: Sequence[tuple[Path, str, Sequence[Entry]]]) -> EntryTable:
        """Collect entries.

        Args:
            parts: Each part, the backend that tokenised it, and its entries.
        """
        rows = [msgspec.structs.astuple(entry) for _, _, entries in parts for entry in entries]
        fields = zip(*rows, strict=True) if rows else ((),) * len(FIELDS)
        values = dict(zip(FIELDS, fields, strict=True))
        keys, paths = Names.of(values.pop("key")), Names.of(values.pop("path"))
        columns = {name: narrowed(np.array(row, np.int64)) for name, row in values.items()}
        columns["last"] = columns["last"].astype(np.bool_)
        counts = [len(entries) for _, _, entries in parts]
        columns["part"] = narrowed(np.repeat(np.arange(len(parts)), counts))
        return cls(tuple((part, backend) for part, backend, _ in parts), keys, paths, columns)

    @classmethod
    def joined(cls, tables: Sequence[EntryTable]) -> EntryTable:
        """Join at least one table, in memory or, where there is no room, in a file."""
        pieces = {name: [table.columns[name] for table in tables] for name in tables[0].columns}
        pieces["part"] = _shifted(pieces["part"], [len(table.parts) for table in tables])
        contents = []
        for kind in ("keys", "paths"):
            names: list[Names] = [getattr(table, kind) for table in tables]
            assert not any(one.prefix for one in names)  # only a domain's paths have one
            bodies = [np.frombuffer(one.content, np.uint8) for one in names]
            contents.append(_joined({kind: bodies})[kind].data)
            pieces[kind] = _shifted([one.stops for one in names], [*map(len, bodies)])
        joined = _joined(pieces)
        keys, paths = map(Names, contents, (joined.pop("keys"), joined.pop("paths")))
        return cls(tuple(pair for table in tables for pair in table.parts), keys, paths, joined)

    def __len__(self) -> int:
        """Count the entries."""
        return len(self.keys)

    def take(self, rows: NDArray[Any]) -> EntryTable:
        """Return the entries of rows, in their order, and only the parts that hold them."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        used = sorted(set(columns["part"].tolist()))
        columns["part"] = narrowed(np.searchsorted(used, columns["part"]))
        parts = tuple(self.parts[number] for number in used)
        return EntryTable(parts, self.keys.take(rows), self.paths.take(rows), columns)

    def of_parts(self, parts: Collection[Path]) -> EntryTable:
        """Return the entries of some of the parts."""
        among = np.array([part in parts for part, _ in self.parts], np.bool_)
        if among.all():
            return self
        return self.take(np.flatnonzero(among[self.columns["part"]]))

    def stored(self, rows: NDArray[np.int64]) -> Iterator[StoredEntry]:
        """Yield the entries of rows."""
        for some in _ranges(len(rows)):
            numbers = rows[some].tolist()
            of_field: dict[str, Iterable[Any]] = {
                name: self.columns[name][rows[some]].tolist() for name in self.columns
            }
            of_field["key"] = map(self.keys.__getitem__, numbers)
            of_field["path"] = map(self.paths.__getitem__, numbers)
            made = map(Entry, *(of_field[name] for name in FIELDS))
            for entry, number in zip(made, of_field["part"], strict=True):
                part, backend = self.parts[number]
                yield StoredEntry(part, entry, backend)


class DomainFiles:
    """The files of a domain, each with its entries in order."""

    def __init__(
        self,
        table: EntryTable,
        entries: Sequence[Sequence[int]],
        paths: Sequence[str],
        sizes: Sequence[int] | None = None,
    ) -> None:
        """Collect files.

        Args:
            table: Entries, of this and other domains.
            entries: For each file, the rows of its entries in order.
            paths: Their paths.
            sizes: Their bytes on disk; None if unknown.
        """
        self.table = table
        self.rows = narrowed(np.array([row for rows in entries for row in rows], np.int64))
        """shape (entries,), the entries' places in the table, file after file."""
        self.stops = narrowed(np.cumsum([0, *map(len, entries)])[1:])
        """shape (files,), one past each file's last entry among these."""
        self.paths = Names.of(paths, commonprefix(paths))
        self.sizes = narrowed(np.array(sizes or [0] * len(paths), np.int64))

    @classmethod
    def of(cls, files: Iterable[DomainFile]) -> DomainFiles:
        """Collect files that were made one by one."""
        files = tuple(files)
        stored = [one for file in files for one in file.entries]
        table = EntryTable.of([(one.part, one.backend, [one.entry]) for one in stored])
        stops = np.cumsum([0, *(len(file.entries) for file in files)]).tolist()
        return cls(
            table,
            [range(start, stop) for start, stop in pairwise(stops)],
            [file.path for file in files],
            [file.size_bytes for file in files],
        )

    def __len__(self) -> int:
        """Count the files."""
        return len(self.stops)

    def __getitem__(self, number: int) -> DomainFile:
        """Return one file."""
        start = self.stops[number - 1] if number else 0
        rows = self.rows[start : self.stops[number]]
        return DomainFile(
            self.paths[number], tuple(self.table.stored(rows)), int(self.sizes[number])
        )

    def __iter__(self) -> Iterator[DomainFile]:
        """Yield all files."""
        entries = self.table.stored(self.rows)
        start = 0
        for path, stop, size in zip(self.paths, self.stops, self.sizes, strict=True):
            held = tuple(islice(entries, int(stop - start)))
            yield DomainFile(path, held, int(size))
            start = int(stop)

    def __getstate__(self) -> dict[str, Any]:
        """Send other processes the entries of these files, without those of other domains."""
        rows = np.arange(len(self.rows))
        return {
            **self.__dict__, "table": self.table.take(self.rows), "rows": rows,
        }  # fmt: skip

    def column(self, name: str) -> NDArray[np.int64]:
        """Return a column of the table, shape (entries,) of these files."""
        numbers: NDArray[np.int64] = self.table.columns[name][self.rows].astype(np.int64)
        return numbers

    @property
    def backends(self) -> set[str]:
        """Return the backends that tokenised the files."""
        return {self.table.parts[part][1] for part in set(self.column("part").tolist())}

    @property
    def documents(self) -> NDArray[np.int64]:
        """Return the documents of each entry."""
        return self.column("document_stop") - self.column("document_start")

    def summed(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sum numbers of shape (entries,) for each file."""
        sums = np.cumsum(np.append(0, numbers))
        ends: NDArray[np.int64] = np.append(0, self.stops)
        return np.diff(sums[ends])

    def lines_before(self) -> NDArray[np.int64]:
        """Return, for each entry, the lines of the entries before it in its file."""
        lines = self.column("lines")
        before = np.cumsum(lines) - lines
        counts = np.diff(self.stops, prepend=0)
        firsts = (self.stops - counts)[counts > 0]
        starts: NDArray[np.int64] = np.repeat(before[firsts], counts[counts > 0])
        return before - starts


def narrowed(numbers: NDArray[Any]) -> NDArray[Any]:
    """Return numbers from 0 on in the smallest unsigned type that holds them all.

    Example:
        >>> narrowed(np.array([3, 256])).dtype
        dtype('uint16')
    """
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


def _shifted(arrays: Sequence[NDArray[Any]], lengths: Sequence[int]) -> list[NDArray[Any]]:
    """Shift the places in each array by the lengths of what is before it."""
    starts = np.cumsum([0, *lengths])[:-1]
    return [narrowed(a.astype(np.int64) + start) for a, start in zip(arrays, starts, strict=True)]


def _joined(pieces: Mapping[str, Sequence[NDArray[Any]]]) -> Columns:
    """Join the pieces of columns of one length, `narrowed` ones, in types that hold all of them."""
    rows = sum(map(len, next(iter(pieces.values()))))
    made = columns(rows, {name: np.result_type(*arrays) for name, arrays in pieces.items()})
    for name, arrays in pieces.items():
        np.concatenate(arrays, out=made[name])
        next_block(rows / (len(made) * block_rows()))
    return made


def _ranges(items: int) -> Iterator[slice]:
    for start in range(0, items, OBJECTS):
        yield slice(start, min(items, start + OBJECTS))
