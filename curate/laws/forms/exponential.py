"""The data mixing law: a floor plus an exponential of the shares.

The excess is log-linear in the mixture, so minimising a sum of such losses is a convex problem.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from curate.laws.fitting.least_squares import Prior, fit_log_losses
from curate.laws.fitting.progress_term import Horizon, horizon_of
from curate.laws.formula import Formula, add, constant, exp, linear, shares
from curate.laws.law import Array, Law, RunTable

SLOPE_SPREAD = 10.0
"""Prior standard deviation of a domain's slope. Without it a domain that was only ever seen up to
1 % gets a slope that explodes on the first larger share. On RegMix's 512 runs (tested on 256) and
olmix's 127 (five folds), mean R2 was .88 and .76 at 3, .91 and .73 at 10, .92 and -12 at 100."""


@dataclass(frozen=True, slots=True)
class FittedExponential:
    """Coefficients of every target."""

    floor: Array
    """shape (targets,), positive."""
    level: Array
    """shape (targets,)."""
    slopes: Array
    """shape (targets, domains)."""
    horizon: Horizon
    terms: Array
    """shape (targets, parameters of the horizon)."""

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Predict c_i + exp(a_i + sum_j t_ij w_j), and the terms of tokens and size.

        Args:
            weights: shape (rows, domains), shares of training tokens; each row sums to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets), in the unit of the fitted table.
        """
        later, _ = self.horizon.evaluate(self.terms, tokens, params)
        return self.floor + self._excess(weights) + later.T

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Differentiate exp(a_i + sum_j t_ij w_j); the terms of tokens and size have no slope.

        Args:
            weights: shape (rows, domains); free numbers, which need not sum to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets, domains), the unit of the fitted table per unit of share.
        """
        return self._excess(weights)[:, :, None] * self.slopes[None]

    def formula(self, params: float) -> Formula:
        """Write the predicted losses as a formula of shares and tokens; see `LawWithFormula`."""
        excess = exp(add(constant(self.level), linear(shares(), self.slopes)))
        later = self.horizon.formula(self.terms, params)
        return add(constant(self.floor), later, excess)

    def _excess(self, weights: Array) -> Array:
        excess: Array = np.exp(self.level + weights @ self.slopes.T)
        return excess


def fit_exponential(table: RunTable) -> FittedExponential:
    """Fit L_i = c_i + exp(a_i + sum_j t_ij w_j) [+ B_i / D^beta_i + A_i / N^alpha_i].

    Since shares sum to 1, a shift of all slopes is the level a_i; a prior on the slopes around 0
    makes them unique, and keeps the slopes of rarely sampled domains from exploding.

    Args:
        table: Any number of runs; with fewer than domains, the prior settles the rest.

    Returns:
        The fitted law.

    References:
        Ye et al. 2024, "Data Mixing Laws", arXiv:2403.16952, Eq. 7; the same form in Chen et al.
        2026, "Olmix", arXiv:2602.12237.

    Differs from the paper: squared error of log losses with normal priors instead of a Huber loss
    from hundreds of random starts, so the fit is deterministic; several token counts or model
    sizes in one table add terms to the floor instead of being extrapolated first.
    """
    horizon = horizon_of(table)
    domains = len(table.domains)

    def model(theta: Array) -> tuple[Array, Array]:
        later, by_terms = horizon.evaluate(theta[:, 2 + domains :], table.tokens, table.params)
        floor = np.exp(theta[:, :1])
        excess = np.exp(theta[:, 1:2] + theta[:, 2 : 2 + domains] @ table.weights.T)
        by_slopes = excess[:, :, None] * table.weights
        by_floor = np.broadcast_to(floor, excess.shape)[:, :, None]
        derivatives = np.concatenate([by_floor, excess[:, :, None], by_slopes, by_terms], axis=2)
        return floor + excess + later, derivatives

    lowest = np.log(0.8 * table.losses.min(axis=0))
    mean = np.exp(np.log(table.losses).mean(axis=0))
    level = np.log(mean - 0.7 * table.losses.min(axis=0))
    centre = np.concatenate(
        [lowest[:, None], level[:, None], np.zeros((len(mean), domains)),
         horizon.start(table.losses)], axis=1,
    )  # fmt: skip
    spread = np.concatenate([[0.5, 2.0], np.full(domains, SLOPE_SPREAD), horizon.spread()])
    theta = fit_log_losses(model, Prior(centre, spread), table.losses)
    return FittedExponential(
        np.exp(theta[:, 0]), theta[:, 1], theta[:, 2 : 2 + domains], horizon,
        theta[:, 2 + domains :],
    )  # fmt: skip


EXPONENTIAL = Law(
    name="exponential",
    summary="data mixing law: c + exp(t.w), with a prior on the slopes",
    paper="Data Mixing Laws, Ye et al. 2024, arXiv:2403.16952, Eq. 7",
    needs="runs; better with more of them than domains",
    fit=fit_exponential,
    convex=True,
    replicates=40,
)
