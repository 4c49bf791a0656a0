"""The data-constrained law against its published numbers, and what a discount must do."""

import math

import numpy as np
import pytest

from curate.mixture.search.repetition import effective_tokens, marginal_value

PARAMETER_DECAY = 5.309743
LOG_A, LOG_B, LOG_E, EXPONENT = 6.255414, 7.3049974, 0.6254804, 0.3526596
"""The published coefficients: Muennighoff et al. 2023, arXiv:2305.16264, Eq. 4-6."""


def data_constrained_loss(params, tokens, unique_tokens):
    """L = E + A / N'^a + B / D'^b, nats per token on C4, with `effective_tokens` for D'."""
    balance = math.exp((LOG_A - LOG_B) / (2 * EXPONENT))  # G; the exponents are equal
    useful = min(params, balance * (min(tokens, unique_tokens) * balance))
    beyond = params / useful - 1
    params_worth = useful - useful * PARAMETER_DECAY * math.expm1(-beyond / PARAMETER_DECAY)
    tokens_worth = float(effective_tokens(np.array(tokens), np.array(unique_tokens)))
    params_term = math.exp(LOG_A) / math.pow(params_worth, EXPONENT)
    return math.exp(LOG_E) + params_term + math.exp(LOG_B) / math.pow(tokens_worth, EXPONENT)


@pytest.mark.parametrize(
    ("params", "tokens", "expected"),
    [(6.34e9, 242e9, 2.2256440889984477), (8.67e9, 178e9, 2.2269634075087867)],
)
def test_losses_of_the_published_models(params, tokens, expected):
    assert abs(data_constrained_loss(params, tokens, 25e9) - expected) < 1e-9


def test_value_of_epochs():
    epochs = np.array([2, 3, 4, 8, 16, 40.0])
    worth = [1.968, 2.875, 3.726, 6.624, 10.582, 15.167]
    assert effective_tokens(epochs, np.array(1.0)).round(3).tolist() == worth
    left = [0.937, 0.878, 0.823, 0.635, 0.377, 0.079]
    assert marginal_value(epochs, np.array(1.0)).round(3).tolist() == left


def test_allocation_of_1e22_operations():
    """The published allocation has the digits of a grid."""
    grid = np.geomspace(2e9, 2e10, 100)
    losses = [data_constrained_loss(size, 1e22 / 6 / size, 25e9) for size in grid]
    params = float(grid[int(np.argmin(losses))])
    tokens = 1e22 / 6 / params
    assert f"{tokens:.4e} {tokens / 25e9:.3f} {params:.4e}" == "2.3734e+11 9.493 7.0224e+09"


def test_discount_is_a_discount():
    rng = np.random.default_rng(0)
    unique = rng.uniform(1, 100, 200)
    tokens = unique * rng.uniform(0, 60, 200)
    worth = effective_tokens(tokens, unique)
    assert np.all(worth <= tokens * (1 + 1e-12))
    assert np.array_equal(worth[tokens <= unique], tokens[tokens <= unique])
    step = 1e-4 * unique
    slope = (effective_tokens(tokens + step, unique) - effective_tokens(tokens, unique)) / step
    assert np.allclose(slope, marginal_value(tokens + step / 2, unique), atol=1e-5)


@pytest.mark.parametrize(("tokens", "unique"), [(-1.0, 1.0), (math.nan, 1.0), (1.0, 0.0)])
def test_discount_refuses(tokens, unique):
    for function in (effective_tokens, marginal_value):
        with pytest.raises(ValueError, match="expected (positive )?finite"):
            function(np.array(tokens), np.array(unique))
