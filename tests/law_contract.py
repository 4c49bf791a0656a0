"""What holds for every law, ours or another package's; each check fits the law and asserts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from law_tables import mixtures, table_of

from curate.laws import FittedLaw, Law, RunTable

NAN = float("nan")
TOKENS = (1e9, 2e9, 4e9, 8e9)


@cache
def two_counts() -> RunTable:
    """60 mixtures of 4 domains at two token counts, with 0.1 % noise."""
    return table_of(mixtures(60, 4, 1), TOKENS[:2], noise=0.001)


@cache
def fitted_to_two_counts(law: Law) -> FittedLaw:
    return law.fit(two_counts())


def error_on_unseen(law: Law) -> float:
    """Mean relative error on 40 mixtures that it was not fitted to."""
    unseen = table_of(mixtures(40, 4, 2), TOKENS[:2])
    return error_of(fitted_to_two_counts(law), unseen)


def error_of(fitted: FittedLaw, table: RunTable) -> float:
    predicted = fitted.predict(table.weights, table.tokens, table.params)
    return float(np.abs(predicted / table.losses - 1).mean())


def losses_have_their_shape_and_are_positive(law: Law) -> None:
    table = two_counts()
    losses = fitted_to_two_counts(law).predict(table.weights, table.tokens, table.params)
    assert losses.shape == table.losses.shape
    assert np.isfinite(losses).all() and (losses > 0).all()


def the_row_says_what_it_is(law: Law) -> None:
    assert law.name.isidentifier() and law.summary and law.paper and law.needs


def a_law_is_a_function_of_its_table(law: Law) -> None:
    table = two_counts()
    rows = (table.weights[:9], table.tokens[:9], table.params[:9])
    again = law.fit(table)
    assert np.array_equal(again.predict(*rows), fitted_to_two_counts(law).predict(*rows))


def permuting_domains_changes_no_prediction(law: Law) -> None:
    table, order = two_counts(), [2, 0, 3, 1]
    names = tuple(table.domains[i] for i in order)
    other = law.fit(replace(table, domains=names, weights=table.weights[:, order]))
    weights = mixtures(20, 4, 3)
    tokens, params = np.full(20, 2e9), np.full(20, NAN)
    assert other.predict(weights[:, order], tokens, params) == pytest.approx(
        fitted_to_two_counts(law).predict(weights, tokens, params), rel=2e-4
    )


def the_gradient_is_the_derivative(law: Law) -> None:
    weights = mixtures(6, 4, 4, least=0.05)
    tokens, params = np.full(6, 1.5e9), np.full(6, NAN)
    fitted = fitted_to_two_counts(law)
    slopes = fitted.gradient(weights, tokens, params)
    if slopes is None:
        return
    assert slopes.shape == (6, 4, 4)
    for domain in range(4):
        up, down = weights.copy(), weights.copy()
        up[:, domain] += 1e-5
        down[:, domain] -= 1e-5
        rise = fitted.predict(up, tokens, params) - fitted.predict(down, tokens, params)
        assert slopes[:, :, domain] == pytest.approx(rise / 2e-5, rel=1e-4, abs=1e-6)


def zero_weights_have_finite_losses_and_slopes(law: Law) -> None:
    weights = two_counts().weights.copy()
    weights[:20, 1] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    fitted = law.fit(replace(two_counts(), weights=weights))
    corner = np.eye(4)
    tokens, params = np.full(4, 2e9), np.full(4, NAN)
    assert np.isfinite(fitted.predict(corner, tokens, params)).all()
    slopes = fitted.gradient(corner, tokens, params)
    assert slopes is None or np.isfinite(slopes).all()


def a_domain_never_sampled(law: Law) -> None:
    weights = two_counts().weights.copy()
    weights[:, 2] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    never = replace(two_counts(), weights=weights)
    assert error_of(law.fit(never), never) < 0.08


def fewer_runs_than_parameters(law: Law) -> None:
    few = table_of(mixtures(4, 4, 5))
    fitted = law.fit(few)
    assert error_of(fitted, few) < 0.1
    away = fitted.predict(mixtures(20, 4, 6), np.full(20, NAN), np.full(20, NAN))
    assert np.isfinite(away).all() and away.max() < 3 * few.losses.max()


def identical_mixtures(law: Law) -> None:
    same = table_of(np.repeat(mixtures(1, 4, 7), 50, axis=0), noise=0.01)
    losses = law.fit(same).predict(same.weights, same.tokens, same.params)
    assert losses == pytest.approx(np.repeat([same.losses.mean(axis=0)], 50, axis=0), rel=0.01)


def one_checkpoint_without_tokens_or_sizes(law: Law) -> None:
    single = table_of(mixtures(60, 4, 8))
    assert error_of(law.fit(single), single) < (0.1 if law.dummy else 0.04)


def tokens_and_model_sizes_together(law: Law) -> None:
    rich = table_of(mixtures(25, 4, 9), TOKENS, (1e8, 1e9))
    assert error_of(law.fit(rich), rich) < (0.1 if law.dummy else 0.04)


CONTRACT: tuple[Callable[[Law], None], ...] = (
    the_row_says_what_it_is,
    losses_have_their_shape_and_are_positive,
    a_law_is_a_function_of_its_table,
    permuting_domains_changes_no_prediction,
    the_gradient_is_the_derivative,
    zero_weights_have_finite_losses_and_slopes,
    a_domain_never_sampled,
    fewer_runs_than_parameters,
    identical_mixtures,
    one_checkpoint_without_tokens_or_sizes,
    tokens_and_model_sizes_together,
)
