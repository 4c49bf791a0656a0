"""Check the names in a recipe before any data is read."""

from __future__ import annotations

from curate.errors import RecipeError
from curate.formats import FORMATS, check_options
from curate.formats import find as find_format
from curate.formats.base import TextFormat
from curate.mixture import METHODS
from curate.pipeline.proxy_setup import check_proxy
from curate.pipeline.read_evidence import evidence_paths, made_by_proxies
from curate.plan.per_domain import PER_DOMAIN, check_shape
from curate.recipe import LoadedRecipe
from curate.stats import find_entropy


def check_names(loaded: LoadedRecipe) -> None:
    """Check every name of a method, measure, format or preset before data is read.

    Raises:
        RecipeError: A name is unknown, or two settings exclude each other.
        MissingEvidence: A file of evidence does not exist, or proxies need a missing package.
    """
    recipe = loaded.recipe
    METHODS.find(recipe.mixture.method, "mixture.method")
    evidence_paths(loaded)
    if made_by_proxies(loaded) is not None:
        check_proxy(loaded)
    find_entropy(recipe.mixture.measure)
    output_format = find_format(recipe.output.format)
    options = check_options(recipe.output.format, recipe.output.options)
    if recipe.output.shape == PER_DOMAIN:
        check_shape(recipe.output.format, options)
    if recipe.packing not in output_format.packings:
        fit = [row.name for row in FORMATS.values() if recipe.packing in row.packings]
        raise RecipeError(
            f"packing: {recipe.packing} is not for format {recipe.output.format}, whose readers "
            f"would not keep its rows; it is for {', '.join(fit)}. Set packing: concat, or another "
            "output.format"
        )
    keeps = isinstance(output_format, TextFormat) or (
        output_format.keeps_documents and not output_format.takes_sequences
    )
    if keeps and recipe.sequence_length is not None:
        raise RecipeError(
            f"sequence_length: format {output_format.name} keeps whole documents and its readers "
            "cut them; remove sequence_length, or use output.format: npy"
        )


def unused_weights(loaded: LoadedRecipe) -> list[str]:
    """Say so, in a list of one, where the recipe has weights that its method does not read."""
    recipe = loaded.recipe
    method = recipe.mixture.method
    given = recipe.mixture.weights is not None or any(
        domain.weight is not None for domain in recipe.domains
    )
    # `check_names` refuses an unknown method.
    if not given or (method in METHODS and METHODS[method].by_hand):
        return []
    return [f"the recipe's weights are not used: mixture.method is {method}, not manual"]
