"""Damage to any file below the cache is noticed before use, named, and mended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import Listener, make_documents, write_jsonl

from curate.pipeline.measure import gather, recall
from curate.pipeline.tokenize import tokenize_domains
from curate.recipe import load
from curate.sources import identify
from curate.sources.discover import InputPath
from curate.tokens import selftest
from curate.tokens.backends import ReferenceEncoder

LONG_AGO = 1_000_000_000


def flip(path: Path, position: int | None = None) -> None:
    """Change one bit of a file, in the middle if no position is given."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 4
    path.write_bytes(content)


def test_damaged_identities_are_hashed_again(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "a.jsonl", make_documents("wiki", 20))
    os.utime(data, (LONG_AGO, LONG_AGO))
    paths = [InputPath(str(data), "a.jsonl")]
    notices: list[str] = []
    whole = identify(paths, tmp_path)
    kept = (tmp_path / "files.json").read_bytes()
    for position in range(0, len(kept), 7):
        flip(tmp_path / "files.json", position)
        assert identify(paths, tmp_path, notices.append) == whole
        assert (tmp_path / "files.json").read_bytes() == kept
        assert notices.pop() == (
            f"{tmp_path / 'files.json'} is damaged: input files are hashed again"
        )
    assert identify(paths, tmp_path, notices.append) == whole
    assert not notices


def test_damaged_measurements_are_made_again(recipe: Path) -> None:
    loaded = load(recipe, ["mixture={method: entropy}"])
    tokenized = tokenize_domains(loaded, 1, Listener())
    clean = gather(loaded, tokenized, ["tokens"], 1, Listener())
    (kept,) = (loaded.cache_dir / "evidence").glob("*/code-tokens-*")
    flip(kept)
    listener = Listener()
    lacking = recall(loaded, tokenized, listener.notice)
    assert lacking[1].entropy == {}
    assert listener.notices == [f"{kept} is damaged: measured again when a method needs it"]
    assert gather(loaded, tokenized, ["tokens"], 1, listener) == clean
    assert recall(loaded, tokenized, listener.notice) == clean


@pytest.mark.parametrize("pattern", ["files-*", "bpe-*"])
def test_a_damaged_trained_tokenizer_is_trained_again(recipe: Path, pattern: str) -> None:
    clean = tokenize_domains(load(recipe), 1, Listener())
    (kept,) = (recipe.parent / ".curate" / "trained").glob(pattern)
    flip(kept)
    listener = Listener()
    again = tokenize_domains(load(recipe), 1, listener)
    assert (again.tokenizer, again.stats) == (clean.tokenizer, clean.stats)
    assert f"{kept} is damaged: the tokenizer is trained again" in listener.notices
    assert again.tokenised_bytes == 0


def test_a_damaged_verdict_on_a_backend_is_made_again(recipe: Path, tmp_path: Path) -> None:
    tokenizer = tokenize_domains(load(recipe), 1, Listener()).tokenizer
    answers = selftest.reference_answers(tokenizer, "fastokens", ["a text"], tmp_path)
    selftest.judge(tokenizer, "fastokens", ReferenceEncoder(tokenizer), answers, tmp_path)
    (kept,) = tmp_path.glob("*.json")
    assert not selftest.reference_answers(tokenizer, "fastokens", ["a text"], tmp_path).odd
    flip(kept)
    answers = selftest.reference_answers(tokenizer, "fastokens", ["a text"], tmp_path)
    assert answers.odd
    assert answers.notices == (f"{kept} is damaged: the tokenizer's backend is tested again",)
