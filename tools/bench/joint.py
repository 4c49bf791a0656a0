"""The joint law on public and on synthetic run tables.

Run as `python tools/bench/joint.py --data DIR`, where DIR holds RegMix's and olmix's tables. The
synthetic tables have mixtures of 5 to 20 domains, several token counts and model sizes, a first
checkpoint in warm-up, 0.1 % noise, and losses by laws that are not the joint law's.
`--stride 4` takes every fourth task of olmix's, `--folds 2` the first two of its five folds.
`--only sizes` predicts RegMix's 1B runs from runs of 1M, of 60M and from a few of their own.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from curate.laws.fitting.features import run_folds
from curate.laws.forms.additive import fit_additive
from curate.laws.forms.bimix import fit_bimix
from curate.laws.forms.dummies import fit_mean
from curate.laws.forms.joint import fit_joint
from curate.laws.law import Array, RunTable
from curate.laws.run_tables.read import read_runs
from curate.laws.scores import score, spearman

NOT_USED = ("qasper_yesno", "sciriff_yesno", "lab_bench_dbqa", "lab_bench_protocolqa", "medqa_en")
"""Tasks that olmix's own configuration drops; MMLU's 57 subjects are averaged to one task."""


@dataclass(frozen=True)
class Case:
    """A synthetic table."""

    form: str
    domains: int = 7
    mixtures: int = 61
    checkpoints: int = 10
    sizes: int = 6
    concentration: float = 2.0
    seed: int = 0


CASES = (
    Case("transfer"),
    Case("bimix"),
    Case("exponential"),
    Case("additive"),
    Case("transfer", domains=16, mixtures=60, checkpoints=8, sizes=1, concentration=0.5),
    Case("additive", domains=5, mixtures=24, checkpoints=6, sizes=2),
    Case("exponential", domains=20, mixtures=200, checkpoints=5, sizes=1, concentration=0.5),
)


def synthetic(case: Case) -> RunTable:
    """Losses by the case's form, with 0.05 % of noise between runs and 0.1 % between rows."""
    rng = np.random.default_rng(case.seed)
    count = case.domains
    shares = rng.dirichlet(np.full(count, case.concentration), case.mixtures)
    place = np.indices((case.mixtures, case.sizes, case.checkpoints)).reshape(3, -1)
    weights = shares[place[0]]
    params = np.geomspace(1.2e8, 2.7e9, 6)[place[1]]
    billions = 0.2 * (place[2] + 1.0)
    transfer = np.exp(rng.normal(-2.2, 0.8, (count, count)))
    np.fill_diagonal(transfer, 1)
    useful = weights @ transfer.T
    floor, fall = rng.uniform(1.2, 2.4, count), rng.uniform(0.25, 0.4, count)
    losses = floor + rng.uniform(80, 300, count) * params[:, None] ** -0.32
    if case.form == "transfer":
        losses += 0.3 * (billions[:, None] * useful) ** -fall
    elif case.form == "bimix":
        own = np.maximum(weights, 1e-3) ** -rng.uniform(0.02, 0.12, count)
        losses = losses * own * (1 + 0.15 * billions[:, None] ** -fall)
    elif case.form == "exponential":
        slopes = rng.normal(0, 0.5, (count, count)) - np.diag(rng.uniform(0.6, 2.4, count))
        losses += 0.5 * np.exp(weights @ slopes.T) + 0.2 * billions[:, None] ** -fall
    else:
        powers = rng.uniform(0.1, 0.6, (count, count))
        use = np.exp(rng.normal(0, 0.5, (count, count))) * (1 + 3 * np.eye(count))
        mixed = (use * weights[:, None, :] ** powers).sum(axis=2)
        losses += 1.8 / mixed + 0.2 * billions[:, None] ** -fall * mixed**-0.2
    losses += (place[2] == 0)[:, None] * (0.2 + 0.06 * useful**-0.3)
    run = place[0] * case.sizes + place[1]
    losses *= np.exp(rng.normal(0, 5e-4, (run.max() + 1, count)))[run]
    losses *= np.exp(rng.normal(0, 1e-3, losses.shape))
    names = tuple(f"domain{index}" for index in range(count))
    varied = params if case.sizes > 1 else np.full(len(run), np.nan)
    return RunTable(names, names, tuple(map(str, run)), weights, billions * 1e9, varied, losses)


def errors(law: object, table: RunTable) -> tuple[float, float]:
    """Mean relative error in percent, and R2 of log losses of the worst target."""
    predicted = law.predict(table.weights, table.tokens, table.params)  # type: ignore[attr-defined]
    truth, missed = np.log(table.losses), np.log(predicted) - np.log(table.losses)
    spread = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    worst = float((1 - (missed**2).sum(axis=0) / spread).min())
    return 100 * float(np.mean(np.abs(predicted / table.losses - 1))), worst


def synthetic_tables() -> None:
    """Unseen mixtures, and the last fifth of tokens, of every synthetic case."""
    print("| synthetic table | rows | joint error % | worst R2 | additive error % | mean error % |"
          " last fifth: joint | bimix | fit s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for case in CASES:
        table = synthetic(case)
        held = run_folds(table, 5)[0]
        train, test = table.take(~held), table.take(held)
        started = time.process_time()
        law = fit_joint(train)
        seconds = time.process_time() - started
        joint, worst = errors(law, test)
        others = [errors(fit(train), test)[0] for fit in (fit_additive, fit_mean)]
        late = table.tokens > np.quantile(np.unique(table.tokens), 0.8)
        early, later = table.take(~late), table.take(late)
        ahead = [errors(fit(early), later)[0] for fit in (fit_joint, fit_bimix)]
        print(
            f"| {case.form}, {case.domains} domains, {case.mixtures} x {case.checkpoints} x "
            f"{case.sizes} | {len(train.runs)} | {joint:.3f} | {worst:.4f} | {others[0]:.3f} | "
            f"{others[1]:.3f} | {ahead[0]:.3f} | {ahead[1]:.3f} | {seconds:.0f} |",
            flush=True,
        )


def regmix(data: Path) -> None:
    """512 runs fitted; 256 tested at 1M and 60M, 64 at 1B; Pile-CC from few runs."""

    def table(part: str, scale: str) -> RunTable:
        files = [data / f"regmix/{part}_{kind}_{scale}.csv" for kind in ("mixture", "pile_loss")]
        return read_runs(files)[0]

    train = table("train", "1m")
    tests = {scale: table("test", scale) for scale in ("1m", "60m", "1B")}
    at = train.targets.index("pile_cc")
    started = time.process_time()
    law = fit_joint(train)
    seconds = time.process_time() - started
    print(f"RegMix: fit {seconds:.0f} s of CPU")
    for scale, test in tests.items():
        predicted = law.predict(test.weights, test.tokens, test.params)
        ranks = [
            100 * spearman(test.losses[:, test.targets.index(name)], predicted[:, place])
            for place, name in enumerate(train.targets)
        ]
        print(f"RegMix {scale}: Spearman mean {np.mean(ranks):.2f}, Pile-CC {ranks[at]:.2f}")
        if scale == "1m":
            missed = ((predicted - test.losses) ** 2).sum(axis=0)
            spread = ((test.losses - test.losses.mean(axis=0)) ** 2).sum(axis=0)
            error = 100 * np.mean(np.abs(predicted / test.losses - 1))
            print(f"RegMix 1m: mean R2 {np.mean(1 - missed / spread):.4f}, error {error:.3f} %")
    one = replace(train, targets=("pile_cc",), losses=train.losses[:, [at]])
    test = tests["1m"]
    for runs in (16, 24, 54, 128):
        ranks = []
        for seed in range(5):
            drawn = np.random.default_rng(seed).choice(512, runs, replace=False)
            predicted = fit_joint(one.take(drawn)).predict(test.weights, test.tokens, test.params)
            ranks.append(100 * spearman(test.losses[:, at], predicted[:, 0]))
        print(f"RegMix 1m, Pile-CC from {runs} runs, mean of 5 draws: {np.mean(ranks):.2f}")


SIZES = {"1m": (1e6, 1e9), "60m": (6e7, 1e9), "1B": (1e9, 2.5e10)}
"""RegMix's nominal parameters and tokens."""
DRAWS = 3


def regmix_sizes(data: Path) -> list[RunTable]:
    """RegMix's runs of each size, the domains and targets in one order."""
    tables = []
    for scale, (params, tokens) in SIZES.items():
        split = "train" if scale == "1m" else "test"
        files = [data / f"regmix/{split}_{kind}_{scale}.csv" for kind in ("mixture", "pile_loss")]
        table = read_runs(files, far_runs="keep")[0]
        domains, targets = tuple(sorted(table.domains)), tuple(sorted(table.targets))
        tables.append(replace(
            table, domains=domains, targets=targets,
            weights=table.weights[:, [table.domains.index(name) for name in domains]],
            losses=table.losses[:, [table.targets.index(name) for name in targets]],
            tokens=np.full(len(table.runs), tokens), params=np.full(len(table.runs), params),
        ))  # fmt: skip
    return tables


def sizes(data: Path) -> None:
    """Predict 1B runs, means of three draws; the rank of Pile-CC is the paper's mark."""
    tables = regmix_sizes(data)
    print("| runs of 1M | 60M | 1B | error % | R2 of deviations | worst | Spearman | Pile-CC "
          "| fit s |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    for large in (8, 24):
        for small, medium in ((0, 0), (0, 64), (512, 0), (512, 64)):
            figures, seconds = [], 0.0
            for seed in range(DRAWS):
                drawn = [np.random.default_rng(seed).permutation(len(part.runs)) for part in tables]
                taken = [part.take(order[:count]) for part, order, count in
                         zip(tables, drawn, (small, medium, large), strict=True)]  # fmt: skip
                test = tables[2].take(drawn[2][large:])
                train = joined([part for part in taken if part.runs])
                started = time.process_time()
                law = fit_joint(train)
                seconds += (time.process_time() - started) / DRAWS
                marks = score(test, law.predict(test.weights, test.tokens, test.params))
                figures.append([
                    100 * marks.relative_error.mean(), marks.r2.mean(), marks.r2.min(),
                    100 * marks.spearman.mean(),
                    100 * marks.spearman[test.targets.index("pile_cc")],
                ])  # fmt: skip
            error, r2, worst, rank, crawl = np.mean(figures, axis=0)
            print(f"| {small} | {medium} | {large} | {error:.2f} | {r2:.3f} | {worst:.3f} | "
                  f"{rank:.1f} | {crawl:.1f} | {seconds:.1f} |", flush=True)  # fmt: skip


def joined(parts: list[RunTable]) -> RunTable:
    """Stack tables of the same domains and targets."""
    stacked = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("weights", "tokens", "params", "losses")
    }
    runs = tuple(f"{place}-{run}" for place, part in enumerate(parts) for run in part.runs)
    return replace(parts[0], runs=runs, **stacked)


def olmix_tasks(table: RunTable) -> Array:
    """Losses of the tasks in use, MMLU's subjects averaged, shape (rows, 49)."""
    mmlu = np.array([name.startswith("mmlu_") for name in table.targets])
    unused = np.array([name.startswith(NOT_USED) for name in table.targets])
    subjects = table.losses[:, mmlu].mean(axis=1, keepdims=True)
    return np.concatenate([table.losses[:, ~mmlu & ~unused], subjects], axis=1)


def olmix(data: Path, stride: int, folds: int) -> None:
    """Cross-validated mean over tasks."""
    for name in ("dclm", "full_recomputation"):
        files = [data / f"olmix/{name}_{kind}.csv" for kind in ("ratios", "metrics")]
        table, _ = read_runs(files)
        losses = olmix_tasks(table)[:, ::stride]
        names = tuple(map(str, range(losses.shape[1])))
        table = replace(table, targets=names, losses=losses)
        predicted = np.full(losses.shape, np.nan)
        for held in run_folds(table, 5)[:folds]:
            law = fit_joint(table.take(~held))
            predicted[held] = law.predict(
                table.weights[held], table.tokens[held], table.params[held]
            )
        done = np.isfinite(predicted).all(axis=1)
        truth, guess = losses[done].mean(axis=1), predicted[done].mean(axis=1)
        r2 = 1 - ((guess - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()
        print(f"olmix {name}: {losses.shape[1]} tasks, {done.sum()} rows, Spearman of the mean "
              f"{100 * spearman(truth, guess):.2f}, R2 {r2:.4f}", flush=True)  # fmt: skip


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", choices=("synthetic", "regmix", "olmix", "sizes"))
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--folds", type=int, default=5)
    options = parser.parse_args()
    if options.only in (None, "synthetic"):
        synthetic_tables()
    if options.only in (None, "regmix"):
        regmix(options.data)
    if options.only in (None, "olmix"):
        olmix(options.data, options.stride, options.folds)
    if options.only in (None, "sizes"):
        sizes(options.data)


if __name__ == "__main__":
    main()
