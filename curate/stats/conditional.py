"""Conditional entropy of the next token, for samples in which most pairs are new.

Two estimates with opposite faults are combined. The *pairs* estimate, joint minus Shannon by
`unseen`, knows nothing of tokens it has not seen side by side: it is too low, and rises with the
sample. The *lift* estimate, entropy of the successor minus mutual information, takes for chance
what it has seen too rarely: it is too high, and falls with the sample. The default is the
combination of the two that does not move with the sample size.

Both take tokens for independent draws. Words that come in bursts within a document make the text
of a few documents look poorer than the domain is; what that hides is judged by how much worse a
model does on documents it has not seen than on tokens it has not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from curate.stats.bigram_sample import PairCounts, PairSample
from curate.stats.cross_entropy import DEAL_SEED, HeldOut, held_out
from curate.stats.estimators import plugin
from curate.stats.mutual_information import LiftFit, Octaves, fit_lifts
from curate.stats.unseen_species import unseen

PARTS = 4
"""Parts of the tokens on which both estimates are repeated to see how they move."""

BURST_SHARE = 0.5
"""Share of the gap of `held_out` that is added for bursts. What is paid on other documents is as
much too high as what is found within these is too low, as long as both are small (Takeuchi's
criterion), which makes it 1; where most pairs are new, the gap overstates. On hundredths of seven
corpora it took 0.4 to 0.7, on one of short documents 1.0 (tools/bench/truncation.py)."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Both estimates of one sample, in nats per token."""

    pairs: float
    lift: float
    fits: Mapping[Octaves, LiftFit] = field(default_factory=dict, repr=False, compare=False)
    """Lifts found, to start the fit of nearly the same sample from."""

    def at(self, lift_share: float) -> float:
        """The combination with this much of the lift estimate."""
        return lift_share * self.lift + (1 - lift_share) * self.pairs


@dataclass(frozen=True, slots=True)
class Conditional:
    """The default estimate and what it rests on, in nats per token."""

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
    """What a smoothed model pays on what it has not seen; None for a single document."""

    @property
    def drift(self) -> float:
        """How far the combination moves from a part to the whole."""
        return self.ends.at(self.lift_share) - self.part_ends.at(self.lift_share)


def ends(counts: PairCounts, known: Ends | None = None) -> Ends:
    """Both estimates from counts of pairs, fits starting from those of nearly the same sample."""
    if not counts.tokens:
        return Ends(0.0, 0.0)
    by_pairs = unseen(counts.count) - unseen(counts.first_margin())
    information, fits = fit_lifts(counts, {} if known is None else known.fits)
    by_lift = unseen(counts.second_margin()) - information
    return Ends(max(0.0, by_pairs), max(0.0, by_lift), fits)


def conditional_plugin(counts: PairCounts) -> float:
    """Joint minus Shannon of the frequencies, nats per token."""
    return max(0.0, plugin(counts.count) - plugin(counts.first_margin()))


def conditional(sample: PairSample) -> Conditional:
    """Conditional entropy of the next token given the current one.

    With U(n) the pairs estimate and L(n) the lift estimate on the whole, and their means over
    quarters of the tokens, dealt one by one, at n/4, the stationary estimate is
    w L(n) + (1 - w) U(n) with w, between 0 and 1, such that the same combination at n/4 gives the
    same number. Added to it is `BURST_SHARE` times t G, with G the gap between held-out documents
    and held-out tokens, and t the share of the tokens that their models saw: 0 but for noise where
    documents are drawn from the same source. The result is not let above what the smoothed model
    pays on documents, nor below the plug-in: on tiny samples, the correction can be larger than
    what there is to correct.

    Args:
        sample: Tokens with their successors.

    References:
        None: the combination is ours. It is the delta-squared idea with two sequences that share a
        limit; `tools/bench/entropy.py` measures it on sources of known entropy. Takeuchi 1976,
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
    if sample.blocks < 2:
        return Conditional(max(low, full.at(share)), share, full, mean, low, 0.0, None)
    held = held_out(sample)
    bursts = BURST_SHARE * held.train_share * held.gap
    nats = max(low, min(full.at(share) + bursts, held.documents))
    return Conditional(nats, share, full, mean, low, bursts, held)


def stationary_share(whole: Ends, part: Ends) -> float:
    """Share of the lift estimate in the combination that is equal for both samples.

    Example:
        >>> stationary_share(Ends(pairs=2.0, lift=4.0), Ends(pairs=1.0, lift=5.0))
        0.5
    """
    rise = whole.pairs - part.pairs
    move = rise - (whole.lift - part.lift)
    # Both moving alike, or the ends crossing, leaves nothing to choose by: then the middle.
    return min(1.0, max(0.0, rise / move)) if move > 0 else 0.5


def _mean(values: list[float], tokens: NDArray[np.int64]) -> float:
    used = tokens > 0
    return float(np.average(np.array(values)[used], weights=tokens[used])) if used.any() else 0.0
