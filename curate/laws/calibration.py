"""Intervals of predictions from errors on mixtures left out."""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit

from curate.laws.fitting.features import distinct_mixtures
from curate.laws.law import Array, RunTable
from curate.laws.scores import floored

COVERAGE = 0.95
ENOUGH_FOR_A_QUANTILE = 39
"""Fewest mixtures for the quantile: 5 % of them are nearly two."""
NORMAL_95 = 1.96
"""Standard deviations of a normal error that 95 % are within."""


def log_errors(predicted: Array, table: RunTable) -> Array:
    """Compare log losses with predictions of them, shape (rows, targets)."""
    return np.asarray(np.log(floored(predicted, table) / table.losses))


def half_width(missed: Array, table: RunTable) -> Array:
    """Find the width around a prediction that holds 95 % of new runs, on either side.

    The 95 % quantile of absolute errors. Split conformal prediction takes a higher one for small
    samples; but fits without a part of the runs err more than the whole one already, and with both,
    intervals held up to 98.2 % of RegMix's and olmix's new runs. From few mixtures the quantile is
    nearly the largest error: there, the root mean square times Student's t is taken.

    Args:
        missed: shape (rows, targets), errors on mixtures that a fit did not see.
        table: The rows' runs.

    Returns:
        Shape (targets,), in the unit of the errors.

    References:
        Vovk, Gammerman and Shafer 2005, split conformal prediction; by folds as in Barber et al.
        2021, arXiv:1905.02928, CV+.
    """
    mixtures = len(distinct_mixtures(table.weights))
    if mixtures < ENOUGH_FOR_A_QUANTILE:
        factor = float(stdtrit(max(mixtures - 1, 1), (1 + COVERAGE) / 2))
        return np.asarray(factor * np.sqrt((missed**2).mean(axis=0)))
    return np.asarray(np.quantile(np.abs(missed), COVERAGE, axis=0))
