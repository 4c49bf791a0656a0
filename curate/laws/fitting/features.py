"""Columns of training progress for regressors, and folds that keep runs whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.laws.law import Array, RunTable


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
    """Assign rows to folds, all checkpoints of a run and of one mixture to the same fold.

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
    rounded = np.round(table.weights[:, by_name], 9)
    mixtures, inverse = np.unique(rounded, axis=0, return_inverse=True)
    place = np.asarray(inverse).reshape(-1)
    # A run whose mixture changes on the way joins its mixtures into one group.
    group = np.arange(len(mixtures))
    first: dict[str, int] = {}
    for run, mixture in zip(table.runs, place, strict=True):
        other = first.setdefault(run, int(mixture))
        if group[other] != group[mixture]:
            group[group == group[mixture]] = group[other]
    names, fold_group = np.unique(group, return_inverse=True)
    if len(names) < 2:
        return []
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of = np.empty(len(names), np.int64)
    fold_of[order] = np.arange(len(names)) % min(folds, len(names))
    row_fold = fold_of[np.asarray(fold_group).reshape(-1)[place]]
    return [row_fold == fold for fold in range(min(folds, len(names)))]
