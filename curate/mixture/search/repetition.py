"""What repeated tokens are worth: the data-constrained scaling law, and its discount of a mixture.

The law was fitted to runs on one corpus. Applying its discount to each domain of a mixture is our
reading; runs on mixtures show that scarce text next to much other text stands more repetition than
this allows, so it errs on the side of fewer epochs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TOKEN_DECAY_EPOCHS = 15.387756
"""R*_D: repetitions after which the value of one more has fallen to 1/e. arXiv:2305.16264."""
PARAMETER_DECAY = 5.309743
"""R*_N, the same for parameters beyond what the unique tokens can use. arXiv:2305.16264."""
LOG_A, LOG_B, LOG_E, EXPONENT = 6.255414, 7.3049974, 0.6254804, 0.3526596
"""Coefficients of the law without repetition; one exponent serves both terms. arXiv:2305.16264."""


def effective_tokens(tokens: Array, unique_tokens: Array) -> Array:
    """How many unique tokens the tokens seen are worth.

    D' = U + U R* (1 - exp(-R / R*)), with R = D / U - 1 repetitions; D' = D for D <= U.

    Args:
        tokens: Tokens seen, repeats counted; non-negative, any shape.
        unique_tokens: Tokens there are, positive; a shape that broadcasts.

    Returns:
        At most `tokens`, and at most (1 + R*) times `unique_tokens`.

    Raises:
        ValueError: A number is negative or not finite, or there are no unique tokens.

    Example:
        >>> effective_tokens(np.array([1.0, 2.0, 4.0]), np.array(1.0)).round(3)
        array([1.   , 1.968, 3.726])

    References:
        Muennighoff et al. 2023, "Scaling Data-Constrained Language Models",
        arXiv:2305.16264, Eq. 5.
    """
    _check(tokens, unique_tokens)
    repetitions = np.maximum(tokens / unique_tokens - 1, 0)
    gained = -np.expm1(-repetitions / TOKEN_DECAY_EPOCHS) * TOKEN_DECAY_EPOCHS
    return np.asarray(np.minimum(tokens, unique_tokens) + unique_tokens * gained)


def marginal_value(tokens: Array, unique_tokens: Array) -> Array:
    """What the next token is worth, as a share of a new one: exp(-R / R*); 1 before any repeat.

    This is the derivative of `effective_tokens` by `tokens`; see there for arguments and errors.

    Example:
        >>> marginal_value(np.array([0.5, 2.0, 40.0]), np.array(1.0)).round(3)
        array([1.   , 0.937, 0.079])
    """
    _check(tokens, unique_tokens)
    return np.asarray(np.exp(-np.maximum(tokens / unique_tokens - 1, 0) / TOKEN_DECAY_EPOCHS))


def data_constrained_loss(params: float, tokens: float, unique_tokens: float) -> float:
    """Loss of a model trained on repeated tokens, by the published coefficients.

    L = E + A / N'^a + B / D'^b, where N' discounts the parameters beyond those that the unique
    tokens would be trained with, as D' discounts the tokens beyond the unique ones.

    Args:
        params: Parameters of the model, positive.
        tokens: Tokens seen, repeats counted, positive.
        unique_tokens: Tokens there are, positive.

    Returns:
        Nats per token on C4 with the GPT-2 tokenizer.

    Raises:
        ValueError: A number is not positive and finite.

    Example:
        >>> round(data_constrained_loss(6.34e9, 242e9, 25e9), 6)
        2.225644

    References:
        Muennighoff et al. 2023, arXiv:2305.16264, Eq. 4-6 and the coefficients of its repository.
    """
    if not all(0 < number < math.inf for number in (params, tokens, unique_tokens)):
        raise ValueError(
            f"expected positive params, tokens and unique tokens, got {params}, {tokens} and "
            f"{unique_tokens}"
        )
    seen = min(tokens, unique_tokens)
    balance = math.exp((LOG_A - LOG_B) / (2 * EXPONENT))  # G; the exponents are equal
    useful = min(params, balance * (seen * balance))
    beyond = params / useful - 1
    params_worth = useful - useful * PARAMETER_DECAY * math.expm1(-beyond / PARAMETER_DECAY)
    tokens_worth = float(effective_tokens(np.array(tokens), np.array(unique_tokens)))
    params_term = math.exp(LOG_A) / math.pow(params_worth, EXPONENT)
    return math.exp(LOG_E) + params_term + math.exp(LOG_B) / math.pow(tokens_worth, EXPONENT)


@dataclass(frozen=True, slots=True)
class Allocation:
    """How to spend a compute budget on limited data."""

    params: float
    tokens: float
    epochs: float
    loss_nats: float


def best_allocation(flops: float, unique_tokens: float) -> Allocation:
    """Parameters and tokens of least loss for 6 N D floating-point operations.

    Golden-section search over ln D, on which the loss has one valley.

    Raises:
        ValueError: A number is not positive and finite.

    Example:
        >>> round(best_allocation(1e22, 25e9).epochs, 2)
        9.49
    """
    if not all(0 < number < math.inf for number in (flops, unique_tokens)):
        raise ValueError(f"expected positive flops and tokens, got {flops} and {unique_tokens}")

    def loss(log_tokens: float) -> float:
        tokens = math.exp(log_tokens)
        return data_constrained_loss(flops / (6 * tokens), tokens, unique_tokens)

    ratio = (math.sqrt(5) - 1) / 2
    low, high = math.log(flops / 6) * 0.02, math.log(flops / 6) * 0.98
    while high - low > 1e-9:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    tokens = math.exp((low + high) / 2)
    params = flops / (6 * tokens)
    return Allocation(
        params, tokens, tokens / unique_tokens, data_constrained_loss(params, tokens, unique_tokens)
    )


def _check(tokens: Array, unique_tokens: Array) -> None:
    seen, unique = np.asarray(tokens), np.asarray(unique_tokens)
    if not np.all(np.isfinite(seen) & (seen >= 0)):
        raise ValueError(f"expected finite tokens of at least 0, got {seen}")
    if not np.all(np.isfinite(unique) & (unique > 0)):
        raise ValueError(f"expected positive finite unique tokens, got {unique}")
