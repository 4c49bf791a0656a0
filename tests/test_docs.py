"""The documentation says what there is, builds without a warning, and its commands run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pictures
import pytest
import reference
from docs_pages import (
    PAGES,
    ROOT,
    RUN,
    SHOWN,
    CodeBlock,
    code_blocks,
    console_commands,
    first_line_missing,
    prepare_workbench,
    reader_environment,
    run_shell,
)

import curate
from curate import errors
from curate.cli import cli
from curate.formats import FORMATS
from curate.laws import LAWS
from curate.mixture import METHODS
from curate.recipe import parse
from curate.recipe.text import ALIASES
from curate.sources import READERS
from curate.stats import STATISTICS
from curate.tokens.backends import BACKENDS

README = (ROOT / "README.md").read_text("utf-8")
DOCS = {path.stem: path.read_text("utf-8") for path in PAGES}

BLOCKS = {path.stem: code_blocks(path) for path in PAGES}

README_BYTES = 10_000
MOST_NOT_RUN = 5
"""Blocks that need a GPU, a network or hours; each says which."""


# What the pages name


@pytest.mark.parametrize("name", cli.commands)
def test_every_command_is_documented_and_has_help(name: str) -> None:
    assert f"`curate {name}" in README
    assert f"### `curate {name}`" in DOCS["commands"]
    assert (cli.commands[name].help or "").strip().endswith(".")


@pytest.mark.parametrize("page", DOCS)
def test_pages_name_no_command_that_is_not(page: str) -> None:
    words = set(re.findall(r"`curate ([a-z]+)", DOCS[page]))
    for block in BLOCKS[page]:
        words |= set(re.findall(r"^(?:\$ )?curate ([a-z]+)", block.body, re.MULTILINE))
    assert words <= set(cli.commands)


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("methods", METHODS),
        ("laws", LAWS),
        ("formats", FORMATS),
        ("entropy", STATISTICS),
        ("recipe", READERS),
        ("recipe", BACKENDS),
        ("recipe", [alias for words in ALIASES.values() for alias in words]),
        ("python", [name for name in curate.__all__ if not name.startswith("_")]),
    ],
    ids=["methods", "laws", "formats", "statistics", "readers", "backends", "aliases", "python"],
)
def test_every_name_is_on_its_page(page: str, names: list[str]) -> None:
    missing = [name for name in names if f"`{name}`" not in DOCS[page]]
    assert not missing


def test_every_error_family_is_in_troubleshooting() -> None:
    families = errors.CurateError.__subclasses__()
    assert len(families) > 6
    assert [one for one in families if f"## `{one.__name__}`" not in DOCS["troubleshooting"]] == []


def test_every_recipe_key_has_a_meaning() -> None:
    keys = reference.recipe_keys()
    assert len(keys) > 70
    assert [key for key, field in keys.items() if not field.get("description")] == []


def test_readme_is_short() -> None:
    assert len(README.encode()) <= README_BYTES


def test_pictures_are_made_by_the_tool_and_small() -> None:
    files = {path.stem: path.read_bytes() for path in pictures.PICTURES.iterdir()}
    assert set(files) == set(pictures.SHOWN)
    assert sum(map(len, files.values())) < 1_000_000
    for name, page in pictures.SHOWN.items():
        assert f"(_static/pictures/{name}.svg)" in DOCS[page]
        assert b"curate report" in files[name][:4096]
    assert len({*pictures.SHOWN.values()}) >= 6


# What is generated


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_generated_parts_are_up_to_date(path: Path) -> None:
    page = path.read_text("utf-8")
    assert page == reference.refresh(page), "run: python tools/reference.py"


def test_every_generated_part_is_on_a_page() -> None:
    used = {name for page in DOCS.values() for _, name, _ in reference.BLOCK.findall(page)}
    assert used == set(reference.GENERATED)


def test_an_outdated_part_is_replaced() -> None:
    page = "<!-- generated: methods -->\n\nold\n\n<!-- end: methods -->\n"
    assert "old" not in reference.refresh(page) and "`natural`" in reference.refresh(page)


# The build


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Build a directory of pages with warnings as errors; empty, or what went wrong."""
    pytest.importorskip("sphinx")

    def run(source: Path) -> str:
        target = tmp_path_factory.mktemp("html")
        command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(source)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*command, str(target)], capture_output=True, text=True, env=environment, timeout=300
        )
        assert done.returncode or (target / "index.html").exists()
        return done.stderr if done.returncode else ""

    return run


def test_documentation_builds_without_a_warning(build: Callable[[Path], str]) -> None:
    assert build(ROOT / "docs") == ""


def test_a_broken_link_fails_the_build(build: Callable[[Path], str], tmp_path: Path) -> None:
    pages = tmp_path / "docs"
    pages.mkdir()
    (pages / "conf.py").write_text('extensions = ["myst_parser"]\n', "utf-8")
    (pages / "index.md").write_text("# Page\n\n[gone](gone.md)\n", "utf-8")
    assert "gone.md" in build(pages)


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README):
        assert (ROOT / target).exists(), target


# What the pages show


def test_blocks_say_their_language() -> None:
    blocks = [block for page in BLOCKS.values() for block in page]
    unclear = [block.place for block in blocks if block.language not in (*RUN, *SHOWN)]
    assert not unclear


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    skipped = [block for page in BLOCKS.values() for block in page if block.mark == "not run"]
    assert all(len(block.value) > 10 for block in skipped)
    assert len(skipped) <= MOST_NOT_RUN, [block.place for block in skipped]


def test_recipes_are_valid() -> None:
    recipes = sorted((ROOT / "recipes").glob("*.yaml"))
    assert recipes
    for path in recipes:
        parse(path.read_text("utf-8"), path.parent)


def test_recipes_of_the_pages_are_valid() -> None:
    recipes = [
        block
        for page in BLOCKS.values()
        for block in page
        if block.language == "yaml" and block.body.startswith("name:")
    ]
    assert len(recipes) > 3
    for block in recipes:
        assert not parse(block.body, ROOT, (), block.place).notices, block.place


@pytest.fixture(scope="module")
def workbench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which a reader has followed the README."""
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    root = tmp_path_factory.mktemp("reader")
    directory = root / "work"
    directory.mkdir()
    prepare_workbench(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        run_page("README", directory)
    return directory


def test_blocks_of_the_readme_run(workbench: Path) -> None:
    assert '"ok": true' in (workbench / "out/my-mix/certificate.json").read_text("utf-8")


@pytest.mark.parametrize(
    "name", ["stats.json", "mixture.json", "plan.json", "certificate.json", "manifest.json"]
)
def test_every_field_that_a_build_writes_is_documented(name: str, workbench: Path) -> None:
    fields = field_names(json.loads((workbench / "out/my-mix" / name).read_bytes()))
    section = DOCS["files"].partition(f"## `{name}`")[2].partition("\n## ")[0]
    head = DOCS["files"].partition("## `stats.json`")[0]
    words = set(re.findall(r"\w+", section + head))
    assert len(fields) > 10
    assert fields - words == set()


def field_names(value: object) -> set[str]:
    """Every key of a JSON value, however deep, but the names of domains."""
    if isinstance(value, list):
        return set().union(*map(field_names, value))
    if not isinstance(value, dict):
        return set()
    below = set().union(*map(field_names, value.values()))
    return below | (set(value) - {"articles", "code", "stubs"})


@pytest.mark.parametrize("page", [name for name in BLOCKS if BLOCKS[name] and name != "README"])
def test_blocks_run(page: str, workbench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workbench)
    run_page(page, workbench)


def run_page(page: str, directory: Path) -> None:
    """Write and run the blocks of a page, top to bottom; Python shares its names."""
    names: dict[str, object] = {"__name__": "__main__"}
    environment = reader_environment(directory.parent / "commands")
    for block in BLOCKS[page]:
        if block.mark == "file":
            (directory / block.value).write_text(block.body, "utf-8")
        elif block.mark:
            continue
        elif block.language == "python":
            exec(compile(block.body, block.place, "exec"), names)
        elif block.language in RUN:
            run_commands(block, directory, environment)


def run_commands(block: CodeBlock, directory: Path, environment: dict[str, str]) -> None:
    """Run a console or bash block and compare what a console block shows."""
    commands = [(block.body, [])] if block.language == "bash" else console_commands(block.body)
    for command, shown in commands:
        code, printed = run_shell(command, directory, environment)
        missing = first_line_missing(shown, printed)
        assert missing is None, f"{block.place}: not printed: {missing}\n{command}\n{printed}"
        fails = any(line.startswith("curate: ") for line in shown)
        assert fails or code == 0, f"{block.place}: exit {code}\n{command}\n{printed}"


def test_a_line_that_was_not_printed_is_found() -> None:
    printed = (
        "✓ write  5 shards, 4.3 MB 0.1 s\n│ all │ 2,000 │\nok: true  /tmp/x/certificate.json\n"
    )
    assert (
        first_line_missing(["✓ write 4 shards, 1 MB 3 s", "ok: true …/certificate.json"], printed)
        is None
    )
    assert first_line_missing(["all 7", "✓ write 4 shards, 1 MB 3 s"], printed) is not None
    assert first_line_missing(["ok: false …"], printed) == "ok: false …"


def test_every_command_of_a_block_is_seen() -> None:
    body = "$ curate mix \\\n    a.yaml\nshown\n$ curate plan a.yaml\n"
    assert list(console_commands(body)) == [
        ("curate mix a.yaml", ["shown"]),
        ("curate plan a.yaml", []),
    ]
