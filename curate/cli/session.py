"""Options that commands share, and the screen that shows their results.

Exit codes: 0 done, 1 verification failed, 2 a user-fixable error (one line on stderr), 130 ended by
SIGINT, 143 by SIGTERM.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar

import click

from curate.errors import RecipeError
from curate.runtime.escape import one_line, output_named

if TYPE_CHECKING:
    from rich.console import Console

    from curate.recipe import LoadedRecipe
    from curate.runtime.progress import Observer

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT_FAILED, EXIT_USER = 1, 2


SCREEN_OPTIONS: Sequence[Callable[[Any], Any]] = [
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON; errors too."),
    click.option("--csv", is_flag=True, help="Print the result's table as CSV, unrounded."),
    click.option("--markdown", is_flag=True, help="Print the result's table as Markdown."),
    click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
    click.option("-v", "--verbose", is_flag=True,
                 help="Log each step to standard error, and where an error arose."),
    click.option("--log-file", type=click.Path(path_type=Path), metavar="FILE",
                 help="Append the same log to a file."),
]  # fmt: skip
"""Options of every command that shows a result, which `Screen` reads."""


WORKERS = click.option(
    "--workers",
    type=click.IntRange(1),
    help="Number of processes; default: PYTHON_CPU_COUNT, or the cores.",
)

WORK_OPTIONS: Sequence[Callable[[Any], Any]] = [
    WORKERS,
    click.option("--engine", type=click.Choice(["local", "ray"]),
                 help="Work here (default), or on a Ray cluster."),
]  # fmt: skip
"""Options of every command that does work in parallel."""


def _recipe_options(required: bool) -> list[Callable[[Any], Any]]:
    """Return the argument and options of a command that takes a recipe."""
    return [
        click.argument("recipe", required=required, type=click.Path(path_type=Path)),
        click.option("--out", type=click.Path(path_type=Path), help="Replaces output.dir."),
        click.option("--set", "overrides", multiple=True, metavar="KEY.SUB=VALUE",
                     help="Changes one key of the recipe; may be repeated."),
        *WORK_OPTIONS,
        click.option("--seed", type=int, help="Replaces the recipe's seed."),
        *SCREEN_OPTIONS,
    ]  # fmt: skip


def add_options(command: Command, options: Sequence[Callable[[Any], Any]]) -> Command:
    """Decorate a command with options, in the order in which its help shows them."""
    for option in reversed(options):
        command = option(command)
    return command


def screen_command(command: Command) -> Command:
    """Add the options of a command that shows a result."""
    return add_options(command, SCREEN_OPTIONS)


def work_command(command: Command) -> Command:
    """Add the options of a command that works in parallel and shows a result."""
    return add_options(command, [*WORK_OPTIONS, *SCREEN_OPTIONS])


def recipe_command(command: Command) -> Command:
    """Add the argument and options of a command that takes a recipe."""
    return add_options(command, _recipe_options(required=True))


def recipe_or_runs_command(command: Command) -> Command:
    """Add the options of a command that takes a recipe or, instead, a table of runs."""
    options = [
        *_recipe_options(required=False),
        click.option("--runs", "runs", multiple=True, type=click.Path(path_type=Path),
                     help="Without RECIPE: a file of run tables, as for fit; may be repeated."),
        click.option("--experts", type=click.Path(path_type=Path),
                     help="Without RECIPE: log-probabilities of one expert per domain."),
        click.option("--supply", multiple=True, metavar="NAME=TOKENS|CSV",
                     help="Without RECIPE: tokens of a domain; may be repeated."),
        click.option("--budget", type=float, help="Without RECIPE: tokens to train on."),
        click.option("--max-epochs", type=float, default=1.0, show_default=True,
                     help="Without RECIPE: most passes over a domain."),
    ]  # fmt: skip
    return add_options(command, options)


def say(message: str, err: bool = False) -> None:
    """Print a message in one line, in which nothing is invisible or acts on the terminal."""
    try:
        click.echo(one_line(message), err=err)
    except OSError:
        if not err:
            raise  # where standard error is closed, the exit code alone must say it


def print_json(value: Any) -> None:
    """Print a value as JSON in ASCII, which any terminal and encoding can take."""
    _print(json.dumps(value, indent=2))


def _print(text: str) -> None:
    """Print text; errors name standard output."""
    with output_named():
        click.echo(text)


class Printable(Protocol):
    """A result of a command."""

    def to_json(self) -> dict[str, Any]:
        """Return its fields."""
        ...

    def to_csv(self) -> str:
        """Return its rows as CSV."""
        ...

    def to_markdown(self) -> str:
        """Return its rows as a Markdown table."""
        ...


class Screen:
    """Show progress and results: as tables, as JSON, CSV or Markdown alone, or not at all."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Open the console, unless only data or nothing is to be printed, and the logs.

        Args:
            options: Values of those of `SCREEN_OPTIONS` and `WORK_OPTIONS` that the command has.

        Raises:
            RecipeError: Options exclude each other, or the log's file cannot be written.
        """
        from curate.runtime.log import open_logs
        from curate.runtime.progress import LoggingObserver

        exclusive = [name for name in ("as_json", "csv", "markdown", "quiet") if options.get(name)]
        if len(exclusive) > 1:
            names = " and ".join(f"--{name.removeprefix('as_')}" for name in exclusive)
            raise RecipeError(f"{names} exclude each other: give one of them")
        open_logs(options.get("verbose", False), options.get("log_file"))
        if options.get("engine") is not None:
            from curate.pipeline.api import engine

            click.get_current_context().with_resource(engine(options["engine"]))
        self._workers: int | None = options.get("workers")
        self._print_as = exclusive[0] if exclusive else ""
        self.observer: LoggingObserver = LoggingObserver()
        self.console: Console | None = None
        if exclusive:
            return
        from curate.report.terminal import TerminalObserver, terminal_console

        self.console = terminal_console()
        self.observer = TerminalObserver(self.console)

    @property
    def effort(self) -> Effort:
        """Arguments that every function of the API takes that works in parallel."""
        return {"workers": self._workers, "progress": self.observer}

    @classmethod
    def taking(cls, options: dict[str, Any]) -> Screen:
        """Open the console, and take its own options out of a command's."""
        names = ("as_json", "csv", "markdown", "quiet", "verbose", "log_file", "workers", "engine")
        return cls({name: options.pop(name) for name in names if name in options})

    def show(self, result: Printable, tables: Callable[[], Iterable[Any]]) -> None:
        """Print a result as data alone, as tables, or not at all.

        Args:
            result: Printed whole as JSON; its rows, if it has any, as CSV or Markdown.
            tables: Makes what the console shows.
        """
        if self._print_as == "as_json":
            print_json(result.to_json())
        elif self._print_as in ("csv", "markdown"):
            _print(result.to_csv() if self._print_as == "csv" else result.to_markdown())
        elif self.console is not None:
            for table in tables():
                self.console.print(table)

    def list_written(self) -> None:
        """Name the files of results that this command wrote."""
        if self.console is None or not self.observer.written:
            return
        from curate.report.terminal import plain

        paths = dict.fromkeys(self.observer.written)
        folders = dict.fromkeys(path.parent for path in paths)
        for folder in folders:
            names = ", ".join(path.name for path in paths if path.parent == folder)
            self.console.print(f"wrote {plain(names)} in {plain(str(folder))}", soft_wrap=True,
                               highlight=False)  # fmt: skip


class Effort(TypedDict):
    """Keyword arguments that every function of the API takes."""

    workers: int | None
    progress: Observer


class RecipeSession(Screen):
    """A loaded recipe, and where its results are shown."""

    def __init__(self, options: dict[str, Any]) -> None:
        """Read the recipe and open the screen."""
        from curate.recipe import load
        from curate.runtime.files import url_as_written
        from curate.tokens import preload

        overrides = list(options["overrides"])
        if options["out"] is not None:
            place = url_as_written(options["out"]) or str(options["out"].resolve())
            overrides.append(f"output.dir={json.dumps(place)}")
        if options["seed"] is not None:
            overrides.append(f"seed={options['seed']}")
        self.loaded: LoadedRecipe = load(options["recipe"], tuple(overrides))
        preload.start(self.loaded)  # before the imports that take long
        super().__init__(options)


def open_inputs(options: dict[str, Any]) -> tuple[Screen, dict[str, Any]]:
    """Open the screen; return it with the arguments for `mix`, `compare` or `design`."""
    instead = {
        "runs": options["runs"],
        "experts": options["experts"],
        "supply": options["supply"],
        "budget_tokens": options["budget"],
    }
    arguments: dict[str, Any] = {
        key: value for key, value in instead.items() if value is not None and value != ()
    }
    if options["max_epochs"] != 1.0:
        arguments["max_epochs"] = options["max_epochs"]
    if options["recipe"] is not None and not arguments:
        session = RecipeSession(options)
        return session, {"recipe": session.loaded, **session.effort}
    screen = Screen(options)
    overrides = list(options["overrides"])
    if options["seed"] is not None:
        overrides.append(f"seed={options['seed']}")
    return screen, {
        "recipe": options["recipe"],  # the function refuses a recipe beside a run table
        "overrides": overrides,
        "directory": options["out"] or Path(),
        "workers": options["workers"],
        "progress": screen.observer,
        **arguments,
    }


def print_rows(rows: list[dict[str, str]], as_json: bool) -> None:
    """Print rows as a table with the keys as headings, or as JSON."""
    if as_json:
        print_json(rows)
        return
    from rich.table import Table

    from curate.report.terminal import plain, terminal_console

    table = Table(show_lines=len(rows) > 1 and max(len(v) for r in rows for v in r.values()) > 40)
    for number, heading in enumerate(rows[0]):
        table.add_column(heading, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(plain(value) for value in row.values()))
    terminal_console().print(table)
