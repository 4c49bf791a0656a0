"""From a swarm to a validated mixture: `python tools/studies/nano.py`.

Trains the recipe beside it (16 mixtures of four domains of the embedded corpus), compares laws on
mixtures left out, lets BiMix extrapolate every run to its last checkpoint, takes the mixtures of
BiMix and of the law that ranks best, and trains both against natural and equal shares with three
seeds. Prints Markdown tables. What is in the work directory already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from curate.engine.local import default_workers
from curate.laws import DUMMIES
from curate.laws.base import RunTable
from curate.laws.crossval import cross_validate
from curate.laws.curves import fit_curve
from curate.laws.tables import read_runs
from curate.observer import Observer
from curate.recipe import LoadedRecipe, load
from curate.swarms import train_proxies
from curate.validate import Asked, validate

LAWS = ("bimix", "bimix_mixed", "exponential", "additive", "ridge", "gaussian", "joint")
FOLDS = 8
LONGER = tuple(
    f"mixture.evidence.proxy.{key}={value}"
    for key, value in {"runs": 2, "tokens": 245_760, "checkpoints": 40}.items()
)
"""Natural and equal shares for longer, looked at often."""
LEAST_SEEN = 5
LATER_SHARE = 0.25
"""Of a run's tokens, from where its checkpoints are taken: the first steps follow no power law."""


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
    asked = arguments.parse_args()
    work = asked.work.resolve()
    places = (f"cache={json.dumps(str(work / 'cache'))}", f"output.dir={json.dumps(str(work))}")
    loaded = load(asked.recipe, places)
    wall, cpu = time.monotonic(), time.process_time()
    train_proxies(loaded, asked.workers, Loud())
    runs, _ = read_runs([work / "runs.csv"])
    best = show_laws(runs)
    show_extrapolation(runs, 0.0)
    longer = (f"output.dir={json.dumps(str(work / 'longer'))}", *LONGER)
    train_proxies(load(asked.recipe, (*places, *longer)), asked.workers, Loud())
    show_extrapolation(read_runs([work / "longer" / "runs.csv"])[0], LATER_SHARE)
    for override in ("mixture.method=bimix", f"mixture={chosen(loaded, best)}"):
        own = load(asked.recipe, (*places, override))
        show_validation(validate(own, Asked(), asked.workers, Loud()), best)
    print(f"\n{time.monotonic() - wall:.0f} s, {time.process_time() - cpu:.0f} s of CPU in all")


def chosen(loaded: LoadedRecipe, law: str) -> str:
    """The recipe's mixture by another law, as JSON."""
    proxy = loaded.proxies
    fields = {name: getattr(proxy, name) for name in proxy.__struct_fields__}
    given = {name: value for name, value in fields.items() if value is not None}
    return json.dumps({"method": "law", "law": law, "evidence": {"proxy": given}})


def show_laws(runs: RunTable) -> str:
    """Table of laws on mixtures left out; the one that ranks mean losses best."""
    found = cross_validate(runs, LAWS, FOLDS)
    ranks = {}
    print("\n| law | error % | Spearman of the mean loss | last fifth of tokens, error % |")
    print("|---|---|---|---|")
    for item in found.comparisons:
        if item.unseen is None:
            print(f"| `{item.law}` | {item.problem} | | |")
            continue
        later = "" if item.later is None else f"{item.later.relative_error.mean() * 100:.2f}"
        rank = item.unseen.spearman_of_mean
        print(
            f"| `{item.law}` | {item.unseen.relative_error.mean() * 100:.2f} | {rank:.3f} "
            f"| {later} |"
        )
        if item.law not in DUMMIES:
            ranks[item.law] = rank
    best = max(ranks, key=lambda name: ranks[name])
    print(f"\nbest ranking of mixtures left out: {best}", flush=True)
    return best


def show_extrapolation(runs: RunTable, later: float) -> None:
    """Each run's last checkpoint from those before it, by BiMix's curve in tokens.

    From the checkpoints beyond that share of the run's tokens, and at least five.
    """
    errors, constant = [], []
    names = np.array(runs.runs)
    for run in dict.fromkeys(runs.runs):
        rows = np.flatnonzero(names == run)
        order = rows[np.argsort(runs.tokens[rows])]
        beyond = order[runs.tokens[order] >= later * runs.tokens[order[-1]]]
        used = order[-1 - LEAST_SEEN :] if not later or len(beyond) <= LEAST_SEEN else beyond
        seen, last = runs.take(used[:-1]), runs.take(used[-1:])
        for target in range(len(runs.targets)):
            losses, truth = seen.losses[:, target], last.losses[0, target]
            predicted = fit_curve(seen.tokens, losses).predict(last.tokens)[0]
            errors.append(abs(predicted / truth - 1))
            constant.append(abs(losses[-1] / truth - 1))
    print(
        f"\nBiMix to the last checkpoint of each run, {last.tokens[0] / seen.tokens[-1]:.2f} times "
        f"the tokens before it: error {np.mean(errors):.3%} (mean), {np.median(errors):.3%} "
        f"(median), {np.max(errors):.3%} (worst of {len(errors)}); the checkpoint before it, "
        f"unchanged: {np.mean(constant):.3%}",
        flush=True,
    )


def show_validation(found: dict[str, object], law: str) -> None:
    size = found["sizes"][0]  # type: ignore[index]
    named = f"law {law}" if found["method"] == "law" else found["method"]
    print(f"\n{named}: {size['verdict']}; {size['prediction']}")
    domains = list(size["candidates"]["recommended"]["loss"])
    print(f"\n| mixture | shares % | {' | '.join(domains)} | mean | recommended minus it |")
    print("|---" * (len(domains) + 4) + "|")
    for name in size["ranking"]:
        row = size["candidates"][name]
        shares = " ".join(f"{100 * w:.1f}" for w in found["weights"][name].values())  # type: ignore[index]
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
