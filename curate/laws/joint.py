"""Our joint law: mixture, tokens and model size together, for prediction and for optimising.

The mean of log losses of three experts, none of which is best everywhere:

- the effective-share trend with diminishing returns (`joint_trend`), good from few runs;
- the same, proportional in the shares: best far from the runs;
- a Gaussian process on square roots of shares (`joint_process`) around the mean curve over
  tokens and model size: best among the runs.

Each counts in inverse proportion to its mean squared error on mixtures left out, for every target
on its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.errors import FitError
from curate.laws.base import Array, RunTable
from curate.laws.features import Progress, progress_of
from curate.laws.joint_process import Process, Rows, learn, observe
from curate.laws.joint_process import left_out as process_left_out
from curate.laws.joint_trend import (
    DIMINISHING,
    PROGRESS_ONLY,
    PROPORTIONAL,
    SHARE_OFFSET,
    Trend,
    TrendPrior,
    fit_trend,
)
from curate.laws.joint_trend import left_out as trend_left_out

ROWS_LEARN = 320
"""Rows on which lengths and sizes are learnt; time grows with their cube."""
ROWS_KEEP = 3000
"""Rows that the process is given; of more, the checkpoints of every run are thinned."""
ROWS_JUDGE = 800
"""Rows on which experts are compared, and trends fitted."""
LEAST_MIXTURES = 4
"""Different mixtures below which nothing can be said of the mixture's effect."""


@dataclass(frozen=True, slots=True)
class FittedJoint:
    """The three experts of every target."""

    trends: tuple[Trend, Trend]
    """Diminishing and proportional."""
    curve: Trend
    """Mean over mixtures; the process is around it."""
    processes: tuple[Process, ...]
    """One a target."""
    centres: Array
    """shape (targets,), mean of what the process sees, in log losses."""
    scales: Array
    """shape (targets,), standard deviation of the same."""
    votes: Array
    """shape (experts, targets): both trends, the process; each column sums to 1."""
    progress: Progress

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """See `FittedLaw`."""
        experts = self.experts(weights, tokens, params)
        losses: Array = np.exp((self.votes[:, None, :] * experts).sum(axis=0))
        return losses

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        """See `FittedLaw`."""
        rows = self._rows(weights, tokens, params)
        by_root = np.stack([process.gradient(rows) for process in self.processes], axis=1)
        slopes = (self.votes[2] * self.scales)[:, None] * by_root
        slopes /= 2 * rows.mixture[:, None, :]
        # The curve depends on the shares' sum, which is free here.
        for vote, trend in zip(self.votes, (*self.trends, self.curve), strict=True):
            slopes += vote[:, None] * trend.gradient(weights, tokens, params)
        found: Array = self.predict(weights, tokens, params)[:, :, None] * slopes
        return found

    def predict_std(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Standard deviation of the loss of a new run at these rows, shape (rows, targets).

        The process's, with noise between runs, and the experts' disagreement: large where a
        mixture is unlike all runs.
        """
        rows = self._rows(weights, tokens, params)
        spread = np.stack([process.deviation(rows) for process in self.processes], axis=1)
        experts = self.experts(weights, tokens, params)
        votes = self.votes[:, None, :]
        mean = (votes * experts).sum(axis=0)
        disagreement = (votes * (experts - mean) ** 2).sum(axis=0)
        found: Array = np.exp(mean) * np.sqrt((spread * self.scales) ** 2 + disagreement)
        return found

    def experts(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Log losses that each expert predicts, shape (experts, rows, targets)."""
        rows = self._rows(weights, tokens, params)
        near = np.stack([process.mean(rows) for process in self.processes], axis=1)
        curve = self.curve.log_losses(weights, tokens, params)
        trends = [trend.log_losses(weights, tokens, params) for trend in self.trends]
        return np.stack([*trends, curve + self.centres + self.scales * near])

    def _rows(self, weights: Array, tokens: Array, params: Array) -> Rows:
        return Rows(
            np.sqrt(weights + SHARE_OFFSET),
            self.progress.columns(tokens, params),
            np.full(len(weights), -1, np.int64),
        )


def fit_joint(table: RunTable) -> FittedJoint:
    """Fit the joint law.

    Args:
        table: Any number of checkpoints, sizes and targets, of at least 4 different mixtures;
            terms of tokens and model size exist where those vary.

    Returns:
        The fitted law.

    Raises:
        FitError: Fewer mixtures than that.
    """
    _, mixture = np.unique(np.round(table.weights, 9), axis=0, return_inverse=True)
    mixture = np.asarray(mixture, np.int64).reshape(-1)
    mixtures = int(mixture.max(initial=-1)) + 1
    if mixtures < LEAST_MIXTURES:
        raise FitError(
            f"joint: the runs have {mixtures} different mixtures of {len(table.domains)} domains; "
            f"it needs {LEAST_MIXTURES}, better {2 * len(table.domains)}. Train runs at other "
            "weights, or fit --laws additive, which takes what there is"
        )
    _, run = np.unique(np.array(table.runs), return_inverse=True)
    order = _spread_over_runs(np.asarray(run, np.int64).reshape(-1))
    few, judged, many = (np.sort(order[:rows]) for rows in (ROWS_LEARN, ROWS_JUDGE, ROWS_KEEP))
    progress = progress_of(table)
    some = table.take(judged)
    beliefs = (DIMINISHING, PROPORTIONAL)
    trends = [fit_trend(some, progress, belief) for belief in beliefs]
    errors = [
        _trend_errors(trend, some, belief, mixture[judged])
        for trend, belief in zip(trends, beliefs, strict=True)
    ]
    curve = fit_trend(some, progress, PROGRESS_ONLY)
    residual = np.log(table.losses) - curve.log_losses(table.weights, table.tokens, table.params)
    centres = residual[many].mean(axis=0)
    scales = np.maximum(residual[many].std(axis=0), 1e-9)
    values = (residual - centres) / scales
    rows = Rows(
        np.sqrt(table.weights + SHARE_OFFSET),
        progress.columns(table.tokens, table.params),
        np.asarray(run, np.int64).reshape(-1),
    )
    processes, process_errors = [], []
    for target in range(len(table.targets)):
        seen = values[:, target]
        covariance = learn(rows.take(few), seen[few])
        processes.append(observe(covariance, rows.take(many), seen[many]))
        missed = process_left_out(covariance, rows.take(judged), seen[judged], mixture[judged])
        process_errors.append(float(np.mean(missed**2)))
    errors.append(np.array(process_errors) * scales**2)
    return FittedJoint(
        (trends[0], trends[1]), curve, tuple(processes), centres, scales, _votes(errors), progress
    )


def _trend_errors(
    trend: Trend, table: RunTable, belief: TrendPrior, group: NDArray[np.int64]
) -> Array:
    """Mean squared errors on mixtures left out, shape (targets,)."""
    found: Array = np.mean(trend_left_out(trend, table, belief, group) ** 2, axis=0)
    return found


def _votes(errors: list[Array]) -> Array:
    """Shares in inverse proportion to mean squared errors, shape (experts, targets)."""
    precision = 1 / (np.stack(errors) + 1e-18)
    votes: Array = precision / precision.sum(axis=0)
    return votes


def _spread_over_runs(run: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows in an order whose every beginning has equally many of each run.

    Within a run the order is a seeded permutation, another for every run, so that a beginning also
    sees all stages of training.
    """
    shuffled = np.random.default_rng(0).permutation(len(run))
    by_run = shuffled[np.argsort(run[shuffled], kind="stable")]
    counts = np.bincount(run)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    rank = np.arange(len(run)) - starts
    # Which runs come first when a beginning ends within a rank is left to the shuffle too.
    place = np.empty(len(run), np.int64)
    place[shuffled] = np.arange(len(run))
    return by_run[np.lexsort((place[by_run], rank))]
