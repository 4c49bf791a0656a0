"""Damage to any file below the cache is noticed before use, named, and mended."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import RECIPE, Listener, make_documents, write_jsonl

from curate.pipeline.build import build
from curate.pipeline.measure import gather, recall
from curate.pipeline.tokenize import tokenize_domains
from curate.recipe import load
from curate.sources import identify
from curate.sources.discover import InputPath
from curate.tokens import selftest
from curate.tokens.backends import ReferenceEncoder

pytestmark = pytest.mark.usefixtures("own_store")

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


def built(root: Path, notices: list[str]) -> dict[str, Any]:
    """Build into a new directory, and return what must not depend on the cache."""
    overrides = ["mixture={method: entropy}", "budget_tokens=3000", "validation.documents=0.1"]
    overrides.append("limits.lost_share=0.1")
    listener = Listener()
    shutil.rmtree(root / "out", ignore_errors=True)
    result = build(load(root / "recipe.yaml", overrides), 1, listener, overwrite=True)
    notices += listener.notices
    assert result.certificate["ok"], result.certificate["problems"]
    return result.certificate


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A built dataset with its cache, and its certificate."""
    root = tmp_path_factory.mktemp("campaign")
    for domain in ("wiki", "code", "talk"):
        data = write_jsonl(root / "data" / domain / "a.jsonl", make_documents(domain, 40))
        data.write_text(data.read_text("utf-8") + "not JSON\n", "utf-8")
        os.utime(data, (LONG_AGO, LONG_AGO))
    (root / "recipe.yaml").write_text(RECIPE.format(data=root / "data"), "utf-8")
    return root, built(root, [])


def test_any_flipped_bit_in_the_cache_is_noticed_and_mended(
    campaign: tuple[Path, dict[str, Any]], runslow: bool
) -> None:
    """One file of each name, or all of them."""
    root, clean = campaign
    cache = root / ".curate"
    before = {path: path.read_bytes() for path in sorted(cache.rglob("*")) if path.is_file()}
    kinds = {path.relative_to(cache).parts[0] for path in before}
    assert kinds == {"CACHEDIR.TAG", "files.json", "trained", "tokens", "counts", "evidence"}
    rng = np.random.default_rng(7)
    named = {path if runslow else path.name: path for path, content in before.items() if content}
    for path in named.values():
        content = before[path]
        damaged = bytearray(content)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        notices: list[str] = []
        assert built(root, notices) == clean
        is_named = any(f"{path} is damaged: " in notice for notice in notices)
        assert is_named or path.name == "CACHEDIR.TAG", path
        assert {path: path.read_bytes() for path in before} == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_more_domains_and_parts_than_descriptors(tmp_path: Path) -> None:
    import resource

    domains = 90
    for number in range(domains):
        write_jsonl(tmp_path / f"{number}.jsonl", make_documents("wiki", 3, seed=number))
    rows = [f"  - {{name: d{number}, paths: {number}.jsonl}}" for number in range(domains)]
    text = "\n".join(["name: many", "tokenizer: {train: {vocab_size: 300}}", "domains:", *rows])
    text += "\nmixture: {method: natural}\nbudget_tokens: 2000\nvalidation: {documents: 0.1}\n"
    (tmp_path / "recipe.yaml").write_text(text, "utf-8")
    for command in (["build", "recipe.yaml"], ["verify", "out/many"]):
        done = subprocess.run(
            [sys.executable, "-m", "curate.cli", *command, "--quiet"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / ".curate" / "tokens").glob("*/part-*"))) == domains


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize(("soft", "hard", "raised"), [(64, 200, 200), (100, 100, 100)])
def test_commands_raise_the_limit_on_open_files(soft: int, hard: int, raised: int) -> None:
    program = (
        "import resource; from curate.cli.commands import raise_descriptor_limit\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "raise_descriptor_limit()\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (f"{raised} {hard}\n", "")
