"""Goals of an objective: weighted means of losses, of which the largest is minimised.

The mean is one goal, the worst case has a goal for each target or for each group of targets. Goals
of a worst case are compared by how far each is above a reference, since losses of different text
differ in level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import RecipeError
from curate.runtime.registry import counted, list_first, nearest_hint

if TYPE_CHECKING:
    from curate.laws.law import RunTable
    from curate.mixture.request import SearchOptions

Array = NDArray[np.float64]

REFERENCES = ("best_run", "natural")
"""References that goals of a worst case may be measured against."""


@dataclass(frozen=True, slots=True)
class Goals:
    """Weighted means of the targets' losses."""

    names: tuple[str, ...]
    weights: Array
    """shape (goals, targets), non-negative; each row sums to 1."""
    relative: bool
    """Whether goals are compared by their ratio to a reference: for the worst case."""
    against: str | None = None
    """The reference, of `REFERENCES`; None: the method's default."""
    by_noise: bool = False
    """Whether losses are weighed by their noise."""
    left_out: tuple[str, ...] = ()
    """Targets that play no part because they are in no group."""

    def to_json(
        self, targets: Sequence[str], losses: Array, reference: Array | None
    ) -> dict[str, Any]:
        """Return `objective` of `mixture.json`.

        Args:
            targets: Names of the losses.
            losses: shape (targets,), predicted.
            reference: shape (goals,), what goals are divided by; None where they are not.
        """
        means = (self.weights @ losses).tolist()
        against = [None] * len(means) if reference is None else reference.tolist()
        goals = {
            name: {
                "loss": mean,
                "reference": one,
                "weights": {t: w for t, w in zip(targets, row.tolist(), strict=True) if w > 0},
            }
            for name, mean, one, row in zip(self.names, means, against, self.weights, strict=True)
        }
        measured = None if reference is None else self.against or "best_run"
        return {"against": measured, "weighed_by_noise": self.by_noise, "goals": goals}


def unused_targets(goals: Goals) -> tuple[str, ...]:
    """Warn of targets that are in no group; at most one warning."""
    if not goals.left_out:
        return ()
    names = list_first([f"'{name}'" for name in goals.left_out])
    count = counted(
        len(goals.left_out),
        "target is in no group and plays no part",
        "targets are in no group and play no part",
    )
    return (f"{count}: {names}",)


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """A method as a front uses it: its groups, and how it minimises a weighted sum of them."""

    groups: tuple[str, ...]
    solve: Callable[[Array], tuple[Array, float | None]]
    """Weights of the groups, shape (groups,) → shares, shape (domains,), and the bound on how far
    the sum is above its minimum, None without one."""
    goals_at: Callable[[Array], Array]
    """Shares → the groups' mean losses, shape (groups,)."""
    reference: Array | None
    """shape (groups,), what mean losses are divided by before they are weighed; None: nothing."""
    in_recipe_order: Callable[[Array], tuple[float, ...]]
    natural: Array
    """shape (domains,), natural shares within the bounds."""
    details: dict[str, Any]
    """Further fields of `front.json`: the law, its errors on runs left out, warnings."""


def make_goals(search: SearchOptions, targets: Sequence[str], runs: RunTable | None) -> Goals:
    """Turn an objective into goals over the targets of the evidence.

    Args:
        search: The objective, its groups and its reference.
        targets: Names of the evidence's losses.
        runs: The runs that noise is learnt from; None where there are none.

    Raises:
        RecipeError: The objective names an unknown target, or a group holds none.
    """
    if search.objective == "worst":
        return Goals(tuple(targets), np.eye(len(targets)), relative=True)
    importance, by_noise = _importance(search.objective, targets, runs), search.objective == "noise"
    if not search.groups:
        name = "mean" if search.objective == "mean" else "weighted mean"
        return Goals((name,), _rows(importance[None]), relative=False, by_noise=by_noise)
    members = {name: members_of(name, parts, targets) for name, parts in search.groups.items()}
    rows = np.array([np.where(inside, importance, 0.0) for inside in members.values()])
    for name, row in zip(members, rows, strict=True):
        if not row.sum() > 0:
            raise RecipeError(
                f"mixture.objective: no target of group '{name}' has a weight; give one, or remove "
                "the group"
            )
    unused = ~np.any(list(members.values()), axis=0)
    left_out = tuple(name for name, none in zip(targets, unused, strict=True) if none)
    return Goals(
        tuple(members),
        _rows(rows),
        relative=True,
        against=search.against,
        by_noise=by_noise,
        left_out=left_out,
    )


def members_of(group: str, patterns: Sequence[str], targets: Sequence[str]) -> NDArray[np.bool_]:
    """Tell which targets a group's names and patterns select, shape (targets,).

    Args:
        group: Its name, for the message.
        patterns: Names, or patterns in which `*` stands for any text.
        targets: Names of the evidence's losses.

    Raises:
        RecipeError: A name or pattern selects no target.

    Example:
        >>> members_of("code", ["code_*"], ["code_c", "wiki", "code_py"]).tolist()
        [True, False, True]
    """
    inside = np.zeros(len(targets), bool)
    for pattern in patterns:
        selected = [name == pattern or fnmatchcase(name, pattern) for name in targets]
        if not any(selected):
            raise RecipeError(
                f"mixture.objective: '{pattern}' of group '{group}' selects no "
                f"target{nearest_hint(pattern, targets)} (targets: {', '.join(targets)})"
            )
        inside |= selected
    return inside


def _rows(weights: Array) -> Array:
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _importance(
    objective: str | Mapping[str, float], targets: Sequence[str], runs: RunTable | None
) -> Array:
    """Return the importance of each target, shape (targets,)."""
    if objective == "mean":
        return np.ones(len(targets))
    if objective == "noise":
        if runs is None:
            raise RecipeError(
                "mixture.objective.weights: noise is learnt from training runs, and these targets "
                "have none; give weights by target, or take a method that fits a law to runs"
            )
        from curate.laws.selection import noise_weights

        return noise_weights(runs)
    if isinstance(objective, str):
        raise RecipeError(
            f"mixture.objective: cannot be '{objective}' (known: mean, worst, {{target: NAME}}, "
            "{weights: {NAME: importance, …}}, {weights: noise}, {groups: {GROUP: [NAME, …], …}})"
        )
    weights = np.zeros(len(targets))
    for name, importance in objective.items():
        if name not in targets:
            raise RecipeError(
                f"mixture.objective: unknown name '{name}'{nearest_hint(name, targets)} (known: "
                f"{', '.join(targets)})"
            )
        weights[list(targets).index(name)] = importance
    if not (math.isfinite(weights.sum()) and weights.sum() > 0):
        raise RecipeError("mixture.objective: no importance is positive; name at least one target")
    return weights
