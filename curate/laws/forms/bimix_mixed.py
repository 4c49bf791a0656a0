"""BiMix with the shares of all domains: any validation set, any mixture.

`bimix` is the law of the paper, which sees the target's own share only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from curate.laws.fitting.least_squares import Prior, fit_log_losses
from curate.laws.fitting.progress_term import Horizon, horizon_of
from curate.laws.formula import Formula, PowerSum, add, constant, multiply, power_sum, shares
from curate.laws.law import Array, Law, RunTable

SHARE_OFFSET = 5e-4
"""Added to every share, since a negative power is infinite at zero; about the smallest share that
run tables print. An arbitrary choice: at 1e-12 a zero weight would dominate every fit."""


@dataclass(frozen=True, slots=True)
class FittedBimixMixed:
    """L_i = sum_j F_ij (w_j + offset)^-alpha_ij * (1 + terms of tokens and model size)."""

    scales: Array
    """F, shape (targets, domains), positive."""
    powers: Array
    """alpha, shape (targets, domains), positive."""
    horizon: Horizon
    terms: Array
    """shape (targets, parameters of the horizon)."""

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Predict sum_j F_ij (w_j + offset)^-alpha_ij times the terms of tokens and size.

        Args:
            weights: shape (rows, domains), shares of training tokens; each row sums to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets), in the unit of the fitted table.
        """
        losses: Array = self._parts(weights).sum(axis=2) * self._progress(tokens, params)
        return losses

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Differentiate the sum over domains, times the terms of tokens and size.

        Args:
            weights: shape (rows, domains); free numbers, which need not sum to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets, domains), the unit of the fitted table per unit of share.
        """
        by_share = -self._parts(weights) * self.powers / (weights + SHARE_OFFSET)[:, None, :]
        return by_share * self._progress(tokens, params)[:, :, None]

    def formula(self, params: float) -> Formula:
        """Write the predicted losses as a formula of shares and tokens; see `LawWithFormula`."""
        ones = np.ones_like(self.scales)
        terms = PowerSum(self.scales, ones, SHARE_OFFSET * ones, -self.powers)
        later = self.horizon.formula(self.terms, params)
        return multiply(power_sum(shares(), terms), add(constant(1.0), later))

    def _parts(self, weights: Array) -> Array:
        parts: Array = self.scales * (weights + SHARE_OFFSET)[:, None, :] ** -self.powers
        return parts

    def _progress(self, tokens: Array, params: Array) -> Array:
        later, _ = self.horizon.evaluate(self.terms, tokens, params)
        return 1 + later.T


def fit_bimix_mixed(table: RunTable) -> FittedBimixMixed:
    """Fit L_i = sum_j F_ij (w_j + 0.0005)^-alpha_ij (1 + B_i / s^beta_i [+ A_i / N^gamma_i]).

    Args:
        table: Any number of runs; targets need not be domains.

    Returns:
        The fitted law.

    References:
        Ge et al. 2024, "BiMix", arXiv:2405.14908v4, Eq. 3, for the product of a mixture and a
        progress factor; the sum over domains as in Chen et al. 2026, "Olmix", arXiv:2602.12237.

    Differs from the papers: BiMix has the target's own share only; Olmix has no steps and clips
    shares at 1e-12. Model size enters beside the tokens, which neither does.
    """
    horizon = horizon_of(table)
    domains = len(table.domains)
    logs = np.log(table.weights + SHARE_OFFSET)

    def model(theta: Array) -> tuple[Array, Array]:
        later, by_terms = horizon.evaluate(theta[:, 2 * domains :], table.tokens, table.params)
        powers = np.exp(theta[:, None, domains : 2 * domains])
        parts = np.exp(theta[:, None, :domains] - powers * logs)
        mixed = parts.sum(axis=2)
        progress = (1 + later)[:, :, None]
        by_powers = -parts * powers * logs * progress
        derivatives = np.concatenate(
            [parts * progress, by_powers, mixed[:, :, None] * by_terms], axis=2
        )
        return mixed * (1 + later), derivatives

    mean = np.exp(np.log(table.losses).mean(axis=0))
    targets = len(mean)
    centre = np.concatenate(
        [np.repeat(np.log(0.8 * mean / domains)[:, None], domains, axis=1),
         np.full((targets, domains), np.log(0.05)),
         horizon.start(np.ones_like(table.losses))], axis=1,
    )  # fmt: skip
    spread = np.concatenate([np.full(domains, 2.0), np.full(domains, 1.0), horizon.spread()])
    theta = fit_log_losses(model, Prior(centre, spread), table.losses)
    scales, powers = np.exp(theta[:, :domains]), np.exp(theta[:, domains : 2 * domains])
    return FittedBimixMixed(scales, powers, horizon, theta[:, 2 * domains :])


BIMIX_MIXED = Law(
    name="bimix_mixed",
    summary="BiMix with the shares of all domains, summed",
    paper="after BiMix Eq. 3 and Olmix, Chen et al. 2026, arXiv:2602.12237",
    needs="runs; better with more of them than twice the domains",
    fit=fit_bimix_mixed,
)
