"""Fits that are kept: only for the same law and content, and without their tables."""

from __future__ import annotations

import gc
import weakref
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from curate.laws import LAWS
from curate.laws.fit_once import fit_once
from curate.laws.law import RunTable

RIDGE = LAWS["ridge"]


def planted(count: int = 12) -> RunTable:
    weights, ones = np.random.default_rng(0).dirichlet(np.ones(3), count), np.ones(count)
    losses = 2 + np.exp(-weights @ np.array([[1.0, 2.0], [3.0, 0.5], [0.5, 2.0]]))
    runs = tuple(f"r{run}" for run in range(count))
    return RunTable(("a", "b", "c"), ("x", "y"), runs, weights, 1e8 * ones, 1e6 * ones, losses)


OTHERS: dict[str, Any] = {
    "domains": ("a", "b", "d"),
    "targets": ("x", "z"),
    "runs": ("r0", *(f"r{run}" for run in range(11))),
    "weights": planted().weights[::-1],
    "tokens": 2e8 * np.ones(12),
    "params": 2e6 * np.ones(12),
    "losses": planted().losses * 1.5,
    "loss_per_bpb": 1.0,
    "stages": ("pre",),
    "earlier": np.arange(12) < 4,
    "alike": np.eye(3),
}
"""Another value of each field."""


def test_another_value_of_each_field_is_tried() -> None:
    assert set(OTHERS) == {field.name for field in fields(RunTable)}


@pytest.mark.parametrize("field", OTHERS)
def test_a_fit_is_taken_again_for_the_same_content_alone(field: str) -> None:
    fitted = fit_once(RIDGE, planted())
    assert fit_once(RIDGE, planted()) is fitted
    assert fit_once(RIDGE, replace(planted(), **{field: OTHERS[field]})) is not fitted
    assert fit_once(replace(RIDGE, summary="another"), planted()) is not fitted


def test_a_table_may_change_after_its_fit() -> None:
    table = planted()
    fitted = fit_once(RIDGE, table)
    at = (planted().weights, table.tokens, table.params)
    before = fitted.predict(*at)
    table.weights[:] = table.weights[::-1].copy()
    assert fit_once(RIDGE, table) is not fitted
    again = fit_once(RIDGE, planted())
    assert again is fitted and np.array_equal(again.predict(*at), before)


def test_the_table_is_not_kept_with_the_fit() -> None:
    table = planted(20)
    weights = weakref.ref(table.weights)
    fitted = fit_once(LAWS["mean"], table)
    del table
    gc.collect()
    assert weights() is None
    assert fit_once(LAWS["mean"], planted(20)) is fitted
