"""Separate Python source from its docstrings."""

from __future__ import annotations

import ast
import inspect


def strip_docstrings(source: str) -> tuple[str, list[str]]:
    r"""Split Python source into code without docstrings and the docstrings themselves.

    A docstring is the leading string statement of a module, class or function, wherever that is
    nested. Lines it held alone go; a body that held nothing else gets `pass`. Strings elsewhere
    stay, also those documenting an attribute.

    Args:
        source: Python source with `\n` line ends.

    Returns:
        The code, and the docstrings in the order of the source, dedented.

    Raises:
        SyntaxError: The source does not parse on this Python (or `ValueError`, for a NUL).

    Example:
        >>> strip_docstrings('def f():\n    "Twice."\n    return 2\n')
        ('def f():\n    return 2\n', ['Twice.'])
    """
    lines = source.split("\n")
    docstrings = []
    removed: set[int] = set()
    # Last to first, so that the positions of statements not yet edited stay valid.
    for statement, value, alone in reversed(_docstring_statements(ast.parse(source))):
        docstrings.append(inspect.cleandoc(value))
        first, last = statement.lineno - 1, (statement.end_lineno or statement.lineno) - 1
        before = lines[first].encode()[: statement.col_offset].decode()
        after = lines[last].encode()[statement.end_col_offset :].decode()
        removed.update(range(first + 1, last + 1))
        if alone or before.strip() or (after.strip() and not after.lstrip().startswith("#")):
            lines[first] = before + "pass" + after
        elif after.strip():
            lines[first] = before + after.lstrip()
        else:
            removed.add(first)
    kept = (line for number, line in enumerate(lines) if number not in removed)
    return "\n".join(kept), docstrings[::-1]


_BLOCK_FIELDS = ("body", "orelse", "finalbody", "handlers", "cases")
_BLOCK_KINDS: tuple[type[ast.AST], ...] = (
    *(ast.Module, ast.ExceptHandler, ast.match_case),
    *ast.stmt.__subclasses__(),
)
_BLOCKS = {
    kind: tuple(name for name in kind._fields if name in _BLOCK_FIELDS) for kind in _BLOCK_KINDS
}
"""Fields that hold nested statements, by node. Expressions hold none and need no visit."""


def _docstring_statements(tree: ast.Module) -> list[tuple[ast.Expr, str, bool]]:
    """List docstrings in order: statement, value, whether its body holds nothing else.

    A second leading string counts too: it would become the docstring once the first is gone.
    """
    docstrings = []
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        blocks = _BLOCKS[type(node)]
        if not blocks:
            continue
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            leading = []
            for statement in node.body:
                if not (
                    isinstance(statement, ast.Expr)
                    and isinstance(statement.value, ast.Constant)
                    and isinstance(statement.value.value, str)
                ):
                    break
                leading.append((statement, statement.value.value))
            alone = len(leading) == len(node.body) and not isinstance(node, ast.Module)
            docstrings += [(statement, value, alone) for statement, value in leading]
        for name in blocks:
            pending.extend(getattr(node, name))
    return sorted(docstrings, key=lambda entry: (entry[0].lineno, entry[0].col_offset))
