"""A Gaussian process on square roots of shares, around the additive law.

The additive law predicts far from the runs, the process corrects it near them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from curate.laws.fitting.features import ROOT_OFFSET, Progress, progress_of, root_shares
from curate.laws.fitting.gaussian_process import (
    Rows,
    TargetProcesses,
    evenly,
    fit_processes,
    new_runs,
    run_numbers,
)
from curate.laws.forms.additive import FittedAdditive, fit_additive
from curate.laws.formula import Formula, add, constant, exp, multiply, power, shares
from curate.laws.law import Array, Law, RunTable
from curate.runtime.threads import one_blas_thread


@dataclass(frozen=True, slots=True)
class FittedGaussian:
    """The additive law and, for every target, a process over its errors in log losses."""

    mean: FittedAdditive
    progress: Progress
    residuals: TargetProcesses

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Predict the additive law's loss times the exponential of a Gaussian process.

        Args:
            weights: shape (rows, domains), shares of training tokens; each row sums to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets), in the unit of the fitted table.
        """
        residuals = self.residuals.mean(self._new_rows(weights, tokens, params))
        return np.asarray(self.mean.predict(weights, tokens, params) * np.exp(residuals))

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Differentiate the product of the additive law and the process.

        Args:
            weights: shape (rows, domains); free numbers, which need not sum to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets, domains), the unit of the fitted table per unit of share.
        """
        rows = self._new_rows(weights, tokens, params)
        mean = self.mean.predict(weights, tokens, params)[:, :, None]
        by_root = self.residuals.scales[:, None] * self.residuals.standard_gradient(rows)
        by_share = by_root / (2 * rows.mixture[:, None, :])
        slopes = self.mean.gradient(weights, tokens, params) + mean * by_share
        return np.asarray(slopes * np.exp(self.residuals.mean(rows))[:, :, None])

    def formula(self, params: float) -> Formula:
        """Write the predicted losses as a formula of shares and tokens; see `LawWithFormula`."""
        roots = power(add(shares(), constant(ROOT_OFFSET)), constant(0.5))
        residuals = self.residuals.formula(roots, self.progress.formulas(params))
        return multiply(self.mean.formula(params), exp(residuals))

    def _new_rows(self, weights: Array, tokens: Array, params: Array) -> Rows:
        columns = self.progress.columns(tokens, params)
        return Rows(root_shares(weights), columns, new_runs(len(weights)))


@one_blas_thread()
def fit_gaussian(table: RunTable) -> FittedGaussian:
    """Fit the additive law, then a process for each target to its errors in log losses.

    Args:
        table: Any number of runs; of more than 3000 rows an even selection is kept.

    References:
        Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning". No paper mixes data
        this way.
    """
    table = evenly(table)
    mean = fit_additive(table)
    progress = progress_of(table)
    columns = progress.columns(table.tokens, table.params)
    rows = Rows(root_shares(table.weights), columns, run_numbers(table))
    residuals = np.log(table.losses / mean.predict(table.weights, table.tokens, table.params))
    return FittedGaussian(mean, progress, fit_processes(rows, residuals))


GAUSSIAN = Law(
    name="gaussian",
    summary="a Gaussian process on square-root shares around the additive law",
    paper="Rasmussen and Williams 2006, around arXiv:2507.09404",
    needs="runs",
    fit=fit_gaussian,
)
