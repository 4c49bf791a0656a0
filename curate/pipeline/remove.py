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

from curate.curation.excluded import ListedNames, list_path, match_names, read_names
from curate.dataset.manifest import RECIPE, Manifest, load_manifest, read_plan
from curate.dataset.removal import Held, compare, contents_left, find_listed, read_state
from curate.dataset.staged import load_stages
from curate.errors import InputError, ShardError
from curate.pipeline.build import build
from curate.pipeline.build_stages import build_staged_recipe
from curate.pipeline.read_back import reopen
from curate.pipeline.results import RemovalResult
from curate.recipe import LoadedRecipe, MixtureRecipe, Recipe, load
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
        stages = load_stages(directory)
        places = [directory] if stages is None else stages.directories(directory)
        searched = [_find(place, listed, workers, observer) for place in places]
        unmatched.intersection_update(*(dataset.held.unmatched for dataset in searched))
        rebuilt: Sequence[dict[str, Any] | None] = [None] * len(searched)
        if request.rebuild and any(dataset.held.documents for dataset in searched):
            rebuilt = _rebuild(directory, searched, request.names, workers, observer)
        datasets += [
            dataset.to_json(fields) for dataset, fields in zip(searched, rebuilt, strict=True)
        ]
    return RemovalResult(
        {
            "list": str(request.names),
            "names": len(listed.names),
            "unmatched": sorted(unmatched),
            "datasets": datasets,
        }
    )


@dataclass(frozen=True)
class _Searched:
    """A dataset, or a stage of one, and what it holds of a list."""

    directory: Path
    manifest: Manifest
    has_store: bool
    held: Held

    def to_json(self, rebuilt: dict[str, Any] | None) -> dict[str, Any]:
        """Return its fields of the result, with those of its rebuild."""
        return {**_fields(self.directory, self.held), "rebuilt": rebuilt}


def _find(directory: Path, listed: ListedNames, workers: int, observer: Observer) -> _Searched:
    """Look for listed documents in a dataset."""
    manifest = load_manifest(directory)
    domains = reopen(manifest, workers, observer)
    if domains is None:
        observer.notice(
            f"{directory}: without its token store only content hashes are searched; type "
            f"curate tokenize {directory / RECIPE} --set cache={manifest.cache}"
        )
    held = find_listed(directory, manifest, domains, listed)
    if held.copies:
        copies = list_first([name for name, _ in held.copies])
        observer.notice(
            f"{directory}: {counted(len(held.copies), 'other document')} with the text of a "
            f"listed one stay ({copies}); list content hashes to remove every copy"
        )
    return _Searched(directory, manifest, domains is not None, held)


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
    }


def _is_stage(directory: Path) -> bool:
    """Return whether a dataset was built as a stage of a recipe."""
    kept = directory / RECIPE
    return kept.is_file() and bool(load(kept).recipe.stages)


def _rebuild(
    directory: Path, searched: Sequence[_Searched], names: Path, workers: int, observer: Observer
) -> list[dict[str, Any]]:
    """Build a dataset again without what it holds of a list, and prove that none is left.

    Args:
        directory: The dataset; one in stages is built with all of them.
        searched: The dataset, or each of its stages, and what it holds.
        names: The list.
        workers: Number of processes.
        observer: Receives progress and notices.

    Returns:
        What the rebuild changed, in the order of `searched`.
    """
    for dataset in searched:
        if not dataset.has_store:
            raise InputError(f"{dataset.directory}: cannot be rebuilt without its token store")
    loaded = load(directory / RECIPE)
    if loaded.recipe.stages and searched[0].directory == directory:
        raise InputError(
            f"{directory}: is a stage, which is built after the stages before it; rebuild all "
            f"stages: curate remove {directory.parent} {names} --rebuild"
        )
    path = _extend(loaded, [dataset.held for dataset in searched], names)
    before = [read_state(dataset.directory, dataset.manifest) for dataset in searched]
    recipe = replace(
        _with_planned_shares(loaded.recipe, [dataset.directory for dataset in searched]),
        exclude=os.path.abspath(path),
        output=replace(loaded.recipe.output, dir=os.path.abspath(directory)),
    )
    fixed = replace(loaded, recipe=recipe)
    if recipe.stages:
        certificate = build_staged_recipe(fixed, workers, observer, overwrite=True).json
    else:
        certificate = build(fixed, workers, observer, overwrite=True).certificate
    if not certificate["ok"]:
        raise ShardError(f"{directory}: {certificate['problems'][0]}; run curate build")
    rebuilt = []
    for dataset, earlier in zip(searched, before, strict=True):
        manifest = load_manifest(dataset.directory)
        domains = reopen(manifest, workers, observer)
        assert domains is not None  # the build has just read them
        _prove(dataset.directory, manifest, dataset.held, domains, path)
        changed = compare(earlier, read_state(dataset.directory, manifest, earlier.page_bytes))
        rebuilt.append(
            {
                "list": str(path),
                **msgspec.to_builtins(changed),
                "changed_share": changed.changed_share,
                "page_bytes": earlier.page_bytes,
            }
        )
    return rebuilt


def _with_planned_shares(recipe: Recipe, directories: Sequence[Path]) -> Recipe:
    """Replace methods, which might now choose differently, by the shares of the dataset.

    Args:
        recipe: The dataset's recipe; schedules stay, since they are shares already.
        directories: The dataset, or each of its stages.
    """
    mixtures = []
    for directory in directories:
        plan = read_plan(directory / "plan.json")
        weights = {name: domain.weight for name, domain in plan.domains.items()}
        mixtures.append(MixtureRecipe(method="manual", weights=weights))
    if recipe.stages:
        stages = [
            stage if stage.schedule is not None else replace(stage, mixture=mixture)
            for stage, mixture in zip(recipe.stages, mixtures, strict=True)
        ]
        return replace(recipe, stages=stages)
    return recipe if recipe.schedule is not None else replace(recipe, mixture=mixtures[0])


def _extend(loaded: LoadedRecipe, held: Sequence[Held], names: Path) -> Path:
    """Add what is removed to the recipe's list; without one, the new list is the recipe's."""
    path = list_path(loaded)
    if path is None or os.path.realpath(path) == os.path.realpath(names):
        return names
    earlier = path.read_text("utf-8-sig") if path.is_file() else ""
    lines = set(earlier.split("\n"))
    added = dict.fromkeys(document.name for one in held for document in one.documents)
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
