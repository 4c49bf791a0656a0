"""Cross-validate conditional entropy: the cost of held-out text under a smoothed bigram model.

An upper bound in expectation: the entropy plus the excess of the model. It assumes nothing about
how tokens are drawn, and unlike bias corrections it can be checked by compressing the text with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.runtime.compiled import kernel
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
    symbols, pairs = sample.symbols, len(sample.first)
    margin, distinct, following = np.zeros((3, symbols), np.int64)
    rare = np.zeros(3, np.int64)
    _count_model(sample.first, sample.second, train, pairs, margin, distinct, following, rare)
    low = _discount(*np.bincount(np.minimum(following, 3), minlength=4)[1:3].tolist())
    backoff = np.maximum(following - low, 0) + low * (following > 0).sum() / symbols
    backoff /= max(1, following.sum())
    if not following.any():
        backoff[:] = 1 / symbols
    tested, chance = np.empty(pairs, np.int64), np.empty(pairs)
    number = _tabulate_chances(
        sample.first, sample.second, train, test, pairs, margin, distinct, backoff,
        np.array([_discount(*rare[1:].tolist())]), tested, chance,
    )  # fmt: skip
    return float(-(tested[:number] * np.log(chance[:number])).sum())


@kernel
def _count_model(first, second, train, pairs, margin, distinct, following, rare):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    """Add up the training counts of each id, and count the pairs that were seen once and twice."""
    for pair in range(pairs):
        count = train[pair]
        margin[first[pair]] += count
        distinct[first[pair]] += count > 0
        following[second[pair]] += count
        if count == 1 or count == 2:
            rare[count] += 1
    return 0


@kernel
def _tabulate_chances(  # type: ignore[no-untyped-def]  # noqa: ANN202, PLR0913
    first, second, train, test, pairs, margin, distinct, backoff, discounts, tested, chance,  # noqa: ANN001
):  # fmt: skip
    """List the counts of the pairs in the test, and their chances; return the number of pairs."""
    discount = discounts[0]
    number = 0
    for pair in range(pairs):
        if test[pair] == 0:
            continue
        total = margin[first[pair]]
        probability = backoff[second[pair]]
        if total > 0:  # a token that training lacks gets the back-off alone
            rest = train[pair] - discount
            probability *= discount * distinct[first[pair]] / total
            probability += (rest if rest > 0 else 0.0) / total
        tested[number] = test[pair]
        chance[number] = probability
        number += 1
    return number


def _discount(once: int, twice: int) -> float:
    """Estimate D from the items seen once and twice.

    It is a half if none was seen once, and at most 0.95 so that seen pairs keep some mass.
    """
    return min(0.95, once / (once + 2 * twice)) if once else 0.5
