"""A tokenizer from a stranger is refused in one line; it neither hangs nor ends the process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import END, forge_manifest, make_documents, write_jsonl
from tokenizers import pre_tokenizers

import curate
from curate.dataset import verify
from curate.errors import CurateError, TokenizerError
from curate.pipeline import write_report
from curate.pipeline.tokenize import tokenize_domains
from curate.recipe import load_recipe
from curate.runtime.files import hash_file
from curate.runtime.limits import Limits, OverLimit
from curate.runtime.progress import Observer
from curate.runtime.shared import workers_share_memory
from curate.runtime.workers import ahead
from curate.tokens import fill, preload, selftest
from curate.tokens.tokenizer import MOST_IDS, from_json

forked = pytest.mark.skipif(not workers_share_memory(), reason="limits need workers that fork")

Value = dict[str, Any]


def bytes_tokenizer() -> Value:
    """A tokenizer.json of the 256 bytes, whose pattern is set by each test."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": 256, "content": END, "special": True, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False}
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": " "}, "behavior": "Isolated",
                 "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                 "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                    "use_regex": False},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": False, "vocab": {letter: n for n, letter in enumerate(letters)},
            "merges": [],
        },
    }  # fmt: skip


def with_pattern(pattern: str) -> Value:
    value = bytes_tokenizer()
    value["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
    return value


def added(**fields: Any) -> Callable[[Value], None]:
    return lambda value: value["added_tokens"].append({**value["added_tokens"][0], **fields})


def in_model(**fields: Any) -> Callable[[Value], None]:
    return lambda value: value["model"].update(fields)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (in_model(vocab=[[]]), "its vocabulary is not a list of pairs of token and score"),
        (in_model(vocab=[["a"]]), "its vocabulary is not a list of pairs"),
        (in_model(vocab=[[["a"], 1.0]]), "not a tokenizer.json ("),
        (in_model(vocab={"a": 10**9}), "it has the id 1000000000; ids are 0 to 16,777,215"),
        (in_model(vocab={"a": MOST_IDS}), "it has the id 16777216"),
        (in_model(vocab={"a": -1}), "it has the id -1"),
        (in_model(vocab={"a": True}), "ids that are not whole numbers"),
        (in_model(vocab="abc"), "not a tokenizer.json ("),
        (added(id=10**9, content="<|x|>"), "it has the id 1000000000"),
        (added(id=257, content=3), "its added_tokens are not a list of tokens with content"),
        (added(id="257", content="<|x|>"), "ids that are not whole numbers"),
        (lambda value: value.update(added_tokens="x"), "its added_tokens are not a list"),
        (lambda value: value.update(added_tokens={"a": 1}), "its added_tokens are not a list"),
        (lambda value: value.update(added_tokens=[[]]), "its added_tokens are not a list"),
    ],
)
def test_definitions_that_are_no_tokenizer(change: Callable[[Value], None], expected: str) -> None:
    value = bytes_tokenizer()
    change(value)
    with pytest.raises(TokenizerError, match=r"not a tokenizer\.json \(") as refused:
        from_json(json.dumps(value).encode(), None, "t.json")
    assert expected in str(refused.value)


@pytest.fixture
def tokenise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[list[str], CurateError | None]]:
    """Tokenise documents with a definition; return notices and the error."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(preload, "_started", [])
    monkeypatch.setattr(fill, "LIMITS", Limits(2, 60, 1 << 30))
    rows = make_documents("wiki", 30)

    def run(
        value: Value, backend: str = "auto", extra: str = "", workers: int = 1
    ) -> tuple[list[str], CurateError | None]:
        (tmp_path / "t.json").write_text(json.dumps(value))
        write_jsonl(tmp_path / "a.jsonl", rows)
        write_jsonl(tmp_path / "b.jsonl", rows[:20] + ([{"text": extra}] if extra else []))
        recipe = {
            "name": "x",
            "tokenizer": {"path": "t.json", "eos": END, "backend": backend},
            "domains": [{"name": "a", "paths": ["a.jsonl", "b.jsonl"]}],
            "budget_tokens": 100,
        }
        notices: list[str] = []

        class Listener(Observer):
            def notice(self, message: str) -> None:
                notices.append(message)

        file = tmp_path / "recipe.yaml"
        file.write_text(json.dumps(recipe))
        try:
            tokenize_domains(load_recipe(file), workers, Listener())
        except CurateError as error:
            assert "\n" not in str(error)
            return notices, error
        return notices, None

    return run


def test_the_tokenizer_of_these_tests_is_fine(tokenise: Any) -> None:
    copies = "documents whose text another of their domain has, and counts again: 'a' 23 (46.00%)"
    assert tokenise(bytes_tokenizer()) == ([copies], None)


@forked
def test_a_backend_that_hangs_gives_way_to_the_reference(tokenise: Any) -> None:
    notices, error = tokenise(with_pattern("(?<=a+)b"))
    assert error is None
    assert any("fastokens took more than 2 s of processor time in its self-test: using tokenizers"
               in notice for notice in notices)  # fmt: skip
    _, error = tokenise(with_pattern("(?<=a+)b "), "fastokens")
    assert isinstance(error, TokenizerError)
    assert "fastokens took more than 2 s of processor time" in str(error)


@forked
def test_a_reference_that_cannot_encode_an_odd_input(
    tokenise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill, "LIMITS", Limits(60, 60, 1 << 30))  # memory ends first
    value = bytes_tokenizer()
    value["normalizer"] = {
        "type": "Replace",
        "pattern": {"String": "a" * 32},
        "content": "x" * 100_000,
    }
    _, error = tokenise(value)
    assert isinstance(error, TokenizerError)
    assert "its self-test was ended by SIGABRT, most likely for more than 1 GiB" in str(error)


@forked
@pytest.mark.parametrize("backend", ["auto", "tokenizers"])
def test_a_text_in_the_sample_that_the_reference_cannot_encode(
    tokenise: Any, backend: str, capfd: pytest.CaptureFixture[str]
) -> None:
    _, error = tokenise(with_pattern("(a+)+$"), backend, "x " + "a" * 300 + "!")
    assert isinstance(error, TokenizerError)
    assert "t.json: cannot encode a document (PanicException: Onig: Regex search error" in str(
        error
    )
    assert "Onig" not in capfd.readouterr().err  # what Rust prints of its panic


@forked
def test_a_later_text_that_cannot_be_encoded_is_named(tokenise: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(fill, "SAMPLE_BYTES", 200)
    _, error = tokenise(with_pattern("(a+)+$"), "tokenizers", "x " + "a" * 300 + "!", workers=2)
    assert isinstance(error, TokenizerError)
    assert "b.jsonl: tokenizers cannot encode (PanicException" in str(error)
    assert "the text that starts 'x aaaa" in str(error)


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a dataset whose tokenizer a stranger chose, with hashes that are right."""
    monkeypatch.setattr(preload, "_started", [])
    for module in (selftest, verify, write_report):
        monkeypatch.setattr(module, "LIMITS", Limits(1, 60, 1 << 30))
    rows = [{"text": "x " + "a" * 300 + "!"}, {"text": "a" * 300_000}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    budget_tokens = sum(len(row["text"]) + 1 for row in rows)

    def make(value: Value, backend: str) -> Path:
        (tmp_path / "t.json").write_text(json.dumps(with_pattern(" ")))
        recipe = {
            "name": "x", "tokenizer": {"path": "t.json", "eos": END, "backend": "tokenizers"},
            "domains": [{"name": "a", "paths": ["a.jsonl"]}], "budget_tokens": budget_tokens,
            "mixture": {"method": "natural"}, "output": {"format": "jsonl"},
            "validation": {"documents": 0},
        }  # fmt: skip
        assert curate.build(recipe | {"base": str(tmp_path)}, workers=1).ok
        directory = tmp_path / "out/x"
        content = json.dumps(value).encode()
        (directory / "tokenizer.json").write_bytes(from_json(content, END, "").definition.encode())

        def change(manifest: Value) -> None:
            manifest["tokenizer"]["fingerprint"] = from_json(content, END, "").fingerprint
            manifest["tokenizer"]["backend"] = f"{backend} 1"
            record = next(r for r in manifest["files"] if r["path"] == "tokenizer.json")
            path = directory / "tokenizer.json"
            record |= {"bytes": path.stat().st_size, "xxh3": hash_file(path)}
            manifest["cache"] = str(tmp_path / "elsewhere")

        forge_manifest(directory, change)
        return directory

    return make


@forked
@pytest.mark.parametrize(
    ("pattern", "backend", "expected"),
    [
        ("(?<=a+)b", "fastokens", "tokenizer.json: took more than 1 s of processor time on the"),
        ("(a+)+$", "tokenizers", "cannot encode a document (PanicException: Onig: Regex search er"),
        ("(" * 500 + ")" * 50, "tokenizers", "tokenizer.json: cannot be loaded ("),
    ],
)
def test_a_dataset_with_a_strangers_tokenizer_gets_a_verdict(
    foreign: Any, pattern: str, backend: str, expected: str, runslow: bool
) -> None:
    directory = foreign(with_pattern(pattern), backend)
    for workers in (1, 2) if runslow else (2,):
        result = curate.verify(directory, workers=workers)
        (problem,) = result.problems
        assert expected in problem
        assert "\n" not in problem


@forked
def test_a_strangers_tokenizer_neither_stops_a_report_nor_a_look_up(foreign: Any) -> None:
    value = bytes_tokenizer()
    value["added_tokens"] += [
        {**value["added_tokens"][0], "id": 257 + n, "content": f"<{n}>" + "x" * 9999}
        for n in range(3000)
    ]
    directory = foreign(value, "tokenizers")
    curate.report(directory)
    started = time.monotonic()
    with pytest.raises(TokenizerError, match=r"building it took more than 1 s|SIGABRT"):
        curate.show(directory, "0")
    assert time.monotonic() - started < 30


def test_merges_of_nothing(tokenise: Any) -> None:
    value = bytes_tokenizer()
    value["model"]["merges"] = ["foo bar"]
    _, error = tokenise(value)
    assert "t.json: cannot be loaded (Token `foo` out of vocabulary" in str(error)


@pytest.mark.parametrize("backend", ["auto", "tokenizers"])
def test_a_definition_at_which_the_library_panics(
    tokenise: Any, backend: str, capfd: pytest.CaptureFixture[str]
) -> None:
    value = bytes_tokenizer()
    value["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": ""}
    _, error = tokenise(value, backend)
    assert isinstance(error, TokenizerError)
    assert "t.json: cannot be loaded (Precompiled: Error(" in str(error)
    assert "Precompiled" not in capfd.readouterr().err


def test_patterns_of_endless_depth(tokenise: Any) -> None:
    _, error = tokenise(with_pattern("(" * 5000 + ")" * 5000))
    assert "t.json: cannot be loaded (Oniguruma error" in str(error)


def test_files_that_are_no_tokenizer(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", make_documents("wiki", 5))
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(1_000_000_000)
    os.mkfifo(tmp_path / "pipe")
    for path, expected in (
        ("/dev/zero", "cannot be read (a device, not a file)"),
        (str(tmp_path), "cannot be read (Is a directory)"),
        ("large.json", "cannot be read (larger than 256 MiB, the most that is read)"),
        ("pipe", "not a tokenizer.json ("),
        ("absent", "cannot be read (No such file or directory)"),
    ):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(json.dumps({
            "name": "x", "tokenizer": {"path": path, "eos": None}, "budget_tokens": 9,
            "domains": [{"name": "a", "paths": "a.jsonl"}],
        }))  # fmt: skip
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "curate.cli", "build", str(recipe)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert expected in done.stderr
        assert done.stderr.count("\n") == 1
        assert time.monotonic() - started < 30


def test_nothing_is_built_early_whose_tables_would_fill_the_memory(tmp_path: Path) -> None:
    value = bytes_tokenizer()
    added(id=10**9, content="<|x|>")(value)
    path = tmp_path / "t.json"
    path.write_text(json.dumps(value, indent=1))
    with pytest.raises(ValueError, match="eight digits"):
        preload._read_and_build(path)


@forked
@pytest.mark.parametrize(
    ("function", "wall_seconds", "expected"),
    [
        (lambda: sum(iter(int, 1)), 60, "took more than 1 s of processor time"),
        (lambda: time.sleep(60), 1, "took more than 1 s"),
        (
            lambda: (signal.signal(signal.SIGABRT, signal.SIG_DFL), os.abort()),
            60,
            "was ended by SIGABRT, most likely for more than 1 GiB of memory",
        ),
    ],
)
def test_a_process_with_limits(
    function: Callable[[], object], wall_seconds: float, expected: str
) -> None:
    started = time.monotonic()
    with ahead(function, Limits(1, wall_seconds, 1 << 30)) as result:
        for _ in range(2):  # a second question has the same answer
            with pytest.raises(OverLimit, match=expected):
                result()
    assert time.monotonic() - started < 30


@forked
def test_memory_has_a_limit() -> None:
    with ahead(lambda: len(np.zeros(1 << 31, np.uint8)), Limits(9, 60, 1 << 30)) as result:
        with pytest.raises(CurateError, match="out of memory"):
            result()


def test_a_tokenizer_that_drops_all_text(tokenise: Any) -> None:
    value = bytes_tokenizer()
    value["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": " "}, "behavior": "Isolated",
                              "invert": False}  # fmt: skip
    value["normalizer"] = {"type": "Replace", "pattern": {"Regex": "."}, "content": "\u4e2d"}
    _, error = tokenise(value)
    assert isinstance(error, TokenizerError)
    assert "gives no token for any of 50 sampled documents" in str(error)


def test_documents_that_give_no_token_are_told(tokenise: Any) -> None:
    value = bytes_tokenizer()
    value["pre_tokenizer"] = None
    notices, error = tokenise(value, extra="\u4e2d")
    assert error is None
    assert any(", 1 of them to no token at all (" in notice for notice in notices)
