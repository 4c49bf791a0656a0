"""The interface of a step of curation, and the inputs of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.curation.reasons import Reason
from curate.recipe import LoadedRecipe
from curate.runtime.progress import Observer
from curate.sources.plans import FilePlan
from curate.tokens.domain import DomainTokens
from curate.tokens.tokenizer import Tokenizer

CACHE_NAME = "curation"
"""Directory of curation in the cache."""


@dataclass(frozen=True)
class CurationRequest:
    """The whole domains of a recipe, in the token store."""

    loaded: LoadedRecipe
    domains: Sequence[DomainTokens]
    """The domains in the order of the recipe, with all of their documents."""
    plans: Sequence[Sequence[FilePlan]]
    """shape (domains, plans), how the files of each domain are read."""
    tokenizer: Tokenizer
    workers: int
    """Number of processes."""
    observer: Observer

    @property
    def cache(self) -> Path:
        """Directory of all that curation keeps for later runs."""
        return self.loaded.cache_dir / CACHE_NAME


@dataclass(frozen=True)
class StepRequest:
    """The documents that a step decides about."""

    curation: CurationRequest
    staying: Sequence[NDArray[np.bool_]]
    """For each domain, shape (documents,), the documents that earlier steps left; read only."""
    details: Path
    """Path of a Parquet file with a row for each removed document that has a detail: `domain` and
    `row`, its numbers, and `detail`, a text. The step may write it, and others beside it.
    """
    notices: list[str] = field(default_factory=list)
    """Lines for the user, which the step appends; they are said again when its result is reused."""


@dataclass(frozen=True)
class Step:
    """One reason to remove documents."""

    reason: Reason
    version: int
    """Raise it when the same settings remove other documents."""
    check: Callable[[LoadedRecipe], None]
    """Raises CurateError if the recipe asks for what cannot be done, before any data is read."""
    settings: Callable[[CurationRequest], Any]
    """Returns, as JSON, all that decides beside the documents themselves, the content of files
    included; None if the recipe does not ask for the step.
    """
    find: Callable[[StepRequest], Sequence[NDArray[np.bool_]]]
    """Returns for each domain, shape (documents,), the documents to remove. Those that do not stay
    are ignored.
    """
