"""RegMix's published numbers from its published tables, and what our laws make of them."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from curate.laws import LAWS
from curate.laws.scores import score
from curate.mixture.search.regmix_simulation import simulate

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
NUMBERS = Path(__file__).parent / "data" / "regmix_optimum.csv"

needs_tables = pytest.mark.skipif(
    not (SHARED / "regmix").is_dir(), reason="RegMix's tables are not beside the checkout"
)


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """The script whose numbers README prints."""
    spec = importlib.util.spec_from_file_location("bench_laws", ROOT / "tools/bench/laws.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def published() -> dict[str, dict[str, float]]:
    with NUMBERS.open(newline="") as file:
        return {
            row["domain"]: {key: float(row[key] or "nan") for key in row if key != "domain"}
            for row in csv.DictReader(file)
        }


@needs_tables
def test_notebook_ranks_and_optimum(bench: ModuleType) -> None:
    numbers = published()
    ranks, optimum = bench.notebook(SHARED, {name: row["prior"] for name, row in numbers.items()})
    assert len(ranks) == 13
    for name, rank in ranks.items():
        assert rank == pytest.approx(numbers[name]["notebook_spearman"], abs=0.01)

    def distance(column: str) -> float:
        return 0.5 * sum(abs(optimum[name] - row[column]) for name, row in numbers.items())

    assert distance("notebook_optimum") < 1e-6
    assert distance("published_mixture") < 0.06
    assert distance("prior") > 0.5  # a dummy fails both


@needs_tables
def test_table_2(bench: ModuleType) -> None:
    cells = bench.table2(SHARED)
    expected = {
        ("linear", "1m"): (90.08, 87.78),
        ("linear", "60m"): (89.26, 86.79),
        ("linear", "1B"): (88.01, 72.57),
        ("lightgbm", "60m"): (98.64, 98.28),
        ("lightgbm", "1B"): (97.12, 94.36),
    }
    for (model, scale), pair in expected.items():
        assert cells[model][scale] == pytest.approx(pair, abs=0.01)


@needs_tables
@pytest.mark.parametrize(
    ("law", "r2", "error"),
    [("gaussian", 0.988, 0.0096), ("additive", 0.98, 0.0126), ("exponential", 0.91, 0.034)],
)
def test_our_laws_on_unseen_mixtures(bench: ModuleType, law: str, r2: float, error: float) -> None:
    train, test = bench.regmix(SHARED, "train_1m"), bench.regmix(SHARED, "test_1m")
    fitted = LAWS[law].fit(train)
    found = score(test, fitted.predict(test.weights, test.tokens, test.params))
    assert found.r2.mean() > r2 and found.relative_error.mean() < error
    dummy = LAWS["own_share"].fit(train)
    bar = score(test, dummy.predict(test.weights, test.tokens, test.params))
    assert bar.r2.mean() < 0.85 and bar.relative_error.mean() > 0.04


def test_simulation_averages_the_best_draws() -> None:
    target = np.array([0.6, 0.3, 0.1])
    found = simulate(lambda w: ((w - target) ** 2).sum(axis=1), np.ones(3), 20_000, 20)
    assert found == pytest.approx(target, abs=0.01) and found.sum() == pytest.approx(1, abs=1e-12)
    with pytest.raises(ValueError, match="best between 1 and draws"):
        simulate(lambda w: w[:, 0], np.ones(2), 10, 11)
    with pytest.raises(ValueError, match="positive finite concentrations"):
        simulate(lambda w: w[:, 0], np.array([1.0, 0.0]))
