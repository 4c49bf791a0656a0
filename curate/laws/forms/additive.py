"""Apple's additive law: a floor, a term of the mixture, a term of tokens, one of model size.

In this form the best mixture does not depend on tokens or model size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from curate.laws.fitting.least_squares import Prior, fit_log_losses
from curate.laws.fitting.progress_term import Horizon, horizon_of
from curate.laws.formula import Formula, PowerSum, add, constant, power, power_sum, shares
from curate.laws.law import Array, Law, RunTable

SHARE_OFFSET = 1e-4
"""Added to every share: powers below one have no derivative at zero."""


@dataclass(frozen=True, slots=True)
class FittedAdditive:
    """Coefficients of every target."""

    floor: Array
    """shape (targets,), positive."""
    use: Array
    """C, shape (targets, domains), positive: how much a domain helps a target."""
    powers: Array
    """gamma, shape (targets, domains), positive."""
    horizon: Horizon
    terms: Array
    """shape (targets, parameters of the horizon)."""

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Predict E_i + 1 / sum_j C_ij w_j^gamma_ij, and the terms of size and tokens.

        Args:
            weights: shape (rows, domains), shares of training tokens; each row sums to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets), in the unit of the fitted table.
        """
        later, _ = self.horizon.evaluate(self.terms, tokens, params)
        losses: Array = self.floor + 1 / self._parts(weights).sum(axis=2) + later.T
        return losses

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Differentiate 1 / sum_j C_ij w_j^gamma_ij; the terms of size and tokens have no slope.

        Args:
            weights: shape (rows, domains); free numbers, which need not sum to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets, domains), the unit of the fitted table per unit of share.
        """
        parts = self._parts(weights)
        by_share = parts * self.powers / (weights + SHARE_OFFSET)[:, None, :]
        slopes: Array = -by_share / parts.sum(axis=2, keepdims=True) ** 2
        return slopes

    def formula(self, params: float) -> Formula:
        """Write the predicted losses as a formula of shares and tokens; see `LawWithFormula`."""
        ones = np.ones_like(self.use)
        useful = power_sum(shares(), PowerSum(self.use, ones, SHARE_OFFSET * ones, self.powers))
        later = self.horizon.formula(self.terms, params)
        return add(constant(self.floor), later, power(useful, constant(-1.0)))

    def _parts(self, weights: Array) -> Array:
        """Return C_ij (w_j + offset)^gamma_ij, shape (rows, targets, domains)."""
        parts: Array = self.use * (weights + SHARE_OFFSET)[:, None, :] ** self.powers
        return parts


def fit_additive(table: RunTable) -> FittedAdditive:
    """Fit L_i = E_i + 1 / sum_j C_ij w_j^gamma_ij [+ A_i / N^alpha_i + B_i / D^beta_i].

    Args:
        table: Any number of runs; the terms of tokens and model size exist where those vary.

    Returns:
        The fitted law.

    References:
        Shukor et al. 2025, "Scaling laws for optimal data mixtures", arXiv:2507.09404, the
        additive law.

    Differs from the paper: squared error of log losses with normal priors (of ln C and ln gamma)
    from one start, instead of a Huber loss and basin hopping; 0.0001 is added to each share.
    """
    horizon = horizon_of(table)
    domains = len(table.domains)
    shares = table.weights + SHARE_OFFSET
    logs = np.log(shares)
    ends = (1, 1 + domains, 1 + 2 * domains)

    def model(theta: Array) -> tuple[Array, Array]:
        later, by_terms = horizon.evaluate(theta[:, ends[2] :], table.tokens, table.params)
        floor = np.exp(theta[:, :1])
        powers = np.exp(theta[:, None, ends[1] : ends[2]])
        parts = np.exp(theta[:, None, ends[0] : ends[1]] + powers * logs)
        mixed = 1 / parts.sum(axis=2)
        by_use = -parts * mixed[:, :, None] ** 2
        by_floor = np.broadcast_to(floor, mixed.shape)[:, :, None]
        by_powers = by_use * powers * logs
        derivatives = np.concatenate([by_floor, by_use, by_powers, by_terms], axis=2)
        return floor + mixed + later, derivatives

    lowest = 0.8 * table.losses.min(axis=0)
    excess = np.exp(np.log(table.losses).mean(axis=0)) - 0.9 * lowest
    targets = len(lowest)
    # Equal domains at an even mixture give the mean loss: 1 / (k C (1/k)^(1/2)) = excess.
    use = -np.log(excess) - 0.5 * np.log(domains)
    centre = np.concatenate(
        [np.log(lowest)[:, None], np.repeat(use[:, None], domains, axis=1),
         np.full((targets, domains), np.log(0.5)), horizon.start(table.losses)], axis=1,
    )  # fmt: skip
    spread = np.concatenate([[0.5], np.full(domains, 2.0), np.full(domains, 0.7), horizon.spread()])
    theta = fit_log_losses(model, Prior(centre, spread), table.losses)
    use, powers = np.exp(theta[:, ends[0] : ends[1]]), np.exp(theta[:, ends[1] : ends[2]])
    return FittedAdditive(np.exp(theta[:, 0]), use, powers, horizon, theta[:, ends[2] :])


ADDITIVE = Law(
    name="additive",
    summary="E + 1 / sum C w^gamma + A/N^alpha + B/D^beta",
    paper="Shukor et al. 2025, arXiv:2507.09404, additive law",
    needs="runs; better with more of them than twice the domains",
    fit=fit_additive,
)
