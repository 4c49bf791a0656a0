"""Trees as words of leaves against LightGBM's own predictions, to the last bit."""

from __future__ import annotations

import lightgbm
import numpy as np
import pytest
from law_tables import mixtures, table_of

from curate.laws.fitting.tree_prediction import forest_of
from curate.laws.forms import boosted
from curate.laws.forms.boosted import SETTINGS, fit_boosted

TOKENS = (1e9, 2e9, 4e9)


def booster(columns: int, leaf_runs: int, seed: int) -> lightgbm.Booster:
    """40 trees of noise over uniform columns, of which one is constant."""
    rng = np.random.default_rng(seed)
    rows = rng.random((150, columns))
    rows[:, -1] = 0.5
    settings = {**SETTINGS, "min_child_samples": leaf_runs, "learning_rate": 0.1}
    return lightgbm.train(settings, lightgbm.Dataset(rows, rng.normal(2, 1, 150)), 40)


@pytest.mark.parametrize(("columns", "leaf_runs"), [(2, 1), (5, 4), (9, 20), (3, 60)])
def test_predictions_are_lightgbms(columns: int, leaf_runs: int) -> None:
    """For rows anywhere, at the very thresholds, and outside what was fitted."""
    models = [booster(columns, leaf_runs, seed) for seed in range(3)]
    forest = forest_of(models)
    rng = np.random.default_rng(columns)
    rows = rng.uniform(-0.2, 1.2, (601, columns))
    for column, known in enumerate(forest.thresholds):
        if len(known):
            rows[:300, column] = rng.choice(known, 300)
    expected = np.stack([model.predict(rows, num_threads=1) for model in models], axis=1)
    assert np.array_equal(forest.predict(rows), expected)
    assert len(np.unique(expected)) > 2
    # A threshold off by one place would be seen: shifted rows give other leaves.
    assert not np.array_equal(forest.predict(rows + 1e-3), expected)


def test_targets_that_nothing_splits() -> None:
    """Trees of a single leaf, among others: their constant."""
    rows = np.random.default_rng(0).random((30, 2))
    settings = {**SETTINGS, "min_child_samples": 20}
    constant = lightgbm.train(settings, lightgbm.Dataset(rows, np.full(30, 3.25)), 5)
    found = forest_of([constant, booster(2, 5, 0)]).predict(rows)
    assert np.array_equal(found[:, 0], np.full(30, 3.25))
    assert np.ptp(found[:, 1]) > 0.1


def test_few_rows_and_many_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """A law predicts the same whether its trees were read or not."""
    table = table_of(mixtures(20, 3, 0), TOKENS)
    law = fit_boosted(table)
    weights = mixtures(700, 3, 1)
    late = np.full(700, 4e9)
    none = np.full(700, np.nan)
    few = law.predict(weights, late, none)
    monkeypatch.setattr(boosted, "ROWS_WORTH_READING", 1)
    assert np.array_equal(law.predict(weights, late, none), few)
