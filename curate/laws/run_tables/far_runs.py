"""Find runs whose losses contradict those of all the others: diverged, mistyped or mislabelled.

One diverged run decides a fit: a loss of 55 among 2.5 moved a share from 44 % to 0. Two runs whose
mixtures were swapped do the same more quietly. Runs that noise and mixture can explain must stay,
the extreme ones above all, since they tell a law most.

Logarithms of losses are compared between runs of one model size, at each token count that all of
them have; other rows are taken relative to the median of the rows at about their tokens and size,
and each run is represented by the furthest. Gaussian processes predict each run from the others
(`curate.laws.fitting.left_out`). A run is far if, at some checkpoint,

1. its misses, over all targets, have a root mean square of more than 4 + 6 / targets standard
   errors; or
2. one target is missed by more than 10 sqrt(1 + targets / 50) standard errors; or
3. a loss is more than `HIGH` times the median, or less than `LOW` times, whatever the mixture.

The standard errors grow where a mixture is unlike the others, so a run alone in its corner stays.
With few runs they are uncertain too: the misses must be as unlikely under Student's t as 3 (for 1)
and 6 (for 2) standard errors of a normal deviate. Far runs hide each other, so the worst quarter is
set aside first and taken back, best first, while it is not far from the rest. Two quarters are
tried, the one that deletions find one by one and the one that a robust regression blames; the rest
of the better one leaves less unexplained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr

from curate.laws.fitting.features import distinct_mixtures
from curate.laws.fitting.left_out import predict_left_out, run_kernels
from curate.laws.law import Array, RunTable
from curate.runtime.threads import one_blas_thread

HIGH = 5.0
"""Ratio to the median that no mixture explains: a model that knows nothing has ln(vocabulary),
about 11 nats per token, and trained ones have over 2 on most text."""
LOW = 0.1
"""The same below the median; text that repeats itself can have a small part of the usual loss."""
FEW_RUNS = 8
"""With fewer runs there is no prediction of one by the others, and only `HIGH` and `LOW` count."""
MOST_FAR = 0.25
"""Share of the runs above which being far is no accident of single runs, and none is far."""
RUNS_AT_ONCE = 128
"""Runs compared with each other; more are dealt into several sets, since time grows with the cube.
"""
LEAST_RESIDUAL = 0.003
"""Smallest miss, in logarithms of losses, that counts: less cannot ruin a fit."""
IRLS_STEPS = 25
RIDGE = 1e-6
NEAR_ROWS = 7
"""Rows that stand for the progress of a row with fewer than 5 at exactly its own."""


@dataclass(frozen=True, slots=True)
class FarLoss:
    """The furthest loss of a run that is far from all others."""

    row: int
    """Row of the table."""
    target: int
    """Column of the losses."""
    expected: float
    """Loss that the other runs predict there, in the unit of the losses."""
    fits: str | None = None
    """Another far run that explains these losses, as this one explains its: swapped labels."""


@dataclass(frozen=True, slots=True)
class _Far:
    """A run that is far, and by how much."""

    row: int
    target: int
    missed: float
    """Logarithm of the loss minus its prediction."""
    score: float
    """The miss over the largest that counts as noise, above 1."""
    fits: str | None = None


@dataclass(frozen=True, slots=True)
class _Set:
    """Runs that are compared with each other."""

    rows: NDArray[np.int64]
    """shape (runs, checkpoints), rows of the table."""
    values: Array
    """shape (runs, checkpoints, targets), logarithms of losses, or their deviations."""


@one_blas_thread()
def far_losses(table: RunTable) -> tuple[FarLoss, ...]:
    """Find the runs that are far from all others, by the rule of this module.

    Returns:
        The furthest loss of each such run, in the order of the runs; empty where more than a
        quarter of the runs would be far.
    """
    names = tuple(dict.fromkeys(table.runs))
    centred = _centred(table)
    far: dict[str, _Far] = {}
    for compared in _comparable(table, centred):
        for miss in _judge(table, compared):
            name = table.runs[miss.row]
            if name not in far or miss.score > far[name].score:
                far[name] = miss
    extreme = (centred > math.log(HIGH)) | (centred < math.log(LOW))
    for row in np.flatnonzero(extreme.any(axis=1)).tolist():
        target = int(np.abs(np.where(extreme[row], centred[row], 0)).argmax())
        far.setdefault(table.runs[row], _Far(row, target, float(centred[row, target]), 1.0))
    if len(names) < 3 or len(far) > MOST_FAR * len(names):
        return ()
    return tuple(
        FarLoss(
            row=miss.row,
            target=miss.target,
            expected=float(table.losses[miss.row, miss.target] / math.exp(miss.missed)),
            fits=miss.fits,
        )
        for miss in (far[name] for name in names if name in far)
    )


def _comparable(table: RunTable, centred: Array) -> Iterator[_Set]:
    """Group rows into sets of runs: by size at shared token counts, and all that is left."""
    tokens, params = np.nan_to_num(table.tokens), np.nan_to_num(table.params)
    _, run_of = np.unique(table.runs, return_inverse=True)
    left = np.ones(len(run_of), bool)
    logs = np.log(table.losses)
    for size in np.unique(params):
        here = np.flatnonzero(params == size)
        runs = np.unique(run_of[here])
        place = {(int(run_of[row]), float(tokens[row])): int(row) for row in here}
        shared = [
            count
            for count in np.unique(tokens[here]).tolist()
            if all((run, count) in place for run in runs.tolist())
        ]
        if len(runs) < FEW_RUNS or not shared:
            continue
        rows = np.array([[place[run, count] for count in shared] for run in runs.tolist()])
        left[rows] = False
        yield from _dealt(table, rows, logs[rows])
    rest = [np.flatnonzero(left & (run_of == run)) for run in np.unique(run_of[left])]
    if len(rest) >= FEW_RUNS:
        furthest = np.array([rows[np.abs(centred[rows]).argmax(axis=0)] for rows in rest])
        values = np.take_along_axis(centred, furthest, axis=0)
        rows = np.array([[rows[np.abs(centred[rows]).max(axis=1).argmax()]] for rows in rest])
        yield from _dealt(table, rows, values[:, None])


def _dealt(table: RunTable, rows: NDArray[np.int64], values: Array) -> Iterator[_Set]:
    """Deal runs to sets of at most `RUNS_AT_ONCE` that are alike, whatever the order of rows."""
    order = np.lexsort(np.column_stack([values[:, 0], table.weights[rows[:, 0]]]).T)
    sets = math.ceil(len(rows) / RUNS_AT_ONCE)
    for first in range(sets):
        places = order[first::sets]
        yield _Set(rows[places], values[places])


def _judge(table: RunTable, compared: _Set) -> list[_Far]:
    """Find the far runs of a set."""
    runs, checkpoints, targets = compared.values.shape
    weights = table.weights[compared.rows[:, 0]]
    weights = weights[:, weights.max(axis=0) > 0]
    if len(distinct_mixtures(weights)) < FEW_RUNS:
        return []
    kernels = run_kernels(weights)
    values = compared.values.reshape(runs, -1)

    def predict(kept: NDArray[np.bool_]) -> tuple[Array, Array, Array]:
        left_out = predict_left_out(kernels, values, kept)
        residual, errors = (
            part.reshape(runs, checkpoints, targets)
            for part in (left_out.residual, left_out.errors)
        )
        scores = far_scores(errors, int(kept.sum()))
        return residual, errors, np.where(np.abs(residual).max(axis=2) > LEAST_RESIDUAL, scores, 0)

    def unexplained(kept: NDArray[np.bool_]) -> float:
        noise = predict_left_out(kernels, values, kept).noise
        return float(np.log(np.maximum(noise, 1e-9)).sum())

    most = int(MOST_FAR * runs)
    step = math.ceil(most / 6)

    def set_aside(scores: Array) -> NDArray[np.bool_]:
        kept = np.ones(runs, bool)
        kept[np.argsort(-scores, kind="stable")[:most]] = False
        return kept

    one_by_one = np.ones(runs, bool)
    while (room := most - int((~one_by_one).sum())) > 0:
        scores = np.where(one_by_one, predict(one_by_one)[2].max(axis=1), -1)
        one_by_one[np.argsort(-scores, kind="stable")[: min(step, room)]] = False
    by_regression = set_aside(_regression_scores(weights, values))
    for _ in range(2):  # a quarter that the regression blames, then that the processes blame
        by_regression = set_aside(predict(by_regression)[2].max(axis=1))
    kept = min((one_by_one, by_regression), key=lambda kept: unexplained(kept))
    while True:
        residual, errors, by_checkpoint = predict(kept)
        scores = by_checkpoint.max(axis=1)
        back = np.flatnonzero(~kept & (scores <= 1))
        if not len(back):
            break
        kept[back[np.argsort(scores[back], kind="stable")[:step]]] = True
    far = []
    for run in np.flatnonzero(scores > 1).tolist():
        at = int(by_checkpoint[run].argmax())
        target = int(np.abs(errors[run, at]).argmax())
        row, missed = int(compared.rows[run, at]), float(residual[run, at, target])
        twin = _swapped(run, at, (compared.values, residual, errors), np.flatnonzero(scores > 1))
        name = None if twin is None else table.runs[compared.rows[twin, at]]
        far.append(_Far(row, target, missed, float(scores[run]), name))
    return far


def _regression_scores(weights: Array, values: Array) -> Array:
    """Return each run's largest miss by a regression of least absolute deviations, in their median.

    Args:
        weights: shape (runs, domains).
        values: shape (runs, columns).
    """
    runs, domains = weights.shape
    columns = [np.ones((runs, 1)), *([np.sqrt(weights)] if runs >= 2 * (domains + 2) else [])]
    design = np.hstack(columns)
    ridge = RIDGE * np.eye(design.shape[1])
    weight, residual = np.ones(values.T.shape), values.T
    for _ in range(IRLS_STEPS):  # reweighted least squares, every column at once
        weighted = design.T * weight[:, None, :]
        moments = np.einsum("cdr,rv->cdv", weighted, design) + ridge
        solved = np.linalg.solve(moments, np.einsum("cdr,cr->cd", weighted, values.T)[..., None])
        residual = values.T - (design @ solved)[..., 0]
        weight = 1 / np.maximum(np.abs(residual), 1e-4)
    size = np.abs(residual)
    scaled: Array = size / np.maximum(np.median(size, axis=1, keepdims=True), 1e-6)
    return np.asarray(scaled.max(axis=0))


def far_scores(errors: Array, runs: int) -> Array:
    """Divide misses by the largest that are not far, by rules 1 and 2 of this module.

    Args:
        errors: shape (..., targets), residuals in standard errors.
        runs: Runs that predict.

    Returns:
        shape (...), above 1 for a far run.

    Example:
        >>> far_scores(np.array([[1.0, -2.0], [1.0, 30.0]]), 24).round(2).tolist()
        [0.23, 2.17]
    """
    targets = errors.shape[-1]
    size = np.abs(errors)
    tail = np.maximum(stdtr(runs - 1, -size), 1e-300)
    normal = np.asarray(-ndtri(tail))  # as unlikely a normal deviate
    together = np.minimum(_root_mean(size) / (4 + 6 / targets), _root_mean(normal) / 3)
    alone = np.minimum(size / (10 * math.sqrt(1 + targets / 50)), normal / 6).max(axis=-1)
    return np.asarray(np.maximum(together, alone))


def _root_mean(values: Array) -> Array:
    return np.asarray(np.sqrt((values**2).mean(axis=-1)))


def _swapped(
    run: int, at: int, misses: tuple[Array, Array, Array], far: NDArray[np.int64]
) -> int | None:
    """Return another far run, each of the two predicted well at the other's mixture; or None.

    Args:
        run: The run.
        at: The checkpoint.
        misses: Values, residuals and errors of shape (runs, checkpoints, targets).
        far: Far runs.
    """
    values, residual, errors = (part[:, at] for part in misses)
    predicted = values - residual
    standard = np.abs(residual / np.where(errors == 0, 1, errors)) + 1e-12

    def fits(losses: int, mixture: int) -> float:
        miss = (values[losses] - predicted[mixture]) / standard[mixture]
        return float(_root_mean(miss))

    others = [other for other in far.tolist() if other != run]
    best = min(others, key=lambda other: max(fits(run, other), fits(other, run)), default=None)
    if best is None or max(fits(run, best), fits(best, run)) > 3:
        return None
    return int(best)


def _centred(table: RunTable) -> Array:
    """Take log losses relative to their median at this progress, shape (rows, targets)."""
    logs = np.log(table.losses)
    progress = np.nan_to_num(np.log(np.stack([table.tokens, table.params], axis=1)))
    spread = progress.std(axis=0)
    scaled = np.round(progress / np.where(spread > 0, spread, 1), 9)
    points, place = np.unique(scaled, axis=0, return_inverse=True)
    centred = np.empty_like(logs)
    for number, point in enumerate(points):
        here = place.ravel() == number
        near = here
        if here.sum() < 5:
            near = np.argsort(np.abs(scaled - point).sum(axis=1), kind="stable")[:NEAR_ROWS]
        centred[here] = logs[here] - np.median(logs[near], axis=0)
    return centred
