"""Remove copies of documents, as the recipe's section `duplicates` asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from curate.curation.reasons import Reason
from curate.curation.step import CurationRequest, Step, StepRequest
from curate.errors import RecipeError
from curate.recipe import LoadedRecipe
from curate.recipe.structs import NearRecipe
from curate.runtime.artifact_names import CLUSTERS
from curate.runtime.registry import counted, unknown_name


def _check(loaded: LoadedRecipe) -> None:
    recipe = loaded.recipe.duplicates
    if recipe is None:
        return
    names = [domain.name for domain in loaded.recipe.domains]
    groups = [] if isinstance(recipe.within, str) else recipe.within
    for key, listed in (("order", recipe.order), ("within", [n for g in groups for n in g])):
        for place, name in enumerate(listed):
            if name not in names:
                raise RecipeError(unknown_name("domain", name, names, f"duplicates.{key}"))
            if name in listed[:place]:
                raise RecipeError(f"duplicates.{key}: '{name}' is listed twice; leave one of them")
    if recipe.exact == "none" and recipe.near is None:
        raise RecipeError(
            "duplicates: with exact: none and no near, no copies are removed; leave the section "
            "out, or add near: {}"
        )
    if recipe.near is not None:
        _check_near(recipe.near)


def _check_near(near: NearRecipe) -> None:
    if near.threshold is not None and (near.bands is not None or near.rows is not None):
        raise RecipeError(
            "duplicates.near: threshold chooses bands and rows; give threshold or those two"
        )
    if (near.bands is None) != (near.rows is None):
        raise RecipeError("duplicates.near: bands and rows go together; give both or neither")
    if near.permutations is not None and near.threshold is None:
        raise RecipeError(
            "duplicates.near.permutations: only used with threshold; the signature has bands x "
            "rows numbers otherwise"
        )


def _settings(request: CurationRequest) -> Any:
    recipe = request.loaded.recipe.duplicates
    if recipe is None:
        return None
    from curate.curation.duplicates import fingerprint, groups_of

    names = [domain.name for domain in request.domains]
    settings = msgspec.to_builtins(recipe) | {"groups": groups_of(recipe, names)}
    version = fingerprint(recipe, request.loaded.recipe.validation)
    return [settings, [*version, request.tokenizer.fingerprint] if version else []]


def _find(request: StepRequest) -> Sequence[NDArray[np.bool_]]:
    from curate.curation import duplicates

    curation = request.curation
    recipe = curation.loaded.recipe
    assert recipe.duplicates is not None  # or there would be no settings, and no step
    copies = duplicates.find_copies(
        duplicates.CopiesRequest(
            domains=curation.domains,
            staying=request.staying,
            settings=recipe.duplicates,
            validation=recipe.validation,
            tokenizer=curation.tokenizer,
            cache=curation.cache,
            workers=curation.workers,
            observer=curation.observer,
        )
    )
    duplicates.write_details(copies, curation.domains, request.details)
    duplicates.write_clusters(copies, curation.domains, request.details.parent / CLUSTERS)
    request.notices.extend(duplicates.lossy_notices(recipe.duplicates, curation.tokenizer))
    near = recipe.duplicates.near
    if near is not None:
        request.notices.append(f"duplicates: {duplicates.banding_of(near).describe()}")
    kinds = duplicates.Kind
    parts = [
        f"{int(copies.counts[kind]):,} {label}"
        for kind, label in (
            (kinds.TEXT, "of the same text"),
            (kinds.NORMALISED, "of the same normalised text"),
            (kinds.NEAR, "near copies"),
            (kinds.HELD_OUT, "near copies of held-out documents"),
        )
        if copies.counts[kind]
    ]
    if parts:
        removed = int(copies.counts.sum() - copies.counts[kinds.KEPT])
        clusters = counted(int(copies.counts[kinds.KEPT]), "cluster")
        request.notices.append(
            f"duplicates: {counted(removed, 'document')} removed: {', '.join(parts)}; {clusters}"
        )
    return copies.masks


COPIES = Step(Reason.COPY, 2, _check, _settings, _find)
