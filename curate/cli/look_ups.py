"""The commands that look something up: in a dataset, and between two artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import curate
from curate.cli.session import Screen, screen_command


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("query", metavar="[POSITION|DOCUMENT]", required=False)
@click.option("--step", type=int, help="Look up a training step instead, counted from 0.")
@click.option("--batch", type=int, help="Sequences of a step, over all ranks.")
@click.option("--length", type=int, help="Tokens of a sequence; default: sequence_length.")
@click.option(
    "--order",
    type=click.Choice(["stored", "shuffled"]),
    default="stored",
    show_default=True,
    help="Order of the shards, or that of curate.load.",
)
@click.option("--labels", is_flag=True, help="Windows of one token more, as curate.load's labels.")
@click.option(
    "--index",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Follow the order that Megatron cached in DIR.",
)
@screen_command
def show(directory: Path, query: str | None, **options: Any) -> None:
    """Look up a place in a dataset, or the places of a document.

    A position is SHARD:TOKEN or SHARD#ROW. A document is named by its identifier, its content hash,
    its text or a part of it.
    """
    from curate.report.look_ups import look_up_lines

    screen = Screen.taking(options)
    result = curate.show(directory, query, **options)
    screen.show(result, lambda: [look_up_lines(result)])


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@screen_command
def diff(a: Path, b: Path, **options: Any) -> None:
    """Compare two recipes, mixtures or datasets.

    A and B are recipes, mixture.json files or directories of datasets. Runs that B strands are
    named. The exit code is 0 whether anything differs or not.
    """
    from curate.report.differences import difference_lines

    screen = Screen(options)
    result = curate.diff(a, b)
    screen.show(result, lambda: [difference_lines(result)])
