"""Cross-validate conditional entropy: the cost of held-out text under a smoothed bigram model.

An upper bound in expectation: the entropy plus the excess of the model. It assumes nothing about
how tokens are drawn, and unlike bias corrections it can be checked by compressing the text with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.stats.bigram_sample import PairSample

FOLDS = 5

DEAL_SEED = 0
"""Seed for dealing single tokens to folds. Any value serves; a fixed one makes runs repeatable."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Cost of held-out tokens under a smoothed model, nats per token."""

    documents: float
    """Cost if whole documents are held out."""
    tokens: float
    """Cost if as many single tokens are held out, so that the model sees their documents."""
    train_share: float
    """Share of the tokens that a model was trained on, mean over the held-out tokens."""

    @property
    def gap(self) -> float:
        """Nats per token saved by seeing the rest of the document; 0 but for noise if useless."""
        return max(0.0, self.documents - self.tokens)


def held_out(sample: PairSample) -> HeldOut:
    """Average -ln q(y | x) over held-out documents, and over held-out tokens.

    The model interpolates: q(y | x) = max(c(x, y) - D, 0) / c(x) + D t(x) / c(x) q(y), with t(x)
    the distinct successors of x, and q(y) made likewise from c(y) and the uniform distribution over
    all symbols. Discounts are D = f1 / (f1 + 2 f2), each from its own counts of the training folds.

    Args:
        sample: Documents; blocks are dealt out to at most `FOLDS` folds.

    Raises:
        ValueError: Fewer than two blocks.

    References:
        Ney, Essen and Kneser 1994, "On structuring probabilistic dependences in stochastic language
        modelling", doi:10.1006/csla.1994.1001, for absolute discounting and D.
    """
    folds = min(FOLDS, sample.blocks)
    if folds < 2:
        raise ValueError(f"expected at least 2 blocks of documents, got {sample.blocks}")
    fold_of = sample.group(folds)
    # Shuffling keeps the sizes of the folds; otherwise the sizes of the models would differ too.
    dealt = np.random.default_rng(DEAL_SEED).permutation(fold_of)
    fold_share = np.bincount(fold_of, minlength=folds) / sample.tokens
    return HeldOut(
        _folds_cost(sample, fold_of, folds), _folds_cost(sample, dealt, folds),
        float(1 - (fold_share**2).sum()),
    )  # fmt: skip


def _folds_cost(sample: PairSample, fold_of: NDArray[np.int64], folds: int) -> float:
    """Average the cost of each fold under the model of the others, nats per token."""
    whole = sample.totals()
    nats = 0.0
    for fold in range(folds):
        test = sample.totals(fold_of == fold)
        nats += model_cost(sample, whole - test, test)
    return nats / sample.tokens


def model_cost(sample: PairSample, train: NDArray[np.int64], test: NDArray[np.int64]) -> float:
    """Compute the cost of the test counts under the model of the training counts; see `held_out`.

    Args:
        sample: Sample that the pairs belong to.
        train: shape (pairs,), training counts of its distinct pairs.
        test: shape (pairs,), test counts.

    Returns:
        Nats, the sum over all test tokens.
    """
    symbols = sample.symbols
    margin = np.bincount(sample.first, train, symbols)
    distinct = np.bincount(sample.first[train > 0], minlength=symbols)
    following = np.bincount(sample.second, train, symbols)
    low = _discount(following)
    backoff = np.maximum(following - low, 0) + low * (following > 0).sum() / symbols
    backoff /= max(1.0, following.sum())
    if not following.any():
        backoff[:] = 1 / symbols
    tested = test > 0
    first, second = sample.first[tested], sample.second[tested]
    discount = _discount(train)
    seen = margin[first] > 0  # a token that training lacks gets the back-off alone
    total = np.where(seen, margin[first], 1.0)
    share = np.where(seen, discount * distinct[first] / total, 1.0)
    chance = np.maximum(train[tested] - discount, 0) / total * seen + share * backoff[second]
    return float(-(test[tested] * np.log(chance)).sum())


def _discount(count: NDArray[np.int64] | NDArray[np.float64]) -> float:
    """Estimate D; a half if no count is 1, and at most 0.95 so that seen pairs keep some mass."""
    once, twice = int((count == 1).sum()), int((count == 2).sum())
    if not once:
        return 0.5
    return min(0.95, once / (once + 2 * twice))
