"""Write a fitted law and its errors as JSON, for `law.json` and the mixture explorer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.laws.calibration import NORMAL_95, half_width, log_errors
from curate.laws.fitting.levels import FittedBeyond
from curate.laws.formula import Formula, constant, encoded, formula_of, maximum, multiply
from curate.laws.scores import finite_or_none
from curate.mixture.methods.law_case import LawCase
from curate.mixture.methods.law_trust import comparable_rows
from curate.mixture.search.law_choice import Refitted, objective_of

Array = NDArray[np.float64]

LEAST_ROWS = 3
"""Rows at the tokens and size of the objective below which all rows are compared."""


def law_record(case: LawCase, refits: Refitted) -> dict[str, Any]:
    """Return the fields of `law.json`: the formula, the objective, errors, and where it is trusted.

    Args:
        case: The request, matched with the runs and with the law fitted.
        refits: The law without each group of mixtures.
    """
    problem, runs, support = case.problem, case.runs, case.support
    formula = formula_of(problem.law, problem.params)
    counts = runs.tokens[np.isfinite(runs.tokens)]
    rows = _compared_rows(case)
    measured, unseen = runs.losses[rows], refits.predicted[rows]
    missed = objective_of(unseen, problem) - objective_of(measured, problem)
    return {
        "law": case.law.name,
        "domains": list(runs.domains),
        "targets": list(runs.targets),
        "unit": runs.unit,
        "tokens": finite_or_none(problem.tokens),
        "params": finite_or_none(problem.params),
        "goals": problem.goals.tolist(),
        "relative": case.reference is not None,
        "kl": problem.kl,
        "prior": None if problem.prior is None else problem.prior.tolist(),
        "discount_repeats": problem.unique_share is not None,
        "half_widths": loss_widths(case, refits).tolist(),
        "widths": None if formula is None else _widths_formula(case, refits).to_json(),
        "runs_tokens": [float(counts.min()), float(counts.max())] if len(counts) else None,
        "misfit": float(np.sqrt((missed**2).mean())),
        "radius": support.radius,
        "mixtures": encoded(support.mixtures),
        "measured": encoded(measured),
        "unseen": encoded(unseen),
        "formula": None if formula is None else formula.to_json(),
    }


def loss_widths(case: LawCase, refits: Refitted) -> Array:
    """Find half widths of the 95 % intervals of a new run's log losses, shape (targets,)."""
    problem, runs = case.problem, case.runs
    width = half_width(log_errors(refits.predicted, runs), runs)
    if isinstance(problem.law, FittedBeyond):
        at = np.full(1, problem.tokens), np.full(1, problem.params)
        width = np.maximum(width, NORMAL_95 * problem.law.predict_std(runs.weights[:1], *at)[0])
    return width


def _widths_formula(case: LawCase, refits: Refitted) -> Formula:
    """Write `loss_widths` as a formula of the tokens."""
    law, runs = case.problem.law, case.runs
    width = constant(half_width(log_errors(refits.predicted, runs), runs))
    if not isinstance(law, FittedBeyond):
        return width
    return maximum(width, multiply(constant(NORMAL_95), law.std_formula(case.problem.params)))


def _compared_rows(case: LawCase) -> NDArray[np.int64]:
    """Return the rows at the tokens and size of the objective; all where there are few."""
    here = comparable_rows(case.problem, case.runs)
    return here if len(here) >= LEAST_ROWS else np.arange(len(case.runs.runs))
