"""RegMix's search for the optimum of any predictor: draw mixtures, average the best.

It needs no gradient. Draws follow the prior alone, so supply and caps are left to the caller.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def simulate(
    score: Callable[[Array], Array],
    prior: Array,
    draws: int = 100_000,
    best: int = 128,
    seed: int = 42,
) -> Array:
    """Average the mixtures of lowest score among draws from Dirichlet(prior).

    Args:
        score: Mixtures, shape (draws, domains) → predicted loss of each, shape (draws,).
        prior: shape (domains,), positive concentrations; RegMix takes the shares of tokens.
        draws: Mixtures drawn.
        best: How many of them are averaged; at most `draws`.
        seed: Seed of the legacy generator, which RegMix's notebook uses.

    Returns:
        Shape (domains,), shares that sum to 1.

    Raises:
        ValueError: A concentration is not positive and finite, or `best` is not in [1, draws].

    Example:
        The best draws lie around the second domain's best share.

        >>> shares = simulate(lambda w: abs(w[:, 1] - 0.25), np.ones(2), 1000, 10)
        >>> [round(float(share), 3) for share in shares]
        [0.751, 0.249]

    References:
        Liu et al. 2024, "RegMix", arXiv:2407.01492v2, Section 3, and its released notebook.

    Differs from the paper: 100,000 draws and the best 128, as the notebook does; the text says
    1,000,000 and 100.
    """
    if not np.all((prior > 0) & np.isfinite(prior)):
        raise ValueError(f"expected positive finite concentrations, got {prior.tolist()}")
    if not 1 <= best <= draws:
        raise ValueError(f"expected best between 1 and draws ({draws}), got {best}")
    # The notebook's numbers come from this generator; a new-style one gives other draws.
    mixtures = np.random.RandomState(seed).dirichlet(prior, draws)
    order = np.argsort(score(mixtures), kind="stable")
    mean = mixtures[order[:best]].mean(axis=0)
    shares: Array = mean / mean.sum()
    return shares
