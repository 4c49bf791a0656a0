"""Find the weights at which experts, one model a domain, predict a target best.

MDE mixes the experts' probabilities of each token, MixMin those of whole documents, and chunks lie
between. All minimise a convex loss -sum_b v_b ln sum_i w_i p_bi over shares w, for blocks b of
tokens. Expectation-maximisation solves it without a step size, never raises the loss, and comes
with a certificate of the distance from the optimum.

The levels differ in bias. At token level the prefix is ignored: the loss is too high, but it
responds to the weights. At document level one expert can explain a whole document: the loss is
right, but depends on the weights only as -ln(w) / length, so the optimum tends to the share of
documents nearest to each expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.laws.likelihoods import Likelihoods
from curate.mixture.search.simplex_box import Box, best_corner, nearest_in_proportion, whole

Array = NDArray[np.float64]

TOLERANCE = 1e-7
"""Certificate at which expectation-maximisation ends, in nats."""
ITERATIONS = 20_000
MIXTURES_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Blocks:
    """Probabilities of blocks of text under each expert, and the importance of each block."""

    scaled: Array
    """shape (blocks, experts), probability over the largest of its row: between 0 and 1."""
    peak_nats: Array
    """shape (blocks,), logarithm of that largest."""
    importance: Array
    """shape (blocks,), non-negative; sums to 1."""
    tokens_per_block: float
    """Mean tokens of a block, by importance; the loss over this is in nats per token."""


@dataclass(frozen=True, slots=True)
class Solution:
    """Shares of the experts."""

    weights: Array
    """shape (experts,), shares."""
    loss_nats: float
    """Mean loss of the blocks, weighted by importance, in nats per block."""
    certificate: float
    """Bound on how far `loss_nats` is above the minimum, in nats: the largest s . v - 1 over
    feasible v, which is max_i s_i - 1 without caps."""
    iterations: int


def blocks_of(
    likelihoods: Likelihoods, level: str | int, documents: NDArray[np.int64] | None = None
) -> Blocks:
    """Cut documents into blocks.

    Args:
        likelihoods: The experts' log-probabilities.
        level: `token`, `document`, or tokens of a chunk; a document's last chunk may be shorter.
        documents: Numbers of the documents, repeats allowed; None: all.

    Returns:
        Blocks of the documents in turn. At token and chunk level all blocks are equally important.
        At document level, importance is 1 / length, as in MixMin.

    Raises:
        ValueError: The level is unknown, or there are no documents.

    References:
        MDE: arXiv:2502.15950, the loss over tokens. MixMin: arXiv:2502.10510, its loss for language
        models. Chunks are ours.
    """
    if not (level in ("token", "document") or (isinstance(level, int) and level > 0)):
        raise ValueError(f"expected 'token', 'document' or a positive number, got {level!r}")
    if documents is None:
        documents = np.arange(len(likelihoods.target))
    if not len(documents):
        raise ValueError("expected at least one document")
    rows, length = _cut(likelihoods.starts, documents, level)
    logp = likelihoods.logp_nats[rows]
    sums = logp if level == "token" else np.add.reduceat(logp, _starts(length), axis=0)
    peak = sums.max(axis=1)
    importance = 1 / length if level == "document" else np.ones(len(length))
    per_token = len(length) / importance.sum() if level == "document" else length.mean()
    return Blocks(
        scaled=np.exp(sums - peak[:, None]),
        peak_nats=peak,
        importance=importance / importance.sum(),
        tokens_per_block=float(per_token),
    )


def combined(parts: Sequence[Blocks], target_weights: Array) -> Blocks:
    """Join blocks so that their loss is the weighted mean of the losses per token.

    Args:
        parts: The blocks of each target.
        target_weights: shape (targets,), non-negative, not all zero.
    """
    per_block = target_weights / np.array([part.tokens_per_block for part in parts])
    used = [(part, share) for part, share in zip(parts, per_block, strict=True) if share > 0]
    total = sum(share for _, share in used)
    return Blocks(
        np.concatenate([part.scaled for part, _ in used]),
        np.concatenate([part.peak_nats for part, _ in used]),
        np.concatenate([part.importance * share / total for part, share in used]),
        float(target_weights.sum() / total),
    )


@dataclass(frozen=True, slots=True)
class ExpertsLaw:
    """The experts' losses as a law that the optimisers take; it is convex."""

    parts: tuple[Blocks, ...]
    """One for each target; columns in the order of the mixtures' domains."""

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Predict losses, infinite where the experts of a mixture exclude a block.

        Args:
            weights: shape (rows, experts), shares.
            tokens: Ignored.
            params: Ignored.
        """
        losses = np.empty((len(weights), len(self.parts)))
        for first in range(0, len(weights), MIXTURES_AT_ONCE):
            rows = slice(first, first + MIXTURES_AT_ONCE)
            for target, part in enumerate(self.parts):
                with np.errstate(divide="ignore"):
                    logs = np.log(part.scaled @ np.maximum(weights[rows], 0).T)
                level = part.importance @ part.peak_nats
                losses[rows, target] = -(part.importance @ logs + level) / part.tokens_per_block
        return losses

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Differentiate the losses by the shares; shape (rows, targets, experts).

        Args:
            weights: shape (rows, experts), shares.
            tokens: Ignored.
            params: Ignored.
        """
        return np.array(
            [[-scores(part, row) / part.tokens_per_block for part in self.parts] for row in weights]
        )


def experts_law(
    likelihoods: Likelihoods, level: str | int, documents: NDArray[np.int64] | None = None
) -> ExpertsLaw:
    """Return the losses on each target of the experts mixed at this level.

    Args:
        likelihoods: The experts' log-probabilities.
        level: As in `blocks_of`.
        documents: As in `blocks_of`.
    """
    if documents is None:
        documents = np.arange(len(likelihoods.target))
    parts = []
    for target in range(len(likelihoods.targets)):
        of_target = documents[likelihoods.target[documents] == target]
        parts.append(blocks_of(likelihoods, level, of_target))
    return ExpertsLaw(tuple(parts))


def scores(blocks: Blocks, weights: Array) -> Array:
    """Compute s_i = sum_b v_b p_bi / sum_j w_j p_bj, minus the slope of the loss of the blocks.

    Their mean by the weights is 1. At the optimum no s_i is above 1, and those of positive weight
    are 1.
    """
    mixed = np.maximum(blocks.scaled @ weights, 1e-300)
    return np.asarray((blocks.importance / mixed) @ blocks.scaled)


def best_shares(
    blocks: Blocks, box: Box | None = None, start: Array | None = None,
    tolerance: float = TOLERANCE,
) -> Solution:  # fmt: skip
    """Find the shares of least loss by expectation-maximisation, sped up by extrapolation.

    A step is w_i <- w_i s_i, held to floors and caps by the projection that maximises the step's
    bound exactly (clip(c w_i s_i)); the loss never rises. Two steps are extrapolated along their
    change (SQUAREM), and the extrapolation is dropped where it does not lower the loss.

    Args:
        blocks: Probabilities of the text to predict.
        box: Floors and caps of the shares; None: neither.
        start: shape (experts,), first shares; None: equal ones.
        tolerance: Certificate at which to end, in nats of `Solution.loss_nats`.

    Returns:
        The shares, with a certificate that is valid even if the iteration limit was reached.

    Raises:
        ValueError: `box` or `start` has another number of shares than there are experts.

    References:
        Varadhan and Roland 2008, "Simple and globally convergent methods for accelerating the
        convergence of any EM algorithm" (step length S3).
        Differs from the papers: MDE uses a black-box optimiser, MixMin 100 steps of exponentiated
        gradient, whose slopes are divided by the documents' length: on documents of 200 tokens they
        go 0.4 of the way from equal shares, on 1,000 a tenth, and where the length is above 10,000
        its stopping rule, a small gradient, holds at the start.
    """
    count = blocks.scaled.shape[1]
    region = whole(count) if box is None else box
    middle = np.full(count, 1 / count) if start is None else np.maximum(start, 1e-9)
    if len(region.low) != count or len(middle) != count:
        raise ValueError(f"expected {count} shares, got {len(region.low)} and {len(middle)}")
    weights = nearest_in_proportion(middle / middle.sum(), region)
    free = box is None
    iteration = 0
    while iteration < ITERATIONS:
        first_scores = scores(blocks, weights)
        if _gap(first_scores, weights, region) <= tolerance:
            break
        iteration += 1
        one = _step(weights, first_scores, region, free)
        two = _step(one, scores(blocks, one), region, free)
        change, bend = one - weights, two - 2 * one + weights
        size = float(np.abs(bend).sum())
        reach = np.sqrt((change @ change) / (bend @ bend)) if size > 1e-300 else 1.0
        jumped = two
        if reach > 1:
            # Multiplicative steps cannot leave zero, so an extrapolation must not arrive there.
            jumped = np.maximum(weights + 2 * reach * change + reach**2 * bend, two * 0.05)
            jumped = nearest_in_proportion(jumped / jumped.sum(), region)
            if _mixed_log(blocks, jumped) < _mixed_log(blocks, two):
                jumped = two
        weights = jumped
    last = scores(blocks, weights)
    total = -(blocks.importance @ blocks.peak_nats) - _mixed_log(blocks, weights)
    return Solution(weights, float(total), _gap(last, weights, region), iteration)


def _step(weights: Array, score: Array, box: Box, free: bool) -> Array:
    raised = weights * score
    return raised / raised.sum() if free else nearest_in_proportion(raised, box)


def _gap(score: Array, weights: Array, box: Box) -> float:
    return float(score @ best_corner(-score, box) - score @ weights)


def _mixed_log(blocks: Blocks, weights: Array) -> float:
    return float(blocks.importance @ np.log(np.maximum(blocks.scaled @ weights, 1e-300)))


def _cut(
    starts: NDArray[np.int64], documents: NDArray[np.int64], level: str | int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of these documents in turn, and the lengths of their blocks."""
    tokens = starts[documents + 1] - starts[documents]
    rows = np.arange(tokens.sum()) + np.repeat(starts[documents] - _starts(tokens), tokens)
    if level == "document":
        return rows, tokens
    width = 1 if level == "token" else int(level)
    blocks = -(-tokens // width)
    length = np.full(blocks.sum(), width, np.int64)
    length[np.cumsum(blocks) - 1] = tokens - (blocks - 1) * width
    return rows, length


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray(np.cumsum(lengths) - lengths)
