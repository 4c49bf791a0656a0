"""Reuse runs on earlier domains, on Olmix's published tables.

Run as `python tools/studies/reuse.py --data DIR`, where DIR holds `olmix/`. 127 runs on 24 topics
of DCLM come first; then 40 sources are added (stack-edu, papers and maths, topics of PDFs), on
which there are 512 runs of 64 domains. Three eighths of those are held out. Laws are fitted to few
new runs, with the old ones and without, and rank the held-out runs by their mean task.

With `--updates` the sources are added in the published order, and each way to choose a mixture is
judged by a law of all 639 runs, which also labels new runs (with the noise of its own errors). As
published: runs and mixture keep the proportions of the domains that stay, which are one domain for
the law. Keep: the same runs and proportions in one law of all runs, old ones among them.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from curate.laws.forms.joint import fit_joint
from curate.laws.law import Array, FittedLaw, RunTable
from curate.laws.run_tables.alike import likeness_of_groups
from curate.laws.run_tables.lineage import add_domains, carry_over
from curate.laws.run_tables.read import read_runs
from curate.mixture import (
    DomainSupply,
    Evidence,
    MixtureOptions,
    MixtureRequest,
    SearchOptions,
)
from curate.mixture.design import draw
from curate.mixture.methods.law_case import make_case
from curate.mixture.methods.law_methods import best_mixture
from curate.mixture.search.objective import Problem
from curate.mixture.search.optimise import optimise
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


TOPICS = {
    "adult": ["*:adult*"],
    "art": ["*:art_*"],
    "code": ["stack-edu:*", "*:software_dev*"],
    "crime": ["*:crime*"],
    "education": ["*:education*"],
    "entertainment": ["*:entertainment"],
    "fashion": ["*:fashion*"],
    "finance": ["*:finance*"],
    "food": ["*:food*"],
    "games": ["*:games"],
    "health": ["*:health"],
    "home": ["*:home*"],
    "industry": ["*:industrial"],
    "literature": ["*:literature"],
    "politics": ["*:politics"],
    "religion": ["*:religion"],
    "science": ["*:science*", "arxiv", "pes2o", "finemath-3plus"],
    "software": ["*:software"],
    "sports": ["*:sports*"],
    "transport": ["*:transportation"],
    "travel": ["*:travel*"],
}
"""Domains of the same topic, whatever their source."""


def likeness(domains: tuple[str, ...]) -> Array:
    """Take domains of the same topic for alike."""
    here = {
        topic: [pattern for pattern in patterns if fnmatch.filter(domains, pattern)]
        for topic, patterns in TOPICS.items()
    }
    return likeness_of_groups({topic: some for topic, some in here.items() if some}, domains, "")


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
    alike = likeness(new.domains)
    print("new runs | law of | Spearman | R2 | regret, bits a byte | s")
    rows: dict[tuple[int, str], list[tuple[float, float, float]]] = {}
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(new.runs))
        shuffled = rng.permutation(len(new.domains))
        test = new.take(order[: int(HELD_OUT * len(order))])
        pool = order[len(test.runs) :]
        for count in NEW_RUNS:
            few = new.take(pool[:count])
            both = joined(old, few)
            ways = {
                "new runs": (few, test),
                "new runs, likeness by topic": (replace(few, alike=alike), test),
                "old and new runs": (both, test),
                "old and new runs, likeness by topic": (replace(both, alike=alike), test),
                "old and new runs, likeness of shuffled names": (
                    replace(both, alike=alike[np.ix_(shuffled, shuffled)]), test
                ),
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


@dataclass(frozen=True)
class Stage:
    """Domains of an update, and how mixtures of them are mixtures of the 64."""

    domains: tuple[str, ...]
    spread: Array
    """shape (domains, 64), shares of the 64 in each domain."""
    prior: Array
    """shape (domains,), natural shares."""

    def whole(self, mixtures: Array) -> Array:
        """Return mixtures of the 64."""
        return mixtures @ self.spread

    def part(self, table: RunTable) -> RunTable:
        """Give runs on the 64 this stage's domains."""
        weights = table.weights @ (self.spread > 0).T
        return replace(table, domains=self.domains, weights=weights)


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
    spread = np.array(rows)
    prior = (spread > 0) @ natural
    return Stage(tuple(names), spread, prior / prior.sum())


def with_existing(stage: Stage, fresh: list[int], kept: Array) -> Stage:
    """Take all domains but the fresh ones for one, at kept proportions, as Olmix does."""
    names = ("existing", *(stage.domains[at] for at in fresh))
    prior = np.array([1 - stage.prior[fresh].sum(), *stage.prior[fresh]])
    return Stage(names, np.vstack([kept, stage.spread[fresh]]), prior)


def request_of(
    stage: Stage, runs: RunTable | None, keep: Mapping[str, float] | None = None
) -> MixtureRequest:
    """Ask for the best mixture of some domains, by `joint`."""
    domains = tuple(
        DomainSupply(name, max(1, round(1e9 * share)), float("inf"))
        for name, share in zip(stage.domains, stage.prior.tolist(), strict=True)
    )
    search = SearchOptions(replicates=0, keep=keep or {})
    evidence = None if runs is None else Evidence(runs)
    return MixtureRequest(domains, 10**9, "joint", MixtureOptions(search=search), evidence)


@dataclass(frozen=True)
class Truth:
    """The law that stands for the truth."""

    law: FittedLaw
    names: tuple[str, ...]
    """The 64 domains."""
    errors: Array
    """shape (tasks,), its errors, the noise of new runs."""

    def losses(self, mixtures: Array) -> Array:
        """Return the tasks of mixtures of the 64."""
        ones = np.ones(len(mixtures))
        return self.law.predict(mixtures, 2.9e9 * ones, 2.9e7 * ones)

    def runs(self, stage: Stage, count: int, rng: np.random.Generator) -> RunTable:
        """Draw runs of a stage, on the 64."""
        every = Box(np.zeros(len(stage.domains)), np.ones(len(stage.domains)))
        weights = stage.whole(draw(request_of(stage, None), every, count, rng))
        losses = self.losses(weights)
        losses = losses * np.exp(self.errors * rng.standard_normal(losses.shape))
        ones = np.ones(count)
        names = tuple(f"{rng.integers(2**60):x}" for _ in range(count))
        tasks = tuple(f"task{place}" for place in range(losses.shape[1]))
        return RunTable(self.names, tasks, names, weights, 2.9e9 * ones, 2.9e7 * ones, losses)

    def chosen(self, stage: Stage, runs: RunTable, keep: Mapping[str, float]) -> list[Array]:
        """Choose the best mixtures of the 64 by the runs: that keeps proportions, and any."""
        case = make_case(("joint", 0.0, False), request_of(stage, runs, keep), runs)
        free = replace(case, problem=replace(case.problem, proportions=None))
        return [stage.whole(best_mixture(one)[None])[0] for one in (case, free)]

    def best(self, stage: Stage, runs: RunTable) -> Array:
        """Choose the best mixture by the runs, of the 64."""
        return self.chosen(stage, stage.part(runs), {})[1]

    def of(self, mixture: Array) -> float:
        """Return the mean task of a mixture of the 64."""
        return float(self.losses(mixture[None]).mean())


def updates(old: RunTable, new: RunTable, draws: int) -> None:
    """Add sources in the published order; print the regret of every way to choose a mixture."""
    law = fit_joint(joined(old, new))
    truth = Truth(law, new.domains, law.errors)
    of_64 = [old.domains.index(name) for name in new.domains]
    old = replace(old, domains=new.domains, weights=old.weights[:, of_64])
    topics = stage_of(new, {"dclm"}, divided=False)
    first = truth.best(topics, old)
    regrets: dict[tuple[str, str], list[float]] = {}
    print("update | way | mean task above the least of all mixtures, bits a byte | each draw")
    for seed in range(draws):
        rng, sources, frozen = np.random.default_rng(seed), {"dclm"}, first
        kept_runs, any_runs = {"all": old, "half": old}, old
        for name, (added, count) in UPDATES.items():
            sources |= set(added)
            stage = stage_of(new, sources, divided=not added)
            fresh = [
                at
                for at, domain in enumerate(stage.domains)
                if domain.partition(":")[0] in (added or ("s2pdf",))
            ]
            gone = [not added and domain.startswith("s2pdf:") for domain in new.domains]
            kept = np.where(gone, 0, frozen)
            kept /= kept.sum()
            virtual = with_existing(stage, fresh, kept)
            keep = {
                domain: float((stage.spread[at] > 0) @ kept)
                for at, domain in enumerate(stage.domains)
                if at not in fresh
            }
            anew, reduced = truth.runs(stage, count, rng), truth.runs(virtual, count, rng)
            half = np.arange(count // 2)
            alike = likeness(stage.domains)
            published = truth.best(virtual, reduced)
            results = {
                "anew, all": truth.best(stage, anew),
                "anew, half": truth.best(stage, anew.take(half)),
                "as published, all": published,
                "as published, half": truth.best(virtual, reduced.take(half)),
            }
            for part, runs in (("all", reduced), ("half", reduced.take(half))):
                table = joined(stage.part(kept_runs[part]), stage.part(runs))
                kept_best, free_best = truth.chosen(stage, table, keep)
                results[f"keep, {part}"] = kept_best
                results[f"runs that keep, free, {part}"] = free_best
                kept_runs[part] = joined(kept_runs[part], runs)
            table = joined(stage.part(any_runs), stage.part(anew.take(half)))
            results["old runs and half anew"] = truth.chosen(stage, table, {})[1]
            likely = replace(table, alike=alike)
            results["old runs and half anew, likeness"] = truth.chosen(stage, likely, {})[1]
            any_runs = joined(any_runs, anew.take(half))
            least = truth.of(truth_optimum(truth, stage))
            for way, mixture in results.items():
                regrets.setdefault((name, way), []).append(truth.of(mixture) - least)
                each = regrets[name, way]
                shown = ", ".join(f"{value:.4f}" for value in each)
                print(f"{name} | {way} | {np.mean(each):.4f} | {shown}", flush=True)
            frozen = published


def truth_optimum(truth: Truth, stage: Stage) -> Array:
    """Return the best mixture of a stage's domains by the truth itself, of the 64."""

    class OfStage:
        def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
            return truth.law.predict(stage.whole(weights), tokens, params)

        def gradient(self, weights: Array, tokens: Array, params: Array) -> Array | None:
            slopes = truth.law.gradient(stage.whole(weights), tokens, params)
            return None if slopes is None else slopes @ stage.spread.T

    count, tasks = len(stage.domains), len(truth.errors)
    every = Box(np.zeros(count), np.ones(count))
    goals = np.full((1, tasks), 1 / tasks)
    problem = Problem(OfStage(), every, goals, 2.9e9, 2.9e7, prior=stage.prior)
    return stage.whole(optimise(problem).weights[None])[0]


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
        updates(old, new, options.draws)
    else:
        held_out_runs(old, new, options.draws)


if __name__ == "__main__":
    main()
