"""The commands that train small models: proxies, experts and validation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import curate
from curate.cli.session import Command, RecipeSession, add_options, recipe_command

if TYPE_CHECKING:
    from rich.table import Table

PLACES = ("devices", "engine", "tensorboard")
"""Options of every command that trains."""


def proxy_command(command: Command) -> Command:
    """Add the options of a command that trains on a recipe's domains."""
    options = [
        click.option("--devices", metavar="NAMES", help="cuda:0,cuda:1: one process on each."),
        click.option("--engine", type=click.Choice(["local", "ray"]),
                     help="Where devices are: here, or in a Ray cluster."),
        click.option("--tensorboard", type=click.Path(path_type=Path), metavar="DIR",
                     help="Write scalars of every run there."),
    ]  # fmt: skip
    return recipe_command(add_options(command, options))


@click.command()
@proxy_command
def proxy(**options: Any) -> None:
    """Train small models on many mixtures; finished runs are kept."""
    session = RecipeSession(options)
    places = {name: options[name] for name in PLACES}
    result = curate.proxy(session.loaded, **places, **session.effort)
    rows, path = result.json["runs"], result.path
    session.show(result.json, lambda: _loss_table(rows, f"runs, nats per token · {path}"))


@click.command()
@proxy_command
def experts(**options: Any) -> None:
    """Train one model per domain; write held-out log-probabilities."""
    session = RecipeSession(options)
    places = {name: options[name] for name in PLACES}
    result = curate.experts(session.loaded, **places, **session.effort)
    rows, path = result.json["experts"], result.path
    session.show(result.json, lambda: _loss_table(rows, f"experts, nats per token · {path}"))


@click.command()
@click.option(
    "--seeds", type=click.IntRange(2), default=3, show_default=True, help="Runs of each mixture."
)
@click.option(
    "--preset",
    "presets",
    multiple=True,
    metavar="NAME",
    help="Size of the models; may be repeated. Default: the recipe's.",
)
@click.option("--up", is_flag=True, help="Also train one size larger: does the ranking hold?")
@proxy_command
def validate(**options: Any) -> None:
    """Train the recommended mixture and its rivals, and compare."""
    from rich.console import Group

    from curate.report.validation import loss_table, summary_lines

    session = RecipeSession(options)
    settings = {name: options[name] for name in ("seeds", "presets", "up", *PLACES)}
    fields = curate.validate(session.loaded, **settings, **session.effort).json
    session.show(
        fields, lambda: Group(*map(loss_table, fields["sizes"]), "\n".join(summary_lines(fields)))
    )


def _loss_table(rows: dict[str, dict[str, Any]], title: str) -> Table:
    """Make a table with a row for each run, a column for each domain, and the mean."""
    from rich.table import Table

    from curate.report.terminal import plain

    table = Table(title=plain(title), title_justify="left")
    table.add_column("run")
    names = list(next(iter(rows.values()))["loss"])
    for name in [*names, "mean"]:
        table.add_column(plain(name), justify="right")
    for run, row in rows.items():
        losses = list(row["loss"].values())
        cells = [f"{value:.4f}" for value in [*losses, sum(losses) / len(losses)]]
        table.add_row(plain(run), *cells)
    return table
