"""Entropies of a sample of documents with 95 % intervals.

Documents are resampled, never tokens: they are dealt into groups, and each group is left out in
turn (delete-a-group jackknife). Resampling does not show the error of the bias correction, so the
interval adds it: a share of the correction, half of the change between a quarter of the sample and
the whole, a share of the correction for bursts within documents, and, where the two estimates of
the conditional entropy are far apart, a share of their distance. It also reaches further up by the
bias that is expected to remain: the estimate itself is not moved, so that the order of domains does
not rest on it.
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

SHANNON_DOUBT, PAIRS_DOUBT, LIFT_DOUBT = 0.05, 0.02, 0.004
"""Standard error of a bias correction, as a share of the correction; of the conditional entropy, by
the pairs estimate and by the lift estimate. All numbers here were fitted on trials below 1000 of
tools/bench/entropy.py and tools/bench/entropy_families.py; published results are of later ones."""

END_DOUBT, FAR_NATS = 1.5, 4.0
"""Standard error of the position w between the two `Ends`, as a share of w (1 - w) times their
distance, and the distance in nats from which it counts in full; below, it counts in proportion. It
is 0 where one end is taken and largest half way: at 10^4 tokens, sources with more symbols than
tokens leave the ends up to 7 nats apart, and intervals without this term cover 82 %."""

UNDECIDED_DOUBT = 6.0
"""The same as a share of the square of w (1 - w) times the nats of `Ends.undecided`."""

LOW_CORRECTION, LOW_UNDECIDED, LOW_BETWEEN = 0.013, 0.42, 1.5
"""How far the lift estimate is expected to be low: these shares of the correction, of the undecided
nats, and of the undecided nats times 1 - w. They count by w squared, since sources that need the
pairs estimate show no such bias."""

SETTLED_TOKENS, LOW_UNSETTLED = 100_000, 1.5
"""Below these tokens the position between the ends is chosen too low on sources that back off: at
10^4, the truth is about at the lift end. So it is expected to be higher by this share of w (1 - w)
times the ends' distance, in proportion to the tokens that are missing."""

BURST_DOUBT, BURST_REST = 0.65, 1.0
"""Standard error of the correction for bursts, and what is expected to be missing of it, as shares
of it. Takeuchi's criterion would be 1 more. Where documents draw their frequencies from a Dirichlet
law, 1.2 (strong bursts) to 2 is missing; on real text between -0.2 and 1; see
`conditional.BURST_SHARE`."""

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
    margin = sample.counts(whole).first_margin
    shannon = detail.ends.shannon
    groups = min(GROUPS, sample.blocks)
    group_of = sample.group(groups)
    shannon_replicates: list[float] = []
    conditional_replicates: list[float] = []
    for group in range(groups):
        counts = sample.counts(whole - sample.totals(group_of == group))
        left = ends(counts, detail.ends.fits)
        shannon_replicates.append(left.shannon)
        conditional_replicates.append(left.at(detail.lift_share))
    shannon_bias = math.hypot(
        SHANNON_DOUBT * (shannon - plugin(margin)), (shannon - _part_shannon(sample)) / 2
    )
    doubt, remaining = _conditional_bias(detail, sample.tokens)
    joint_replicates = [
        a + b for a, b in zip(shannon_replicates, conditional_replicates, strict=True)
    ]
    tokens = sample.tokens
    return EntropyReport(
        estimate(shannon, shannon_replicates, shannon_bias, "unseen", tokens),
        estimate(
            shannon + nats, joint_replicates, math.hypot(shannon_bias, doubt),
            "unseen+stationary", tokens,
        ).raised(remaining),
        estimate(nats, conditional_replicates, doubt, "stationary", tokens).raised(remaining),
        detail,
    )  # fmt: skip


def _conditional_bias(detail: Conditional, tokens: int) -> tuple[float, float]:
    """Return the error of the bias correction and the bias that is expected to remain, nats."""
    lift = detail.lift_share
    correction, undecided = detail.nats - detail.plugin, detail.ends.undecided
    apart = detail.ends.lift - detail.ends.pairs
    between = lift * (1 - lift)
    error = math.hypot(
        (lift**2 * LIFT_DOUBT + (1 - lift**2) * PAIRS_DOUBT) * correction,
        detail.drift / 2,
        BURST_DOUBT * detail.bursts,
        END_DOUBT * between * apart * min(1.0, abs(apart) / FAR_NATS),
        UNDECIDED_DOUBT * between**2 * undecided,
        apart / 2 * max(0.0, 1 - tokens / FEW_TOKENS),
    )
    low = LOW_CORRECTION * correction + (LOW_UNDECIDED + LOW_BETWEEN * (1 - lift)) * undecided
    missing = max(0.0, 1 - tokens / SETTLED_TOKENS)
    unsettled = LOW_UNSETTLED * between * max(apart, 0.0) * missing
    return error, lift**2 * low + BURST_REST * detail.bursts + unsettled


def _part_shannon(sample: PairSample) -> float:
    """Average the Shannon entropy over quarters of the documents."""
    part_of = sample.group(PARTS)
    values, tokens = [], []
    for part in range(PARTS):
        counts = sample.counts(sample.totals(part_of == part))
        if counts.tokens:
            values.append(unseen(counts.first_margin))
            tokens.append(counts.tokens)
    return float(np.average(values, weights=tokens)) if values else 0.0


def convergence(
    sample: PairSample, whole: Conditional, halvings: int = 5
) -> list[dict[str, float]]:
    """Repeat the default and the plug-in estimates on ever larger parts of a sample.

    Args:
        sample: The documents' tokens.
        whole: The estimates of the whole sample.
        halvings: Number of times that the sample is halved for the smallest part.

    Returns:
        Rows, smallest part first, of `sample_tokens` and, in nats, `shannon`, `shannon_plugin`,
        `conditional`, `conditional_plugin` and both ends of the conditional entropy.
    """
    rows = []
    for halving in range(halvings, -1, -1):
        part = sample.prefix(sample.tokens >> halving) if halving else sample
        if not part.tokens:
            continue
        detail = conditional(part) if halving else whole
        rows.append(
            {
                "sample_tokens": part.tokens,
                "shannon": detail.ends.shannon,
                "shannon_plugin": plugin(part.counts(part.totals()).first_margin),
                "conditional": detail.nats,
                "conditional_plugin": detail.plugin,
                "conditional_pairs": detail.ends.pairs,
                "conditional_lift": detail.ends.lift,
            }
        )
    return rows
