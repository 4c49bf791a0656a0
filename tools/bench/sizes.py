"""Losses beyond the largest model of a table: level, deviations and coverage of intervals.

Run as `python tools/bench/sizes.py --seeds 0,1 --forms additive,other`. Planted tables have 24
mixtures of 7 domains at 3 or more sizes from 70M, five checkpoints each, noise of 0.1 % between
rows and 0.05 % between runs. Five forms of level (two not among the law's), each with no, a mild
and a strong interaction of the mixture with size and tokens. 24 other mixtures are judged at the
last checkpoint of 4 and 20 times the largest size, without noise:

* level: the error of the mean log loss over mixtures, root mean square over targets, in percent;
* R2: of deviations from that mean, mean over targets;
* coverage: of 95 % intervals of single losses, in percent.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from curate.laws.fitting.levels import FittedBeyond
from curate.laws.forms.additive import fit_additive
from curate.laws.forms.joint import fit_joint_beyond
from curate.laws.law import Array, FittedLaw, RunTable

Random = np.random.Generator
SMALLEST = 7e7
SIZE_STEP = 2.2
BILLIONS = (2.0, 4.0, 8.0, 14.0, 20.0)
INTERACTIONS = {"none": 0.0, "mild": 0.1, "strong": 0.3}
BEYOND = (4, 20)


@dataclass(frozen=True)
class Truth:
    """Random coefficients of seven targets."""

    rng: Random
    domains: int
    interaction: float

    def tilt(self, w: Array) -> Array:
        """Factor of mean 1 by which a mixture changes an amplitude, shape (rows, targets)."""
        effects = self.rng.normal(0, 1, (self.domains, self.domains)) * np.sqrt(self.domains)
        return np.asarray(np.exp(self.interaction * (w - 1 / self.domains) @ effects))

    def effect(self, w: Array) -> Array:
        """The mixture's effect by useful data, of mean about 1."""
        transfer = np.exp(self.rng.normal(-2.2, 0.8, (self.domains, self.domains)))
        np.fill_diagonal(transfer, 1)
        return np.asarray((3 * w @ transfer.T + 0.02) ** -self.rng.uniform(0.2, 0.4, self.domains))

    def uniform(self, low: float, high: float) -> Array:
        """One number a target."""
        return self.rng.uniform(low, high, self.domains)


def additive(of: Truth, w: Array, n: Array, d: Array) -> Array:
    """A floor, a term of size and one of tokens."""
    larger = of.uniform(0.35, 0.65) * of.tilt(w) * (n / 1e8) ** -of.uniform(0.28, 0.38)
    later = of.uniform(0.3, 0.6) * of.tilt(w) * d ** -of.uniform(0.25, 0.4)
    return of.uniform(1.2, 2.0) + 0.5 * of.effect(w) + larger + later


def product(of: Truth, w: Array, n: Array, d: Array) -> Array:
    """A floor, and a product of powers."""
    fall = (n / 1e8) ** -of.uniform(0.1, 0.2) * d ** -of.uniform(0.05, 0.15) * of.tilt(w)
    return of.uniform(1.0, 1.6) + 1.4 * of.effect(w) * fall


def separable(of: Truth, w: Array, n: Array, d: Array) -> Array:
    """A product of the mixture's effect, a saturating one of size, and one of tokens."""
    larger = 1 + of.uniform(0.1, 0.25) * of.tilt(w) * (n / 1e8) ** -of.uniform(0.28, 0.38)
    later = 1 + of.uniform(0.1, 0.25) * of.tilt(w) * d ** -of.uniform(0.25, 0.4)
    return of.uniform(1.8, 2.4) * of.effect(w) ** 0.3 * larger * later


def coupled(of: Truth, w: Array, n: Array, d: Array) -> Array:
    """Kaplan et al. 2020, Eq. 1.5: size and tokens under one power, above a floor."""
    fall = of.uniform(0.2, 0.3)
    both = of.tilt(w) * (n / 1e8) ** (-0.32 / fall) + of.tilt(w) / d
    return of.uniform(1.4, 2.0) + 0.6 * of.effect(w) + of.uniform(0.4, 0.8) * both**fall


def other(of: Truth, w: Array, n: Array, d: Array) -> Array:
    """A power of size that bends, and a term of tokens whose power grows with size."""
    bend = (1 + (n / 6e8) ** 2) ** 0.05
    larger = of.uniform(0.4, 0.7) * of.tilt(w) * (n / 1e8) ** -of.uniform(0.3, 0.4) * bend
    power = of.uniform(0.25, 0.35) * (n / 1e8) ** 0.03
    later = of.uniform(0.3, 0.6) * of.tilt(w) * d**-power
    return of.uniform(1.2, 2.0) + 0.5 * of.effect(w) + larger + later


FORMS: dict[str, Callable[[Truth, Array, Array, Array], Array]] = {
    form.__name__: form for form in (additive, product, separable, coupled, other)
}


def planted(name: str, interaction: str, sizes: int, seed: int) -> tuple[RunTable, RunTable]:
    """Make a table with noise, and one without of other mixtures at 4 and 20 times the size."""
    rng = np.random.default_rng(1000 + seed)
    shares = rng.dirichlet(np.ones(7), 48)
    params = np.asarray(SMALLEST * SIZE_STEP ** np.arange(sizes), float)
    draws = rng.integers(2**32)

    def table(w: Array, n: Array, billions: Array, noise: float) -> RunTable:
        place = np.indices((len(w), len(n), len(billions))).reshape(3, -1)
        # The same coefficients for both tables: the generator starts anew.
        of = Truth(np.random.default_rng(draws), 7, INTERACTIONS[interaction])
        losses = FORMS[name](of, w[place[0]], n[place[1], None], billions[place[2], None])
        run = place[0] * len(n) + place[1]
        losses *= np.exp(rng.normal(0, noise / 2, (run.max() + 1, 7)))[run]
        losses *= np.exp(rng.normal(0, noise, losses.shape))
        names = tuple(f"domain{index}" for index in range(7))
        return RunTable(
            names, names, tuple(map(str, run)), w[place[0]], billions[place[2]] * 1e9,
            n[place[1]], losses,
        )  # fmt: skip

    train = table(shares[:24], params, np.array(BILLIONS), 1e-3)
    test = table(shares[24:], params[-1] * np.array([1, *BEYOND]), np.array(BILLIONS[-1:]), 0.0)
    return train, test


@dataclass(frozen=True)
class Judged:
    """Errors at one size."""

    level: float
    """Percent."""
    r2: float
    covered: float
    """Percent; NaN for no interval."""


def judge(law: FittedLaw, test: RunTable) -> Judged:
    """Compare with losses at one size."""
    rows = (test.weights, test.tokens, test.params)
    truth, guess = np.log(test.losses), np.log(law.predict(*rows))
    off = (guess - truth).mean(axis=0)
    spread = truth - truth.mean(axis=0)
    missed = guess - guess.mean(axis=0) - spread
    r2 = float((1 - (missed**2).sum(axis=0) / (spread**2).sum(axis=0)).mean())
    covered = float("nan")
    if hasattr(law, "predict_std"):
        covered = float(100 * (np.abs(guess - truth) < 1.96 * law.predict_std(*rows)).mean())
    return Judged(float(100 * np.sqrt((off**2).mean())), r2, covered)


def main() -> None:
    """Print a row for each table, and means by size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--interactions", default=",".join(INTERACTIONS))
    parser.add_argument("--sizes", type=int, default=3)
    options = parser.parse_args()
    print("level error % / R2 of deviations / coverage %\n")
    print("| table | beyond | joint without levels | additive | joint | fit s |")
    print("|---|---|---|---|---|---|")
    every: dict[int, list[list[Judged]]] = {}
    for seed in map(int, options.seeds.split(",")):
        for name in options.forms.split(","):
            for interaction in options.interactions.split(","):
                train, test = planted(name, interaction, options.sizes, seed)
                started = time.process_time()
                law = fit_joint_beyond(train)
                spent = time.process_time() - started
                assert isinstance(law, FittedBeyond)
                laws = (law.law, fit_additive(train), law)
                for factor in (1, *BEYOND):
                    at = test.take(np.isclose(test.params, train.params.max() * factor))
                    judged = [judge(fitted, at) for fitted in laws]
                    every.setdefault(factor, []).append(judged)
                    print(f"| {name}, {interaction}, {seed} | {factor} x | {_cells(judged)} | "
                          f"{spent:.0f} |", flush=True)  # fmt: skip
    for factor, rows in every.items():
        means = [
            Judged(*(float(np.mean([getattr(row[law], field) for row in rows]))
                     for field in ("level", "r2", "covered")))
            for law in range(3)
        ]  # fmt: skip
        print(f"| mean of {len(rows)} | {factor} x | {_cells(means)} | |")


def _cells(judged: list[Judged]) -> str:
    cells = []
    for one in judged:
        covered = "" if np.isnan(one.covered) else f" / {one.covered:.0f}"
        cells.append(f"{one.level:.2f} / {one.r2:.3f}{covered}")
    return " | ".join(cells)


if __name__ == "__main__":
    main()
