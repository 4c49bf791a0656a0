"""Entropies of a sample of documents with 95 % intervals.

Documents are resampled, never tokens: they are dealt into groups, and each group is left out in
turn (delete-a-group jackknife). Resampling does not show the error of the bias correction, so the
interval adds it: a share of the correction, half of the change between a quarter of the sample and
the whole, half of the correction for bursts within documents, and, where the two estimates of the
conditional entropy are far apart, a share of their distance.
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
"""Standard error of a bias correction, as a share of the correction. With these, intervals cover
the truth in 90 to 99 % of synthetic sources; see tools/bench/entropy.py."""

END_DOUBT, FAR_NATS = 1.3, 4.0
"""Standard error of the position w between the two `Ends`, as a share of w (1 - w) times their
distance, and the distance in nats from which it counts in full; below, it counts in proportion. It
is 0 where one end is taken and largest half way: at 10^4 tokens, sources with more symbols than
tokens leave the ends up to 7 nats apart, and intervals without this term cover 82 %. These numbers
and the shares above were fitted on trials 0 to 299 of the bench; published results are of later
trials."""

BURST_DOUBT = 0.5
"""Standard error of the correction for bursts, as a share of it; see `conditional.BURST_SHARE`."""

FEW_TOKENS = 5_000
"""Smaller samples cannot choose between the ends: up to half the distance of the ends is added to
the error, in proportion to the tokens that are missing."""


@dataclass(frozen=True, slots=True)
class EntropyReport:
    """Shannon, joint and conditional entropy of one sample; JE = SE + CE exactly."""

    shannon: Estimate
    joint: Estimate
    conditional: Estimate
    detail: Conditional
    """Parts of the conditional entropy."""


def entropy_report(sample: PairSample) -> EntropyReport:
    """Estimate entropies of a sample of documents, bias corrected, with intervals.

    Args:
        sample: The documents' tokens; see `bigram_sample.draw_pairs`.
    """
    detail = conditional(sample)
    nats = detail.nats
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
        conditional_replicates.append(ends(counts, detail.ends.fits).at(detail.lift_share))
    shannon_bias = math.hypot(
        CORRECTION_DOUBT["shannon"] * (shannon - plugin(margin)),
        (shannon - _part_shannon(sample)) / 2,
    )
    apart = detail.ends.lift - detail.ends.pairs
    between = detail.lift_share * (1 - detail.lift_share) * apart * min(1.0, abs(apart) / FAR_NATS)
    conditional_bias = math.hypot(
        CORRECTION_DOUBT["conditional"] * (nats - detail.plugin),
        detail.drift / 2,
        BURST_DOUBT * detail.bursts,
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
        detail,
    )  # fmt: skip


def _part_shannon(sample: PairSample) -> float:
    """Average the Shannon entropy over quarters of the documents."""
    part_of = sample.group(PARTS)
    values, tokens = [], []
    for part in range(PARTS):
        counts = sample.counts(sample.totals(part_of == part))
        if counts.tokens:
            values.append(unseen(counts.first_margin()))
            tokens.append(counts.tokens)
    return float(np.average(values, weights=tokens)) if values else 0.0


def convergence(sample: PairSample, halvings: int = 5) -> list[dict[str, float]]:
    """Repeat the default and the plug-in estimates on ever larger parts of a sample.

    Args:
        sample: The documents' tokens.
        halvings: Number of times that the sample is halved for the smallest part.

    Returns:
        Rows, smallest part first, of `sample_tokens` and, in nats, `shannon`, `shannon_plugin`,
        `conditional`, `conditional_plugin` and both ends of the conditional entropy.
    """
    rows = []
    for halving in range(halvings, -1, -1):
        part = sample.prefix(sample.tokens >> halving)
        if not part.tokens:
            continue
        margin = part.counts(part.totals()).first_margin()
        detail = conditional(part)
        rows.append(
            {
                "sample_tokens": part.tokens,
                "shannon": unseen(margin),
                "shannon_plugin": plugin(margin),
                "conditional": detail.nats,
                "conditional_plugin": detail.plugin,
                "conditional_pairs": detail.ends.pairs,
                "conditional_lift": detail.ends.lift,
            }
        )
    return rows
