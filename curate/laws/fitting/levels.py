"""Levels beyond the runs: how losses fall with model size and tokens, apart from the mixture.

Losses averaged over mixtures (levels) are fitted by several forms of size and tokens. Beyond the
largest size or the last tokens, a law's predictions keep its effect of the mixture and take their
level from these forms; inside the runs nothing changes, and the change is continuous. Sizes below
the smallest and tokens before the first are left to the law.

With x = ln(size / largest), y = ln(tokens / last) and f_a(x) = (1 - e^(-a x)) / a, the forms are

- additive: c - A f_a(x) - B f_b(y), so a floor and a power of each (Chinchilla's law);
- interaction: the same with a product of both terms;
- product: c - A f(a x + b y), a floor and a product of powers;
- separable: the additive form of log losses, a product of two saturating curves;
- power: powers without a floor, linear in x and y for log losses.

Exponents lie on a grid, with a prior learnt over all targets; all else is linear, so the posterior
is exact. Points far from the largest size and the last tokens weigh less: laws of size and tokens
hold best locally. Each form is weighted by its errors where the largest sizes and the last tokens
are left out, separately for both directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from curate.laws.fitting.features import number_distinct
from curate.laws.formula import (
    Formula,
    add,
    at_tokens,
    below,
    constant,
    curve,
    exp,
    formula_of,
    log,
    mean_over,
    minimum,
    multiply,
    pick,
    tokens,
)
from curate.laws.law import Array, FittedLaw, RunTable

REFERENCES = 48
"""Mixtures whose mean is the level."""
MOST_POINTS = 200
"""Combinations of size and tokens that levels are fitted to."""
EXPONENTS = np.geomspace(0.06, 1.5, 16)
"""Grid of exponents."""
EXPONENT_CENTRE, EXPONENT_SPREAD = 0.3, 0.5
"""Prior of exponents: median, and standard deviation of their logarithm."""
SMOOTHING = 0.25
"""Standard deviation, in ln exponent, by which the targets' common prior is blurred."""
NOISES = np.array([1e-4, 3e-4, 1e-3, 3e-3, 1e-2])
"""Standard deviations of levels around a form, relative."""
FALL = 0.05
"""Prior mean and standard deviation of the fall per e-fold of size or tokens, relative."""
INTERACTION = 0.01
"""Prior standard deviation of the product of both falls, relative."""
FLOOR, FLOOR_SPREAD = 0.6, 0.3
"""Prior of the floor relative to the lowest level, of its logarithm where that is fitted."""
NEGLIGIBLE = 1e-4
"""Posterior weight of a node, relative to the largest, below which it is left out."""
LEAST_LEVEL = 0.05
"""Least level, relative, that a linear form may predict."""
LEAST_ERROR = 2e-4
"""Error of log levels that no form is told from: that of the mean of a few dozen runs."""
LATE = np.log(2.5)
"""Tokens after 1 / 2.5 of the most are left out together."""
UNKNOWN = 1e-3
"""Standard deviation of log levels per e-fold that is added whatever the forms say."""
FREEDOM, PRIOR_FREEDOM = 4.0, 2.0
"""Independent errors that one test counts for, and those without excess that are assumed before:
errors of targets and of checkpoints are alike."""
LAW_ERROR = 4e-3
"""Standard deviation of the law's own level per e-fold beyond the runs, which decides its vote."""
FORMULA_TOKENS = 1e6
"""How many times the runs' most tokens a formula reaches; to as few times fewer."""
DRIFT_MISSED = 0.3
"""Part of the change of deviations beyond the runs that counts as error."""


@dataclass(frozen=True, slots=True)
class LevelPoints:
    """Levels at combinations of size and tokens."""

    size: Array
    """shape (points,), ln(parameters / most); zero where sizes do not vary."""
    time: Array
    """shape (points,), ln(tokens / most); zero where tokens do not vary."""
    levels: Array
    """shape (points, targets), relative to the level nearest to the largest size's last tokens."""

    def take(self, rows: NDArray[np.bool_]) -> LevelPoints:
        """Keep some points."""
        return LevelPoints(self.size[rows], self.time[rows], self.levels[rows])


@dataclass(frozen=True, slots=True)
class LevelForm:
    """A form of level: which terms it has, and what they act on."""

    name: str
    logs: bool
    """Whether it is a form of log losses."""
    exponents: bool = True
    joined: bool = False
    """Whether size and tokens are under one power."""
    interacts: bool = False

    def nodes(self, varies: tuple[bool, bool]) -> Array:
        """Return the grid of exponents of size and tokens, shape (nodes, 2)."""
        if not self.exponents:
            return np.zeros((1, 2))
        grids = [EXPONENTS if vary else np.array([EXPONENT_CENTRE]) for vary in varies]
        return np.stack(np.meshgrid(*grids, indexing="ij"), axis=-1).reshape(-1, 2)

    def columns(self, nodes: Array, size: Array, time: Array) -> Array:
        """Return the terms that multiply the coefficients, shape (nodes, points, terms).

        Args:
            nodes: shape (nodes, 2), exponents of size and tokens.
            size: shape (points,), ln parameters.
            time: shape (points,), ln tokens.
        """
        x, y = np.broadcast_to(size, (len(nodes), len(size))), time[None]
        a, b = nodes[:, :1], nodes[:, 1:]
        ones = np.ones(x.shape)
        if not self.exponents:
            return np.stack([ones, -x, -y + 0 * x], axis=2)
        if self.joined:
            return np.stack([ones, -(1 - np.exp(-a * x - b * y)) / a], axis=2)
        larger, later = (1 - np.exp(-a * x)) / a, (1 - np.exp(-b * y)) / b
        terms = [ones, -larger, -later]
        if self.interacts:
            terms.append(larger * later)
        return np.stack(terms, axis=2)

    def floor(self, nodes: Array) -> Array | None:
        """Return the terms at infinite size and tokens, shape (nodes, terms); None for no floor."""
        if not self.exponents:
            return None
        a, b = 1 / nodes.T
        terms = [np.ones(len(nodes)), -a]
        if not self.joined:
            terms.append(-b)
        if self.interacts:
            terms.append(a * b)
        return np.stack(terms, axis=1)

    def prior(self) -> tuple[Array, Array]:
        """Return prior means and standard deviations of the coefficients, shape (terms,) each."""
        falls = 1 if self.joined else 2
        centre = [0.0 if self.logs else 1.0, *[FALL] * falls, *[0.0] * self.interacts]
        spread = [0.3, *[FALL] * falls, *[INTERACTION] * self.interacts]
        return np.array(centre), np.array(spread)


FORMS = (
    LevelForm("additive", logs=False),
    LevelForm("interaction", logs=False, interacts=True),
    LevelForm("product", logs=False, joined=True),
    LevelForm("separable", logs=True),
    LevelForm("power", logs=True, exponents=False),
)


@dataclass(frozen=True, slots=True)
class TargetLevel:
    """The posterior of one form for one target."""

    nodes: Array
    """shape (nodes, 2), exponents."""
    weights: Array
    """shape (nodes,), probabilities."""
    means: Array
    """shape (nodes, terms), coefficients."""
    covariances: Array
    """shape (nodes, terms, terms)."""

    def shift(self, form: LevelForm, start: Moves, end: Moves) -> tuple[Array, Array]:
        """Predict the change of log levels from start to end: mean and variance, (moves,) each.

        Args:
            form: The form that these coefficients belong to.
            start: ln parameters and ln tokens, shape (moves,) each.
            end: The same.
        """
        first = form.columns(self.nodes, *start)
        last = form.columns(self.nodes, *end)
        if form.logs:
            slopes = last - first
            change = np.einsum("gkp,gp->gk", slopes, self.means)
        else:
            low, high = (np.einsum("gkp,gp->gk", at, self.means) for at in (first, last))
            low, high = np.maximum(low, LEAST_LEVEL), np.maximum(high, LEAST_LEVEL)
            change = np.log(high / low)
            slopes = last / high[:, :, None] - first / low[:, :, None]
        spread = np.einsum("gkp,gpq,gkq->gk", slopes, self.covariances, slopes)
        mean = self.weights @ change
        return mean, self.weights @ (spread + change**2) - mean**2


Moves = tuple[Array, Array]
"""Size and time of several places, shape (moves,) each."""


def fit_form(form: LevelForm, points: LevelPoints) -> list[TargetLevel]:
    """Compute the posterior of a form for every target, with a common prior of exponents."""
    varies = bool(np.ptp(points.size)), bool(np.ptp(points.time))
    nodes = form.nodes(varies)
    columns = form.columns(nodes, points.size, points.time)
    far = _looseness(points)
    values = np.log(points.levels) if form.logs else points.levels
    fits = [_conjugate(form, nodes, (columns, far), values[:, t]) for t in range(values.shape[1])]
    prior = base = _exponent_prior(nodes)
    if form.exponents:
        # The nonparametric empirical Bayes prior, with one pseudo-target of the base prior.
        for _ in range(4):
            each = [_normalised(fit[0].max(axis=1), prior) for fit in fits]
            prior = _blurred((sum(each) + base) / (len(each) + 1), nodes, varies)
    return [_pruned(nodes, fit, prior) for fit in fits]


def _conjugate(
    form: LevelForm, nodes: Array, design: tuple[Array, Array], values: Array
) -> tuple[Array, Array, Array]:
    """Solve the linear part at every node and noise.

    Returns:
        Log marginal likelihoods, shape (nodes, noises); means, (nodes, noises, terms); covariances,
        (nodes, noises, terms, terms).
    """
    columns, far = design
    centre, spread = form.prior()
    precision = np.diag(1 / spread**2)
    residual = values - columns @ centre  # shape (nodes, points)
    sizes = far * NOISES[:, None]  # shape (noises, points)
    weights = 1 / sizes**2
    info = np.einsum("gkp,sk,gkq->gspq", columns, weights, columns) + precision
    pull = np.einsum("gkp,sk,gk->gsp", columns, weights, residual)
    quad = np.einsum("gk,sk,gk->gs", residual, weights, residual)
    floor = form.floor(nodes)
    if floor is not None:
        off = (np.log(FLOOR) if form.logs else FLOOR) - floor @ centre
        info = info + (np.einsum("gp,gq->gpq", floor, floor) / FLOOR_SPREAD**2)[:, None]
        pull = pull + (floor * off[:, None] / FLOOR_SPREAD**2)[:, None]
        quad = quad + (off**2 / FLOOR_SPREAD**2)[:, None]
    covariances = np.linalg.inv(info)
    moves = np.einsum("gspq,gsq->gsp", covariances, pull)
    quad = quad - np.einsum("gsp,gsp->gs", moves, pull)
    logdet = np.linalg.slogdet(info)[1]
    likelihood = -0.5 * (quad + logdet + 2 * np.log(sizes).sum(axis=1))
    return likelihood, centre + moves, covariances


def _exponent_prior(nodes: Array) -> Array:
    off = np.log(np.maximum(nodes, 1e-9) / EXPONENT_CENTRE) / EXPONENT_SPREAD
    prior = np.exp(-0.5 * (off**2).sum(axis=1)) if len(nodes) > 1 else np.ones(1)
    return np.asarray(prior / prior.sum())


def _normalised(likelihood: Array, prior: Array) -> Array:
    weights = np.exp(likelihood - likelihood.max()) * prior
    return np.asarray(weights / weights.sum())


def _blurred(prior: Array, nodes: Array, varies: tuple[bool, bool]) -> Array:
    kernel = np.ones((len(nodes), len(nodes)))
    for column, vary in enumerate(varies):
        if vary:
            logs = np.log(nodes[:, column])
            kernel *= np.exp(-0.5 * ((logs[:, None] - logs) / SMOOTHING) ** 2)
    blurred = (kernel / kernel.sum(axis=0)) @ prior
    return np.asarray(blurred / blurred.sum())


def _pruned(nodes: Array, fit: tuple[Array, Array, Array], prior: Array) -> TargetLevel:
    likelihood, means, covariances = fit
    weights = np.exp(likelihood - likelihood.max()) * prior[:, None]
    node, noise = np.nonzero(weights > NEGLIGIBLE * weights.max())
    kept = weights[node, noise]
    return TargetLevel(nodes[node], kept / kept.sum(), means[node, noise], covariances[node, noise])


@dataclass(frozen=True, slots=True)
class LevelEnsemble:
    """All forms for all targets, weighted by errors left out."""

    fits: tuple[tuple[TargetLevel, ...], ...]
    """A form's posterior of every target, in the order of `FORMS`."""
    votes: Array
    """shape (2, forms), weights for size and for tokens; rows sum to 1."""
    excess: Array
    """shape (2,), factors by which standard deviations are multiplied, at least 1."""

    def shift(self, start: Moves, end: Moves) -> tuple[Array, Array]:
        """Predict the change of log levels, first along size, then along tokens.

        Returns:
            Mean and variance, shape (moves, targets) each.
        """
        corner = end[0], start[1]
        total = np.zeros((len(end[0]), len(self.fits[0])))
        variance = total.copy()
        for way, (first, last) in enumerate(((start, corner), (corner, end))):
            mean, spread = _mixed(_changes(self.fits, first, last), self.votes[way])
            distance = (last[way] - first[way])[:, None]
            total = total + mean
            variance += spread * self.excess[way] ** 2 + (UNKNOWN * distance) ** 2
        return total, variance


def fit_levels(points: LevelPoints) -> LevelEnsemble:
    """Fit all forms, and weigh them by their misfit and by their errors on points left out.

    A vote is 1 / (squared error left out)^2 / (squared misfit), the last of which is all there is
    where too few sizes or token counts can be left out.
    """
    fits = _all_forms(points)
    misfit = np.array([_misfit(form, fit, points) for form, fit in zip(FORMS, fits, strict=True)])
    votes, excess = np.tile(1 / misfit, (2, 1)), np.ones(2)
    for way, values in enumerate((points.size, points.time)):
        tests = [_left_out(points, held) for held in _held_out(values, way)]
        if tests:
            squares = np.mean([((means - seen) ** 2).mean((1, 2)) for means, _, seen in tests], 0)
            votes[way] /= (squares + LEAST_ERROR**2) ** 2
        votes[way] /= votes[way].sum()
        scores = PRIOR_FREEDOM
        for means, variances, seen in tests:
            mean, spread = _mixed((means, variances), votes[way])
            scores += FREEDOM * float(((mean - seen) ** 2 / spread).mean())
        excess[way] = max(1.0, np.sqrt(scores / (PRIOR_FREEDOM + FREEDOM * len(tests))))
    return LevelEnsemble(fits, votes, excess)


def _all_forms(points: LevelPoints) -> tuple[tuple[TargetLevel, ...], ...]:
    return tuple(tuple(fit_form(form, points)) for form in FORMS)


def _changes(
    fits: tuple[tuple[TargetLevel, ...], ...], start: Moves, end: Moves
) -> tuple[Array, Array]:
    """Predict changes by every form: means and variances, shape (forms, moves, targets) each."""
    each = np.array(
        [[fit.shift(form, start, end) for fit in targets]
         for form, targets in zip(FORMS, fits, strict=True)]
    )  # fmt: skip
    return each[:, :, 0].transpose(0, 2, 1), each[:, :, 1].transpose(0, 2, 1)


def _mixed(changes: tuple[Array, Array], votes: Array) -> tuple[Array, Array]:
    """Return mean and variance of a mixture of forms, shape (moves, targets) each."""
    means, variances = changes
    mean = np.einsum("f,fkt->kt", votes, means)
    variance = np.einsum("f,fkt->kt", votes, variances + (means - mean) ** 2)
    return mean, variance


def _misfit(form: LevelForm, targets: tuple[TargetLevel, ...], points: LevelPoints) -> float:
    """Return the mean squared error of log levels, near ones weighted most."""
    logs = np.log(points.levels)
    squares = []
    for target, fit in enumerate(targets):
        columns = form.columns(fit.nodes, points.size, points.time)
        level = fit.weights @ np.einsum("gkp,gp->gk", columns, fit.means)
        if not form.logs:
            level = np.log(np.maximum(level, LEAST_LEVEL))
        squares.append((((level - logs[:, target]) / _looseness(points)) ** 2).mean())
    return float(np.mean(squares)) + LEAST_ERROR**2


def _looseness(points: LevelPoints) -> Array:
    """Return the noise of points relative to that of the largest size's last tokens."""
    return np.asarray(1 + np.abs(points.size) + np.abs(points.time))


def _held_out(values: Array, way: int) -> list[NDArray[np.bool_]]:
    """Select the points of the largest size and of the two largest; or of the last tokens.

    Args:
        values: shape (points,), ln sizes (way 0) or ln tokens (way 1) of the points.
        way: What is left out; at least two distinct values remain.
    """
    distinct = np.unique(values)
    cuts = list(distinct[-1:])
    if way == 0:
        cuts += list(distinct[-2:-1])
    else:
        cuts += list(distinct[distinct > distinct[-1] - LATE][:1])
    return [values >= cut for cut in sorted(set(cuts)) if (distinct < cut).sum() >= 2]


def _left_out(points: LevelPoints, held: NDArray[np.bool_]) -> tuple[Array, Array, Array]:
    """Predict changes to points left out from the nearest ones that remain.

    Returns:
        Means and variances of every form, shape (forms, moves, targets) each, and the changes that
        were seen, shape (moves, targets).
    """
    kept, ends = points.take(~held), points.take(held)
    away = (kept.size - ends.size[:, None]) ** 2 + (kept.time - ends.time[:, None]) ** 2
    near = away.argmin(axis=1)
    start = kept.size[near], kept.time[near]
    means, variances = _changes(_all_forms(kept), start, (ends.size, ends.time))
    return means, variances, np.log(ends.levels / kept.levels[near])


@dataclass(frozen=True, slots=True)
class Edge:
    """The end of the runs: the last tokens at every size, and the largest size."""

    sizes: Array
    """shape (sizes,), ln parameters, rising; a single zero where sizes do not vary."""
    last: Array
    """shape (sizes,), ln of the most tokens; zero where tokens do not vary."""

    def nearest(self, tokens: Array, params: Array) -> tuple[Array, Array]:
        """Move tokens and parameters that lie beyond back to the edge."""
        if self.sizes_vary:
            params = np.minimum(params, np.exp(self.sizes[-1]))
        if self.tokens_vary:
            at = np.log(params) if self.sizes_vary else np.zeros(len(tokens))
            tokens = np.minimum(tokens, np.exp(np.interp(at, self.sizes, self.last)))
        return tokens, params

    @property
    def sizes_vary(self) -> bool:
        """Whether the table has several sizes."""
        return len(self.sizes) > 1

    @property
    def tokens_vary(self) -> bool:
        """Whether the table has several token counts."""
        return bool(self.last.any())

    def places(self, tokens: Array, params: Array) -> Moves:
        """Return ln sizes and tokens relative to the largest size's end, zero where constant."""
        nothing = np.zeros(len(tokens))
        size = np.log(params) - self.sizes[-1] if self.sizes_vary else nothing
        time = np.log(tokens) - self.last[-1] if self.tokens_vary else nothing
        return size, time

    def span(self, tokens: Array, params: Array) -> tuple[Moves, Moves]:
        """Return the places that predictions start from, at the edge, and those that they reach."""
        return self.places(*self.nearest(tokens, params)), self.places(tokens, params)


def edge_of(table: RunTable) -> Edge:
    """Find where the runs of a table end."""
    sizes = table.params if len(np.unique(table.params[np.isfinite(table.params)])) > 1 else None
    varied = len(np.unique(table.tokens[np.isfinite(table.tokens)])) > 1
    tokens = np.log(table.tokens) if varied else np.zeros(len(table.runs))
    if sizes is None:
        return Edge(np.zeros(1), tokens.max(initial=0.0, keepdims=True))
    distinct = np.unique(sizes)
    return Edge(np.log(distinct), np.array([tokens[sizes == size].max() for size in distinct]))


class LawWithErrors(FittedLaw, Protocol):
    """A fitted law that tells its errors."""

    def predict_std(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Estimate the standard deviation of log losses of new runs, shape (rows, targets).

        Args:
            weights: shape (rows, domains), shares.
            tokens: shape (rows,).
            params: shape (rows,).
        """
        ...


@dataclass(frozen=True, slots=True)
class FittedBeyond:
    """A law whose predictions take their level from the forms of this module beyond the runs."""

    law: LawWithErrors
    levels: LevelEnsemble
    edge: Edge
    references: Array
    """shape (mixtures, domains), shares; the level is the mean over these."""
    drift: Array
    """shape (2, targets), how fast deviations from the level change among the runs: per e-fold of
    size, and of tokens."""

    def predict_std(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Estimate the standard deviation of log losses of new runs around the predictions.

        The errors on mixtures left out, and beyond the runs those of the level and of the
        mixture's effect, which grow with the distance in ln size and ln tokens.

        Args:
            weights: shape (rows, domains), shares of training tokens; each row sums to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets).
        """
        near = self.law.predict_std(weights, tokens, params)
        start, end = self.edge.span(tokens, params)
        distances = np.abs(np.subtract(end, start))  # shape (2, rows)
        _, variance, vote = self._by_forms(tokens, params)
        moved = DRIFT_MISSED * np.einsum("wr,wt->rt", distances, self.drift)
        return np.asarray(np.sqrt(near**2 + vote * variance + moved**2))

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Predict losses: the law's own inside the runs, with another level beyond.

        Args:
            weights: shape (rows, domains), shares of training tokens; each row sums to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets), in the unit of the fitted table.
        """
        predicted = self.law.predict(weights, tokens, params)
        return np.asarray(predicted * self._correction(tokens, params))

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array | None:
        """Differentiate the predicted losses by the weights.

        Args:
            weights: shape (rows, domains); free numbers, which need not sum to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets, domains); None if the law has no gradient.
        """
        slopes = self.law.gradient(weights, tokens, params)
        if slopes is None:
            return None
        return np.asarray(slopes * self._correction(tokens, params)[:, :, None])

    def formula(self, params: float) -> Formula | None:
        """Write the predicted losses as a formula of shares and tokens; see `LawWithFormula`.

        The change of level by the forms, and their vote, are written as curves over the tokens,
        from `FORMULA_TOKENS` times fewer than the runs have to as many times more.
        """
        within = formula_of(self.law, params)
        if within is None:
            return None
        if not self.edge.tokens_vary:
            factors = self._correction(np.ones(1), np.array([params]))[0]
            return multiply(within, constant(factors))
        edge, size = self._last(params)
        is_larger = size < params * (1 - 1e-9)
        level = mean_over(within, self.references)
        smaller = (formula_of(self.law, size) if is_larger else None) or within
        within_runs = minimum(tokens(), constant(np.exp(edge)))
        start = at_tokens(mean_over(smaller, self.references), within_runs)
        by_law = add(log(level), multiply(constant(-1.0), log(start)))

        def forms(logs: Array) -> Array:
            shift, _, vote = self._by_forms(np.exp(logs), np.full(len(logs), params))
            return np.hstack([shift, vote])

        # For larger models the forms count before the last tokens, too, where the curve has a kink:
        # the middle of its span, at which its pieces meet.
        reach = float(np.log(FORMULA_TOKENS))
        both = curve(log(tokens()), forms, (edge - reach * is_larger, edge + reach))
        targets = np.arange(len(self.levels.fits[0]))
        by_forms, vote = pick(both, targets), pick(both, targets + len(targets))
        moved = add(by_forms, multiply(constant(-1.0), by_law))
        beyond = multiply(within, exp(multiply(vote, moved)))
        return beyond if is_larger else below(tokens(), np.exp(edge) * (1 + 1e-9), within, beyond)

    def std_formula(self, params: float) -> Formula:
        """Write `predict_std`, of all mixtures alike, as a formula of the tokens.

        Args:
            params: Parameters of the model; NaN where the fitted table had NaN.
        """

        def errors(logs: Array) -> Array:
            weights = np.repeat(self.references[:1], len(logs), axis=0)
            return self.predict_std(weights, np.exp(logs), np.full(len(logs), params))

        if not self.edge.tokens_vary:
            return constant(errors(np.zeros(1))[0])
        edge, reach = self._last(params)[0], float(np.log(FORMULA_TOKENS))
        return curve(log(tokens()), errors, (edge - reach, edge + reach))

    def _last(self, params: float) -> tuple[float, float]:
        """Return ln of the last tokens at the nearest size of the runs, and that size."""
        last, size = self.edge.nearest(np.full(1, np.inf), np.array([params]))
        return float(np.log(last[0])), float(size[0])

    def _correction(self, tokens: Array, params: Array) -> Array:
        """Factors of the law's predictions, shape (rows, targets), or (rows, 1) inside the runs."""
        near = self.edge.nearest(tokens, params)
        # The logarithm of the edge and back is a little off, which is not beyond.
        beyond = (near[0] < tokens * (1 - 1e-9)) | (near[1] < params * (1 - 1e-9))
        if not beyond.any():
            return np.ones((len(tokens), 1))
        places = np.stack([*near, tokens, params], axis=1)[beyond]
        distinct, number = np.unique(places, axis=0, return_inverse=True)
        shift, _, forms_vote = self._by_forms(*distinct[:, 2:].T)
        by_law = np.log(
            [self._level(*at[2:]) / self._level(*at[:2]) for at in distinct]
        )  # shape (distinct, targets)
        factors = np.ones((len(tokens), shift.shape[1]))
        factors[beyond] = np.exp(forms_vote * (shift - by_law))[number.reshape(-1)]
        return factors

    def _by_forms(self, tokens: Array, params: Array) -> tuple[Array, Array, Array]:
        """Return the change of log levels from the runs by the forms, its variance, and its weight.

        The forms and the law are weighed by their precision, so the variance of the two together is
        that of the forms times their weight.

        Args:
            tokens: shape (rows,).
            params: shape (rows,).

        Returns:
            Shape (rows, targets) each; the law has the rest of the weight.
        """
        start, end = self.edge.span(tokens, params)
        shift, variance = self.levels.shift(start, end)
        distance = np.abs(np.subtract(end, start)).sum(axis=0)[:, None]
        law_variance = np.maximum((LAW_ERROR * distance) ** 2, 1e-18)  # none among the runs
        return shift, variance, law_variance / (law_variance + variance)

    def _level(self, tokens: float, params: float) -> Array:
        return _level(self.law, self.references, tokens, params)


def _level(law: LawWithErrors, references: Array, tokens: float, params: float) -> Array:
    count = len(references)
    predicted = law.predict(references, np.full(count, tokens), np.full(count, params))
    return np.asarray(predicted.mean(axis=0))


def with_levels(law: LawWithErrors, table: RunTable) -> LawWithErrors:
    """Give a law the levels of this module beyond its runs.

    Args:
        law: Fitted to the table.
        table: Runs of any sizes and tokens.

    Returns:
        The law itself where neither sizes nor tokens vary.
    """
    edge = edge_of(table)
    if not edge.sizes_vary and not edge.tokens_vary:
        return law
    mixtures = np.unique(np.round(table.weights, 12), axis=0)
    few = np.linspace(0, len(mixtures) - 1, min(len(mixtures), REFERENCES)).astype(np.int64)
    points = _points(law, table, edge, mixtures[few])
    drift = _drift(law, table, edge, mixtures[few])
    return FittedBeyond(law, fit_levels(points), edge, mixtures[few], drift)


def _drift(law: LawWithErrors, table: RunTable, edge: Edge, references: Array) -> Array:
    """Compare deviations from the level at the ends of the runs, per e-fold between them."""
    count = len(references)

    def deviations(tokens: float, params: float) -> Array:
        at = np.full(count, tokens), np.full(count, params)
        logs = np.log(law.predict(references, *at))
        return np.asarray(logs - logs.mean(axis=0))

    last = float(table.tokens.max()), float(table.params.max())
    end, drift = deviations(*last), np.zeros((2, len(table.targets)))
    if edge.sizes_vary:
        off = end - deviations(last[0], float(table.params.min()))
        drift[0] = np.sqrt((off**2).mean(axis=0)) / np.ptp(edge.sizes)
    if edge.tokens_vary:
        off = end - deviations(float(table.tokens.min()), last[1])
        drift[1] = np.sqrt((off**2).mean(axis=0)) / np.log(last[0] / table.tokens.min())
    return drift


def _points(law: LawWithErrors, table: RunTable, edge: Edge, references: Array) -> LevelPoints:
    """Average losses over mixtures, at every combination of size and tokens.

    Sizes may have seen other mixtures. So a level is the law's mean over the references, times the
    mean ratio of observed to predicted losses there.
    """
    size, time = edge.places(table.tokens, table.params)
    number = number_distinct(np.round(np.stack([size, time], axis=1), 2))
    count = int(number.max()) + 1
    rows = np.bincount(number)
    ratios = np.log(table.losses / law.predict(table.weights, table.tokens, table.params))
    means = np.stack([np.bincount(number, column, count) / rows for column in ratios.T], axis=1)
    _, first = np.unique(number, return_index=True)
    levels = np.stack([_level(law, references, table.tokens[at], table.params[at]) for at in first])
    levels = levels * np.exp(means)
    end = np.argmin(size[first] ** 2 + time[first] ** 2)
    kept = np.linspace(0, count - 1, min(count, MOST_POINTS)).astype(np.int64)
    points = LevelPoints(size[first], time[first], levels / levels[end])
    return points.take(np.isin(np.arange(count), kept))
