"""The command line: one thin function a command; the only place that prints and exits.

Exit codes: 0 done, 1 verification failed, 2 the user's fault (one line on stderr), 130 interrupted.
Modules are imported inside commands, so that `curate --help` answers at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

# One process a core does the work here; BLAS threads beside them would only be in the way.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import click  # noqa: E402

from curate import __version__  # noqa: E402
from curate.errors import CurateError  # noqa: E402

if TYPE_CHECKING:
    from rich.console import Console

    from curate.build import Planned
    from curate.ingest import Ingested
    from curate.observer import Observer
    from curate.recipe import LoadedRecipe

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT_FAILED, EXIT_USER, EXIT_INTERRUPTED = 1, 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="curate")
def cli() -> None:
    """Turn raw text corpora into the right pretraining mix.

    Tokenise each domain once, measure it, derive the mixture, plan it to the token, write shards,
    read them back and certify them.
    """


def main() -> None:
    """Run the command line and turn faults into one line and an exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended politely, like Ctrl-C
    try:
        cli.main(standalone_mode=False)
    except CurateError as error:
        click.echo(f"curate: {error}", err=True)
        sys.exit(EXIT_USER)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USER)
    except (KeyboardInterrupt, click.Abort):
        click.echo("curate: interrupted; what was finished is kept, run again to go on", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except OSError as error:  # a full disk, a directory that may not be written, a file in its way
        click.echo(f"curate: {error.filename or 'a file'}: {error.strerror or error}", err=True)
        sys.exit(EXIT_USER)


def recipe_command(command: Command) -> Command:
    """The argument and options of every command that takes a recipe."""
    decorators = [
        click.argument("recipe", type=click.Path(path_type=Path)),
        click.option("--out", type=click.Path(path_type=Path), help="Instead of output.dir."),
        click.option("--set", "overrides", multiple=True, metavar="KEY.SUB=VALUE",
                     help="Change the recipe; may be repeated."),
        click.option("--workers", type=click.IntRange(1), help="Processes; default: the cores."),
        click.option("--seed", type=int, help="Instead of the recipe's seed."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
        click.option("--quiet", is_flag=True, help="Print nothing but errors."),
    ]  # fmt: skip
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


class Session:
    """What a recipe command works with."""

    def __init__(self, options: dict[str, Any]) -> None:
        """Read the recipe and set up what is shown."""
        from curate.engine.local import default_workers
        from curate.recipe import load

        overrides = list(options["overrides"])
        if options["out"] is not None:
            overrides.append(f"output.dir={json.dumps(str(options['out'].resolve()))}")
        if options["seed"] is not None:
            overrides.append(f"seed={options['seed']}")
        self.workers: int = options["workers"] or default_workers()
        self.as_json: bool = options["as_json"]
        self.quiet: bool = options["quiet"]
        self.observer: Observer
        self.console: Console | None
        self.observer, self.console = _observer(self.quiet or self.as_json)
        self.loaded: LoadedRecipe = load(options["recipe"], tuple(overrides))
        for notice in self.loaded.notices:
            self.observer.notice(notice)

    def show(self, result: dict[str, Any], table: Callable[[], Any]) -> None:
        """Print the result as the user asked."""
        if self.as_json:
            click.echo(json.dumps(result, indent=2, ensure_ascii=False))
        elif self.console is not None:
            self.console.print(table())


def _observer(silent: bool) -> tuple[Observer, Console | None]:
    from curate.observer import Observer

    if silent:
        return Observer(), None
    from rich.console import Console

    from curate.report.terminal import TerminalObserver

    console = Console(width=None if sys.stdout.isatty() else 120)
    return TerminalObserver(console), console


def with_session(command: Callable[[Session], Any]) -> Callable[..., Any]:
    """Give a command a `Session` made of its options."""

    @recipe_command
    @wraps(command)
    def run(**options: Any) -> Any:
        return command(Session(options))

    return run


@cli.command()
@with_session
def tokenize(session: Session) -> None:
    """Tokenise what is not in the token store yet, and measure it."""
    _measure(session)
    _show_stats(session)


def _measure(session: Session) -> Ingested:
    """Tokenise what is new and write `stats.json`."""
    from curate.build import check_names, write_stats
    from curate.ingest import ingest

    check_names(session.loaded)
    ingested = ingest(session.loaded, session.workers, session.observer)
    write_stats(session.loaded, ingested, session.observer)
    return ingested


@cli.command()
@click.option(
    "--intervals",
    is_flag=True,
    help="Bias-corrected entropies with 95 % intervals; writes entropy_report.json.",
)
@click.option(
    "--compare",
    is_flag=True,
    help="Also the mixtures of several methods side by side; implies --intervals.",
)
@recipe_command
def stats(intervals: bool, compare: bool, **options: Any) -> None:
    """Documents, bytes, tokens and entropies of every domain."""
    session = Session(options)
    ingested = _measure(session)
    if intervals or compare:
        _show_entropies(session, ingested, compare)
    else:
        _show_stats(session)


def _show_entropies(session: Session, ingested: Ingested, with_mixtures: bool) -> None:
    from rich.console import Group

    from curate.build import mixture_request
    from curate.compare import compare_mixtures, measure_domains
    from curate.report.entropies import entropy_tables
    from curate.report.terminal import stats_table
    from curate.storage import read_json, write_json

    loaded = session.loaded
    measured = measure_domains(ingested, loaded.recipe.seed, session.workers, session.observer)
    found = read_json(loaded.output_dir / "stats.json")
    report = measured.to_json(found)
    if with_mixtures:
        report["comparison"] = compare_mixtures(measured, mixture_request(loaded, ingested))
        for reason in report["comparison"]["left_out"]:
            session.observer.notice(reason)
    write_json(loaded.output_dir / "entropy_report.json", report)
    session.show(
        {**found, "entropy_report": report},
        lambda: Group(stats_table(found), *entropy_tables(report)),
    )


def _show_stats(session: Session) -> None:
    from curate.report.terminal import stats_table
    from curate.storage import read_json

    found = read_json(session.loaded.output_dir / "stats.json")
    session.show(found, lambda: stats_table(found))


@cli.command()
@with_session
def mix(session: Session) -> None:
    """Derive the mixture: weights as shares of tokens."""
    from curate.report.terminal import mixture_table

    planned = _plan(session)
    found = planned.mixture.to_json()
    supply = {domain.name: domain.supply_tokens for domain in planned.request.domains}
    session.show(found, lambda: mixture_table(found, supply))


@cli.command()
@with_session
def plan(session: Session) -> None:
    """Turn the mixture into exact tokens by domain, and stop before writing."""
    from curate.report.terminal import plan_table

    found = _plan(session).plan.to_json()
    session.show(found, lambda: plan_table(found))


def _plan(session: Session) -> Planned:
    """Plan without touching the artifacts of a dataset that was built otherwise."""
    from curate.build import built_otherwise, plan_dataset

    keep = built_otherwise(session.loaded)
    if keep:
        session.observer.notice(
            f"{session.loaded.output_dir} holds a dataset of another recipe: its artifacts are "
            "kept, nothing is written"
        )
    return plan_dataset(session.loaded, session.workers, session.observer, write=not keep)


@cli.command()
@click.option("--dry-run", is_flag=True, help="Stop at the plan.")
@recipe_command
@click.pass_context
def build(context: click.Context, /, dry_run: bool, **options: Any) -> None:
    """Build the dataset: everything the recipe asks for, reusing what is fresh."""
    from curate.build import build as build_dataset
    from curate.report.terminal import result_table

    if dry_run:
        context.invoke(plan, **options)
        return
    session = Session(options)
    built = build_dataset(session.loaded, session.workers, session.observer)
    bad = {stats.name: stats.bad_records for stats in built.ingested.stats}
    session.show(built.certificate, lambda: result_table(built.certificate, bad))
    _finish(session.console, built.certificate, built.directory)


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--workers", type=click.IntRange(1), help="Processes; default: the cores.")
@click.option("--json", "as_json", is_flag=True, help="Print the certificate as JSON.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def verify(directory: Path, workers: int | None, as_json: bool, quiet: bool) -> None:
    """Read a built dataset back and compare it with its plan; exit 1 on any difference."""
    from curate.build import reopen
    from curate.engine.local import default_workers
    from curate.report.terminal import result_table
    from curate.verify import verify as verify_dataset

    _, console = _observer(quiet or as_json)
    _, domains = reopen(directory)
    if domains is None and console is not None:
        console.print("note: the token store is not at hand; tokens are compared by hash only")
    certificate = verify_dataset(directory, domains, workers or default_workers())
    if as_json:
        click.echo(json.dumps(certificate, indent=2, ensure_ascii=False))
    elif console is not None:
        bad = {} if domains is None else {domain.name: domain.bad_records for domain in domains}
        console.print(result_table(certificate, bad))
    _finish(console, certificate, directory)


def _finish(console: Console | None, certificate: dict[str, Any], directory: Path) -> None:
    for problem in certificate["problems"]:
        click.echo(f"curate: {problem}", err=True)
    if console is not None:
        verdict = "[green]ok: true[/]" if certificate["ok"] else "[red]ok: false[/]"
        console.print(f"certificate {verdict}  {directory / 'certificate.json'}", soft_wrap=True)
    if not certificate["ok"]:
        sys.exit(EXIT_FAILED)


@cli.command()
@click.option("--json", "as_json", is_flag=True)
def methods(as_json: bool) -> None:
    """Mixing methods: what each does, needs, and which paper it is from."""
    from curate.mixture import METHODS

    rows = [
        {"method": method.name, "what": method.summary, "needs": method.needs,
         "paper": method.paper}
        for method in METHODS.values()
    ]  # fmt: skip
    _print_rows(rows, as_json)


@cli.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True)
def formats(name: str | None, as_json: bool) -> None:
    """Output formats; with a NAME, how its files are loaded."""
    from curate.formats import FORMATS, find

    if name is not None:
        found = find(name)
        click.echo(f"{found.name}: {found.summary}\nfor {found.trainers}\n\n{found.snippet}")
        return
    rows = [
        {"format": found.name, "what": found.summary, "for": found.trainers}
        for found in FORMATS.values()
    ]
    _print_rows(rows, as_json)


@cli.command()
@click.option("--cache", type=click.Path(path_type=Path), default=Path(".curate"))
@click.option("--json", "as_json", is_flag=True)
def corpus(cache: Path, as_json: bool) -> None:
    """The embedded corpus: domains, sizes, and the packages it is harvested from."""
    from curate.sources.corpus import DOMAINS, materialise

    info = materialise(cache / "corpus")
    rows = [
        {"domain": f"corpus://{name}", "what": DOMAINS[name],
         "documents": f"{found.documents:,}", "MB": f"{found.bytes / 1e6:.1f}",
         "content hash": found.content_hash[:16]}
        for name, found in info.domains.items()
    ]  # fmt: skip
    _print_rows(rows, as_json)
    if not as_json:
        packages = ", ".join(f"{name} {version}" for name, version in info.distributions.items())
        click.echo(f"harvested from Python {info.python}, {packages}")
        for note in info.notes:
            click.echo(f"note: {note}")


@cli.command()
def schema() -> None:
    """The recipe's JSON Schema, for editors."""
    from curate.recipe import schema as recipe_schema

    click.echo(json.dumps(recipe_schema(), indent=2))


@cli.command()
def doctor() -> None:
    """The machine, the versions, and which optional parts are installed."""
    import platform

    from curate.engine.local import default_workers
    from curate.tokens.backends import BACKENDS, installed

    click.echo(f"curate {__version__}, Python {platform.python_version()}, {platform.platform()}")
    click.echo(f"workers by default: {default_workers()}")
    names = ["numpy", "numba", "pyarrow", "zstandard", *BACKENDS, "huggingface_hub", "torch"]
    for name in dict.fromkeys(names):
        click.echo(f"  {name}: {installed(name) or 'not installed'}")


def _print_rows(rows: list[dict[str, str]], as_json: bool) -> None:
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
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    main()
