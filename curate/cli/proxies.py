"""The commands that make evidence: proxies and experts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from curate.cli.session import Command, Session, recipe_command

if TYPE_CHECKING:
    from rich.table import Table


def proxy_command(command: Command) -> Command:
    """Give a command what those that take a recipe have, and how to train its proxies."""
    for option in (
        click.option("--tensorboard", type=click.Path(path_type=Path), metavar="DIR",
                     help="Write scalars of every run there."),
        click.option("--engine", type=click.Choice(["local", "ray"]),
                     help="Where devices are: here, or in a Ray cluster."),
        click.option("--devices", metavar="NAMES", help="cuda:0,cuda:1: a process on each."),
    ):  # fmt: skip
        command = option(command)
    return recipe_command(command)


def proxy_session(options: dict[str, Any]) -> Session:
    """The session, its recipe's proxies changed as the options say."""
    from msgspec.structs import replace

    devices, board = options.pop("devices"), options.pop("tensorboard")
    engine = options.pop("engine")
    session = Session(options)
    own = session.loaded.proxies
    if devices is not None:
        own = replace(own, device=devices)
    if engine is not None:
        own = replace(own, engine=engine)
    if board is not None:
        own = replace(own, tensorboard=str(board.resolve()))
    session.loaded = session.loaded.with_proxies(own)
    return session


@click.command()
@proxy_command
def proxy(**options: Any) -> None:
    """Train small models on many mixtures, many at once; what is in runs.csv is not done twice."""
    from curate.pipeline.proxies import final_rows, train_proxies

    session = proxy_session(options)
    result = train_proxies(session.loaded, session.workers, session.observer)
    names = [domain.name for domain in session.loaded.recipe.domains]
    rows = {
        row.run: {
            "weights": dict(zip(names, row.weights, strict=True)),
            "loss": dict(zip(names, row.losses, strict=True)),
            "bits_per_byte": dict(zip(names, row.bits_per_byte, strict=True)),
        }
        for row in final_rows(result)
    }
    path = session.loaded.output_dir / "runs.csv"
    found = {"runs": rows, "failed": result.failed, "path": str(path)}
    session.show(found, lambda: _loss_table(rows, f"runs, nats per token · {path}"))


@click.command()
@proxy_command
def experts(**options: Any) -> None:
    """Train one small model a domain; write its log-probabilities of all held-out tokens."""
    from curate.pipeline.proxies import train_domain_experts

    session = proxy_session(options)
    losses = train_domain_experts(session.loaded, session.workers, session.observer)
    names = [domain.name for domain in session.loaded.recipe.domains]
    rows = {run: {"loss": dict(zip(names, found, strict=True))} for run, found in losses.items()}
    path = session.loaded.output_dir / "experts.parquet"
    found = {"experts": rows, "path": str(path)}
    session.show(found, lambda: _loss_table(rows, f"experts, nats per token · {path}"))


@click.command()
@click.option(
    "--seeds", type=click.IntRange(2), default=3, show_default=True, help="Runs of each mixture."
)
@click.option(
    "--preset",
    "presets",
    multiple=True,
    metavar="NAME",
    help="A size; may be repeated. Default: the recipe's.",
)
@click.option("--up", is_flag=True, help="Also one size larger: does the ranking hold?")
@proxy_command
def validate(seeds: int, presets: tuple[str, ...], up: bool, **options: Any) -> None:
    """Train the recommended mixture and its rivals with several seeds, and judge the advice."""
    from rich.console import Group

    from curate.pipeline.validate import Asked
    from curate.pipeline.validate import validate as validate_mixture
    from curate.report.validation import loss_table, summary_lines

    session = proxy_session(options)
    asked = Asked(seeds, presets, up)
    found = validate_mixture(session.loaded, asked, session.workers, session.observer)
    session.show(
        found, lambda: Group(*map(loss_table, found["sizes"]), "\n".join(summary_lines(found)))
    )


def _loss_table(rows: dict[str, dict[str, Any]], title: str) -> Table:
    """A row a run, a column a domain, and the plain mean."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("run")
    names = list(next(iter(rows.values()))["loss"])
    for name in [*names, "mean"]:
        table.add_column(name, justify="right")
    for run, row in rows.items():
        losses = list(row["loss"].values())
        cells = [f"{value:.4f}" for value in [*losses, sum(losses) / len(losses)]]
        table.add_row(run.replace("[", "\\["), *cells)
    return table
