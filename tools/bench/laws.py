"""Laws on public run tables: fitted on one file, tested on another, against published numbers.

Run as `python tools/bench/laws.py --data DIR`, where DIR holds RegMix's and olmix's tables
(`regmix/train_mixture_1m.csv` and so on). Prints what README and the tests state.
"""

from __future__ import annotations

import argparse
import csv
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from curate.laws import LAWS
from curate.laws.forms.boosted import REGMIX_LEAF_RUNS, fit_trees
from curate.laws.forms.ridge import ridge_regression
from curate.laws.law import Array, RunTable
from curate.laws.run_tables.read import read_runs
from curate.laws.scores import score, spearman
from curate.mixture.search.regmix_simulation import simulate

TABLE2_ROWS = slice(128, 1000)
"""Rows of RegMix's longer history that its Table 2 was fitted on; the first 128 stop the trees."""
TABLE2_PENALTY = 0.01


def regmix(data: Path, name: str) -> RunTable:
    """A pair of RegMix's tables, such as `train` `1m`, shares divided by their sum."""
    part, scale = name.split("_")
    return read_runs(
        [
            data / f"regmix/{part}_mixture_{scale}.csv",
            data / f"regmix/{part}_pile_loss_{scale}.csv",
        ]
    )[0]


def as_shipped(table: RunTable, path: Path) -> RunTable:
    """The table with shares as the file has them, rounded, which RegMix's own numbers use."""
    with path.open(newline="") as file:
        rows = {row["index"]: row for row in csv.DictReader(file)}
    columns = [name for name in next(iter(rows.values())) if name != "index"]
    shares = [[float(rows[run][column]) for column in columns] for run in table.runs]
    return replace(table, weights=np.array(shares))


def notebook(data: Path, prior: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Spearman in percent of each target, and the optimum for Pile-CC, as RegMix's notebook."""
    train, test = (
        as_shipped(regmix(data, name), data / f"regmix/{name.split('_')[0]}_mixture_1m.csv")
        for name in ("train_1m", "test_1m")
    )
    fitted = fit_trees(train, REGMIX_LEAF_RUNS, held_out=test)
    predicted = fitted.predict(test.weights, test.tokens, test.params)
    ranks = {
        name: 100 * spearman(test.losses[:, at], predicted[:, at])
        for at, name in enumerate(test.targets)
    }
    trees = fitted.models[test.targets.index("pile_cc")]
    order = list(fitted.order)

    def loss(mixtures: Array) -> Array:
        return np.asarray(trees.predict(mixtures[:, order], num_threads=1))

    weights = simulate(loss, np.array([prior[name] for name in test.domains]))
    return ranks, dict(zip(test.domains, weights.tolist(), strict=True))


def table2(data: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Spearman and Pearson, percent, on Pile-CC: model → test set → both."""
    history, _ = read_runs(
        [
            data / "regmix/history/train_mixture_1m_1000.csv",
            data / "regmix/history/train_pile_loss_1m_1000.csv",
        ],
        ["Pile-CC"],
    )
    history = as_shipped(history, data / "regmix/history/train_mixture_1m_1000.csv")
    rows = np.arange(1000)
    fitted_on, stopped_on = history.take(rows[TABLE2_ROWS]), history.take(rows[:128])
    intercept, slopes = ridge_regression(fitted_on.weights, fitted_on.losses, TABLE2_PENALTY)
    trees = fit_trees(fitted_on, REGMIX_LEAF_RUNS, held_out=stopped_on)
    correlations: dict[str, dict[str, tuple[float, float]]] = {"linear": {}, "lightgbm": {}}
    for scale in ("1m", "60m", "1B"):
        test = as_shipped(regmix(data, f"test_{scale}"), data / f"regmix/test_mixture_{scale}.csv")
        truth = test.losses[:, test.targets.index("pile_cc")]
        linear = (intercept + test.weights @ slopes.T)[:, 0]
        boosted = trees.predict(test.weights, test.tokens, test.params)[:, 0]
        for name, guess in (("linear", linear), ("lightgbm", boosted)):
            pearson = float(np.corrcoef(truth, guess)[0, 1])
            correlations[name][scale] = (100 * spearman(truth, guess), 100 * pearson)
    return correlations


def main() -> None:
    """Print the comparison and the reproductions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--laws", default=",".join(LAWS))
    parser.add_argument("--smoke", action="store_true", help="128 runs and two laws.")
    options = parser.parse_args()
    train, test = regmix(options.data, "train_1m"), regmix(options.data, "test_1m")
    others = {scale: regmix(options.data, f"test_{scale}") for scale in ("60m", "1B")}
    at = test.targets.index("pile_cc")
    names = options.laws.split(",")
    if options.smoke:
        train, names = train.take(np.arange(128)), ["ridge", "mean"]
    print("| law | error % | R2 mean | worst | Spearman | Pile-CC 1M | 60M | 1B | fit s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in names:
        started = time.process_time()
        fitted = LAWS[name].fit(train)
        seconds = time.process_time() - started
        scores = score(test, fitted.predict(test.weights, test.tokens, test.params))
        ranks = [scores.spearman[at]]
        for other in others.values():
            guess = fitted.predict(other.weights, other.tokens, other.params)
            ranks.append(spearman(other.losses[:, at], guess[:, at]))
        print(
            f"| `{name}` | {100 * scores.relative_error.mean():.2f} | {scores.r2.mean():.3f} | "
            f"{scores.r2.min():.3f} | {100 * scores.spearman.mean():.1f} | "
            + " | ".join(f"{100 * rank:.1f}" for rank in ranks)
            + f" | {seconds:.1f} |"
        )
    if not options.smoke:
        for name, cells in table2(options.data).items():
            print(f"RegMix Table 2, {name}: " + ", ".join(
                f"{scale} {rank:.2f}/{pearson:.2f}" for scale, (rank, pearson) in cells.items()
            ))  # fmt: skip


if __name__ == "__main__":
    main()
