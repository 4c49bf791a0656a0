"""Do small models rank mixtures as larger ones do? `python tools/studies/transfer.py`.

Trains the same 24 mixtures of the embedded corpus at three sizes, `nano`, `micro` and `1M`, all on
the same few tokens. Prints how the sizes rank mixtures, beside how two halves of the seeds of one
size do, and what laws fitted to the two smaller sizes predict at the largest: for all mixtures, for
mixtures that no size has seen, and with a few runs of the largest. What is in the work directory
already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from nano import Loud, over_seeds

from curate.laws import LAWS
from curate.laws.law import Array, RunTable
from curate.laws.run_groups import relative_regret
from curate.laws.run_tables.read import read_runs
from curate.laws.scores import spearman
from curate.pipeline.proxies import train_proxies
from curate.recipe import load
from curate.runtime.workers import default_workers

MIXTURES = 24
SIZES = ("nano", "micro", "1M")
"""Presets, smallest first; the largest is what the others are judged by."""
READERS = ("joint", "additive", "gaussian")
FOLDS = 6
USED = 4
"""Mixtures whose runs at the largest size are used in the last comparison."""


def main() -> None:
    """Train every size, and print how they agree and what laws predict."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("nano.yaml"))
    parser.add_argument("--work", type=Path, default=Path("bench-work/transfer-study"))
    parser.add_argument("--tokens", type=int, default=30_720)
    parser.add_argument("--seeds", default="5,2,1", help="Seeds of each mixture at each size.")
    parser.add_argument("--workers", type=int, default=default_workers())
    options = parser.parse_args()
    started = time.monotonic(), time.process_time()
    seeds = dict(zip(SIZES, map(int, options.seeds.split(",")), strict=True))
    tables = {preset: train(options, preset, count) for preset, count in seeds.items()}
    pooled = {preset: in_order(over_seeds(table)) for preset, table in tables.items()}
    show_ranks(tables, pooled, seeds)
    show_predictions(pooled)
    wall, cpu = time.monotonic() - started[0], time.process_time() - started[1]
    print(f"\n{wall:.0f} s, {cpu:.0f} s of CPU in all")


def train(options: argparse.Namespace, preset: str, seeds: int) -> RunTable:
    """Train the mixtures at a size, and read their last losses."""
    work = options.work.resolve()
    proxy = {
        "preset": preset, "runs": MIXTURES, "seeds": seeds, "tokens": options.tokens,
        "sequence_length": 64, "batch": 4, "learning_rate": 1e-3, "schedule": "exponential",
        "checkpoints": 1, "validation_tokens": 5_000,
    }  # fmt: skip
    fields = {
        "cache": str(work / "cache"), "output.dir": str(work / preset),
        "mixture": {"method": "bimix", "evidence": {"proxy": proxy}},
    }  # fmt: skip
    loaded = load(options.recipe, [f"{key}={json.dumps(value)}" for key, value in fields.items()])
    train_proxies(loaded, options.workers, Loud())
    return read_runs([work / preset / "runs.csv"], far_runs="keep")[0]


def in_order(table: RunTable) -> RunTable:
    """Sort runs by their mixtures, which are the same at every size."""
    return table.take(np.lexsort(np.round(table.weights, 6).T))


def show_ranks(
    tables: Mapping[str, RunTable], pooled: Mapping[str, RunTable], counts: Mapping[str, int]
) -> None:
    """Print how two sizes, or two halves of a size's seeds, rank mixtures.

    Args:
        tables: Every run, by size.
        pooled: Means over seeds, by size.
        counts: Number of seeds, by size.
    """
    targets = next(iter(pooled.values())).targets
    print(f"\nSpearman over {MIXTURES} mixtures\n\n| | {' | '.join(targets)} | mean |")
    print("|---" * (len(targets) + 2) + "|")
    for preset, table in tables.items():
        cut = counts[preset] // 2
        if not cut:
            continue
        seeds = np.array([int(run.partition(".s")[2] or 0) for run in table.runs])
        halves = [in_order(over_seeds(table.take(np.flatnonzero(part))))
                  for part in (seeds < cut, (seeds >= cut) & (seeds < 2 * cut))]  # fmt: skip
        print(row(f"`{preset}`, {cut} of its seeds and {cut} others", *halves), flush=True)
    names = list(pooled)
    for at, first in enumerate(names):
        for second in names[at + 1 :]:
            print(row(f"`{first}` and `{second}`", pooled[first], pooled[second]), flush=True)
    for preset, table in pooled.items():
        spread = 100 * np.log(table.losses).std(axis=0, ddof=1)
        mean = 100 * np.log(table.losses.mean(axis=1)).std(ddof=1)
        best = table.runs[int(table.losses.mean(axis=1).argmin())]
        print(f"<!-- {preset}: {table.params[0]:,.0f} parameters, mean loss "
              f"{table.losses.mean():.3f}, spread over mixtures % {np.round(spread, 2)}, of the "
              f"mean {mean:.2f}; best {best} -->")  # fmt: skip


def row(title: str, one: RunTable, other: RunTable) -> str:
    """Write a row of rank correlations, of each loss and of the mean loss."""
    cells = [spearman(a, b) for a, b in zip(one.losses.T, other.losses.T, strict=True)]
    cells.append(spearman(one.losses.mean(axis=1), other.losses.mean(axis=1)))
    return f"| {title} | {' | '.join(f'{cell:.3f}' for cell in cells)} |"


def show_predictions(pooled: Mapping[str, RunTable]) -> None:
    """Print what laws fitted to smaller sizes predict at the largest."""
    *smaller, largest = pooled.values()
    everything = np.arange(MIXTURES)
    rng = np.random.default_rng(0)
    folds = np.array_split(rng.permutation(MIXTURES), FOLDS)
    used = rng.permutation(MIXTURES)[:USED]
    unused = np.setdiff1d(everything, used)
    print(f"\nPredictions for `{list(pooled)[-1]}`\n")
    print("| by | from | level, error % | R² of deviations | Spearman of the mean | regret % |")
    print("|---|---|---|---|---|---|")
    for name in READERS:
        show_row(f"`{name}`", "smaller sizes, the same mixtures", largest,
                 predict(name, smaller, largest))  # fmt: skip
        unseen = np.empty_like(largest.losses)
        for fold in folds:
            rest = np.setdiff1d(everything, fold)
            unseen[fold] = predict(name, [table.take(rest) for table in smaller],
                                   largest.take(fold))  # fmt: skip
        show_row(f"`{name}`", "smaller sizes, other mixtures", largest, unseen)
        both = predict(name, [*smaller, largest.take(used)], largest.take(unused))
        show_row(f"`{name}`", f"smaller sizes and {USED} runs", largest.take(unused), both)
    for preset, table in list(pooled.items())[:-1]:
        show_row(f"`{preset}` copied *", "the same mixtures", largest, table.losses)


def predict(name: str, tables: list[RunTable], at: RunTable) -> Array:
    """Fit a law to tables, and predict the losses of a table's runs."""
    fitted = LAWS[name].fit(stacked(tables))
    return fitted.predict(at.weights, at.tokens, at.params)


def stacked(tables: list[RunTable]) -> RunTable:
    """Put tables with the same columns below each other, with a name for each of their runs."""
    return replace(
        tables[0],
        runs=tuple(f"{at}-{run}" for at, table in enumerate(tables) for run in table.runs),
        weights=np.concatenate([table.weights for table in tables]),
        tokens=np.concatenate([table.tokens for table in tables]),
        params=np.concatenate([table.params for table in tables]),
        losses=np.concatenate([table.losses for table in tables]),
    )


def show_row(by: str, given: str, truth: RunTable, predicted: Array) -> None:
    """Print how predictions compare with measured losses."""
    logs, guess = np.log(truth.losses), np.log(predicted)
    level = 100 * np.abs(np.expm1(guess.mean(axis=0) - logs.mean(axis=0))).mean()
    off = (guess - guess.mean(axis=0)) - (logs - logs.mean(axis=0))
    r2 = 1 - (off**2).sum(axis=0) / ((logs - logs.mean(axis=0)) ** 2).sum(axis=0)
    rank = spearman(predicted.mean(axis=1), truth.losses.mean(axis=1))
    regret = 100 * relative_regret(truth.losses, predicted)
    print(f"| {by} | {given} | {level:.2f} | {r2.mean():.3f} | {rank:.3f} | {regret:.2f} |",
          flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
