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
"""Values that must be equal, beside the shards themselves, and their meaning."""


def check_state(state: Mapping[str, Any], current: Mapping[str, Any], where: str) -> None:
    """Check that a loader may resume from a state.

    Args:
        state: State that was saved.
        current: State of the loader that resumes.
        where: Directory or recipe that it reads.

    Raises:
        ShardError: The state is not a loader's, or differs; the message names the difference.
    """
    missing = [name for name in current if name not in state]
    numbers = [state.get(name) for name in ("epoch", "position")]
    if missing or not all(isinstance(value, int) and value >= 0 for value in numbers):
        what = f"it lacks {', '.join(missing)}" if missing else f"epoch, position are {numbers}"
        raise ShardError(
            f"state: not one that state_dict() of a curate loader gave ({what}); start without it"
        )
    if state["version"] != current["version"]:
        raise ShardError(
            f"state: version {state['version']}, this curate reads {current['version']}; resume "
            "with the curate that saved it"
        )
    for name, meaning in SAME.items():
        if state[name] != current[name]:
            raise ShardError(
                f"{where}: {meaning} was {state[name]!r} when the state was saved and is "
                f"{current[name]!r} now; load as then, or start without the state"
            )
    if state["shards"] != current["shards"]:
        raise ShardError(
            f"{where}: the tokens are not those of the state (fingerprint {state['shards'][:12]} "
            f"then, {current['shards'][:12]} now): shards, store or plan changed since then; "
            "put them back as they were (the same recipe builds the same shards), or start "
            "without the state"
        )
