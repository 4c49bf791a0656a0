"""Which mixtures to train next, so that a law of them will be worth something.

Every strategy stays within the epoch caps that hold for the target, and knows the runs there are.
How the proxies are trained is no business of this module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from curate.errors import MissingEvidence, RecipeError
from curate.mixture.constraints import match_constraints
from curate.mixture.request import MixtureRequest
from curate.mixture.search.simplex_box import Box, nearest_rows
from curate.mixture.search.trust_region import hellinger
from curate.mixture.simplex import softmax
from curate.runtime.registry import unknown_name

Array = NDArray[np.float64]

POOL = 6_000
"""Mixtures drawn, of which a strategy chooses."""
STRENGTHS = (0.1, 5.0, 15)
"""Least, most and number of Dirichlet strengths. RegMix, arXiv:2407.01492v2, its released code."""
PRIOR_POWER = 0.5
"""Supply shares are flattened by this power before drawing, as in RegMix's code."""
SMALLEST = 2e-4
"""Smaller shares are set to zero, as in RegMix's code."""
TRIES = 60
"""Draws for each mixture of the pool before those that break a cap are moved into the box."""
RIDGE = 1e-3


@dataclass(frozen=True, slots=True)
class Design:
    """Mixtures to train."""

    strategy: str
    domains: tuple[str, ...]
    mixtures: Array
    """shape (runs, domains), shares."""
    needed: int
    """Runs that this many domains need in all."""
    existing: int
    """Distinct mixtures that were trained already."""

    def runs(self) -> dict[str, list[float]]:
        """Shares of each mixture, by a name for its run."""
        return {
            f"{self.strategy}-{self.existing + number:04d}": shares
            for number, shares in enumerate(self.mixtures.tolist())
        }


def runs_needed(domains: int) -> int:
    """How many runs a law of so many domains needs: 3 (m + 1).

    Example:
        >>> runs_needed(17)
        54

    References:
        Olmix 2026, arXiv:2602.12237: at least three times one more than the domains.
    """
    return 3 * (domains + 1)


def next_runs(request: MixtureRequest, strategy: str, count: int | None = None) -> Design:
    """Propose the mixtures to train after those that the request's evidence holds.

    Args:
        request: Supply, seed, caps, and the runs there are.
        strategy: A key of `STRATEGIES`.
        count: How many; None: what the domains still need, at least one.

    Raises:
        RecipeError: See `design`.
        MissingEvidence: See `design`; or the runs are not of the request's domains.
    """
    names = [domain.name for domain in request.domains]
    mean = replace(request.options, search=replace(request.options.search, objective="mean"))
    box = match_constraints(replace(request, options=mean), names, names, "domains").box
    trained = np.empty((0, len(names)))
    runs = request.evidence.runs if request.evidence else None
    if runs is not None:
        trained = runs.weights[
            :, match_constraints(request, runs.domains, runs.targets, "runs").place
        ]
        trained = trained / np.maximum(trained.sum(axis=1, keepdims=True), 1e-12)
    return design(
        request, box, trained, strategy, max(1, _lacking(trained)) if count is None else count
    )


def _distinct(trained: Array) -> int:
    return len(np.unique(np.round(trained, 6), axis=0))


def _lacking(trained: Array) -> int:
    return runs_needed(trained.shape[1]) - _distinct(trained)


def design(request: MixtureRequest, box: Box, trained: Array, strategy: str, count: int) -> Design:
    """Propose mixtures.

    Args:
        request: Supply and seed; entropies for strategy `entropy`.
        box: Floors and caps, in the order of the request.
        trained: shape (runs, domains), mixtures that there are; may have no row.
        strategy: A key of `STRATEGIES`.
        count: How many, positive.

    Raises:
        RecipeError: The strategy is unknown, or cannot give so many; or the count is below 1.
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
    """RegMix's draws: Dirichlet around flattened supply, from sparse to even, within the caps.

    Draws that break a cap are drawn again; what is left of them after many tries is moved to the
    nearest mixture within.

    Differs from the paper: caps are the target's epochs, not 15 times the natural share.
    """
    supply = np.array([float(domain.supply_tokens) for domain in request.domains])
    prior = (supply / supply.sum()) ** PRIOR_POWER
    prior /= prior.sum()
    strengths = np.geomspace(*STRENGTHS)
    found = np.empty((0, len(prior)))
    rest = found
    for _ in range(TRIES):
        strength = rng.choice(strengths, count)[:, None]
        draws = rng.standard_gamma(prior * strength) + 1e-300
        draws /= draws.sum(axis=1, keepdims=True)
        draws = np.where(draws < SMALLEST, 0.0, draws)
        draws /= draws.sum(axis=1, keepdims=True)
        fits = ((draws >= box.low) & (draws <= box.high)).all(axis=1)
        found, rest = np.vstack([found, draws[fits]]), draws[~fits]
        if len(found) >= count:
            return found[:count]
    short = count - len(found)
    return np.vstack([found, nearest_rows(np.resize(rest, (short, len(prior))), box)])


def _dirichlet(
    request: MixtureRequest, box: Box, trained: Array, count: int, rng: np.random.Generator
) -> Array:
    return draw(request, box, count, rng)


def _entropy(
    request: MixtureRequest, box: Box, trained: Array, count: int, rng: np.random.Generator
) -> Array:
    """The softmax of each entropy that all domains have, held to the caps."""
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
    """Each as far as can be from those before it and from the runs, among many draws."""
    pool = draw(request, box, POOL, rng)
    chosen: list[int] = []
    if len(trained):
        distance = hellinger(pool, trained).min(axis=1)
    else:
        chosen.append(int(np.argmin(hellinger(pool, pool.mean(axis=0)[None])[:, 0])))
        distance = hellinger(pool, pool[chosen])[:, 0]
    while len(chosen) < count:
        following = int(np.argmax(distance))
        chosen.append(following)
        distance = np.minimum(distance, hellinger(pool, pool[[following]])[:, 0])
    return pool[chosen]


def _determinant(
    request: MixtureRequest, box: Box, trained: Array, count: int, rng: np.random.Generator
) -> Array:
    """Each adds most to the determinant of the information on shares and their square roots.

    For a linear law of those features this is the mixture whose prediction is least sure.
    """
    pool = draw(request, box, POOL, rng)
    features = _features(pool)
    information = RIDGE * np.eye(features.shape[1])
    if len(trained):
        known = _features(trained)
        information += known.T @ known
    inverse = np.linalg.inv(information)
    chosen: list[int] = []
    for _ in range(count):
        doubt = ((features @ inverse) * features).sum(axis=1)
        doubt[chosen] = -np.inf  # a repeat tells of noise only
        best = int(np.argmax(doubt))
        chosen.append(best)
        along = inverse @ features[best]
        inverse -= np.outer(along, along) / (1 + doubt[best])
    return pool[chosen]


def _features(mixtures: Array) -> Array:
    return np.hstack([mixtures, np.sqrt(mixtures)])


Strategy = Callable[[MixtureRequest, Box, Array, int, np.random.Generator], Array]

STRATEGIES: dict[str, Strategy] = {
    "dirichlet": _dirichlet,
    "entropy": _entropy,
    "filling": _filling,
    "determinant": _determinant,
}
"""RegMix's; BiMix's four entropy mixtures (arXiv:2405.14908v4); space-filling; D-optimal."""
