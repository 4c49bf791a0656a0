"""`curate mix` and `curate design` without a recipe: from a run table, or experts, alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from curate import __version__
from curate.cli.session import Screen, recipe_options

if TYPE_CHECKING:
    from curate.pipeline.from_run_table import Standalone

Command = TypeVar("Command", bound=Callable[..., Any])


def recipe_or_runs_command(command: Command) -> Command:
    """The options of a command that takes a recipe or, instead, a table of runs."""
    decorators = [
        *recipe_options(required=False),
        click.option("--runs", "runs", multiple=True, type=click.Path(path_type=Path),
                     help="Without RECIPE: a run table; twice for mixtures and losses."),
        click.option("--experts", type=click.Path(path_type=Path),
                     help="Without RECIPE: log-probabilities of an expert a domain."),
        click.option("--supply", multiple=True, metavar="NAME=TOKENS|CSV",
                     help="Without RECIPE: tokens that there are; may be repeated."),
        click.option("--budget", type=float, help="Without RECIPE: tokens to train on."),
        click.option("--max-epochs", type=float, default=1.0, show_default=True,
                     help="Without RECIPE: passes over a domain."),
    ]  # fmt: skip
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


class Loose(Screen):
    """What such a command works with when there is no recipe."""

    def __init__(self, options: dict[str, Any]) -> None:
        """Read the evidence and set up what is shown."""
        from curate.pipeline.from_run_table import Asked, standalone
        from curate.runtime.workers import default_workers

        self.workers: int = options["workers"] or default_workers()
        super().__init__(options["as_json"], options["quiet"])
        overrides = list(options["overrides"])
        if options["seed"] is not None:
            overrides.append(f"seed={options['seed']}")
        budget = options["budget"]
        self.directory: Path = options["out"] or Path()
        asked = Asked(
            options["runs"], options["experts"], options["supply"],
            None if budget is None else int(budget), options["max_epochs"], tuple(overrides),
        )  # fmt: skip
        self.found: Standalone = standalone(asked)
        notices = self.found.request.evidence.notices if self.found.request.evidence else ()
        for notice in (*self.found.notices, *notices):
            self.observer.notice(notice)

    def write(self, name: str, result: dict[str, Any]) -> None:
        """Write an artifact."""
        from curate.runtime.files import write_json

        self.directory.mkdir(parents=True, exist_ok=True)
        write_json(self.directory / name, {"schema": 1, "curate_version": __version__, **result})


def wants_runs(options: dict[str, Any]) -> bool:
    """Whether there is no recipe; a recipe and what stands in its place exclude each other."""
    instead = [name for name in ("runs", "experts", "supply", "budget") if options[name]]
    if options["recipe"] is not None and instead:
        raise click.UsageError(
            f"RECIPE and --{instead[0]} exclude each other: a recipe names its tables below "
            "mixture.evidence, and its text is the supply"
        )
    return options["recipe"] is None


def mix_runs(options: dict[str, Any], compare: bool) -> None:
    """`curate mix --runs`."""
    from rich.console import Group

    from curate.mixture import mix
    from curate.mixture.compare_methods import every_method
    from curate.pipeline.compare_mixtures import compare_mixtures
    from curate.report.methods import comparison_tables
    from curate.report.terminal import mixture_table

    session = Loose(options)
    request, known = session.found.request, session.found.supply_known
    if compare:
        found = compare_mixtures(every_method(request), session.workers, session.observer)
        if not known:
            found["budget_tokens"] = None
            for row in found["mixtures"].values():
                row["max_epochs"], row["epochs"] = None, dict.fromkeys(row["epochs"])
                row["tv_natural"] = None
        session.write("mixtures.json", found)
        session.show(found, lambda: Group(*comparison_tables(found)))
        return
    if request.method == "natural":
        request = replace(request, method="joint" if request.evidence and request.evidence.runs
                          else "mde")  # fmt: skip
        session.observer.notice(f"method: {request.method}; --method takes another")
    found = mix(request).to_json()
    if not known:
        found["epochs"] = dict.fromkeys(found["epochs"])
    session.write("mixture.json", found)
    told = request.evidence.notices if request.evidence else ()
    for warning in found["warnings"]:
        if warning not in told:
            session.observer.notice(warning)
    supply = {d.name: d.supply_tokens if known else None for d in request.domains}
    session.show(found, lambda: mixture_table(found, supply))
