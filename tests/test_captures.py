"""Every command at 80 and 140 columns: no number is cut, and no table is wider than the screen."""

from __future__ import annotations

import shutil
from pathlib import Path

import captures
import pytest
from conftest import slow_if

from curate.cli import cli

APART = {"corpus", "schema"}
"""Commands that harvest for long, or print the same JSON whatever the width."""


@pytest.fixture(scope="module")
def work(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the recipes of the captures, over the tests' corpus."""
    directory = tmp_path_factory.mktemp("work")
    shutil.copytree(corpus / "data", directory / "data")
    domains = [(name, f"data/{name}/*") for name in ("wiki", "code", "talk")]
    captures.write_recipes(directory, domains, 20_000, 400)
    (directory / "ids.txt").write_text("wiki-0\ncode-0\n", "utf-8")
    return directory


def test_every_command_is_captured() -> None:
    words = {command.split()[0] for command in captures.COMMANDS} - {"--help"}
    assert words == set(cli.commands) - {"schema"}


@pytest.mark.parametrize(
    "line",
    ["│ wiki │ 330… │", "│ wiki │ … │", "│ wiki │ …330 │", "  report  Write a page of…5 lines",
     "  report  Write one page with...", "│ wiki │ " + "1" * 80 + " │", "Traceback (most"],
)  # fmt: skip
def test_a_cut_number_is_seen(line: str) -> None:
    assert captures.faults(f"domains\n{line}\n", 80) == [line]


def test_whole_numbers_and_long_sentences_are_no_fault() -> None:
    text = "│ wiki │ 330k │\nnote " + "a sentence may be longer than the line, " * 3 + "\n"
    assert captures.faults(text, 80) == []


@pytest.mark.parametrize("width", slow_if(lambda width: width != 80, captures.WIDTHS))
def test_no_number_is_cut(work: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.chdir(work)
    for command in captures.COMMANDS:
        if command.split()[0] in APART:
            continue
        Path("first.yaml").unlink(missing_ok=True)
        text = captures.run(command, width)
        assert text.strip()
        assert captures.faults(text, width) == [], command


def test_the_page_has_no_cut_number_either() -> None:
    text = captures.PAGE.read_text("utf-8")
    assert captures.faults(text, captures.WIDTHS[1]) == []
    assert len(text.encode()) < 80_000
