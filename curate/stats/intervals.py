"""Entropies of a sample of documents with 95 % intervals.

What is resampled is documents, never tokens: they are dealt into groups, and each group is left
out in turn (delete-a-group jackknife). To the spread this gives, the interval adds what no
resampling shows, the doubt about the bias correction itself: a share of its size, half of what the
estimate still moves between a quarter of the sample and the whole, half of what was added for
bursts within documents, and, where the conditional entropy lies between two ends that are far
apart, a share of the way to them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from curate.stats.bigram_sample import PairSample
from curate.stats.conditional import PARTS, Conditional, conditional, ends
from curate.stats.estimate import GROUPS, Estimate, estimate
from curate.stats.estimators import plugin
from curate.stats.unseen_species import unseen

CORRECTION_DOUBT = {"shannon": 0.05, "conditional": 0.02}
"""Standard error of a bias correction, as a share of the correction. Chosen so that intervals cover
the truth in 90 to 99 % of synthetic sources; see tools/bench/entropy.py."""

END_DOUBT, FAR_NATS = 1.3, 4.0
"""Standard error of the place between the ends of `Conditional`, as a share of w (1 - w) times
their distance, and the distance from which that counts in full, in proportion below. Nothing where
one end is taken, most where the sample cannot tell: at 10^4 tokens, sources with more symbols than
tokens leave the ends up to 7 nats apart, and intervals without it cover 82 %. Both numbers and the
share above were chosen on trials 0 to 299 of the bench; what README reports are later ones."""

BURST_DOUBT = 0.5
"""Standard error of what is added for bursts, as a share of it; see `conditional.BURST_SHARE`."""

FEW_TOKENS = 5_000
"""Below, the sample cannot choose between the ends at all: in proportion to what is missing, half
their distance is added to the doubt."""


@dataclass(frozen=True, slots=True)
class EntropyReport:
    """Shannon, joint and conditional entropy of one sample; JE = SE + CE exactly."""

    shannon: Estimate
    joint: Estimate
    conditional: Estimate
    detail: Conditional
    """What the conditional entropy rests on."""


def entropy_report(sample: PairSample) -> EntropyReport:
    """Entropies of a sample of documents, bias corrected, with intervals.

    Args:
        sample: The documents' tokens; see `bigram_sample.draw_pairs`.
    """
    found = conditional(sample)
    nats = found.nats
    whole = sample.totals()
    margin = sample.counts(whole).first_margin()
    shannon = unseen(margin)
    groups = min(GROUPS, sample.blocks)
    group_of = sample.group(groups)
    shannon_replicates: list[float] = []
    conditional_replicates: list[float] = []
    for group in range(groups):
        counts = sample.counts(whole - sample.totals(group_of == group))
        shannon_replicates.append(unseen(counts.first_margin()))
        conditional_replicates.append(ends(counts, found.ends).at(found.lift_share))
    shannon_bias = math.hypot(
        CORRECTION_DOUBT["shannon"] * (shannon - plugin(margin)),
        (shannon - _part_shannon(sample)) / 2,
    )
    apart = found.ends.lift - found.ends.pairs
    between = found.lift_share * (1 - found.lift_share) * apart * min(1.0, abs(apart) / FAR_NATS)
    conditional_bias = math.hypot(
        CORRECTION_DOUBT["conditional"] * (nats - found.plugin),
        found.drift / 2,
        BURST_DOUBT * found.bursts,
        END_DOUBT * between,
        apart / 2 * max(0.0, 1 - sample.tokens / FEW_TOKENS),
    )
    joint_replicates = [
        a + b for a, b in zip(shannon_replicates, conditional_replicates, strict=True)
    ]
    tokens = sample.tokens
    return EntropyReport(
        estimate(shannon, shannon_replicates, shannon_bias, "unseen", tokens),
        estimate(
            shannon + nats, joint_replicates, math.hypot(shannon_bias, conditional_bias),
            "unseen+stationary", tokens,
        ),
        estimate(nats, conditional_replicates, conditional_bias, "stationary", tokens),
        found,
    )  # fmt: skip


def _part_shannon(sample: PairSample) -> float:
    """Mean Shannon entropy of the quarters of the documents."""
    part_of = sample.group(PARTS)
    values, tokens = [], []
    for part in range(PARTS):
        counts = sample.counts(sample.totals(part_of == part))
        if counts.tokens:
            values.append(unseen(counts.first_margin()))
            tokens.append(counts.tokens)
    return float(np.average(values, weights=tokens)) if values else 0.0


def convergence(sample: PairSample, halvings: int = 5) -> list[dict[str, float]]:
    """The default and the plug-in on ever larger parts of a sample, smallest first.

    Args:
        sample: The documents' tokens.
        halvings: Times the sample is halved.

    Returns:
        Rows of `sample_tokens` and, in nats, `shannon`, `shannon_plugin`, `conditional`,
        `conditional_plugin` and both ends of the conditional entropy.
    """
    rows = []
    for halving in range(halvings, -1, -1):
        part = sample.prefix(sample.tokens >> halving)
        if not part.tokens:
            continue
        margin = part.counts(part.totals()).first_margin()
        found = conditional(part)
        rows.append(
            {
                "sample_tokens": part.tokens,
                "shannon": unseen(margin),
                "shannon_plugin": plugin(margin),
                "conditional": found.nats,
                "conditional_plugin": found.plugin,
                "conditional_pairs": found.ends.pairs,
                "conditional_lift": found.ends.lift,
            }
        )
    return rows
