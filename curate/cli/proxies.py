"""The commands that train small models: proxies, experts and validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import curate
from curate.cli.session import Command, RecipeSession, add_options, recipe_command

PLACES = ("devices", "engine", "tensorboard")
"""Options of every command that trains; devices are where the engine is."""


def proxy_command(command: Command) -> Command:
    """Add the options of a command that trains on a recipe's domains."""
    options = [
        click.option("--devices", metavar="NAMES", help="cuda:0,cuda:1: one process on each."),
        click.option("--tensorboard", type=click.Path(path_type=Path), metavar="DIR",
                     help="Write scalars of every run there."),
    ]  # fmt: skip
    return recipe_command(add_options(command, options))


@click.command()
@proxy_command
def proxy(**options: Any) -> None:
    """Train small models on many mixtures; finished runs are kept."""
    from curate.report.validation import run_tables

    session = RecipeSession(options)
    places = {name: options[name] for name in PLACES}
    result = curate.proxy(session.loaded, **places, **session.effort)
    session.show(result, lambda: run_tables(result.json["runs"], "runs"))
    session.list_written()


@click.command()
@proxy_command
def experts(**options: Any) -> None:
    """Train one model per domain; write held-out log-probabilities."""
    from curate.report.validation import run_tables

    session = RecipeSession(options)
    places = {name: options[name] for name in PLACES}
    result = curate.experts(session.loaded, **places, **session.effort)
    session.show(result, lambda: run_tables(result.json["experts"], "experts"))
    session.list_written()


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
@click.option("--stage", metavar="NAME", help="Stage to validate, of a recipe with stages.")
@proxy_command
def validate(**options: Any) -> None:
    """Train the recommended mixture and its rivals, and compare."""
    from curate.report.validation import loss_table, summary_lines

    session = RecipeSession(options)
    settings = {name: options[name] for name in ("seeds", "presets", "up", "stage", *PLACES)}
    result = curate.validate(session.loaded, **settings, **session.effort)
    fields = result.json
    unit = fields["objective_unit"]
    session.show(
        result,
        lambda: [
            *(loss_table(size, unit) for size in fields["sizes"]),
            *summary_lines(fields),
        ],
    )
    session.list_written()
