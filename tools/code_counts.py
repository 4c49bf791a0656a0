"""Count what makes a package easy or hard to read, for one checkout or for two side by side.

    python tools/code_counts.py OLD NEW
    python tools/code_counts.py . --list 'calls with six or more positional arguments'

Only the files of `curate/` are read, by `ast` and `tokenize`; nothing is imported. Callers are
matched by name alone, so a function that shares its name with another counts as called.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import statistics
import tokenize
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

VAGUE_NAMES = {"found", "known", "chosen", "told", "wanted"}
RIDDLE_WORDS = {"of", "by", "as", "what", "where"}
PRAGMA = re.compile(r"#\s*(noqa|type:|fmt:|pragma|mypy:|!)")
LONG_FUNCTION_LINES = 60
LONG_FILE_LINES = 300
MOST_POSITIONAL = 5
ARGS_FROM = 3

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Place(NamedTuple):
    """A line of a file, and what stands there."""

    path: str
    line: int
    what: str

    def __str__(self) -> str:
        """Format as editors and grep do."""
        return f"{self.path}:{self.line}: {self.what}"


class Import(NamedTuple):
    """An import of a module of the package by a module of another of its entries."""

    importer: str
    imported: str
    place: Place

    @property
    def rooms(self) -> tuple[str, str]:
        """Entries of the package that the two modules belong to."""
        return room_of(self.importer), room_of(self.imported)


@dataclass(frozen=True)
class SourceFile:
    """One parsed file of the package."""

    path: str
    """Relative to the checkout."""
    module: str
    """Dotted name; that of the package for an `__init__.py`."""
    text: str
    tree: ast.Module

    @cached_property
    def functions(self) -> list[tuple[Function, list[str]]]:
        """Every function and method, with the names of the definitions around it."""
        return list(_functions(self.tree, []))

    @cached_property
    def docstrings(self) -> list[ast.Constant]:
        """Strings that document a module, class, function, or the assignment before them."""
        return [string for node in ast.walk(self.tree) for string in _docstrings_in(node)]

    @cached_property
    def tokens(self) -> list[tokenize.TokenInfo]:
        """Lexical tokens, comments among them."""
        return list(tokenize.generate_tokens(io.StringIO(self.text).readline))

    def place(self, node: ast.AST, what: str) -> Place:
        """Point at a node."""
        return Place(self.path, getattr(node, "lineno", 1), what)


class Checkout:
    """The files of a package in a checkout, parsed."""

    def __init__(self, root: Path, package: str = "curate") -> None:
        """Read and parse every Python file of `root/package`."""
        self.package = package
        folder = root / package
        self.entries = sorted(
            entry.name
            for entry in folder.iterdir()
            if (entry.is_dir() and (entry / "__init__.py").exists())
            or (entry.suffix == ".py" and entry.stem != "__init__")
        )
        self.files = []
        for path in sorted(folder.rglob("*.py")):
            text = path.read_text("utf-8")
            parts = path.relative_to(root).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            name = str(path.relative_to(root))
            self.files.append(SourceFile(name, module, text, ast.parse(text)))
        self.modules = {file.module for file in self.files}

    @cached_property
    def imports(self) -> list[Import]:
        """Imports from one entry of the package to another."""
        return [
            Import(file.module, imported, file.place(node, f"imports {imported}"))
            for file in self.files
            for node in ast.walk(file.tree)
            for imported in dict.fromkeys(self._imported_by(file, node))
            if room_of(file.module) and room_of(imported) not in ("", room_of(file.module))
        ]

    def _imported_by(self, file: SourceFile, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = file.module.split(".")
                up = node.level - file.path.endswith("__init__.py")
                base = ".".join([*here[: len(here) - up], *([base] if base else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            return
        for name in names:
            if name in self.modules:
                yield name
            elif name.rpartition(".")[0] in self.modules:
                yield name.rpartition(".")[0]


def room_of(module: str) -> str:
    """`curate.tokens.store` is in `tokens`; the package itself is in no room."""
    return ".".join(module.split(".")[1:2])


def _functions(node: ast.AST, around: list[str]) -> Iterator[tuple[Function, list[str]]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield child, around
        defines = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        yield from _functions(child, [*around, child.name] if defines else around)


def _docstrings_in(node: ast.AST) -> Iterator[ast.Constant]:
    """The docstring of a node, then those of the assignments directly in it."""
    body = getattr(node, "body", None)
    if not isinstance(body, list):
        return
    before: ast.AST | None = None
    for number, statement in enumerate(body):
        documents = isinstance(before, ast.Assign | ast.AnnAssign) or (
            number == 0 and isinstance(node, Documented)
        )
        if (
            documents
            and isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Constant)
            and isinstance(statement.value.value, str)
        ):
            yield statement.value
        before = statement


def function_lines(function: Function) -> int:
    """Lines from `def` to the last statement, without the docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    for string in _docstrings_in(function):
        lines -= (string.end_lineno or string.lineno) - string.lineno + 1
        break
    return lines


def arguments_of(function: Function) -> list[ast.arg]:
    """Named arguments, without `self` and `cls`."""
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return [argument for argument in every if argument.arg not in ("self", "cls")]


def long_functions(checkout: Checkout) -> list[Place]:
    """Functions over 60 lines, docstring not counted."""
    return [
        file.place(function, f"{function.name} has {function_lines(function)} lines")
        for file in checkout.files
        for function, _ in file.functions
        if function_lines(function) > LONG_FUNCTION_LINES
    ]


def long_files(checkout: Checkout) -> list[Place]:
    """Files over 300 lines."""
    return [
        Place(file.path, 1, f"{len(file.text.splitlines())} lines")
        for file in checkout.files
        if len(file.text.splitlines()) > LONG_FILE_LINES
    ]


def riddles(checkout: Checkout) -> list[Place]:
    """Docstrings that begin with Of, By, As, What or Where."""
    return [
        file.place(string, str(string.value).strip().splitlines()[0])
        for file in checkout.files
        for string in file.docstrings
        if re.split(r"\W+", str(string.value).strip(), maxsplit=1)[0].lower() in RIDDLE_WORDS
    ]


def undocumented_arguments(checkout: Checkout) -> list[Place]:
    """Public functions of three or more arguments whose docstring has no `Args:`."""
    return [
        file.place(function, f"{function.name}({', '.join(a.arg for a in arguments)})")
        for file in checkout.files
        for function, around in file.functions
        for arguments in [arguments_of(function)]
        if len(arguments) >= ARGS_FROM
        and _is_public(function, around, file)
        and "Args:" not in (ast.get_docstring(function) or "")
    ]


def _is_public(function: Function, around: list[str], file: SourceFile) -> bool:
    """Reachable by names without an underscore; dunders but `__init__` and overloads are not."""
    if any(ast.unparse(decorator).endswith("overload") for decorator in function.decorator_list):
        return False
    functions = {inner.name for inner, _ in file.functions}
    if any(name.startswith("_") or name in functions for name in around):
        return False
    return function.name == "__init__" or not function.name.startswith("_")


def vague_names(checkout: Checkout) -> list[Place]:
    """Bindings of found, known, chosen, told, wanted."""
    return [
        file.place(node, name)
        for file in checkout.files
        for node in ast.walk(file.tree)
        for name in _names_bound(node)
        if name in VAGUE_NAMES
    ]


def _names_bound(node: ast.AST) -> Iterator[str]:
    """Names that one node binds: targets of any kind, attributes, arguments, aliases."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        yield node.attr
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.alias) and node.asname:
        yield node.asname
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
        yield node.name
    elif isinstance(node, Function):
        yield node.name


def repeated_classes(checkout: Checkout) -> list[Place]:
    """Classes that share their name with another."""
    return _repeated(
        (node.name, file.place(node, f"class {node.name}"))
        for file in checkout.files
        for node in ast.walk(file.tree)
        if isinstance(node, ast.ClassDef)
    )


def repeated_stems(checkout: Checkout) -> list[Place]:
    """Files that share their name with another, `__init__.py` aside."""
    return _repeated(
        (Path(file.path).stem, Place(file.path, 1, Path(file.path).name))
        for file in checkout.files
        if Path(file.path).stem != "__init__"
    )


def _repeated(named: Iterator[tuple[str, Place]]) -> list[Place]:
    places = defaultdict(list)
    for name, place in named:
        places[name].append(place)
    return [place for name in sorted(places) if len(places[name]) > 1 for place in places[name]]


def wide_calls(checkout: Checkout) -> list[Place]:
    """Calls with six or more positional arguments."""
    return [
        file.place(node, f"{ast.unparse(node.func)} takes {len(node.args)}")
        for file in checkout.files
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Call) and len(node.args) > MOST_POSITIONAL
    ]


def uncalled_functions(checkout: Checkout) -> list[Place]:
    """Functions whose name no other code of the package uses, decorated and dunder ones aside.

    A name in a string counts as a use (lazy imports, "module:name"); an import does not.
    """
    uses: set[str] = set()
    for file in checkout.files:
        uses |= set(_names_used(file.tree, frozenset()))
    return [
        file.place(function, function.name)
        for file in checkout.files
        for function, _ in file.functions
        if function.name not in uses
        and not function.name.startswith("__")
        and not any(_registers(decorator) for decorator in function.decorator_list)
    ]


def _registers(decorator: ast.expr) -> bool:
    """A decorator that may hand the function to a caller: any but the usual plain ones."""
    name = ast.unparse(decorator).partition("(")[0].rpartition(".")[2]
    return name not in {"property", "cached_property", "staticmethod", "classmethod", "cache",
                        "njit", "compiled", "override", "contextmanager"}  # fmt: skip


def _names_used(node: ast.AST, inside: frozenset[str]) -> Iterator[str]:
    """Identifiers read in a tree, but for a function's uses of itself."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Load):
            names = [child.id]
        elif isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Load):
            names = [child.attr]
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            names = re.findall(r"\w+", child.value) if " " not in child.value else []
        else:
            names = []
        yield from (name for name in names if name not in inside)
        here = inside | {child.name} if isinstance(child, Function) else inside
        yield from _names_used(child, here)


def room_pairs(checkout: Checkout) -> list[Place]:
    """One import for each pair of entries, the first."""
    first: dict[tuple[str, str], Place] = {}
    for item in checkout.imports:
        first.setdefault(item.rooms, item.place)
    return [
        Place(place.path, place.line, f"{importer} -> {imported}")
        for (importer, imported), place in sorted(first.items())
    ]


def module_pairs(checkout: Checkout) -> list[Place]:
    """One import for each pair of modules in different entries, the first."""
    first: dict[tuple[str, str], Place] = {}
    for item in checkout.imports:
        first.setdefault((item.importer, item.imported), item.place)
    return list(first.values())


def comment_lines(checkout: Checkout) -> list[Place]:
    """Lines that hold nothing but a comment; directives to tools are not comments."""
    return [place for place, alone in _comments(checkout) if alone]


def trailing_comments(checkout: Checkout) -> list[Place]:
    """Comments behind code; directives to tools are not comments."""
    return [place for place, alone in _comments(checkout) if not alone]


def _comments(checkout: Checkout) -> Iterator[tuple[Place, bool]]:
    for file in checkout.files:
        for token in file.tokens:
            if token.type == tokenize.COMMENT and not PRAGMA.match(token.string):
                alone = token.line.lstrip().startswith("#")
                yield Place(file.path, token.start[0], token.string), alone


CHECKS: dict[str, Callable[[Checkout], list[Place]]] = {
    "imports between entries (pairs of entries)": room_pairs,
    "imports between entries (pairs of modules)": module_pairs,
    "comment lines": comment_lines,
    "comments behind code": trailing_comments,
    "functions over 60 lines": long_functions,
    "files over 300 lines": long_files,
    "docstrings that begin Of/By/As/What/Where": riddles,
    "public functions of 3+ arguments without Args": undocumented_arguments,
    "names found/known/chosen/told/wanted": vague_names,
    "classes that share a name": repeated_classes,
    "files that share a name": repeated_stems,
    "calls with six or more positional arguments": wide_calls,
    "functions without a caller (by name)": uncalled_functions,
}


def line_kinds(checkout: Checkout) -> Counter[str]:
    """Count lines by kind; blank lines inside a docstring are part of it, directives are code."""
    kinds: Counter[str] = Counter()
    for file in checkout.files:
        documented: set[int] = set()
        for string in file.docstrings:
            documented |= set(range(string.lineno, (string.end_lineno or string.lineno) + 1))
        for number, line in enumerate(file.text.splitlines(), start=1):
            if number in documented:
                kinds["docstring"] += 1
            elif not line.strip():
                kinds["blank"] += 1
            elif line.lstrip().startswith("#") and not PRAGMA.match(line.lstrip()):
                kinds["comment"] += 1
            else:
                kinds["code"] += 1
    return kinds


def counts(checkout: Checkout) -> dict[str, int]:
    """All rows of the table, in order."""
    kinds = line_kinds(checkout)
    functions = [function_lines(f) for file in checkout.files for f, _ in file.functions]
    files = [len(file.text.splitlines()) for file in checkout.files]
    names = checkout.entries
    return {
        "entries of curate/: packages": sum(not name.endswith(".py") for name in names),
        "entries of curate/: modules": sum(name.endswith(".py") for name in names),
        "import statements between entries": len({item.place[:2] for item in checkout.imports}),
        "files": len(files),
        "lines": kinds.total(),
        **{f"lines: {kind}": kinds[kind] for kind in ("code", "docstring", "blank")},
        "functions": len(functions),
        "function lines: median": round(statistics.median(functions)),
        "function lines: 90th percentile": percentile_90(functions),
        "function lines: longest": max(functions),
        "file lines: median": round(statistics.median(files)),
        "file lines: 90th percentile": percentile_90(files),
        "file lines: longest": max(files),
        **{name: len(check(checkout)) for name, check in CHECKS.items()},
    }


def percentile_90(values: list[int]) -> int:
    """Return the smallest value that at least nine in ten do not exceed."""
    return sorted(values)[-(-len(values) * 9 // 10) - 1]


def table(titles: list[str], columns: list[dict[str, int]]) -> str:
    """Format counts as a Markdown table, a column for each checkout."""
    width = max(map(len, columns[0]))
    rows = [
        f"| {'':{width}} | " + " | ".join(f"{title:>9}" for title in titles) + " |",
        f"|{'-' * (width + 2)}|" + "----------:|" * len(titles),
    ]
    for name in columns[0]:
        rows.append(f"| {name:{width}} | " + " | ".join(f"{c[name]:>9,}" for c in columns) + " |")
    return "\n".join(rows)


def main(words: list[str] | None = None) -> None:
    """Print the table, or the places of one check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkouts", nargs="+", type=Path, help="roots of one or more checkouts")
    parser.add_argument("--list", metavar="CHECK", help="list places; any part of a row's name")
    options = parser.parse_args(words)
    checkouts = [Checkout(root) for root in options.checkouts]
    if options.list is None:
        titles = [root.resolve().name[:9] for root in options.checkouts]
        print(table(titles, [counts(checkout) for checkout in checkouts]))
        return
    matching = [name for name in CHECKS if options.list in name]
    if not matching:
        parser.error(f"no check has '{options.list}' in its name; there are: {', '.join(CHECKS)}")
    for name in matching:
        for checkout in checkouts:
            print("\n".join(map(str, CHECKS[name](checkout))))


if __name__ == "__main__":
    main()
