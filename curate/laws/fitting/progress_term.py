"""Terms that fall with tokens and model size, for laws of mixtures that have none.

The mixture laws of the literature are fitted at one token count and one model size. Where a table
has several, they get the additive terms B / D^beta and A / N^alpha of this module. Each exists only
where the table determines its exponent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from curate.laws.formula import Formula, add, constant, exp, log, multiply, tokens
from curate.laws.law import Array, RunTable

DISTINCT = 2
"""Fewest distinct values of tokens or parameters for a term; priors settle what few leave open."""


@dataclass(frozen=True, slots=True)
class Horizon:
    """The terms that exist, and the units of tokens and parameters."""

    tokens_unit: float
    """Geometric mean of the table's tokens; NaN for no term."""
    params_unit: float
    """Geometric mean of the table's parameters; NaN for no term."""

    @property
    def parameters(self) -> int:
        """Number of parameters of a target: ln amplitude and ln exponent of each term."""
        return 2 * sum(np.isfinite([self.tokens_unit, self.params_unit]))

    def start(self, losses: Array) -> Array:
        """Return prior centres, shape (targets, parameters): a tenth of the loss, exponent 0.3."""
        amplitude = np.log(0.1 * np.exp(np.log(losses).mean(axis=0)))
        exponent = np.full(losses.shape[1], np.log(0.3))
        return np.tile(np.stack([amplitude, exponent], axis=1), self.parameters // 2)

    def spread(self) -> Array:
        """Return prior standard deviations, shape (parameters,)."""
        return np.tile([2.0, 0.7], self.parameters // 2)

    def evaluate(self, theta: Array, tokens: Array, params: Array) -> tuple[Array, Array]:
        """Sum the terms.

        Args:
            theta: shape (targets, parameters).
            tokens: shape (rows,).
            params: shape (rows,).

        Returns:
            The sum, shape (targets, rows), and its derivatives by `theta`, shape (targets, rows,
            parameters).
        """
        total = np.zeros((len(theta), len(tokens)))
        derivatives = np.zeros((*total.shape, self.parameters))
        at = 0
        for unit, values in ((self.tokens_unit, tokens), (self.params_unit, params)):
            if not np.isfinite(unit):
                continue
            exponent = np.exp(theta[:, at + 1, None])
            logs = np.log(values / unit)
            term = np.exp(theta[:, at, None] - exponent * logs)
            total += term
            derivatives[:, :, at] = term
            derivatives[:, :, at + 1] = -term * exponent * logs
            at += 2
        return total, derivatives

    def formula(self, theta: Array, params: float) -> Formula:
        """Write the sum of the terms as a formula of the tokens.

        Args:
            theta: shape (targets, coefficients).
            params: Parameters of the model.
        """
        terms, at = [constant(np.zeros(len(theta)))], 0
        for unit, count in ((self.tokens_unit, tokens()), (self.params_unit, constant(params))):
            if np.isfinite(unit):
                logs = log(multiply(count, constant(1 / unit)))
                falls = multiply(constant(-np.exp(theta[:, at + 1])), logs)
                terms.append(exp(add(constant(theta[:, at]), falls)))
                at += 2
        return add(*terms)


def horizon_of(table: RunTable) -> Horizon:
    """Find the terms that this table determines."""
    return Horizon(_unit(table.tokens), _unit(table.params))


def _unit(values: Array) -> float:
    finite = values[np.isfinite(values)]
    if len(np.unique(finite)) < DISTINCT:
        return float("nan")
    return float(np.exp(np.log(finite).mean()))
