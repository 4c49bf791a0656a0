"""BiMix: the loss of a domain as a function of that domain's share and the tokens seen.

Model size is not a variable of the law: a table with several sizes gives coefficients for each, and
other sizes cannot be predicted. `bimix_mixed` is the law of all shares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from curate.errors import FitError
from curate.laws.formula import (
    Formula,
    add,
    below,
    constant,
    exp,
    interpolate,
    log,
    maximum,
    minimum,
    multiply,
    pick,
    power,
    shares,
    tokens,
)
from curate.laws.law import Array, Law, RunTable

OfParameters = Callable[[Array], Array]

BETA_STARTS = (0.3, 1.0)
BETA_TWO_POINTS = 0.5
"""Value of beta where there are only two token counts, which cannot determine three numbers."""
FREE_CALLS = 30, 400
"""Most evaluations of a search without bounds at first, and then if it has kept within them."""
OUT_OF_CALLS = 5
"""MINPACK returns this where it has not ended."""
PRECISION = {"xtol": 1e-12, "ftol": 1e-12, "gtol": 1e-12}
"""Relative changes at which a search ends."""
TINY_SHARE = 1e-12
"""Share up to which one is 0: slopes are infinite there, and powers of less overflow."""
NEAR_ZERO = 0.75
"""Exponent of shares below `share_floor`: above 0 for a finite loss, below 1 for a steep slope."""
LEAST_SHARE = 1e-3
"""Share down to which the power is believed, or the smallest trained one if that is less."""
SIZE_TOLERANCE = 1e-9
"""Relative difference within which two model sizes are the same."""
LATER = 0.8
"""Part of the most tokens of a size beyond which losses judge where the law begins to hold."""
LEAST_COUNTS = 3
"""Token counts that a curve needs: amplitude, beta and level."""
STARTS = 6
"""Token counts that are tried as the first one at which the law holds, at most."""
CLEARLY = 2.0
"""Standard errors by which a later start must forecast better."""


@dataclass(frozen=True, slots=True)
class BimixCoefficients:
    """L = share^-alpha * (amplitude * (tokens / tokens_unit)^-beta + level), for each domain.

    Of the paper's five numbers only these four are determined: amplitude is A B and level is A C.
    """

    alpha: Array
    """shape (targets,), like the other fields; at least 0."""
    amplitude: Array
    """In the unit of the losses, at `tokens_unit`; zero where the table has one token count."""
    beta: Array
    level: Array
    share_floor: Array
    """Share below which another power continues the first; see `FittedBimix`."""
    early_tokens: Array = field(default_factory=lambda: np.empty(0))
    """shape (early,), token counts at which the law does not hold yet, ascending."""
    early_losses: Array = field(default_factory=lambda: np.empty((0, 0)))
    """shape (early, targets), losses there without the effect of the share."""


@dataclass(frozen=True, slots=True)
class FittedBimix:
    """Coefficients of every target, for each model size.

    The power of the paper is infinite at a share of 0. Below a share f it is continued as
    f^-alpha (1 + alpha (1 - (r / f)^p) / p), p = 3/4: finite at 0, convex, of the same value and
    slope at f, and with an infinite slope at 0, as the power has: an optimum leaves out no domain.
    """

    domain_of: tuple[int, ...]
    """Column of the weights for each target."""
    tokens_unit: float
    """Geometric mean of the table's tokens; NaN where it has none."""
    params: Array
    """shape (sizes,), ascending; one NaN where the table has no sizes."""
    sizes: tuple[BimixCoefficients, ...]

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Predict r_i^-alpha_i (b_i s^-beta_i + c_i).

        Args:
            weights: shape (rows, domains), shares of training tokens; each row sums to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets), in the unit of the fitted table.

        Raises:
            FitError: A model size was not among the runs.
        """
        losses = np.empty((len(weights), len(self.domain_of)))
        for size, rows in self._by_size(params):
            shares = weights[rows][:, self.domain_of]
            power = np.maximum(shares, size.share_floor) ** -size.alpha
            below = (1 - np.clip(shares / size.share_floor, 0, 1) ** NEAR_ZERO) / NEAR_ZERO
            losses[rows] = (1 + size.alpha * below) * power * self._progress(size, tokens[rows])
        return losses

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Differentiate by each target's own share; the other slopes are zero.

        Args:
            weights: shape (rows, domains); free numbers, which need not sum to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets, domains), the unit of the fitted table per unit of share.

        Raises:
            FitError: A model size was not among the runs.
        """
        slopes = np.zeros((len(weights), len(self.domain_of), weights.shape[1]))
        for size, rows in self._by_size(params):
            shares = weights[rows][:, self.domain_of]
            power = np.maximum(shares, size.share_floor) ** (-size.alpha - 1)
            below = np.minimum(np.maximum(shares, TINY_SHARE) / size.share_floor, 1)
            steeper = below ** (NEAR_ZERO - 1)
            by_share = -size.alpha * steeper * power * self._progress(size, tokens[rows])
            for target, domain in enumerate(self.domain_of):
                slopes[rows, target, domain] = by_share[:, target]
        return slopes

    def formula(self, params: float) -> Formula:
        """Write the predicted losses as a formula of shares and tokens; see `LawWithFormula`."""
        size, share = self.size(params), pick(shares(), self.domain_of)
        relative = minimum(multiply(share, constant(1 / size.share_floor)), constant(1.0))
        steep = power(maximum(relative, constant(0.0)), constant(NEAR_ZERO))
        rate = size.alpha / NEAR_ZERO
        under = add(constant(1 + rate), multiply(constant(-rate), steep))
        above = power(maximum(share, constant(size.share_floor)), constant(-size.alpha))
        return multiply(under, above, self._progress_formula(size))

    def _progress_formula(self, size: BimixCoefficients) -> Formula:
        """Write `_progress` as a formula of the tokens."""
        if not np.any(size.amplitude):
            return constant(size.level)
        fall = power(multiply(tokens(), constant(1 / self.tokens_unit)), constant(-size.beta))
        later = add(multiply(constant(size.amplitude), fall), constant(size.level))
        if not len(size.early_tokens):
            return later
        logs = np.log(size.early_tokens), np.log(size.early_losses.T)
        early = exp(interpolate(log(tokens()), *logs))
        return below(tokens(), float(size.early_tokens[-1]), early, later)

    def scale(self, tokens: float, params: float) -> Array:
        """Return K_i of L_i = K_i r_i^-alpha_i at these tokens and parameters, shape (targets,)."""
        size = self.size(params)
        scale: Array = self._progress(size, np.array([tokens]))[0]
        return scale

    def size(self, params: float) -> BimixCoefficients:
        """Return the coefficients of one model size; NaN where the table had none."""
        return next(size for size, _ in self._by_size(np.array([params])))

    def _progress(self, size: BimixCoefficients, tokens: Array) -> Array:
        if not np.any(size.amplitude):
            return np.broadcast_to(size.level, (len(tokens), len(size.level)))
        first = size.early_tokens[-1] if len(size.early_tokens) else 0.0
        later = (np.maximum(tokens, first)[:, None] / self.tokens_unit) ** -size.beta
        losses = np.asarray(size.amplitude * later + size.level)
        early = tokens < first
        if early.any():
            logs = np.log(tokens[early]), np.log(size.early_tokens)
            for target, curve in enumerate(size.early_losses.T):
                losses[early, target] = np.exp(np.interp(*logs, np.log(curve)))
        return losses

    def _by_size(self, params: Array) -> list[tuple[BimixCoefficients, NDArray[np.bool_]]]:
        if np.isnan(self.params[0]):
            return [(self.sizes[0], np.ones(len(params), bool))]
        place = np.abs(params[:, None] - self.params).argmin(axis=1)
        off = ~np.isclose(params, self.params[place], rtol=SIZE_TOLERANCE)
        if off.any():
            sizes = ", ".join(f"{value:g}" for value in self.params)
            raise FitError(
                f"bimix: {params[off][0]:g} parameters were not among the runs ({sizes}), and the "
                "law predicts no other sizes; use one of those, or a law of model size (additive)"
            )
        return [(self.sizes[at], place == at) for at in np.unique(place)]


def fit_bimix(table: RunTable) -> FittedBimix:
    """Fit L_i = r_i^-alpha_i (AB_i / s^beta_i + AC_i) by Trust Region Reflective.

    The law is undefined at r_i = 0: such rows are left out of the fit of domain i. With one token
    count the loss is AC_i r_i^-alpha_i; with two, beta is held at 1/2.

    Args:
        table: Every target must be a domain by name, and have at least two different positive
            shares (of each model size).

    Returns:
        The fitted law.

    Raises:
        FitError: A target is no domain, was never sampled, or has the same share in every run.

    References:
        Ge et al. 2024, "BiMix", arXiv:2405.14908v4, Eq. 3 and Section 4.

    Differs from the paper: four numbers a domain instead of five, the four that runs determine;
    residuals are those of log losses, since the paper says neither. Checkpoints before those at
    which the law holds are left out (`_holds_from`); predictions for them go through their mean
    losses. Below a share of 0.001, or the smallest trained one if that is less, a power that is
    finite at 0 continues the paper's. On RegMix's 256 test mixtures, of whose shares 39 % are 0, it
    errs by 4.7 %; the paper's, down to a hundredth of that share, by 12.2 %.
    """
    absent = [name for name in table.targets if name not in table.domains]
    if absent:
        raise FitError(
            f"bimix: '{absent[0]}' is not a training domain, and the law predicts a domain's loss "
            "from its share alone; leave it out (curate fit --targets), or use bimix_mixed"
        )
    domain_of = tuple(table.domains.index(name) for name in table.targets)
    tokens = table.tokens[np.isfinite(table.tokens)]
    unit = float(np.exp(np.log(tokens).mean())) if len(tokens) else float("nan")
    sizes = np.unique(table.params[np.isfinite(table.params)])
    if not len(sizes):
        sizes = np.array([np.nan])
    fitted = tuple(
        _fit_size(table if np.isnan(size) else table.take(table.params == size), domain_of, unit)
        for size in sizes
    )
    return FittedBimix(domain_of, unit, sizes, fitted)


def _fit_size(table: RunTable, domain_of: tuple[int, ...], unit: float) -> BimixCoefficients:
    """Fit one model size, from the tokens on at which the law holds."""
    start = _holds_from(table, domain_of, unit)
    size = _fit_rows(table.take(table.tokens >= start) if start else table, domain_of, unit)
    if not start:
        return size
    curve = FittedBimix(domain_of, unit, np.array([np.nan]), (size,))
    counts = np.unique(table.tokens[table.tokens <= start])
    shares = table.weights[:, domain_of]
    levels = np.log(table.losses) + size.alpha * np.log(np.maximum(shares, TINY_SHARE))
    levels = np.ma.masked_array(levels, shares <= TINY_SHARE)
    means = [np.exp(levels[table.tokens == count].mean(axis=0)) for count in counts[:-1]]
    # The last point is the curve's own, so that both parts meet.
    means.append(curve.scale(start, np.nan))
    return replace(size, early_tokens=counts, early_losses=np.ma.filled(means, means[-1]))


def _holds_from(table: RunTable, domain_of: tuple[int, ...], unit: float) -> float:
    """Return the tokens from which on the law holds, 0 if it does from the first checkpoint.

    While a model learns the frequencies of single tokens, its losses hardly depend on the mixture
    and fall in steps. A law that must pass through them has too small exponents of the shares and
    misses the losses at the end. So several starts forecast the losses in the last fifth of tokens
    from those before. A later start is taken if its errors are smaller by two standard errors,
    paired over losses.
    """
    counts = np.unique(table.tokens)
    if len(counts) <= LEAST_COUNTS:  # nothing to choose, or NaN
        return 0.0
    judges = table.tokens > LATER * counts[-1]
    before = counts[counts <= LATER * counts[-1]]
    last = len(before) - LEAST_COUNTS
    places = np.unique(np.linspace(0, max(last, 0), STARTS).astype(int)) if last > 0 else ()
    judged = table.take(judges)
    used = judged.weights[:, domain_of] > TINY_SHARE
    start, errors = 0.0, None
    for place in places:
        fitted = table.take(~judges & (table.tokens >= before[place]))
        try:
            size = _fit_rows(fitted, domain_of, unit)
        except FitError:  # too few different shares are left
            break
        law = FittedBimix(domain_of, unit, np.array([np.nan]), (size,))
        off = law.predict(judged.weights, judged.tokens, np.full(len(judged.runs), np.nan))
        missed = np.abs(np.log(off / judged.losses))[used]
        if errors is not None:
            gain = errors - missed
            doubt = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.inf
            if not gain.mean() > CLEARLY * doubt:
                continue
        start, errors = float(before[place]) if place else 0.0, missed
    return start


def _fit_rows(table: RunTable, domain_of: tuple[int, ...], unit: float) -> BimixCoefficients:
    columns = []
    for target, domain in enumerate(domain_of):
        name = table.targets[target]
        shares = table.weights[:, domain]
        used = shares > TINY_SHARE
        if len(np.unique(np.round(shares[used], 12))) < 2:
            what = "was never sampled" if not used.any() else "has the same share in every run"
            raise FitError(
                f"bimix: '{name}' {what}, so its exponent is not determined; train at least two "
                f"different positive shares of it, or leave it out (curate fit --targets)"
            )
        tokens = table.tokens[used] / unit if np.isfinite(unit) else np.ones(used.sum())
        coefficients = _fit_domain(shares[used], tokens, table.losses[used, target])
        columns.append((*coefficients, min(LEAST_SHARE, float(shares[used].min()))))
    alpha, amplitude, beta, level, floor = np.array(columns).T
    return BimixCoefficients(alpha, amplitude, beta, level, floor)


def _fit_domain(shares: Array, tokens: Array, losses: Array) -> tuple[float, float, float, float]:
    """Fit alpha, amplitude, beta and level of one domain at one size."""
    logs, progress, observed = np.log(shares), np.log(tokens), np.log(losses)
    counts = len(np.unique(tokens))
    if counts == 1:
        design = np.stack([-logs, np.ones_like(logs)], axis=1)
        alpha, level = np.linalg.lstsq(design, observed, rcond=None)[0]
        if alpha < 0:  # more of a domain does not make its loss worse
            return 0.0, 0.0, 0.0, float(np.exp(observed.mean()))
        return float(alpha), 0.0, 0.0, float(np.exp(level))
    held = counts == 2

    def unpack(theta: Array) -> tuple[float, float, float, float]:
        alpha, amplitude, level = (float(value) for value in theta[:3])
        return alpha, amplitude, BETA_TWO_POINTS if held else float(theta[3]), level

    def residuals(theta: Array) -> Array:
        alpha, amplitude, beta, level = unpack(theta)
        curve = amplitude * np.exp(-beta * progress) + level
        return np.asarray(np.log(np.maximum(curve, 1e-300)) - alpha * logs - observed)

    def jacobian(theta: Array) -> Array:
        alpha, amplitude, beta, level = unpack(theta)
        fall = np.exp(-beta * progress)
        curve = np.maximum(amplitude * fall + level, 1e-300)
        columns = [-logs, fall / curve, 1 / curve]
        if not held:
            columns.append(-amplitude * fall * progress / curve)
        return np.stack(columns, axis=1)

    scale = float(np.exp(observed.mean()))
    common = np.array([0.05, 0.2 * scale, 0.7 * scale])
    starts = [common] if held else [np.append(common, beta) for beta in BETA_STARTS]
    return unpack(_least(residuals, jacobian, starts))


def _least(residuals: OfParameters, jacobian: OfParameters, starts: Sequence[Array]) -> Array:
    """Minimise the squares of residuals over parameters of at least 0, from several starts.

    A least sum without bounds that lies within them is the least within them too, and is found
    faster: 566 fits take 3.2 s in place of 11.9, and 8 % of them are closer. Where one search
    leaves the bounds or does not end, all are done within them.

    Args:
        residuals: Parameters → residuals, shape (rows,).
        jacobian: Parameters → their derivatives, shape (rows, parameters).
        starts: Parameters to start from.
    """
    from scipy.optimize import least_squares  # takes 0.3 s

    optima: list[Array] = []
    for start in starts:
        theta = _least_without_bounds(residuals, jacobian, start)
        if theta is None:
            optima = [
                least_squares(
                    residuals, start, jac=jacobian, bounds=(0.0, np.inf), method="trf",
                    x_scale="jac", max_nfev=500, **PRECISION,
                ).x
                for start in starts
            ]  # fmt: skip
            break
        optima.append(theta)
    return min(optima, key=lambda theta: float(np.square(residuals(theta)).sum()))


def _least_without_bounds(
    residuals: OfParameters, jacobian: OfParameters, start: Array
) -> Array | None:
    """Minimise the squares of residuals without bounds; None unless it ends at 0 or above."""
    from scipy.optimize import leastsq

    if len(residuals(start)) < len(start):  # MINPACK takes no fewer rows than parameters
        return None
    theta = start
    for calls in FREE_CALLS:
        with np.errstate(over="ignore", invalid="ignore"):
            theta, *_, end = leastsq(
                residuals, theta, Dfun=jacobian, full_output=True, maxfev=calls, **PRECISION
            )
        if not theta.min() >= 0:  # or not a number
            return None
        if end != OUT_OF_CALLS:
            return np.asarray(theta)
    return None


BIMIX = Law(
    name="bimix",
    summary="own share and tokens: r^-alpha (b s^-beta + c)",
    paper="BiMix, Ge et al. 2024, arXiv:2405.14908v4, Eq. 3",
    needs="targets that are domains, two different positive shares of each",
    fit=fit_bimix,
    convex=True,
    replicates=100,
)
