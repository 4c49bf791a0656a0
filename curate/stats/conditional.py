"""Estimate the conditional entropy of the next token where most pairs are seen at most once.

Two estimates with opposite biases are combined. The *pairs* estimate, joint minus Shannon by
`unseen`, ignores pairs that the sample lacks: it is too low, and rises with the sample. The *lift*
estimate, entropy of the successor minus mutual information, takes rare pairs for chance: it is too
high, and falls with the sample. The default is the combination that does not move with the sample
size.

Both assume independent draws of tokens. Words come in bursts within a document, so a few documents
look less diverse than their domain. The correction for that is judged by how much worse a model
predicts held-out documents than held-out tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from curate.stats.bigram_sample import PairCounts, PairSample
from curate.stats.cross_entropy import DEAL_SEED, HeldOut, held_out
from curate.stats.estimators import plugin
from curate.stats.mutual_information import NO_FITS, LiftFits, fit_lifts
from curate.stats.unseen_species import unseen

PARTS = 4
"""Number of parts of the sample on which both estimates are repeated to see how they move."""

BURST_SHARE = 0.5
"""Share of the gap of `held_out` that is added for bursts. While both biases are small, the cost on
other documents is as much too high as the cost within the sample is too low (Takeuchi's criterion),
which would make it 1; where most pairs are new, the gap overstates. On samples of a hundredth of
seven corpora the best share was 0.4 to 0.7, and 1.0 on one of short documents
(tools/bench/truncation.py)."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Both estimates of one sample, in nats per token."""

    pairs: float
    lift: float
    shannon: float = 0.0
    """Entropy of the first tokens of the pairs, by `unseen`."""
    fits: LiftFits = field(default=NO_FITS, repr=False, compare=False)
    """Fitted lifts, from which the fit of nearly the same sample can start."""

    @property
    def undecided(self) -> float:
        """Part of the distance between independence and `lift` that the sample cannot tell from 0.

        Where tokens have favourite successors and else follow a common distribution, the lift
        estimate is too low by about half of it.
        """
        return self.fits.undecided_nats

    def at(self, lift_share: float) -> float:
        """Combine the two estimates, with this share of the lift estimate."""
        return lift_share * self.lift + (1 - lift_share) * self.pairs


@dataclass(frozen=True, slots=True)
class Conditional:
    """The default estimate and the numbers it was made from, in nats per token."""

    nats: float
    lift_share: float
    """Share of the lift estimate in it, 0 to 1."""
    ends: Ends
    part_ends: Ends
    """Mean of the ends over the parts."""
    plugin: float
    bursts: float
    """Part of `nats` that was added for bursts within documents."""
    held_out: HeldOut | None
    """Cost under a smoothed model of the other folds; None for a single document."""

    @property
    def drift(self) -> float:
        """Difference of the combination between the parts and the whole."""
        return self.ends.at(self.lift_share) - self.part_ends.at(self.lift_share)


def ends(counts: PairCounts, fits: LiftFits = NO_FITS) -> Ends:
    """Make both estimates from counts of pairs.

    Args:
        counts: Counts of pairs.
        fits: Fits of nearly the same sample to start from.
    """
    if not counts.tokens:
        return Ends(0.0, 0.0)
    shannon = unseen(counts.first_margin)
    by_pairs = unseen(counts.count) - shannon
    information, fits = fit_lifts(counts, fits)
    by_lift = unseen(counts.second_margin) - information
    return Ends(max(0.0, by_pairs), max(0.0, by_lift), shannon, fits)


def conditional_plugin(counts: PairCounts) -> float:
    """Return joint minus Shannon entropy of the frequencies, nats per token."""
    return max(0.0, plugin(counts.count) - plugin(counts.first_margin))


def conditional(sample: PairSample) -> Conditional:
    """Estimate the conditional entropy of the next token given the current one.

    With U(n) the pairs estimate and L(n) the lift estimate on the whole, and their means over
    quarters of the tokens, dealt one by one, at n/4, the stationary estimate is
    w L(n) + (1 - w) U(n) with w, between 0 and 1, such that the same combination at n/4 gives the
    same number. Added to it is `BURST_SHARE` times t G, with G the gap between held-out documents
    and held-out tokens, and t the share of the tokens that their models saw: 0 but for noise where
    documents are drawn from the same source. The result is kept between the plug-in and the cost
    of held-out documents: on tiny samples, the correction can be larger than the bias.

    Args:
        sample: Tokens with their successors.

    References:
        The combination is ours: the delta-squared idea, with two sequences that share a limit;
        `tools/bench/entropy.py` measures it on sources of known entropy. Takeuchi 1976,
        "Distribution of information statistics", for why clustered data bias both sides alike.
    """
    whole = sample.totals()
    counts = sample.counts(whole)
    full = ends(counts)
    part_of = np.random.default_rng(DEAL_SEED).permutation(sample.tokens) % PARTS
    parts = [ends(sample.counts(sample.totals(part_of == part))) for part in range(PARTS)]
    tokens = np.bincount(part_of, minlength=PARTS)
    mean = Ends(_mean([p.pairs for p in parts], tokens), _mean([p.lift for p in parts], tokens))
    share = stationary_share(full, mean)
    low = conditional_plugin(counts)
    held = held_out(sample) if sample.blocks > 1 else None
    bursts = BURST_SHARE * held.train_share * held.gap if held else 0.0
    nats = full.at(share) + bursts
    if held:
        nats = min(nats, held.documents)
    return Conditional(
        nats=max(low, nats), lift_share=share, ends=full, part_ends=mean, plugin=low, bursts=bursts,
        held_out=held,
    )  # fmt: skip


def stationary_share(whole: Ends, part: Ends) -> float:
    """Return the share of the lift estimate that makes the combination equal for both samples.

    Example:
        >>> stationary_share(Ends(pairs=2.0, lift=4.0), Ends(pairs=1.0, lift=5.0))
        0.5
    """
    rise = whole.pairs - part.pairs
    move = rise - (whole.lift - part.lift)
    # If both estimates move alike, or cross, the samples decide nothing: take the middle.
    return min(1.0, max(0.0, rise / move)) if move > 0 else 0.5


def _mean(values: list[float], tokens: NDArray[np.int64]) -> float:
    used = tokens > 0
    return float(np.average(np.array(values)[used], weights=tokens[used])) if used.any() else 0.0
