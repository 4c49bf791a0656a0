"""The effective-share trend: how a loss falls with useful data, in a few parameters a target.

A target sees every domain through a transfer t_i, S(w) = sum_i e^t_i (w_i + offset)^p, and its loss
is a sum of power laws of S, tokens and model size. Where tokens vary, S has one more part, a head
start e^h / tokens, as if the model had already seen that much, so that (tokens S)^-a levels
off at small shares and early on. BiMix is the case of one transfer and terms that share an
exponent; the exponential law is the limit of a large exponent at p = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from curate.laws.fitting.features import Progress
from curate.laws.fitting.least_squares import Model, Prior, fit_log_losses
from curate.laws.formula import (
    Formula,
    PowerSum,
    add,
    constant,
    exp,
    linear,
    log,
    multiply,
    power_sum,
    shares,
    softplus,
)
from curate.laws.law import Array, RunTable

Groups = NDArray[np.int64]

SHARE_OFFSET = 1e-4
"""Added to every share: powers below one have no derivative at zero."""
HEADROOM = 0.5
"""How far above the highest loss of the table a prediction may rise, in ranges of log losses.
Otherwise a product of exponents can explode for a domain that hardly any run has."""
BEND = 0.05
"""Ranges of log losses over which the rise levels off; no effect inside the table."""
NO_HEAD_START = -40.0
"""ln of a head start too small to matter."""
HEAD_START_SPREAD = 1.5
"""Standard deviation of h. Where losses have such a start (planted, with repeated tokens, 48
mixtures x 5 x 3), the joint law misses unseen mixtures by 0.088 % with it and by 0.163 % without;
on `additive` of `tools/bench/joint.py`, which has none, by 0.125 and 0.124 %."""
OWN_TRANSFER = 3.0
"""Centre of t for a target's own domain, if `joint` takes it: before any run, one of its tokens is
worth 20 of others."""
TILT_SPREAD = 0.2
"""Prior standard deviation of a tilt. 0.1 does as well."""
FIXED = 1e-4
"""Prior spread that keeps a parameter at its centre."""


@dataclass(frozen=True, slots=True)
class TrendPrior:
    """Prior of the transfers, before any run."""

    transfer_spread: float
    """Standard deviation of t; `FIXED`: the mixture has no effect."""
    power: float
    """Centre of p."""
    power_spread: float
    """Standard deviation of ln p; `FIXED`: p is not fitted."""
    head_start: float
    """Centre of h, at the table's mean tokens; `NO_HEAD_START` for none."""
    own_transfer: float = 0.0
    """Centre of t for the domain that has the target's name; 0 for all others."""


DIMINISHING = TrendPrior(1.0, 0.6, 0.3, -3.0)
"""A domain's first tokens teach most, to a fitted degree: best near the runs."""
PROPORTIONAL = TrendPrior(1.0, 1.0, FIXED, -3.0)
"""Linear in the shares inside S, as the exponential law: best far from the runs."""
PROGRESS_ONLY = TrendPrior(FIXED, 1.0, FIXED, NO_HEAD_START)
"""S = 1 for every mixture: the mean curve over tokens and model size."""


@dataclass(frozen=True, slots=True)
class TrendLayout:
    """Places of a target's parameters in its row of the parameter matrix.

    Terms of the loss, in order: the floor, the term of S alone, one of each column of progress. The
    latter may be tilted: multiplied by e^(u.w), since what the shares do to the effect of size or
    tokens need not go with S.
    """

    domains: int
    columns: int
    """Columns of progress, 0 to 2: tokens and parameters where they vary."""
    tokens_scale: float
    """Standard deviation of ln tokens, the unit of the first column; 0 if tokens do not vary."""
    tilted: bool = False
    """Whether shares tilt the terms of progress."""

    @property
    def parts(self) -> int:
        """Number of parts of S: the domains, and the head start where tokens vary."""
        return self.domains + (self.tokens_scale > 0)

    def amounts(self, weights: Array, columns: Array) -> Array:
        """Return shares and relative head start, shape (rows, parts)."""
        if not self.tokens_scale:
            return weights
        return np.column_stack([weights, np.exp(-self.tokens_scale * columns[:, 0])])

    @property
    def power(self) -> int:
        """Place of ln p, after the transfers."""
        return self.parts

    @property
    def offsets(self) -> slice:
        """Places of the logarithm of every term's size."""
        return slice(self.parts + 1, self.parts + 3 + self.columns)

    @property
    def share_exponents(self) -> slice:
        """Places of the logarithm of S's exponent in every term but the floor."""
        end = self.offsets.stop
        return slice(end, end + 1 + self.columns)

    @property
    def progress_exponents(self) -> slice:
        """Places of the logarithm of progress's exponent in the terms that have one."""
        end = self.share_exponents.stop
        return slice(end, end + self.columns)

    @property
    def tilts(self) -> slice:
        """Places of the slopes of the logarithm of every term of progress by the shares."""
        end = self.progress_exponents.stop
        return slice(end, end + self.columns * self.domains * self.tilted)

    def tilts_of(self, theta: Array) -> Array:
        """Return the tilts, shape (targets, columns, domains)."""
        return theta[:, self.tilts].reshape(len(theta), -1, self.domains)

    def deviations(self, weights: Array) -> Array:
        """Compare shares with equal ones, in the unit of the tilts, shape (rows, domains)."""
        return np.asarray(np.sqrt(self.domains) * (weights - 1 / self.domains))


@dataclass(frozen=True, slots=True)
class Trend:
    """A fitted trend of every target; predicts log losses."""

    layout: TrendLayout
    progress: Progress
    theta: Array
    """shape (targets, parameters), see `TrendLayout`."""
    highest: Array
    """shape (targets,), highest log loss of the table."""
    ranges: Array
    """shape (targets,), highest minus lowest log loss of the table."""
    prior: Prior
    """Prior of the numbers that were fitted."""
    factor: Array | None = None
    """shape (domains, domains), transfers by the independent numbers that the prior is of; None:
    transfers are independent."""

    def log_losses(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Predict log losses, shape (rows, targets).

        Args:
            weights: shape (rows, domains); free numbers, which need not sum to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.
        """
        columns = self.progress.columns(tokens, params)
        state = _evaluate(self.layout, self.theta, weights, columns)
        return self._level(state.log_losses)[0].T

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Differentiate log losses by the weights, shape (rows, targets, domains).

        Args:
            weights: shape (rows, domains); free numbers, which need not sum to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.
        """
        columns = self.progress.columns(tokens, params)
        state = _evaluate(self.layout, self.theta, weights, columns)
        power = np.exp(self.theta[:, self.layout.power])[:, None, None]
        parts = state.parts[:, :, : self.layout.domains]
        by_share = parts * power / (weights + SHARE_OFFSET)
        level = self._level(state.log_losses)[1]
        slopes: Array = (state.by_log_sum * level)[:, :, None] * by_share
        if self.layout.tilted:
            by_tilted = state.term_shares[:, :, 2:] @ self.layout.tilts_of(self.theta)
            slopes = slopes + np.sqrt(self.layout.domains) * level[:, :, None] * by_tilted
        return slopes.transpose(1, 0, 2)

    def formula(self, params: float) -> Formula:
        """Write the log losses as a formula of shares and tokens; see `LawWithFormula`."""
        columns = self.progress.formulas(params)
        theta, layout = self.theta, self.layout
        domains = layout.domains
        powers = np.exp(theta[:, layout.power])[:, None]
        scale = np.exp(theta[:, :domains])
        useful = power_sum(
            shares(), PowerSum(scale, np.ones((1, 1)), np.full((1, 1), SHARE_OFFSET), powers)
        )
        if layout.parts > domains:
            amount = exp(multiply(constant(-layout.tokens_scale), columns[0]))
            growth = multiply(constant(powers[:, 0]), log(add(amount, constant(SHARE_OFFSET))))
            useful = add(useful, exp(add(constant(theta[:, domains]), growth)))
        log_sum = log(useful)
        levels, by_sum = theta[:, layout.offsets], np.exp(theta[:, layout.share_exponents])
        by_column = np.exp(theta[:, layout.progress_exponents])
        falls = [constant(0.0)]  # the term of S alone has no progress
        falls += [
            multiply(constant(-rate), column)
            for rate, column in zip(by_column.T, columns, strict=True)
        ]
        if layout.tilted:
            slopes = np.sqrt(domains) * layout.tilts_of(theta)
            for place, slope in enumerate(slopes.transpose(1, 0, 2), start=1):
                centre = constant(-slope.mean(axis=1))
                falls[place] = add(falls[place], linear(shares(), slope), centre)
        terms = [
            exp(add(constant(level), fall, multiply(constant(-slope), log_sum)))
            for level, fall, slope in zip(levels.T[1:], falls, by_sum.T, strict=True)
        ]
        # As `_level` keeps them below the ceiling: ceiling - bend softplus((ceiling - x) / bend).
        bend, ceiling = BEND * self.ranges, self.highest + HEADROOM * self.ranges
        log_losses = log(add(constant(np.exp(levels[:, 0])), *terms))
        room = softplus(add(constant(ceiling / bend), multiply(constant(-1 / bend), log_losses)))
        return add(constant(ceiling), multiply(constant(-bend), room))

    def _level(self, log_losses: Array) -> tuple[Array, Array]:
        """Keep log losses, shape (targets, rows), below the ceiling; also return the slope."""
        bend = (BEND * self.ranges)[:, None]
        below = (self.highest + HEADROOM * self.ranges)[:, None] - log_losses
        low = np.exp(-np.abs(below) / bend)
        # bend * ln(1 + e^(below / bend)), written so that it cannot overflow
        room = np.maximum(below, 0) + bend * np.log1p(low)
        slope = np.where(below > 0, 1, low) / (1 + low)
        return log_losses + below - room, slope


@dataclass(frozen=True, slots=True)
class _State:
    """The trend at some rows, for all targets; T targets, R rows, K terms, D domains."""

    log_losses: Array
    """shape (T, R)."""
    term_shares: Array
    """shape (T, R, K), each term as a share of the loss."""
    parts: Array
    """shape (T, R, D or D + 1), each domain, and the head start, as a share of S."""
    log_sum: Array
    """ln S, shape (T, R)."""
    by_log_sum: Array
    """Derivative of the log loss by ln S, shape (T, R)."""


def _evaluate(layout: TrendLayout, theta: Array, weights: Array, columns: Array) -> _State:
    power = np.exp(theta[:, layout.power])
    # Sums of exponentials are taken relative to the largest, so that none overflows.
    shares = np.log(layout.amounts(weights, columns) + SHARE_OFFSET)
    exponents = theta[:, None, : layout.parts] + power[:, None, None] * shares
    top = exponents.max(axis=2, keepdims=True)
    parts = np.exp(exponents - top)
    total = parts.sum(axis=2, keepdims=True)
    log_sum = (top + np.log(total))[:, :, 0]
    terms = np.repeat(theta[:, None, layout.offsets], len(weights), axis=1)
    by_sum = np.exp(theta[:, layout.share_exponents])
    terms[:, :, 1:] -= by_sum[:, None, :] * log_sum[:, :, None]
    terms[:, :, 2:] -= np.exp(theta[:, None, layout.progress_exponents]) * columns
    if layout.tilted:
        terms[:, :, 2:] += layout.deviations(weights) @ layout.tilts_of(theta).transpose(0, 2, 1)
    highest = terms.max(axis=2, keepdims=True)
    sizes = np.exp(terms - highest)
    loss = sizes.sum(axis=2, keepdims=True)
    term_shares = sizes / loss
    by_log_sum = -(term_shares[:, :, 1:] * by_sum[:, None, :]).sum(axis=2)
    log_losses = (highest + np.log(loss))[:, :, 0]
    return _State(log_losses, term_shares, parts / total, log_sum, by_log_sum)


def _derivatives(
    layout: TrendLayout, theta: Array, state: _State, rows: tuple[Array, Array]
) -> Array:
    """Differentiate log losses by the parameters, shape (targets, rows, parameters)."""
    weights, columns = rows
    power = np.exp(theta[:, layout.power])
    by_transfer = state.by_log_sum[:, :, None] * state.parts
    logs = np.log(layout.amounts(weights, columns) + SHARE_OFFSET)
    by_power = (by_transfer * logs).sum(axis=2) * power[:, None]
    by_share_exponent = (
        -state.term_shares[:, :, 1:]
        * state.log_sum[:, :, None]
        * np.exp(theta[:, None, layout.share_exponents])
    )
    by_progress_exponent = (
        -state.term_shares[:, :, 2:] * columns * np.exp(theta[:, None, layout.progress_exponents])
    )
    parts = [by_transfer, by_power[:, :, None], state.term_shares, by_share_exponent,
             by_progress_exponent]  # fmt: skip
    if layout.tilted:
        deviations = layout.deviations(weights)
        terms = range(2, 2 + layout.columns)
        parts += [state.term_shares[:, :, [term]] * deviations for term in terms]
    return np.concatenate(parts, axis=2)


def fit_trends(
    table: RunTable,
    progress: Progress,
    beliefs: Sequence[TrendPrior],
    factor: Array | None = None,
) -> list[Trend]:
    """Fit L = E + A_0 S^-a_0 + sum over progress columns x_k of A_k S^-a_k e^(-b_k x_k).

    Least squares of log losses under normal priors, for all targets and beliefs at once, which
    takes half the time of a call for each belief where runs are few. x is standardised ln tokens or
    ln parameters, so e^(-b x) is a power of either.

    Args:
        table: Any runs.
        progress: The columns of progress.
        beliefs: Priors of the transfers.
        factor: shape (domains, domains), Cholesky factor of the correlations of a target's
            transfers before any run; None: they are independent.

    Returns:
        One trend a belief.
    """
    tokens_vary = bool(np.isfinite(progress.centres[0]))
    scale = progress.scales[0] if tokens_vary else 0.0
    columns = int(np.isfinite(progress.centres).sum())
    layout = TrendLayout(len(table.domains), columns, scale)
    priors = [_prior(table, layout, belief) for belief in beliefs]
    if factor is not None:
        # A target learns from domains like its own nearly as from its own: transfers are centred
        # at C c, with C = F F' their correlations, and so free numbers at F^-1 C c = F' c.
        for prior in priors:
            prior.centre[:, : layout.domains] = prior.centre[:, : layout.domains] @ factor
    together = Prior(
        np.concatenate([prior.centre for prior in priors]),
        np.repeat([prior.spread for prior in priors], len(table.targets), axis=0),
    )
    losses = np.tile(table.losses, len(beliefs))
    free = fit_log_losses(_model(table, progress, layout, factor), together, losses)
    logs = np.log(table.losses)
    return [
        Trend(
            layout=layout,
            progress=progress,
            theta=theta,
            highest=logs.max(axis=0),
            ranges=np.maximum(np.ptp(logs, axis=0), 1e-6),
            prior=prior,
            factor=factor,
        )
        for prior, theta in zip(
            priors, np.split(_correlated(free, factor), len(beliefs)), strict=True
        )
    ]


def tilt(trend: Trend, table: RunTable) -> Trend:
    """Fit a trend again with tilts: the shares change each term of progress by a factor e^(u.w).

    Args:
        trend: Fitted to the table, without tilts; the search starts from it.
        table: Its runs.
    """
    layout = replace(trend.layout, tilted=True)
    free = trend.theta
    if trend.factor is not None:
        transfers = np.linalg.solve(trend.factor, free[:, : layout.domains].T).T
        free = np.hstack([transfers, free[:, layout.domains :]])
    none = np.zeros((len(free), layout.columns * layout.domains))
    prior = Prior(
        np.hstack([trend.prior.centre, none]),
        np.append(trend.prior.spread, np.full(none.shape[1], TILT_SPREAD)),
    )
    model = _model(table, trend.progress, layout, trend.factor)
    tilted = fit_log_losses(model, prior, table.losses, np.hstack([free, none]))
    theta = _correlated(tilted, trend.factor)
    return replace(trend, layout=layout, theta=theta, prior=prior)


def _model(table: RunTable, progress: Progress, layout: TrendLayout, factor: Array | None) -> Model:
    """Return losses and their derivatives as a function of the free numbers."""
    columns = progress.columns(table.tokens, table.params)

    def model(free: Array) -> tuple[Array, Array]:
        theta = _correlated(free, factor)
        state = _evaluate(layout, theta, table.weights, columns)
        losses = np.exp(state.log_losses)
        by_log = _derivatives(layout, theta, state, (table.weights, columns))
        return losses, losses[:, :, None] * _by_free(by_log, factor)

    return model


def _correlated(free: Array, factor: Array | None) -> Array:
    """Turn independent numbers into a trend's parameters, shape (targets, parameters) each."""
    if factor is None:
        return free
    return np.hstack([free[:, : len(factor)] @ factor.T, free[:, len(factor) :]])


def _by_free(derivatives: Array, factor: Array | None) -> Array:
    """Turn derivatives by a trend's parameters, on the last axis, into those by free numbers."""
    if factor is None:
        return derivatives
    transfers, others = np.split(derivatives, [len(factor)], axis=-1)
    return np.concatenate([transfers @ factor, others], axis=-1)


def left_out(trend: Trend, table: RunTable, group: Groups) -> Array:
    """Estimate the errors at every row of a trend not fitted to the rows of its group.

    The trend is taken as linear in its parameters around the fit: with residuals e and hat matrix
    H, the error of block b is (I - H_bb)^-1 e_b. Exact for linear models.

    Args:
        trend: Fitted to the table.
        table: n rows.
        group: shape (n,), equal for rows that are left out together.

    Returns:
        shape (n, targets), in log losses.
    """
    columns = trend.progress.columns(table.tokens, table.params)
    state = _evaluate(trend.layout, trend.theta, table.weights, columns)
    by_theta = _derivatives(trend.layout, trend.theta, state, (table.weights, columns))
    jacobian = _by_free(by_theta, trend.factor)
    residual = np.log(table.losses).T - state.log_losses
    precision = 1 / trend.prior.spread**2
    blocks = [np.flatnonzero(group == name) for name in np.unique(group)]
    errors = np.empty_like(residual)
    for target, slopes in enumerate(jacobian):
        information = slopes.T @ slopes
        noise = _noise_variance(information, precision, residual[target])
        inverse = np.linalg.inv(information + noise * np.diag(precision))
        for block in blocks:
            hat = slopes[block] @ inverse @ slopes[block].T
            kept = np.eye(len(block)) - hat
            errors[target, block] = np.linalg.solve(kept, residual[target, block])
    return errors.T


def _noise_variance(information: Array, precision: Array, residual: Array) -> float:
    """Estimate the variance of residuals, over the degrees of freedom that parameters leave."""
    noise = float(residual @ residual) / len(residual) + 1e-12
    for _ in range(3):
        used = np.trace(np.linalg.solve(information + noise * np.diag(precision), information))
        noise = float(residual @ residual) / max(len(residual) - used, 0.5) + 1e-12
    return noise


def _prior(table: RunTable, layout: TrendLayout, belief: TrendPrior) -> Prior:
    """Expect two thirds of the loss to be floor, and the rest to fall with S^-0.3.

    It falls by a fifth for each standard deviation of a column of progress.
    """
    targets = len(table.targets)
    size = layout.progress_exponents.stop
    centre, spread = np.zeros((targets, size)), np.ones(size)
    spread[: layout.domains] = belief.transfer_spread
    for place, target in enumerate(table.targets):
        if target in table.domains:
            centre[place, table.domains.index(target)] = belief.own_transfer
    if layout.parts > layout.domains:
        centre[:, layout.domains] = belief.head_start
        fixed = belief.head_start == NO_HEAD_START
        spread[layout.domains] = FIXED if fixed else HEAD_START_SPREAD
    centre[:, layout.power], spread[layout.power] = np.log(belief.power), belief.power_spread
    sizes = np.log(np.array([0.65, 0.25, *[0.1] * layout.columns]))
    centre[:, layout.offsets] = np.log(table.losses).mean(axis=0)[:, None] + sizes
    spread[layout.offsets] = 2.0
    centre[:, layout.share_exponents], spread[layout.share_exponents] = np.log(0.3), 0.5
    centre[:, layout.progress_exponents] = np.log(0.2)
    return Prior(centre, spread)
