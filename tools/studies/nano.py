"""From a swarm to a validated mixture: `python tools/studies/nano.py`.

Trains the recipe beside it (16 mixtures of four domains of the embedded corpus, each with several
seeds), compares laws on the mean losses of mixtures left out, lets BiMix extrapolate every run to
its last checkpoint, takes the mixtures of BiMix and of the law that ranks best, and trains both
against natural and equal shares with three seeds. Prints Markdown tables. What is in the work
directory already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from curves import fit_curve, fit_settled_curve, settled_from

from curate.laws import LAWS as REGISTERED
from curate.laws.crossval import cross_validate
from curate.laws.law import Array, RunTable
from curate.laws.run_tables.read import read_runs
from curate.pipeline.proxies import train_proxies
from curate.pipeline.validate import ValidationSettings, validate_mixture
from curate.recipe import LoadedRecipe, load
from curate.runtime.files import write_json
from curate.runtime.progress import Observer
from curate.runtime.workers import default_workers

LAWS = ("bimix", "bimix_mixed", "exponential", "additive", "ridge", "gaussian", "joint")
FOLDS = 8
LONGER = (
    *(
        f"mixture.evidence.proxy.{key}={value}"
        for key, value in {
            "runs": 2, "seeds": 1, "tokens": 614_400, "batch": 32, "schedule": "exponential",
            "learning_rate": 1e-3, "checkpoints": 20, "spacing": "even", "validation_tokens": 5000,
        }.items()
    ),
    "validation.documents=0.05",
    "seed=43",
)  # fmt: skip
"""Natural and equal shares for longer, as BiMix trained: its schedule, 20 even checkpoints. Another
seed than the runs had on which this and `settled_from` were chosen (42)."""
AHEAD = (1, 4)
"""Checkpoints beyond the last known one that BiMix is asked for: the paper's, and a harder one."""


class Loud(Observer):
    """Says what stages took."""

    def notice(self, message: str) -> None:
        """See `Observer`."""
        print(f"<!-- {message} -->", flush=True)

    def begin(self, stage: str, names: object = (), totals: object = ()) -> None:
        """See `Observer`."""
        self._stage, self._started = stage, time.monotonic()

    def end(self, summary: str = "") -> None:
        """See `Observer`."""
        self.notice(f"{self._stage}: {summary}, {time.monotonic() - self._started:.0f} s")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--recipe", type=Path, default=Path(__file__).with_name("nano.yaml"))
    arguments.add_argument("--work", type=Path, default=Path("bench-work/nano-study"))
    arguments.add_argument("--workers", type=int, default=default_workers())
    options = arguments.parse_args()
    work = options.work.resolve()
    places = (f"cache={json.dumps(str(work / 'cache'))}", f"output.dir={json.dumps(str(work))}")
    loaded = load(options.recipe, places)
    wall, cpu = time.monotonic(), time.process_time()
    train_proxies(loaded, options.workers, Loud())
    runs = over_seeds(read_runs([work / "runs.csv"])[0])
    best = show_laws(runs)
    show_extrapolation(runs, 1)
    longer = (f"output.dir={json.dumps(str(work / 'longer'))}", *LONGER)
    train_proxies(load(options.recipe, (*places, *longer)), options.workers, Loud())
    curves, _ = read_runs([work / "longer" / "runs.csv"])
    for ahead in AHEAD:
        show_extrapolation(curves, ahead)
    for override in ("mixture.method=bimix", f"mixture={mixture_by(loaded, best)}"):
        recommended = load(options.recipe, (*places, override))
        validation = validate_mixture(recommended, ValidationSettings(), options.workers, Loud())
        write_json(work / f"validation-{validation['method']}.json", validation)
        show_validation(validation, best)
    print(f"\n{time.monotonic() - wall:.0f} s, {time.process_time() - cpu:.0f} s of CPU in all")


def over_seeds(runs: RunTable) -> RunTable:
    """One run a mixture, its losses the mean over its seeds."""
    keys = np.round(np.column_stack([runs.weights, runs.tokens]), 9)
    _, first, of_row = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    losses = np.zeros((len(first), len(runs.targets)))
    np.add.at(losses, of_row.reshape(-1), runs.losses)
    seeds = np.bincount(of_row.reshape(-1))
    return replace(runs.take(first), losses=losses / seeds[:, None])


def mixture_by(loaded: LoadedRecipe, law: str) -> str:
    """The recipe's mixture by another law, as JSON."""
    proxy = loaded.proxies
    fields = {name: getattr(proxy, name) for name in proxy.__struct_fields__}
    given = {name: value for name, value in fields.items() if value is not None}
    return json.dumps({"method": "law", "law": law, "evidence": {"proxy": given}})


def show_laws(runs: RunTable) -> str:
    """Table of laws on mixtures left out; the one that ranks mean losses best."""
    crossval = cross_validate(runs, LAWS, FOLDS)
    ranks = {}
    print("\n| law | error % | Spearman of the mean loss | last fifth of tokens, error % |")
    print("|---|---|---|---|")
    for item in crossval.comparisons:
        if item.unseen is None:
            print(f"| `{item.law}` | {item.problem} | | |")
            continue
        later = "" if item.later is None else f"{item.later.relative_error.mean() * 100:.2f}"
        rank = item.unseen.spearman_of_mean
        print(
            f"| `{item.law}` | {item.unseen.relative_error.mean() * 100:.2f} | {rank:.3f} "
            f"| {later} |"
        )
        if not REGISTERED[item.law].dummy:
            ranks[item.law] = rank
    best = max(ranks, key=lambda name: ranks[name])
    print(f"\nbest ranking of mixtures left out: {best}", flush=True)
    return best


def show_extrapolation(runs: RunTable, ahead: int) -> None:
    """Each run's last checkpoint, from those that are known `ahead` checkpoints before it.

    By BiMix's curve in tokens from where it holds, by the same from the first checkpoint, by a line
    in logarithms through what the first saw, and by the last known loss.
    """
    errors: dict[str, list[float]] = {}
    names = np.array(runs.runs)
    for run in dict.fromkeys(runs.runs):
        rows = np.flatnonzero(names == run)
        order = rows[np.argsort(runs.tokens[rows])]
        seen, last = runs.take(order[:-ahead]), runs.take(order[-1:])
        for target in range(len(runs.targets)):
            truth = last.losses[0, target]
            for name, found in forecasts(seen.tokens, seen.losses[:, target], last.tokens).items():
                errors.setdefault(name, []).append(abs(found / truth - 1))
    times = last.tokens[0] / seen.tokens[-1]
    print(f"\nThe last checkpoint of each run, {times:.2f} times the tokens known:\n")
    print("| by | mean error % | median | worst |\n|---|---|---|---|")
    for name, own in errors.items():
        cells = (np.mean(own), np.median(own), np.max(own))
        print(f"| {name} | {' | '.join(f'{100 * cell:.2f}' for cell in cells)} |")
    print(f"\n{len(errors['last known loss *'])} curves", flush=True)


def forecasts(tokens: Array, losses: Array, at: Array) -> dict[str, float]:
    """Predict the loss at a later point; `*` marks dummies."""
    first = settled_from(tokens, losses)
    line = np.polyfit(np.log(tokens[first:]), np.log(losses[first:]), 1)
    return {
        "BiMix, from where it holds": fit_settled_curve(tokens, losses).predict(at)[0],
        "BiMix, all checkpoints": fit_curve(tokens, losses).predict(at)[0],
        "line in logarithms *": float(np.exp(np.polyval(line, np.log(at[0])))),
        "last known loss *": losses[-1],
    }


def show_validation(validation: dict[str, object], law: str) -> None:
    size = validation["sizes"][0]  # type: ignore[index]
    named = f"law {law}" if validation["method"] == "law" else validation["method"]
    print(f"\n{named}: {size['verdict']}; {size['prediction']}")
    domains = list(size["candidates"]["recommended"]["loss"])
    print(f"\n| mixture | shares % | {' | '.join(domains)} | mean | recommended minus it |")
    print("|---" * (len(domains) + 4) + "|")
    for name in size["ranking"]:
        row = size["candidates"][name]
        shares = " ".join(f"{100 * w:.1f}" for w in validation["weights"][name].values())  # type: ignore[index]
        cells = [
            f"{cell['mean']:.4f} ({cell['predicted'] or float('nan'):.4f})"
            for cell in row["loss"].values()
        ]
        own = row["objective"]
        mean = f"{own['mean']:.4f} ± {own['high'] - own['mean']:.4f}"
        against = size["against"].get(name)
        minus = ""
        if against:
            half = against["high"] - against["mean"]
            minus = f"{against['mean']:+.4f} ± {half:.4f}, {against['verdict']}"
        print(f"| {name} | {shares} | {' | '.join(cells)} | {mean} | {minus} |", flush=True)


if __name__ == "__main__":
    main()
