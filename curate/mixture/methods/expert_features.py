"""Experts' losses of any mixture as columns for a regression, in the order of a run table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from curate.errors import MissingEvidence
from curate.laws.likelihoods import Likelihoods
from curate.mixture.search.expert_mixing import Blocks, ExpertsLaw, blocks_of

BLOCKS = 4_000
"""Blocks a target; of more, an even selection. The same ones for every mixture, so what is left out
shifts the level, which the regression corrects."""


def expert_features(
    likelihoods: Likelihoods, domains: Sequence[str], level: str | int = "token"
) -> ExpertsLaw:
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
    return ExpertsLaw(tuple(parts))


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
