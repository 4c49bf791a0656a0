"""List the steps of curation, in the order in which they decide."""

from __future__ import annotations

from curate.curation.contaminated import CONTAMINATED
from curate.curation.copies import COPIES
from curate.curation.excluded import EXCLUDED
from curate.recipe import LoadedRecipe

STEPS = (EXCLUDED, CONTAMINATED, COPIES)


def check_steps(loaded: LoadedRecipe) -> None:
    """Check all that a recipe asks of curation, before any data is read.

    Raises:
        CurateError: A step cannot do what the recipe asks.
    """
    for step in STEPS:
        step.check(loaded)
