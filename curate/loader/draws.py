"""Decide which domain each sequence of a run comes from, for shares that change during the run.

The rule is Tijdeman's: with `owed` the sequences that a domain was asked for beyond those drawn, it
draws the domain whose debt would be the first to pass 1 - 1 / (2 k - 2) sequences for k domains,
among those that are owed at least 1 / (2 k - 2). While shares stay as they are, no domain is ever
further than that from what was asked since they were set. Over a window that begins anywhere the
distance is below twice that. Less is impossible in general: at shares .5, .3 and .2, no order of
eight sequences is within one sequence in all windows.

Differs from the paper: Tijdeman knows all future shares, here they are taken to stay as they are.
After changes a debt can pass the bound; the largest such debt is then served first.

Shares are whole multiples of 2^-40, so that debts are integers: nothing drifts, and a saved state
is exact.

References:
    Tijdeman 1980, "The chairman assignment problem", Discrete Mathematics 32, pp. 323-330.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from curate.errors import InfeasiblePlan, RecipeError
from curate.mixture.apportion import apportion
from curate.plan.streams import PLACE_KEY, mix_key
from curate.runtime.compiled import kernel
from curate.runtime.registry import nearest_hint

PLANNED: Final = "planned"
"""Weights that stand for the shares of the build or plan."""

Controller = Callable[[Any], Mapping[str, float] | None]
"""Function that is called with the loader before each step, and returns weights by domain, or None
to keep those in force."""

Weights = Literal["planned"] | Mapping[str, float] | Controller
"""Weights by domain, a function that gives them, or the shares of the build or plan."""

UNIT = 1 << 40
"""One sequence, in units of `owed` and `asked`; a share of 1."""


@dataclass(frozen=True)
class DrawLimits:
    """Domains that sequences are drawn from, and how many each may give."""

    names: tuple[str, ...]
    stream_tokens: tuple[int, ...]
    """Tokens of each domain's stream, which repeats."""
    pass_tokens: tuple[int, ...]
    """Tokens of one pass over each domain: those of its stream, unless that holds repeats."""
    sequences: tuple[int, ...]
    """Most sequences that a run may draw of each domain."""
    window_tokens: int
    """Tokens of a sequence."""
    budget_sequences: int
    """Sequences of an epoch of the loader, over all domains and ranks: as many as planned, unless
    the domains give fewer whole ones."""
    planned: tuple[float, ...]
    """Shares of the build or plan, which hold until others are set."""

    def check_supply(self, where: str) -> None:
        """Refuse data of which no sequence may be drawn.

        Raises:
            RecipeError: See above.
        """
        if not any(self.sequences) or not self.budget_sequences:
            raise RecipeError(
                f"{where}: no domain has a sequence of {self.window_tokens} tokens within "
                "max_epochs; set a smaller sequence_length or a larger max_epochs"
            )

    def check(self, weights: Mapping[str, float] | str) -> tuple[float, ...]:
        """Return weights by domain, in order; domains that are left out get 0.

        Raises:
            RecipeError: A name is unknown, or a weight is negative or not finite, or all are 0.
        """
        if weights == PLANNED:
            return self.planned
        if not isinstance(weights, Mapping):
            raise RecipeError(
                f"weights: {weights!r} is no mixture; give weights by domain, a function that "
                f"returns them, or {PLANNED!r}"
            )
        for name in weights:
            if name not in self.names:
                raise RecipeError(
                    f"weights: there is no domain {name!r}{nearest_hint(str(name), self.names)}; "
                    f"there are {', '.join(self.names)}"
                )
        numbers = tuple(_number(name, weights.get(name, 0.0)) for name in self.names)
        if not any(numbers):
            raise RecipeError("weights: all are 0; give at least one domain a positive weight")
        return numbers


def _number(name: str, weight: Any) -> float:
    """Return a weight as a float; numbers of NumPy and torch are weights, too."""
    try:
        number = math.nan if isinstance(weight, str) else float(weight)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise RecipeError(f"weights: {name!r} has {weight!r}; a weight is a number of at least 0")
    return number


@dataclass(frozen=True)
class DrawState:
    """Sequences drawn so far, and the shares in force."""

    shares: tuple[int, ...]
    """shape (domains,), asked share of each, in units; sum to `UNIT`."""
    drawn: tuple[int, ...]
    """shape (domains,), sequences drawn."""
    owed: tuple[int, ...]
    """shape (domains,), in units; sum to 0."""
    asked: tuple[int, ...]
    """shape (domains,), sum of asked shares over all sequences, in units."""

    def with_weights(self, weights: Sequence[float]) -> DrawState:
        """Change the shares from the next sequence on."""
        return replace(self, shares=tuple(apportion(weights, UNIT)))


@dataclass(frozen=True)
class DrawnDomain:
    """Sequences that were asked for and drawn of one domain, over all ranks and epochs."""

    asked_sequences: float
    """Sum over all sequences of the share that was set."""
    sequences: int
    tokens: int
    passes: float
    """Tokens drawn, divided by those of one pass."""
    left_sequences: int
    """Sequences that the domain may still give."""
    moved_sequences: float
    """Sequences asked of this domain when it was used up, so that others gave them; negative where
    this domain gave them for others."""


def begin(limits: DrawLimits) -> DrawState:
    """Return the state of a new run, at the planned shares."""
    nothing = (0,) * len(limits.names)
    return DrawState(nothing, nothing, nothing, nothing).with_weights(limits.planned)


def account(state: DrawState, limits: DrawLimits) -> dict[str, DrawnDomain]:
    """Compare what was asked with what was drawn, by domain."""
    rows = {}
    for domain, name in enumerate(limits.names):
        drawn, asked = state.drawn[domain], state.asked[domain]
        tokens = drawn * limits.window_tokens
        rows[name] = DrawnDomain(
            asked_sequences=asked / UNIT,
            sequences=drawn,
            tokens=tokens,
            passes=tokens / max(1, limits.pass_tokens[domain]),
            left_sequences=limits.sequences[domain] - drawn,
            moved_sequences=(asked - drawn * UNIT - state.owed[domain]) / UNIT,
        )
    return rows


def draw(
    state: DrawState, limits: DrawLimits, sequences: int, seed: int
) -> tuple[DrawState, NDArray[np.int64]]:
    """Choose the domains of the next sequences.

    The result does not depend on how many are chosen together. When a domain is used up, its share
    goes to the others in proportion to theirs.

    Args:
        state: State before them.
        limits: Most sequences of each domain.
        sequences: How many to choose.
        seed: Seed of the order, which decides between equal domains.

    Returns:
        The state after them; and the domain of each, shape (sequences,).

    Raises:
        InfeasiblePlan: All domains with a share are used up.
    """
    order = _tie_order(limits.names, seed)
    most = np.array(limits.sequences, np.int64)
    drawn, owed = np.array(state.drawn, np.int64), np.array(state.owed, np.int64)
    domains = np.empty(sequences, np.int64)
    done = 0
    while done < sequences:
        shares = _shares_left(state.shares, drawn, limits)
        owed += _forgive(owed, shares, drawn >= most)
        done = _draw(order, shares, most, drawn, owed, len(order), done, sequences, domains)
    asked = [
        before + share * sequences for before, share in zip(state.asked, state.shares, strict=True)
    ]
    after = DrawState(state.shares, tuple(drawn.tolist()), tuple(owed.tolist()), tuple(asked))
    return after, domains


@lru_cache
def _tie_order(names: tuple[str, ...], seed: int) -> NDArray[np.int64]:
    """Order domains by keyed hashes of their names, so that their order in the recipe is moot."""
    keys = np.array([mix_key(seed, PLACE_KEY, name) for name in names], np.uint64)
    return np.argsort(keys, kind="stable").astype(np.int64)


def _shares_left(
    shares: tuple[int, ...], drawn: NDArray[np.int64], limits: DrawLimits
) -> NDArray[np.int64]:
    """Divide the shares of domains that are used up among the others with a share."""
    left = [
        share if count < most else 0
        for share, count, most in zip(shares, drawn.tolist(), limits.sequences, strict=True)
    ]
    if not any(left):
        asked = [name for name, share in zip(limits.names, shares, strict=True) if share]
        unused = [
            most - count for count, most in zip(drawn.tolist(), limits.sequences, strict=True)
        ]
        others = [
            f"{name} {count:,}" for name, count in zip(limits.names, unused, strict=True) if count
        ]
        raise InfeasiblePlan(
            f"weights: every domain with a weight is used up ({', '.join(asked)}); sequences left: "
            f"{', '.join(others) or 'none'}. Give one of these a weight, or raise max_epochs in "
            "the recipe"
        )
    return np.array(apportion(left, UNIT) if sum(left) < UNIT else left, np.int64)


def _forgive(
    owed: NDArray[np.int64], shares: NDArray[np.int64], used_up: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the change that moves the debts of used-up domains to the others, by share."""
    change = np.where(used_up, -owed, 0)
    debt = -int(change.sum())
    if debt:
        parts = np.array(apportion(shares.tolist(), abs(debt)), np.int64)
        change += parts if debt > 0 else -parts
    return change


@kernel
def _draw(  # type: ignore[no-untyped-def]  # noqa: ANN202, PLR0913
    order, shares, most, drawn, owed, count, first, stop, domains,  # noqa: ANN001
):  # fmt: skip
    """Choose domains from place `first` on; return the place where one is used up, or `stop`."""
    unit = 1 << 40
    least = unit if count < 2 else unit // (2 * count - 2)
    bound = unit - least
    for place in range(first, stop):
        best, largest = -1, -1
        earliest = 0.0
        for position in range(count):
            domain = order[position]
            owed[domain] += shares[domain]
            debt = owed[domain]
            if drawn[domain] < most[domain] and debt >= least:
                if largest < 0 or debt > owed[largest]:
                    largest = domain
                # Sequences until the debt passes the bound; without a share it never does.
                time = 1e300
                if shares[domain] > 0:
                    time = (bound - debt) / shares[domain]
                if best < 0 or time < earliest:
                    best, earliest = domain, time
        if owed[largest] > bound:
            best = largest
        domains[place] = best
        drawn[best] += 1
        owed[best] -= unit
        if drawn[best] == most[best]:
            return place + 1
    return stop
