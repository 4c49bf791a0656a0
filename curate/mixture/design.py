"""Choose the mixtures to train next, so that a law of the runs becomes accurate.

Every strategy stays within the epoch caps of the target and takes account of existing runs.
`curate.proxy` trains the mixtures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from curate.errors import MissingEvidence, RecipeError
from curate.mixture.caps import check_supply
from curate.mixture.constraints import (
    match_constraints,
    match_itself,
    proportions_of,
    shares_of_recipe,
)
from curate.mixture.design_reuse import EARLIER_NOISE, ReusePlan, Unknown
from curate.mixture.request import DomainSupply, MixtureRequest
from curate.mixture.search.kept_proportions import box_of, coordinates, spread_of
from curate.mixture.search.simplex_box import Box, nearest_rows
from curate.mixture.search.trust_region import hellinger
from curate.mixture.simplex import softmax
from curate.runtime.registry import unknown_name

Array = NDArray[np.float64]

POOL = 6_000
"""Number of random mixtures that a strategy selects from."""
STRENGTHS = (0.1, 5.0, 15)
"""Least, most and number of Dirichlet strengths. RegMix, arXiv:2407.01492v2, its released code."""
PRIOR_POWER = 0.5
"""Supply shares are flattened by this power before drawing, as in RegMix's code."""
SMALLEST = 2e-4
"""Shares below this are set to zero, as in RegMix's code."""
TRIES = 60
"""Rounds of drawing before draws that break a cap are moved into the box."""
REUSE_POOL = 1_500
"""Number of random mixtures from which runs beside those on earlier domains are selected."""
JUDGED = 400
"""Mixtures of today over which the worth of runs on earlier domains is judged."""
RIDGE = 1e-3
"""Information assumed on every feature before the first run; keeps the matrix invertible."""


@dataclass(frozen=True, slots=True)
class Design:
    """Mixtures to train."""

    strategy: str
    domains: tuple[str, ...]
    mixtures: Array
    """shape (runs, domains), shares."""
    needed: int
    """Runs that this many domains need in total."""
    existing: int
    """Number of distinct mixtures already trained."""
    reuse: ReusePlan | None = None
    """Worth of runs on earlier domains; None where there are none."""
    kept: int = 0
    """Number of domains that keep their proportions in all mixtures, and count as one."""

    def runs(self) -> dict[str, list[float]]:
        """Return the shares of each mixture by the name of its run."""
        return {
            f"{self.strategy}-{self.existing + number:04d}": shares
            for number, shares in enumerate(self.mixtures.tolist())
        }


def runs_needed(domains: int) -> int:
    """Return the number of runs that a law of m domains needs: 3 (m + 1).

    Example:
        >>> runs_needed(17)
        54

    References:
        Olmix 2026, arXiv:2602.12237: at least three times one more than the domains.
    """
    return 3 * (domains + 1)


def next_runs(request: MixtureRequest, strategy: str | None, count: int | None = None) -> Design:
    """Propose the mixtures to train after those in the request's evidence.

    Args:
        request: Supply, seed, caps, and existing runs.
        strategy: A key of `STRATEGIES`; None: `variance` beside runs on earlier domains, else
            `filling`.
        count: Number of mixtures; None: as many as the domains still need, at least one.

    Raises:
        RecipeError: See `design`.
        MissingEvidence: See `design`; or the runs are not of the request's domains.
    """
    check_supply(request, None)
    itself = match_itself(request)
    box, proportions = itself.box, proportions_of(request, itself)
    trained = np.empty((0, len(request.domains)))
    runs = request.evidence.runs if request.evidence else None
    if runs is not None:
        constraints = match_constraints(request, runs.domains, runs.targets, "runs")
        trained = shares_of_recipe(runs.weights, constraints)
    if proportions is None:
        return _design_beside(request, box, trained, strategy, count)
    if strategy == "entropy":
        raise RecipeError(
            "design: strategy entropy proposes mixtures of its own and cannot keep proportions "
            "(mixture.keep); take filling or variance"
        )
    spread, small = spread_of(proportions), box_of(box, proportions)
    supply = (spread > 0) @ np.array([domain.supply_tokens for domain in request.domains])
    free = [d for d, kept in zip(request.domains, ~np.isnan(proportions), strict=True) if not kept]
    groups = tuple(
        DomainSupply(name, int(tokens), math.inf)
        for name, tokens in zip(["kept", *(d.name for d in free)], supply, strict=True)
    )
    of_groups = replace(request, domains=groups)
    mixtures = coordinates(trained, proportions)
    proposal = _design_beside(of_groups, small, mixtures, strategy, count)
    names = tuple(domain.name for domain in request.domains)
    return replace(
        proposal,
        domains=names,
        mixtures=proposal.mixtures @ spread,
        existing=_distinct(trained),
        kept=len(names) - len(free),
    )


def _design_beside(
    request: MixtureRequest, box: Box, trained: Array, strategy: str | None, count: int | None
) -> Design:
    """Propose mixtures beside those of the request's runs, trained on any domains or on today's.

    Args:
        request: Supply, seed and runs.
        box: Floors and caps.
        trained: shape (runs, domains), mixtures of the runs.
        strategy: As for `next_runs`.
        count: As for `next_runs`.
    """
    runs = request.evidence.runs if request.evidence else None
    earlier = None if runs is None else runs.earlier
    if earlier is not None and earlier.any() and strategy != "entropy":
        split = (trained[earlier], trained[~earlier])
        return _beside_earlier(request, box, split, strategy or "variance", count)
    strategy = strategy or "filling"
    if count is None:
        count = max(1, runs_needed(len(request.domains)) - _distinct(trained))
    return design(request, box, trained, strategy, count)


def _beside_earlier(
    request: MixtureRequest,
    box: Box,
    trained: tuple[Array, Array],
    strategy: str,
    count: int | None,
) -> Design:
    """Propose mixtures beside runs on earlier domains: as few as make up for fitting anew.

    Args:
        request: Supply and seed.
        box: Floors and caps.
        trained: Mixtures of the runs on earlier domains, and of those on today's.
        strategy: A key of `STRATEGIES`.
        count: Number of mixtures; None: the fewest.
    """
    earlier, later = (np.unique(np.round(rows, 9), axis=0) for rows in trained)
    needed = runs_needed(len(request.domains))
    rng = np.random.default_rng(request.options.search.seed)
    unknown, pool = Unknown(draw(request, box, JUDGED, rng)), draw(request, box, REUSE_POOL, rng)
    existing = [(earlier, EARLIER_NOISE), (later, 1.0)]
    anew = pool[unknown.pick([], pool, needed)]
    both = np.vstack([earlier, later])
    if strategy == "variance":
        mixtures = pool[unknown.pick(existing, pool, count or needed)]
        names = tuple(domain.name for domain in request.domains)
        proposal = Design(strategy, names, mixtures, needed, _distinct(both))
    else:
        proposal = design(request, box, both, strategy, count or needed)
    bar = unknown.of([(anew, 1.0)])
    if count is None:
        fewest = unknown.fewest(existing, proposal.mixtures, bar)
        proposal = replace(proposal, mixtures=proposal.mixtures[:fewest])
    new = (proposal.mixtures, 1.0)
    plan = ReusePlan(
        earlier=len(earlier),
        anew=needed,
        proposed=len(proposal.mixtures),
        unknown_anew=bar,
        unknown=unknown.of([*existing, new]),
        unknown_alone=unknown.of([(later, 1.0), new]),
        keeping=_runs_keeping(request, earlier),
    )
    return replace(proposal, reuse=plan)


def _runs_keeping(request: MixtureRequest, earlier: Array) -> int | None:
    """Return the runs needed by the domains that no earlier run had, beside all others as one."""
    added = int((earlier.max(axis=0) <= 0).sum())
    stayed = earlier.shape[1] - added
    if request.options.search.keep or not added or stayed < 2:
        return None
    return runs_needed(added + 1)


def _distinct(trained: Array) -> int:
    return len(np.unique(np.round(trained, 6), axis=0))


def design(request: MixtureRequest, box: Box, trained: Array, strategy: str, count: int) -> Design:
    """Propose mixtures.

    Args:
        request: Supply and seed; entropies for strategy `entropy`.
        box: Floors and caps, in the order of the request.
        trained: shape (runs, domains), mixtures already trained; may have no row.
        strategy: A key of `STRATEGIES`.
        count: Number of mixtures, positive.

    Raises:
        RecipeError: The strategy is unknown or cannot give that many, or the count is below 1.
        MissingEvidence: `entropy` lacks entropies.
    """
    if strategy not in STRATEGIES:
        raise RecipeError(unknown_name("strategy", strategy, STRATEGIES, "design"))
    if count < 1:
        raise RecipeError(f"design: {count} mixtures are too few; propose at least 1")
    names = tuple(domain.name for domain in request.domains)
    rng = np.random.default_rng(request.options.search.seed)
    mixtures = STRATEGIES[strategy](request, box, trained, count, rng)
    return Design(strategy, names, mixtures, runs_needed(len(names)), _distinct(trained))


def draw(request: MixtureRequest, box: Box, count: int, rng: np.random.Generator) -> Array:
    """Draw mixtures as RegMix does: Dirichlet around flattened supply, from sparse to even.

    Draws that break a cap are drawn again. Those that still do after many rounds are moved to the
    nearest mixture within the box.

    Args:
        request: Supply.
        box: Floors and caps.
        count: Number of mixtures.
        rng: Source of randomness.

    Differs from the paper: caps are the target's epochs, not 15 times the natural share.
    """
    supply = np.array([float(domain.supply_tokens) for domain in request.domains])
    prior = (supply / supply.sum()) ** PRIOR_POWER
    prior /= prior.sum()
    strengths = np.geomspace(*STRENGTHS)
    kept = np.empty((0, len(prior)))
    rest = kept
    for _ in range(TRIES):
        strength = rng.choice(strengths, count)[:, None]
        draws = rng.standard_gamma(prior * strength) + 1e-300
        draws /= draws.sum(axis=1, keepdims=True)
        draws = np.where(draws < SMALLEST, 0.0, draws)
        draws /= draws.sum(axis=1, keepdims=True)
        fits = ((draws >= box.low) & (draws <= box.high)).all(axis=1)
        kept, rest = np.vstack([kept, draws[fits]]), draws[~fits]
        if len(kept) >= count:
            return kept[:count]
    short = count - len(kept)
    return np.vstack([kept, nearest_rows(np.resize(rest, (short, len(prior))), box)])


def _dirichlet(
    request: MixtureRequest, box: Box, trained: Array, count: int, rng: np.random.Generator
) -> Array:
    return draw(request, box, count, rng)


def _entropy(
    request: MixtureRequest, box: Box, trained: Array, count: int, rng: np.random.Generator
) -> Array:
    """Take the softmax of each entropy that all domains have, moved within the caps."""
    measures = [
        measure
        for measure in request.domains[0].entropy
        if all(np.isfinite(domain.entropy.get(measure, np.nan)) for domain in request.domains)
    ]
    if not measures:
        raise MissingEvidence(
            "design: strategy entropy needs entropies of every domain; run `curate stats RECIPE`"
        )
    if count > len(measures):
        raise RecipeError(
            f"design: strategy entropy gives {len(measures)} mixtures, one for each of "
            f"{', '.join(measures)}; ask for at most {len(measures)}, or take filling for more"
        )
    shares = [
        softmax([domain.entropy[measure] for domain in request.domains]) for measure in measures
    ]
    return nearest_rows(np.array(shares[:count]), box)


def _filling(
    request: MixtureRequest, box: Box, trained: Array, count: int, rng: np.random.Generator
) -> Array:
    """Select one by one, of many draws, the one farthest from all before it and from all runs."""
    pool = draw(request, box, POOL, rng)
    return pool[fill(pool, trained, count)]


def fill(pool: Array, trained: Array, count: int) -> list[int]:
    """Select mixtures one by one, each farthest from all before it and from all runs.

    Args:
        pool: shape (mixtures, domains), to select from.
        trained: shape (runs, domains), mixtures of the runs; may have no row.
        count: Number of mixtures to select.

    Returns:
        Places in the pool, in the order of selection.
    """
    picked: list[int] = []
    if len(trained):
        distance = hellinger(pool, trained).min(axis=1)
    else:
        picked.append(int(np.argmin(hellinger(pool, pool.mean(axis=0)[None])[:, 0])))
        distance = hellinger(pool, pool[picked])[:, 0]
    while len(picked) < count:
        following = int(np.argmax(distance))
        picked.append(following)
        distance = np.minimum(distance, hellinger(pool, pool[[following]])[:, 0])
    return picked


def _determinant(
    request: MixtureRequest, box: Box, trained: Array, count: int, rng: np.random.Generator
) -> Array:
    """Select mixtures one by one, each adding most to the determinant of the information.

    Features are shares and their square roots. For a linear law of those, each pick is the mixture
    with the least certain prediction.
    """
    pool = draw(request, box, POOL, rng)
    features = _features(pool)
    information = RIDGE * np.eye(features.shape[1])
    if len(trained):
        rows = _features(trained)
        information += rows.T @ rows
    inverse = np.linalg.inv(information)
    picked: list[int] = []
    for _ in range(count):
        variance = ((features @ inverse) * features).sum(axis=1)
        variance[picked] = -np.inf  # a repeated mixture would only measure noise
        best = int(np.argmax(variance))
        picked.append(best)
        # Sherman-Morrison: the inverse after one more row, without inverting again.
        along = inverse @ features[best]
        inverse -= np.outer(along, along) / (1 + variance[best])
    return pool[picked]


def _variance(
    request: MixtureRequest, box: Box, trained: Array, count: int, rng: np.random.Generator
) -> Array:
    """Select mixtures one by one, each leaving least unknown of all mixtures (I-optimal)."""
    unknown, pool = Unknown(draw(request, box, JUDGED, rng)), draw(request, box, REUSE_POOL, rng)
    return np.asarray(pool[unknown.pick([(trained, 1.0)], pool, count)])


def _features(mixtures: Array) -> Array:
    return np.hstack([mixtures, np.sqrt(mixtures)])


Strategy = Callable[[MixtureRequest, Box, Array, int, np.random.Generator], Array]

STRATEGIES: dict[str, Strategy] = {
    "dirichlet": _dirichlet,
    "entropy": _entropy,
    "filling": _filling,
    "determinant": _determinant,
    "variance": _variance,
}
"""Strategies by name: RegMix's draws, BiMix's four entropy mixtures (arXiv:2405.14908v4),
space-filling, D-optimal, and I-optimal."""
