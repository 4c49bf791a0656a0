"""Find the documents that a stage may draw: those that its `where` keeps.

Nothing is removed from the domains, so held-out documents and measurements stay those of all.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from curate.curation.filtered import FILTERED
from curate.curation.step import CurationRequest, StepRequest
from curate.curation.steps import check_columns
from curate.recipe import LoadedRecipe
from curate.runtime.files import begin_directory, hash_json
from curate.tokens.domain import DomainTokens


def filtered_by(loaded: LoadedRecipe, expression: str) -> LoadedRecipe:
    """Return a recipe whose domains are all filtered by an expression, and by nothing else."""
    domains = [replace(domain, where=expression, split=[]) for domain in loaded.recipe.domains]
    return replace(loaded, recipe=replace(loaded.recipe, domains=domains))


def find_pools(
    request: CurationRequest, domains: Sequence[DomainTokens], sources: Sequence[int]
) -> tuple[list[NDArray[np.bool_]], str]:
    """Evaluate an expression for the documents of a recipe.

    Args:
        request: The whole domains of a recipe from `filtered_by`.
        domains: shape (domains,), the domains after curation.
        sources: shape (domains,), number of the whole domain of each.

    Returns:
        For each domain, shape (documents,), whether the expression keeps a document; and a hash of
        the expression and of the attributes that it reads.

    Raises:
        RecipeError: The expression does not fit the documents.
    """
    check_columns(request.loaded, request.plans)
    spill = begin_directory(request.cache / "pools")
    try:
        staying = [np.ones(len(whole), np.bool_) for whole in request.domains]
        asked = StepRequest(request, staying, spill / "details.parquet")
        left_out = FILTERED.find(asked)
    finally:
        shutil.rmtree(spill, ignore_errors=True)
    for notice in asked.notices:
        request.observer.notice(notice)
    masks = []
    for domain, source in zip(domains, sources, strict=True):
        mask = ~left_out[source]
        if domain.selection is not None:
            mask = mask[domain.selection.kept(len(request.domains[source]))]
        masks.append(mask)
    return masks, hash_json([FILTERED.version, FILTERED.settings(request)])
