"""Compare laws on runs they have not seen: folds over mixtures, and the last tokens held out.

A law selects its hyperparameters (a penalty, a noise level, length scales) from the rows it is
fitted to, so the cross-validation is nested. All checkpoints of a run, and all runs of a mixture,
are in one fold.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import FitError
from curate.laws import LAWS, Law
from curate.laws.fitting.features import run_folds
from curate.laws.law import Array, RunTable
from curate.laws.scores import Scores, SeedNoise, finite_or_none, score, seed_noise
from curate.laws.selection import (
    SelectionValue,
    TargetNoise,
    by_mixture,
    moved_targets,
    reference_rows,
    select_unseen,
    target_noise,
)
from curate.runtime.registry import counted
from curate.runtime.threads import one_blas_thread
from curate.runtime.workers import map_tasks

Rows = NDArray[np.bool_]

HELD_TOKENS = 0.2
"""Fraction of each run's tokens, the last ones, that the extrapolation test holds out."""
TIE_ERRORS = 2.0
"""Standard errors of the difference within which a law ties with the best one."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Cross-validation of one law on one table."""

    law: str
    seconds: float
    """CPU time of all its fits."""
    unseen: Scores | None
    """Scores on mixtures it was not fitted to; None if it could not be fitted."""
    later: Scores | None
    """Scores on the last fifth of every run's tokens; None if there are too few token counts."""
    problem: str
    """Why it could not be fitted, or empty."""
    ties: bool = False
    """Whether its error is indistinguishable from the best law's."""
    beats_dummies: bool = False
    """Whether its mean relative error is below that of every dummy."""
    selection: SelectionValue | None = None
    """Value of its best unseen run, in the mean loss at the most tokens of the largest size."""


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """Cross-validation of several laws on one table."""

    folds: int
    targets: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    """Best first, by mean relative error on unseen mixtures; laws that failed come last."""
    noise: SeedNoise
    target_noise: TargetNoise
    unmoved: tuple[str, ...]
    """Targets that the best law predicts no better than their mean does, beyond noise."""

    def to_json(self) -> dict[str, Any]:
        """Return its part of `fit.json`; NaN becomes null."""
        return {
            "folds": self.folds,
            "seed_noise": {
                "groups": self.noise.groups,
                "runs": self.noise.runs,
                "relative": {
                    name: finite_or_none(value)
                    for name, value in zip(self.targets, self.noise.relative, strict=True)
                },
                "relative_of_mean": finite_or_none(self.noise.relative_of_mean),
            },
            "target_noise": self.target_noise.to_json(self.targets),
            "unmoved_targets": list(self.unmoved),
            "laws": {
                row.law: {
                    "problem": row.problem or None,
                    "seconds": round(row.seconds, 3),
                    "ties_with_best": row.ties,
                    "beats_dummies": row.beats_dummies,
                    "selection": None if row.selection is None else row.selection.to_json(),
                    "unseen_mixtures": _scores_json(self.targets, row.unseen),
                    "later_tokens": _scores_json(self.targets, row.later),
                }
                for row in self.comparisons
            },
        }


@dataclass(frozen=True, slots=True)
class FitTask:
    """Fit a law to some rows and predict the others."""

    law: Law
    table: RunTable
    held: Rows


@dataclass(frozen=True, slots=True)
class TaskFit:
    """Predictions of one task."""

    losses: Array
    """shape (held rows, targets); empty where the fit failed."""
    seconds: float
    """CPU time."""
    problem: str
    """Why the fit failed, or empty."""


def cross_validate(
    table: RunTable,
    laws: Sequence[str | Law],
    folds: int = 5,
    workers: int = 1,
    on_tick: Callable[[], None] = lambda: None,
) -> CrossValidation:
    """Compare laws on unseen mixtures and, where there are enough token counts, on later tokens.

    Args:
        table: The runs.
        laws: Names of laws, or unregistered laws, such as those that take experts. Dummies are
            added, since an error means nothing without theirs.
        folds: At least 2.
        workers: Processes.
        on_tick: Called between fits.

    Raises:
        FitError: A law is unknown, or all runs have the same mixture, so none can be held out.
    """
    dummies = [law for law in LAWS.values() if law.dummy]
    rows = [LAWS.find(law, "fit", FitError) if isinstance(law, str) else law for law in laws]
    compared = {law.name: law for law in (*rows, *dummies)}
    if folds < 2:
        raise FitError(f"fit: {folds} folds; cross-validation needs at least 2: --folds 5")
    held_rows = run_folds(table, folds)
    if not held_rows:
        raise FitError(
            f"fit: only one mixture was trained ({counted(len(set(table.runs)), 'run')}), so none "
            "can be held out; train at least two different mixtures"
        )
    later = later_rows(table)
    splits = [*held_rows, *([] if later is None else [later])]
    tasks = [FitTask(law, table, held) for law in compared.values() for held in splits]
    results = map_tasks(fit_and_predict, tasks, workers, on_tick)
    comparisons = []
    errors: dict[str, Array] = {}
    unseen_losses: dict[str, Array] = {}
    for position, law in enumerate(compared.values()):
        fits = results[position * len(splits) : (position + 1) * len(splits)]
        problem = next((fit.problem for fit in fits[: len(held_rows)] if fit.problem), "")
        if problem:
            problem = f"{problem} (with one fold of {len(held_rows)} held out)"
        unseen = after = selection = None
        if not problem:
            predicted = np.empty_like(table.losses)
            for held, fit in zip(held_rows, fits, strict=False):
                predicted[held] = fit.losses
            unseen = score(table, predicted)
            errors[law.name] = by_mixture(table, np.abs(predicted / table.losses - 1).mean(axis=1))
            selection = _selection(table, predicted)
            unseen_losses[law.name] = predicted
        if later is not None and not fits[-1].problem:
            after = score(table.take(later), fits[-1].losses)
        seconds = sum(fit.seconds for fit in fits)
        comparisons.append(
            Comparison(law.name, seconds, unseen, after, problem, selection=selection)
        )
    noise = seed_noise(table)
    ranked = _ranked(comparisons, errors, noise, {law.name for law in dummies})
    return CrossValidation(
        folds=len(held_rows),
        targets=table.targets,
        comparisons=ranked,
        noise=noise,
        target_noise=target_noise(table),
        unmoved=_unmoved(table, ranked, unseen_losses),
    )


def _selection(table: RunTable, predicted: Array) -> SelectionValue:
    """Score the best unseen run by the mean of the losses, all predicted by laws without it."""
    rows = reference_rows(table)
    compared = table.take(rows)
    return select_unseen(
        by_mixture(compared, compared.losses.mean(axis=1)),
        by_mixture(compared, predicted[rows].mean(axis=1)),
    )


def _unmoved(
    table: RunTable, ranked: Sequence[Comparison], unseen_losses: Mapping[str, Array]
) -> tuple[str, ...]:
    """Name the targets that the best law cannot tell from their mean."""
    means, best = unseen_losses.get("mean"), ranked[0].law
    if means is None or best not in unseen_losses:
        return ()
    moved = moved_targets(table, unseen_losses[best], means)
    return tuple(name for name, moves in zip(table.targets, moved, strict=True) if not moves)


def later_rows(table: RunTable) -> Rows | None:
    """Select the rows beyond four fifths of the tokens of their run.

    Returns:
        shape (rows,); None if tokens are unknown, or fewer than four token counts come before.
    """
    if not np.isfinite(table.tokens).all():
        return None
    most: dict[str, float] = {}
    for run, tokens in zip(table.runs, table.tokens, strict=True):
        most[run] = max(most.get(run, 0.0), tokens)
    last = np.array([most[run] for run in table.runs])
    held: Rows = table.tokens > (1 - HELD_TOKENS) * last
    before = len(np.unique(table.tokens[~held]))
    return held if before >= 4 else None


@one_blas_thread()
def fit_and_predict(task: FitTask) -> TaskFit:
    """Fit a law to the rows that are not held out, and predict those that are."""
    started = time.process_time()
    held = task.table.take(task.held)
    try:
        fitted = task.law.fit(task.table.take(~task.held))
        predicted = fitted.predict(held.weights, held.tokens, held.params)
    except FitError as error:
        return TaskFit(np.zeros((0, 0)), time.process_time() - started, str(error))
    return TaskFit(predicted, time.process_time() - started, "")


def _ranked(
    comparisons: list[Comparison], errors: dict[str, Array], noise: SeedNoise, dummies: set[str]
) -> tuple[Comparison, ...]:
    """Sort best first, and mark ties with the best and laws that beat the dummies.

    Args:
        comparisons: One for each law.
        errors: Law → error of each mixture, shape (mixtures,); only laws that could be fitted.
        noise: Smaller differences count as ties.
        dummies: Names of the dummies.
    """
    means = {name: float(error.mean()) for name, error in errors.items()}
    order = sorted(comparisons, key=lambda row: means.get(row.law, math.inf))
    if not means:
        return tuple(order)
    best = errors[order[0].law]
    bar = min(means[name] for name in dummies if name in means)
    # Two predictions that differ by less than a repeat of the run are indistinguishable.
    within = np.nanmean(noise.relative) / math.sqrt(len(best)) if noise.groups else 0.0
    ranked = []
    for row in order:
        ties = beats = False
        if row.law in means:
            # Both laws predict the same mixtures, so their errors are compared in pairs.
            off = errors[row.law] - best
            doubt = float(off.std(ddof=1)) / math.sqrt(len(off)) if len(off) > 1 else 0.0
            ties = float(off.mean()) <= max(TIE_ERRORS * doubt, float(within))
            beats = row.law not in dummies and means[row.law] < bar
        ranked.append(replace(row, ties=ties, beats_dummies=beats))
    return tuple(ranked)


def _scores_json(targets: tuple[str, ...], scores: Scores | None) -> dict[str, Any] | None:
    if scores is None:
        return None
    return {
        "mean_relative_error": finite_or_none(scores.relative_error.mean()),
        "r2_mean": finite_or_none(scores.r2.mean()),
        "r2_worst": finite_or_none(scores.r2.min()),
        "spearman_mean": finite_or_none(scores.spearman.mean()),
        "spearman_of_mean": finite_or_none(scores.spearman_of_mean),
        "targets": {
            name: {
                "relative_error": finite_or_none(scores.relative_error[at]),
                "r2": finite_or_none(scores.r2[at]),
                "r2_all": finite_or_none(scores.r2_all[at]),
                "spearman": finite_or_none(scores.spearman[at]),
            }
            for at, name in enumerate(targets)
        },
    }
