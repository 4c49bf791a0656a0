"""A domain's documents in the token store, in an order that does not depend on their files."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from curate.errors import InputError
from curate.runtime.external_sort import sort_rows
from curate.runtime.machine import fault_or
from curate.runtime.mapping import map_file
from curate.runtime.memory import Columns, block_rows, blocks, columns, hash_arrays, take
from curate.runtime.sealed import SealError, read_sealed
from curate.tokens.entries import DomainFile, DomainFiles, StoredEntry, narrowed
from curate.tokens.store import DOCUMENT, StoredBadRecord

VALIDATION_KEY = 0x76616C69
"""Makes the choice of validation documents independent of all other uses of the content hash."""

BUCKET = np.dtype("<u2")
"""Type of the number of a sub-domain."""

DOCUMENT_COLUMNS = (
    "token_start", "tokens", "text_bytes", "content_high", "content_low", "identity", "entries",
    "_row",
)  # fmt: skip
"""Attributes of `DomainTokens` with a value for each document."""


class Selection(NamedTuple):
    """The documents of some files that a domain keeps, as curation decided.

    Both files are sealed, and have a number for each document of the files, in the order of a
    domain that keeps them all.
    """

    removals: Path | None
    """One byte a document: 0 if it stays, else the reason why it is removed; None: all stay."""
    buckets: Path | None = None
    """Two bytes a document, little-endian: its sub-domain; None where the domain is not split."""
    bucket: int = 0
    """Number of the sub-domain whose documents are kept."""
    has_bad_records: bool = True
    """Whether the files' bad records count here; of sub-domains, only in the first."""

    def kept(self, documents: int) -> NDArray[np.bool_]:
        """Return which documents are kept.

        Args:
            documents: Number of documents of the files.

        Raises:
            InputError: A file is absent, damaged, or of other documents.
        """
        removals = buckets = None
        if self.removals is not None:
            removals = read_numbers(self.removals, np.uint8, documents)
        if self.buckets is not None:
            buckets = read_numbers(self.buckets, BUCKET, documents)
        kept = document_mask(documents)
        for rows in blocks(documents):
            kept[rows] = True if removals is None else removals[rows] == 0
            if buckets is not None:
                kept[rows] &= buckets[rows] == self.bucket
        return kept


class DomainTokens:
    """The documents of a domain, in the order of their content hash.

    All arrays have shape (documents,), in the same order. They are in memory or mapped, see
    `runtime.memory`: go over them in blocks. Tokens stay on disk.
    """

    def __init__(
        self,
        name: str,
        files: DomainFiles | Iterable[DomainFile],
        dtype: np.dtype[Any],
        selection: Selection | None = None,
    ) -> None:
        """Open the parts that hold `files`.

        Args:
            name: The domain's name.
            files: Its files.
            dtype: Type of a token in the store.
            selection: The documents to keep; None for all.

        Raises:
            InputError: A part cannot be mapped, or the selection is not of these documents.
        """
        self.name = name
        self.selection: Selection | None = None
        self.files = files if isinstance(files, DomainFiles) else DomainFiles.of(files)
        self.dtype = dtype
        self._slices = narrowed(np.flatnonzero(self.files.documents))
        """Places of the entries with documents among those of the files."""
        numbers, places = np.unique(self.column("part"), return_inverse=True)
        held = [self.files.table.parts[number][0] for number in numbers.tolist()]
        self.part_paths = sorted(set(held))
        """Directories of the parts that hold the domain's documents."""
        number_of = {path: number for number, path in enumerate(self.part_paths)}
        self._slice_part = narrowed(np.array([number_of[path] for path in held], np.int64)[places])
        self.parts = [_map(path / "tokens.bin", dtype) for path in self.part_paths]
        table = sort_rows(partial(_batches, self), "content_high", _canonical_order)
        self.token_start: NDArray[np.int64] = table["token_start"]
        self.tokens: NDArray[np.int64] = table["tokens"]
        """Tokens of each document, its end token included."""
        self.text_bytes: NDArray[np.int64] = table["text_bytes"]
        self.content_high: NDArray[np.uint64] = table["content_high"]
        self.content_low: NDArray[np.uint64] = table["content_low"]
        self.identity: NDArray[np.uint64] = table["identity"]
        self.entries: NDArray[np.int32] = table["slice"]
        """Number of the entry that holds each document, among those with documents."""
        self._row: NDArray[np.int32] = table["row"]
        if selection is not None:
            self._keep(selection)

    def select(self, name: str, selection: Selection) -> DomainTokens:
        """Return a domain with some of this one's documents; this one must have them all.

        Args:
            name: Name of the new domain.
            selection: The documents to keep.

        Raises:
            InputError: The selection is not of these documents.
        """
        assert self.selection is None
        selected = object.__new__(DomainTokens)
        selected.__dict__.update(self.__dict__)  # `copy.copy` would sort the documents again
        for computed in ("fingerprint", "total_tokens", "total_bytes"):
            selected.__dict__.pop(computed, None)
        selected.name = name
        selected._keep(selection)
        return selected

    def _keep(self, selection: Selection) -> None:
        kept = selection.kept(len(self))
        count = sum(int(np.count_nonzero(kept[rows])) for rows in blocks(len(self)))
        made = columns(count, {name: getattr(self, name).dtype for name in DOCUMENT_COLUMNS})
        start = 0
        for rows in blocks(len(self)):
            here = kept[rows]
            stop = start + int(np.count_nonzero(here))
            for name, column in made.items():
                column[start:stop] = getattr(self, name)[rows][here]
            start = stop
        for name, column in made.items():
            setattr(self, name, column)
        self.selection = selection

    def __len__(self) -> int:
        """Count documents."""
        return len(self.tokens)

    @property
    def stem(self) -> str:
        """Return the name in those of files: on some systems they cannot hold a colon."""
        return stem_of(self.name)

    @property
    def is_part(self) -> bool:
        """Whether this is a sub-domain of a split domain."""
        return self.selection is not None and self.selection.buckets is not None

    def column(self, name: str) -> NDArray[np.int64]:
        """Return a column of `EntryTable.columns` for the entries with documents."""
        numbers: NDArray[np.int64] = self.files.column(name)[self._slices]
        return numbers

    def __reduce__(self) -> tuple[Any, ...]:
        """Send names of files to other processes, not tokens."""
        return DomainTokens, (self.name, self.files, self.dtype, self.selection)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the documents, which does not depend on the files that hold them."""
        return hash_arrays(self.content_high, self.content_low, self.identity)

    @cached_property
    def total_tokens(self) -> int:
        """Tokens of all documents, end tokens included."""
        return sum(int(self.tokens[rows].sum()) for rows in blocks(len(self)))

    @cached_property
    def total_bytes(self) -> int:
        """UTF-8 bytes of text of all documents."""
        return sum(int(self.text_bytes[rows].sum()) for rows in blocks(len(self)))

    @property
    def bad_records(self) -> int:
        """Number of records that gave no document."""
        if not self.has_bad_records:
            return 0
        return int(self.files.column("bad_records").sum())

    @property
    def has_bad_records(self) -> bool:
        """Whether what its files lost counts here: not in sub-domains after the first."""
        return self.selection is None or self.selection.has_bad_records

    def kept_by_entry(self) -> Iterator[tuple[StoredEntry, NDArray[np.bool_]]]:
        """Yield each entry with documents, and which of them the domain keeps, in their order."""
        starts = np.cumsum(np.append(0, self._slice_documents))
        kept = document_mask(int(starts[-1]))
        for rows in blocks(len(kept)):
            kept[rows] = False
        for rows in blocks(len(self)):
            kept[self.stored_positions(rows)] = True
        for stored, start, stop in zip(self.stored_entries, starts[:-1], starts[1:], strict=True):
            yield stored, kept[start:stop]

    @property
    def stored_entries(self) -> Iterator[StoredEntry]:
        """Entries with documents, in the order of the domain's files."""
        return self.files.table.stored(self.files.rows[self._slices])

    @property
    def _slice_documents(self) -> NDArray[np.int64]:
        return self.column("document_stop") - self.column("document_start")

    def stored_positions(self, rows: slice) -> NDArray[np.int64]:
        """Return the place of each document of a range among those of all `stored_entries`."""
        positions: NDArray[np.int64] = self._shifts[self.entries[rows]] + self._row[rows]
        return positions

    @cached_property
    def _shifts(self) -> NDArray[np.int64]:
        """Return what to add to a row of a part for its place among `stored_entries`, by entry."""
        documents = self._slice_documents
        shifts: NDArray[np.int64] = np.cumsum(documents) - self.column("document_stop")
        return shifts

    def validation(
        self, share: float, key: int, among: NDArray[np.bool_] | None = None
    ) -> NDArray[np.bool_]:
        """Select the documents to hold out by their content hash, so duplicates stay together.

        If chance selects none, as in a small domain, the document with the smallest hash is held
        out, unless it is the only one.

        Args:
            share: Share of the documents to hold out, 0 to 1.
            key: Each key holds out other documents.
            among: shape (documents,), the documents to select from; None for all.

        Returns:
            shape (documents,), True for documents held out.
        """
        held_out = document_mask(len(self))
        threshold = np.uint64(min(int(share * 2.0**64), 2**64 - 1))
        last = np.uint64(2**64 - 1)
        smallest, others = last, 0
        for rows in blocks(len(self)):
            mixed = self._validation_keys(rows, key, among)
            held_out[rows] = mixed < threshold
            smallest = min(smallest, mixed.min())
        if share > 0 and len(self) and smallest >= threshold:
            for rows in blocks(len(self)):
                mixed = self._validation_keys(rows, key, among)
                held_out[rows] = mixed == smallest
                others += int(np.count_nonzero((mixed != smallest) & (mixed != last)))
            if not others:
                held_out[...] = False
        return held_out

    def _validation_keys(
        self, rows: slice, key: int, among: NDArray[np.bool_] | None
    ) -> NDArray[np.uint64]:
        """Return a number for each document, the highest one for those not to select from."""
        word = np.uint64(mix64_scalar(key ^ VALIDATION_KEY))
        mixed = mix64(self.content_high[rows] ^ word, self.content_low[rows])
        if among is not None:
            mixed[~among[rows]] = np.uint64(2**64 - 1)
        return mixed

    @cached_property
    def entry_bases(self) -> NDArray[np.uint64]:
        """Memory address of the part that holds each of `entries`."""
        bases = np.array([part.ctypes.data for part in self.parts], np.uint64)
        of_entries: NDArray[np.uint64] = bases[self._slice_part]
        return of_entries

    def part_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return each document's index into `parts`."""
        parts: NDArray[np.int64] = self._slice_part[take(self.entries, numbers)]
        return parts

    def document(self, number: int) -> NDArray[Any]:
        """Return the tokens of one document, end token included."""
        start = int(self.token_start[number])
        part = self.parts[self._slice_part[self.entries[number]]]
        tokens: NDArray[Any] = part[start : start + self.tokens[number]]
        return tokens

    def content_hash(self, number: int) -> str:
        """Return the xxh3-128 of a document's text, 32 hexadecimal digits."""
        return f"{int(self.content_high[number]):016x}{int(self.content_low[number]):016x}"

    def file_numbers(self, rows: slice) -> NDArray[np.int64]:
        """Return the index into `files` of each document in a range."""
        return self._files_of(self.entries[rows])

    def _files_of(self, entries: NDArray[Any]) -> NDArray[np.int64]:
        """Return the index into `files` of entries with documents."""
        numbers: NDArray[np.int64] = np.searchsorted(
            self.files.stops, self._slices[entries], side="right"
        )
        return numbers

    @cached_property
    def _slice_lines(self) -> NDArray[np.int64]:
        """Return the lines of its file before each entry with documents."""
        lines: NDArray[np.int64] = self.files.lines_before()[self._slices]
        return lines

    def locate(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return each document's index into `files`, and its 1-based line or row there."""
        lines = np.zeros(len(numbers), np.int64)
        entries, rows = take(self.entries, numbers), take(self._row, numbers)
        order = np.argsort(entries, kind="stable")
        cuts = np.flatnonzero(np.diff(entries[order])) + 1
        for members in np.split(order, cuts) if len(order) else []:
            entry = int(entries[members[0]])
            table = _map(self.part_paths[self._slice_part[entry]] / "documents.bin", DOCUMENT)
            here = table["line"][rows[members]].astype(np.int64)
            lines[members] = here + self._slice_lines[entry]
        return self._files_of(entries), lines

    def identifiers(self, numbers: NDArray[np.int64]) -> list[str]:
        """Return the identifier of each document's record; empty where it has none."""
        names = [""] * len(numbers)
        parts, rows = self.part_of(numbers), take(self._row, numbers)
        for part in np.unique(parts).tolist():
            members = np.flatnonzero(parts == part)
            stops = _map(self.part_paths[part] / "documents.bin", DOCUMENT)["id_stop"]
            content = _map(self.part_paths[part] / "ids.bin", np.dtype(np.uint8))
            ends = stops[rows[members]].astype(np.int64)
            starts = np.where(rows[members] > 0, stops[rows[members] - 1], 0).astype(np.int64)
            for member, start, end in zip(
                members.tolist(), starts.tolist(), ends.tolist(), strict=True
            ):
                names[member] = content[start:end].tobytes().decode()
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
        if not self.has_bad_records:
            return
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


def stem_of(name: str) -> str:
    """Return a domain's name as it stands in names of files.

    Example:
        >>> stem_of("web:sports:q4")
        'web.sports.q4'
    """
    return name.replace(":", ".")


def read_numbers(path: Path, dtype: Any, documents: int) -> NDArray[Any]:
    """Read a sealed file with a number for each document.

    Args:
        path: The file.
        dtype: Type of a number.
        documents: How many there must be.

    Raises:
        InputError: The file is absent, damaged, or of another number of documents.
    """
    try:
        numbers = np.frombuffer(read_sealed(path), dtype)
    except (SealError, OSError, ValueError) as error:
        damage = InputError(f"{path}: cannot be read ({error}); run curate build again")
        raise fault_or(damage, error, str(path)) from error
    if len(numbers) != documents:
        raise InputError(
            f"{path}: is of {len(numbers):,} documents, and there are {documents:,}; run curate "
            "build again"
        )
    return numbers


def document_mask(documents: int) -> NDArray[np.bool_]:
    """Make an uninitialised mask of documents, where `memory.columns` has room for it."""
    return columns(documents, {"mask": np.bool_})["mask"]


def complement(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the documents that a mask leaves out."""
    others = document_mask(len(mask))
    for rows in blocks(len(mask)):
        np.logical_not(mask[rows], out=others[rows])
    return others


def _batches(domain: DomainTokens) -> Iterator[Columns]:
    """Yield the rows of all documents, in the order of the entries that hold them."""
    tables: dict[int, NDArray[Any]] = {}
    stops = np.cumsum(domain._slice_documents)
    held: list[Columns] = [_run_columns(np.empty(0, DOCUMENT), 0, 0)]
    begin = rows = 0
    for part, start, stop in _runs(domain):
        if part not in tables:
            tables[part] = _map(domain.part_paths[part] / "documents.bin", DOCUMENT)
        while start < stop:
            taken = min(stop - start, block_rows() - rows)
            held.append(_run_columns(tables[part], start, start + taken))
            start += taken
            rows += taken
            if rows == block_rows():
                yield _join(held, stops, begin)
                held, begin, rows = held[:1], begin + rows, 0
    if rows or not begin:
        yield _join(held, stops, begin)


def _join(runs: Sequence[Columns], stops: NDArray[np.int64], begin: int) -> Columns:
    """Join consecutive runs of rows, the first of which is row `begin` of all entries' documents.

    Args:
        runs: Their columns.
        stops: shape (entries,), documents up to and including each entry.
        begin: Documents before the runs.
    """
    joined = {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}
    end = begin + len(joined["row"])
    first, last = np.searchsorted(stops, [begin, end - 1], side="right")
    here = np.clip(stops[first : last + 1], begin, end)
    counts = np.diff(here, prepend=begin)
    joined["slice"] = np.repeat(np.arange(first, first + len(here), dtype=np.int32), counts)
    return joined


def _runs(domain: DomainTokens) -> Iterator[tuple[int, int, int]]:
    """Join entries that follow each other in a part; yield its number and range of documents."""
    part = domain._slice_part
    starts, stops = domain.column("document_start"), domain.column("document_stop")
    is_first = np.ones(len(part), np.bool_)
    is_first[1:] = (part[1:] != part[:-1]) | (starts[1:] != stops[:-1])
    firsts = np.flatnonzero(is_first)
    lasts = np.append(firsts, len(part))[1:] - 1
    runs = part[firsts].tolist(), starts[firsts].tolist(), stops[lasts].tolist()
    yield from zip(*runs, strict=True)


def _run_columns(table: NDArray[Any], start: int, stop: int) -> Columns:
    rows = table[start:stop]
    first = table["token_stop"][start - 1] if start else 0
    stops = rows["token_stop"].astype(np.int64)
    starts = np.concatenate([np.array([first], np.int64), stops])[:-1]
    return {
        "content_high": rows["content_high"].copy(),
        "content_low": rows["content_low"].copy(),
        "identity": rows["identity"].copy(),
        "token_start": starts,
        "tokens": stops - starts,
        "text_bytes": rows["text_bytes"].astype(np.int64),
        "row": np.arange(start, stop, dtype=np.int32),  # a part is far shorter than 2^31 documents
    }


def _canonical_order(rows: Columns) -> NDArray[np.int64]:
    """Sort by (high, low, identity), using the last two only for documents with equal `high`."""
    high, low, identity = rows["content_high"], rows["content_low"], rows["identity"]
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


def mix64_scalar(value: int) -> int:
    """Apply `mix64` to one number, as both words; arrays would take ten times as long.

    Example:
        >>> word = np.array([7], np.uint64)
        >>> mix64_scalar(7) == int(mix64(word, word)[0])
        True
    """
    word = int(value) & (2**64 - 1)
    mixed = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
    mixed = ((mixed ^ mixed >> 27) + word) * 0x94D049BB133111EB & (2**64 - 1)
    mixed = (mixed ^ mixed >> 31) * 0x9E3779B97F4A7C15 & (2**64 - 1)
    return mixed ^ mixed >> 32


_maps: weakref.WeakValueDictionary[tuple[Any, ...], NDArray[Any]] = weakref.WeakValueDictionary()
"""Maps of files of parts, which small domains share; the system limits maps and their length."""


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        status = path.stat()  # another file may have taken the place of one that is still mapped
        key = (path, status.st_dev, status.st_ino, dtype)
        mapped = _maps.get(key)
        if mapped is None:
            mapped = _maps[key] = map_file(path, dtype)
        return mapped
    except OSError as error:
        raise fault_or(
            InputError(f"{path}: cannot be mapped ({error})"), error, str(path)
        ) from error
