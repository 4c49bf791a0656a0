"""Cross-validated conditional entropy: what a smoothed bigram model pays on documents it never saw.

An upper end in expectation: the entropy plus what the model lacks. It assumes nothing about how
tokens are drawn, and unlike bias corrections it can be checked by compressing the text with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.stats.bigram_sample import PairSample

FOLDS = 5

DEAL_SEED = 0
"""Of the deal of single tokens to folds; any will do, and a fixed one repeats."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a smoothed model pays on tokens it has not seen, nats per token."""

    documents: float
    """Where whole documents are left out."""
    tokens: float
    """Where as many tokens are left out, one by one, so that their documents stay in the model."""
    train_share: float
    """Share of the tokens that the models saw, mean over the tokens they were asked for."""

    @property
    def gap(self) -> float:
        """What knowing the rest of its document is worth to a token; 0 but for noise if nothing."""
        return max(0.0, self.documents - self.tokens)


def held_out(sample: PairSample) -> HeldOut:
    """Mean of -ln q(y | x) over held-out documents, and over held-out tokens.

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
    # The same sizes of folds, or the smaller model would show in the difference.
    dealt = np.random.default_rng(DEAL_SEED).permutation(fold_of)
    fold_share = np.bincount(fold_of, minlength=folds) / sample.tokens
    return HeldOut(
        _folds_cost(sample, fold_of, folds), _folds_cost(sample, dealt, folds),
        float(1 - (fold_share**2).sum()),
    )  # fmt: skip


def _folds_cost(sample: PairSample, fold_of: NDArray[np.int64], folds: int) -> float:
    """Nats per token under the models of the other folds."""
    whole = sample.totals()
    nats = 0.0
    for fold in range(folds):
        test = sample.totals(fold_of == fold)
        nats += model_cost(sample, whole - test, test)
    return nats / sample.tokens


def model_cost(sample: PairSample, train: NDArray[np.int64], test: NDArray[np.int64]) -> float:
    """Nats that the test counts cost under the model of the training counts; see `held_out`."""
    symbols = sample.symbols
    margin = np.bincount(sample.first, train, symbols)
    distinct = np.bincount(sample.first[train > 0], minlength=symbols)
    following = np.bincount(sample.second, train, symbols)
    low = _discount(following)
    backoff = np.maximum(following - low, 0) + low * (following > 0).sum() / symbols
    backoff /= max(1.0, following.sum())
    if not following.any():
        backoff[:] = 1 / symbols
    asked = test > 0
    first, second = sample.first[asked], sample.second[asked]
    discount = _discount(train)
    known = margin[first] > 0
    total = np.where(known, margin[first], 1.0)
    share = np.where(known, discount * distinct[first] / total, 1.0)
    chance = np.maximum(train[asked] - discount, 0) / total * known + share * backoff[second]
    return float(-(test[asked] * np.log(chance)).sum())


def _discount(count: NDArray[np.int64] | NDArray[np.float64]) -> float:
    """Between a half and 0.95 where there is nothing to estimate it from."""
    once, twice = int((count == 1).sum()), int((count == 2).sum())
    if not once:
        return 0.5
    return min(0.95, once / (once + 2 * twice))
