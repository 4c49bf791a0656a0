"""Mixtures side by side, for `curate stats --compare` and `curate mix --compare`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from curate.mixture import compare_methods
from curate.mixture.compare_methods import Entrant, every_method
from curate.pipeline.check import check_names
from curate.pipeline.mix import comparison_request
from curate.pipeline.results import MethodsResult
from curate.pipeline.tokenize import tokenize_domains
from curate.recipe import LoadedRecipe
from curate.runtime.files import write_json
from curate.runtime.progress import Observer


def compare_recipe(loaded: LoadedRecipe, workers: int, observer: Observer) -> MethodsResult:
    """Compute the mixture of every method on a recipe's evidence, and write `mixtures.json`.

    Args:
        loaded: The recipe; its own method plays no part.
        workers: Number of processes.
        observer: Receives progress, and a notice as each method ends.

    Raises:
        CurateError: Any user-fixable error.
    """
    check_names(loaded)
    tokenized = tokenize_domains(loaded, workers, observer)
    request = comparison_request(loaded, tokenized, workers, observer)
    comparison = compare_mixtures(every_method(request), workers, observer)
    write_json(loaded.output_dir / "mixtures.json", comparison)
    return MethodsResult(comparison)


def compare_mixtures(
    entrants: Sequence[Entrant], workers: int, observer: Observer
) -> dict[str, Any]:
    """Compute the mixture of every entrant, with a notice as each one ends.

    Args:
        entrants: From `every_method` or `before_caps` of `curate.mixture.compare_methods`.
        workers: Number of processes.
        observer: Receives the notices.

    Returns:
        The fields of `mixtures.json`; see `curate.mixture.compare_methods.compare_mixtures`.
    """
    return compare_methods.compare_mixtures(
        entrants, workers, lambda ended: observer.notice(ended.line)
    )
