"""Group runs by model size and length, and measure what each group adds to predictions.

Cheap runs help if their mixture effects carry over to the largest size. So the runs of the largest
size are predicted by cross-validation, with all other runs at hand and again without each group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.laws.crossval import FitTask, fit_and_predict
from curate.laws.fitting.features import distinct_mixtures, number_distinct, run_folds
from curate.laws.law import Array, Law, RunTable
from curate.laws.scores import LEAST_RANKED, Scores, finite_or_none, score
from curate.laws.selection import by_mixture
from curate.runtime.workers import map_tasks

Rows = NDArray[np.bool_]

SAME_LENGTH = 1.1
"""Ratio of sizes, or of tokens, up to which runs next to each other are in one group."""
FLOPS_PER_PARAMETER = 6
"""Floating-point operations for each parameter and token. Kaplan et al. 2020, arXiv:2001.08361v1,
section 2.1: C = 6 N D, embeddings and attention left out."""
SECONDS = 60.0
"""Longest time that the refits may take."""
TIE_ERRORS = 2.0
"""Standard errors of a paired difference within which a group makes no difference."""


@dataclass(frozen=True, slots=True)
class RunGroup:
    """Runs of one model size and one length."""

    params: float
    """Parameters, the largest of the group; NaN if the table does not say."""
    tokens: float
    """Tokens of a whole run, the largest of the group; NaN if the table does not say."""
    rows: Rows
    """shape (rows,), the rows of these runs."""
    last: Rows
    """shape (rows,), the last row of each of them."""

    @property
    def runs(self) -> int:
        """Number of runs."""
        return int(self.last.sum())


def run_groups(table: RunTable) -> list[RunGroup]:
    """Group runs by size and length, the smallest size first.

    Sizes, or lengths, that differ by a tenth or less from the next are one group.
    """
    names = np.unique(table.runs, return_inverse=True)[1].ravel()
    run = number_distinct(np.column_stack([names, np.nan_to_num(table.params)]))
    tokens = np.nan_to_num(table.tokens, nan=1.0)
    length = np.full(run.max() + 1, -math.inf)
    np.maximum.at(length, run, tokens)
    last = tokens >= length[run]
    size_class = _classes(np.nan_to_num(table.params, nan=1.0))
    length_class = _classes(length)[run]
    groups = []
    for size, tier in sorted(set(zip(size_class.tolist(), length_class.tolist(), strict=True))):
        rows = (size_class == size) & (length_class == tier)
        groups.append(
            RunGroup(float(table.params[rows].max()), float(table.tokens[rows].max()), rows,
                     rows & last)
        )  # fmt: skip
    return groups


def _classes(values: Array) -> NDArray[np.int64]:
    """Number values from the smallest, those next to each other within `SAME_LENGTH` alike."""
    distinct, place = np.unique(values, return_inverse=True)
    steps = np.diff(np.log(distinct)) > math.log(SAME_LENGTH) * (1 + 1e-9)
    return np.concatenate([[0], np.cumsum(steps)])[place.ravel()].astype(np.int64)


def training_flops(table: RunTable, rows: Rows) -> float:
    """Add up the training cost of the runs in these rows, 6 N D each; NaN if unknown.

    Args:
        table: The runs.
        rows: shape (rows,), the last row of each run.
    """
    return float(FLOPS_PER_PARAMETER * (table.params[rows] * table.tokens[rows]).sum())


@dataclass(frozen=True, slots=True)
class GroupTrial:
    """Predictions of the largest group's runs from some of the groups."""

    without: int | None
    """Number of the group that was left out; None: none was."""
    runs: int
    flops: float
    """Training cost of the runs that were there; NaN if unknown."""
    scores: Scores | None
    """Scores on the largest group's unseen mixtures; None if the law could not be fitted."""
    regret: float
    """Measured mean loss of the run predicted best above that of the best run, a fraction."""
    verdict: str
    """`helps`, `harms` or `no difference`; empty where nothing was left out."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class GroupComparison:
    """The gain from each group of runs, or the reason why it was not measured."""

    groups: tuple[RunGroup, ...]
    """Smallest first; the last one is predicted."""
    law: str = ""
    trials: tuple[GroupTrial, ...] = ()
    note: str = ""
    """Why there are no trials, for the user; empty where there are, or there is one group."""

    def to_json(self, table: RunTable) -> dict[str, Any]:
        """Return its part of `fit.json`."""
        return {
            "law": self.law or None,
            "note": self.note or None,
            "groups": [
                {
                    "params": finite_or_none(group.params),
                    "tokens": finite_or_none(group.tokens),
                    "runs": group.runs,
                    "flops": finite_or_none(training_flops(table, group.last)),
                }
                for group in self.groups
            ],
            "trials": [_trial_json(trial) for trial in self.trials],
        }


def _trial_json(trial: GroupTrial) -> dict[str, Any]:
    scores = trial.scores
    return {
        "without_group": trial.without,
        "runs": trial.runs,
        "flops": finite_or_none(trial.flops),
        "mean_relative_error": scores and finite_or_none(scores.relative_error.mean()),
        "r2_mean": scores and finite_or_none(scores.r2.mean()),
        "spearman_mean": scores and finite_or_none(scores.spearman.mean()),
        "spearman_of_mean": scores and finite_or_none(scores.spearman_of_mean),
        "relative_regret": finite_or_none(trial.regret),
        "verdict": trial.verdict or None,
        "problem": trial.problem or None,
    }


def compare_groups(
    table: RunTable,
    laws: Sequence[tuple[Law, float]],
    folds: int = 5,
    workers: int = 1,
    on_tick: Callable[[], None] = lambda: None,
) -> GroupComparison:
    """Measure what each group of runs adds to predictions for the largest.

    Every mixture of the largest group is predicted without any run of that mixture, whatever the
    size: what counts is a mixture that nobody has trained.

    Args:
        table: The runs.
        laws: Laws, best first, with the CPU seconds of a fit to the whole table. The first one
            whose refits take no longer than a minute is used.
        folds: Folds over mixtures, at least 2.
        workers: Number of processes.
        on_tick: Called between fits.
    """
    groups = tuple(run_groups(table))
    if len(groups) < 2:
        return GroupComparison(groups)
    target = groups[-1]
    mixtures = len(distinct_mixtures(table.weights[target.last]))
    if mixtures < LEAST_RANKED:
        return GroupComparison(
            groups,
            note=f"what each size and length adds was not measured: the largest has {mixtures} "
            f"mixture{'s' if mixtures > 1 else ''}, and a ranking needs {LEAST_RANKED}",
        )
    held = [rows for rows in run_folds(table, folds) if (rows & target.last).any()]
    fits = len(held) * (len(groups) + 1)
    law = next((law for law, seconds in laws if seconds * fits / workers <= SECONDS), None)
    if law is None:
        return GroupComparison(groups, note=_too_slow(laws, fits, workers))
    left_out: list[int | None] = [None, *range(len(groups))]
    tasks = [
        _task(law, table, _fitted(groups, without) & ~rows, target.last & rows)
        for without in left_out
        for rows in held
    ]
    results = map_tasks(fit_and_predict, tasks, workers, on_tick)
    measured = table.take(target.last)
    last = np.stack([group.last for group in groups]).any(axis=0)
    trials: list[GroupTrial] = []
    for place, without in enumerate(left_out):
        of_trial = results[place * len(held) : (place + 1) * len(held)]
        problem = next((result.problem for result in of_trial if result.problem), "")
        predicted = np.full(table.losses.shape, math.nan)
        if not problem:
            for rows, result in zip(held, of_trial, strict=True):
                predicted[target.last & rows] = result.losses
        if place == 0:
            with_all = predicted[target.last]
        kept = _fitted(groups, without) & last
        trials.append(
            GroupTrial(
                without=without,
                runs=int(kept.sum()),
                flops=training_flops(table, kept),
                scores=None if problem else score(measured, predicted[target.last]),
                regret=relative_regret(measured.losses, predicted[target.last]),
                verdict=""
                if problem or without is None
                else _verdict(measured, with_all, predicted[target.last]),
                problem=problem,
            )
        )
    return GroupComparison(groups, law.name, tuple(trials))


def _fitted(groups: Sequence[RunGroup], without: int | None) -> Rows:
    """Select the rows of all groups but one."""
    fitted: Rows = np.zeros(len(groups[0].rows), bool)
    for at, group in enumerate(groups):
        if at != without:
            fitted |= group.rows
    return fitted


def _task(law: Law, table: RunTable, fitted: Rows, predicted: Rows) -> FitTask:
    """Fit a law to some rows and predict others."""
    both = fitted | predicted
    return FitTask(law, table.take(both), predicted[both])


def relative_regret(losses: Array, predicted: Array) -> float:
    """Return how much worse the run predicted best is than the best run, as a fraction.

    Args:
        losses: shape (runs, targets), as measured.
        predicted: shape (runs, targets); NaN gives NaN.
    """
    means = losses.mean(axis=1)
    best = predicted.mean(axis=1)
    if np.isnan(best).any():
        return math.nan
    return float(means[best.argmin()] / means.min() - 1)


def _verdict(measured: RunTable, with_group: Array, without: Array) -> str:
    """Compare errors with and without a group, paired by mixture."""
    off = np.abs(without / measured.losses - 1) - np.abs(with_group / measured.losses - 1)
    worse = by_mixture(measured, off.mean(axis=1))
    doubt = float(worse.std(ddof=1)) / math.sqrt(len(worse))
    if abs(float(worse.mean())) <= TIE_ERRORS * doubt:
        return "no difference"
    return "helps" if worse.mean() > 0 else "harms"


def _too_slow(laws: Sequence[tuple[Law, float]], fits: int, workers: int) -> str:
    if not laws:
        return "what each size and length adds was not measured: no law could be fitted"
    law, seconds = laws[0]
    return (
        f"what each size and length adds was not measured: {fits} fits of {law.name} would take "
        f"{seconds * fits / workers:,.0f} s, and {SECONDS:.0f} s is the most; compare a faster "
        "law too, as in --laws joint,additive"
    )
