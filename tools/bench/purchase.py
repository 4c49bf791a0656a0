"""Purchases of runs at two sizes on planted tables: the proposed split of a budget, and all others.

Run as `python tools/bench/purchase.py --seeds 10`. Each table has a pilot of a few runs at either
size. `curate design --flops` proposes which part of a budget to spend on large runs. For that and
for every other split the runs are simulated, a law is fitted to them and the pilot, and the mixture
that it predicts best at the large size is judged by the truth.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from curate.laws import LAWS
from curate.laws.law import Array, RunTable
from curate.laws.run_groups import FLOPS_PER_PARAMETER
from curate.mixture import DomainSupply, Evidence, MixtureOptions, MixtureRequest, SearchOptions
from curate.mixture.design import draw, fill
from curate.mixture.purchase import RunSize, purchase
from curate.mixture.search.simplex_box import whole

SMALL = RunSize(7e7, 1.4e9)
DOMAINS, TARGETS = 6, 8
JUDGED = 2_000
"""Mixtures among which the law chooses."""


@dataclass(frozen=True)
class Form:
    """Drift, noise and cost of the runs that are planted."""

    drift: float
    """How far effects at the small size are from those at the large one; 0: they are the same."""
    small_noise: float
    large_noise: float
    cost: float
    """Cost of a large run in small ones."""


FORMS = {
    "same effects": Form(0.0, 0.004, 0.002, 30),
    "mild drift": Form(0.15, 0.004, 0.002, 30),
    "strong drift": Form(0.5, 0.004, 0.002, 30),
    "no relation": Form(3.0, 0.004, 0.002, 30),
    "noisy small runs": Form(0.15, 0.03, 0.002, 30),
    "near sizes": Form(0.05, 0.004, 0.004, 3),
}
"""Planted tables by name."""


class Truth:
    """Losses that saturate in useful shares, with effects that drift between sizes."""

    def __init__(self, form: Form, seed: int) -> None:
        """Draw the effects."""
        rng = np.random.default_rng(seed)
        self.large_params = SMALL.params * np.sqrt(form.cost)
        self.floor = rng.uniform(1.2, 2.2, TARGETS)
        self.scale = rng.uniform(0.4, 0.9, TARGETS)
        logs = rng.normal(-1.5, 1.0, (TARGETS, DOMAINS))
        moved = form.drift * rng.normal(0, 1.0, logs.shape)
        self.help = {True: np.exp(logs), False: np.exp(logs + moved)}
        self.power = rng.uniform(0.2, 0.5, TARGETS)
        self.noise = {True: form.large_noise, False: form.small_noise}

    def losses(self, weights: Array, large: bool) -> Array:
        """Return noiseless losses, shape (mixtures, targets)."""
        useful = weights @ self.help[large].T + 0.03
        level = 1.0 if large else 1.25
        return np.asarray(level * (self.floor + self.scale * useful**-self.power))

    def runs(self, weights: Array, large: bool, name: str, rng: np.random.Generator) -> RunTable:
        """Simulate runs."""
        losses = self.losses(weights, large)
        losses *= np.exp(self.noise[large] * rng.standard_normal(losses.shape))
        size = self.size(large)
        rows = len(weights)
        return RunTable(
            domains=tuple(f"d{at}" for at in range(DOMAINS)),
            targets=tuple(f"t{at}" for at in range(TARGETS)),
            runs=tuple(f"{name}{at}" for at in range(rows)),
            weights=weights,
            tokens=np.full(rows, size.tokens),
            params=np.full(rows, size.params),
            losses=losses,
        )

    def size(self, large: bool) -> RunSize:
        """Return a size; a large run has more parameters and tokens by the same factor."""
        factor = self.large_params / SMALL.params if large else 1.0
        return RunSize(SMALL.params * factor, SMALL.tokens * factor)


def join(tables: list[RunTable]) -> RunTable:
    """Stack tables with the same columns."""
    first = tables[0]
    return RunTable(
        domains=first.domains,
        targets=first.targets,
        runs=tuple(run for table in tables for run in table.runs),
        weights=np.concatenate([table.weights for table in tables]),
        tokens=np.concatenate([table.tokens for table in tables]),
        params=np.concatenate([table.params for table in tables]),
        losses=np.concatenate([table.losses for table in tables]),
    )


@dataclass(frozen=True)
class Task:
    """A table, and a budget."""

    form: str
    seed: int
    law: str
    large_runs: int
    """Large runs that the budget buys."""
    pilot: tuple[int, int]
    """Runs of the pilot at the small size and at the large one, whose mixtures are among the
    others; no run: there is no pilot."""


def trial(task: Task) -> dict[str, object]:
    """Buy every split of the budget, fit, choose, and judge by the truth."""
    truth = Truth(FORMS[task.form], task.seed)
    rng = np.random.default_rng(1000 + task.seed)
    domains = tuple(DomainSupply(f"d{at}", 10**9, float("inf")) for at in range(DOMAINS))
    options = MixtureOptions(search=SearchOptions(seed=task.seed))
    bare = MixtureRequest(domains, 10**9, "natural", options)
    pilot_mixtures = draw(bare, whole(DOMAINS), max(task.pilot), rng)
    pilot = [
        truth.runs(pilot_mixtures[:runs], is_large, f"pilot-{is_large}-", rng)
        for runs, is_large in zip(task.pilot, (False, True), strict=True)
        if runs
    ]
    large, small = truth.size(True), truth.size(False)
    budget = task.large_runs * large.flops
    request = replace(bare, evidence=Evidence(join(pilot)) if pilot else None)
    started = time.process_time()
    proposal = purchase(request, budget, [small, large])
    seconds = time.process_time() - started
    pool = draw(bare, whole(DOMAINS), 500, rng)
    order = fill(pool, pilot_mixtures, 500)
    judged = np.vstack(
        [np.full((1, DOMAINS), 1 / DOMAINS), draw(bare, whole(DOMAINS), JUDGED, rng)]
    )
    means = truth.losses(judged, True).mean(axis=1)
    pick = proposal.candidates[proposal.best]
    regrets: dict[str, float] = {}
    for place, split in enumerate(proposal.candidates):
        # Runs fill the simplex, as those of the proposal do; noise is the same for every split.
        at_large, at_small = order[: split.large], order[split.large : split.large + split.small]
        tables = [*pilot]
        for places, is_large, noise in ((at_large, True, 2000), (at_small, False, 3000)):
            if places:
                noises = np.random.default_rng(noise + task.seed)
                tables.append(truth.runs(pool[places], is_large, f"{noise}-", noises))
        fitted = LAWS[task.law].fit(join(tables))
        rows = len(judged)
        at = np.full(rows, large.tokens), np.full(rows, large.params)
        predicted = fitted.predict(judged, *at).mean(axis=1)
        regret = float(means[predicted.argmin()] / means.min() - 1)
        regrets[f"{100 * split.large / task.large_runs:.0f} %"] = regret
        if place == proposal.best:
            regrets["proposed"] = regret
    regrets["no run"] = float(means[0] / means.min() - 1)
    return {
        **asdict(task), "bought": (pick.small, pick.large), "regret": regrets, "seconds": seconds,
        "expected": [split.regret for split in proposal.candidates], "reason": proposal.reason,
        "correlation": proposal.model.correlation()[0],
    }  # fmt: skip


def main() -> None:
    """Run all tables and print mean regrets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="First seed.")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--large-runs", default="4,40", help="Large runs that budgets buy.")
    parser.add_argument("--pilot", default="12,4", help="Small and large runs of the pilot.")
    parser.add_argument("--law", default="joint")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path, help="Trials are kept there, and not run again.")
    parser.add_argument("--smoke", action="store_true", help="One table, a quick law.")
    options = parser.parse_args()
    forms, budgets = options.forms.split(","), options.large_runs.split(",")
    if options.smoke:
        forms, budgets, options.seeds, options.law = forms[:1], budgets[:1], 1, "additive"
    small, large = (int(runs) for runs in options.pilot.split(","))
    tasks = [
        Task(form, seed, options.law, int(runs), (small, large))
        for seed in range(options.first, options.first + options.seeds)
        for form in forms
        for runs in budgets
    ]
    trials = kept(options.json)
    left = [task for task in tasks if key(asdict(task)) not in trials]
    with ProcessPoolExecutor(options.workers) as workers:
        for row in workers.map(trial, left) if options.workers > 1 else map(trial, left):
            trials[key(row)] = row
            if options.json is not None:
                options.json.write_text(json.dumps(list(trials.values()), indent=1))
    print(f"true regret at the large size, % of the loss, mean over {options.seeds} tables, by the "
          f"part of the budget for large runs; law {options.law}; pilot of {small} small and "
          f"{large} large runs; FLOPs {FLOPS_PER_PARAMETER} N D")  # fmt: skip
    for runs in budgets:
        show(
            runs,
            forms,
            [trials[key(asdict(task))] for task in tasks if task.large_runs == int(runs)],
        )


def kept(path: Path | None) -> dict[str, dict[str, object]]:
    """Read the trials of an earlier call."""
    if path is None or not path.exists():
        return {}
    return {key(row): row for row in json.loads(path.read_text())}


def key(fields: dict[str, object]) -> str:
    """Name a trial by its task."""
    return json.dumps([fields[name] for name in ("form", "seed", "law", "large_runs", "pilot")])


def show(large_runs: str, forms: list[str], trials: list[dict[str, object]]) -> None:
    """Print the table of a budget.

    Args:
        large_runs: Large runs that it buys.
        forms: Names of the planted forms.
        trials: Those of this budget.
    """
    splits = [name for name in trials[0]["regret"] if name not in ("proposed", "no run")]
    columns = [*splits, "proposed", "no run"]
    print(f"\n{large_runs + ' large runs':18s}" + "".join(f"{name:>10s}" for name in columns)
          + "   small + large bought  correlation")  # fmt: skip
    for form in [*forms, "all"]:
        rows = [row for row in trials if form in (row["form"], "all")]
        cells = [100 * np.mean([row["regret"][name] for row in rows]) for name in columns]
        bought = np.mean([row["bought"] for row in rows], axis=0)
        like = np.mean([row["correlation"] for row in rows])
        print(f"{form:18s}" + "".join(f"{cell:10.3f}" for cell in cells)
              + f"   {bought[0]:.0f} + {bought[1]:.1f}  {like:.3f}", flush=True)  # fmt: skip
    proposed = np.array([row["regret"]["proposed"] for row in trials])
    for name in splits:
        off = 100 * (proposed - np.array([row["regret"][name] for row in trials]))
        error = off.std(ddof=1) / np.sqrt(len(off)) if len(off) > 1 else float("nan")
        print(f"proposed minus {name}: {off.mean():+.3f} ± {error:.3f} (standard error)")
    print(f"a proposal takes {np.mean([row['seconds'] for row in trials]):.1f} s of CPU")


if __name__ == "__main__":
    main()
