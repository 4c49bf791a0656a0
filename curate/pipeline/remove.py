"""The `remove` command: find listed documents in datasets, and rebuild these without them.

A rebuild keeps the shares and the budget of the dataset, so that only what the removed documents
leave open is filled anew.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from curate.curation.excluded import list_path, match_names, read_names
from curate.dataset.manifest import RECIPE, Manifest, load_manifest, read_plan
from curate.dataset.removal import Held, compare, contents_left, find_listed, read_state
from curate.errors import InputError, ShardError
from curate.pipeline.build import build
from curate.pipeline.read_back import reopen
from curate.pipeline.results import RemovalResult
from curate.recipe import LoadedRecipe, MixtureRecipe, load
from curate.runtime.files import atomic_path
from curate.runtime.progress import Observer
from curate.runtime.registry import counted, list_first
from curate.tokens.domain import DomainTokens


@dataclass(frozen=True)
class RemovalRequest:
    """Documents to remove, and the datasets to remove them from."""

    directories: Sequence[Path]
    names: Path
    """A list as `exclude` takes it."""
    rebuild: bool
    """Whether to rebuild the datasets that hold any of them."""


def remove(request: RemovalRequest, workers: int, observer: Observer) -> RemovalResult:
    """Find the listed documents in each dataset; rebuild those that hold any, if that is asked.

    Args:
        request: The documents and the datasets.
        workers: Number of processes.
        observer: Receives progress and notices.

    Raises:
        InputError: The list cannot be read or is empty, or a dataset lacks its token store and must
            be rebuilt.
        ShardError: A directory holds no finished dataset, or documents are left after a rebuild.
        CurateError: Whatever else ends a build.
    """
    listed = read_names(request.names)
    if not listed.names:
        raise InputError(f"{request.names}: lists no document; write one on each line")
    datasets = []
    unmatched = set(listed.names)
    for directory in request.directories:
        manifest = load_manifest(directory)
        domains = reopen(manifest, workers, observer)
        if domains is None:
            observer.notice(
                f"{directory}: without its token store only content hashes are found; type "
                f"curate tokenize {directory / RECIPE} --set cache={manifest.cache}"
            )
        held = find_listed(directory, manifest, domains, listed)
        unmatched &= set(held.unmatched)
        fields = _fields(directory, held)
        if held.copies:
            copies = list_first([name for name, _ in held.copies])
            observer.notice(
                f"{directory}: {counted(len(held.copies), 'other document')} with the text of a "
                f"listed one stay ({copies}); list content hashes to remove every copy"
            )
        if held.documents and request.rebuild:
            if domains is None:
                raise InputError(f"{directory}: cannot be rebuilt without its token store")
            fields["rebuilt"] = _rebuild(
                (directory, manifest), held, request.names, workers, observer
            )
        datasets.append(fields)
    return RemovalResult(
        {
            "list": str(request.names),
            "names": len(listed.names),
            "unmatched": sorted(unmatched),
            "datasets": datasets,
        }
    )


def _fields(directory: Path, held: Held) -> dict[str, Any]:
    places = [place for document in held.documents for place in document.places]
    return {
        "directory": str(directory),
        "documents": [msgspec.to_builtins(document) for document in held.documents],
        "in_shards": sum(bool(document.places) for document in held.documents),
        "shards": sorted({place.shard for place in places}),
        "tokens": sum(place.tokens for place in places),
        "copies": [name for name, _ in held.copies],
        "is_stage": _is_stage(directory),
        "rebuilt": None,
    }


def _is_stage(directory: Path) -> bool:
    """Return whether a dataset was built as a stage of a recipe."""
    kept = directory / RECIPE
    return kept.is_file() and bool(load(kept).recipe.stages)


def _rebuild(
    dataset: tuple[Path, Manifest], held: Held, names: Path, workers: int, observer: Observer
) -> dict[str, Any]:
    """Build a dataset again without what it holds of a list, and prove that none is left."""
    directory, manifest = dataset
    loaded = load(directory / RECIPE)
    if loaded.recipe.stages:
        raise InputError(
            f"{directory}: is a stage, which is built after the stages before it: add the "
            f"documents to exclude of the recipe ({names} if it has none), and run curate build "
            "RECIPE --overwrite"
        )
    path = _extend(loaded, held, names)
    before = read_state(directory, manifest)
    weights = {
        name: domain.weight for name, domain in read_plan(directory / "plan.json").domains.items()
    }
    recipe = replace(
        loaded.recipe,
        exclude=os.path.abspath(path),
        # The shares of the dataset, which a method might now choose differently.
        mixture=MixtureRecipe(method="manual", weights=weights),
        output=replace(loaded.recipe.output, dir=os.path.abspath(directory)),
    )
    built = build(replace(loaded, recipe=recipe), workers, observer, overwrite=True)
    if not built.certificate["ok"]:
        raise ShardError(f"{directory}: {built.certificate['problems'][0]}; run curate build")
    rebuilt = load_manifest(directory)
    _prove(directory, rebuilt, held, built.tokenized.domains, path)
    changed = compare(before, read_state(directory, rebuilt, before.page_bytes))
    return {
        "list": str(path),
        **msgspec.to_builtins(changed),
        "changed_share": changed.changed_share,
        "page_bytes": before.page_bytes,
    }


def _extend(loaded: LoadedRecipe, held: Held, names: Path) -> Path:
    """Add what is removed to the recipe's list; without one, the new list is the recipe's."""
    path = list_path(loaded)
    if path is None or os.path.realpath(path) == os.path.realpath(names):
        return names
    earlier = path.read_text("utf-8-sig") if path.is_file() else ""
    lines = set(earlier.split("\n"))
    added = dict.fromkeys(document.name for document in held.documents)
    new = "".join(f"{name}\n" for name in added if name not in lines)
    if new:
        with atomic_path(path) as temporary:
            separator = "" if not earlier or earlier.endswith("\n") else "\n"
            temporary.write_text(earlier + separator + new, "utf-8")
    return path


def _prove(
    directory: Path, manifest: Manifest, held: Held, domains: Sequence[DomainTokens], path: Path
) -> None:
    """Check that no shard holds a removed document, by its name and by its content."""
    listed = read_names(path)
    named = sum(len(match_names(domain, listed)[0]) for domain in domains)
    contents = {document.content for document in held.documents}
    contents -= {content for _, content in held.copies}
    left = contents_left(directory, manifest, {int(content[:16], 16) for content in contents})
    if named or left:
        raise ShardError(
            f"{directory}: {counted(named, 'listed document')} and {left:,} runs of tokens of "
            "removed documents are left; this is a bug of curate, please report it"
        )
