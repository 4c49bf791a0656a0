"""Our joint law: mixture, tokens and model size together, for prediction and for optimising.

The mean of log losses of three experts, none of which is best everywhere:

- a quarter: the effective-share trend with diminishing returns (`joint_trend`);
- a quarter: the same, proportional in the shares; it is the best far from the runs;
- half: a Gaussian process on square roots of shares (`joint_process`) around the mean curve over
  tokens and model size; it is the best among the runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.errors import FitError
from curate.laws.base import Array, RunTable
from curate.laws.features import Progress, progress_of
from curate.laws.joint_process import Process, Rows, learn, observe
from curate.laws.joint_trend import (
    DIMINISHING,
    PROGRESS_ONLY,
    PROPORTIONAL,
    SHARE_OFFSET,
    Trend,
    fit_trend,
)

EXPERT_SHARES = (0.25, 0.25, 0.5)
"""Of diminishing trend, proportional trend, process."""
ROWS_LEARN = 512
"""Rows on which lengths and sizes are learnt; time grows with their cube."""
ROWS_KEEP = 3000
"""Rows that the process is given; of more, the checkpoints of every run are thinned."""
LEAST_MIXTURES = 4
"""Different mixtures below which nothing can be said of the mixture's effect."""
ROUND_ROWS = 512
"""Rows predicted at once."""


@dataclass(frozen=True, slots=True)
class FittedJoint:
    """The three experts of every target."""

    diminishing: Trend
    proportional: Trend
    curve: Trend
    """Mean over mixtures; the process is around it."""
    processes: tuple[Process, ...]
    """One a target."""
    centres: Array
    """shape (targets,), mean of what the process sees, in log losses."""
    scales: Array
    """shape (targets,), standard deviation of the same."""
    progress: Progress

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """See `FittedLaw`."""
        return np.exp(self._log_losses(weights, tokens, params))

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        """See `FittedLaw`."""
        first, second, third = EXPERT_SHARES
        rows = self._rows(weights, tokens, params)
        by_root = np.stack([process.gradient(rows) for process in self.processes], axis=1)
        slopes = third * self.scales[:, None] * by_root / (2 * rows.mixture)[:, None, :]
        slopes += first * self.diminishing.gradient(weights, tokens, params)
        slopes += second * self.proportional.gradient(weights, tokens, params)
        found: Array = self.predict(weights, tokens, params)[:, :, None] * slopes
        return found

    def predict_std(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Standard deviation of the loss of a new run at these rows, shape (rows, targets).

        The process's, noise between runs included.
        """
        rows = self._rows(weights, tokens, params)
        spread = np.stack([process.deviation(rows) for process in self.processes], axis=1)
        found: Array = spread * self.scales * self.predict(weights, tokens, params)
        return found

    def _log_losses(self, weights: Array, tokens: Array, params: Array) -> Array:
        first, second, third = EXPERT_SHARES
        rows = self._rows(weights, tokens, params)
        near = np.stack([process.mean(rows) for process in self.processes], axis=1)
        found = third * (
            self.curve.log_losses(weights, tokens, params) + self.centres + self.scales * near
        )
        found += first * self.diminishing.log_losses(weights, tokens, params)
        found += second * self.proportional.log_losses(weights, tokens, params)
        return found

    def _rows(self, weights: Array, tokens: Array, params: Array) -> Rows:
        return Rows(
            np.sqrt(np.maximum(weights, 0) + SHARE_OFFSET),
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
    mixtures = len(np.unique(np.round(table.weights, 9), axis=0))
    if mixtures < LEAST_MIXTURES:
        raise FitError(
            f"joint: {mixtures} different mixtures of {len(table.domains)} domains in "
            f"{len(table.runs)} rows; it needs {LEAST_MIXTURES}, and is good from about "
            f"{2 * len(table.domains)}. Train runs at other weights, or fit 'bimix', which needs 2"
        )
    progress = progress_of(table)
    curve = fit_trend(table, progress, PROGRESS_ONLY)
    residual = np.log(table.losses) - curve.log_losses(table.weights, table.tokens, table.params)
    _, run = np.unique(np.array(table.runs), return_inverse=True)
    rows = Rows(
        np.sqrt(table.weights + SHARE_OFFSET),
        progress.columns(table.tokens, table.params),
        np.asarray(run, np.int64).reshape(-1),
    )
    order = _spread_over_runs(rows.run)
    few, many = np.sort(order[:ROWS_LEARN]), np.sort(order[:ROWS_KEEP])
    centres = residual[many].mean(axis=0)
    scales = np.maximum(residual[many].std(axis=0), 1e-9)
    values = (residual - centres) / scales
    kept = rows.take(many)
    processes = []
    for target in range(len(table.targets)):
        covariance = learn(rows.take(few), values[few, target])
        processes.append(observe(covariance, kept, values[many, target]))
    return FittedJoint(
        fit_trend(table, progress, DIMINISHING), fit_trend(table, progress, PROPORTIONAL), curve,
        tuple(processes), centres, scales, progress,
    )  # fmt: skip


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
