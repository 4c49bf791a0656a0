"""Score predicted losses against observed ones: error, R2, rank correlation, seed noise.

Pure functions of arrays; `crossval` decides which rows are predicted from which.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.laws.fitting.features import mixture_numbers, number_distinct
from curate.laws.law import Array, RunTable

LEAST_PREDICTED = 0.1
"""Fraction of the smallest observed loss to which predictions below it are raised."""
LEAST_RANKED = 3
"""Fewest runs for which a rank correlation means something."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Agreement of predictions with observations; NaN where it is not defined."""

    relative_error: Array
    """shape (targets,), mean of |predicted - observed| / observed, from 0."""
    r2: Array
    """shape (targets,), R2 of log losses about their mean at the same tokens and model size."""
    r2_all: Array
    """shape (targets,), R2 of log losses about the mean of all rows, progress included."""
    spearman: Array
    """shape (targets,), rank correlation over the last checkpoints, averaged over model sizes."""
    spearman_of_mean: float
    """Rank correlation of the mean of all targets' losses."""


def score(table: RunTable, predicted: Array) -> Scores:
    """Score predicted losses, shape (rows, targets), against those of the table."""
    place = checkpoints(table)
    logs, fitted = np.log(table.losses), np.log(floored(predicted, table))
    means = np.stack([logs[place == point].mean(axis=0) for point in range(place.max() + 1)])
    shared = np.bincount(place)[place] > 1
    last = last_checkpoints(table, place)
    both = [(table.losses[:, t], predicted[:, t]) for t in range(table.losses.shape[1])]
    return Scores(
        relative_error=np.abs(predicted / table.losses - 1).mean(axis=0),
        r2=_r2(logs[shared], fitted[shared], means[place][shared]),
        r2_all=_r2(logs, fitted, logs.mean(axis=0)),
        spearman=np.array([_spearman_by(last, *pair) for pair in both]),
        spearman_of_mean=_spearman_by(last, table.losses.mean(axis=1), predicted.mean(axis=1)),
    )


def floored(predicted: Array, table: RunTable) -> Array:
    """Raise predicted losses, shape (rows, targets), to a tenth of the smallest one observed.

    A linear law may predict a loss below zero, which has no logarithm. A tenth is wrong enough to
    show, and not so wrong that one row decides R2.
    """
    return np.asarray(np.maximum(predicted, LEAST_PREDICTED * table.losses.min(axis=0)))


def checkpoints(table: RunTable) -> NDArray[np.int64]:
    """Number the combinations of tokens and parameters, shape (rows,)."""
    values = np.nan_to_num(np.stack([table.tokens, table.params], axis=1))
    return number_distinct(values)


def last_checkpoints(table: RunTable, place: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Select, for each model size, the rows at the largest token count with three runs or more."""
    tokens, params = np.nan_to_num(table.tokens), np.nan_to_num(table.params)
    selected = []
    for size in np.unique(params):
        groups = [np.flatnonzero(place == point) for point in np.unique(place[params == size])]
        groups = [rows for rows in groups if len(rows) >= LEAST_RANKED]
        if groups:
            selected.append(max(groups, key=lambda rows: tokens[rows[0]]))
    return selected


def spearman(first: Array, second: Array) -> float:
    """Compute the rank correlation, with mean ranks for ties; NaN if one side is constant.

    Example:
        >>> round(spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])), 12)
        0.5
    """
    ranks = [_ranks(values) for values in (first, second)]
    off = [rank - rank.mean() for rank in ranks]
    scale = math.sqrt(float(off[0] @ off[0]) * float(off[1] @ off[1]))
    return float(off[0] @ off[1]) / scale if scale > 0 else math.nan


def finite_or_none(value: float) -> float | None:
    """Convert for JSON: NaN and infinity become null."""
    return float(value) if math.isfinite(value) else None


def _ranks(values: Array) -> Array:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Array = (last - (counts - 1) / 2)[place]
    return ranks


def _spearman_by(groups: list[NDArray[np.int64]], observed: Array, predicted: Array) -> float:
    """Average the rank correlations of groups, weighted by rows; undefined ones count as 0."""
    if not groups:
        return math.nan
    correlations = [spearman(observed[rows], predicted[rows]) for rows in groups]
    sizes = [len(rows) for rows in groups]
    if all(math.isnan(value) for value in correlations):
        return math.nan
    return float(np.average(np.nan_to_num(correlations), weights=sizes))


def _r2(observed: Array, predicted: Array, means: Array) -> Array:
    total = ((observed - means) ** 2).sum(axis=0)
    left = ((observed - predicted) ** 2).sum(axis=0)
    # Rounding leaves a little variance in equal rows, which must not count as signal.
    defined = total > 1e-20 * max(len(observed), 1)
    return np.where(defined, 1 - left / np.where(defined, total, 1), np.nan)


@dataclass(frozen=True, slots=True)
class SeedNoise:
    """Spread between runs of the same mixture, tokens and model size."""

    groups: int
    """Combinations of mixture, tokens and size with at least two runs; 0: the spread is unknown."""
    runs: int
    """Runs in these groups."""
    relative: Array
    """shape (targets,), standard deviation of log losses; NaN if unknown."""
    relative_of_mean: float
    """Standard deviation of the logarithm of the mean of all targets' losses."""


def seed_noise(table: RunTable) -> SeedNoise:
    """Pool the spread between repeats: sqrt(sum of squares / sum of (repeats - 1))."""
    place = number_distinct(np.column_stack([mixture_numbers(table.weights), checkpoints(table)]))
    logs = np.log(np.concatenate([table.losses, table.losses.mean(axis=1)[:, None]], axis=1))
    squares, freedom, groups, runs = np.zeros(logs.shape[1]), 0, 0, set()
    for point in np.flatnonzero(np.bincount(place) > 1):
        rows = np.flatnonzero(place == point)
        names = {table.runs[row] for row in rows}
        if len(names) < 2:
            continue
        squares += ((logs[rows] - logs[rows].mean(axis=0)) ** 2).sum(axis=0)
        freedom, groups = freedom + len(rows) - 1, groups + 1
        runs |= names
    spread = np.sqrt(squares / freedom) if freedom else np.full(logs.shape[1], math.nan)
    return SeedNoise(groups, len(runs), spread[:-1], float(spread[-1]))
