"""Check that a saved state fits a loader, and explain each difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curate.errors import ShardError

STATE_VERSION = 1

SAME = {
    "sequences": "the number of sequences",
    "window_tokens": "tokens of a window (sequence_length, and one with labels)",
    "order": "the order (LoaderOptions.order)",
    "seed": "the seed of the order (LoaderOptions.seed)",
}
"""Values that must be equal, besides the shards themselves, with their meaning."""


def check_state(state: Mapping[str, Any], current: Mapping[str, Any], where: str) -> None:
    """Check that a loader may resume from a state.

    Args:
        state: State that was saved.
        current: State of the loader that resumes.
        where: Directory or recipe that the loader reads, for messages.

    Raises:
        ShardError: The state is not a loader's, or differs; the message names the difference.
    """
    if not isinstance(state, Mapping):
        raise ShardError(
            f"state: not made by state_dict() of a curate loader (it is {state!r:.40}); start "
            "without it"
        )
    if ("draws" in state) != ("draws" in current):
        saved, remedy = ("with", "with") if "draws" in state else ("without", "without")
        raise ShardError(
            f"state: saved by a loader {saved} weights; open the data {remedy} weights=, or start "
            "without the state"
        )
    missing = [name for name in current if name not in state]
    numbers = [state.get(name) for name in ("epoch", "position")]
    if missing or not all(isinstance(value, int) and value >= 0 for value in numbers):
        fault = f"it lacks {', '.join(missing)}" if missing else f"epoch, position are {numbers}"
        raise ShardError(
            f"state: not made by state_dict() of a curate loader ({fault}); start without it"
        )
    if state["version"] != current["version"]:
        raise ShardError(
            f"state: it has version {state['version']}, but this curate reads version "
            f"{current['version']}; resume with the curate that saved it"
        )
    for name, meaning in SAME.items():
        if state[name] != current[name]:
            raise ShardError(
                f"{where}: {meaning} was {state[name]!r} when the state was saved and is "
                f"{current[name]!r} now; load with the earlier value, or start without the state"
            )
    if state["shards"] != current["shards"]:
        raise ShardError(
            f"{where}: shards, store or plan changed since the state was saved (fingerprint "
            f"{state['shards'][:12]} then, {current['shards'][:12]} now); restore them (the same "
            "recipe builds the same shards), or start without the state"
        )
