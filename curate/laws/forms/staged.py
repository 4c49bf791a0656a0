"""The staged law: useful data over stages of training, where late tokens may count otherwise.

Tokens of a domain add up over the stages of a run, those of later stages at a rate of their own,
before returns diminish. With rates of 1 the order of the data does not matter, and with the same
rate for all domains no order is better than another: only where rates differ between domains, or
supply is short, can a second mixture pay. A table without stages is the case of one stage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.laws.fitting.least_squares import Prior, fit_log_losses
from curate.laws.fitting.progress_term import Horizon, horizon_of
from curate.laws.formula import (
    Formula,
    PowerSum,
    add,
    constant,
    exp,
    log,
    multiply,
    power_sum,
    shares,
)
from curate.laws.law import Array, Law, RunTable, stage_columns

SHARE_OFFSET = 1e-4
"""Added to every domain's tokens, since a power below one has no derivative at zero."""
POWER, POWER_SPREAD = 0.6, 0.3
"""Prior of the power of diminishing returns, as that of `joint`."""
RATE_SPREAD = 1.0
"""Prior standard deviation of the logarithm of a later stage's rate, the same for all domains."""
DOMAIN_RATE_SPREAD = 0.5
"""Prior standard deviation of a domain's own deviation from that."""
FIXED = 1e-4
"""Prior spread that keeps a parameter at its centre."""


@dataclass(frozen=True, slots=True)
class StagedLayout:
    """Places of a target's parameters in its row of the parameter matrix.

    First transfers, then ln p, the sizes of floor and useful term, the exponent, the rates of later
    stages, and each domain's deviation from them.
    """

    columns: NDArray[np.int64]
    """shape (stages, domains), the column of the weights that each is; -1 for none."""

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.columns)

    @property
    def domains(self) -> int:
        """Number of domains."""
        return int(self.columns.shape[1])

    @property
    def rates(self) -> slice:
        """Places of ln rates of the stages after the first."""
        return slice(self.domains + 4, self.domains + 3 + self.stages)

    @property
    def deviations(self) -> slice:
        """Places of the domains' deviations, stage by stage."""
        start = self.rates.stop
        return slice(start, start + (self.stages - 1) * self.domains)

    @property
    def size(self) -> int:
        """Number of parameters but those of progress."""
        return int(self.deviations.stop)

    def by_stage(self, weights: Array) -> Array:
        """Return shares of all tokens, shape (stages, rows, domains)."""
        padded = np.column_stack([weights, np.zeros(len(weights))])
        return np.asarray(padded[:, self.columns].transpose(1, 0, 2))

    def ln_rates(self, theta: Array) -> Array:
        """Return ln rates, shape (targets, stages, domains); 0 in the first stage."""
        rates = np.zeros((len(theta), self.stages, self.domains))
        deviations = theta[:, self.deviations].reshape(len(theta), -1, self.domains)
        rates[:, 1:] = theta[:, self.rates, None] + deviations
        return rates


@dataclass(frozen=True, slots=True)
class _State:
    """The law at some rows without progress; T targets, R rows, S stages, D domains."""

    floor: Array
    """shape (T, 1)."""
    useful: Array
    """A S^-a, shape (T, R)."""
    log_sum: Array
    """ln S, shape (T, R)."""
    parts: Array
    """shape (T, R, D), each domain's part of S."""
    by_rate: Array
    """shape (T, R, S, D), derivative of ln S by ln rates."""
    amounts: Array
    """Tokens with the offset, shape (T, R, D)."""


def _evaluate(layout: StagedLayout, theta: Array, weights: Array) -> _State:
    by_stage, domains = layout.by_stage(weights), layout.domains
    counted = np.exp(layout.ln_rates(theta))[:, :, None, :] * by_stage
    amounts = counted.sum(axis=1) + SHARE_OFFSET
    power = np.exp(theta[:, domains, None, None])
    exponents = theta[:, None, :domains] + power * np.log(amounts)
    top = exponents.max(axis=2, keepdims=True)
    parts = np.exp(exponents - top)
    total = parts.sum(axis=2, keepdims=True)
    log_sum = (top + np.log(total))[:, :, 0]
    parts = parts / total
    by_rate = (parts * power / amounts)[:, :, None, :] * counted.transpose(0, 2, 1, 3)
    useful = np.exp(theta[:, domains + 2, None] - np.exp(theta[:, domains + 3, None]) * log_sum)
    return _State(np.exp(theta[:, domains + 1, None]), useful, log_sum, parts, by_rate, amounts)


@dataclass(frozen=True, slots=True)
class FittedStaged:
    """L = (E + A S^-a) (1 + progress), S = sum over domains of e^t (sum over stages of k u)^p."""

    layout: StagedLayout
    theta: Array
    """shape (targets, parameters), see `StagedLayout`; then those of progress."""
    horizon: Horizon

    @property
    def rates(self) -> Array:
        """Worth of a token of each stage and domain beside one of the first stage.

        Shape (targets, stages, domains).
        """
        return np.exp(self.layout.ln_rates(self.theta))

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Predict losses.

        Args:
            weights: shape (rows, columns), shares of all tokens by stage and domain.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets), in the unit of the fitted table.
        """
        state = _evaluate(self.layout, self.theta, weights)
        return np.asarray(((state.floor + state.useful) * self._progress(tokens, params)).T)

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Differentiate the predicted losses by the shares of all tokens.

        Args:
            weights: shape (rows, columns); free numbers, which need not sum to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets, columns), the unit of the fitted table per unit of share.
        """
        layout, theta = self.layout, self.theta
        state = _evaluate(layout, theta, weights)
        power = np.exp(theta[:, layout.domains, None, None])
        by_amount = state.parts * power / state.amounts
        by_log_sum = -np.exp(theta[:, layout.domains + 3, None]) * state.useful
        by_log_sum *= self._progress(tokens, params)
        slopes = np.zeros((len(weights), len(theta), weights.shape[1]))
        for stage, columns in enumerate(layout.columns):
            by_share = by_log_sum[:, :, None] * by_amount * self.rates[:, stage][:, None, :]
            present = columns >= 0
            slopes[:, :, columns[present]] = by_share[:, :, present].transpose(1, 0, 2)
        return slopes

    def formula(self, params: float) -> Formula:
        """Write the predicted losses as a formula of shares and tokens, of a table without stages.

        Raises:
            ValueError: The table has stages.
        """
        layout, theta = self.layout, self.theta
        if layout.stages > 1:
            raise ValueError("a law of several stages is no function of one mixture")
        domains = layout.domains
        scale, powers = np.exp(theta[:, :domains]), np.exp(theta[:, domains])[:, None]
        place = layout.columns[0]
        ordered = np.empty_like(scale)
        ordered[:, place] = scale
        ones, offset = np.ones((1, 1)), np.full((1, 1), SHARE_OFFSET)
        log_sum = log(power_sum(shares(), PowerSum(ordered, ones, offset, powers)))
        exponent = -np.exp(theta[:, domains + 3])
        useful = exp(add(constant(theta[:, domains + 2]), multiply(constant(exponent), log_sum)))
        floor = constant(np.exp(theta[:, domains + 1]))
        later = self.horizon.formula(theta[:, layout.size :], params)
        return multiply(add(floor, useful), add(constant(1.0), later))

    def _progress(self, tokens: Array, params: Array) -> Array:
        later, _ = self.horizon.evaluate(self.theta[:, self.layout.size :], tokens, params)
        return 1 + later


def fit_staged(table: RunTable) -> FittedStaged:
    """Fit L_i = (E_i + A_i S_i^-a_i) (1 + B_i / D^beta_i + ...).

    Useful data are S_i = sum_j e^t_ij (sum_s k_isj u_sj + offset)^p_i: u_sj is stage s's and
    domain j's share of all tokens, k_1 = 1, and ln k_sj = r_s + d_sj, where both are normal around
    0 before any run.

    Args:
        table: Any runs; with stages to learn their rates, else k = 1.

    Returns:
        The fitted law.
    """
    return _fit(table, DOMAIN_RATE_SPREAD)


def fit_order_blind(table: RunTable) -> FittedStaged:
    """Fit the same law without an advantage of any order: rates are the same for all domains.

    Args:
        table: Any runs.

    Returns:
        The fitted law. Whatever mixtures its stages have, one mixture for all of them would do as
        well, but for supply.
    """
    return _fit(table, FIXED)


def _fit(table: RunTable, deviation_spread: float) -> FittedStaged:
    layout, horizon = StagedLayout(stage_columns(table)), horizon_of(table)
    size, domains = layout.size, layout.domains

    def model(theta: Array) -> tuple[Array, Array]:
        state = _evaluate(layout, theta, table.weights)
        later, by_terms = horizon.evaluate(theta[:, size:], table.tokens, table.params)
        exponent = np.exp(theta[:, domains + 3, None])
        by_log_sum = (-exponent * state.useful)[:, :, None]
        power = np.exp(theta[:, domains, None])
        by_power = (state.parts * np.log(state.amounts)).sum(axis=2) * power
        by_rate = by_log_sum[:, :, :, None] * state.by_rate[:, :, 1:]
        rows = len(table.weights)
        losses = state.floor + state.useful
        derivatives = np.concatenate(
            [
                by_log_sum * state.parts,
                by_log_sum * by_power[:, :, None],
                np.repeat(state.floor[:, :, None], rows, axis=1),
                state.useful[:, :, None],
                by_log_sum * state.log_sum[:, :, None],
                by_rate.sum(axis=3),
                by_rate.reshape(len(theta), rows, -1),
            ],
            axis=2,
        )
        progress = (1 + later)[:, :, None]
        by_progress = losses[:, :, None] * by_terms
        return losses * (1 + later), np.concatenate([derivatives * progress, by_progress], axis=2)

    centre = np.zeros((len(table.targets), size))
    spread = np.ones(size)
    centre[:, domains], spread[domains] = np.log(POWER), POWER_SPREAD
    mean = np.log(table.losses).mean(axis=0)
    centre[:, domains + 1], centre[:, domains + 2] = mean + np.log(0.65), mean + np.log(0.3)
    spread[domains + 1 : domains + 3] = 2.0
    centre[:, domains + 3], spread[domains + 3] = np.log(0.3), 0.5
    spread[layout.rates], spread[layout.deviations] = RATE_SPREAD, deviation_spread
    prior = Prior(
        np.concatenate([centre, horizon.start(table.losses)], axis=1),
        np.concatenate([spread, horizon.spread()]),
    )
    return FittedStaged(layout, fit_log_losses(model, prior, table.losses), horizon)


STAGED = Law(
    name="staged",
    summary="useful data with diminishing returns, where later stages count at other rates",
    paper="no paper; ours",
    needs="runs; stages with mixtures of their own to say more than one stage's law",
    fit=fit_staged,
)
