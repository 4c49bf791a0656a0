"""The objective of an optimised mixture, and its derivative.

It is the largest of some weighted sums of the losses that a law predicts (one for a mean, one for
each target or group of targets for the worst case), plus an optional KL pull to a prior mixture.
Repeated tokens may be discounted before the law sees the mixture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.laws.law import FittedLaw
from curate.mixture.search.repetition import effective_tokens, marginal_value
from curate.mixture.search.simplex_box import Box
from curate.mixture.search.trust_region import Support

Array = NDArray[np.float64]

TINY = 1e-12
"""Shares below this count as this in logarithms."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An objective and the constraints on its minimum."""

    law: FittedLaw
    box: Box
    """Floors and caps."""
    goals: Array
    """shape (goals, targets), non-negative weights of the losses in each goal. The objective is the
    largest goal."""
    tokens: float = np.nan
    """Training tokens, or what stands in their place in the run table; NaN where it has neither."""
    params: float = np.nan
    """Model parameters; NaN where the run table has none."""
    kl: float = 0.0
    """Nats of loss that one nat of KL divergence from the prior is worth."""
    prior: Array | None = None
    """shape (domains,), shares; where it is zero, so is the mixture if `kl` is positive."""
    unique_share: Array | None = None
    """shape (domains,), supply over the budget, to discount repeated tokens; None: no discount."""
    support: Support | None = None
    """The mixture must stay within its radius of some run; None: anywhere in the box."""
    convex: bool = False
    """Whether the objective is convex, so that one start is enough and the gap a certificate."""
    proportions: Array | None = None
    """shape (domains,), shares that sum to 1 of the domains that keep these proportions to each
    other, NaN for those that are free; None: all are free."""
    spread: Array | None = None
    """shape (coordinates, domains), the mixture that each coordinate of the search stands for: then
    box, support and all mixtures are in coordinates (`kept_proportions.narrowed`). None: a
    coordinate is a domain."""


def losses_at(problem: Problem, weights: Array) -> Array:
    """Predict losses, shape (rows, targets), for shares of shape (rows, domains)."""
    seen, tokens = _exposure(problem, in_domains(problem, weights))
    params = np.full(len(weights), problem.params)
    return problem.law.predict(seen, tokens, params)


def value_at(problem: Problem, weights: Array) -> Array:
    """Evaluate the objective, shape (rows,), for shares of shape (rows, domains)."""
    goals = goals_of(losses_at(problem, weights), problem.goals)
    return np.asarray(goals.max(axis=1) + pull_at(problem, weights))


def goals_of(losses: Array, goals: Array) -> Array:
    """Sum losses, shape (rows, targets), to goals, shape (rows, goals).

    An infinite loss counts in the goals that give it a weight, and in no other.
    """
    infinite = np.isinf(losses)
    if not infinite.any():
        return np.asarray(losses @ goals.T)
    sums = np.where(infinite, 0.0, losses) @ goals.T
    return np.where(infinite @ (goals.T > 0), np.inf, sums)


def slopes_at(problem: Problem, weights: Array) -> Array | None:
    """Differentiate the losses by the shares; shape (targets, domains), None without a gradient."""
    slopes = _domain_slopes(problem, in_domains(problem, weights[None])[0])
    return slopes if slopes is None or problem.spread is None else slopes @ problem.spread.T


def _domain_slopes(problem: Problem, weights: Array) -> Array | None:
    """Differentiate the losses by the shares of domains, shape (targets, domains)."""
    seen, tokens = _exposure(problem, weights[None])
    params = np.full(1, problem.params)
    slopes = problem.law.gradient(seen, tokens, params)
    if slopes is None:
        return None
    if problem.unique_share is None:
        return np.asarray(slopes[0])
    # seen_i = d_i(w_i) / sum d and tokens = T sum d, with d the discounted exposures.
    worth = effective_tokens(weights, problem.unique_share)
    rate = marginal_value(weights, problem.unique_share)
    total = worth.sum()
    inward = (slopes[0] - (slopes[0] @ seen[0])[:, None]) * rate / total
    if np.isnan(problem.tokens):
        return np.asarray(inward)
    step = tokens[0] * 1e-5
    ahead = problem.law.predict(seen, tokens + step, params)
    behind = problem.law.predict(seen, tokens - step, params)
    by_tokens = (ahead - behind)[0] / (2 * step)
    return np.asarray(inward + by_tokens[:, None] * problem.tokens * rate)


def pull_slopes(problem: Problem, weights: Array) -> Array:
    """Differentiate the KL term by the shares; shape (domains,)."""
    if not problem.kl or problem.prior is None:
        return np.zeros(len(weights))
    whole = in_domains(problem, weights[None])[0]
    ratio = np.maximum(whole, TINY) / np.maximum(problem.prior, TINY)
    slopes = np.asarray(problem.kl * (np.log(ratio) + 1))
    return slopes if problem.spread is None else np.asarray(problem.spread @ slopes)


def pull_at(problem: Problem, weights: Array) -> Array:
    """Evaluate the KL term, shape (rows,), for shares of shape (rows, domains)."""
    if not problem.kl or problem.prior is None:
        return np.zeros(len(weights))
    weights = in_domains(problem, weights)
    ratio = np.maximum(weights, TINY) / np.maximum(problem.prior, TINY)
    return np.asarray(problem.kl * (np.maximum(weights, 0) * np.log(ratio)).sum(axis=1))


def in_domains(problem: Problem, mixtures: Array) -> Array:
    """Map mixtures of a problem to shares of domains, shape (rows, domains)."""
    return mixtures if problem.spread is None else np.asarray(mixtures @ problem.spread)


def _exposure(problem: Problem, weights: Array) -> tuple[Array, Array]:
    """Return shares and tokens as the law should see them: with repeats discounted."""
    tokens = np.full(len(weights), problem.tokens)
    if problem.unique_share is None:
        return weights, tokens
    worth = effective_tokens(np.maximum(weights, 0), problem.unique_share)
    total = worth.sum(axis=1, keepdims=True)
    return worth / total, tokens * total[:, 0]
