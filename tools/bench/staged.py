"""The staged law and its verdict on planted tables of two stages, with and without a gain.

Run as `python tools/bench/staged.py --tables 100`. For every kind: how often a second mixture is
said to pay, how often the promise of the law alone would say so (it always promises something), how
often the interval holds the true gain, the gain that halves of the runs estimate, the true one, and
by how much the true loss of both optima is above the least. Losses of `other form` are no law of
ours.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from curate.laws.forms.staged import fit_staged
from curate.laws.law import Array, RunTable, stage_columns
from curate.mixture.search.staged_optimum import (
    StagedProblem,
    best_single,
    best_stages,
    judge,
)
from curate.runtime.threads import one_blas_thread

STEP = 1e-6


@dataclass(frozen=True)
class Kind:
    """A planted truth and the runs drawn from it."""

    rates: tuple[float, ...] = (1, 1, 1, 1)
    """Worth of a late token of each domain beside an early one."""
    runs: int = 60
    noise: float = 0.004
    late: float = 0.2
    """Part of all tokens in the second stage."""
    form: str = "useful data"
    high: tuple[float, ...] = (1, 1, 1, 1)
    """Largest share of all tokens."""


KINDS = {
    "no order": Kind(),
    "no order, 30 runs": Kind(runs=30),
    "no order, noise 2 %": Kind(noise=0.02),
    "no order, half and half": Kind(late=0.5),
    "no order, other form": Kind(form="products"),
    "late counts 3 times": Kind(rates=(3, 3, 3, 3)),
    "late counts 3 times, other form": Kind(rates=(3, 3, 3, 3), form="products"),
    "one domain late 2 times": Kind(rates=(1, 1, 1, 2)),
    "one domain late 4 times": Kind(rates=(1, 1, 1, 4)),
    "the same, noise 2 %": Kind(rates=(1, 1, 1, 4), noise=0.02),
    "the same, other form": Kind(rates=(1, 1, 1, 4), form="products"),
    "late counts 3 times, one scarce": Kind(rates=(3, 3, 3, 3), high=(0.1, 1, 1, 1)),
}
"""Kinds by name; the first seven have nothing to gain."""


@dataclass(frozen=True)
class Truth:
    """The true losses as a law."""

    losses: Callable[[Array], Array]

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Return true losses, shape (rows, targets)."""
        return self.losses(weights)

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Differentiate them numerically, shape (rows, targets, columns)."""
        steps = STEP * np.eye(weights.shape[1])
        slopes = [
            (self.losses(weights + step) - self.losses(weights - step)) / (2 * STEP)
            for step in steps
        ]
        return np.stack(slopes, axis=2)


def plant(kind: Kind, seed: int) -> tuple[RunTable, Truth]:
    """Draw a truth and its runs."""
    rng = np.random.default_rng(seed)
    domains, targets = len(kind.rates), 3
    transfer = np.exp(rng.normal(0, 1, (targets, domains)))
    powers = rng.uniform(0.1, 0.4, (targets, domains))
    rates = np.array(kind.rates)

    def losses(weights: Array) -> Array:
        amounts = weights[:, :domains] + rates * weights[:, domains:]
        if kind.form == "products":
            seen = amounts[:, None, :] + 0.02
            return np.asarray(1.5 + 0.8 * np.exp(-(powers * np.log(seen)).sum(axis=2)))
        useful = (transfer * (amounts[:, None, :] + 1e-3) ** 0.5).sum(axis=2)
        return np.asarray(1.5 + 1.5 * useful**-0.35)

    early, late = (rng.dirichlet(np.ones(domains), kind.runs) for _ in range(2))
    weights = np.hstack([(1 - kind.late) * early, kind.late * late])
    seen = losses(weights) * np.exp(rng.normal(0, kind.noise, (kind.runs, targets)))
    table = RunTable(
        domains=tuple(f"{stage}/{d}" for stage in ("early", "late") for d in range(domains)),
        targets=tuple(f"t{target}" for target in range(targets)),
        runs=tuple(f"r{run}" for run in range(kind.runs)),
        weights=weights,
        tokens=np.full(kind.runs, 1e9),
        params=np.full(kind.runs, 1e8),
        losses=seen,
        stages=("early", "late"),
    )
    return table, Truth(losses)


def problem_of(kind: Kind, table: RunTable) -> StagedProblem:
    """Fit the law, within the shares of the runs."""
    columns = stage_columns(table)
    parts = np.array([1 - kind.late, kind.late])
    within = table.weights[:, columns] / parts[:, None]
    best = within[int(table.losses.mean(axis=1).argmin())]
    return StagedProblem(
        law=fit_staged(table),
        columns=columns,
        goals=np.full((1, 3), 1 / 3),
        fractions=parts,
        most=np.tile(within.max(axis=(0, 1)), (2, 1)),
        low=np.zeros(columns.shape[1]),
        high=np.array(kind.high, float),
        starts=np.stack([within.mean(axis=0), best]),
        tokens=1e9,
        params=1e8,
    )


@one_blas_thread()
def main() -> None:
    """Print a row for each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=100)
    parser.add_argument("--kinds", help="names separated by semicolons; default: all")
    parser.add_argument("--smoke", action="store_true", help="two tables of two kinds")
    options = parser.parse_args()
    names = list(KINDS) if options.kinds is None else options.kinds.split(";")
    if options.smoke:
        names, options.tables = ["no order", "one domain late 4 times"], 2
    print(
        "kind | pays % | promises % | interval covers % | gain % | true gain % | "
        "above the least %: stages, single | s"
    )
    for name in names:
        kind, rows, start = KINDS[name], [], time.process_time()
        for seed in range(options.tables):
            table, truth = plant(kind, seed)
            problem = problem_of(kind, table)
            staged, single = best_stages(problem), np.tile(best_single(problem), (2, 1))
            verdict = judge(problem, table, fit_staged, seed)
            assert verdict is not None
            real = replace(problem, law=truth)
            least = real.value(best_stages(real))
            least_single = real.value(np.tile(best_single(real), (2, 1)))
            rows.append(
                [
                    verdict.pays,
                    problem.value(staged) < problem.value(single) * (1 - 1e-9),
                    verdict.low <= 1 - least / least_single <= verdict.high,
                    verdict.gain,
                    1 - least / least_single,
                    real.value(staged) / least - 1,
                    real.value(single) / least_single - 1,
                ]
            )
        pays, promises, covers, gain, true, of_stages, of_single = 100 * np.mean(rows, axis=0)
        seconds = (time.process_time() - start) / options.tables
        print(
            f"{name} | {pays:.0f} | {promises:.0f} | {covers:.0f} | {gain:.2f} | {true:.2f} | "
            f"{of_stages:.3f}, {of_single:.3f} | {seconds:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
