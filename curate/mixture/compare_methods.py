"""Every method on the same request, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from curate.errors import CurateError
from curate.mixture import METHODS, Mixture, MixtureRequest, mix
from curate.runtime.workers import map_tasks


@dataclass(frozen=True, slots=True)
class Contender:
    """What a method came to."""

    method: str
    mixture: Mixture | None
    problem: str
    """Why there is no mixture, or empty."""
    seconds: float
    """CPU."""


def compare_methods(
    request: MixtureRequest,
    workers: int = 1,
    on_contender: Callable[[Contender], None] = lambda _: None,
) -> dict[str, Any]:
    """What each method would choose at the same supply, caps, budget and evidence.

    Args:
        request: Its own method plays no part.
        workers: Processes; they change nothing but the time it takes.
        on_contender: Called as each method ends.

    Returns:
        `mixtures`, by method what `mixture.json` holds and `max_epochs`, the most passes over a
        domain; `left_out`, by method why it could not; `budget_tokens`.
    """
    # METHODS go from cheap to dear: begun from its end, no worker is left with a long one.
    names = list(reversed(METHODS))
    ended = map_tasks(partial(_contender, request), names, workers, on_result=on_contender)
    mixtures: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for found in reversed(ended):
        if found.mixture is None:
            left_out[found.method] = found.problem
            continue
        most = max(found.mixture.epochs.values())
        mixtures[found.method] = {**found.mixture.to_json(), "max_epochs": most}
    return {"budget_tokens": request.budget_tokens, "mixtures": mixtures, "left_out": left_out}


def _contender(request: MixtureRequest, method: str) -> Contender:
    started = time.process_time()
    try:
        found, problem = mix(replace(request, method=method)), ""
    except CurateError as error:
        found, problem = None, str(error)
    return Contender(method, found, problem, time.process_time() - started)
