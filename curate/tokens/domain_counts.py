"""Bigram counts of whole domains, kept up to date as files come and go.

A domain's table is identified by the entries it counts. It is the sum of an earlier table of the
domain, if every entry in it still exists, of the tables that this tokenising run made, and of
counts from the store for the remaining entries, such as those of a run that was killed.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.runtime.files import hash_bytes, place_directory, remove_tree, sweep
from curate.runtime.memory import next_block
from curate.runtime.sealed import Notice, SealError
from curate.tokens.count_tables import (
    StoredTable,
    merge_tables,
    seal_table,
    table_damage,
    table_index,
)
from curate.tokens.counting import COUNT_BYTES, BigramCounter
from curate.tokens.domain import DomainTokens
from curate.tokens.entries import StoredEntry
from curate.tokens.rows import append_ends
from curate.tokens.store import DOCUMENT
from curate.tokens.tokenizer import Tokenizer

EntryKey = str
"""An `Entry.name`."""

SCHEMA = 2
"""Version of the tables that are kept."""


@dataclass(frozen=True)
class CountRequest:
    """One domain to count."""

    domain: DomainTokens
    tokenizer: Tokenizer
    directory: Path
    """Directory of count tables of this tokenizer's domains."""
    spill: Path
    """Directory for sorted runs, in which each attempt has a place of its own."""
    runs: tuple[tuple[Path, tuple[EntryKey, ...]], ...]
    """Tables made while tokenising, each with the entries it counts."""
    memory_bytes: int


def domain_counts(request: CountRequest, notice: Notice) -> Path:
    """Return the path of a domain's bigram table, which is made if needed.

    Read it with `count_tables.read_table`.

    Args:
        request: The domain.
        notice: Called with a line that names a damaged table.
    """
    domain = request.domain
    needed = _entries_with_documents(domain)
    listed = sorted(f"{entry}:{times}" for entry, times in needed.items())
    if domain.selection is not None:  # after the documents: it serves whatever removed the others
        listed = [f"documents {domain.fingerprint}:1"]
    name = hash_bytes("\n".join([f"schema {SCHEMA}", *listed]).encode())[:24]
    path = request.directory / f"{domain.stem}-{name}"
    sweep(request.directory)
    if path.is_dir() and _is_whole(path, notice):
        return path
    request.spill.mkdir(parents=True, exist_ok=True)
    request = replace(request, spill=Path(tempfile.mkdtemp(dir=request.spill)))
    if domain.selection is None:
        total = _sum_of_tables(request, needed, notice)
    else:
        total = _count_selected(request)
    seal_table(total, listed)
    path.parent.mkdir(parents=True, exist_ok=True)
    place_directory(total, path)
    return path


def _entries_with_documents(domain: DomainTokens) -> Counter[EntryKey]:
    """Count the entries by name; those without documents, such as ends of files, have no counts."""
    return Counter([stored.entry.name for stored in domain.stored_entries])


def _sum_of_tables(request: CountRequest, needed: Counter[EntryKey], notice: Notice) -> Path:
    """Return the path of a table of all entries, of earlier ones as far as there are any."""
    base, runs, needed = _reusable_tables(request, needed, notice)
    if needed:
        rest = request.spill / "rest"
        _count_entries(request, needed, rest)
        runs.append(rest)
    if base is None and len(runs) == 1:
        return runs[0]
    total = request.spill / "total"
    tables = [StoredTable.open(table) for table in ([base] if base else []) + runs]
    merge_tables(tables, total, request.tokenizer.symbols)
    return total


def _count_selected(request: CountRequest) -> Path:
    """Return the path of a table of the documents that the domain keeps."""
    counter = _counter(request)
    for stored, kept in request.domain.kept_by_entry():
        if kept.any():
            selected = None if kept.all() else kept
            for stream in entry_streams(stored, request.tokenizer, selected):
                counter.add(stream)
                next_block()
    total = request.spill / "total"
    counter.finish(total)
    return total


def _reusable_tables(
    request: CountRequest, needed: Counter[EntryKey], notice: Notice
) -> tuple[Path | None, list[Path], Counter[EntryKey]]:
    """Select tables that count only needed entries.

    Returns:
        An earlier table of the domain or None, tables of this run, and the entries that none of
        them counts.
    """
    counted_now = Counter(chain(*(counted for _, counted in request.runs)))
    if dict.__eq__(counted_now, needed):  # ten times as fast as Counter's `==`
        return None, [run for run, counted in request.runs if counted], Counter()
    base, counted = _largest_subset(request, needed, notice)
    needed -= counted
    runs = []
    for run, run_entries in request.runs:
        keys = Counter(run_entries)
        if keys and keys <= needed:
            runs.append(run)
            needed -= keys
    return base, runs, needed


def _is_whole(path: Path, notice: Notice) -> bool:
    """Whether a table's files match their hashes; if not, it is removed and counted again."""
    damaged = table_damage(path)
    if damaged is not None:
        notice(f"{damaged} is damaged: counted again")
        remove_tree(path)
    return damaged is None


def _largest_subset(
    request: CountRequest, needed: Counter[EntryKey], notice: Notice
) -> tuple[Path | None, Counter[EntryKey]]:
    """Find the largest earlier table that counts only needed entries, and return those entries."""
    best: tuple[Path | None, Counter[EntryKey]] = (None, Counter())
    for path in sorted(request.directory.glob(f"{request.domain.name}-*")):
        try:
            rows = [row.rpartition(":") for row in table_index(path).counted]
        except SealError:
            continue  # of another version, or damaged
        counted = Counter({entry: int(times) for entry, _, times in rows})
        is_best = counted <= needed and counted.total() > best[1].total()
        if is_best and _is_whole(path, notice):
            best = (path, counted)
    return best


def _count_entries(request: CountRequest, needed: Counter[EntryKey], destination: Path) -> None:
    counter = _counter(request)
    remaining = Counter(needed)
    for file in request.domain.files:
        for stored in file.entries:
            if remaining[stored.entry.name]:
                remaining[stored.entry.name] -= 1
                for stream in entry_streams(stored, request.tokenizer):
                    counter.add(stream)
                    next_block()
    counter.finish(destination)


def _counter(request: CountRequest) -> BigramCounter:
    spill = request.spill / "count"
    spill.mkdir(parents=True, exist_ok=True)
    return BigramCounter(
        request.tokenizer.end_symbol, request.tokenizer.symbols, request.memory_bytes, spill
    )


def entry_streams(
    stored: StoredEntry, tokenizer: Tokenizer, selected: NDArray[np.bool_] | None = None
) -> Iterator[NDArray[Any]]:
    """Yield an entry's tokens, with an end symbol after each document, in bounded pieces.

    Args:
        stored: The entry.
        tokenizer: Tokenizer of the store.
        selected: shape (documents,), which of its documents count; None for all.
    """
    entry = stored.entry
    documents = entry.documents
    if not documents:
        return
    offset = entry.document_start * DOCUMENT.itemsize
    table = np.fromfile(stored.part / "documents.bin", DOCUMENT, documents, offset=offset)
    stops = table["token_stop"].astype(np.int64)
    begin = 0
    token_start = entry.token_start
    most_tokens = COUNT_BYTES // tokenizer.dtype.itemsize
    while begin < documents:
        end = int(np.searchsorted(stops, token_start + most_tokens, side="right"))
        end = max(begin + 1, end)
        token_stop = int(stops[end - 1])
        tokens = np.fromfile(
            stored.part / "tokens.bin",
            tokenizer.dtype,
            token_stop - token_start,
            offset=token_start * tokenizer.dtype.itemsize,
        )
        if tokenizer.eos_id is None or selected is not None:
            offsets = np.concatenate([[token_start], stops[begin:end]]) - token_start
            if selected is not None:
                here, lengths = selected[begin:end], np.diff(offsets)
                tokens = tokens[np.repeat(here, lengths)]
                offsets = np.concatenate([[0], np.cumsum(lengths[here])])
            if tokenizer.eos_id is None:
                ended = np.empty(len(tokens) + len(offsets) - 1, np.uint32)
                append_ends(tokens, offsets, tokenizer.end_symbol, ended)
                tokens = ended
        if len(tokens):
            yield tokens
        begin, token_start = end, token_stop
