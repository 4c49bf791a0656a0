"""Estimators of entropy from counts, by name.

Each maps the times that symbols were seen to nats. Classical ones depend on the counts only through
the number of symbols seen c times, so they are evaluated on that histogram. Joint entropies come
from counts of pairs; a conditional entropy is joint minus Shannon by the same estimator, which
keeps JE = SE + CE exact. What does better on undersampled pairs is in `curate.stats.conditional`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from curate.stats.unseen_species import unseen

Estimator = Callable[[NDArray[np.int64]], float]
"""Counts, shape (symbols,), zeros allowed → nats."""


def digamma(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithmic derivative of the gamma function at positive arguments, to about 1e-13.

    Recurrence up to 8 and more, then the asymptotic series to the 1/x^10 term.

    Example:
        >>> [round(float(x), 10) for x in digamma(np.array([1.0, 2.0]))]
        [-0.5772156649, 0.4227843351]

    References:
        Abramowitz and Stegun 1964, 6.3.5 and 6.3.18.
    """
    shifted = np.asarray(value, np.float64).copy()
    result = np.zeros_like(shifted)
    for _ in range(8):
        result -= 1.0 / shifted
        shifted += 1.0
    square = 1.0 / (shifted * shifted)
    series = square * (
        1 / 12 - square * (1 / 120 - square * (1 / 252 - square * (1 / 240 - square / 132)))
    )
    return np.asarray(result + np.log(shifted) - 0.5 / shifted - series)


def histogram(count: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Distinct positive counts, the number of symbols with each, and the tokens.

    Raises:
        ValueError: A count is negative.
    """
    if len(count) and count.min() < 0:
        raise ValueError(f"expected counts of at least 0, got {int(count.min())}")
    value, symbols = np.unique(count[count > 0], return_counts=True)
    return value, symbols, int((value * symbols).sum())


def plugin(count: NDArray[np.int64]) -> float:
    """Entropy of the frequencies: ln N - (1/N) sum of c ln c. Biased low.

    Example:
        >>> round(plugin(np.array([2, 2])), 4)
        0.6931
    """
    value, symbols, tokens = histogram(count)
    if not tokens:
        return 0.0
    return max(0.0, math.log(tokens) - float((symbols * value * np.log(value)).sum()) / tokens)


def miller_madow(count: NDArray[np.int64]) -> float:
    """Plug-in plus (symbols seen - 1) / 2N, the first term of its bias.

    References:
        Miller 1955, "Note on the bias of information estimates".
    """
    _, symbols, tokens = histogram(count)
    return plugin(count) + (int(symbols.sum()) - 1) / (2 * tokens) if tokens else 0.0


def chao_shen(count: NDArray[np.int64]) -> float:
    """Frequencies scaled by the coverage, each weighed by one over its chance of being seen.

    With coverage C = 1 - f1/N and p = C c / N: -sum of p ln p / (1 - (1 - p)^N). Where every token
    is a symbol of its own, one is taken to have been seen twice, or C would be 0.

    References:
        Chao and Shen 2003, "Nonparametric estimation of Shannon's index of diversity when there
        are unseen species in sample", doi:10.1023/A:1026096204727.
    """
    value, symbols, tokens = histogram(count)
    if not tokens:
        return 0.0
    once = int(symbols[value == 1].sum())
    coverage = 1.0 - min(once, tokens - 1) / tokens
    share = np.minimum(coverage * value / tokens, 1.0)
    with np.errstate(divide="ignore"):
        seen = -np.expm1(tokens * np.log1p(-share))
    return float(-(symbols * share * np.log(share) / seen).sum())


def grassberger(count: NDArray[np.int64]) -> float:
    """Logarithm of each count replaced by one without bias: ln N - (1/N) sum of c G(c).

    G(c) = psi(c) + (-1)^c [psi((c+1)/2) - psi(c/2)] / 2.

    References:
        Grassberger 2003, "Entropy estimates from insufficient samplings", arXiv:physics/0307138v2
        (2008), Eq. 30.
    """
    value, symbols, tokens = histogram(count)
    if not tokens:
        return 0.0
    half = value / 2.0
    sign = np.where(value % 2 == 0, 1.0, -1.0)
    correction = digamma(value.astype(np.float64)) + sign * 0.5 * (
        digamma(half + 0.5) - digamma(half)
    )
    return math.log(tokens) - float((symbols * value * correction).sum()) / tokens


def chao_wang_jost(count: NDArray[np.int64]) -> float:
    """Entropy from the rate at which new symbols turn up, the unseen part by Good and Turing.

    Sum over symbols of (c/N) [psi(N) - psi(c)], plus (f1/N) (1 - A)^(1-N) times what -ln A leaves
    after N - 1 terms of its series in (1 - A), with A = 2 f2 / [(N - 1) f1 + 2 f2].

    References:
        Chao, Wang and Jost 2013, "Entropy and the species accumulation curve",
        doi:10.1111/2041-210X.12108, Eq. 7.
    """
    value, symbols, tokens = histogram(count)
    if tokens < 2:
        return 0.0
    psi = digamma(np.append(value, tokens).astype(np.float64))
    nats = float((symbols * value / tokens * (psi[-1] - psi[:-1])).sum())
    once = int(symbols[value == 1].sum())
    twice = int(symbols[value == 2].sum())
    if not once:
        return nats
    if twice:
        chance = 2 * twice / ((tokens - 1) * once + 2 * twice)
    else:
        chance = 2 / ((tokens - 1) * (once - 1) + 2)
    if chance >= 1:
        return nats
    rest = (1 - chance) * _series_tail(tokens, -math.log1p(-chance))
    return nats + once / tokens * rest


def _series_tail(first: int, decay: float) -> float:
    """Sum over j >= 0 of exp(-decay j) / (first + j), to about 1e-8 of itself."""
    exact = np.arange(10_000, dtype=np.float64)
    total = float((np.exp(-decay * exact) / (first + exact)).sum())
    # Beyond, the sum is its integral and half its first term; with s = ln t the integrand is flat.
    start = first + len(exact)
    log_t = np.linspace(math.log(start), math.log(start + 40 / decay), 20_001)
    height = np.exp(-decay * (np.exp(log_t) - first))
    step = float(log_t[1] - log_t[0])
    return (
        total
        + float(height.sum() - (height[0] + height[-1]) / 2) * step
        + (float(height[0]) / start / 2)
    )


ESTIMATORS: dict[str, Estimator] = {
    "plugin": plugin,
    "miller_madow": miller_madow,
    "chao_shen": chao_shen,
    "grassberger": grassberger,
    "chao_wang_jost": chao_wang_jost,
    "unseen": unseen,
}
"""Name → function of counts."""
