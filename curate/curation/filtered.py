"""Remove the documents that a domain's `where` does not keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.curation.reasons import Reason
from curate.curation.step import CurationRequest, Step, StepRequest
from curate.errors import RecipeError
from curate.recipe import DomainRecipe, LoadedRecipe
from curate.runtime.registry import counted


def where_key(loaded: LoadedRecipe, domain: DomainRecipe) -> str:
    """Name the expression that filters a domain in messages: its own, or the stage's."""
    return f"domains[{domain.name}].where" if loaded.where is None else f"where for '{domain.name}'"


def _check(loaded: LoadedRecipe) -> None:
    for domain in loaded.recipe.domains:
        if domain.where is not None:
            from curate.curation.attributes import parse

            parse(domain.where, f"domains[{domain.name}].where")


def _settings(request: CurationRequest) -> Any:
    recipes = request.loaded.recipe.domains
    if all(domain.where is None for domain in recipes):
        return None
    from curate.curation.attributes import attribute_settings, parse

    return [
        domain.where and [domain.where, attribute_settings(request, n, [parse(domain.where, "")])]
        for n, domain in enumerate(recipes)
    ]


def _find(request: StepRequest) -> Sequence[NDArray[np.bool_]]:
    import polars as pl

    from curate.curation.attributes import attribute_frame, evaluate, names_in, parse

    curation = request.curation
    masks, details = [], []
    for number, domain in enumerate(curation.loaded.recipe.domains):
        documents = len(curation.domains[number])
        if domain.where is None:
            masks.append(np.zeros(documents, np.bool_))
            continue
        where = where_key(curation.loaded, domain)
        expression = parse(domain.where, where)
        frame = attribute_frame(curation, number, names_in([expression]), request.notices)
        kept = evaluate(frame, expression, where)
        if kept.dtype not in (pl.Boolean, pl.Null):
            raise RecipeError(f"{where}: gives {kept.dtype}, not true or false")
        kept = kept.cast(pl.Boolean)
        nulls = kept.is_null() & pl.Series(request.staying[number])
        if nulls.any():
            request.notices.append(
                f"{where} is null for {counted(int(nulls.sum()), 'document')} of {documents:,}, "
                "which are left out, too; IS NULL keeps them"
            )
        masks.append((~kept.fill_null(False)).to_numpy())
        rows = nulls.arg_true().cast(pl.Int64)
        details.append(
            pl.DataFrame(
                {
                    "domain": pl.Series([number] * len(rows), dtype=pl.Int32),
                    "row": rows,
                    "detail": pl.Series(["null"] * len(rows), dtype=pl.String),
                }
            )
        )
    pl.concat(details).write_parquet(request.details)
    return masks


FILTERED = Step(Reason.FILTERED, 1, _check, _settings, _find)
