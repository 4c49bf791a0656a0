"""Estimate the entropy of a distribution whose symbols were mostly seen rarely or never.

Rare counts are explained as a mixture of Poisson counts, fitted by maximum likelihood over all
mixtures of rates. It estimates how many symbols have which probability, unseen ones included.
Frequent symbols keep their frequencies. The mixture assumes independent draws of tokens; bursty
text breaks that, and the estimate then drifts with the size of the sample.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.runtime.compiled import kernel

RARE_COUNT = 40
"""The mixture explains counts up to this; larger ones give their frequency."""

LOWEST_RATE = 0.02
"""Smallest expected count of a symbol in the sample. The sample cannot distinguish rarer symbols,
and their number is unbounded; the limit trades bias for variance (see tools/bench/entropy.py)."""

MIXTURE_ROUNDS = 200


def unseen(count: NDArray[np.int64]) -> float:
    """Estimate entropy, with its rare and unseen part from a Poisson mixture.

    With rates lambda_j = N p_j and w_j symbols at each, w maximises the likelihood of the numbers
    of symbols seen k = 1, 2, ... times. A symbol seen more than `RARE_COUNT` times contributes
    h(c/N) + 1/(2N), with h(p) = -p ln p; the rest is the sum over j of
    w_j [h(p_j) - E(contribution | lambda_j)], so no symbol is counted twice wherever the limit
    falls. The rare part is then scaled so that all probabilities sum to 1.

    Args:
        count: shape (symbols,), times each is seen; zeros are allowed.

    Returns:
        Nats; 0 if there is no token.

    Raises:
        ValueError: A count is negative.

    Example:
        >>> round(unseen(np.full(4, 10_000)), 4)
        1.3863

    References:
        Valiant and Valiant 2017, "Estimating the unseen", doi:10.1145/3125643, for the idea of
        recovering the histogram and evaluating the functional on it; Simar 1976, "Maximum
        likelihood estimation of a compound Poisson process", for the mixture.

    Differs from the paper:
        They fit by linear programming. Here it is maximum likelihood by EM, from a flat start and
        stopped after a fixed number of rounds.
    """
    if len(count) and count.min() < 0:
        raise ValueError(f"expected counts of at least 0, got {int(count.min())}")
    seen = count[count > 0]
    tokens = int(seen.sum())
    if not tokens:
        return 0.0
    frequent = seen[seen > RARE_COUNT] / tokens
    nats = float(-(frequent * np.log(frequent)).sum()) + len(frequent) / (2 * tokens)
    rest = 1.0 - float(frequent.sum())
    histogram = np.bincount(seen[seen <= 2 * RARE_COUNT], minlength=2 * RARE_COUNT + 1)
    if rest * tokens < 0.5:
        return max(0.0, nats)
    value, mass = _rare_part(histogram[1:].astype(np.float64), tokens)
    if mass > 0:
        scale = rest / mass
        nats += scale * (value - mass * math.log(scale))
    return max(0.0, nats)


@functools.cache
def _atoms(lowest_rate: float, rare_count: int) -> tuple[NDArray[Any], ...]:
    """Return the rates of the mixture, counts, and the probability of each count by rate."""
    squares = np.arange(1.0, math.sqrt(3 * rare_count), 0.2) ** 2
    rate = np.concatenate([np.geomspace(lowest_rate, 1.0, 12)[:-1], squares])
    counts = np.arange(1, 8 * rare_count)
    return rate, counts, poisson(counts, rate)


def _rare_part(frequency: NDArray[np.float64], tokens: int) -> tuple[float, float]:
    """Return the entropy and mass that `unseen` does not take from the frequent symbols."""
    rate, counts, probability = _atoms(LOWEST_RATE, RARE_COUNT)
    window = probability[: len(frequency)]
    seen = frequency > 0
    outcomes, atoms = -(-int(seen.sum()) // 4) * 4, -(-len(rate) // 4) * 4  # padded with zeros
    rows, often = np.zeros((outcomes, atoms)), np.zeros(outcomes)
    weight, inverse = np.zeros(atoms), np.zeros(atoms)
    rows[: seen.sum(), : len(rate)] = window[seen]
    often[: seen.sum()] = frequency[seen]
    weight[: len(rate)] = frequency.sum() / len(rate)
    inverse[: len(rate)] = 1.0 / window.sum(0)
    fit_mixture(
        rows, np.ascontiguousarray(rows.T), often, weight, inverse, np.empty(outcomes),
        np.empty(atoms), outcomes, atoms, MIXTURE_ROUNDS,
    )  # fmt: skip
    weight = weight[: len(rate)]
    share = rate / tokens
    high = counts[RARE_COUNT:] / tokens
    counted = -high * np.log(high) + 1 / (2 * tokens)
    tail = probability[RARE_COUNT:]
    value = float(weight @ (-share * np.log(share) - counted @ tail))
    return value, float(weight @ (share - high @ tail))


def poisson(counts: NDArray[np.int64], rate: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Poisson probabilities, shape (counts, rates); counts are consecutive, k, k + 1, ...

    Example:
        >>> poisson(np.array([0, 1]), np.array([1.0])).round(4).tolist()
        [[0.3679], [0.3679]]
    """
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, counts[-1] + 1)))])
    exponent = counts[:, None] * np.log(rate)[None, :] - rate[None, :]
    return np.asarray(np.exp(np.maximum(exponent - log_factorial[counts][:, None], -700.0)))


@kernel
def fit_mixture(  # type: ignore[no-untyped-def]  # noqa: ANN201, PLR0913
    rows, columns, frequency, weight, inverse_seen, totals, expected, outcomes, atoms, rounds,  # noqa: ANN001
):  # fmt: skip
    """Improve the weights of a mixture in place by EM; stops early once they settle.

    Sums are of four terms at a time and loops are over numbers that do not depend on each other,
    so that they run in parallel, and to the same bits on every machine.

    Args:
        rows: shape (outcomes, atoms), probability of each outcome by atom; 0 for padding.
        columns: shape (atoms, outcomes), the same.
        frequency: shape (outcomes,), times each outcome was seen; 0 for padding.
        weight: shape (atoms,), start and result: units of each atom, unseen ones included.
        inverse_seen: shape (atoms,), one over the probability that a unit of the atom has any of
            the possible outcomes; 0 removes the atom.
        totals: shape (outcomes,), scratch.
        expected: shape (atoms,), scratch.
        outcomes: Number of outcomes, a multiple of 4.
        atoms: Number of atoms, a multiple of 4.
        rounds: Most rounds of EM.
    """
    for _ in range(rounds):
        for outcome in range(outcomes):
            totals[outcome] = 0.0
        for atom in range(0, atoms, 4):
            a, b, c, d = weight[atom], weight[atom + 1], weight[atom + 2], weight[atom + 3]
            first = atom * outcomes
            second, third, fourth = first + outcomes, first + 2 * outcomes, first + 3 * outcomes
            for at in range(outcomes):
                totals[at] += (columns[first + at] * a + columns[second + at] * b) + (
                    columns[third + at] * c + columns[fourth + at] * d
                )
        for outcome in range(outcomes):
            likely = totals[outcome]
            totals[outcome] = frequency[outcome] / (likely if likely > 1e-300 else 1e-300)
        for atom in range(atoms):
            expected[atom] = 0.0
        for outcome in range(0, outcomes, 4):
            a, b, c, d = (
                totals[outcome], totals[outcome + 1], totals[outcome + 2], totals[outcome + 3],
            )  # fmt: skip
            first = outcome * atoms
            second, third, fourth = first + atoms, first + 2 * atoms, first + 3 * atoms
            for at in range(atoms):
                expected[at] += (rows[first + at] * a + rows[second + at] * b) + (
                    rows[third + at] * c + rows[fourth + at] * d
                )
        change = 0.0
        total = 0.0
        for atom in range(atoms):
            improved = weight[atom] * expected[atom] * inverse_seen[atom]
            step = improved - weight[atom]
            change += step if step > 0 else -step
            total += improved
            weight[atom] = improved
        if change < 1e-6 * total:
            break
    return 0
