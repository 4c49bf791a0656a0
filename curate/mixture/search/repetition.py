"""The value of repeated tokens, by the data-constrained scaling law.

The law was fitted to runs on one corpus. Applying its discount to each domain of a mixture is our
extension. Runs on mixtures show that a scarce domain beside plenty of other text tolerates more
repetition than this allows, so it errs on the side of fewer epochs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TOKEN_DECAY_EPOCHS = 15.387756
"""R*_D: repetitions after which the value of one more has fallen to 1/e. arXiv:2305.16264."""


def effective_tokens(tokens: Array, unique_tokens: Array) -> Array:
    """Convert tokens seen to the number of unique tokens they are worth.

    D' = U + U R* (1 - exp(-R / R*)), with R = D / U - 1 repetitions; D' = D for D <= U.

    Args:
        tokens: Tokens seen, repeats counted; non-negative, any shape.
        unique_tokens: Tokens of supply, positive; a shape that broadcasts.

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
    """Value of the next token as a share of a new one: exp(-R / R*); 1 before any repeat.

    This is the derivative of `effective_tokens` by `tokens`; see there for arguments and errors.

    Example:
        >>> marginal_value(np.array([0.5, 2.0, 40.0]), np.array(1.0)).round(3)
        array([1.   , 0.937, 0.079])
    """
    _check(tokens, unique_tokens)
    return np.asarray(np.exp(-np.maximum(tokens / unique_tokens - 1, 0) / TOKEN_DECAY_EPOCHS))


def _check(tokens: Array, unique_tokens: Array) -> None:
    seen, unique = np.asarray(tokens), np.asarray(unique_tokens)
    if not np.all(np.isfinite(seen) & (seen >= 0)):
        raise ValueError(f"expected finite tokens of at least 0, got {seen}")
    if not np.all(np.isfinite(unique) & (unique > 0)):
        raise ValueError(f"expected positive finite unique tokens, got {unique}")
