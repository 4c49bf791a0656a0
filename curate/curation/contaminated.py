"""Report or remove the documents that hold evaluation items, as `decontaminate` asks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.curation.reasons import Reason
from curate.curation.step import CurationRequest, Step, StepRequest
from curate.errors import RecipeError
from curate.recipe import LoadedRecipe
from curate.recipe.structs import DecontaminateRecipe
from curate.runtime.artifact_names import SPANS
from curate.runtime.files import hash_file, is_url
from curate.runtime.sealed import Notice


def _check(loaded: LoadedRecipe) -> None:
    recipe = loaded.recipe.decontaminate
    if recipe is None:
        return
    if recipe.action == "truncate":
        raise RecipeError(
            "decontaminate.action: truncate is not possible, since the token store holds whole "
            "documents and a cut changes the tokens around it; use remove or report"
        )
    from curate.curation.evaluation_sets import as_set, set_files

    for name, evaluation in recipe.sets.items():
        if as_set(evaluation).hf is None:
            set_files(name, evaluation, (loaded.base, loaded.cache_dir), lambda _: None)


def _settings(request: CurationRequest) -> Any:
    recipe = request.loaded.recipe.decontaminate
    if recipe is None:
        return None
    from curate.curation.evaluation_sets import as_set
    from curate.curation.words import VERSION

    files = _files(request.loaded, recipe, request.observer.notice)
    # A URL of the Hub names a commit, so it says what is in the file.
    contents = {
        name: [path if is_url(path) else hash_file(Path(path)) for path in paths]
        for name, paths in files.items()
    }
    sets = [[name, as_set(recipe.sets[name]).text, contents[name]] for name in files]
    keys = ("action", "ngram", "coverage", "least_words", "common")
    names = [domain.name for domain in request.domains]
    version = [VERSION, request.tokenizer.fingerprint]
    return [version, sets, [getattr(recipe, key) for key in keys], names]


def _files(
    loaded: LoadedRecipe, recipe: DecontaminateRecipe, notice: Notice
) -> dict[str, list[str]]:
    """Return the files of each set."""
    from curate.curation.evaluation_sets import set_files

    return {
        name: set_files(name, evaluation, (loaded.base, loaded.cache_dir), notice)
        for name, evaluation in recipe.sets.items()
    }


def _find(request: StepRequest) -> Sequence[NDArray[np.bool_]]:
    from curate.curation import contamination
    from curate.curation.evaluation_sets import read_index
    from curate.curation.signatures import shared_decoder

    curation = request.curation
    recipe = curation.loaded.recipe.decontaminate
    assert recipe is not None  # or there would be no settings, and no step
    asked = contamination.ContaminationRequest(
        domains=curation.domains,
        staying=request.staying,
        settings=recipe,
        index=read_index(recipe, _files(curation.loaded, recipe, lambda _: None)),
        tokenizer=curation.tokenizer,
        cache=curation.cache,
        workers=curation.workers,
        observer=curation.observer,
    )
    matches = contamination.find_contaminated(asked)
    contamination.write_spans(asked, matches, request.details.parent / SPANS)
    notice = shared_decoder(curation.tokenizer).lossy_notice()
    request.notices.extend([notice] if notice else [])
    request.notices.extend(contamination.describe(asked, matches))
    if recipe.action == "report":
        return contamination.masks_of([], curation.domains)
    contamination.write_details(asked, matches, request.details)
    return contamination.masks_of(matches, curation.domains)


CONTAMINATED = Step(Reason.CONTAMINATED, 3, _check, _settings, _find)
