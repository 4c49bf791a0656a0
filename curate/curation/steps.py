"""List the steps of curation, in the order in which they decide."""

from __future__ import annotations

from collections.abc import Sequence

from curate.curation.contaminated import CONTAMINATED
from curate.curation.copies import COPIES
from curate.curation.excluded import EXCLUDED
from curate.curation.filtered import FILTERED, where_key
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
        if domain.where is None and not (domain.keep or domain.attributes or domain.split):
            continue
        from curate.curation.attributes import check_expressions, parse
        from curate.curation.split import check_types

        key = f"domains[{domain.name}]"
        where = where_key(loaded, domain)
        texts = {where: domain.where or "TRUE"}
        splits = {f"{key}.split.by '{split.by}'": split for split in domain.splits}
        texts |= {name: split.by for name, split in splits.items()}
        expressions = {name: parse(text, name) for name, text in texts.items()}
        kinds = check_expressions(loaded, domain, of_domain, expressions)
        kind = str(kinds[where])
        if kind not in ("Boolean", "Null"):
            raise RecipeError(
                f"{where}: gives {kind}, not true or false; compare it, as in quality > 0.4"
            )
        for name, split in splits.items():
            check_types(name, split, kinds[name])
