"""What could put wrong tokens into the store: changing files, full disks, ends inside text."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import zstandard
from conftest import make_documents, write_jsonl

from curate.errors import InputError, TokenizerError
from curate.pipeline.tokenize import tokenize_domains
from curate.recipe import load
from curate.runtime.files import append, begin_directory, user_cache
from curate.runtime.progress import Observer
from curate.sources import check_unchanged, identify
from curate.sources.discover import InputPath
from curate.sources.records import SEGMENT_BYTES
from curate.tokens import domain_counts, store, tasks, worker
from curate.tokens.entries import Entry
from curate.tokens.store import DOCUMENT, PartWriter, StoredBadRecord, part_damage

pytestmark = pytest.mark.usefixtures("own_store")

LONG_AGO = 1_000_000_000


class Meddler(Observer):
    """Rewrites a file, at its old length, when tokenising begins."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, stage: str, names: Sequence[str] = (), totals: Sequence[int] = ()) -> None:
        if stage == "tokenise":
            self.path.write_bytes(self.path.read_bytes().replace(b"river", b"RIVER"))


def test_what_changes_after_it_was_identified_is_not_stored(recipe: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "changing.jsonl", make_documents("wiki", 200))
    os.utime(data, (LONG_AGO, LONG_AGO))
    overrides = [f"domains=[{{name: wiki, paths: {data}}}]"]
    for workers in (1, 2):
        with pytest.raises(InputError, match=r"changing\.jsonl: changed while it was being read"):
            tokenize_domains(load(recipe, overrides), workers, Meddler(data))
        assert not list((recipe.parent / ".curate" / "tokens").glob("*/*"))
        data.write_bytes(data.read_bytes().replace(b"RIVER", b"river"))
        os.utime(data, (LONG_AGO, LONG_AGO))
    assert len(tokenize_domains(load(recipe, overrides), 1, Observer()).domains[0]) == 200


def test_files_are_compared_with_what_they_were(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("abc")
    (file,) = identify([InputPath(str(path), "a.txt")], tmp_path)
    check_unchanged(file)
    os.utime(path, (LONG_AGO, LONG_AGO))
    with pytest.raises(InputError, match=r"a\.txt: changed while it was being read; let whatever"):
        check_unchanged(file)
    path.unlink()
    with pytest.raises(InputError, match=r"a\.txt: No such file"):
        check_unchanged(file)
    path.symlink_to("gone.txt")
    with pytest.raises(InputError, match=r"a\.txt: a link to gone\.txt, which is gone"):
        check_unchanged(file)


@pytest.mark.skipif(os.name != "posix", reason="users are told by number on POSIX systems")
def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert user_cache() == Path("/somewhere/curate")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert user_cache() == Path("/home/me/.cache/curate")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)  # nobody has that number
    with pytest.raises(InputError, match="no home directory; set HOME or XDG_CACHE_HOME"):
        user_cache()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
@pytest.mark.parametrize("items", [1, 1_000_000])
def test_a_full_disk_is_told_with_the_name_of_the_file(items: int) -> None:
    with pytest.raises(OSError, match="No space left") as told:
        append(Path("/dev/full"), np.zeros(items, np.uint16))
    assert told.value.filename == "/dev/full"


def write_part(directory: Path, spill_after: set[int]) -> Path:
    """A part of ten documents of one token each, moved to disk after some of them."""
    writer = PartWriter(directory, "test 1")
    for number in range(10):
        table = np.zeros(1, DOCUMENT)
        table["token_stop"], table["id_stop"], table["text_bytes"] = 1, 2, 3
        writer.add_documents(np.array([number], np.uint16), table, [b"id"])
        writer.bad.append(StoredBadRecord("key", 0, number, "reason", ""))
        if number in spill_after:
            writer.spill()
    writer.entries.append(Entry("key", 0, True, "a.csv", 0, 10, 0, 10, 20, 30, 30, 10))
    path = writer.flush()
    assert path is not None
    assert writer.flush() is None
    return path


def test_a_part_is_the_same_however_often_it_went_to_disk(tmp_path: Path) -> None:
    parts = [
        write_part(tmp_path / f"{len(after)}", after) for after in (set(), {4}, set(range(10)))
    ]
    contents = [{file.name: file.read_bytes() for file in part.iterdir()} for part in parts]
    assert contents[0] == contents[1] == contents[2]
    assert np.frombuffer(contents[0]["documents.bin"], DOCUMENT)["token_stop"].tolist() == [
        *range(1, 11)
    ]
    assert part_damage(parts[2]) is None
    assert [list(part.parent.iterdir()) for part in parts] == [[part] for part in parts]


def test_what_is_discarded_leaves_nothing(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path, "test 1")
    writer.spill()
    assert list(tmp_path.iterdir())
    writer.discard()
    assert not list(tmp_path.iterdir())
    writer.discard()


def test_a_file_that_cannot_be_cut_is_kept_on_disk_as_it_is_read(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "array.json"
    data.write_text(json.dumps(make_documents("wiki", 3000)))
    overrides = [f"domains=[{{name: wiki, paths: {data}}}]"]
    whole = tokenize_domains(load(recipe, [*overrides, "cache=whole"]), 1, Observer())
    monkeypatch.setattr(store, "SPILL_TOKENS", 1000)
    monkeypatch.setattr(worker, "ENCODE_BYTES", 1000)
    monkeypatch.setattr("curate.sources.json_array.BLOCK_BYTES", 10_000)
    pieces = tokenize_domains(load(recipe, [*overrides, "cache=pieces"]), 1, Observer())
    assert pieces.stats == whole.stats
    assert pieces.content_hash == whole.content_hash
    (part,) = (path for path in (recipe.parent / "pieces" / "tokens").glob("*/part-*"))
    (same,) = (path for path in (recipe.parent / "whole" / "tokens").glob("*/part-*"))
    for name in ("tokens.bin", "documents.bin", "ids.bin", "bad.jsonl"):
        assert (part / name).read_bytes() == (same / name).read_bytes()


def test_an_end_made_of_text_is_refused_wherever_it_is(recipe: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    model = models.WordPiece({"[UNK]": 0, "[SEP]": 1, "the": 2}, unk_token="[UNK]")
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["[SEP]", "[UNK]"])
    made.save(str(tmp_path / "words.json"))
    rows = [{"text": "the " * 20_000} for _ in range(20)]  # more than the sample that is tried
    overrides = [
        "tokenizer={path: words.json, eos: '[SEP]'}",
        f"domains=[{{name: a, paths: {tmp_path / 'late.jsonl'}}}]",
    ]
    write_jsonl(tmp_path / "late.jsonl", [*rows, {"text": "said the [SEP] thing"}])
    with pytest.raises(TokenizerError, match=r"end-of-text id 1 \(in 'said the \[SEP\] thing'\)"):
        tokenize_domains(load(recipe, overrides), 1, Observer())
    assert not list((recipe.parent / ".curate" / "tokens").glob("*/*"))
    write_jsonl(tmp_path / "late.jsonl", rows)
    assert tokenize_domains(load(recipe, overrides), 1, Observer()).stats[0].documents == 20


def test_only_what_dead_processes_left_in_the_cache_is_removed(recipe: Path) -> None:
    cache = recipe.parent / ".curate"
    cache.mkdir()
    host = begin_directory(cache / "x").name.split(".")[2].split("-")[0]
    of_the_dead = cache / f".spill.{host}-{2**22 + 1}-abc.tmp"  # above the highest Linux gives
    elsewhere = cache / f".spill.{'0' * 8}-{2**22 + 1}-abc.tmp"
    for path in (of_the_dead, elsewhere):
        path.mkdir()
    tokenize_domains(load(recipe), 1, Observer())
    assert elsewhere.is_dir()
    assert not of_the_dead.exists()
    assert len(list(cache.glob(".*.tmp"))) == 2  # that one, and the one this process made


@pytest.mark.parametrize("workers", [2, 6])
def test_nothing_is_counted_again_where_workers_look_beyond_the_end(
    recipe: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who shares a compressed file takes segments that it turns out not to have."""
    data = tmp_path / "wiki.jsonl.zst"
    rows = b"".join(json.dumps(row).encode() + b"\n" for row in make_documents("wiki", 400))
    copies = 5 * SEGMENT_BYTES // 2 // len(rows)
    data.write_bytes(zstandard.compress(rows * copies))

    def fail(*_: object) -> None:
        raise AssertionError("counted again")

    monkeypatch.setattr(domain_counts, "_count_entries", fail)
    monkeypatch.setattr(tasks, "SMALL_FILE_BYTES", 0)  # so that the file is shared
    overrides = [f"domains=[{{name: wiki, paths: {data}}}]"]
    found = tokenize_domains(load(recipe, overrides), workers, Observer())
    assert found.stats[0].documents == 400 * copies
    assert len(found.domains[0].files[0].entries) == 3
