"""The commands of the main job: tokenise, measure, mix, plan, build, verify."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import curate
from curate.cli.session import (
    EXIT_FAILED,
    RecipeSession,
    Screen,
    open_inputs,
    recipe_command,
    recipe_or_runs_command,
    say,
    screen_command,
    work_command,
)
from curate.errors import RecipeError
from curate.runtime.registry import counted

if TYPE_CHECKING:
    from curate.pipeline.results import CertificateResult, MixtureResult, StatsResult


POINTS = 11
"""Points of a front, unless asked otherwise; as in `curate.front`."""


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--recipe", type=click.Path(path_type=Path), help="File to write; default: DIR.yaml.")
@screen_command
def init(directory: Path, recipe: Path | None, **options: Any) -> None:
    """Write a first recipe for a directory of text.

    Proposes domains, readers, the field of the text, a tokenizer and a budget. The recipe's
    comments say what was guessed. Nothing is overwritten.
    """
    screen = Screen(options)
    result = curate.init(directory, recipe=recipe)
    screen.show(result, list)
    if screen.console is None:
        return
    say(f"wrote {result.path} with {counted(len(result.domains), 'domain')}: "
        f"{', '.join(result.domains)}")  # fmt: skip
    for kind, lines in (("unsure", result.unsure), ("not read", result.left_out)):
        for line in lines:
            say(f"{kind}: {line}")
    say(f"next: curate plan {result.path}")


@click.command()
@recipe_command
def tokenize(**options: Any) -> None:
    """Tokenise what the token store lacks, and measure it."""
    session = RecipeSession(options)
    _show_stats(session, curate.tokenize(session.loaded, **session.effort))


@click.command()
@click.option(
    "--intervals",
    is_flag=True,
    help="Estimate entropies with 95 % intervals; writes entropy_report.json.",
)
@click.option(
    "--compare",
    is_flag=True,
    help="Also compare the mixtures of several methods; implies --intervals.",
)
@recipe_command
def stats(intervals: bool, compare: bool, **options: Any) -> None:
    """Show documents, bytes, tokens and entropies of every domain."""
    session = RecipeSession(options)
    result = curate.stats(session.loaded, intervals=intervals, compare=compare, **session.effort)
    _show_stats(session, result)


def _show_stats(screen: Screen, result: StatsResult) -> None:
    def tables() -> list[Any]:  # importing rich's tables takes 0.03 s, so only if one is shown
        from curate.report.tables import removal_tables, stats_table

        report = result.json.get("entropy_report")
        if report is None:
            return [stats_table(result.json), *removal_tables(result.json)]
        from curate.report.entropies import entropy_tables

        return [stats_table(result.json), *removal_tables(result.json), *entropy_tables(report)]

    screen.show(result, tables)
    screen.list_written()


@click.command()
@click.option("--method", metavar="NAME", help="Replaces the recipe's mixture.method.")
@click.option(
    "--compare",
    is_flag=True,
    help="Compare every method that the evidence allows; writes mixtures.json.",
)
@click.option("--methods", metavar="NAME,...", help="Methods to compare; implies --compare.")
@click.option(
    "--front",
    "groups",
    metavar="GROUP,GROUP",
    help="Trace the Pareto front of groups of mixture.objective, targets or patterns; writes "
    "front.json.",
)
@click.option(
    "--points", type=int, default=POINTS, show_default=True, help="Most points between two groups."
)
@click.option("--stage", metavar="NAME", help="Stage that --compare or --front is for.")
@recipe_or_runs_command
def mix(
    method: str | None, methods: str | None, groups: str | None, points: int, **options: Any
) -> None:
    """Derive the mixture: weights as shares of tokens.

    Without RECIPE, from --runs or --experts alone.
    """
    compare, stage = options.pop("compare") or methods is not None, options.pop("stage")
    if compare and method is not None:
        raise RecipeError("--method and --compare exclude each other: name methods by --methods")
    if compare and groups is not None:
        raise RecipeError("--front and --compare exclude each other: a front is of one method")
    if groups is None and points != POINTS:
        raise RecipeError("--points: there is no front to trace; add --front GROUP,GROUP")
    if stage is not None and not compare and groups is None:
        raise RecipeError(
            "--stage: goes with --compare or --front; without them the mixtures of all stages are "
            "shown"
        )
    of_stage: dict[str, Any] = {} if stage is None else {"stage": stage}
    if method is not None and stage is not None:
        of_stage["method"] = method
    elif method is not None:
        options["overrides"] = (*options["overrides"], f"mixture.method={method}")
    screen, arguments = open_inputs(options)
    if compare:
        from curate.report.methods import comparison_tables

        comparison = curate.compare(**arguments, **of_stage, methods=_names(methods or ""))
        screen.show(comparison, lambda: comparison_tables(comparison.json))
    elif groups is not None:
        from curate.report.methods import front_table

        front = curate.front(**arguments, **of_stage, groups=_names(groups), points=points)
        screen.show(front, lambda: [front_table(front.json)])
    else:
        _show_mixture(screen, curate.mix(**arguments))
    screen.list_written()


def _show_mixture(screen: Screen, result: MixtureResult) -> None:
    from curate.report.tables import mixture_lines, mixture_table

    def tables() -> list[Any]:
        shown: list[Any] = []
        for name, mixture in result.json.get("stages", {"": result.json}).items():
            shown += [f"stage {name}"] if name else []
            supply = mixture.get("supply_tokens", result.supply_tokens)
            shown += [*mixture_lines(mixture), mixture_table(mixture, supply)]
        return shown

    screen.show(result, tables)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


@click.command()
@recipe_command
def plan(**options: Any) -> None:
    """Turn the mixture into exact tokens by domain; write no shard."""
    from curate.report.tables import plan_table, reader_lines, trainer_table

    session = RecipeSession(options)
    result = curate.plan(session.loaded, **session.effort)

    def tables(fields: dict[str, Any]) -> list[Any]:
        mixtures = fields.get("trainer_mixture", [])
        return [plan_table(fields), *map(trainer_table, mixtures), *reader_lines(fields)]

    session.show(result, lambda: _by_stage(result.json, tables))
    session.list_written()


def _by_stage(fields: dict[str, Any], tables: Callable[[dict[str, Any]], list[Any]]) -> list[Any]:
    """Return the tables of a plan or certificate, of each stage where there are stages."""
    if "stages" not in fields:
        return tables(fields)
    from curate.report.stage_tables import passes_table, stage_heading

    shown: list[Any] = []
    for name, of_stage in fields["stages"].items():
        shown += [stage_heading(name, of_stage), *tables(of_stage)]
    return [*shown, passes_table(fields)] if fields["domains"] else shown


@click.command()
@click.option("--dry-run", is_flag=True, help="Stop at the plan.")
@click.option("--overwrite", is_flag=True, help="Replace a finished dataset of another recipe.")
@recipe_command
@click.pass_context
def build(context: click.Context, /, dry_run: bool, **options: Any) -> None:
    """Build the dataset, reusing whatever is up to date."""
    overwrite = options.pop("overwrite")
    if dry_run:
        context.invoke(plan, **options)
        return
    session = RecipeSession(options)
    result = curate.build(session.loaded, overwrite=overwrite, **session.effort)
    _finish(session, result, with_readers=True)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    help="Write the certificate to this file instead of the dataset.",
)
@work_command
def verify(directory: Path, **options: Any) -> None:
    """Read a built dataset back and compare it with its plan.

    The exit code is 1 if anything differs or is damaged. A dataset on a read-only disk is verified
    all the same.
    """  # fmt: skip
    screen = Screen.taking(options)
    result = curate.verify(directory, **options, **screen.effort)
    _finish(screen, result, with_readers=False)


@click.command()
@click.argument("source", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="With a recipe, replaces output.dir; else the directory of report.html.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY.SUB=VALUE",
    help="Changes one key of the recipe; may be repeated.",
)
@click.option(
    "--plots",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also write each figure there, as PNG and SVG; needs matplotlib.",
)
@click.option(
    "--supply",
    multiple=True,
    metavar="NAME=TOKENS|CSV",
    help="With run tables: tokens of a domain; may be repeated.",
)
@click.option("--budget", type=float, help="With run tables: tokens to train on.")
@click.option(
    "--max-epochs",
    type=float,
    default=1.0,
    show_default=True,
    help="With run tables: most passes over a domain.",
)
@screen_command
def report(source: tuple[Path, ...], **options: Any) -> None:
    """Write report.html: one page, with the mixture explorer.

    It shows what is at hand. SOURCE is a recipe, the directory of a dataset, or run tables as for
    fit. Nothing is tokenised or trained.
    """  # fmt: skip
    screen = Screen(options)
    result = curate.report(
        source,
        supply=options["supply"] or None,
        budget_tokens=options["budget"],
        max_epochs=options["max_epochs"],
        overrides=options["overrides"],
        directory=options["out"],
        plots=options["plots"],
        progress=screen.observer,
    )
    screen.show(result, list)
    screen.list_written()


def _finish(screen: Screen, result: CertificateResult, with_readers: bool) -> None:
    """Show a certificate; exit with 1 if it has problems."""
    from curate.report.tables import reader_lines, reason_lines, removal_tables, result_table
    from curate.report.terminal import plain

    def tables(certificate: dict[str, Any]) -> list[Any]:
        lines: list[Any] = reader_lines(certificate) if with_readers else []
        if certificate["domains"]:  # else nothing could be compared
            table = result_table(certificate, result.bad_records, result.mixture, result.stats)
            lines = [table, *removal_tables(certificate), *lines]
        return lines

    lines = _by_stage(result.json, tables)
    if result.mixture is not None:
        lines += reason_lines(result.mixture)
    screen.show(result, lambda: lines)
    for problem in result.problems:
        say(f"curate: {problem}", err=True)
    if screen.console is not None:
        verdict = "[green]ok: true[/]" if result.ok else "[red]ok: false[/]"
        path = plain(str(result.path or ""))
        screen.console.print(f"certificate {verdict}  {path}", soft_wrap=True)
    if not result.ok:
        sys.exit(EXIT_FAILED)
