"""Purchases of runs at two sizes on planted tables: the proposed one against simple rules.

Run as `python tools/bench/purchase.py --seeds 10`. Each table has a pilot of a few runs at either
size. `curate design --flops` proposes how many runs of each to buy; rivals spend the same budget on
small runs alone, on large runs alone, or half on each. The runs are simulated, a law is fitted to
them and the pilot, and the mixture that it predicts best at the large size is judged by the truth.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
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
PILOT = (12, 4)
"""Runs of the pilot at the small size and at the large one, whose mixtures are among the others."""
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
    large_runs: int
    """Large runs that the budget buys."""


FORMS = {
    "same effects": Form(0.0, 0.004, 0.002, 30, 8),
    "mild drift": Form(0.15, 0.004, 0.002, 30, 8),
    "strong drift": Form(0.5, 0.004, 0.002, 30, 8),
    "no relation": Form(3.0, 0.004, 0.002, 30, 8),
    "noisy small runs": Form(0.15, 0.03, 0.002, 30, 8),
    "near sizes": Form(0.05, 0.004, 0.004, 3, 30),
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


RULES = ("proposed", "all small", "all large", "half", "pilot only")


def trial(task: tuple[str, int, str, tuple[str, ...]]) -> dict[str, object]:
    """Buy by each rule, fit, choose, and judge by the truth."""
    name, seed, law, compared = task
    form, truth = FORMS[name], Truth(FORMS[name], seed)
    rng = np.random.default_rng(1000 + seed)
    domains = tuple(DomainSupply(f"d{at}", 10**9, float("inf")) for at in range(DOMAINS))
    options = MixtureOptions(search=SearchOptions(seed=seed))
    bare = MixtureRequest(domains, 10**9, "natural", options)
    pilot_mixtures = draw(bare, whole(DOMAINS), PILOT[0], rng)
    pilot = [
        truth.runs(pilot_mixtures, False, "pilot-small-", rng),
        truth.runs(pilot_mixtures[: PILOT[1]], True, "pilot-large-", rng),
    ]
    large, small = truth.size(True), truth.size(False)
    budget = form.large_runs * large.flops
    request = MixtureRequest(domains, 10**9, "natural", options, Evidence(join(pilot)))
    started = time.process_time()
    proposal = purchase(request, budget)
    seconds = time.process_time() - started
    pick = proposal.candidates[proposal.best]
    half = int(0.5 * form.large_runs)
    everything = int(budget / small.flops)
    rules = {
        "proposed": (pick.small, pick.large),
        "all small": (everything, 0),
        "all large": (0, form.large_runs),
        "half": (int((budget - half * large.flops) / small.flops), half),
        "pilot only": (0, 0),
    }
    pool = draw(bare, whole(DOMAINS), 500, rng)
    order = fill(pool, pilot_mixtures, 500)
    proposed = proposal.design.mixtures
    judged = np.vstack(
        [np.full((1, DOMAINS), 1 / DOMAINS), draw(bare, whole(DOMAINS), JUDGED, rng)]
    )
    means = truth.losses(judged, True).mean(axis=1)
    regrets = {}
    for rule in compared:
        of_small, of_large = rules[rule]
        # Rivals' mixtures fill the simplex; noise is the same for every rule as far as runs go.
        at_large, at_small = pool[order[:of_large]], pool[order[of_large : of_large + of_small]]
        if rule == "proposed":
            at_large, at_small = proposed[:of_large], proposed[of_large:]
        tables = [*pilot]
        for mixtures, is_large, noise in ((at_large, True, 2000), (at_small, False, 3000)):
            if len(mixtures):
                noises = np.random.default_rng(noise + seed)
                tables.append(truth.runs(mixtures, is_large, f"{noise}-", noises))
        fitted = LAWS[law].fit(join(tables))
        rows = len(judged)
        at = np.full(rows, large.tokens), np.full(rows, large.params)
        predicted = fitted.predict(judged, *at).mean(axis=1)
        regrets[rule] = float(means[predicted.argmin()] / means.min() - 1)
    regrets["no run"] = float(means[0] / means.min() - 1)
    return {
        "form": name, "seed": seed, "bought": (pick.small, pick.large), "expected": pick.regret,
        "correlation": proposal.model.correlation()[0], "seconds": seconds, "regret": regrets,
    }  # fmt: skip


def main() -> None:
    """Run all tables and print mean regrets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="First seed.")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--law", default="joint")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--smoke", action="store_true", help="One table, a quick law.")
    options = parser.parse_args()
    forms = options.forms.split(",")
    if options.smoke:
        forms, options.seeds, options.law = forms[:1], 1, "additive"
    compared = tuple(options.rules.split(","))
    tasks = [
        (form, seed, options.law, compared)
        for form in forms
        for seed in range(options.first, options.first + options.seeds)
    ]
    if options.workers > 1:
        with ProcessPoolExecutor(options.workers) as workers:
            trials = list(workers.map(trial, tasks))
    else:
        trials = [trial(task) for task in tasks]
    if options.json is not None:
        options.json.write_text(json.dumps(trials, indent=1))
    rules = list(trials[0]["regret"])
    print(f"true regret at the large size, % of the loss, mean over {options.seeds} tables; "
          f"law {options.law}; FLOPs {FLOPS_PER_PARAMETER} N D")  # fmt: skip
    print(f"{'form':18s}" + "".join(f"{rule:>12s}" for rule in rules) + "   bought  correlation")
    for form in [*forms, "all"]:
        rows = [row for row in trials if form in (row["form"], "all")]
        cells = [100 * np.array([row["regret"][rule] for row in rows]) for rule in rules]
        bought = np.mean([row["bought"] for row in rows], axis=0)
        like = np.mean([row["correlation"] for row in rows])
        print(f"{form:18s}" + "".join(f"{cell.mean():12.3f}" for cell in cells)
              + f"   {bought[0]:.0f}+{bought[1]:.1f}  {like:.3f}")  # fmt: skip
    proposed = np.array([row["regret"]["proposed"] for row in trials])
    for rule in rules[1:]:
        off = 100 * (proposed - np.array([row["regret"][rule] for row in trials]))
        error = off.std(ddof=1) / np.sqrt(len(off)) if len(off) > 1 else float("nan")
        print(f"proposed minus {rule}: {off.mean():+.3f} ± {error:.3f} (standard error)")
    print(f"a proposal takes {np.mean([row['seconds'] for row in trials]):.1f} s of CPU")


if __name__ == "__main__":
    main()
