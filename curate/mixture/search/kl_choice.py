"""Choose the strength of the KL pull by cross-validated regret.

Mixtures that a law recommends without each group of the runs' mixtures are judged by the law of all
runs. Without a pull they scatter where the runs are few and noisy; with a strong one all of them
stay at the prior. The strength of least regret lies between.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from curate.laws import RunTable
from curate.laws.selection import reference_rows
from curate.mixture.search.law_choice import Refitted, again, objective_of
from curate.mixture.search.objective import Problem, value_at
from curate.mixture.search.optimise import optimise

Array = NDArray[np.float64]

STRENGTHS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Strengths that are tried, in standard deviations of the runs' objective."""


@dataclass(frozen=True, slots=True)
class KlChoice:
    """A strength and the regrets behind it, in the unit of the objective."""

    strength: float
    tried: Array
    """shape (strengths,), from 0 up."""
    regret: Array
    """shape (strengths,), mean loss above that of the best mixture, by the law of all runs."""


def choose_kl(problem: Problem, refits: Refitted, table: RunTable) -> KlChoice:
    """Choose the strength of least cross-validated regret; the largest of those that tie.

    Args:
        problem: The problem; its own `kl` is not used. Without their trust region, laws of few runs
            err as far as they can.
        refits: Its law fitted without each group of mixtures.
        table: The runs.
    """
    rows = reference_rows(table)
    tried = np.array(STRENGTHS) * float(objective_of(table.losses[rows], problem).std())
    free, plain = replace(problem, support=None), replace(problem, kl=0.0)
    losses = []
    best = np.inf
    for strength in tried.tolist():
        start = optimise(replace(problem, kl=strength)).weights
        moved = np.array(
            [again(replace(free, law=part, kl=strength), start) for part in refits.parts]
        )
        values = value_at(plain, np.vstack([start, moved]))
        best = min(best, float(values.min()))
        losses.append(float(values[1:].mean()))
    regret = np.array(losses) - best
    tied = np.flatnonzero(regret <= regret.min() + 1e-9 * abs(best))
    return KlChoice(float(tried[tied[-1]]), tried, regret)
