"""Benchmarks and studies use what the library has: names move, and nothing else imports these."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "tools").rglob("*.py"))


def names_of_curate(path: Path) -> list[tuple[str, str]]:
    """Module and name of everything that a script imports from curate."""
    tree = ast.parse(path.read_text("utf-8"))
    return [
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "curate"
        for alias in node.names
    ]  # fmt: skip


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_scripts_import_is_there(path: Path) -> None:
    for module, name in names_of_curate(path):
        if not hasattr(importlib.import_module(module), name):
            importlib.import_module(f"{module}.{name}")


def test_a_name_that_is_gone_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    from curate.errors import Gone\n", "utf-8")
    with pytest.raises(ModuleNotFoundError):
        test_what_scripts_import_is_there(tmp_path / "a.py")
