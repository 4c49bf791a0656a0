"""A tokenizer that is begun early is the one that is used, or it is as if it had not been begun."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import END, make_documents

from curate.cli import cli
from curate.recipe import load as load_recipe
from curate.tokens import preload
from curate.tokens.backends import FastokensEncoder, ReferenceEncoder
from curate.tokens.tokenizer import load


@pytest.fixture(autouse=True)
def _nothing_begun(monkeypatch):
    monkeypatch.setattr(preload, "_begun", [])


@pytest.fixture
def definition(bpe, tmp_path):
    """A tokenizer.json, indented as the hub has them."""
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(bpe, indent=2))
    return path


def with_path(path):
    return f"tokenizer={{path: {path}, eos: '{END}'}}"


@pytest.fixture
def built(monkeypatch):
    """Definitions that a tokenizer was built from, and whether in the main thread."""
    build, found = preload.build, []

    def watched(definition):
        found.append((definition, threading.current_thread() is threading.main_thread()))
        return build(definition)

    monkeypatch.setattr(preload, "build", watched)
    return found


def test_what_was_begun_is_what_encodes(recipe, definition, built):
    preload.begin(load_recipe(recipe, (with_path(definition),)))
    tokenizer = load(definition, END)
    texts = [row["text"] for row in make_documents("wiki", 20)]
    found = FastokensEncoder(tokenizer).encode(texts)
    expected = ReferenceEncoder(tokenizer).encode(texts)
    assert all(map(np.array_equal, found, expected))
    assert [in_main for _, in_main in built] == [False]
    assert preload.take(tokenizer.file_hash) is None  # given away once


def test_the_command_line_begins_early_where_there_is_no_cache(recipe, definition, built):
    command = ["tokenize", str(recipe), "--quiet", "--set", with_path(definition)]
    assert CliRunner().invoke(cli, command, catch_exceptions=False).exit_code == 0
    assert built == [(definition.read_text(), False)]
    assert CliRunner().invoke(cli, command, catch_exceptions=False).exit_code == 0
    assert len(built) == 1


@pytest.mark.parametrize(
    "override",
    ["tokenizer.backend=tokenizers", "tokenizer={train: {vocab_size: 512}}", "cache=."],
)
def test_nothing_is_begun_that_may_not_be_needed(recipe, definition, built, override):
    preload.begin(load_recipe(recipe, (with_path(definition), override)))
    assert preload.take(None) is None
    assert built == []


def test_a_definition_made_canonical_is_built_from_that(recipe, bpe, definition, built):
    """Of a file with truncation on, what was begun would cut documents short."""
    cut = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    definition.write_text(json.dumps({**bpe, "truncation": cut}))
    preload.begin(load_recipe(recipe, (with_path(definition),)))
    tokenizer = load(definition, END)
    texts = [row["text"] for row in make_documents("code", 5)]
    ids, offsets = FastokensEncoder(tokenizer).encode(texts)
    assert np.diff(offsets).min() > 5
    assert np.array_equal(ids, ReferenceEncoder(tokenizer).encode(texts)[0])
    assert [text for text, _ in built] == [definition.read_text(), tokenizer.definition]


@pytest.mark.parametrize("text", ["{}", "no json", None])
def test_what_cannot_be_begun_is_told_by_who_needs_it(recipe, text):
    path = recipe.parent / "broken.json"
    if text is not None:
        path.write_text(text)
    command = ["tokenize", str(recipe), "--set", with_path(path)]
    result = CliRunner().invoke(cli, command)
    assert str(result.exception).startswith(f"tokenizer {path}: ")
    assert preload.take(None) is None


def test_another_definition_than_was_begun_is_built_anew(recipe, bpe, definition, built):
    preload.begin(load_recipe(recipe, (with_path(definition),)))
    other = recipe.parent / "other.json"
    other.write_text(json.dumps(bpe))
    FastokensEncoder(load(other, END))
    assert len(built) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_a_pipe_is_left_to_who_reads_it_once(recipe):
    pipe = recipe.parent / "tokenizer.pipe"
    os.mkfifo(pipe)
    preload.begin(load_recipe(recipe, (with_path(pipe),)))
    assert preload._begun == []


def test_threads_find_imported_what_they_use():
    """Or a process forked meanwhile inherits the lock of an import that nobody will end."""
    script = """
import sys
from pathlib import Path
import numpy as np
from curate.tokens.backends import BACKENDS, first_choice
from curate.tokens.fill import begin_loading
from curate.tokens.store import TokenStore

empty = TokenStore(Path("nowhere"), "0" * 32, np.dtype("<u2"))
for name in ("tokenizers", "fastokens"):
    assert name not in sys.modules
    BACKENDS[name] = lambda tokenizer, name=name: name in sys.modules
    with begin_loading(first_choice(name), None, empty) as loading:
        assert loading.result(), name
"""
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[1], check=True)
