"""List the steps of curation, in the order in which they decide."""

from __future__ import annotations

from collections.abc import Sequence

from curate.curation.contaminated import CONTAMINATED
from curate.curation.copies import COPIES
from curate.curation.excluded import EXCLUDED
from curate.curation.filtered import FILTERED
from curate.errors import RecipeError
from curate.recipe import LoadedRecipe
from curate.sources.plans import FilePlan

STEPS = (EXCLUDED, FILTERED, CONTAMINATED, COPIES)


def check_steps(loaded: LoadedRecipe) -> None:
    """Check all that a recipe asks of curation, before any data is read.

    Raises:
        CurateError: A step cannot do what the recipe asks.
    """
    for step in STEPS:
        step.check(loaded)


def check_columns(loaded: LoadedRecipe, plans: Sequence[Sequence[FilePlan]]) -> None:
    """Check that files have the columns that a recipe names, with types that fit.

    Args:
        loaded: The recipe.
        plans: shape (domains, plans), how the files of each domain are read.

    Raises:
        RecipeError: A column is absent, or an expression does not fit its type.
    """
    for domain, of_domain in zip(loaded.recipe.domains, plans, strict=True):
        if domain.where is None and not domain.keep and not domain.attributes:
            continue
        from curate.curation.attributes import check_expressions, parse

        where = f"domains[{domain.name}].where"
        expressions = {} if domain.where is None else {where: parse(domain.where, where)}
        kinds = check_expressions(loaded, domain, of_domain, expressions)
        if where in kinds and str(kinds[where]) not in ("Boolean", "Null"):
            raise RecipeError(
                f"{where}: gives {kinds[where]}, not true or false; compare it, as in quality > 0.4"
            )
