"""Every method on the same request, side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from curate.errors import CurateError
from curate.mixture import METHODS, MixtureRequest, mix


def compare_methods(request: MixtureRequest) -> dict[str, Any]:
    """What each method would choose at the same supply, caps, budget and evidence.

    Args:
        request: Its own method plays no part.

    Returns:
        `mixtures`, by method what `mixture.json` holds and `max_epochs`, the most passes over a
        domain; `left_out`, by method why it could not; `budget_tokens`.
    """
    mixtures: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name in METHODS:
        try:
            found = mix(replace(request, method=name))
        except CurateError as error:
            left_out[name] = str(error)
            continue
        mixtures[name] = {**found.to_json(), "max_epochs": max(found.epochs.values())}
    return {"budget_tokens": request.budget_tokens, "mixtures": mixtures, "left_out": left_out}
