"""A tokenizer that is started early is the one used, or else it is as if it had never started."""

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

pytestmark = pytest.mark.usefixtures("own_store")


@pytest.fixture(autouse=True)
def _nothing_started(monkeypatch):
    monkeypatch.setattr(preload, "_started", [])


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
    build, builds = preload.build, []

    def watched(definition):
        builds.append((definition, threading.current_thread() is threading.main_thread()))
        return build(definition)

    monkeypatch.setattr(preload, "build", watched)
    return builds


def test_the_started_tokenizer_encodes(recipe, definition, built):
    preload.start(load_recipe(recipe, (with_path(definition),)))
    tokenizer = load(definition, END)
    texts = [row["text"] for row in make_documents("wiki", 20)]
    encoded = FastokensEncoder(tokenizer).encode(texts)
    expected = ReferenceEncoder(tokenizer).encode(texts)
    assert all(map(np.array_equal, encoded, expected))
    assert [in_main for _, in_main in built] == [False]
    assert preload.take(tokenizer.file_hash) is None  # given away once


def test_a_command_starts_early_where_there_is_no_cache(recipe, definition, built):
    command = ["tokenize", str(recipe), "--quiet", "--set", with_path(definition)]
    assert CliRunner().invoke(cli, command, catch_exceptions=False).exit_code == 0
    assert built == [(definition.read_text(), False)]
    assert CliRunner().invoke(cli, command, catch_exceptions=False).exit_code == 0
    assert len(built) == 1


@pytest.mark.parametrize(
    "override",
    ["tokenizer.backend=tokenizers", "tokenizer={train: {vocab_size: 512}}", "cache=."],
)
def test_nothing_is_started_that_may_not_be_needed(recipe, definition, built, override):
    preload.start(load_recipe(recipe, (with_path(definition), override)))
    assert preload.take(None) is None
    assert built == []


def test_a_definition_made_canonical_is_built_from_that(recipe, bpe, definition, built):
    """Started from a file with truncation on, it would cut documents short."""
    cut = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    definition.write_text(json.dumps({**bpe, "truncation": cut}))
    preload.start(load_recipe(recipe, (with_path(definition),)))
    tokenizer = load(definition, END)
    texts = [row["text"] for row in make_documents("code", 5)]
    ids, offsets = FastokensEncoder(tokenizer).encode(texts)
    assert np.diff(offsets).min() > 5
    assert np.array_equal(ids, ReferenceEncoder(tokenizer).encode(texts)[0])
    assert [text for text, _ in built] == [definition.read_text(), tokenizer.definition]


@pytest.mark.parametrize("text", ["{}", "no json", None])
def test_a_failed_start_is_reported_by_who_needs_it(recipe, text):
    path = recipe.parent / "broken.json"
    if text is not None:
        path.write_text(text)
    command = ["tokenize", str(recipe), "--set", with_path(path)]
    result = CliRunner().invoke(cli, command)
    assert str(result.exception).startswith(f"tokenizer {path}: ")
    assert preload.take(None) is None


def test_another_definition_is_built_anew(recipe, bpe, definition, built):
    preload.start(load_recipe(recipe, (with_path(definition),)))
    other = recipe.parent / "other.json"
    other.write_text(json.dumps(bpe))
    FastokensEncoder(load(other, END))
    assert len(built) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_a_pipe_is_left_to_its_one_reader(recipe):
    pipe = recipe.parent / "tokenizer.pipe"
    os.mkfifo(pipe)
    preload.start(load_recipe(recipe, (with_path(pipe),)))
    assert preload._started == []


def test_the_library_is_imported_before_the_thread_starts(recipe, definition):
    """Or a process forked meanwhile inherits the lock of an import, which nobody releases."""
    script = f"""
import sys
from pathlib import Path
from curate.recipe import load
from curate.tokens import preload

seen = []
preload.build = lambda definition: seen.append("fastokens" in sys.modules)
loaded = load(Path({str(recipe)!r}), ({with_path(definition)!r},))
assert "fastokens" not in sys.modules
preload.start(loaded)
preload.take(None)
assert seen == [True], seen
"""
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[1], check=True)
