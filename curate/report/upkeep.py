"""Lines of the commands that act on built datasets: `push` and `remove`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.text import Text

from curate.runtime.registry import counted, list_first


def push_lines(push: Mapping[str, Any], repository: str) -> list[Text]:
    """List the files that were pushed to the Hub, or would be.

    Args:
        push: The fields of the result.
        repository: OWNER/NAME, as it was given.
    """
    sizes = [file["bytes"] for file in push["files"]]
    total = f"{counted(len(sizes), 'file')}, {sum(sizes) / 1e6:.1f} MB"
    kind = "private" if push["private"] else "public"
    if push["pushed"]:
        return [Text(f"pushed {total} to {push['url']} ({kind}), commit {push['commit']}")]
    listed = [Text(f"{file['path']}  {file['bytes']:,} bytes") for file in push["files"]]
    return [*listed, Text(f"{total} would be pushed to {repository}, {kind} if it is new")]


def _dataset_of(dataset: Mapping[str, Any]) -> Path:
    """Return the directory of a dataset, of all its stages for a stage."""
    directory = Path(dataset["directory"])
    return directory.parent if dataset["is_stage"] else directory


def removal_lines(removal: Mapping[str, Any], names: Path) -> list[Text]:
    """Say which datasets hold listed documents, and what a rebuild changed.

    Args:
        removal: The fields of the result.
        names: The list.
    """
    lines = []
    places = {dataset["directory"]: _dataset_of(dataset) for dataset in removal["datasets"]}
    for dataset in removal["datasets"]:
        held, directory = len(dataset["documents"]), dataset["directory"]
        lines.append(
            f"{directory}: {held:,} of {counted(removal['names'], 'listed document')}, "
            f"{dataset['in_shards']:,} in shards ({dataset['tokens']:,} tokens in "
            f"{counted(len(dataset['shards']), 'shard')})"
        )
        rebuilt = dataset["rebuilt"]
        if rebuilt is not None:
            place = places.pop(directory)
            remedy = (
                f"; name {rebuilt['list']} in exclude of your own recipe, or its next build brings "
                "the removed documents back"
            )
            lines.append(
                f"rebuilt: none is left; {rebuilt['changed_share']:.1%} of shard bytes "
                f"changed, in {rebuilt['changed_shards']:,} of "
                f"{counted(rebuilt['shards'], 'shard file')}; "
                f"{rebuilt['new_tokens']:,} of {rebuilt['tokens']:,} tokens come from "
                f"documents that were not there before{'' if place in places.values() else remedy}"
            )
        elif held and dataset["is_stage"]:
            stages = _dataset_of(dataset)
            remedy = f"to remove them from all stages: curate remove {stages} {names} --rebuild"
            lines = [line for line in lines if line != remedy] + [remedy]
        elif held:
            lines.append(f"to remove them: curate remove {directory} {names} --rebuild")
    if removal["unmatched"]:
        lines.append(f"in no dataset: {list_first(removal['unmatched'])}")
    return [Text(line) for line in lines]
