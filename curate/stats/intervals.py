"""Entropies with 95 % intervals, and what the intervals say about mixtures.

What is resampled is documents, never tokens: they are dealt into groups, and each group is left
out in turn (delete-a-group jackknife). To the spread this gives, the interval adds what no
resampling shows, the doubt about the bias correction itself: a share of its size, and half of what
the estimate still moves between a quarter of the sample and the whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.stats.conditional import PARTS, Conditional, conditional, ends
from curate.stats.estimators import plugin
from curate.stats.pairs import PairSample
from curate.stats.unseen import unseen

GROUPS = 20
"""Groups of documents that are left out in turn."""

CORRECTION_DOUBT = {"shannon": 0.05, "conditional": 0.03}
"""Standard error of a bias correction, as a share of the correction. Chosen so that intervals cover
the truth in 90 to 99 % of synthetic sources; see tools/bench/entropy.py."""

_T_97_5 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179,
           2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093)  # fmt: skip
"""97.5 % points of Student's t by degrees of freedom; Abramowitz and Stegun 1964, table 26.10."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval; nats per token where it is an entropy."""

    nats: float
    low: float | None
    """None where a single document leaves nothing to resample."""
    high: float | None
    standard_error: float
    """From resampling documents."""
    bias_error: float
    """Standard error that stands for doubt about the bias correction."""
    estimator: str
    sample_tokens: int

    def to_json(self) -> dict[str, Any]:
        """The fields of one measure in `entropy_report.json`."""
        return {
            "nats": self.nats,
            "low": self.low,
            "high": self.high,
            "standard_error": self.standard_error,
            "bias_error": self.bias_error,
            "estimator": self.estimator,
            "sample_tokens": self.sample_tokens,
        }


@dataclass(frozen=True, slots=True)
class EntropyReport:
    """Shannon, joint and conditional entropy of one sample; JE = SE + CE exactly."""

    shannon: Estimate
    joint: Estimate
    conditional: Estimate
    detail: Conditional
    """The two ends that the conditional entropy combines, and the plug-in."""


def estimate(
    nats: float, replicates: Sequence[float], bias_error: float, estimator: str, sample_tokens: int
) -> Estimate:
    """An estimate with the interval that its delete-a-group replicates give.

    Args:
        nats: The estimate on the whole sample.
        replicates: The estimate with each group left out.
        bias_error: Standard error to add in quadrature.
        estimator: Its name.
        sample_tokens: Tokens of the sample.

    References:
        Kott 2001, "The delete-a-group jackknife", J. Official Statistics 17(4).
    """
    groups = len(replicates)
    if groups < 2:
        return Estimate(nats, None, None, 0.0, bias_error, estimator, sample_tokens)
    values = np.array(replicates)
    error = math.sqrt((groups - 1) / groups * float(((values - values.mean()) ** 2).sum()))
    half = student_t(groups - 1) * math.hypot(error, bias_error)
    return Estimate(
        nats, max(0.0, nats - half), nats + half, error, bias_error, estimator, sample_tokens
    )


def student_t(degrees: int) -> float:
    """97.5 % point of Student's t; the normal one and its first correction beyond the table.

    Example:
        >>> student_t(19), round(student_t(40), 3)
        (2.093, 2.019)
    """
    if degrees <= len(_T_97_5):
        return _T_97_5[degrees - 1]
    normal = 1.959964
    return normal + (normal**3 + normal) / (4 * degrees)


def entropy_report(sample: PairSample, groups: int = GROUPS) -> EntropyReport:
    """Entropies of a sample of documents, bias corrected, with intervals.

    Args:
        sample: The documents' tokens; see `pairs.draw_pairs`.
        groups: Groups to leave out in turn; no more than there are blocks of documents.
    """
    found = conditional(sample)
    whole = sample.totals()
    margin = sample.counts(whole).first_margin()
    shannon = unseen(margin)
    group_of = sample.group(min(groups, sample.blocks))
    shannon_replicates: list[float] = []
    conditional_replicates: list[float] = []
    for group in range(min(groups, sample.blocks)):
        counts = sample.counts(whole - sample.totals(group_of == group))
        shannon_replicates.append(unseen(counts.first_margin()))
        conditional_replicates.append(ends(counts, found.ends).at(found.lift_share))
    shannon_bias = math.hypot(
        CORRECTION_DOUBT["shannon"] * (shannon - plugin(margin)),
        (shannon - _part_shannon(sample)) / 2,
    )
    conditional_bias = math.hypot(
        CORRECTION_DOUBT["conditional"] * (found.nats - found.plugin), found.drift / 2
    )
    joint_replicates = [
        a + b for a, b in zip(shannon_replicates, conditional_replicates, strict=True)
    ]
    tokens = sample.tokens
    return EntropyReport(
        estimate(shannon, shannon_replicates, shannon_bias, "unseen", tokens),
        estimate(
            shannon + found.nats, joint_replicates, math.hypot(shannon_bias, conditional_bias),
            "unseen+stationary", tokens,
        ),
        estimate(found.nats, conditional_replicates, conditional_bias, "stationary", tokens),
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


@dataclass(frozen=True, slots=True)
class WeightIntervals:
    """Softmax weights of entropies with 95 % intervals; keys are domains."""

    weights: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    warnings: tuple[str, ...]
    """Neighbours in the order of entropies whose order is within noise."""


def weight_intervals(
    entropies: Mapping[str, Estimate],
    temperature: float = 1.0,
    draws: int = 4000,
    seed: int = 0,
) -> WeightIntervals:
    """Carry intervals of entropies to the weights exp(H / T) / sum of exp(H / T).

    Domains are sampled apart from each other, so their errors are drawn independently, as normal
    numbers with the total standard error of each.

    Args:
        entropies: By domain.
        temperature: T, positive.
        draws: Of all domains together.
        seed: Of the draws.
    """
    names = sorted(entropies)  # so that the order of the domains changes nothing
    centre = np.array([entropies[name].nats for name in names])
    error = np.array(
        [math.hypot(entropies[name].standard_error, entropies[name].bias_error) for name in names]
    )
    noise = np.random.default_rng(seed).standard_normal((draws, len(names)))
    exponent = (centre + noise * error) / temperature
    power = np.exp(exponent - exponent.max(1, keepdims=True))
    low, high = np.quantile(power / power.sum(1, keepdims=True), [0.025, 0.975], axis=0)
    best = np.exp((centre - centre.max()) / temperature)
    weights = (best / best.sum()).tolist()
    position = {name: number for number, name in enumerate(names)}
    return WeightIntervals(
        {name: weights[position[name]] for name in entropies},
        {name: min(float(low[position[name]]), weights[position[name]]) for name in entropies},
        {name: max(float(high[position[name]]), weights[position[name]]) for name in entropies},
        order_warnings(names, centre, error),
    )


def order_warnings(
    names: Sequence[str], centre: NDArray[np.float64], error: NDArray[np.float64]
) -> tuple[str, ...]:
    """Neighbours in descending order whose difference is within 1.96 of its standard error.

    Example:
        >>> order_warnings(["a", "b"], np.array([5.0, 5.01]), np.array([0.01, 0.01]))
        ('the order of b and a is within noise: 5.010 and 5.000 nats, difference 0.010 ± 0.028',)
    """
    order = np.argsort(-centre, kind="stable")
    warnings = []
    for upper, lower in zip(order[:-1], order[1:], strict=True):
        half = 1.959964 * math.hypot(float(error[upper]), float(error[lower]))
        gap = float(centre[upper] - centre[lower])
        if gap < half:
            warnings.append(
                f"the order of {names[upper]} and {names[lower]} is within noise: "
                f"{centre[upper]:.3f} and {centre[lower]:.3f} nats, difference "
                f"{gap:.3f} ± {half:.3f}"
            )
    return tuple(warnings)
