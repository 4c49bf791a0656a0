"""Intervals of the conditional entropy hold the truth on four families of sources."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import slow_if

from curate.stats.bigram_sample import pair_sample
from curate.stats.conditional import ends
from curate.stats.estimate import Estimate
from curate.stats.intervals import entropy_report
from curate.stats.mutual_information import _undecided

sys.path.append(str(Path(__file__).parents[1] / "tools" / "bench"))
import entropy_families as bench  # noqa: E402

FAMILIES = list(bench.FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_truth_of_a_family_is_what_many_tokens_show(family: str) -> None:
    """A large sample's plug-in is just below the entropy that the bench works out."""
    rng = np.random.default_rng(8)
    symbols, tokens = 40, 300_000
    if family == "backoff":
        text = bench.backoff_text(symbols, (0.6, 1.0, 1.2), 100, tokens, rng)
    elif family == "bursty":
        text = bench.bursty_text(symbols, (200.0, 1.0), 100, tokens, rng)
    elif family == "successors":
        source = bench.markov_source(symbols, 5, 0.0, 100, 1)
        text = bench.Text(bench.draw(source, tokens, rng), source.conditional)
    else:
        source = bench.zipf_source(symbols, 1.0, 100)
        text = bench.Text(bench.draw(source, tokens, rng), source.conditional)
    counts = text.sample.counts(text.sample.totals())
    assert bench.conditional_plugin(counts) == pytest.approx(text.conditional, abs=0.015)


@pytest.mark.parametrize("family", slow_if(lambda family: family != "backoff", FAMILIES))
def test_intervals_cover_and_the_dummy_does_not(family: str) -> None:
    """A short form of the bench, which has 100 trials; its coverage is in docs/entropy.md."""
    rows = [bench.trial((family, number), 100_000) for number in range(5000, 5006)]
    assert sum(float(row["covered"]) for row in rows) >= 5
    assert sum(float(row["dummy"]) for row in rows) <= 1


def test_undecided_information_of_two_successor_lists() -> None:
    """Half of the tokens follow a list of their own: the rest follow less often than by chance."""
    rng = np.random.default_rng(3)
    symbols, tokens = 800, 40_000
    favourite = rng.integers(0, symbols, (symbols, 3))
    first = rng.integers(0, symbols, tokens)
    second = np.where(
        rng.random(tokens) < 0.5,
        favourite[first, rng.integers(0, 3, tokens)],
        rng.integers(0, symbols, tokens),
    )
    block = np.arange(tokens) // 100
    mixed = pair_sample(first, second, block, symbols)
    plain = pair_sample(first, rng.integers(0, symbols, tokens), block, symbols)
    undecided = [ends(sample.counts(sample.totals())).undecided for sample in (mixed, plain)]
    # Chance pairs are half of what chance alone gives: 0.5 ln 2 = 0.35 nats.
    assert undecided[0] == pytest.approx(0.35, abs=0.05)
    assert undecided[1] < undecided[0] / 3


def test_an_expected_bias_extends_the_interval_and_moves_no_estimate() -> None:
    raised = Estimate(5.0, 4.9, 5.1, 0.05, 0.0, "mean", 10).raised(0.05)
    assert (raised.nats, raised.low, raised.high) == (5.0, 4.9, pytest.approx(5.15))
    assert raised.error == pytest.approx((0.05**2 + 0.05**2) ** 0.5)
    alone = Estimate(5.0, None, None, 0.0, 0.0, "mean", 10).raised(0.1)
    assert (alone.low, alone.high, alone.error) == (None, None, None)
    text = bench.make("backoff", 0, 20_000)
    report = entropy_report(text.sample)
    for measure in (report.conditional, report.joint):
        assert measure.remaining_bias > 0.02
        assert measure.low is not None and measure.high is not None
        assert measure.low <= measure.nats <= measure.high


def test_a_fit_without_chance_pairs_stays_finite() -> None:
    """A Markov source with few successors, on which a share of chance pairs once underflowed."""
    for share in (0.0, 5e-324, 1e-310):
        undecided = _undecided(np.array([[share, 0.2]]), np.array([0.005]))
        assert 0 <= undecided < 1e-6


@pytest.mark.parametrize("number", [203, 206, 211])
def test_a_small_sample_of_a_source_that_backs_off_is_covered(number: int) -> None:
    """Ten thousand tokens put the estimate too near to that of pairs alone."""
    row = bench.trial(("backoff", number), 10_000)
    assert row["covered"] and not row["dummy"]
    assert float(row["error"]) < -0.4 and float(row["half"]) < 0.8
