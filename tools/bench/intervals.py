"""Coverage of 95 % intervals: of weights on planted laws, of predicted losses on public tables.

Run as `python tools/bench/intervals.py --data DIR`, where DIR holds RegMix's and olmix's tables.

Weights: tables of 5 domains with 0.3 % noise from four forms of loss. `curate mix` chooses weights
by each method as shipped; a share counts as covered if its interval holds the best share of the
noiseless form: without a trust region, and in the trust region of the method. The interval of the
gain over natural (here uniform) counts if it holds the true gain of the recommended shares.

Predictions: a law's errors on mixtures left out (5 folds of the training runs) give the interval of
new runs: RegMix's 256 test runs after 128 or more runs of training, and one fold in five of olmix's
127. `--runs 512` takes all.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from curate.laws import LAWS
from curate.laws.calibration import half_width, log_errors
from curate.laws.fitting.features import run_folds
from curate.laws.law import Array, RunTable
from curate.laws.run_tables.read import read_runs
from curate.mixture import (
    DomainSupply,
    Evidence,
    MixtureOptions,
    MixtureRequest,
    SearchOptions,
    mix,
)
from curate.mixture.search.law_choice import refit
from curate.mixture.search.objective import Problem
from curate.mixture.search.optimise import optimise
from curate.mixture.search.simplex_box import whole
from curate.mixture.search.trust_region import support_of

DOMAINS = 5
NAMES = tuple("abcde")
NOISE = 3e-3
FORMS = ("exponential", "power", "transfer", "additive")


@dataclass(frozen=True)
class Planted:
    """A form of loss with random coefficients; its gradient by differences."""

    form: str
    seed: int

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Return losses, shape (rows, domains)."""
        rng, k = np.random.default_rng(self.seed), DOMAINS
        shares = np.maximum(weights, 1e-6)
        floor = rng.uniform(1.5, 2.5, k)
        if self.form == "exponential":
            slopes = rng.normal(0, 0.4, (k, k)) - np.diag(rng.uniform(1, 3, k))
            losses = floor + rng.uniform(0.3, 1.0, k) * np.exp(weights @ slopes.T)
        elif self.form == "power":
            losses = floor * shares ** -rng.uniform(0.03, 0.15, k)
        elif self.form == "transfer":
            effects = np.exp(rng.normal(-2.2, 0.8, (k, k)))
            np.fill_diagonal(effects, 1)
            losses = floor + 0.6 * (shares @ effects.T + 0.01) ** -rng.uniform(0.25, 0.4, k)
        else:
            use = np.exp(rng.normal(0, 0.5, (k, k))) * (0.2 + 3 * np.eye(k))
            powers = rng.uniform(0.2, 0.7, (k, k))
            losses = floor + 1 / (use * shares[:, None, :] ** powers).sum(axis=2)
        return np.asarray(losses)

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Differentiate by central differences, shape (rows, targets, domains)."""
        steps = 1e-6 * np.eye(DOMAINS)
        ahead, behind = (
            np.stack([self.predict(weights + way * step, tokens, params) for step in steps], axis=2)
            for way in (1, -1)
        )
        return np.asarray((ahead - behind) / 2e-6)


@dataclass(frozen=True)
class Covered:
    """How the intervals of one planted table fare."""

    free: float
    """Part of the shares whose interval holds the best share without a trust region."""
    held: float
    """The same in the trust region of the method."""
    width: float
    """Mean width of the intervals of shares."""
    gain: float
    """Whether the interval of the gain over natural holds the true one."""
    gain_half_width: float
    """Half the width of that interval, in the unit of the mean loss."""
    true_gain: float
    """Gain of the recommended shares over natural ones, by the noiseless form."""
    undecided: float
    """Whether the gain is said to be within noise."""


def covered(method: str, form: str, runs: int, seed: int) -> Covered:
    """Mix by a method from a planted table, and compare its intervals with the truth."""
    rng = np.random.default_rng(100 + seed)
    truth = Planted(form, seed)
    shares, nothing = rng.dirichlet(np.ones(DOMAINS), runs), np.full(runs, np.nan)
    losses = truth.predict(shares, nothing, nothing) * np.exp(rng.normal(0, NOISE, (runs, DOMAINS)))
    table = RunTable(NAMES, NAMES, tuple(map(str, range(runs))), shares, nothing, nothing, losses)
    supply = tuple(DomainSupply(name, 1000, np.inf) for name in NAMES)
    options = MixtureOptions(search=SearchOptions(prior="uniform", kl=0.0))
    mixture = mix(MixtureRequest(supply, 1000, method, options, Evidence(table)))
    even = np.full(DOMAINS, 1 / DOMAINS)
    best = optimise(
        Problem(truth, whole(DOMAINS), even[None], prior=even, support=support_of(shares))
    )
    assert mixture.low is not None and mixture.high is not None, mixture.warnings
    answer, low, high = (
        np.array([shares_of[name] for name in NAMES])
        for shares_of in (mixture.weights, mixture.low, mixture.high)
    )
    free, held = (
        float(((low - 1e-3 <= optimum) & (optimum <= high + 1e-3)).mean())
        for optimum in (best.unconstrained, best.weights)
    )
    gain = mixture.details["gain_over_natural"]
    at_both = truth.predict(np.stack([even, answer]), nothing[:2], nothing[:2]).mean(axis=1)
    true_gain = float(at_both[0] - at_both[1])
    return Covered(
        free,
        held,
        float((high - low).mean()),
        float(gain["low"] <= true_gain <= gain["high"]),
        (gain["high"] - gain["low"]) / 2,
        true_gain,
        float(gain["within_noise"]),
    )


def weights_table(methods: list[str], seeds: range, counts: list[int]) -> None:
    """Print coverage by method and form, of weights with standard errors over tables."""
    print("| method | form | runs | best share covered % | in the trust region % | width "
          "| gain covered % | half width | true gain | within noise % | CPU s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for method in methods:
        every: list[Covered] = []
        for form in FORMS:
            for runs in counts:
                started = time.process_time()
                trials = [covered(method, form, runs, seed) for seed in seeds]
                every += trials
                spent = (time.process_time() - started) / len(seeds)
                print(f"| {method} | {form} | {runs} | {_cells(trials)} | {spent:.1f} |",
                      flush=True)  # fmt: skip
        print(f"| {method} | all | | {_cells(every)} | |", flush=True)


def _cells(trials: list[Covered]) -> str:
    free, held, width, gain, half, true_gain, undecided = np.mean(
        [astuple(trial) for trial in trials], axis=0
    )
    free_error, held_error = (
        np.std([getattr(trial, name) for trial in trials]) / np.sqrt(len(trials))
        for name in ("free", "held")
    )
    return (
        f"{100 * free:.1f} ± {100 * free_error:.1f} | {100 * held:.1f} ± {100 * held_error:.1f} | "
        f"{width:.2f} | {100 * gain:.0f} | {half:.3f} | "
        f"{true_gain:.3f} | {100 * undecided:.0f}"
    )


def public_tables(data: Path, runs: int) -> list[tuple[str, RunTable, RunTable]]:
    """Return name, training runs and test runs of each public table."""
    regmix = [
        read_runs([data / f"regmix/{part}_{kind}_1m.csv" for kind in ("mixture", "pile_loss")])[0]
        for part in ("train", "test")
    ]
    drawn = np.sort(np.random.default_rng(0).permutation(len(regmix[0].runs))[:runs])
    olmix, _ = read_runs([data / f"olmix/dclm_{kind}.csv" for kind in ("ratios", "metrics")])
    some = tuple(range(0, len(olmix.targets), 8))
    olmix = RunTable(
        olmix.domains, tuple(olmix.targets[at] for at in some), olmix.runs, olmix.weights,
        olmix.tokens, olmix.params, olmix.losses[:, some],
    )  # fmt: skip
    held = run_folds(olmix, 5)[0]
    order = [regmix[1].targets.index(name) for name in regmix[0].targets]
    test = regmix[1]
    test = RunTable(
        test.domains, regmix[0].targets, test.runs, test.weights, test.tokens, test.params,
        test.losses[:, order],
    )  # fmt: skip
    return [
        (f"RegMix 1M, {len(drawn)} runs", regmix[0].take(drawn), test),
        (f"olmix, {(~held).sum()} runs", olmix.take(~held), olmix.take(held)),
    ]


def predictions_table(data: Path, laws: list[str], runs: int) -> None:
    """Print coverage of predicted losses by law and table."""
    print("\n| law | table | covered % | worst target % | half width % |")
    print("|---|---|---|---|---|")
    for title, train, test in public_tables(data, runs):
        for name in laws:
            law = LAWS[name]
            whole_fit = law.fit(train)
            refits = refit(law, whole_fit, train)
            width = half_width(log_errors(refits.predicted, train), train)
            guess = whole_fit.predict(test.weights, test.tokens, test.params)
            covered = np.abs(log_errors(guess, test)) <= width
            print(f"| {name} | {title} | {100 * covered.mean():.1f} | "
                  f"{100 * covered.mean(axis=0).min():.0f} | {100 * width.mean():.2f} |",
                  flush=True)  # fmt: skip
            if hasattr(whole_fit, "predict_std"):
                std = whole_fit.predict_std(test.weights, test.tokens, test.params)
                covered = np.abs(np.log(guess / test.losses)) <= 1.96 * std
                print(f"| {name}, its own | {title} | {100 * covered.mean():.1f} | "
                      f"{100 * covered.mean(axis=0).min():.0f} | {196 * std.mean():.2f} |",
                      flush=True)  # fmt: skip


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="directory of public tables; none: planted only")
    parser.add_argument("--methods", default="bimix,dml,additive,ridge,boosted,gaussian,joint")
    parser.add_argument("--laws", default="bimix_mixed,exponential,additive,ridge,gaussian,joint")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="seed of the first planted table")
    parser.add_argument("--counts", default="16,48")
    parser.add_argument("--runs", type=int, default=128)
    options = parser.parse_args()
    if options.seeds:
        counts = [int(count) for count in options.counts.split(",")]
        seeds = range(options.first, options.first + options.seeds)
        weights_table(options.methods.split(","), seeds, counts)
    if options.data:
        predictions_table(options.data, options.laws.split(","), options.runs)


if __name__ == "__main__":
    main()
