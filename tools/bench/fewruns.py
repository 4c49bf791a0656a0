"""The joint law on few runs with many targets: all targets together against one law a target.

Run as `python tools/bench/fewruns.py --seeds 0,1,2`; with `--data DIR` also RegMix's and olmix's
tables. Planted mixtures are drawn around a natural one. Noise is as large as leaves the R2 in
brackets to a law that knows the truth; half of its variance is common to all targets of a run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from curate.laws.forms.joint import fit_joint
from curate.laws.law import Array, RunTable
from curate.laws.run_tables.read import read_runs
from curate.laws.scores import spearman

Random = np.random.Generator
NATURAL = np.array([0.52, 0.26, 0.06, 0.05, 0.05, 0.03, 0.03])
"""Shares of seven domains in a corpus like SlimPajama."""
UNSEEN = 200
"""Mixtures on which laws are judged."""


def exponentials(w: Array, slopes: Array) -> Array:
    """The data mixing law, shape (rows, targets)."""
    return np.asarray(1.8 + 0.9 * np.exp(w @ slopes.T))


def rank3(rng: Random, w: Array, targets: int) -> Array:
    """Three latent losses, mixed by each target, and a part of its own."""
    domains = w.shape[1]
    useful = w @ np.exp(rng.normal(-1.5, 1.2, (3, domains))).T + 0.02
    latent = np.log(useful) * rng.uniform(-0.2, -0.05, 3)
    mixed = latent @ rng.dirichlet(np.ones(3), targets).T
    own = w @ rng.normal(0, 1, (targets, domains)).T
    own *= 0.3 * mixed.std(axis=0) / own.std(axis=0)
    return np.asarray(3 * np.exp(mixed + own))


def topics(rng: Random, w: Array, targets: int) -> Array:
    """Ten topics, each with a power law; domains and targets are mixtures of topics."""
    content = rng.dirichlet(np.full(10, 0.4), w.shape[1])
    losses = 1.5 + (w @ content + 0.01) ** -rng.uniform(0.1, 0.4, 10)
    return np.asarray(losses @ rng.dirichlet(np.full(10, 0.4), targets).T)


def slopes3(rng: Random, w: Array, targets: int) -> Array:
    """The data mixing law with slopes of rank 3 and small ones of each target's own."""
    domains = w.shape[1]
    slopes = rng.normal(0, 0.6, (targets, 3)) @ rng.normal(0, 1, (3, domains))
    return exponentials(w, slopes + rng.normal(0, 0.3, (targets, domains)))


def useful(rng: Random, w: Array, targets: int) -> Array:
    """Useful data with diminishing returns; usefulness of rank 2 and a part of its own."""
    domains = w.shape[1]
    logs = rng.normal(0, 0.8, domains) + rng.normal(0, 0.7, (targets, 2)) @ rng.normal(
        0, 1, (2, domains)
    )
    logs += rng.normal(0, 0.4, (targets, domains))
    amount = (np.exp(logs)[None] * w[:, None, :] ** rng.uniform(0.3, 0.9)).sum(axis=2)
    return np.asarray(1.6 + rng.uniform(0.6, 1.2, targets) * amount**-0.25)


def full(rng: Random, w: Array, targets: int) -> Array:
    """The data mixing law with independent slopes: nothing to share."""
    return exponentials(w, rng.normal(0, 1, (targets, w.shape[1])))


def full_powers(rng: Random, w: Array, targets: int) -> Array:
    """Useful data of independent usefulness, power and exponent: nothing to share."""
    shape = (targets, w.shape[1])
    amount = np.exp(rng.normal(0, 1.2, shape)) * w[:, None, :] ** rng.uniform(0.2, 1, shape)
    fall = rng.uniform(0.1, 0.5, targets)
    return np.asarray(1.6 + rng.uniform(0.6, 1.2, targets) * amount.sum(axis=2) ** -fall)


FORMS: dict[str, Callable[[Random, Array, int], Array]] = {
    "rank3": rank3,
    "topics": topics,
    "slopes3": slopes3,
    "useful": useful,
    "full": full,
    "full_powers": full_powers,
}


@dataclass(frozen=True)
class Setting:
    """How many runs, of what."""

    runs: int = 20
    domains: int = 7
    targets: int = 22
    ceiling: float = 0.94
    small_runs: int = 0
    """Runs of other mixtures at a sixth of the size."""


SETTINGS = {
    "20 runs": Setting(),
    "20 and 42 small runs": Setting(small_runs=42),
    "26 runs, 5 domains": Setting(26, 5, 22, 0.992),
    "40 runs, 24 domains": Setting(40, 24, 50, 0.96),
}


def mixtures(rng: Random, count: int, domains: int) -> Array:
    """Shares around a natural mixture, whose parts vary by the square root of two or so."""
    natural = NATURAL[:domains] if domains <= len(NATURAL) else rng.dirichlet(np.ones(domains))
    strength = np.exp(rng.uniform(np.log(4), np.log(20), (count, 1)))
    draws = rng.gamma(np.maximum(strength * natural / natural.sum(), 0.05)) + 1e-5
    return np.asarray(draws / draws.sum(axis=1, keepdims=True))


def planted(form: str, setting: Setting, seed: int) -> tuple[RunTable, RunTable]:
    """Runs with noise, and unseen mixtures at the (larger) size without."""
    rng = np.random.default_rng(seed)
    rows = setting.runs + setting.small_runs + UNSEEN
    weights = mixtures(rng, rows, setting.domains)
    logs = np.log(FORMS[form](rng, weights, setting.targets))
    centre = logs.mean(axis=0)
    small = np.zeros(rows, bool)
    small[setting.runs : setting.runs + setting.small_runs] = True
    # A smaller model is worse, and feels the mixture by a fifth more or less, and otherwise.
    other = np.log(FORMS["full"](rng, weights, setting.targets))
    other = (other - other.mean(axis=0)) / other.std(axis=0) * logs.std(axis=0)
    factor = rng.uniform(0.75, 1.15, setting.targets)
    logs[small] = (centre + 0.25 + (logs - centre) * factor + 0.15 * other)[small]
    size = logs[~small].std(axis=0) * np.sqrt(1 / setting.ceiling - 1)
    noise = rng.normal(size=(rows, 1)) * np.sqrt(0.5) + rng.normal(size=logs.shape) * np.sqrt(0.5)
    noise[setting.runs + setting.small_runs :] = 0
    losses = np.exp(logs + size * noise)
    params = np.where(small, 7e7, 4.1e8) if setting.small_runs else np.full(rows, np.nan)
    names = tuple(f"domain{place:02d}" for place in range(setting.domains))
    targets = tuple(f"target{place:03d}" for place in range(setting.targets))
    table = RunTable(
        names, targets, tuple(map(str, range(rows))), weights, np.full(rows, np.nan), params, losses
    )
    trained = np.arange(rows) < setting.runs + setting.small_runs
    return table.take(trained), table.take(~trained)


def one_target(table: RunTable, place: int) -> RunTable:
    """Keep a single target."""
    return replace(table, targets=(table.targets[place],), losses=table.losses[:, [place]])


def together(train: RunTable, test: RunTable) -> Array:
    """Predict by one law of all targets."""
    return fit_joint(train).predict(test.weights, test.tokens, test.params)


def apart(train: RunTable, test: RunTable) -> Array:
    """Predict by one law a target."""
    return np.hstack([together(one_target(train, at), test) for at in range(len(train.targets))])


def marks(predicted: Array, losses: Array) -> tuple[float, float, float]:
    """Root mean square error over spread, mean R2, and Spearman's correlation of the mean loss."""
    missed, truth = np.log(predicted) - np.log(losses), np.log(losses)
    missed_share = (missed**2).mean(axis=0) / truth.var(axis=0)
    rank = spearman(losses.mean(axis=1), predicted.mean(axis=1))
    return float(np.sqrt(missed_share.mean())), float(1 - missed_share.mean()), rank


def planted_tables(seeds: list[int], forms: list[str], settings: list[str], alone: bool) -> None:
    """Print a row for each setting and form: means over seeds."""
    print("| setting (ceiling) | form | error | R2 | Spearman of the mean | apart: error | R2 |"
          " Spearman | error, ratio | fit s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in settings:
        setting = SETTINGS[name]
        for form in forms:
            results, others, seconds = [], [], 0.0
            for seed in seeds:
                train, test = planted(form, setting, seed)
                started = time.process_time()
                results.append(marks(together(train, test), test.losses))
                seconds += (time.process_time() - started) / len(seeds)
                others.append(marks((apart if alone else together)(train, test), test.losses))
            new, old = np.mean(results, axis=0), np.mean(others, axis=0)
            print(
                f"| {name} ({setting.ceiling}) | {form} | {new[0]:.3f} | {new[1]:.3f} | "
                f"{new[2]:.3f} | {old[0]:.3f} | {old[1]:.3f} | {old[2]:.3f} | "
                f"{new[0] / old[0]:.3f} | {seconds:.1f} |",
                flush=True,
            )


def published(data: Path, draws: int) -> None:
    """Print RegMix from 20, 27 and 54 of its 512 runs, olmix from 40 of its 127."""
    from joint import olmix_tasks

    parts = []
    for split in ("train", "test"):
        files = [data / f"regmix/{split}_{kind}_1m.csv" for kind in ("mixture", "pile_loss")]
        parts.append(read_runs(files)[0])
    swarm = read_runs([data / f"olmix/dclm_{kind}.csv" for kind in ("ratios", "metrics")])[0]
    losses = olmix_tasks(swarm)
    swarm = replace(swarm, targets=tuple(map(str, range(losses.shape[1]))), losses=losses)
    print("| table | runs | R2 | Spearman, mean over targets | of the mean | fit s |")
    print("|---|---|---|---|---|---|")
    for name, runs in (("RegMix 1M", 20), ("RegMix 1M", 27), ("RegMix 1M", 54), ("olmix", 40)):
        results, seconds = [], 0.0
        for draw in range(draws):
            whole = parts[0] if name != "olmix" else swarm
            order = np.random.default_rng(draw).permutation(len(whole.runs))
            train = whole.take(order[:runs])
            test = parts[1] if name != "olmix" else swarm.take(order[runs:])
            started = time.process_time()
            predicted = together(train, test)
            seconds += (time.process_time() - started) / draws
            _, fit, rank = marks(predicted, test.losses)
            ranks = [spearman(a, b) for a, b in zip(test.losses.T, predicted.T, strict=True)]
            results.append((fit, np.mean(ranks), rank))
        mean = np.mean(results, axis=0)
        print(f"| {name} | {runs} | {mean[0]:.3f} | {100 * mean[1]:.2f} | {100 * mean[2]:.2f} | "
              f"{seconds:.1f} |", flush=True)  # fmt: skip


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--settings", default="0,1,2,3")
    parser.add_argument("--together-only", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--draws", type=int, default=5)
    options = parser.parse_args()
    names = list(SETTINGS)
    if options.seeds:
        planted_tables(
            [int(seed) for seed in options.seeds.split(",")],
            options.forms.split(","),
            [names[int(place)] for place in options.settings.split(",")],
            not options.together_only,
        )
    if options.data:
        published(options.data, options.draws)


if __name__ == "__main__":
    main()
