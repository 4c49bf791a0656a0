"""The commands `mix --compare` and `mix --front`: several mixtures of a recipe, or of one stage."""

from __future__ import annotations

from collections.abc import Sequence

from curate.mixture import METHODS, MixtureRequest
from curate.mixture.compare_methods import (
    KeptContenders,
    compare_mixtures,
    every_method,
    select_methods,
)
from curate.mixture.front import front
from curate.pipeline.artifacts import origin
from curate.pipeline.check import check_mixture, check_names
from curate.pipeline.measure import gather
from curate.pipeline.mix import mixture_request
from curate.pipeline.proxies import make_evidence
from curate.pipeline.results import FrontResult, MethodsResult
from curate.pipeline.stages import StageChoice, one_mixture
from curate.pipeline.tokenize import TokenizedDomains
from curate.recipe import LoadedRecipe
from curate.runtime.progress import Observer, write_artifact


def front_recipe(
    loaded: LoadedRecipe,
    traced: tuple[Sequence[str], int],
    workers: int,
    observer: Observer,
    choice: StageChoice | None = None,
) -> FrontResult:
    """Trace the front of some groups of targets by a recipe's method, and write `front.json`.

    Args:
        loaded: The recipe.
        traced: Names of the recipe's groups, or names and patterns of targets; and the most points
            between two groups.
        workers: Number of processes.
        observer: Receives progress and warnings.
        choice: The stage, for a recipe with stages.

    Raises:
        CurateError: Any user-fixable error.
    """
    check_names(loaded)
    if choice is None:
        check_mixture(loaded)
    with one_mixture(loaded, choice, workers, observer) as (loaded, tokenized):
        method = (loaded.recipe.mixture.method,)
        request = _measured_request(loaded, tokenized, method, workers, observer)
        fields = front(request, *traced)
        for warning in fields["warnings"]:
            observer.notice(warning)
        path = loaded.output_dir / "front.json"
        write_artifact(path, {**origin(loaded, tokenized), **fields}, observer)
    return FrontResult(fields)


def compare_recipe(
    loaded: LoadedRecipe,
    workers: int,
    observer: Observer,
    methods: Sequence[str] = (),
    choice: StageChoice | None = None,
) -> MethodsResult:
    """Compute the mixtures of methods on a recipe's evidence, and write `mixtures.json`.

    Args:
        loaded: The recipe; its method is ignored.
        workers: Number of processes.
        observer: Receives progress, and a notice as each method gives a mixture.
        methods: Names of methods; empty for all.
        choice: The stage, for a recipe with stages.

    Raises:
        CurateError: Any user-fixable error.
    """
    check_names(loaded)
    names = select_methods(methods)
    with one_mixture(loaded, choice, workers, observer) as (loaded, tokenized):
        request = _measured_request(loaded, tokenized, names, workers, observer)
        kept = KeptContenders(loaded.output_dir, origin(loaded, tokenized))
        comparison = compare_mixtures(
            every_method(request, names),
            workers,
            lambda ended: observer.notice(ended.line),
            kept,
            observer.notice,
        )
        write_artifact(loaded.output_dir / "mixtures.json", comparison, observer)
        kept.clear()
    return MethodsResult(comparison)


def _measured_request(
    loaded: LoadedRecipe,
    tokenized: TokenizedDomains,
    methods: Sequence[str],
    workers: int,
    observer: Observer,
) -> MixtureRequest:
    """Measure and train what the methods could need, so that all have the same evidence."""
    mixture = loaded.recipe.mixture
    kinds = {kind: None for name in methods for kind in METHODS[name].measures(mixture)}
    measured = gather(loaded, tokenized, tuple(kinds), workers, observer)
    make_evidence(loaded, tokenized, workers, observer)
    return mixture_request(loaded, tokenized, measured)
