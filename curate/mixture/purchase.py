"""Choose how many runs to buy at a small and at a large model size, for a budget of FLOPs.

Many cheap runs say much about an effect that carries over imperfectly; few dear ones say little
about the right one. Candidates spend the budget in different parts; for each, simulation with the
model of `curate.mixture.search.two_sizes` gives the expected regret at the large size. Mixtures of
runs are far from each other: large runs on those that the pilot has as the best taught `joint` less
(docs/evidence.md).

The analyst of the simulation is no law. It knows how far to trust small runs; a law such as `joint`
is misled by those whose effects or noise differ, and learns more from large runs than it. So large
runs alone are bought where there are as many as domains, those of the pilot included; simulation
decides where there are fewer. `tools/bench/purchase.py` judges proposals with laws. It is also
assumed that effects at the target are those of the large size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.errors import RecipeError
from curate.laws.law import RunTable
from curate.laws.run_groups import FLOPS_PER_PARAMETER, SAME_LENGTH, run_groups
from curate.mixture.caps import check_supply
from curate.mixture.constraints import (
    Constraints,
    match_constraints,
    match_itself,
    shares_of_recipe,
)
from curate.mixture.design import Design, draw, fill, runs_needed
from curate.mixture.request import MixtureRequest
from curate.mixture.search.objective import goals_of
from curate.mixture.search.simplex_box import Box, nearest_rows
from curate.mixture.search.two_sizes import (
    SizedRuns,
    TwoSizes,
    draw_truths,
    learn,
    simulated_regret,
)
from curate.runtime.threads import one_blas_thread

Array = NDArray[np.float64]

POOL = 500
"""Mixtures among which runs, and the best mixture, are sought."""
MOST_RUNS = 300
"""Most runs at one size; more would hardly differ, and a covariance of them is dear."""
MOST_PILOT = 120
"""Most runs of a pilot at each size that take part."""
PARTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Parts of the budget for the large size."""
ALIKE = 2.0
"""Standard errors of the simulation within which expected regrets are alike."""


@dataclass(frozen=True, slots=True)
class RunSize:
    """Size and length of a run."""

    params: float
    tokens: float

    @property
    def flops(self) -> float:
        """Training cost, 6 N D."""
        return FLOPS_PER_PARAMETER * self.params * self.tokens


@dataclass(frozen=True, slots=True)
class Candidate:
    """So many runs at each size, and what they are worth."""

    small: int
    large: int
    flops: float
    regret: float
    """Expected loss at the large size above that of the best mixture, as a fraction."""
    regret_error: float
    """Standard error of the simulation."""


@dataclass(frozen=True, slots=True)
class Purchase:
    """Candidates, the one to buy, and its runs."""

    small: RunSize
    large: RunSize
    model: TwoSizes
    pilot: tuple[int, int]
    """Runs of the pilot at the small and at the large size."""
    nothing: Candidate
    """No run bought."""
    candidates: tuple[Candidate, ...]
    best: int
    """Place of the candidate to buy."""
    reason: str
    """Why that one, for the user."""
    design: Design
    """Mixtures of its runs, those of the large size first."""

    def sizes(self) -> list[RunSize]:
        """Return the size of each run of the design."""
        pick = self.candidates[self.best]
        return [self.large] * pick.large + [self.small] * pick.small


@one_blas_thread()
def purchase(
    request: MixtureRequest, flops: float, sizes: Sequence[RunSize] | None = None
) -> Purchase:
    """Propose a mixed purchase of runs.

    Args:
        request: Supply, caps, objective, seed, and runs that exist: the pilot.
        flops: Budget, positive.
        sizes: The two sizes; None: the smallest and the largest of the pilot.

    Raises:
        RecipeError: There is no pilot of two sizes and no sizes are given, or the budget buys no
            run.
        MissingEvidence: The runs are not of the request's domains.
    """
    runs = request.evidence.runs if request.evidence else None
    small, large = _two_sizes(runs, sizes)
    if not (math.isfinite(flops) and flops >= small.flops):
        raise RecipeError(
            f"design: a budget of {flops:.3g} FLOPs buys no run; one of {small.params:.3g} "
            f"parameters and {small.tokens:.3g} tokens costs {small.flops:.3g} (6 N D)"
        )
    if request.options.search.keep:
        raise RecipeError(
            "design: --flops does not read mixture.keep; remove it, or give the number of runs (-n)"
        )
    check_supply(request, None)
    if runs is None:
        constraints = match_itself(request)
    else:
        constraints = match_constraints(request, runs.domains, runs.targets, "runs")
    rng = np.random.default_rng(request.options.search.seed)
    pilot = None if runs is None else _pilot(runs, constraints, (small, large), rng)
    names = tuple(domain.name for domain in request.domains)
    pool = _pool(request, constraints, rng)
    trained = np.empty((0, len(names))) if pilot is None else pilot.mixtures
    order = fill(pool, trained, min(2 * MOST_RUNS, POOL))
    model = learn(pilot, rng)
    truths = draw_truths(model, pool, pilot, rng)
    tried: dict[tuple[int, int], Candidate] = {}
    for counts in [(0, 0), *_counts(flops, small, large)]:
        places = _places(counts, order)
        regret = simulated_regret(model.centre, truths, pilot, places)
        tried[counts] = _candidate(counts, (small, large), np.expm1(regret))
    nothing, *candidates = tried.values()
    of_pilot = (0, 0) if pilot is None else (int((~pilot.large).sum()), int(pilot.large.sum()))
    best, reason = _choose(candidates, of_pilot[1], len(names))
    of_small, of_large = _places((candidates[best].small, candidates[best].large), order)
    bought = pool[of_large + of_small]
    return Purchase(
        small=small,
        large=large,
        model=model,
        pilot=of_pilot,
        nothing=nothing,
        candidates=tuple(candidates),
        best=best,
        reason=reason,
        design=Design("filling", names, bought, runs_needed(len(names)), len(trained)),
    )


def _pool(request: MixtureRequest, constraints: Constraints, rng: np.random.Generator) -> Array:
    """Draw mixtures of the recipe's domains within floors and caps, shape (POOL, domains)."""
    place, box = constraints.place, constraints.box
    inside = Box(box.low[place], box.high[place])
    # The first is what one would take without any run, and what a tie of predictions picks.
    natural = nearest_rows(constraints.natural[place][None], inside)
    return np.vstack([natural, draw(request, inside, POOL - 1, rng)])


def _candidate(
    counts: tuple[int, int], sizes: tuple[RunSize, RunSize], regrets: Array
) -> Candidate:
    """Summarise the regrets of numbers of small and of large runs.

    Args:
        counts: Numbers of runs at each of the sizes.
        sizes: The small and the large size.
        regrets: shape (draws,), as fractions of the loss.
    """
    return Candidate(
        small=counts[0],
        large=counts[1],
        flops=sum(count * size.flops for count, size in zip(counts, sizes, strict=True)),
        regret=float(regrets.mean()),
        regret_error=float(regrets.std(ddof=1)) / math.sqrt(len(regrets)),
    )


def _choose(candidates: Sequence[Candidate], large: int, domains: int) -> tuple[int, str]:
    """Choose a candidate, and say why.

    Args:
        candidates: They spend the budget, one of them on large runs alone if it buys any.
        large: Large runs of the pilot.
        domains: Number of domains.
    """
    alone = next((at for at, row in enumerate(candidates) if not row.small), None)
    if alone is not None and (runs := large + candidates[alone].large) >= domains:
        return alone, (
            f"with {runs} of them, large runs alone teach a law of {domains} domains more than any "
            "split, and cannot mislead it"
        )
    least = min(candidates, key=lambda row: row.regret)
    alike = [
        place
        for place, row in enumerate(candidates)
        if row.regret <= least.regret + ALIKE * least.regret_error
    ]
    best = max(alike, key=lambda place: candidates[place].large)
    return best, "the least expected regret; of splits that are alike, the one with most large runs"


def _places(counts: tuple[int, int], order: list[int]) -> tuple[list[int], list[int]]:
    """Select the mixtures to run at the small size, and at the large one.

    Args:
        counts: Numbers of small and of large runs.
        order: Places in the pool, each far from all before.
    """
    small, large = counts
    return order[large : large + small], order[:large]


def _counts(flops: float, small: RunSize, large: RunSize) -> list[tuple[int, int]]:
    """List numbers of small and large runs that spend the budget, each once."""
    counts: dict[tuple[int, int], None] = {}
    for part in PARTS:
        of_large = min(int(part * flops * (1 + 1e-9) / large.flops), MOST_RUNS)
        rest = max(flops - of_large * large.flops, 0.0) * (1 + 1e-9)
        of_small = 0 if part == 1.0 and of_large else min(int(rest / small.flops), MOST_RUNS)
        if of_large + of_small <= POOL and of_large + of_small:
            counts[of_small, of_large] = None
    return list(counts)


def _two_sizes(runs: RunTable | None, sizes: Sequence[RunSize] | None) -> tuple[RunSize, RunSize]:
    """Return the two sizes, the cheaper one first."""
    if sizes is not None:
        if len(sizes) != 2 or sizes[0].flops == sizes[1].flops:
            raise RecipeError(
                "design: a purchase is between two sizes; --sizes 7e7:1.4e9,4.1e8:8.2e9 gives "
                "parameters and tokens of both"
            )
        small, large = sorted(sizes, key=lambda size: size.flops)
        return small, large
    groups = [] if runs is None else run_groups(runs)
    if len(groups) < 2 or not math.isfinite(groups[0].params * groups[0].tokens):
        raise RecipeError(
            "design: a purchase is between two sizes, and the runs do not have several with "
            "params and tokens; give them: --sizes 7e7:1.4e9,4.1e8:8.2e9"
        )
    least, most = groups[0], groups[-1]
    return RunSize(least.params, least.tokens), RunSize(most.params, most.tokens)


def _pilot(
    table: RunTable,
    constraints: Constraints,
    sizes: tuple[RunSize, RunSize],
    rng: np.random.Generator,
) -> SizedRuns | None:
    """Take the last losses of the runs that have one of the two sizes; None if there are none."""
    rows, flags = [], []
    for group in run_groups(table):
        for large, size in enumerate(sizes):
            ratios = np.log([group.params / size.params, group.tokens / size.tokens])
            if (np.abs(ratios) <= math.log(SAME_LENGTH)).all():
                places = np.flatnonzero(group.last)
                if len(places) > MOST_PILOT:
                    places = np.sort(rng.choice(places, MOST_PILOT, replace=False))
                rows.append(places)
                flags.append(np.full(len(places), bool(large)))
    if not rows:
        return None
    at, are_large = np.concatenate(rows), np.concatenate(flags)
    losses = table.losses[at]
    goals = goals_of(losses, constraints.goals.weights)
    if constraints.goals.against == "natural":
        raise RecipeError(
            "mixture.objective.against: a purchase measures groups against the best run, since no "
            "law predicts natural shares yet; leave it out of the recipe for `curate design`"
        )
    if constraints.goals.relative:
        goals = goals / goals[are_large if are_large.any() else ~are_large].min(axis=0)
    values = np.log(goals.max(axis=1))
    for flag in (False, True):
        if (are_large == flag).any():
            values[are_large == flag] -= values[are_large == flag].mean()
    return SizedRuns(shares_of_recipe(table.weights[at], constraints), are_large, values)
