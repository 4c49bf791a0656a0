"""AutoScale's law: a sum over domains of power laws of the tokens seen of each.

Shares and tokens enter only as their product, the tokens of a domain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from curate.laws.fitting.least_squares import Prior, fit_log_losses
from curate.laws.fitting.progress_term import Horizon, horizon_of
from curate.laws.formula import (
    Formula,
    PowerSum,
    add,
    constant,
    multiply,
    power_sum,
    shares,
    tokens,
)
from curate.laws.law import Array, Law, RunTable


@dataclass(frozen=True, slots=True)
class FittedAutoscale:
    """Coefficients of every target; exposure is share * tokens / tokens_unit."""

    floor: Array
    """shape (targets,), positive."""
    amplitude: Array
    """shape (targets, domains), positive."""
    head_start: Array
    """a, shape (targets, domains), positive: exposure worth as much as the other domains."""
    powers: Array
    """b, shape (targets, domains), positive."""
    tokens_unit: float
    """Geometric mean of the table's tokens; NaN if exposure is the share alone."""
    horizon: Horizon
    """The term of model size; tokens have none here."""
    terms: Array
    """shape (targets, parameters of the horizon)."""

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Predict c_i + sum_j b_ij (1 + exposure_j / a_ij)^-g_ij, and the term of size.

        Args:
            weights: shape (rows, domains), shares of training tokens; each row sums to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets), in the unit of the fitted table.
        """
        later, _ = self.horizon.evaluate(self.terms, tokens, params)
        exposures = weights * _relative(tokens, self.tokens_unit)[:, None]
        losses: Array = self.floor + self._parts(exposures).sum(axis=2) + later.T
        return losses

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Differentiate the sum over domains; the slopes depend on tokens through the exposures.

        Args:
            weights: shape (rows, domains); free numbers, which need not sum to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets, domains), the unit of the fitted table per unit of share.
        """
        relative = _relative(tokens, self.tokens_unit)[:, None]
        exposures = weights * relative
        parts = self._parts(exposures)
        by_exposure = -self.powers * parts / (exposures[:, None, :] + self.head_start)
        return by_exposure * relative[:, :, None]

    def formula(self, params: float) -> Formula:
        """Write the predicted losses as a formula of shares and tokens; see `LawWithFormula`."""
        seen, rate = shares(), 1 / self.head_start
        if np.isfinite(self.tokens_unit):
            seen = multiply(seen, tokens(), constant(1 / self.tokens_unit))
        terms = PowerSum(self.amplitude, rate, np.ones_like(rate), -self.powers)
        later = self.horizon.formula(self.terms, params)
        return add(constant(self.floor), later, power_sum(seen, terms))

    def _parts(self, exposures: Array) -> Array:
        parts: Array = (
            self.amplitude * (exposures[:, None, :] / self.head_start + 1) ** -self.powers
        )
        return parts


def fit_autoscale(table: RunTable) -> FittedAutoscale:
    """Fit L_i = c_i + sum_j F_ij (1 + D w_j / a_ij)^-b_ij [+ A_i / N^alpha_i].

    Args:
        table: Any number of runs; D is 1 where the table has no or one token count.

    Returns:
        The fitted law.

    References:
        Kang et al. 2024, "AutoScale", arXiv:2407.20177: (x + a)^-b + c of a domain's tokens, summed
        over domains.

    Differs from the paper: all runs are fitted at once, where the paper fits three runs of each
    domain; every term has an amplitude (F a^b for the paper's form), since losses are in nats. The
    paper finds the optima of two small budgets and scales them, N3 = N2 N2 / N1 for each domain's
    tokens; here the law is minimised at the tokens asked for (`mixture.at_tokens`), near the runs.
    """
    full = horizon_of(table)
    horizon = Horizon(float("nan"), full.params_unit)
    unit = full.tokens_unit
    domains = len(table.domains)
    exposures = table.weights * _relative(table.tokens, unit)[:, None]
    ends = (1, 1 + domains, 1 + 2 * domains, 1 + 3 * domains)

    def model(theta: Array) -> tuple[Array, Array]:
        later, by_terms = horizon.evaluate(theta[:, ends[3] :], table.tokens, table.params)
        floor = np.exp(theta[:, :1])
        head_start = np.exp(theta[:, None, ends[1] : ends[2]])
        powers = np.exp(theta[:, None, ends[2] : ends[3]])
        ratio = exposures / head_start
        logs = np.log1p(ratio)
        parts = np.exp(theta[:, None, ends[0] : ends[1]] - powers * logs)
        by_start = parts * powers * ratio / (1 + ratio)
        total = floor + parts.sum(axis=2)
        by_floor = np.broadcast_to(floor, total.shape)[:, :, None]
        by_powers = -parts * powers * logs
        derivatives = np.concatenate([by_floor, parts, by_start, by_powers, by_terms], axis=2)
        return total + later, derivatives

    lowest = 0.6 * table.losses.min(axis=0)
    share = (np.exp(np.log(table.losses).mean(axis=0)) - 0.9 * lowest) / domains
    targets = len(lowest)
    centre = np.concatenate(
        [np.log(lowest)[:, None], np.repeat(np.log(share)[:, None], domains, axis=1),
         np.full((targets, domains), np.log(0.1)), np.full((targets, domains), np.log(0.5)),
         horizon.start(table.losses)], axis=1,
    )  # fmt: skip
    spread = np.concatenate(
        [[0.5], np.full(domains, 2.0), np.full(domains, 2.0), np.full(domains, 0.7),
         horizon.spread()]
    )  # fmt: skip
    theta = fit_log_losses(model, Prior(centre, spread), table.losses)
    by_domain = np.exp(theta[:, ends[0] : ends[3]]).reshape(targets, 3, domains)
    return FittedAutoscale(
        floor=np.exp(theta[:, 0]), amplitude=by_domain[:, 0], head_start=by_domain[:, 1],
        powers=by_domain[:, 2], tokens_unit=unit, horizon=horizon, terms=theta[:, ends[3] :],
    )  # fmt: skip


def _relative(tokens: Array, unit: float) -> Array:
    return tokens / unit if np.isfinite(unit) else np.ones(len(tokens))


AUTOSCALE = Law(
    name="autoscale",
    summary="a power law of the tokens of every domain, summed",
    paper="AutoScale, Kang et al. 2024, arXiv:2407.20177",
    needs="runs; better with more of them than three times the domains",
    fit=fit_autoscale,
)
