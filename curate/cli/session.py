"""What commands that take a recipe have in common: options, the recipe, what is shown.

Exit codes: 0 done, 1 verification failed, 2 the user's fault (one line on stderr), 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

    from curate.recipe import LoadedRecipe
    from curate.runtime.progress import Observer

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT_FAILED, EXIT_USER, EXIT_INTERRUPTED = 1, 2, 130


def recipe_options(required: bool) -> list[Callable[[Any], Any]]:
    """The argument and options of a command that takes a recipe."""
    return [
        click.argument("recipe", required=required, type=click.Path(path_type=Path)),
        click.option("--out", type=click.Path(path_type=Path), help="Instead of output.dir."),
        click.option("--set", "overrides", multiple=True, metavar="KEY.SUB=VALUE",
                     help="Change the recipe; may be repeated."),
        click.option("--workers", type=click.IntRange(1), help="Processes; default: the cores."),
        click.option("--seed", type=int, help="Instead of the recipe's seed."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
        click.option("--quiet", is_flag=True, help="Print nothing but errors."),
    ]  # fmt: skip


def recipe_command(command: Command) -> Command:
    """Give a command the argument and options of those that take a recipe."""
    for decorator in reversed(recipe_options(required=True)):
        command = decorator(command)
    return command


class Screen:
    """Where progress and results are shown: as tables, as JSON alone, or not at all."""

    def __init__(self, as_json: bool, quiet: bool) -> None:
        """Open the console, unless only JSON or nothing is to be printed."""
        from curate.runtime.progress import Observer

        self.as_json = as_json
        self.observer: Observer = Observer()
        self.console: Console | None = None
        if quiet or as_json:
            return
        from rich.console import Console

        from curate.report.terminal import TerminalObserver

        self.console = Console(width=_width())
        self.observer = TerminalObserver(self.console)

    def show(self, result: dict[str, Any], table: Callable[[], Any]) -> None:
        """Print the result as the user asked."""
        if self.as_json:
            click.echo(json.dumps(result, indent=2, ensure_ascii=False))
        elif self.console is not None:
            self.console.print(table())


class Session(Screen):
    """What a recipe command works with."""

    def __init__(self, options: dict[str, Any]) -> None:
        """Read the recipe and set up what is shown."""
        from curate.recipe import load

        overrides = list(options["overrides"])
        if options["out"] is not None:
            overrides.append(f"output.dir={json.dumps(str(options['out'].resolve()))}")
        if options["seed"] is not None:
            overrides.append(f"seed={options['seed']}")
        self.loaded: LoadedRecipe = load(options["recipe"], tuple(overrides))
        from curate.runtime.workers import default_workers

        self.workers: int = options["workers"] or default_workers()
        super().__init__(options["as_json"], options["quiet"])
        for notice in self.loaded.notices:
            self.observer.notice(notice)


def with_session(command: Callable[[Session], Any]) -> Callable[..., Any]:
    """Give a command a `Session` made of its options."""

    @recipe_command
    @wraps(command)
    def run(**options: Any) -> Any:
        return command(Session(options))

    return run


def print_rows(rows: list[dict[str, str]], as_json: bool) -> None:
    """A table with the keys as headings, or the rows as JSON."""
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_lines=len(rows) > 1 and max(len(v) for r in rows for v in r.values()) > 40)
    for heading in rows[0]:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(value.replace("[", "\\[") for value in row.values()))
    Console(width=_width()).print(table)


def _width() -> int | None:
    """That of the terminal; 120 for a file, a pipe, or nothing at all."""
    return None if sys.stdout is not None and sys.stdout.isatty() else 120
