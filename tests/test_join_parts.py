"""Small parts of the token store are joined, and nothing that is built from them changes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import END, Listener, make_documents, write_jsonl

from curate.pipeline.build import build
from curate.pipeline.tokenize import tokenize_domains
from curate.recipe import LoadedRecipe, load
from curate.runtime import files
from curate.runtime.locks import GRACE_SECONDS, FileLock
from curate.runtime.owners import ABANDONED_SECONDS
from curate.runtime.progress import Observer
from curate.tokens import join_parts
from curate.tokens.entries import Entry
from curate.tokens.join_parts import LOCK
from curate.tokens.store import DOCUMENT, INFO, JOINED, PartWriter, StoredBadRecord
from curate.tokens.store import TokenStore as Store

DTYPE = np.dtype("<u2")
PARTS = 6


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join_parts, "MANY_PARTS", PARTS)


def join_small_parts(store: Store, observer: Observer | None = None) -> int:
    return join_parts.join_small_parts(store, observer or Observer())


def opened(root: Path) -> Store:
    store = Store(root, "5" * 32, DTYPE)
    store.scan()
    return store


def write_part(root: Path, number: int, backend: str = "a backend") -> None:
    """A part of three documents, one of which has no identifier, and a bad record."""
    rng = np.random.default_rng(number)
    lengths = rng.integers(1, 9, 3)
    table = np.zeros(3, DOCUMENT)
    table["token_stop"], table["id_stop"] = np.cumsum(lengths), [2, 2, 5]
    table["content_high"] = rng.integers(0, 2**63, 3)
    table["text_bytes"] = lengths
    writer = PartWriter(opened(root).directory, backend)
    tokens = rng.integers(0, 99, lengths.sum()).astype(DTYPE)
    writer.add_documents(tokens, table, [b"id", b"", b"abc"])
    key = f"key-{number}"
    total = int(lengths.sum())
    writer.entries += [
        Entry(key, 0, False, f"file-{number}", 0, 2, 0, int(lengths[:2].sum()), 3, 9, 9, 1),
        Entry(key, 1, True, f"file-{number}", 2, 3, int(lengths[:2].sum()), total, 1, 9, 9, 0),
    ]
    writer.bad.append(StoredBadRecord(key, 0, 2, "no text", "…"))
    writer.flush()


def content(store: Store) -> dict[str, object]:
    """Everything that the store says of each entry, wherever it is."""
    held: dict[str, object] = {}
    for number in range(2 * PARTS):
        stored = np.array(list(store.segments_of(f"key-{number}").values()))
        for part, entry, backend in store.entries.stored(stored):
            table = np.fromfile(part / "documents.bin", DOCUMENT)
            stops = table["token_stop"].astype(int)
            tokens = np.fromfile(part / "tokens.bin", DTYPE)
            rows = range(entry.document_start, entry.document_stop)
            ids = (part / "ids.bin").read_bytes()
            bad = (part / "bad.jsonl").read_bytes().splitlines()
            held[entry.name] = (
                backend,
                (entry.path, entry.last, entry.lines, entry.raw_bytes, entry.bad_records),
                [tokens[stops[row - 1] if row else 0 : stops[row]].tolist() for row in rows],
                tokens[entry.token_start : entry.token_stop].tolist(),
                [ids[table["id_stop"][row - 1] if row else 0 :][:2] for row in rows],
                table["content_high"][rows.start : rows.stop].tolist(),
                [row for row in bad if entry.key.encode() + b'"' in row],
            )
    return held


def parts_of(store: Store) -> list[str]:
    return sorted(path.name for path in store.parts)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(PARTS):
        write_part(tmp_path, number)
    return tmp_path


def make_old(store: Store) -> None:
    """Let a week pass since parts were joined."""
    for path in store.directory.glob(f"{JOINED}-*"):
        os.utime(path, (1, path.stat().st_mtime - ABANDONED_SECONDS - 60))


def test_joined_parts_say_the_same(root: Path) -> None:
    before = opened(root)
    assert join_small_parts(before) == PARTS
    after = opened(root)
    (name,) = parts_of(after)
    assert name.startswith(JOINED)
    assert content(after) == content(before)
    assert len(content(after)) == 2 * PARTS
    assert not after.damage([f"key-{number}" for number in range(PARTS)], 1)
    assert join_small_parts(after) == 0


def test_replaced_parts_are_kept_for_a_week(root: Path) -> None:
    join_small_parts(opened(root))
    store = opened(root)
    assert len(list(store.directory.glob("part-*"))) == PARTS + 1
    make_old(store)
    Store(root, "5" * 32, DTYPE).scan(clean=False)  # as `verify` does
    assert len(list(store.directory.glob("part-*"))) == PARTS + 1
    held = content(store)
    after = opened(root)
    assert [path.name for path in store.directory.iterdir()] == parts_of(after)
    assert content(after) == held


def test_parts_are_joined_again(root: Path) -> None:
    """Joined parts that are still small are joined with later ones, and name all of them."""
    join_small_parts(opened(root))
    for number in range(PARTS, 2 * PARTS):
        write_part(root, number)
    before = opened(root)
    assert join_small_parts(before) == PARTS + 1
    after = opened(root)
    assert content(after) == content(before)
    assert len(content(after)) == 4 * PARTS
    (path,) = after.parts
    assert len(after.parts[path].replaces) == 2 * PARTS + 1
    make_old(after)
    assert parts_of(opened(root)) == [path.name]
    assert len(list(path.parent.iterdir())) == 1


def test_few_large_and_damaged_parts_are_left_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = sorted(opened(root).parts)[2]
    tokens = bytearray((damaged / "tokens.bin").read_bytes())
    tokens[0] ^= 1
    (damaged / "tokens.bin").write_bytes(tokens)
    with monkeypatch.context() as patch:
        patch.setattr(join_parts, "SMALL_BYTES", 100)
        assert join_small_parts(opened(root)) == 0
        patch.undo()
        patch.setattr(join_parts, "MANY_PARTS", PARTS + 1)
        assert join_small_parts(opened(root)) == 0
    assert join_small_parts(opened(root)) == PARTS - 1
    after = opened(root)
    assert damaged in after.parts
    assert len(after.parts) == 2


def test_backends_are_kept_apart_and_a_run_joins_so_many_bytes(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(PARTS, 2 * PARTS):
        write_part(root, number, "another backend")
    before = opened(root)
    held = content(before)
    monkeypatch.setattr(join_parts, "RUN_BYTES", 1)
    assert join_small_parts(before) == 0
    monkeypatch.undo()
    monkeypatch.setattr(join_parts, "MANY_PARTS", PARTS)
    assert join_small_parts(before) == 2 * PARTS
    after = opened(root)
    assert sorted(info.backend for info in after.parts.values()) == ["a backend", "another backend"]
    assert content(after) == held


def test_one_process_joins_at_a_time(root: Path) -> None:
    store = opened(root)
    lock = FileLock(store.directory / LOCK)
    assert lock.take()
    assert join_small_parts(store) == 0
    lock.release()
    assert join_small_parts(store) == PARTS


@pytest.mark.parametrize(("age_seconds", "is_told"), [(1, False), (2 * GRACE_SECONDS, True)])
def test_a_lock_that_another_machine_left_is_named(
    root: Path, age_seconds: float, is_told: bool
) -> None:
    store, listener = opened(root), Listener()
    lock = FileLock(store.directory / LOCK)
    name = {"machine": "node3", "process": 71, "since": time.time() - age_seconds}
    lock.path.write_text(json.dumps(name))
    assert join_small_parts(store, listener) == 0
    assert len(listener.notices) == is_told
    for notice in listener.notices:
        assert notice.startswith("small parts of the token store are not joined: process 71 of no")
        assert notice.endswith(f"wait for it, or, if it is gone, type: rm '{lock.path}'")
    lock.path.unlink()  # as the notice says
    assert join_small_parts(store, listener) == PARTS


def test_parts_and_locks_of_other_users_stay(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    store = opened(root)
    with monkeypatch.context() as patch:
        patch.setattr(FileLock, "take", refuse)
        assert join_small_parts(store) == 0
    assert join_small_parts(store) == PARTS
    make_old(store)
    monkeypatch.setattr(os, "rename", refuse)
    assert len(opened(root).parts) == 1
    assert len(list(store.directory.iterdir())) == PARTS + 1


def test_a_full_disk_stops_no_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = opened(root)
    held = content(store)
    places: list[tuple[type, str]] = [(FileLock, "take"), (PartWriter, "spill")]
    for owner, name in places:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse)
            assert join_small_parts(store) == 0
        assert content(opened(root)) == held
    assert join_small_parts(store) == PARTS  # whose lock was released


@pytest.mark.parametrize("file", [INFO, "documents.bin"])
def test_a_damaged_joined_part_gives_way_to_what_it_was_joined_from(root: Path, file: str) -> None:
    before = opened(root)
    held = content(before)
    join_small_parts(before)
    (joined,) = opened(root).parts
    (joined / file).write_bytes(b"damaged")
    make_old(before)
    store = opened(root)  # keeps the others, however old
    damage = store.damage(["key-0"], 1)
    assert list(damage) == [joined]
    store.discard([joined])
    store.scan()
    assert content(store) == held


def join_and_remove(root: Path, calls: int) -> None:
    """Join, and remove what was replaced; die before the call to the system of that number."""
    left = iter(range(calls))

    def count() -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    for name in ("rename", "fsync", "mkdir", "rmdir", "unlink", "open"):
        plain = getattr(os, name)
        setattr(os, name, lambda *a, _plain=plain, **k: (count(), _plain(*a, **k))[1])
    join_small_parts(opened(root))
    make_old(opened(root))
    opened(root)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_killed_process_leaves_a_whole_store(root: Path, tmp_path: Path) -> None:
    held = content(opened(root))
    keys = [f"key-{number}" for number in range(PARTS)]
    status, calls = signal.SIGKILL.value, 0
    while status == signal.SIGKILL:
        killed = tmp_path / f"killed-{calls}"
        shutil.copytree(root / "tokens", killed / "tokens")
        child = os.fork()
        if not child:
            join_and_remove(killed, calls)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        store = opened(killed)
        assert content(store) == held
        assert not store.damage(keys, 1)
        join_small_parts(store)
        assert content(opened(killed)) == held
        calls += 3
    assert status == 0
    assert calls > 50
    assert len(list(store.directory.glob("part-*"))) == 1


@pytest.mark.usefixtures("own_store")
def test_a_dataset_is_the_same_byte_for_byte(
    recipe: Path, bpe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Additions of a file each, then builds with and without joining."""
    monkeypatch.setattr(files, "flush", lambda _: None)
    data = tmp_path / "added"
    (tmp_path / "tokenizer.json").write_text(json.dumps(bpe))
    overrides = [
        f"domains=[{{name: web, paths: {data}}}]",
        f"tokenizer={{path: {tmp_path / 'tokenizer.json'}, eos: '{END}'}}",
        "limits={lost_share: 0.1}",
        "budget_tokens=1000",
    ]
    monkeypatch.setattr(join_parts, "MANY_PARTS", 10**6)
    rows = make_documents("wiki", 8 * PARTS)
    for number in range(PARTS):
        write_jsonl(data / f"{number}.jsonl", rows[8 * number : 8 * number + 8])
        with (data / f"{number}.jsonl").open("a") as file:
            file.write('{"no": "text"}\n' * (number == 2))
        loaded: LoadedRecipe = load(recipe, overrides)
        tokenize_domains(loaded, 1, Listener())
    made = []
    for many in (10**6, PARTS):
        monkeypatch.setattr(join_parts, "MANY_PARTS", many)
        listener = Listener()
        built = build(loaded, 1, listener, overwrite=True)
        assert built.certificate["ok"]
        assert built.certificate["tokens_compared_with_store"]
        made.append({p.name: p.read_bytes() for p in built.directory.rglob("*") if p.is_file()})
        joins = [text for text in listener.notices if "joined" in text]
        assert joins == [f"{PARTS} small parts of the token store joined"] * (many == PARTS)
    assert made[0] == made[1]
