"""Find runs whose losses are far from what all the other runs predict.

One diverged run, or one slip of the keyboard, decides a fit: a loss of 55 among 2.5 moved a share
from 44 % to 0. Runs that noise and mixture can explain must stay, the extreme ones above all, since
they tell a law most.

The rule compares logarithms of losses. Each is taken relative to the median of the rows at the same
tokens and size (or the nearest ones), and each run is represented by its furthest checkpoint. A
regression that outliers cannot pull (least absolute deviations) predicts these from the run's
share of the target's own domain and, with runs enough, from all shares. A run is far if, for some
target,

1. the regression without it misses it by `ERRORS` standard errors and by `FACTOR`, and its share of
   the target's domain is no excuse: the loss is `FACTOR` above those of all runs with less of the
   domain, or below those of all runs with more; or
2. the loss is more than `HIGH` times the median, or less than `LOW` times, whatever the mixture.

The standard error includes what is not known of mixtures unlike the others. So a run alone in its
corner stays, as does the only one without a domain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.laws.law import Array, RunTable
from curate.runtime.threads import one_blas_thread

ERRORS = 25.0
"""Standard errors beyond which a residual is no noise. The largest of 2,727 honest runs with a
miss of a quarter or more had 17 (RegMix's tables, Olmix's): laws are more curved than a regression.
"""
FACTOR = 1.25
"""Least ratio of a far loss to the expected one, up or down. Smaller slips cannot ruin a fit, and
where losses agree to 0.1 %, many standard errors are little."""
HIGH = 5.0
"""Ratio to the median that no mixture explains: a model that knows nothing has ln(vocabulary),
about 11 nats per token, and trained ones have over 2 on most text."""
LOW = 0.1
"""The same below the median; text that repeats itself can have a small part of the usual loss."""
FEW_RUNS = 6
"""With fewer runs there is no regression, and only `HIGH` and `LOW` count."""
MOST_FAR = 0.25
"""Share of the runs above which being far is no accident of single runs, and none is far."""
NEAR_ROWS = 7
"""Rows that stand for the progress of a row with fewer than 5 at exactly its own."""
OFFSET = 1e-2
"""Added to a share before its logarithm."""
IRLS_STEPS = 25
RIDGE = 1e-6


@dataclass(frozen=True, slots=True)
class FarLoss:
    """The furthest loss of a run that is far from all others."""

    row: int
    """Row of the table."""
    target: int
    """Column of the losses."""
    expected: float
    """Loss that the other runs predict there, in the unit of the losses."""


@one_blas_thread()
def far_losses(table: RunTable) -> tuple[FarLoss, ...]:
    """Find the runs that are far from all others, by the rule of this module.

    Returns:
        The furthest loss of each such run, in the order of the runs; empty where more than a
        quarter of the runs would be far.

    References:
        The externally studentised residual: Belsley, Kuh and Welsch 1980, "Regression
        Diagnostics", section 2.1; here from a robust start, so that outliers do not hide another.
    """
    names, run_of = np.unique(table.runs, return_inverse=True)
    centred = _centred(table)
    order = np.argsort(run_of, kind="stable")
    rows_of = np.split(order, np.cumsum(np.bincount(run_of))[:-1])
    furthest = np.array([rows[np.abs(centred[rows]).argmax(axis=0)] for rows in rows_of])
    deviation = np.take_along_axis(centred, furthest, axis=0)  # shape (runs, targets)
    weights = table.weights[[rows[0] for rows in rows_of]]
    missed, far = deviation.copy(), np.zeros(deviation.shape, bool)
    if len(names) >= FEW_RUNS:
        for target, name in enumerate(table.targets):
            own_share = weights[:, table.domains.index(name)] if name in table.domains else None
            residual, errors = _deleted(_design(weights, own_share), deviation[:, target])
            missed[:, target] = residual
            suspect = (errors > ERRORS) & (np.abs(residual) > math.log(FACTOR))
            if own_share is not None and suspect.any():
                suspect &= _without_excuse(own_share, deviation[:, target], residual, suspect)
            far[:, target] = suspect
    far |= (deviation > math.log(HIGH)) | (deviation < math.log(LOW))
    runs = np.flatnonzero(far.any(axis=1))
    if len(names) < 3 or len(runs) > MOST_FAR * len(names):
        return ()
    worst = np.where(far, np.abs(missed), -1).argmax(axis=1)
    return tuple(
        FarLoss(
            row=int(furthest[run, worst[run]]),
            target=int(worst[run]),
            expected=float(
                table.losses[furthest[run, worst[run]], worst[run]]
                / math.exp(missed[run, worst[run]])
            ),
        )
        for run in sorted(runs, key=lambda run: int(rows_of[run][0]))
    )


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


def _without_excuse(
    own_share: Array, deviation: Array, residual: Array, suspect: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Tell which runs are far even from those whose own share excuses them, shape (runs,).

    A regression bends less than losses do towards a corner of the simplex; but more of a domain
    hardly ever makes its loss worse, so less of it in this run excuses a higher loss.
    """
    far = np.zeros(len(own_share), bool)
    for run in np.flatnonzero(suspect):
        up = residual[run] > 0
        others = ~suspect & ((own_share <= own_share[run]) if up else (own_share >= own_share[run]))
        if others.any():
            step = deviation[run] - (deviation[others].max() if up else deviation[others].min())
            far[run] = (step if up else -step) > math.log(FACTOR)
    return far


def _design(weights: Array, own_share: Array | None) -> Array:
    """Return the columns of the regression: 1, the own share's logarithm, roots of all shares."""
    runs, domains = weights.shape
    columns = [np.ones((runs, 1))]
    if own_share is not None:
        columns.append(np.log(own_share[:, None] + OFFSET))
    if runs >= 2 * (domains + 2):
        columns.append(np.sqrt(weights))
    return np.hstack(columns)


def _deleted(design: Array, values: Array) -> tuple[Array, Array]:
    """Compute each run's residual from the fit without it, and that over its standard error.

    Args:
        design: shape (runs, columns).
        values: shape (runs,).

    Returns:
        Two arrays of shape (runs,): the residuals, and their sizes in standard errors.
    """
    runs, columns = design.shape
    ridge = RIDGE * np.eye(columns)
    weight = np.ones(runs)
    residual = values
    for _ in range(IRLS_STEPS):  # least absolute deviations, by reweighted least squares
        weighted = design * weight[:, None]
        residual = values - design @ np.linalg.solve(
            weighted.T @ design + ridge, weighted.T @ values
        )
        weight = 1 / np.maximum(np.abs(residual), 1e-4)
    scale = 1.4826 * float(np.median(np.abs(residual))) * math.sqrt(runs / max(runs - columns, 1))
    kept = np.abs(residual) <= max(4 * scale, 1e-3)
    inverse = np.linalg.inv(design[kept].T @ design[kept] + ridge)
    residual = values - design @ (inverse @ (design[kept].T @ values[kept]))
    leverage = np.einsum("rc,cd,rd->r", design, inverse, design)
    # A kept run is taken out by the usual identity; one that was not kept is out already.
    inside = np.where(kept, np.maximum(1 - leverage, 1e-9), 1 + leverage)
    deleted = np.where(kept, residual / inside, residual)
    freedom = max(int(kept.sum()) - columns - 1, 1)
    squares = float((residual[kept] ** 2).sum())
    without = np.maximum(squares - np.where(kept, residual * deleted, 0), 0) / freedom
    sigma = np.maximum(np.sqrt(without), max(scale, 1e-6))
    spread = np.where(kept, 1 / np.sqrt(inside), np.sqrt(inside))
    return deleted, np.abs(deleted) / (sigma * spread)
