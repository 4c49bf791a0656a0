"""Compare what a law recommends with losses that it has not seen: regret, gain, noise, misfit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import FitError
from curate.laws import LAWS, RunTable
from curate.laws.selection import (
    by_mixture,
    moved_targets,
    reference_rows,
    select_unseen,
    target_noise,
)
from curate.mixture.methods.law_case import LawCase
from curate.mixture.search.law_choice import (
    Gain,
    Refitted,
    gain_between,
    objective_of,
    panel_with,
    refit,
)
from curate.mixture.search.objective import Problem, value_at
from curate.mixture.search.simplex_box import nearest_in_proportion

Array = NDArray[np.float64]

ROUNDING = 1e-6
"""Relative gain below which a predicted improvement is rounding error."""
MISFIT_FOLDS = 3
"""Parts held out in turn to learn a law's error; more would take as many more fits."""


@dataclass(frozen=True, slots=True)
class Trust:
    """The objective where runs were seen, in the objective's own unit."""

    best: float | None
    """Least of a run; None where no run is at the problem's tokens and size."""
    misfit: float | None = None
    """Root mean square error on mixtures held out; None where the law cannot be fitted to the
    rest."""
    warning: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `mixture.json`: regret@1, gain over natural, noise, and targets that do not move.
    """


def compare_with_runs(case: LawCase, weights: Array, refits: Refitted | None) -> Trust:
    """Measure on runs that the law has not seen what its recommendation is worth.

    Without refits the law is fitted again without each third of the mixtures. Warns where the gain
    promised over the best run exceeds the law's errors.

    Args:
        case: The fitted law and its problem.
        weights: shape (domains,), the recommended shares.
        refits: Fits of the law without parts of the mixtures; None to make them here.
    """
    problem, runs = case.problem, case.runs
    plain = replace(problem, kl=0.0)
    here = comparable_rows(problem, runs)
    best = float(objective_of(runs.losses, problem)[here].min()) if len(here) else None
    if refits is None:
        try:
            refits = refit(case.law, problem.law, runs, MISFIT_FOLDS)
        except FitError:
            return Trust(best)
    rows = here if len(here) else reference_rows(runs)
    compared = runs.take(rows)
    observed, predicted = (
        by_mixture(compared, objective_of(losses[rows], problem))
        for losses in (runs.losses, refits.predicted)
    )
    selection = select_unseen(observed, predicted)
    moved = moved_targets(runs, refits.predicted, _mean_refits(runs, len(refits.parts)))
    squares = (observed - predicted) ** 2
    natural = nearest_in_proportion(case.constraints.natural, problem.box)
    promised = float(observed.min()) - float(value_at(plain, weights[None])[0])
    gain = gain_between(panel_with(refits, runs), plain, runs, np.stack([natural, weights]))
    details = {
        "regret_at_1": {"mean": selection.regret, "high": selection.regret_high},
        "gain_over_natural": _gain_json(gain),
        "target_noise": target_noise(runs).to_json(runs.targets),
        "unmoved_targets": [n for n, moves in zip(runs.targets, moved, strict=True) if not moves],
    }
    if best is None:
        return Trust(None, details=details)
    misfit = float(np.sqrt(squares.mean()))
    if promised <= max(misfit, ROUNDING * abs(best)):
        return Trust(best, misfit, details=details)
    return Trust(best, misfit, (
        f"the law promises {promised:.4g} below the best run ({best:.4g}), and errs by "
        f"{misfit:.4g} on runs it has not seen: nothing like it was observed, so train this "
        "mixture before you rely on it"
    ), details)  # fmt: skip


def _mean_refits(runs: RunTable, groups: int) -> Array:
    """Predict each row by the dummy `mean` without its group of mixtures."""
    dummy = LAWS["mean"]
    return refit(dummy, dummy.fit(runs), runs, groups).predicted


def _gain_json(gain: Gain) -> dict[str, Any]:
    """Return the value of `gain_over_natural` in `mixture.json`."""
    return {
        "mean": gain.mean,
        "low": gain.low,
        "high": gain.high,
        "within_noise": gain.low <= 0,
    }


def comparable_rows(problem: Problem, runs: RunTable) -> NDArray[np.int64]:
    """Select the rows at the tokens and size of the problem; others do not compare with it."""
    here = np.ones(len(runs.runs), bool)
    for values, target in ((runs.tokens, problem.tokens), (runs.params, problem.params)):
        if not math.isnan(target):
            here &= np.isclose(values, target)
    return np.flatnonzero(here)
