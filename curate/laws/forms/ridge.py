"""Linear regression of losses on shares with a quadratic penalty, as a plain yardstick.

The penalty is selected by five-fold cross-validation that keeps runs whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from curate.laws.fitting.features import Progress, progress_of, run_folds
from curate.laws.formula import Formula, add, constant, join, linear, shares
from curate.laws.law import Array, Law, RunTable

PENALTIES = tuple(10.0**power for power in range(-3, 4))
"""RegMix's grid, App. E."""


@dataclass(frozen=True, slots=True)
class FittedRidge:
    """A linear function of shares, ln tokens and ln parameters."""

    intercept: Array
    """shape (targets,)."""
    slopes: Array
    """shape (targets, domains + columns of progress)."""
    progress: Progress
    penalty: float
    """The selected one."""

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Predict losses linear in the shares and in the columns of progress.

        Args:
            weights: shape (rows, domains), shares of training tokens; each row sums to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets), in the unit of the fitted table.
        """
        design = np.concatenate([weights, self.progress.columns(tokens, params)], axis=1)
        losses: Array = self.intercept + design @ self.slopes.T
        return losses

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Return the slopes of the shares, the same for every mixture.

        Args:
            weights: shape (rows, domains); free numbers, which need not sum to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets, domains), the unit of the fitted table per unit of share.
        """
        slopes = self.slopes[:, : weights.shape[1]]
        return np.broadcast_to(slopes, (len(weights), *slopes.shape)).copy()

    def formula(self, params: float) -> Formula:
        """Write the predicted losses as a formula of shares and tokens; see `LawWithFormula`."""
        columns = join(shares(), *self.progress.formulas(params))
        return add(constant(self.intercept), linear(columns, self.slopes))


def fit_ridge(table: RunTable) -> FittedRidge:
    """Fit with the penalty of RegMix's grid whose mean squared error over five folds is least.

    References:
        Liu et al. 2024, "RegMix", arXiv:2407.01492v2, App. E.

    Differs from the paper: one penalty for all targets (their errors relative to their variance are
    averaged); checkpoints of a run stay in one fold.
    """
    progress = progress_of(table)
    design = np.concatenate([table.weights, progress.columns(table.tokens, table.params)], axis=1)
    best = PENALTIES[0]
    folds = run_folds(table, 5)
    if folds:
        variance = np.maximum(table.losses.var(axis=0), 1e-300)
        errors = []
        for penalty in PENALTIES:
            total = 0.0
            for held in folds:
                intercept, slopes = ridge_regression(design[~held], table.losses[~held], penalty)
                off = intercept + design[held] @ slopes.T - table.losses[held]
                total += float((off**2 / variance).sum())
            errors.append(total)
        best = PENALTIES[int(np.argmin(errors))]
    intercept, slopes = ridge_regression(design, table.losses, best)
    return FittedRidge(intercept, slopes, progress, best)


def ridge_regression(design: Array, losses: Array, penalty: float) -> tuple[Array, Array]:
    """Minimise |y - a - X b|^2 + penalty |b|^2 for every target.

    Args:
        design: X, shape (rows, columns).
        losses: y, shape (rows, targets).
        penalty: At least 0; the intercepts are not penalised.

    Returns:
        Intercepts a, shape (targets,), and slopes b, shape (targets, columns).

    Example:
        >>> design, losses = np.array([[-1.0], [1.0]]), np.array([[0.0], [2.0]])
        >>> intercept, slopes = ridge_regression(design, losses, 2.0)
        >>> float(intercept[0]), float(slopes[0, 0])
        (1.0, 0.5)
    """
    centre, mean = design.mean(axis=0), losses.mean(axis=0)
    shifted = design - centre
    square = shifted.T @ shifted + penalty * np.eye(design.shape[1])
    slopes = np.linalg.solve(square, shifted.T @ (losses - mean)).T
    return mean - slopes @ centre, slopes


RIDGE = Law(
    name="ridge",
    summary="linear in the shares, penalty by cross-validation",
    paper="RegMix, Liu et al. 2024, arXiv:2407.01492v2, App. E",
    needs="runs",
    fit=fit_ridge,
    convex=True,
    replicates=20,  # an optimum on the edge of the trust region takes two seconds
)
