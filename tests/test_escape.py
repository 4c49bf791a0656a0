"""Text from strangers shows as it is, and acts on neither a terminal nor a page."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import END, make_documents, write_jsonl
from rich.console import Group
from rich.table import Table

from curate.report.terminal import VisibleConsole, plain
from curate.runtime.escape import MOST_CHARACTERS, markdown, one_line, visible

HOSTILE = "\x1b]0;PWN\x07\x1b[31mRED\x1b[0m\x9b2J\u202etxt.exe\u2066\u200b\u2028\r\n|\x7f\x00"
UNSAFE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
LICENCE = "MIT |\n\n# INJECTED <script>alert(1)</script>\n\n| x\n---\nlicense: evil\n---\x1b[31m"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, 你好 ещё \u00a0 e\u0301 \U0001f600", "plain, 你好 ещё \u00a0 e\u0301 \U0001f600"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\x9b\x7f\x00\t\r\n", "\\x9b\\x7f\\x00\\t\\r\\n"),
        ("\u202e\u2066\u200b\u2028\ufeff", "\\u202e\\u2066\\u200b\\u2028\\ufeff"),
        ("caf\udce9.txt", "caf\\xe9.txt"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_is_invisible_shows_as_an_escape(text: str, expected: str) -> None:
    assert visible(text) == expected
    assert not UNSAFE.search(visible(HOSTILE))


def test_messages_are_one_line_of_bounded_length() -> None:
    assert "\n" not in one_line("a\nb" * 10_000)
    assert len(one_line("a\nb" * 10_000)) == MOST_CHARACTERS + 1


def test_a_console_shows_whatever_it_is_given() -> None:
    written = io.StringIO()
    console = VisibleConsole(file=written, width=200, force_terminal=True)
    table = Table(title=HOSTILE, caption=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(plain("\\[red]x[/] [link=http://evil]y"))
    console.print(Group(table, HOSTILE), f"[red]ours[/] {plain(HOSTILE)}")
    text = re.sub(r"\x1b\[[\d;]*m", "", written.getvalue().replace("\x1b]8;;", ""))
    assert not UNSAFE.search(text)
    assert "\\[red]x[/] [link=http://evil]y" in text
    assert "\x1b]0" not in written.getvalue() and "\x1b[31mRED" not in written.getvalue()


def test_markdown_is_text() -> None:
    escaped = markdown("| # <b> [a](http://x) *b* `c` www.evil.com &amp; @me \\")
    assert escaped == (r"\| \# \<b\> \[a\](http\://x) \*b\* \`c\` www\.evil.com \&amp; \@me \\")
    assert markdown("apache-2.0") == "apache-2.0"


@pytest.fixture
def hostile_recipe(tmp_path: Path, bpe: dict[str, Any]) -> Path:
    """A recipe whose licence, metadata, file name, record and notes come from a stranger."""
    name = "d\x1b[31m\u202e.jsonl"
    path = write_jsonl(tmp_path / name, make_documents("wiki", 150))
    with path.open("ab") as file:
        file.write(b'{"text": "\x1b]0;PWN\x07\n')
    (tmp_path / ("copy-" + name)).write_bytes(path.read_bytes())  # named in a notice
    (tmp_path / "t.json").write_text(json.dumps(bpe))
    recipe = {
        "name": "inj",
        "tokenizer": {"path": "t.json", "eos": END},
        "domains": [
            {
                "name": "a",
                "paths": "*.jsonl",
                "license": LICENCE,
                "metadata": {HOSTILE[:-1]: HOSTILE[:-1]},
            }
        ],
        "budget_tokens": 1000,
        "validation": {"documents": 0},
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe))
    return file


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "curate.cli", *map(str, arguments)],
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_a_strangers_text_in_card_terminal_and_json(hostile_recipe: Path) -> None:
    built = run("build", hostile_recipe)
    printed = (built.stdout + built.stderr).decode()
    assert built.returncode == 0, printed
    assert not UNSAFE.search(printed)
    assert "d\\x1b[31m\\u202e.jsonl" in printed.replace("\n", "")
    card = (hostile_recipe.parent / "out/inj/README.md").read_text("utf-8")
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "other"
    assert not UNSAFE.search(card)
    assert "<script>" not in body and "\n# INJECTED" not in body
    assert r"MIT \|\\n\\n\# INJECTED \<script\>" in body
    stats = run("stats", hostile_recipe, "--json")
    assert stats.stdout.isascii() and json.loads(stats.stdout)
    refused = run("build", hostile_recipe, "--set", "domains.a.paths=\x1b[31m\u202e.jsonl")
    assert refused.returncode == 2
    assert refused.stderr.count(b"\n") == 1
    assert not UNSAFE.search(refused.stderr.decode())


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "utf-16"},
        *(
            pytest.param(names, marks=pytest.mark.slow)
            for names in (
                {"PYTHONIOENCODING": "ascii"},
                {"TERM": "dumb", "COLUMNS": "20"},
                {"LC_ALL": "de_DE.UTF-8", "LANG": "tr_TR.UTF-8"},
            )
        ),
    ],
)
def test_any_encoding_takes_the_output(
    recipe: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    done = run("build", recipe, "--set", "cache=cache", **environment)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    lines = done.stdout.decode(encoding)
    assert ("✓ write" if encoding.startswith("utf") and "PYTHONUTF8" not in environment
            else "ok write") in lines  # fmt: skip
    assert not done.stderr


@pytest.mark.skipif(os.name != "posix", reason="a locale of bytes")
def test_a_file_name_that_the_locale_lacks(recipe: Path) -> None:
    write_jsonl(recipe.parent / "données.jsonl", make_documents("wiki", 60))
    recipe.write_text(
        "{name: x, tokenizer: {train: {vocab_size: 300}}, budget_tokens: 1000, "
        "domains: [{name: a, paths: données.jsonl}]}",
        "utf-8",
    )
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run("build", recipe, **environment)
    if done.returncode:  # else the system's C locale is UTF-8
        assert done.returncode == 2
        assert done.stderr.count(b"\n") == 1
        assert b"set PYTHONUTF8=1 or LC_ALL=C.UTF-8" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="closes descriptors in the shell's way")
def test_a_build_with_closed_streams_writes_into_no_file(recipe: Path) -> None:
    """A file opened first would otherwise be standard output, and take every message."""
    digests = []
    for closed in ("", "<&- >&- 2>&-", ">&-", "2>&-"):
        command = (
            f"'{sys.executable}' -m curate.cli build '{recipe}' --out '{recipe.parent}/o' {closed}"
        )
        assert subprocess.run(command, shell=True, capture_output=True).returncode == 0
        files = sorted((recipe.parent / "o" / "train").iterdir())
        digests.append([path.read_bytes() for path in files])
    assert run("verify", recipe.parent / "o").returncode == 0
    assert all(digest == digests[0] for digest in digests)
