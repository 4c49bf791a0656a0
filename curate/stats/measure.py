"""Measure every statistic of every domain, at the same sample size for all.

`measure_domain` is the task of one worker; `compare` joins the results of all domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.runtime.threads import one_blas_thread
from curate.stats import STATISTICS
from curate.stats.bigram_sample import PairCounts
from curate.stats.divergence import js_matrix, pair_overlap
from curate.stats.estimate import Estimate
from curate.stats.sampling import SamplePlan
from curate.stats.statistic import DomainSample, Measurement
from curate.tokens.domain import DomainTokens
from curate.tokens.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class DomainReport:
    """Every statistic of one domain."""

    name: str
    plan: SamplePlan
    measurements: dict[str, Measurement]
    """Measurement of each statistic, in the order of `STATISTICS`."""
    mean_embedding: NDArray[np.float64]
    """shape (dimension,), mean direction of the excerpts."""
    counts: PairCounts
    """Pairs of the token sample, for comparisons between domains."""

    def estimate(self, name: str) -> Estimate:
        """Return the entropy of this name, in nats, with its interval.

        Raises:
            ValueError: The statistic has no estimate.
        """
        estimate = self.measurements[name].estimate
        if estimate is None:
            raise ValueError(f"expected a statistic with an estimate, got '{name}'")
        return estimate

    def to_json(self) -> dict[str, Any]:
        """Return the domain's entry in `entropy_report.json`: `entropy`, then other statistics."""
        values = {name: measurement.json for name, measurement in self.measurements.items()}
        entropy = {name: value for name, value in values.items() if STATISTICS[name].entropy}
        return {"entropy": entropy, **{n: v for n, v in values.items() if n not in entropy}}


@one_blas_thread()
def measure_domain(domain: DomainTokens, tokenizer: Tokenizer, plan: SamplePlan) -> DomainReport:
    """Measure every statistic of one domain on the samples of the plan.

    Args:
        domain: Domain in the store.
        tokenizer: Tokenizer of the store.
        plan: Sizes of the samples and the seed.

    Raises:
        InputError: No document is long enough to be embedded.
        ValueError: The domain has no text.
    """
    sample = DomainSample(domain, tokenizer, plan)
    measurements = {name: statistic.measure(sample) for name, statistic in STATISTICS.items()}
    return DomainReport(domain.name, plan, measurements, sample.mean_embedding, sample.counts)


def compare(reports: Sequence[DomainReport]) -> dict[str, NDArray[np.float64]]:
    """Compare every two domains whose samples have the full size.

    Returns:
        Divergence `js`, nats, and `pair_overlap`, shares, of shape (domains, domains); NaN where a
        domain has too few tokens.
    """
    full = [
        number
        for number, report in enumerate(reports)
        if report.counts.tokens == report.plan.sample_tokens
    ]
    counts = [reports[number].counts for number in full]
    matrices = {}
    for name, matrix in (
        ("js", js_matrix([count.first_margin for count in counts])),
        ("pair_overlap", pair_overlap(counts)),
    ):
        whole = np.full((len(reports), len(reports)), np.nan)
        whole[np.ix_(full, full)] = matrix
        matrices[name] = whole
    return matrices
