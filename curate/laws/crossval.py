"""Laws compared on runs they have not seen: folds over mixtures, and the last tokens held out.

Whatever a law chooses for itself (a penalty, a noise level, lengths) it chooses inside the rows it
is fitted to, so the cross-validation is nested. All checkpoints of a run, and all runs of a
mixture, are in one fold.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import FitError
from curate.laws import DUMMIES, Law, find
from curate.laws.fitting.features import run_folds
from curate.laws.law import Array, RunTable
from curate.laws.scores import Scores, SeedNoise, finite_or_none, score, seed_noise
from curate.runtime.workers import map_tasks

Rows = NDArray[np.bool_]

HELD_TOKENS = 0.2
"""Part of each run's tokens that the extrapolation test holds out, at the end."""
TIE_ERRORS = 2.0
"""Laws tie with the best where the difference of their errors is within so many standard errors."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One law on one table."""

    law: str
    seconds: float
    """CPU of all its fits."""
    unseen: Scores | None
    """On mixtures it was not fitted to; None: it could not be fitted."""
    later: Scores | None
    """On the last fifth of tokens of all runs; None: the table has too few token counts."""
    problem: str
    """Why it could not be fitted, or empty."""
    ties: bool
    """Its error cannot be told from the best law's."""
    beats_dummies: bool
    """Mean relative error below that of each dummy."""


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """All laws on one table."""

    folds: int
    targets: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    """Best first, by mean relative error on unseen mixtures; those that failed last."""
    noise: SeedNoise

    def to_json(self) -> dict[str, Any]:
        """What `fit.json` holds of it; NaN becomes null."""
        return {
            "folds": self.folds,
            "seed_noise": {
                "groups": self.noise.groups,
                "runs": self.noise.runs,
                "relative": _by_target(self.targets, self.noise.relative),
                "relative_of_mean": finite_or_none(self.noise.relative_of_mean),
            },
            "laws": {
                found.law: {
                    "problem": found.problem or None,
                    "seconds": round(found.seconds, 3),
                    "ties_with_best": found.ties,
                    "beats_dummies": found.beats_dummies,
                    "unseen_mixtures": _scores_json(self.targets, found.unseen),
                    "later_tokens": _scores_json(self.targets, found.later),
                }
                for found in self.comparisons
            },
        }


@dataclass(frozen=True, slots=True)
class _Task:
    """Fit a law to some rows, predict others."""

    law: Law
    table: RunTable
    fitted: Rows
    held: Rows


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
        laws: Names, or laws that are in no list, such as those given experts; the dummies are
            added, since nothing is good or bad without them.
        folds: At least 2.
        workers: Processes.
        on_tick: Called between fits.

    Returns:
        The comparison.

    Raises:
        FitError: A law is unknown, or all runs have the same mixture, so none can be held out.
    """
    asked = [find(law) if isinstance(law, str) else law for law in (*laws, *DUMMIES)]
    chosen = {law.name: law for law in asked}
    names = list(chosen)
    if folds < 2:
        raise FitError(f"fit: {folds} folds; cross-validation needs at least 2: --folds 5")
    held_rows = run_folds(table, folds)
    if not held_rows:
        raise FitError(
            f"fit: all {len(set(table.runs))} runs have the same mixture, so none can be held out; "
            "train at least two different mixtures"
        )
    later = later_rows(table)
    splits = [*held_rows, *([] if later is None else [later])]
    tasks = [_Task(law, table, ~held, held) for law in chosen.values() for held in splits]
    results = map_tasks(_run, tasks, workers, on_tick)
    found = []
    errors: dict[str, Array] = {}
    for position, name in enumerate(names):
        own = results[position * len(splits) : (position + 1) * len(splits)]
        problem = next((message for _, _, message in own[: len(held_rows)] if message), "")
        if problem:
            problem = f"{problem} (with mixtures held out, one part in {len(held_rows)})"
        unseen = after = None
        if not problem:
            predicted = np.empty_like(table.losses)
            for held, (losses, _, _) in zip(held_rows, own, strict=False):
                predicted[held] = losses
            unseen = score(table, predicted)
            errors[name] = _error_by_mixture(table, predicted)
        if later is not None and not own[-1][2]:
            after = score(table.take(later), own[-1][0])
        seconds = sum(taken for _, taken, _ in own)
        found.append(Comparison(name, seconds, unseen, after, problem, False, False))
    noise = seed_noise(table)
    return CrossValidation(len(held_rows), table.targets, _ranked(found, errors, noise), noise)


def later_rows(table: RunTable) -> Rows | None:
    """Rows beyond four fifths of the tokens of their run, as booleans.

    None where no run has at least four checkpoints before and one after, or tokens are unknown.
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


def _run(task: _Task) -> tuple[Array, float, str]:
    """Predictions of the held rows, seconds of CPU, and what went wrong."""
    started = time.process_time()
    held = task.table.take(task.held)
    try:
        fitted = task.law.fit(task.table.take(task.fitted))
        predicted = fitted.predict(held.weights, held.tokens, held.params)
    except FitError as error:
        return np.zeros((0, 0)), time.process_time() - started, str(error)
    return predicted, time.process_time() - started, ""


def _error_by_mixture(table: RunTable, predicted: Array) -> Array:
    """Mean absolute relative error of each mixture, shape (mixtures,)."""
    _, place = np.unique(np.round(table.weights, 9), axis=0, return_inverse=True)
    place = np.asarray(place).reshape(-1)
    error = np.abs(predicted / table.losses - 1).mean(axis=1)
    mean: Array = np.bincount(place, error) / np.bincount(place)
    return mean


def _ranked(
    found: list[Comparison], errors: dict[str, Array], noise: SeedNoise
) -> tuple[Comparison, ...]:
    """Best first; ties are paired over mixtures, and differences below seed noise are none."""
    means = {name: float(error.mean()) for name, error in errors.items()}
    order = sorted(found, key=lambda item: means.get(item.law, math.inf))
    if not means:
        return tuple(order)
    best = errors[order[0].law]
    bar = min(means[name] for name in DUMMIES if name in means)
    # Two predictions that differ by less than a repeat of the run would cannot be told apart.
    within = np.nanmean(noise.relative) / math.sqrt(len(best)) if noise.groups else 0.0
    ranked = []
    for item in order:
        ties = beats = False
        if item.law in means:
            off = errors[item.law] - best
            doubt = float(off.std(ddof=1)) / math.sqrt(len(off)) if len(off) > 1 else 0.0
            ties = float(off.mean()) <= max(TIE_ERRORS * doubt, float(within))
            beats = item.law not in DUMMIES and means[item.law] < bar
        ranked.append(
            Comparison(item.law, item.seconds, item.unseen, item.later, item.problem, ties, beats)
        )
    return tuple(ranked)


def _scores_json(targets: tuple[str, ...], scores: Scores | None) -> dict[str, Any] | None:
    if scores is None:
        return None
    return {
        "mean_relative_error": finite_or_none(float(scores.relative_error.mean())),
        "r2_mean": finite_or_none(float(scores.r2.mean())),
        "r2_worst": finite_or_none(float(scores.r2.min())),
        "spearman_mean": finite_or_none(float(scores.spearman.mean())),
        "spearman_of_mean": finite_or_none(scores.spearman_of_mean),
        "targets": {
            name: {
                "relative_error": finite_or_none(float(scores.relative_error[at])),
                "r2": finite_or_none(float(scores.r2[at])),
                "r2_all": finite_or_none(float(scores.r2_all[at])),
                "spearman": finite_or_none(float(scores.spearman[at])),
            }
            for at, name in enumerate(targets)
        },
    }


def _by_target(targets: tuple[str, ...], values: Array) -> dict[str, float | None]:
    return {name: finite_or_none(float(value)) for name, value in zip(targets, values, strict=True)}
