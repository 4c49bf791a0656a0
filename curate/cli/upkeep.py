"""The commands that act on datasets that were built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import curate
from curate.cli.session import WORKERS, Screen, screen_command
from curate.runtime.registry import counted, list_first


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
    screen = Screen(options)
    result = curate.push(
        directory,
        repository,
        public=options["public"],
        message=options["message"],
        dry_run=options["dry_run"],
        workers=options["workers"],
        progress=screen.observer,
    )

    def lines() -> list[Any]:
        from rich.text import Text

        listed = [f"{file['path']}  {file['bytes']:,} bytes" for file in result.files]
        total = f"{counted(len(listed), 'file')}, {result.bytes / 1e6:.1f} MB"
        kind = "private" if result.json["private"] else "public"
        if not result.json["pushed"]:
            listed.append(f"{total} would be pushed to {repository}, {kind} if it is new")
        else:
            fields = result.json
            listed = [f"pushed {total} to {fields['url']} ({kind}), commit {fields['commit']}"]
        return [Text(line) for line in listed]

    screen.show(result, lines)


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
    screen = Screen(options)
    result = curate.remove(
        directories,
        names,
        rebuild=options["rebuild"],
        workers=options["workers"],
        progress=screen.observer,
    )

    def lines() -> list[Any]:
        from rich.text import Text

        shown = []
        for dataset in result.json["datasets"]:
            held, directory = len(dataset["documents"]), dataset["directory"]
            shown.append(
                f"{directory}: {held:,} of {counted(result.json['names'], 'listed document')}, "
                f"{dataset['in_shards']:,} in shards ({dataset['tokens']:,} tokens in "
                f"{counted(len(dataset['shards']), 'shard')})"
            )
            rebuilt = dataset["rebuilt"]
            if rebuilt is not None:
                shown.append(
                    f"rebuilt: none is left; {rebuilt['changed_share']:.1%} of shard bytes "
                    f"changed, in {rebuilt['changed_shards']:,} of "
                    f"{counted(rebuilt['shards'], 'shard file')}; "
                    f"{rebuilt['new_tokens']:,} of {rebuilt['tokens']:,} tokens come from "
                    f"documents that were not there before; name {rebuilt['list']} in exclude of "
                    "your own recipe, or its next build brings the removed documents back"
                )
            elif held:
                shown.append(f"to remove them: curate remove {directory} {names} --rebuild")
        unmatched = result.json["unmatched"]
        if unmatched:
            shown.append(f"in no dataset: {list_first(unmatched)}")
        return [Text(line) for line in shown]

    screen.show(result, lines)
