"""Imports go down the flow of data, never up; only the command line prints and exits."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "curate"

LAYERS = (
    "errors", "runtime", "recipe", "sources", "formats", "laws", "tokens", "stats", "curation",
    "mixture", "plan", "dataset", "proxy", "report", "pipeline", "loader", "cli",
)  # fmt: skip
"""Packages of curate in the order data meets them; a new one needs a place here."""

APART = {("mixture", "proxy"), ("proxy", "mixture")}
"""They meet only in evidence."""

FOREIGN = {"torch": {"proxy", "loader"}, "click": {"cli"}, "rich": {"cli", "report"}}
"""Libraries that only these may import."""

SPEAKERS = {"cli"}
SPEECH = {"print", "input", "exit", "quit", "breakpoint", "sys.exit", "os.abort"}


def layer_of(module: str) -> str | None:
    """`curate.tokens.store` → tokens; None for what is not ours or is the package itself."""
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] or None if first == "curate" else None


def module_name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def parsed(text: str) -> ast.Module:
    return ast.parse(text)


def imports_of(path: Path, package: Path) -> list[tuple[int, str]]:
    """Line and full name of everything a module imports, wherever in it.

    The package itself names its functions for type checkers only; that imports nothing.
    """
    here = module_name(path, package).split(".")
    own_package = here if path.name == "__init__.py" else here[:-1]
    found: list[tuple[int, str]] = []
    tree = parsed(path.read_text("utf-8"))
    if path.parent == package and path.name == "__init__.py":
        own = [node for node in tree.body if not is_for_type_checkers(node)]
        tree = ast.Module(own, [])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = own_package[: len(own_package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            if source.partition(".")[0] == "curate":  # what is imported may be a module too
                found += [(node.lineno, f"{source}.{alias.name}") for alias in node.names]
            else:
                found.append((node.lineno, source))
    return [(line, name) for line, name in found if not name.startswith("curate.__")]


def is_for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def calls_of(path: Path) -> list[tuple[int, str]]:
    """Line and name of every call such as `print` or `sys.exit`."""
    found = []
    for node in ast.walk(parsed(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            found.append((node.lineno, ast.unparse(node.func)))
        elif isinstance(node, ast.Raise) and node.exc is not None:
            name = ast.unparse(node.exc).partition("(")[0]
            if name == "SystemExit":
                found.append((node.lineno, "sys.exit"))
    return found


def violations(package: Path) -> list[str]:
    """Every breach of the rules above, as `file:line: what`."""
    found = []
    for path in sorted(package.rglob("*.py")):
        own = layer_of(module_name(path, package))
        if own is None:  # curate/__init__.py
            own = "errors"
        where = path.relative_to(package.parent)
        if own not in LAYERS:
            found.append(f"{where}:1: '{own}' has no place among the layers")
            continue
        for line, name in imports_of(path, package):
            layer = layer_of(name)
            if name.partition(".")[0] in FOREIGN and own not in FOREIGN[name.partition(".")[0]]:
                found.append(f"{where}:{line}: {own} imports {name}")
            if layer is None or layer not in LAYERS:
                continue
            if LAYERS.index(layer) > LAYERS.index(own):
                found.append(f"{where}:{line}: {own} imports {layer}, which is above it")
            if (own, layer) in APART:
                found.append(f"{where}:{line}: {own} imports {layer}, which it must not know")
        if own not in SPEAKERS:
            found += [
                f"{where}:{line}: {own} calls {name}"
                for line, name in calls_of(path)
                if name in SPEECH
            ]
    return found


def cycle(package: Path) -> list[str]:
    """A circle of modules that import each other, or nothing."""
    names = {module_name(path, package): path for path in package.rglob("*.py")}
    edges = {}
    for module, path in names.items():
        imported = {name for _, name in imports_of(path, package)}
        imported |= {name.rpartition(".")[0] for name in imported - set(names)}
        edges[module] = sorted(imported & set(names) - {module})
    finished: set[str] = set()

    def visit(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module not in finished:
            for following in edges[module]:
                circle = visit(following, [*trail, module])
                if circle:
                    return circle
            finished.add(module)
        return []

    return next((circle for module in sorted(names) if (circle := visit(module, []))), [])


def test_imports_go_down_and_only_the_command_line_speaks() -> None:
    assert violations(PACKAGE) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert cycle(PACKAGE) == []


def test_the_package_is_what_is_looked_at() -> None:
    modules = {module_name(path, PACKAGE) for path in PACKAGE.rglob("*.py")}
    assert {"curate", "curate.cli", "curate.tokens.store"} <= modules
    seen = imports_of(PACKAGE / "cli" / "main_job.py", PACKAGE)
    assert any(name == "curate.cli.session.RecipeSession" for _, name in seen)
    assert any(name == "curate.report.tables.plan_table" for _, name in seen)  # in a function


def plant(root: Path, files: dict[str, str]) -> Path:
    package = root / "curate"
    for name, text in {"__init__.py": "", **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return package


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("plan/a.py", "import curate.dataset", "plan imports dataset, which is above it"),
        ("plan/a.py", "from curate import dataset", "plan imports dataset, which is above it"),
        ("plan/a.py", "from curate.report import x", "plan imports report, which is above it"),
        ("plan/a.py", "from ..report import x", "plan imports report, which is above it"),
        ("plan/a.py", "from .. import cli", "plan imports cli, which is above it"),
        ("tokens/store.py", "from ..stats.entropy import x", "tokens imports stats, which is abo"),
        ("tokens/__init__.py", "from ..plan import x", "tokens imports plan, which is above it"),
        (
            "plan/a.py",
            "def f():\n    import curate.cli",
            "a.py:2: plan imports cli, which is abov",
        ),
        ("__init__.py", "from curate.runtime import x", "errors imports runtime, which is above"),
        ("stats/a.py", "import torch.nn", "stats imports torch.nn"),
        ("stats/a.py", "from click import echo", "stats imports click"),
        ("tokens/a.py", "from rich.table import Table", "tokens imports rich.table"),
        ("proxy/a.py", "import curate.mixture", "proxy imports mixture, which it must not know"),
        ("dataset/a.py", "print('done')", "dataset calls print"),
        ("dataset/a.py", "import sys\nsys.exit(1)", "a.py:2: dataset calls sys.exit"),
        ("dataset/a.py", "raise SystemExit", "dataset calls sys.exit"),
        ("dataset/a.py", "raise SystemExit(3)", "dataset calls sys.exit"),
        ("helpers.py", "", "'helpers' has no place among the layers"),
    ],
)
def test_a_planted_breach_is_found(name: str, text: str, expected: str, tmp_path: Path) -> None:
    found = violations(plant(tmp_path, {name: text}))
    assert len(found) == 1
    assert expected in found[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dataset/a.py", "from curate.plan import Plan\nimport curate.tokens.store"),
        ("cli/a.py", "import click, rich, sys\nimport curate.pipeline\nprint(1)\nsys.exit(1)"),
        ("tokens/store.py", "from .counting import x\nfrom . import backends\nimport numpy"),
        ("proxy/train.py", "import torch"),
        ("report/card.py", "import rich\nfrom curate import __version__"),
        ("dataset/a.py", "report.print(1)"),
    ],
)
def test_what_is_allowed_is_not_found(name: str, text: str, tmp_path: Path) -> None:
    assert violations(plant(tmp_path, {name: text})) == []


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    files = {
        "tokens/__init__.py": "",
        "tokens/a.py": "from curate.tokens.b import x",
        "tokens/b.py": "def f():\n    from curate.tokens import c",
        "tokens/c.py": "from . import a",
    }
    found = cycle(plant(tmp_path, files))
    assert found == ["curate.tokens.a", "curate.tokens.b", "curate.tokens.c", "curate.tokens.a"]
    files["tokens/c.py"] = "import curate.errors"
    assert cycle(plant(tmp_path, {**files, "errors.py": ""})) == []
