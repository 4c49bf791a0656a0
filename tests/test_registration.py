"""Another package adds a method, a law, a format, a statistic: one row each, no change here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from law_contract import CONTRACT, two_counts

from curate.laws import LAWS, FittedLaw, Law, RunTable
from curate.laws.crossval import cross_validate
from curate.laws.law import Array

# A law.


@dataclass(frozen=True)
class LogLinearLaw:
    """ln L_i = a_i + sum_j t_ij w_j, the same at every token count."""

    coefficients: Array
    """shape (domains, targets); shares sum to 1, so a_i is in them."""

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        return np.asarray(np.exp(weights @ self.coefficients))

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        return self.predict(weights, tokens, params)[:, :, None] * self.coefficients.T


def fit_log_linear(table: RunTable) -> FittedLaw:
    return LogLinearLaw(np.linalg.lstsq(table.weights, np.log(table.losses), rcond=None)[0])


TOY_LAW = Law("log_linear", "ln loss is linear in the shares", "no paper", "runs", fit_log_linear)


@pytest.fixture
def toy_law() -> Iterator[str]:
    LAWS.add(TOY_LAW)
    yield TOY_LAW.name
    LAWS.remove(TOY_LAW.name)


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_a_law_of_another_package_keeps_the_contract(
    check: Callable[[Law], None], toy_law: str
) -> None:
    check(LAWS[toy_law])


def test_a_law_of_another_package_is_cross_validated_by_name(toy_law: str) -> None:
    comparisons = cross_validate(two_counts(), [toy_law, "bimix"], 3).comparisons
    unseen = {row.law: row.unseen for row in comparisons}
    assert set(unseen) == {"log_linear", "bimix", "mean", "own_share"}
    toy, mean = unseen[toy_law], unseen["mean"]
    assert toy is not None and mean is not None
    assert toy.relative_error.mean() < 0.7 * mean.relative_error.mean()


def test_names_are_registered_once(toy_law: str) -> None:
    with pytest.raises(Exception, match="law 'log_linear' is registered twice; rename one"):
        LAWS.add(replace(TOY_LAW, summary="another"))
