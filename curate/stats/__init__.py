"""Training-free statistics of domains: entropies with intervals, and other signals.

To add a statistic, add its row to `STATISTICS`. Reports, tables, recipes and `mixture.measure` read
everything from the row.
"""

from __future__ import annotations

from curate.errors import RecipeError
from curate.runtime.registry import Registry, unknown_name
from curate.stats.statistic import Statistic
from curate.stats.statistics import (
    BYTES_PER_TOKEN,
    COMPRESSION,
    COMPRESSION_RATIO,
    CONDITIONAL,
    CONVERGENCE,
    DUPLICATES,
    JOINT,
    SHANNON,
    TYPE_TOKEN,
    VON_NEUMANN,
)

__all__ = ["STATISTICS", "Statistic", "entropy_statistics", "find_entropy"]

STATISTICS = Registry(
    "statistic",
    (
        SHANNON, JOINT, CONDITIONAL, VON_NEUMANN, BYTES_PER_TOKEN, COMPRESSION_RATIO, COMPRESSION,
        DUPLICATES, TYPE_TOKEN, CONVERGENCE,
    ),
    "curate.statistics",
)  # fmt: skip
"""Every statistic by name. Other installed packages add rows through the entry point group
`curate.statistics`."""


def entropy_statistics() -> dict[str, Statistic]:
    """Return the statistics that `mixture.measure` can name.

    Example:
        >>> list(entropy_statistics())
        ['shannon', 'joint', 'conditional', 'von_neumann']
    """
    return {name: row for name, row in STATISTICS.items() if row.entropy}


def find_entropy(name: str) -> Statistic:
    """Return the entropy that `mixture.measure` names.

    Raises:
        RecipeError: No entropy has this name; the message suggests the nearest.
    """
    row = STATISTICS.get(name)  # unlike listing all, reads no entry points for a name of ours
    if row is None or not row.entropy:
        raise RecipeError(unknown_name("entropy", name, entropy_statistics(), "mixture.measure"))
    return row
