"""Features of regressors: training progress and root shares; and folds that keep runs whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.laws.formula import Formula, add, constant, log, multiply, tokens
from curate.laws.law import Array, RunTable

ROOT_OFFSET = 1e-4
"""Added to every share before its square root, which has no derivative at zero."""
SHARE_DECIMALS = 9
"""Decimals of shares in which mixtures that count as equal agree."""


def root_shares(weights: Array) -> Array:
    """Return square roots of shares; a negative one, which a search may try, counts as zero."""
    return np.asarray(np.sqrt(np.maximum(weights, 0) + ROOT_OFFSET))


def number_distinct(values: NDArray[Any]) -> NDArray[np.int64]:
    """Number the distinct rows of a matrix, or the distinct values of a vector, in sorted order.

    Returns:
        shape (rows,), the number of each row, from 0.
    """
    _, number = np.unique(values, axis=0, return_inverse=True)
    # NumPy 2.0 returns it with the matrix's dimensions.
    return np.asarray(number, np.int64).reshape(-1)


def mixture_numbers(weights: Array) -> NDArray[np.int64]:
    """Number the mixtures of rows, shape (rows,), from shares (rows, domains); equal ones alike."""
    return number_distinct(np.round(weights, SHARE_DECIMALS))


def distinct_mixtures(weights: Array) -> Array:
    """Return the different mixtures of rows, in the order of `mixture_numbers`."""
    return np.unique(np.round(weights, SHARE_DECIMALS), axis=0)


@dataclass(frozen=True, slots=True)
class Progress:
    """Standardised ln tokens and ln parameters; each is a column only if the table varies it."""

    centres: tuple[float, float]
    """Mean of ln tokens and of ln parameters; NaN for no column."""
    scales: tuple[float, float]
    """Standard deviation of each."""

    def columns(self, tokens: Array, params: Array) -> Array:
        """Standardise tokens and parameters, shape (rows, columns), with none to two columns."""
        columns = [
            (np.log(values) - centre) / scale
            for values, centre, scale in zip(
                (tokens, params), self.centres, self.scales, strict=True
            )
            if np.isfinite(centre)
        ]
        return np.stack(columns, axis=1) if columns else np.zeros((len(tokens), 0))

    def formulas(self, params: float) -> list[Formula]:
        """Write the columns as formulas of the tokens, each a single value."""
        logs = (log(tokens()), constant(np.log(params)))
        return [
            multiply(add(value, constant(-centre)), constant(1 / scale))
            for value, centre, scale in zip(logs, self.centres, self.scales, strict=True)
            if np.isfinite(centre)
        ]


def progress_of(table: RunTable) -> Progress:
    """Find the columns that vary in this table, and their mean and standard deviation."""
    centres, scales = [], []
    for values in (table.tokens, table.params):
        logs = np.log(values[np.isfinite(values)])
        varies = len(np.unique(logs)) > 1
        centres.append(float(logs.mean()) if varies else float("nan"))
        scales.append(float(logs.std()) if varies else 1.0)
    return Progress((centres[0], centres[1]), (scales[0], scales[1]))


def run_folds(table: RunTable, folds: int, seed: int = 0) -> list[NDArray[np.bool_]]:
    """Assign rows to folds, keeping all checkpoints of a run and of a mixture in one fold.

    Mixtures are shuffled by a seeded permutation that depends neither on the order of rows nor on
    that of domains. Runs of one mixture at several seeds or model sizes stay together, since a law
    fitted to one of them has seen the answer for the others.

    Args:
        table: The runs.
        folds: At least 2; fewer come back where there are fewer mixtures.
        seed: Seed of the permutation.

    Returns:
        Rows held out in each fold, each shape (rows,); empty if all runs have one mixture.
    """
    by_name = np.argsort(np.array(table.domains), kind="stable")
    place = mixture_numbers(table.weights[:, by_name])
    # A run whose mixture changes on the way joins its mixtures into one group.
    group = np.arange(place.max(initial=-1) + 1)
    first: dict[str, int] = {}
    for run, mixture in zip(table.runs, place, strict=True):
        other = first.setdefault(run, int(mixture))
        if group[other] != group[mixture]:
            group[group == group[mixture]] = group[other]
    group = number_distinct(group)
    groups = int(group.max(initial=-1)) + 1
    if groups < 2:
        return []
    order = np.random.default_rng(seed).permutation(groups)
    fold_of = np.empty(groups, np.int64)
    fold_of[order] = np.arange(groups) % min(folds, groups)
    row_fold = fold_of[group[place]]
    return [row_fold == fold for fold in range(min(folds, groups))]
