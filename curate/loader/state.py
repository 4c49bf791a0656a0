"""What a loader's state must say, and what each difference means."""

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
"""What a state must agree on, beside the shards themselves, and what it is."""


def check_state(state: Mapping[str, Any], own: Mapping[str, Any], where: str) -> None:
    """See that a state may be gone on from.

    Args:
        state: That was saved.
        own: That of the loader which shall go on.
        where: Directory or recipe that it reads.

    Raises:
        ShardError: It is not a loader's, or says something else; names what.
    """
    missing = [name for name in own if name not in state]
    numbers = [state.get(name) for name in ("epoch", "position")]
    if missing or not all(isinstance(value, int) and value >= 0 for value in numbers):
        what = f"it lacks {', '.join(missing)}" if missing else f"epoch, position are {numbers}"
        raise ShardError(
            f"state: not one that state_dict() of a curate loader gave ({what}); start without it"
        )
    if state["version"] != own["version"]:
        raise ShardError(
            f"state: version {state['version']}, this curate reads {own['version']}; resume with "
            "the curate that saved it"
        )
    for name, meaning in SAME.items():
        if state[name] != own[name]:
            raise ShardError(
                f"{where}: {meaning} was {state[name]!r} when the state was saved and is "
                f"{own[name]!r} now; load as then, or start without the state"
            )
    if state["shards"] != own["shards"]:
        raise ShardError(
            f"{where}: the tokens are not those of the state (fingerprint {state['shards'][:12]} "
            f"then, {own['shards'][:12]} now): shards, store or plan changed since it was saved; "
            "put them back as they were (the same recipe builds the same shards), or start "
            "without the state"
        )
