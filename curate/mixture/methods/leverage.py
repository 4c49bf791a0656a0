"""Mix by the similarity of domains, from ridge leverage scores of their embeddings.

A domain that others resemble has low leverage; pretraining data are taken from there. Any
embeddings will do; the paper takes hidden states of a proxy model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curate.errors import MissingEvidence
from curate.mixture.methods.baselines import check_temperature
from curate.mixture.request import Method, MixtureRequest, Preference
from curate.mixture.simplex import softmax

RIDGE = 10.0
TEMPERATURE = 5.0
"""The paper's settings for pretraining, quoted from its code."""


def leverage(request: MixtureRequest) -> Preference:
    """Choose larger shares for domains that resemble the others.

    `mixture.temperature` replaces the paper's temperature of 5.

    Raises:
        RecipeError: The temperature is not positive.
        MissingEvidence: A domain has no embedding.

    References:
        Chameleon 2025, arXiv:2505.24844; see `leverage_scores` and `pretraining_weights`.

    Differs from the paper:
        The embeddings are means over excerpts of the text, not hidden states of a proxy model.
    """
    heat = request.options.temperature
    heat = TEMPERATURE if heat is None else heat
    check_temperature(heat)
    lacking = [f"'{domain.name}'" for domain in request.domains if not domain.embedding]
    if lacking:
        raise MissingEvidence(
            f"mixture: method 'leverage' needs an embedding of {', '.join(lacking)}. Run `curate "
            "mix RECIPE`, which makes them, or set mixture.method: unimax, which needs none"
        )
    # Sort by embedding, so that rounding does not depend on the order of the domains.
    order = sorted(range(len(request.domains)), key=lambda i: request.domains[i].embedding)
    rows = np.array([request.domains[i].embedding for i in order])
    shares = pretraining_weights(leverage_scores(rows), heat)
    weights = [0.0] * len(order)
    for place, share in zip(order, shares, strict=True):
        weights[place] = share
    return Preference(tuple(weights))


def leverage_scores(embedding: NDArray[np.float64], ridge: float = RIDGE) -> NDArray[np.float64]:
    """Compute the ridge leverage of each domain: the diagonal of K (K + ridge k I)^-1.

    K is the linear kernel of the k centred embeddings, divided by its mean diagonal, so the result
    does not depend on the units of the embedding.

    Args:
        embedding: shape (domains, dimension), one mean embedding a domain.
        ridge: Positive.

    Returns:
        Shape (domains,), each in [0, 1); all zero where all embeddings are equal.

    Raises:
        ValueError: Not a finite matrix with a row, or the ridge is not positive.

    Example:
        >>> scores = leverage_scores(np.array([[1.0, 0], [1.0, 0.1], [0, 5.0]]), ridge=0.1)
        >>> int(scores.argmax())
        2

    References:
        Chameleon 2025, arXiv:2505.24844, and its code.

    Differs from the paper:
        The kernel is scaled to mean diagonal 1 first; in the paper the ridge is absolute, and
        doubling the embedding changes the weights.
    """
    if embedding.ndim != 2 or not len(embedding) or not np.isfinite(embedding).all():
        raise ValueError(f"expected a finite matrix (domains, dimension), got {embedding.shape}")
    if not ridge > 0:
        raise ValueError(f"expected a positive ridge, got {ridge}")
    centred = embedding - embedding.mean(0)
    kernel = centred @ centred.T
    scale = float(np.trace(kernel)) / len(kernel)
    if scale <= 0:
        return np.zeros(len(kernel))
    kernel = kernel / scale
    value, vector = np.linalg.eigh(kernel)
    value = np.maximum(value, 0.0)
    return np.asarray((vector**2) @ (value / (value + ridge * len(kernel))))


def pretraining_weights(
    scores: NDArray[np.float64], temperature: float = TEMPERATURE
) -> list[float]:
    """Compute shares softmax(1 / (T s)), s = score / sum of the scores: typical domains weigh more.

    Shares are often very uneven: of seven domains, one with a twentieth of the scores gets 72 %.
    A higher temperature evens them.

    References:
        Chameleon 2025, arXiv:2505.24844; the division by the sum is in its code only.

    Differs from the paper:
        A score counts as at least a hundredth of the largest. Below that, rounding would decide
        which domain at the centre gets everything; its code adds 1e-12.
    """
    top = float(scores.max(initial=0.0))
    if top <= 0:
        return [1.0 / len(scores)] * len(scores)
    relative = np.maximum(scores, top / 100) / scores.sum()
    return softmax((1 / relative).tolist(), temperature)


LEVERAGE = Method(
    name="leverage",
    summary="more for domains that others resemble, by ridge leverage of mean embeddings",
    paper="Chameleon 2025, arXiv:2505.24844 (kernel scaled to mean diagonal 1)",
    needs="embeddings of excerpts, made when asked for",
    prefer=leverage,
    reads=("temperature",),
    measures=lambda _: ("excerpts",),
)
