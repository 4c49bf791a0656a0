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
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from curate.laws.forms.joint import fit_joint
from curate.laws.law import Array, FittedLaw, RunTable
from curate.laws.run_tables.lineage import add_domains, carry_over
from curate.laws.run_tables.read import read_runs
from curate.mixture import (
    DomainSupply,
    Evidence,
    MixtureOptions,
    MixtureRequest,
    SearchOptions,
    mix,
)
from curate.mixture.design import draw
from curate.mixture.search.simplex_box import Box
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


UPDATES = {
    "add stack-edu": (("stack-edu",), 64),
    "add papers, maths and PDFs": (("arxiv", "finemath-3plus", "pes2o", "wikipedia", "s2pdf"), 16),
    "divide PDFs by topic": ((), 64),
}
"""Sources that each published update adds, and its new runs. A later revision of the PDFs, and a
source that was dropped again, are in no table."""


@dataclass
class Stage:
    """Domains of an update, and how mixtures of them are mixtures of the 64."""

    domains: tuple[str, ...]
    spread: Array
    """shape (domains, 64), shares of the 64 in each domain."""

    def whole(self, mixtures: Array) -> Array:
        """Return mixtures of the 64."""
        return mixtures @ self.spread


def stage_of(new: RunTable, sources: set[str], divided: bool) -> Stage:
    """List the domains of some sources; PDFs are one domain until they are divided."""
    names, rows = [], []
    natural = new.weights.mean(axis=0)
    for place, name in enumerate(new.domains):
        source = name.partition(":")[0]
        if source in sources and (source != "s2pdf" or divided):
            names.append(name)
            rows.append(np.eye(len(new.domains))[place])
    if "s2pdf" in sources and not divided:
        pdfs = np.array([name.startswith("s2pdf:") for name in new.domains])
        names.append("s2pdf")
        rows.append(np.where(pdfs, natural, 0) / natural[pdfs].sum())
    return Stage(tuple(names), np.array(rows))


def request_of(stage: Stage, new: RunTable, runs: RunTable | None, prior: Array) -> MixtureRequest:
    """Ask for the best mixture of some domains, by `joint`."""
    domains = tuple(
        DomainSupply(name, max(1, round(1e9 * share)), float("inf"))
        for name, share in zip(stage.domains, prior.tolist(), strict=True)
    )
    search = SearchOptions(replicates=0)
    evidence = None if runs is None else Evidence(runs)
    return MixtureRequest(domains, 10**9, "joint", MixtureOptions(search=search), evidence)


def labelled(
    stage: Stage, mixtures: Array, truth: FittedLaw, noise: Array, rng: np.random.Generator
) -> RunTable:
    """Make runs of mixtures, with the losses of the law that stands for the truth."""
    ones = np.ones(len(mixtures))
    losses = truth.predict(stage.whole(mixtures), 2.9e9 * ones, 2.9e7 * ones)
    losses = losses * np.exp(noise * rng.standard_normal(losses.shape))
    targets = tuple(f"task{place}" for place in range(losses.shape[1]))
    runs = tuple(f"{rng.integers(2**60):x}" for _ in mixtures)
    return RunTable(stage.domains, targets, runs, mixtures, 2.9e9 * ones, 2.9e7 * ones, losses)


def updates(old: RunTable, new: RunTable, seed: int) -> None:
    """Add sources in the published order; print the regret of every way to choose a mixture."""
    truth = fit_joint(joined(old, new))
    rng = np.random.default_rng(seed)
    one = np.ones(1)

    def objective(stage: Stage, mixture: Array) -> float:
        whole = stage.whole(mixture[None])
        return float(truth.predict(whole, 2.9e9 * one, 2.9e7 * one).mean())

    def best(stage: Stage, runs: RunTable, prior: Array) -> Array:
        weights = mix(request_of(stage, new, runs, prior)).weights
        return np.array([weights[name] for name in stage.domains])

    topics = stage_of(new, {"dclm"}, False)
    place = [old.domains.index(name) for name in topics.domains]
    evidence = replace(old, domains=topics.domains, weights=old.weights[:, place])
    frozen = topics.whole(best(topics, evidence, new.weights.mean(axis=0)[place])[None])[0]
    sources = {"dclm"}
    print("update | way | new runs | mean task, bits a byte | above the best")
    for name, (added, count) in UPDATES.items():
        sources |= set(added)
        stage = stage_of(new, sources, divided=not added)
        natural = (stage.spread > 0) @ new.weights.mean(axis=0)
        prior = natural / natural.sum()
        every = Box(np.zeros(len(prior)), np.ones(len(prior)))
        drawn = draw(request_of(stage, new, None, prior), every, count, rng)
        runs = labelled(stage, drawn, truth, truth.errors, rng)
        # As published: all domains that stay are one, at the proportions of the last optimum.
        fresh = [
            at
            for at, one_name in enumerate(stage.domains)
            if (one_name.partition(":")[0] in added) or (not added and "s2pdf" in one_name)
        ]
        kept = frozen.copy()
        if not added:
            kept[[domain.startswith("s2pdf:") for domain in new.domains]] = 0
        virtual = Stage(
            ("existing", *(stage.domains[at] for at in fresh)),
            np.vstack([kept / kept.sum(), stage.spread[fresh]]),
        )
        share = 1 - prior[fresh].sum()
        reduced = np.array([share, *prior[fresh]])
        few = Box(np.zeros(len(reduced)), np.ones(len(reduced)))
        drawn = draw(request_of(virtual, new, None, reduced), few, count, rng)
        of_virtual = labelled(virtual, drawn, truth, truth.errors, rng)
        became = (
            {}
            if added
            else {
                "s2pdf": {
                    domain: part
                    for domain, part in zip(
                        new.domains,
                        new.weights.mean(axis=0) * [d.startswith("s2pdf:") for d in new.domains],
                        strict=True,
                    )
                    if part
                }
            }
        )
        became = {
            old_name: {part: share / sum(parts.values()) for part, share in parts.items()}
            for old_name, parts in became.items()
        }
        earlier = add_domains(carry_over(evidence, became), stage.domains)
        half = runs.take(np.arange(count // 2))
        ways = {
            "anew, all": (stage, runs, prior, count),
            "anew, half": (stage, half, prior, count // 2),
            "as published, all": (virtual, of_virtual, reduced, count),
            "as published, half": (
                virtual,
                of_virtual.take(np.arange(count // 2)),
                reduced,
                count // 2,
            ),
            "old runs and half": (stage, joined(earlier, half), prior, count // 2),
        }
        results = {}
        for way, (of, table, of_prior, number) in ways.items():
            chosen = best(of, table, of_prior)
            results[way] = (objective(of, chosen), number)
            if way == "as published, all":
                frozen = of.whole(chosen[None])[0]
        results["anew, 400 exact runs"] = (
            objective(
                stage,
                best(
                    stage,
                    labelled(
                        stage,
                        np.vstack([draw(request_of(stage, new, None, prior), every, 400, rng)]),
                        truth,
                        0 * truth.errors,
                        rng,
                    ),
                    prior,
                ),
            ),
            400,
        )
        least = min(value for value, _ in results.values())
        for way, (value, number) in results.items():
            print(f"{name} | {way} | {number} | {value:.4f} | {value - least:.4f}", flush=True)
        evidence = joined(earlier, half)
        evidence = replace(evidence, earlier=None)


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
    if options.updates:
        for seed in range(options.draws):
            updates(old, new, seed)
    else:
        held_out_runs(old, new, options.draws)


if __name__ == "__main__":
    main()
