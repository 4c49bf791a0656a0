"""The commands of the main job: tokenise, measure, mix, plan, build, verify."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from curate.cli.session import EXIT_FAILED, Screen, Session, recipe_command, with_session
from curate.cli.without_recipe import mix_runs, recipe_or_runs_command, wants_runs

if TYPE_CHECKING:
    from rich.console import Console

    from curate.pipeline.plan import Planned
    from curate.pipeline.tokenize import TokenizedDomains


@click.command()
@with_session
def tokenize(session: Session) -> None:
    """Tokenise what is not in the token store yet, and measure it."""
    _measure(session)
    _show_stats(session)


def _measure(session: Session) -> TokenizedDomains:
    """Tokenise what is new and write `stats.json`."""
    from curate.pipeline.measure import recall
    from curate.pipeline.plan import check_names, write_stats
    from curate.pipeline.tokenize import tokenize_domains

    check_names(session.loaded)
    tokenized = tokenize_domains(session.loaded, session.workers, session.observer)
    write_stats(session.loaded, tokenized, recall(session.loaded, tokenized), session.observer)
    return tokenized


@click.command()
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
    tokenized = _measure(session)
    if intervals or compare:
        _show_entropies(session, tokenized, compare)
    else:
        _show_stats(session)


def _show_entropies(session: Session, tokenized: TokenizedDomains, with_mixtures: bool) -> None:
    from rich.console import Group

    from curate.mixture.compare_methods import entropy_temperature
    from curate.pipeline.compare_entropies import entropy_entrants, measure_domains
    from curate.pipeline.compare_mixtures import compare_mixtures
    from curate.pipeline.measure import recall, remember
    from curate.pipeline.plan import mixture_request, write_stats
    from curate.report.entropies import entropy_tables
    from curate.report.terminal import stats_table
    from curate.runtime.files import read_json, write_json

    loaded = session.loaded
    measured = measure_domains(tokenized, loaded.recipe.seed, session.workers, session.observer)
    remember(loaded, tokenized, measured.plan, measured.domains)
    write_stats(loaded, tokenized, recall(loaded, tokenized), session.observer)
    found = read_json(loaded.output_dir / "stats.json")
    report = measured.to_json(found)
    if with_mixtures:
        request = mixture_request(loaded, tokenized)
        entrants = entropy_entrants(measured, request)
        report["comparison"] = {
            **compare_mixtures(entrants, session.workers, session.observer),
            "temperature": entropy_temperature(request),
        }
    write_json(loaded.output_dir / "entropy_report.json", report)
    session.show(
        {**found, "entropy_report": report},
        lambda: Group(stats_table(found), *entropy_tables(report)),
    )


def _show_stats(session: Session) -> None:
    from curate.runtime.files import read_json

    found = read_json(session.loaded.output_dir / "stats.json")

    def table() -> Any:  # what draws tables takes 0.03 s to import: only where one is shown
        from curate.report.terminal import stats_table

        return stats_table(found)

    session.show(found, table)


@click.command()
@click.option("--method", metavar="NAME", help="Instead of the recipe's mixture.method.")
@click.option(
    "--compare",
    is_flag=True,
    help="Every method that the recipe's evidence allows, side by side; writes mixtures.json.",
)
@recipe_or_runs_command
def mix(method: str | None, compare: bool, **options: Any) -> None:
    """Derive the mixture: weights as shares of tokens.

    Without RECIPE, from --runs or --experts alone.
    """
    from curate.report.terminal import mixture_table

    if method is not None:
        options["overrides"] = (*options["overrides"], f"mixture.method={method}")
    if wants_runs(options):
        mix_runs(options, compare)
        return
    session = Session(options)
    if compare:
        _compare(session)
        return
    planned = _plan(session)
    found = planned.mixture.to_json()
    supply = {domain.name: domain.supply_tokens for domain in planned.request.domains}
    session.show(found, lambda: mixture_table(found, supply))


def _compare(session: Session) -> None:
    from msgspec.structs import replace
    from rich.console import Group

    from curate.mixture.compare_methods import every_method
    from curate.pipeline.compare_mixtures import compare_mixtures
    from curate.pipeline.measure import gather, wanted
    from curate.pipeline.plan import check_names, mixture_request
    from curate.pipeline.proxies import make_evidence
    from curate.pipeline.tokenize import tokenize_domains
    from curate.report.methods import comparison_tables
    from curate.runtime.files import write_json

    loaded = session.loaded
    check_names(loaded)
    tokenized = tokenize_domains(loaded, session.workers, session.observer)
    mixture = loaded.recipe.mixture
    kinds = {
        kind: None
        for method in ("entropy", "leverage")
        for kind in wanted(replace(mixture, method=method))
    }
    measured = gather(loaded, tokenized, tuple(kinds), session.workers, session.observer)
    make_evidence(loaded, tokenized, session.workers, session.observer)
    request = mixture_request(loaded, tokenized, measured)
    found = compare_mixtures(every_method(request), session.workers, session.observer)
    write_json(loaded.output_dir / "mixtures.json", found)
    session.show(found, lambda: Group(*comparison_tables(found)))


@click.command()
@with_session
def plan(session: Session) -> None:
    """Turn the mixture into exact tokens by domain, and stop before writing."""
    from rich.console import Group

    from curate.pipeline.plan import plan_json
    from curate.report.terminal import plan_table, reader_lines, trainer_table

    found = plan_json(_plan(session))
    mixtures = found.get("trainer_mixture", [])
    session.show(
        found,
        lambda: Group(plan_table(found), *map(trainer_table, mixtures), *reader_lines(found)),
    )


def _plan(session: Session) -> Planned:
    """Plan without touching the artifacts of a dataset that was built otherwise."""
    from curate.pipeline.build import built_otherwise
    from curate.pipeline.plan import plan_dataset

    keep = built_otherwise(session.loaded)
    if keep:
        session.observer.notice(
            f"{session.loaded.output_dir} holds a dataset of another recipe: its artifacts are "
            "kept, nothing is written"
        )
    return plan_dataset(session.loaded, session.workers, session.observer, write=not keep)


@click.command()
@click.option("--dry-run", is_flag=True, help="Stop at the plan.")
@recipe_command
@click.pass_context
def build(context: click.Context, /, dry_run: bool, **options: Any) -> None:
    """Build the dataset: everything the recipe asks for, reusing what is fresh."""
    from rich.console import Group

    from curate.pipeline.build import build as build_dataset
    from curate.report.terminal import reader_lines, result_table

    if dry_run:
        context.invoke(plan, **options)
        return
    session = Session(options)
    built = build_dataset(session.loaded, session.workers, session.observer)
    bad = {stats.name: stats.bad_records for stats in built.tokenized.stats}
    session.show(
        built.certificate,
        lambda: Group(result_table(built.certificate, bad), *reader_lines(built.certificate)),
    )
    _finish(session.console, built.certificate, built.directory)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--workers", type=click.IntRange(1), help="Processes; default: the cores.")
@click.option("--json", "as_json", is_flag=True, help="Print the certificate as JSON.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def verify(directory: Path, workers: int | None, as_json: bool, quiet: bool) -> None:
    """Read a built dataset back and compare it with its plan; exit 1 on any difference."""
    from curate.dataset.verify import verify as verify_dataset
    from curate.pipeline.build import reopen
    from curate.report.terminal import result_table
    from curate.runtime.workers import default_workers

    screen = Screen(as_json, quiet)
    _, domains = reopen(directory)
    if domains is None and screen.console is not None:
        screen.console.print(
            "note: the token store is not at hand; tokens are compared by hash only"
        )
    certificate = verify_dataset(directory, domains, workers or default_workers())
    bad = None if domains is None else {own.name: own.bad_records for own in domains}
    screen.show(certificate, lambda: result_table(certificate, bad))
    _finish(screen.console, certificate, directory)


def _finish(console: Console | None, certificate: dict[str, Any], directory: Path) -> None:
    for problem in certificate["problems"]:
        click.echo(f"curate: {problem}", err=True)
    if console is not None:
        verdict = "[green]ok: true[/]" if certificate["ok"] else "[red]ok: false[/]"
        console.print(f"certificate {verdict}  {directory / 'certificate.json'}", soft_wrap=True)
    if not certificate["ok"]:
        sys.exit(EXIT_FAILED)
