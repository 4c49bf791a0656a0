"""Entries of the token store in columns are those that went in, and take little memory."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate.runtime.mapping import CAN_FORGET, mapped_bytes
from curate.runtime.memory import bounded
from curate.tokens import store
from curate.tokens.entries import DomainFile, DomainFiles, Entry, EntryTable, StoredEntry
from curate.tokens.store import DOCUMENT, PartWriter, TokenStore

DTYPE = np.dtype("<u2")
LARGEST = 2**40


def entry(rng: np.random.Generator, number: int, *, largest: int = LARGEST) -> Entry:
    """An entry of random numbers, one of which needs more than 32 bits now and then."""
    start, token_start, lines, raw, text = rng.integers(0, rng.integers(1, largest), 5).tolist()
    return Entry(
        f"key-{number}", number % 3, bool(number % 2), f"Ordner/d\u00e4tei {number}", start,
        start + number, token_start, token_start + 10 * number, lines, raw, text, number % 5,
    )  # fmt: skip


def stored(parts: int, entries: int) -> list[StoredEntry]:
    rng = np.random.default_rng(3)
    return [
        StoredEntry(Path(f"part-{number % parts}"), entry(rng, number), f"backend {number % 2}")
        for number in range(entries)
    ]


def test_joined_tables_hold_what_went_in() -> None:
    made = stored(7, 300)
    tables = [
        EntryTable.of([(one.part, one.backend, [one.entry]) for one in made[start:stop]])
        for start, stop in pairwise([0, 0, 1, 40, 300])
    ]
    table = EntryTable.joined(tables)
    assert list(table.stored(np.arange(300))) == made
    rows = np.array([299, 0, 17])
    assert list(table.take(rows).stored(np.arange(3))) == [made[row] for row in rows]
    some = table.of_parts({Path("part-2"), Path("part-5")})
    assert list(some.stored(np.arange(len(some)))) == [
        one for one in made if one.part.name in ("part-2", "part-5")
    ]


def test_files_have_their_entries_also_in_other_processes() -> None:
    made = stored(3, 12)
    cuts = [0, 2, 2, 7, 12]
    files = [
        DomainFile(f"file-\udcff{number}", tuple(made[start:stop]), 10 * number)
        for number, (start, stop) in enumerate(pairwise(cuts))
    ]
    held = DomainFiles.of(files)
    sent = copy.deepcopy(held)  # made of what other processes are sent
    for one in (held, sent):
        assert list(one) == [one[number] for number in range(len(one))] == files
        assert bytes(one.paths.content) == b"0123"  # what they share is held once
        assert one.backends == {"backend 0", "backend 1"}
        assert one.summed(one.documents).tolist() == [0 + 1, 0, 2 + 3 + 4 + 5 + 6, 45]
    lines = [stored.entry.lines for stored in made]
    before = [sum(lines[start:row]) for start, stop in pairwise(cuts) for row in range(start, stop)]
    assert held.lines_before().tolist() == before


def test_a_domain_sends_its_own_entries_only() -> None:
    made = stored(5, 2000)
    table = EntryTable.of([(one.part, one.backend, [one.entry]) for one in made])
    sent = copy.deepcopy(DomainFiles(table, [[3], [1999]], ["a", "b"]))
    assert [file.entries for file in sent] == [(made[3],), (made[1999],)]
    assert (len(sent.table), len(sent.table.parts)) == (2, 2)


def test_a_small_file_takes_little_memory() -> None:
    rng = np.random.default_rng(3)
    entries = [entry(rng, number, largest=2**32) for number in range(2000)]
    table = EntryTable.of([(Path("part"), "backend", entries)])
    names = sum(len(one.key) + len(one.path.encode()) for one in entries)
    columns = [*table.columns.values(), table.keys.stops, table.paths.stops]
    held = len(table.keys.content) + len(table.paths.content) + sum(c.nbytes for c in columns)
    assert held - names <= 50 * len(entries)


def test_many_entries_are_bounded_as_documents_are(tmp_path: Path) -> None:
    made = stored(6, 600)
    parts = [(one.part, one.backend, [one.entry]) for one in made]
    whole = EntryTable.of(parts)
    tables = [EntryTable.of(parts[start : start + 100]) for start in range(0, 600, 100)]
    before = mapped_bytes()
    with bounded(1 << 14, tmp_path):
        joined = EntryTable.joined(tables)
    size_bytes = sum(column.nbytes for column in whole.columns.values())
    assert not CAN_FORGET or mapped_bytes() - before > size_bytes
    rows = np.arange(600)
    assert list(joined.stored(rows)) == list(whole.stored(rows)) == made
    assert list(copy.deepcopy(joined).stored(rows)) == made


def write_part(store: TokenStore, keys: list[tuple[str, int, bool]]) -> Path:
    writer = PartWriter(store.directory, "backend")
    for place, (key, segment, last) in enumerate(keys):
        table = np.zeros(1, DOCUMENT)
        table["token_stop"] = 4
        writer.add_documents(np.arange(4, dtype=DTYPE), table, [b""])
        writer.entries.append(
            Entry(key, segment, last, key, place, place + 1, 4 * place, 4 * place + 4, 1, 0, 4, 0)
        )
    part = writer.flush()
    assert part is not None
    return part


def test_what_a_discarded_part_held_is_taken_from_another(tmp_path: Any) -> None:
    store = TokenStore(tmp_path, "f" * 32, DTYPE)
    both = {
        write_part(store, [("twice", 0, True), ("cut", 0, False), ("one", 0, True)]),
        write_part(store, [("twice", 0, True), ("cut", 1, True), ("other", 0, True)]),
    }
    store.scan()
    assert store.file_rows("absent", 1) is None and store.file_rows("cut", 1) is not None
    rows = store.file_rows("cut", None)
    assert rows is not None and rows == store.file_rows("cut", 2)
    assert [one.entry.segment for one in store.entries.stored(np.array(rows))] == [0, 1]
    assert store.parts_of(["cut"]) == both
    (used,) = store.parts_of(["twice"])
    store.discard([used])
    assert store.parts_of(["twice"]) == both - {used}
    assert store.file_rows("cut", 2) is None


def test_tables_that_are_joined_a_few_at_a_time_are_those_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = TokenStore(tmp_path, "f" * 32, DTYPE)
    for number in range(15):
        write_part(whole, [(f"one-{number}", 0, True), ("in all", 0, True)])
    whole.scan()
    monkeypatch.setattr(store, "OBJECTS", 2)
    monkeypatch.setattr(store, "TABLES", 4)
    stepwise = TokenStore(tmp_path, "f" * 32, DTYPE)
    stepwise.scan()
    rows = np.arange(30)
    assert list(stepwise.entries.stored(rows)) == list(whole.entries.stored(rows))
    assert stepwise.parts_of(["in all"]) == whole.parts_of(["in all"])
