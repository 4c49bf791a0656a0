"""Experts' losses of any mixture as columns for a regression, in the order of a run table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.errors import MissingEvidence
from curate.laws.likelihoods import Likelihoods
from curate.mixture.experts import Blocks, blocks_of, scores

Array = NDArray[np.float64]

BLOCKS = 4_000
"""Blocks a target; of more, an even selection. The same ones for every mixture, so what is left out
shifts the level, which the regression corrects."""
CHUNK = 256
"""Mixtures evaluated at once."""


@dataclass(frozen=True, slots=True)
class ExpertFeatures:
    """A law, as `FittedLaw` says it, of the mixed experts' loss on each of their targets."""

    parts: tuple[Blocks, ...]
    """One for each target; columns in the order of the runs' domains."""

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Nats per token, shape (rows, targets); tokens and params play no part."""
        found = np.empty((len(weights), len(self.parts)))
        for first in range(0, len(weights), CHUNK):
            rows = np.maximum(weights[first : first + CHUNK], 0)
            for at, part in enumerate(self.parts):
                with np.errstate(divide="ignore"):
                    logs = np.log(part.scaled @ rows.T)
                level = part.importance @ part.peak_nats
                found[first : first + CHUNK, at] = -(part.importance @ logs + level)
                found[first : first + CHUNK, at] /= part.tokens_per_block
        return found

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Shape (rows, targets, domains)."""
        return np.array(
            [[-scores(part, row) / part.tokens_per_block for part in self.parts] for row in weights]
        )


def expert_features(
    likelihoods: Likelihoods, domains: Sequence[str], level: str | int = "token"
) -> ExpertFeatures:
    """The experts' losses in the order of these domains; other experts get no share.

    Args:
        likelihoods: The experts' log-probabilities.
        domains: Of the runs.
        level: `token`, `document`, or tokens of a chunk; MDE is `token`.

    Raises:
        MissingEvidence: A domain has no expert.
    """
    absent = [name for name in domains if name not in likelihoods.experts]
    if absent:
        listed, known = ", ".join(f"'{name}'" for name in absent), ", ".join(likelihoods.experts)
        raise MissingEvidence(
            f"mixture: there is no expert of {listed} (experts: {known}), which the runs were "
            "trained on. Train one with `curate experts`, rename the domains so that they match, "
            "or take the law without experts, such as ridge for ridge_mde"
        )
    place = [likelihoods.experts.index(name) for name in domains]
    parts = []
    for target in range(len(likelihoods.targets)):
        own = np.flatnonzero(likelihoods.target == target)
        parts.append(_thinned(blocks_of(likelihoods, level, own), place))
    return ExpertFeatures(tuple(parts))


def _thinned(blocks: Blocks, place: Sequence[int]) -> Blocks:
    """An even selection of at most `BLOCKS`, with the experts at these places."""
    count = len(blocks.importance)
    kept = np.linspace(0, count - 1, min(count, BLOCKS)).astype(np.int64)
    importance = blocks.importance[kept] / blocks.importance[kept].sum()
    return Blocks(
        np.ascontiguousarray(blocks.scaled[kept][:, place]),
        blocks.peak_nats[kept],
        importance,
        blocks.tokens_per_block,
    )
