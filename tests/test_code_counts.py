"""The script that counts how easy the code is to read, on code planted for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "code_counts.py"

FILES = {
    "__init__.py": "",
    "errors.py": "class Fault(Exception):\n    pass\n",
    "low/__init__.py": "",
    "low/shapes.py": '''"""Shapes of things."""

SIDES = 4
"""Of a square."""


class Fault:
    """By accident, the name of another."""

    def area(self, width, height, depth):
        """Multiply."""
        found = width  # not the best name
        return found * height * depth

    def _area(self, width, height, depth):
        return 0


def volume(width, height, depth):
    """Multiply.

    Args:
        width: In metres.
    """
    # A comment.
    # fmt: skip
    return max(width, height, depth, 1, 2, 3)


def forgotten(known):
    return [forgotten(wanted) for wanted in known]
''',
    "high/__init__.py": "from curate.low import shapes\n",
    "high/shapes.py": "from ..low.shapes import Fault, volume\nfrom curate import errors\n"
    "def long():\n" + "    Fault().area(volume(), errors)\n" * 60,
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "planted" / "curate" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return tmp_path / "planted"


def run(*words: str | Path) -> str:
    command = [sys.executable, SCRIPT, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_table_has_a_column_for_each_checkout(checkout: Path) -> None:
    head, _, *body = run(checkout, checkout).splitlines()
    assert head.split() == ["|", "|", "planted", "|", "planted", "|"]
    rows = {}
    for line in body:
        _, name, first, second, _ = line.split("|")
        assert first == second
        rows[name.strip()] = int(first)
    assert rows == {
        "entries of curate/: packages": 2,
        "entries of curate/: modules": 1,
        "import statements between entries": 3,
        "files": 6,
        "lines": 97,
        "lines: code": 78,
        "lines: docstring": 9,
        "lines: blank": 9,
        "functions": 5,
        "function lines: median": 3,
        "function lines: 90th percentile": 61,
        "function lines: longest": 61,
        "file lines: median": 2,
        "file lines: 90th percentile": 63,
        "file lines: longest": 63,
        "imports between entries (pairs of entries)": 2,
        "imports between entries (pairs of modules)": 3,
        "comment lines": 1,
        "comments behind code": 1,
        "functions over 60 lines": 1,
        "files over 300 lines": 0,
        "docstrings that begin Of/By/As/What/Where": 2,
        "public functions of 3+ arguments without Args": 1,
        "names found/known/chosen/told/wanted": 3,
        "classes that share a name": 2,
        "files that share a name": 2,
        "calls with six or more positional arguments": 1,
        "functions without a caller (by name)": 3,
    }


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        ("without Args", ["low/shapes.py:10: area(width, height, depth)"]),
        ("six or more", ["low/shapes.py:27: max takes 6"]),
        ("Of/By", ["low/shapes.py:8: By accident, the name of another.",
                   "low/shapes.py:4: Of a square."]),
        ("found/", ["low/shapes.py:30: known", "low/shapes.py:12: found",
                    "low/shapes.py:31: wanted"]),
        ("classes", ["errors.py:1: class Fault", "low/shapes.py:7: class Fault"]),
        ("without a caller", ["high/shapes.py:3: long", "low/shapes.py:15: _area",
                              "low/shapes.py:30: forgotten"]),
        ("pairs of entries", ["high/shapes.py:2: high -> errors",
                              "high/__init__.py:1: high -> low"]),
    ],
)  # fmt: skip
def test_places_are_listed(check: str, expected: list[str], checkout: Path) -> None:
    lines = run(checkout, "--list", check).splitlines()
    assert sorted(lines) == sorted(f"curate/{place}" for place in expected)


def test_an_unknown_check_is_refused(checkout: Path) -> None:
    command = [sys.executable, SCRIPT, checkout, "--list", "nothing"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "no check has 'nothing' in its name; there are: imports between" in result.stderr
