"""Reuse runs on earlier domains, on Olmix's published tables.

Run as `python tools/studies/reuse.py --data DIR`, where DIR holds `olmix/`. 127 runs on 24 topics
of DCLM come first; then 40 sources are added (stack-edu, papers and maths, topics of PDFs), on
which there are 512 runs of 64 domains. Three eighths of those are held out. Laws are fitted to few
new runs, with the old ones and without, and rank the held-out runs by their mean task.

With `--updates` the sources are added in the published order, and each way to choose a mixture is
judged by a law of all 639 runs, which also labels new runs (with the noise of its own errors).
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from curate.laws.forms.joint import fit_joint
from curate.laws.law import FittedLaw, RunTable
from curate.laws.run_tables.lineage import add_domains, carry_over
from curate.laws.run_tables.read import read_runs
from curate.runtime.threads import one_blas_thread

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
from joint import olmix_tasks

HELD_OUT = 0.375
NEW_RUNS = (24, 48, 96, 192)


def read_tables(data: Path, stride: int) -> tuple[RunTable, RunTable]:
    """Read the old table, under the names of the new one, and the new one; every few tasks."""
    tables = []
    for name in ("dclm", "full_recomputation"):
        files = [data / f"olmix/{name}_{kind}.csv" for kind in ("ratios", "metrics")]
        table = read_runs(files, far_runs="keep")[0]
        losses = olmix_tasks(table)[:, ::stride]
        targets = tuple(f"task{place}" for place in range(losses.shape[1]))
        runs = tuple(f"{name} {run}" for run in table.runs)
        ones = np.ones(len(runs))
        tables.append(replace(table, targets=targets, runs=runs, losses=losses,
                              tokens=2.9e9 * ones, params=2.9e7 * ones))  # fmt: skip
    old, new = tables
    became = {topic: {f"dclm:{topic}": 1.0} for topic in old.domains}
    return add_domains(carry_over(old, became), new.domains), new


def joined(first: RunTable, second: RunTable) -> RunTable:
    """Put two tables of the same domains below each other."""
    order = [first.domains.index(name) for name in second.domains]
    return replace(
        second,
        runs=(*first.runs, *second.runs),
        weights=np.vstack([first.weights[:, order], second.weights]),
        tokens=np.concatenate([first.tokens, second.tokens]),
        params=np.concatenate([first.params, second.params]),
        losses=np.vstack([first.losses, second.losses]),
        earlier=np.arange(len(first.runs) + len(second.runs)) < len(first.runs),
    )


def as_one_domain(table: RunTable, old_domains: tuple[str, ...]) -> RunTable:
    """Take the old domains for one, as Olmix does once their proportions are fixed."""
    return carry_over(table, {name: {"existing": 1.0} for name in old_domains})


def scores(law: FittedLaw, test: RunTable) -> tuple[float, float, float]:
    """Return Spearman and R2 of the mean task, and regret of the run predicted best."""
    from scipy.stats import spearmanr

    predicted = law.predict(test.weights, test.tokens, test.params).mean(axis=1)
    real = test.losses.mean(axis=1)
    missed = ((predicted - real) ** 2).mean() / real.var()
    regret = real[predicted.argmin()] - real.min()
    return float(spearmanr(predicted, real).statistic), float(1 - missed), float(regret)


def held_out_runs(old: RunTable, new: RunTable, draws: int) -> None:
    """Print how well few new runs rank held-out ones, with the old runs and without."""
    most = dict(zip(old.domains, old.weights.max(axis=0), strict=True))
    topics = tuple(name for name in new.domains if most[name] > 0)
    print("new runs | law of | Spearman | R2 | regret, bits a byte | s")
    rows: dict[tuple[int, str], list[tuple[float, float, float]]] = {}
    for seed in range(draws):
        order = np.random.default_rng(seed).permutation(len(new.runs))
        test = new.take(order[: int(HELD_OUT * len(order))])
        pool = order[len(test.runs) :]
        for count in NEW_RUNS:
            few = new.take(pool[:count])
            ways = {
                "new runs": (few, test),
                "old and new runs": (joined(old, few), test),
                "new runs, old domains as one": (
                    as_one_domain(few, topics), as_one_domain(test, topics)
                ),
            }  # fmt: skip
            for name, (train, judged) in ways.items():
                start = time.process_time()
                result = scores(fit_joint(train), judged)
                rows.setdefault((count, name), []).append(result)
                shown = " | ".join(f"{value:.4f}" for value in np.mean(rows[count, name], axis=0))
                seconds = time.process_time() - start
                print(f"{count} | {name} | {shown} | {seconds:.0f}", flush=True)
    result = scores(fit_joint(old), new)
    print("0 | old runs | " + " | ".join(f"{value:.4f}" for value in result))


@one_blas_thread()
def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory with olmix/")
    parser.add_argument("--stride", type=int, default=4, help="every which task")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--updates", action="store_true", help="the published order of updates")
    options = parser.parse_args()
    old, new = read_tables(options.data, options.stride)
    print(f"{len(old.runs)} old runs, {len(new.runs)} new ones, {len(new.targets)} tasks")
    held_out_runs(old, new, options.draws)


if __name__ == "__main__":
    main()
