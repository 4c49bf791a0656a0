"""The commands that act on datasets that were built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import curate
from curate.cli.session import WORKERS, Screen, screen_command


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--public", is_flag=True, help="Make a new repository public; default: private.")
@click.option("--message", help="Message of the commit.")
@click.option("--dry-run", is_flag=True, help="Only list the files; needs no network.")
@WORKERS
@screen_command
def push(directory: Path, repository: str, **options: Any) -> None:
    """Verify a dataset, and upload it to the Hugging Face Hub.

    Shards, card and all other files of the dataset become one commit of the dataset OWNER/NAME, so
    that load_dataset("OWNER/NAME") opens it. The token is HF_TOKEN.
    """
    from curate.report.upkeep import push_lines

    screen = Screen.taking(options)
    result = curate.push(directory, repository, **options, **screen.effort)
    screen.show(result, lambda: push_lines(result.json, repository))


@click.command()
@click.argument(
    "directories", nargs=-1, required=True, metavar="DIR...", type=click.Path(path_type=Path)
)
@click.argument("names", metavar="IDS", type=click.Path(path_type=Path))
@click.option(
    "--rebuild",
    is_flag=True,
    help="Rebuild the datasets that hold any of them, with the same shares and budget.",
)
@WORKERS
@screen_command
def remove(directories: tuple[Path, ...], names: Path, **options: Any) -> None:
    """Find listed documents in built datasets, and take them out.

    IDS is a file with an identifier, URL or content hash on each line. Without --rebuild nothing
    is changed.
    """
    from curate.report.upkeep import removal_lines

    screen = Screen.taking(options)
    result = curate.remove(directories, names, **options, **screen.effort)
    screen.show(result, lambda: removal_lines(result.json, names))
