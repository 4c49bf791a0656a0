"""Mixtures side by side, for `curate stats --compare` and `curate mix --compare`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from curate.mixture import compare_methods
from curate.mixture.compare_methods import Entrant
from curate.runtime.progress import Observer


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
