"""Predict experts' losses of any mixture, as columns for a regression on a run table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from curate.errors import MissingEvidence
from curate.laws.likelihoods import Likelihoods
from curate.mixture.search.expert_mixing import Blocks, ExpertsLaw, experts_law

BLOCKS = 4_000
"""Most blocks of a target; an even selection of more. All mixtures see the same blocks, so leaving
some out only shifts the level, which the regression corrects."""


def expert_features(likelihoods: Likelihoods, domains: Sequence[str]) -> ExpertsLaw:
    """Return the experts' losses by token, MDE's, in the order of these domains.

    Experts of other domains get no share.

    Raises:
        MissingEvidence: A domain has no expert.
    """
    absent = [name for name in domains if name not in likelihoods.experts]
    if absent:
        listed, experts = ", ".join(f"'{name}'" for name in absent), ", ".join(likelihoods.experts)
        raise MissingEvidence(
            f"mixture: there is no expert of {listed} (experts: {experts}), which the runs were "
            "trained on. Train one with `curate experts`, rename the domains so that they match, "
            "or take the law without experts, such as ridge for ridge_mde"
        )
    place = [likelihoods.experts.index(name) for name in domains]
    parts = experts_law(likelihoods, "token").parts
    return ExpertsLaw(tuple(_thinned(part, place) for part in parts))


def _thinned(blocks: Blocks, place: Sequence[int]) -> Blocks:
    """Select at most `BLOCKS` blocks evenly, and the experts at these places."""
    count = len(blocks.importance)
    kept = np.linspace(0, count - 1, min(count, BLOCKS)).astype(np.int64)
    importance = blocks.importance[kept] / blocks.importance[kept].sum()
    return Blocks(
        np.ascontiguousarray(blocks.scaled[kept][:, place]),
        blocks.peak_nats[kept],
        importance,
        blocks.tokens_per_block,
    )
