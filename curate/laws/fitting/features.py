"""What regressors see beside the shares, and folds that keep runs whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.laws.law import Array, RunTable


@dataclass(frozen=True, slots=True)
class Progress:
    """ln tokens and ln parameters, standardised; a column only where the table has two values."""

    centres: tuple[float, float]
    """Of tokens and of parameters; NaN: no column."""
    scales: tuple[float, float]

    def columns(self, tokens: Array, params: Array) -> Array:
        """Shape (rows, columns), between none and two columns."""
        found = [
            (np.log(values) - centre) / scale
            for values, centre, scale in zip(
                (tokens, params), self.centres, self.scales, strict=True
            )
            if np.isfinite(centre)
        ]
        return np.stack(found, axis=1) if found else np.zeros((len(tokens), 0))


def progress_of(table: RunTable) -> Progress:
    """The columns that vary in this table, and their mean and standard deviation."""
    centres, scales = [], []
    for values in (table.tokens, table.params):
        known = np.log(values[np.isfinite(values)])
        varies = len(np.unique(known)) > 1
        centres.append(float(known.mean()) if varies else float("nan"))
        scales.append(float(known.std()) if varies else 1.0)
    return Progress((centres[0], centres[1]), (scales[0], scales[1]))


def run_folds(table: RunTable, folds: int, seed: int = 0) -> list[NDArray[np.bool_]]:
    """Rows held out in each fold, all checkpoints of a run, and of the same mixture, in one.

    Mixtures are shuffled by a seeded permutation that depends neither on the order of rows nor on
    that of domains. Runs of one mixture at several seeds or model sizes stay together, or a fold
    would be told the answer.

    Args:
        table: The runs.
        folds: At least 2; fewer come back where there are fewer mixtures.
        seed: Of the permutation.

    Returns:
        Shape (rows,) for each fold; empty where all runs have one mixture.
    """
    by_name = np.argsort(np.array(table.domains), kind="stable")
    rounded = np.round(table.weights[:, by_name], 9)
    mixtures, inverse = np.unique(rounded, axis=0, return_inverse=True)
    place = np.asarray(inverse).reshape(-1)
    # A run whose mixture changes on the way ties its mixtures together.
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
