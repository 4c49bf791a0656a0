"""Measure how far bad runs move an optimum, and how many honest runs the rule leaves out.

Planted tables of 24 runs get 1, 2 or 4 bad ones: diverged, too high by a third (on all targets or
one), with mixtures swapped, or with shares shifted by a column. `named` is the share of bad runs
that the rule names, `lost` counts honest runs that it names too. `kept`, `left out` and `fewer` are
the shares of tables whose optimum stays, in every share, within the 95 % interval that `curate mix`
gives for the honest table: with the bad runs in the fit, without those named, and without exactly
the bad ones. `kept` is the dummy; `fewer` is what the loss of as many honest runs does. `by less`
has, for the same three, the tables in which no share moves by more than the width of its interval.
`holds` is the share of tables whose own interval, after those named were left out, holds the honest
optimum. `--data` adds honest published tables.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import FitError
from curate.laws import LAWS, RunTable
from curate.laws.run_tables.far_runs import far_losses
from curate.laws.run_tables.read import read_runs
from curate.mixture import (
    DomainSupply,
    Evidence,
    MixtureOptions,
    MixtureRequest,
    SearchOptions,
    mix,
)
from curate.mixture.search.objective import Problem
from curate.mixture.search.optimise import optimise
from curate.mixture.search.simplex_box import whole
from curate.mixture.search.trust_region import support_of

Array = NDArray[np.float64]
Fault = Callable[[Array, Array, NDArray[np.int64]], None]

TABLES = {
    "regmix 1M": ("regmix/train_mixture_1m.csv", "regmix/train_pile_loss_1m.csv"),
    "regmix 1M test": ("regmix/test_mixture_1m.csv", "regmix/test_pile_loss_1m.csv"),
    "regmix 60M": ("regmix/test_mixture_60m.csv", "regmix/test_pile_loss_60m.csv"),
    "regmix 1B": ("regmix/test_mixture_1B.csv", "regmix/test_pile_loss_1B.csv"),
    "olmix dclm": ("olmix/dclm_ratios.csv", "olmix/dclm_metrics.csv"),
    "olmix 64": ("olmix/full_recomputation_ratios.csv", "olmix/full_recomputation_metrics.csv"),
}


def planted(seed: int, targets: int, noise: float, runs: int = 24, domains: int = 4) -> RunTable:
    """Power laws of useful data, each target with its own usefulness of every domain."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(domains), runs)
    useful = rng.gamma(0.3, 1, (targets, domains))
    useful[:domains] += 3 * np.eye(domains)[:targets]
    useful = useful / useful.sum(axis=1, keepdims=True) + 0.05
    floor, height = rng.uniform(1.2, 2.5, targets), rng.uniform(0.2, 0.8, targets)
    losses = floor + height * (weights @ useful.T + 0.02) ** -rng.uniform(0.3, 1.2, targets)
    losses *= np.exp(noise * rng.standard_normal(losses.shape))
    unknown = np.full(runs, np.nan)
    return RunTable(
        tuple(f"d{place}" for place in range(domains)),
        tuple(f"t{place}" for place in range(targets)),
        tuple(f"r{place}" for place in range(runs)),
        weights, unknown, unknown, losses,
    )  # fmt: skip


def _higher(factor: float) -> Fault:
    def fault(weights: Array, losses: Array, bad: NDArray[np.int64]) -> None:
        losses[bad] *= factor

    return fault


def _one_target(weights: Array, losses: Array, bad: NDArray[np.int64]) -> None:
    losses[bad, bad % losses.shape[1]] *= 1.3


def _swapped(weights: Array, losses: Array, bad: NDArray[np.int64]) -> None:
    weights[bad] = np.roll(weights[bad], 1, axis=0)


def _shifted(weights: Array, losses: Array, bad: NDArray[np.int64]) -> None:
    weights[bad] = np.roll(weights[bad], 1, axis=1)


FAULTS: dict[str, Fault] = {
    "5x": _higher(5),
    "1.3x": _higher(1.3),
    "1.3x one target": _one_target,
    "swapped": _swapped,
    "column shifted": _shifted,
}


def broken(table: RunTable, fault: str, bad: NDArray[np.int64]) -> RunTable:
    """Return the table with these runs spoilt."""
    weights, losses = table.weights.copy(), table.losses.copy()
    FAULTS[fault](weights, losses, bad)
    return replace(table, weights=weights, losses=losses)


def optimum_of(table: RunTable, law: str) -> Array:
    """Return the mixture of the least mean loss."""
    targets = len(table.targets)
    problem = Problem(
        LAWS[law].fit(table), whole(len(table.domains)), np.full((1, targets), 1 / targets),
        support=support_of(table.weights), convex=LAWS[law].convex,
    )  # fmt: skip
    return optimise(problem).weights


def interval_of(table: RunTable, law: str) -> tuple[Array, Array]:
    """Return the ends of the intervals of the best shares, with 0.1 % of tolerance."""
    supply = tuple(DomainSupply(name, 1000, np.inf) for name in table.domains)
    search = SearchOptions(prior="uniform", kl=0.0, law=law)
    request = MixtureRequest(supply, 1000, "law", MixtureOptions(search=search), Evidence(table))
    mixture = mix(request)
    assert mixture.low is not None and mixture.high is not None, mixture.warnings
    low, high = (
        np.array([ends[name] for name in table.domains]) for ends in (mixture.low, mixture.high)
    )
    return low - 1e-3, high + 1e-3


def within(shares: Array, ends: tuple[Array, Array]) -> bool:
    """Tell whether every share is in its interval."""
    return bool(((shares >= ends[0]) & (shares <= ends[1])).all())


@dataclass
class Once:
    """A function of a table and a law; a table that comes again is not computed again."""

    compute: Callable[[RunTable, str], Any]
    law: str
    seen: dict[bytes, Any] = field(default_factory=dict)

    def __call__(self, table: RunTable) -> Any:
        """Return the result; None where the law cannot be fitted."""
        key = table.weights.tobytes() + table.losses.tobytes()
        if key not in self.seen:
            try:
                self.seen[key] = self.compute(table, self.law)
            except FitError:
                self.seen[key] = None
        return self.seen[key]


def compare(law: str, case: tuple[int, float], tables: range, faults: list[str]) -> None:
    """Print a line for each fault and number of bad runs."""
    targets, noise = case
    first, seeds = tables.start, len(tables)
    print(f"\n{targets} targets, noise {noise:.1%}, law {law}, {seeds} tables")
    print(f"{'fault':18} {'bad':>4} {'named':>6} {'lost':>5} {'kept':>6} {'left out':>9} "
          f"{'fewer':>6} {'by less:':>9} {'left out':>9} {'fewer':>6} {'holds':>6}")  # fmt: skip
    honest = [planted(seed, targets, noise) for seed in range(first, first + seeds)]
    optimum, interval = Once(optimum_of, law), Once(interval_of, law)
    lost = sum(len(far_losses(table)) for table in honest)
    print(f"{'none':18} {0:4} {'':6} {lost:5}")
    every: dict[int, list[Array]] = {}
    for fault in faults:
        for bad_runs in (1, 2, 4):
            if fault == "swapped" and bad_runs == 1:
                continue  # swapping takes two
            named = others = 0
            stays, holds = np.zeros((2, 3)), 0
            for seed, table in enumerate(honest):
                rng = np.random.default_rng(first + seed)
                bad = rng.choice(len(table.runs), bad_runs, replace=False)
                spoilt = broken(table, fault, bad)
                far = {loss.row for loss in far_losses(spoilt)}
                named += len(far & set(bad.tolist()))
                others += len(far - set(bad.tolist()))
                rest = spoilt.take(~np.isin(np.arange(len(table.runs)), list(far)))
                honest_rest = table.take(~np.isin(np.arange(len(table.runs)), bad))
                best, ends = optimum(table), interval(table)
                for place, fitted in enumerate((spoilt, rest, honest_rest)):
                    again = optimum(fitted)
                    if again is not None:
                        stays[0, place] += within(again, ends)
                        stays[1, place] += (np.abs(again - best) <= ends[1] - ends[0]).all()
                holds += within(best, interval(rest))
            figures = np.array([named / bad_runs, others * seeds, *stays.flat, holds]) / seeds
            every.setdefault(bad_runs, []).append(figures)
            print(_line(fault, bad_runs, figures), flush=True)
    for bad_runs, rows in every.items():
        print(_line("all", bad_runs, np.mean(rows, axis=0)))


def _line(fault: str, bad_runs: int, figures: Array) -> str:
    named, others, *rest = figures
    widths = (6, 9, 6, 9, 9, 6, 6)
    cells = (f"{share:{width}.2f}" for share, width in zip(rest, widths, strict=True))
    return f"{fault:18} {bad_runs:4} {named:6.2f} {others:5.1f} {' '.join(cells)}"


def honest_tables(data: Path) -> None:
    """Print how many runs of published tables the rule names, whole and in samples of 24 and 54."""
    print(f"\n{'table':16} {'runs':>5} {'samples':>8} {'named':>6} {'of':>6} {'CPU s':>6}")
    for name, paths in TABLES.items():
        table = read_runs([data / path for path in paths], far_runs="keep")[0]
        rng = np.random.default_rng(0)
        for runs in (24, 54, len(table.runs)):
            samples = 1 if runs == len(table.runs) else 10
            started, named = time.process_time(), 0
            for _ in range(samples):
                rows = rng.choice(len(table.runs), runs, replace=False)
                named += len(far_losses(table.take(rows)))
            seconds = time.process_time() - started
            print(f"{name:16} {runs:5} {samples:8} {named:6} {runs * samples:6} {seconds:6.1f}")


def main() -> None:
    """Run the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="directory with regmix/ and olmix/")
    parser.add_argument("--law", default="exponential")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="number of the first planted table")
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--cases", default="4:0.004,22:0.004,4:0.03", help="targets:noise,…")
    parser.add_argument("--smoke", action="store_true", help="one small comparison")
    arguments = parser.parse_args()
    if arguments.data:
        honest_tables(arguments.data)
    cases = "4:0.004" if arguments.smoke else arguments.cases
    seeds = 1 if arguments.smoke else arguments.seeds
    tables = range(arguments.first, arguments.first + seeds)
    for case in cases.split(","):
        targets, noise = case.split(":")
        at = int(targets), float(noise)
        compare(arguments.law, at, tables, arguments.faults.split(","))


if __name__ == "__main__":
    main()
