"""Our joint law: mixture, tokens and model size together, for prediction and optimisation.

A weighted mean of the log losses of three or four experts, none of which is best everywhere:

- the effective-share trend with diminishing returns (`joint_trend`), good from few runs;
- the same, proportional in the shares: best far from the runs;
- a Gaussian process on square roots of shares (`gaussian_process`) around the mean curve over
  tokens and model size: best among the runs;
- where tokens or model size vary, such a process around the diminishing trend too.

Each is weighted by its errors on mixtures left out. Where rows are few, the experts are fitted
again without those mixtures, and the weights are those of the least squared error, mostly over all
targets together, since the errors of one say little. Elsewhere, errors are estimated from the whole
fit, and the weights are almost in inverse proportion to their squares.

Where some runs are of earlier domains, the experts are fitted twice, to all runs and to those of
today, and all of them are weighed by errors on the latter: what was learnt before counts as far as
it still holds.

Where it is known which domains have similar text, trends expect similar effects of them before any
run, if the runs bear that out (`curate.laws.fitting.likeness`).

Where targets have the names of domains, the trends may expect before any run that a target learns
most from its own domain; errors left out decide whether they do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from curate.errors import FitError
from curate.laws.calibration import NORMAL_95, half_width
from curate.laws.fitting.features import (
    Progress,
    distinct_mixtures,
    mixture_numbers,
    progress_of,
    run_folds,
)
from curate.laws.fitting.gaussian_process import (
    ROWS_LEARN,
    Rows,
    TargetProcesses,
    learn,
    new_runs,
    observe,
    run_numbers,
)
from curate.laws.fitting.gaussian_process import left_out as process_left_out
from curate.laws.fitting.levels import LawWithErrors, with_levels
from curate.laws.fitting.likeness import transfer_factor
from curate.laws.forms.joint_trend import (
    DIMINISHING,
    OWN_TRANSFER,
    PROGRESS_ONLY,
    PROPORTIONAL,
    SHARE_OFFSET,
    Trend,
    fit_trends,
    tilt,
)
from curate.laws.forms.joint_trend import left_out as trend_left_out
from curate.laws.formula import Formula, add, constant, exp, multiply, power, shares
from curate.laws.law import Array, Law, RunTable
from curate.runtime.threads import one_blas_thread

ROWS_JUDGE = 800
"""Rows on which experts are compared and trends fitted."""
ROWS_OBSERVE = 1600
"""Rows that processes observe. With 1,200 of 2,880, errors of unseen mixtures are larger by 1 % of
themselves, and a fit takes a quarter of the time."""
FOLDS = 5
"""Parts of the mixtures that experts are judged on in turn."""
ROWS_REFIT = 100
"""Rows up to which experts are judged by fitting them again. A process whose length scales have
seen a mixture understates its error there by half, at 20 runs."""
MIXTURES_COMMON = 100
"""Mixtures at which a target's own errors count as much for its weights as those of all."""
ALIKE_REFITTED = 0.9
"""How far the products of two experts' errors count in their weights where both were fitted again:
0 gives inverse squares, 1 the least squared error on the mixtures left out."""
ALIKE = 0.1
"""The same for errors estimated from the whole fit. With 0.9 RegMix's error is 0.83 % instead of
0.89 %, but runs far from those fitted are ranked worse (1B: 97.5 instead of 98.2)."""
MOST_MISSED = 1.0
"""Largest error, in standard deviations of a target's log losses, by which trends are compared."""
TILT_CLEAR = 1.0
"""Logarithm by which tilts must lower squared errors left out for a process to start from the
tilted trend. A process that starts from one which is a little better may find nothing left, where
repeated tokens bend the curves (planted, 50 mixtures x 3 x 5: 0.100 % instead of 0.064 %)."""
MANY_MIXTURES, MANY_ROWS = 4, 400
"""Mixtures for each domain, and rows, from which both on names are not looked at, to save a second
fit: 0.7 s of 600 rows. From 96 runs of 14 domains (`saturated` of `tools/bench/planted.py`) names
lower the error from 0.16 to 0.12 %."""
LEAST_JUDGES = 10
"""Fewest mixtures of today on which experts are judged, where other runs are of earlier domains."""
LEAST_MIXTURES = 4
"""Fewest different mixtures that say anything about the mixture's effect."""


@dataclass(frozen=True, slots=True)
class CorrectedTrend:
    """A trend and, for every target, a process over the trend's errors in log losses."""

    trend: Trend
    residuals: TargetProcesses

    def gradient(self, trend: Array, rows: Rows) -> Array:
        """Correct the trend's derivative by the weights, shape (rows, targets, domains)."""
        by_root = self.residuals.standard_gradient(rows)
        slopes = self.residuals.scales[:, None] * by_root / (2 * rows.mixture[:, None, :])
        return np.asarray(trend + slopes)


@dataclass(frozen=True, slots=True)
class Experts:
    """The experts whose mean is the joint law."""

    trends: tuple[Trend, ...]
    """The diminishing and the proportional one."""
    corrected: tuple[CorrectedTrend, ...]
    """The mean curve and, where progress varies, the diminishing trend, each with a process."""
    progress: Progress

    def beside(self, others: Experts) -> Experts:
        """Join with experts that were fitted to other rows."""
        trends = (*self.trends, *others.trends)
        return Experts(trends, (*self.corrected, *others.corrected), self.progress)

    def log_losses(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Predict log losses, shape (experts, rows, targets), trends before corrected ones.

        Args:
            weights: shape (rows, domains), shares.
            tokens: shape (rows,).
            params: shape (rows,).
        """
        at = (weights, tokens, params)
        rows = _rows_of(weights, self.progress.columns(tokens, params), new_runs(len(weights)))
        trends = [trend.log_losses(*at) for trend in self.trends]
        corrected = [
            expert.residuals.mean(rows, expert.trend.log_losses(*at)) for expert in self.corrected
        ]
        return np.stack([*trends, *corrected])

    def gradient(self, weights: Array, tokens: Array, params: Array) -> list[Array]:
        """Differentiate log losses, for every expert shape (rows, targets, domains).

        Args:
            weights: shape (rows, domains), shares.
            tokens: shape (rows,).
            params: shape (rows,).
        """
        at = (weights, tokens, params)
        rows = _rows_of(weights, self.progress.columns(tokens, params), new_runs(len(weights)))
        slopes = [trend.gradient(*at) for trend in self.trends]
        return slopes + [
            expert.gradient(expert.trend.gradient(*at), rows) for expert in self.corrected
        ]

    def formulas(self, params: float) -> list[Formula]:
        """Write every expert's log losses as a formula of shares and tokens."""
        roots = power(add(shares(), constant(SHARE_OFFSET)), constant(0.5))
        columns = self.progress.formulas(params)
        trends = [trend.formula(params) for trend in self.trends]
        return trends + [
            add(expert.trend.formula(params), expert.residuals.formula(roots, columns))
            for expert in self.corrected
        ]


@dataclass(frozen=True, slots=True)
class FittedJoint:
    """Experts and their weights."""

    experts: Experts
    votes: Array
    """shape (experts, targets); columns sum to 1."""
    errors: Array
    """shape (targets,), standard deviations whose normal 95 % hold 95 % of the errors of log
    losses on mixtures left out."""

    def predict_std(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Estimate the standard deviation of log losses of new runs around the predictions.

        Args:
            weights: shape (rows, domains).
            tokens: shape (rows,).
            params: shape (rows,).

        Returns:
            Shape (rows, targets), equal in all rows: that of mixtures left out of the fit.
        """
        return np.tile(self.errors, (len(weights), 1))

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Predict the geometric mean of the experts' losses, weighted by their votes.

        Args:
            weights: shape (rows, domains), shares of training tokens; each row sums to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets), in the unit of the fitted table.
        """
        log_losses = self.experts.log_losses(weights, tokens, params)
        return np.asarray(np.exp((self.votes[:, None, :] * log_losses).sum(axis=0)))

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Differentiate the geometric mean of the experts' losses.

        Args:
            weights: shape (rows, domains); free numbers, which need not sum to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets, domains), the unit of the fitted table per unit of share.
        """
        slopes = self.experts.gradient(weights, tokens, params)
        by_weight = sum(
            vote[:, None] * slope for vote, slope in zip(self.votes, slopes, strict=True)
        )
        return np.asarray(self.predict(weights, tokens, params)[:, :, None] * by_weight)

    def formula(self, params: float) -> Formula:
        """Write the predicted losses as a formula of shares and tokens; see `LawWithFormula`."""
        experts = self.experts.formulas(params)
        return exp(
            add(*(multiply(constant(v), e) for v, e in zip(self.votes, experts, strict=True)))
        )


@one_blas_thread()
def fit_joint(table: RunTable) -> FittedJoint:
    """Fit the joint law.

    Args:
        table: Any number of checkpoints, sizes and targets, of at least 4 different mixtures;
            terms of tokens and model size exist where those vary.

    Returns:
        The fitted law.

    Raises:
        FitError: There are fewer than 4 different mixtures.
    """
    mixtures = len(distinct_mixtures(table.weights))
    if mixtures < LEAST_MIXTURES:
        raise FitError(
            f"joint: the runs have {mixtures} different mixtures of {len(table.domains)} domains; "
            f"it needs {LEAST_MIXTURES}, better {2 * len(table.domains)}. Train runs at other "
            "weights, or use a law that needs fewer: curate fit --laws additive"
        )
    progress, factor = progress_of(table), transfer_factor(table)
    later = _rows_that_judge(table)
    experts, missed = _fit_experts(table, progress, factor)
    if later is not None:
        experts = experts.beside(_fit_experts(table.take(~_earlier(table)), progress, factor)[0])
    alike, judges = ALIKE, table
    if later is not None:
        judges = table.take(later)
        mixtures = len(distinct_mixtures(judges.weights))
    if len(table.runs) <= ROWS_REFIT or later is not None:
        missed, alike = _refitted_errors(table, (progress, factor), later), ALIKE_REFITTED
    scales = np.maximum(np.log(judges.losses).std(axis=0), 1e-9)
    votes = _votes(missed / scales, mixtures, alike)
    together = np.einsum("et,ent->nt", votes, missed)
    return FittedJoint(experts, votes, half_width(together, judges) / NORMAL_95)


def _earlier(table: RunTable) -> NDArray[np.bool_]:
    """Tell the rows of runs on earlier domains, shape (rows,)."""
    return np.zeros(len(table.runs), bool) if table.earlier is None else table.earlier


def _rows_that_judge(table: RunTable) -> NDArray[np.bool_] | None:
    """Select the rows that experts are judged on, where some runs are of earlier domains.

    Those inform the fit, but what predicts them well need not predict mixtures of today.

    Returns:
        Shape (rows,); None: all rows judge.
    """
    if table.earlier is None or table.earlier.all():
        return None
    later = np.flatnonzero(~table.earlier)
    if len(distinct_mixtures(table.weights[later])) < LEAST_JUDGES:
        return None
    if len(later) > ROWS_REFIT:
        later = np.sort(later[_spread_over_runs(run_numbers(table.take(later)))[:ROWS_REFIT]])
    return np.isin(np.arange(len(table.runs)), later)


@one_blas_thread()
def fit_joint_beyond(table: RunTable) -> LawWithErrors:
    """Fit the joint law, and levels of size and tokens for predictions beyond the runs.

    Args:
        table: As for `fit_joint`.

    Returns:
        The fitted law.

    Raises:
        FitError: There are fewer than 4 different mixtures.
    """
    return with_levels(fit_joint(table), table)


def _fit_experts(
    table: RunTable, progress: Progress, factor: Array | None = None
) -> tuple[Experts, Array]:
    """Fit all experts, and estimate their errors on mixtures left out.

    Args:
        table: The rows.
        progress: Their columns of progress.
        factor: As for `fit_trends`.

    Returns:
        The experts, and errors of log losses, shape (experts, at most `ROWS_JUDGE` rows, targets).
    """
    run = run_numbers(table)
    order = _spread_over_runs(run)
    few, judged, many = (np.sort(order[:rows]) for rows in (ROWS_LEARN, ROWS_JUDGE, ROWS_OBSERVE))
    sample = _Sample(few, judged, many, mixture_numbers(table.weights)[judged])
    columns = progress.columns(table.tokens, table.params)
    rows = _rows_of(table.weights, columns, run)
    some = table.take(judged)
    curve, trends, missed = _fit_trends(some, progress, (sample.group, factor))
    bases = [curve]
    if columns.shape[1]:
        plain = trends[0]
        trends[0], missed[0], gain = _tilted(plain, missed[0], some, sample.group)
        bases.append(trends[0] if gain > TILT_CLEAR else plain)
    corrected = [_fit_corrected(base, table, rows, sample) for base in bases]
    missed += [errors for _, errors in corrected]
    experts = Experts(tuple(trends), tuple(expert for expert, _ in corrected), progress)
    return experts, np.stack(missed)


def _fit_trends(
    table: RunTable, progress: Progress, given: tuple[NDArray[np.int64], Array | None]
) -> tuple[Trend, list[Trend], list[Array]]:
    """Fit the curve of progress and both trends, and estimate the trends' errors left out.

    Where targets have the names of domains, both are fitted twice: as if before any run a target
    learnt no more from its own domain than from others, and as if it learnt most from it. What the
    errors of all these targets prefer is taken. Many mixtures say it themselves.

    Args:
        table: The rows.
        progress: Their columns of progress.
        given: Numbers of the rows' mixtures, shape (rows,), and the factor for `fit_trends`.

    Returns:
        The curve, the trends, and their errors on mixtures left out, shape (rows, targets) each.
    """
    group, factor = given
    many = len(np.unique(group)) >= MANY_MIXTURES * len(table.domains)
    few = not many or len(table.runs) < MANY_ROWS
    named = [place for place, name in enumerate(table.targets) if few and name in table.domains]
    spreads = np.maximum(np.log(table.losses).std(axis=0), 1e-9)[named]
    tried: list[tuple[float, list[Trend], list[Array]]] = []
    beliefs = [
        replace(belief, own_transfer=own_transfer)
        for own_transfer in ((0.0, OWN_TRANSFER) if named else (0.0,))
        for belief in (DIMINISHING, PROPORTIONAL)
    ]
    curve, *fitted = fit_trends(table, progress, [PROGRESS_ONLY, *beliefs], factor)
    for trends in (fitted[:2], fitted[2:]) if named else (fitted,):
        missed = [trend_left_out(trend, table, group) for trend in trends]
        # One row on which a linearised error explodes must not decide.
        relative = np.minimum(np.abs(np.array(missed)[:, :, named]) / spreads, MOST_MISSED)
        tried.append((float((relative**2).sum()), trends, missed))
    _, trends, missed = min(tried, key=lambda row: row[0])
    return curve, trends, missed


def _tilted(
    trend: Trend, missed: Array, table: RunTable, group: NDArray[np.int64]
) -> tuple[Trend, Array, float]:
    """Tilt a trend if that lowers the errors on mixtures left out.

    Args:
        trend: Fitted to the table.
        missed: Its errors on mixtures left out, shape (rows, targets).
        table: The rows.
        group: Numbers of the rows' mixtures, shape (rows,).

    Returns:
        The trend, its errors, and the logarithm by which their squares are lower.
    """
    tilted = tilt(trend, table)
    errors = trend_left_out(tilted, table, group)
    gain = _log_squares(missed) - _log_squares(errors)
    return (tilted, errors, gain) if gain > 0 else (trend, missed, 0.0)


def _log_squares(missed: Array) -> float:
    """Return the mean over targets of the logarithm of mean squared errors (rows, targets)."""
    return float(np.log((missed**2).mean(axis=0) + 1e-18).mean())


def _refitted_errors(
    table: RunTable,
    given: tuple[Progress, Array | None],
    judges: NDArray[np.bool_] | None = None,
) -> Array:
    """Fit the experts without each fifth of the mixtures in turn.

    Args:
        table: All rows.
        given: Their columns of progress, and the factor for `fit_trends`.
        judges: shape (rows,), rows to leave out in turn; None: all.

    Returns:
        Errors of log losses, shape (experts, rows that judge, targets).
    """
    missed = []
    rows = np.arange(len(table.runs)) if judges is None else np.flatnonzero(judges)
    for part in run_folds(table.take(rows), FOLDS):
        held = np.isin(np.arange(len(table.runs)), rows[part])
        train = table.take(~held)
        experts, _ = _fit_experts(train, *given)
        if judges is not None:
            experts = experts.beside(_fit_experts(train.take(~_earlier(train)), *given)[0])
        test = table.take(held)
        predicted = experts.log_losses(test.weights, test.tokens, test.params)
        missed.append(np.log(test.losses) - predicted)
    return np.concatenate(missed, axis=1)


@dataclass(frozen=True, slots=True)
class _Sample:
    """Rows of a table by their use; each shape (its rows,)."""

    learn: NDArray[np.int64]
    """Rows on which length scales and variances are learnt."""
    judge: NDArray[np.int64]
    """Rows on which experts are compared and trends fitted."""
    keep: NDArray[np.int64]
    """Rows that processes observe."""
    group: NDArray[np.int64]
    """Numbers of the mixtures of the rows in `judge`."""


def _fit_corrected(
    trend: Trend, table: RunTable, rows: Rows, sample: _Sample
) -> tuple[CorrectedTrend, Array]:
    """Fit processes to a trend's errors, and estimate their own errors on mixtures left out.

    The trend is not fitted again without those mixtures: including its errors on them made the
    votes no better.

    Returns:
        The expert, and its errors of log losses, shape (rows in `judge`, targets).
    """
    residual = np.log(table.losses) - trend.log_losses(table.weights, table.tokens, table.params)
    centres = residual[sample.keep].mean(axis=0)
    scales = np.maximum(residual[sample.keep].std(axis=0), 1e-9)
    values = (residual - centres) / scales
    processes, missed = [], []
    covariances = learn(rows.take(sample.learn), values[sample.learn])
    for covariance, seen in zip(covariances, values.T, strict=True):
        processes.append(observe(covariance, rows.take(sample.keep), seen[sample.keep]))
        judged = rows.take(sample.judge), seen[sample.judge]
        missed.append(process_left_out(covariance, *judged, sample.group))
    residuals = TargetProcesses(tuple(processes), centres, scales)
    return CorrectedTrend(trend, residuals), np.stack(missed, axis=1) * scales


def _rows_of(weights: Array, columns: Array, run: NDArray[np.int64]) -> Rows:
    return Rows(np.sqrt(weights + SHARE_OFFSET), columns, run)


def _votes(missed: Array, mixtures: int, alike: float) -> Array:
    """Find the weights of experts with the least squared error, for every target.

    Args:
        missed: Errors on mixtures left out, comparable between targets, shape (experts, rows,
            targets).
        mixtures: Number of different ones.
        alike: Part of the products of different experts' errors that counts, from 0, where weights
            are in inverse proportion to squared errors, to 1.

    Returns:
        shape (experts, targets); columns are positive and sum to 1.
    """
    from scipy.optimize import nnls

    experts, rows, targets = missed.shape
    products = np.einsum("ert,frt->tef", missed, missed, optimize=True) / rows
    share = mixtures / (mixtures + MIXTURES_COMMON)
    products = share * products + (1 - share) * products.mean(axis=0)
    votes = np.empty((experts, targets))
    for target, product in enumerate(products):
        product *= alike
        product[np.diag_indices(experts)] *= 1 / alike
        product[np.diag_indices(experts)] += 1e-18
        # The minimum of w'Gw over positive w that sum to 1 is that of w'Gw - 2 sum(w), rescaled.
        factor = np.linalg.cholesky(product)
        free, _ = nnls(factor.T, np.linalg.solve(factor, np.ones(experts)))
        votes[:, target] = free / free.sum()
    return votes


def _spread_over_runs(run: NDArray[np.int64]) -> NDArray[np.int64]:
    """Order rows so that every prefix has about equally many of each run.

    Within a run the order is a seeded permutation, another for every run, so that a prefix also
    has all stages of training.
    """
    shuffled = np.random.default_rng(0).permutation(len(run))
    by_run = shuffled[np.argsort(run[shuffled], kind="stable")]
    counts = np.bincount(run)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    rank = np.arange(len(run)) - starts
    # When a prefix ends within a rank, the shuffle decides which runs come first.
    place = np.empty(len(run), np.int64)
    place[shuffled] = np.arange(len(run))
    return by_run[np.lexsort((place[by_run], rank))]


JOINT = Law(
    name="joint",
    summary="two trends of useful data and a Gaussian process, weighed by errors left out",
    paper="no paper; ours",
    needs="4 different mixtures; better with twice as many runs as domains",
    fit=fit_joint_beyond,
)
