from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from curate import recipe as recipes
from curate.mixture.methods.leverage import leverage_scores, pretraining_weights
from curate.pipeline.tokenize import TokenizedDomains, tokenize_domains
from curate.runtime.progress import Observer
from curate.stats.bigram_sample import draw_pairs, pair_sample
from curate.stats.divergence import jensen_shannon, js_matrix, pair_overlap
from curate.stats.estimators import plugin
from curate.stats.measure import compare, measure_domain
from curate.stats.sampling import sample_plan
from curate.stats.signals import (
    FRAME_BYTES,
    bits_per_byte,
    compression,
    duplicates,
    sample_texts,
    type_token_curve,
)


@pytest.fixture
def tokenized(recipe: Path) -> TokenizedDomains:
    return tokenize_domains(recipes.load(recipe), 1, Observer())


def test_a_drawn_sample_of_everything_has_the_counts_of_the_store(
    tokenized: TokenizedDomains,
) -> None:
    for domain, stats in zip(tokenized.domains, tokenized.stats, strict=True):
        sample = draw_pairs(domain, tokenized.tokenizer, 1 << 40, seed=3)
        counts = sample.counts(sample.totals())
        assert sample.tokens == stats.entropies.tokens
        assert len(counts.count) == stats.entropies.bigrams_used
        assert plugin(counts.first_margin) == pytest.approx(stats.entropies.shannon)
        assert plugin(counts.count) == pytest.approx(stats.entropies.joint)


def test_a_smaller_sample_is_the_beginning_of_a_larger_one(tokenized: TokenizedDomains) -> None:
    domain = tokenized.domains[0]
    small = draw_pairs(domain, tokenized.tokenizer, 500, seed=3)
    large = draw_pairs(domain, tokenized.tokenizer, 2000, seed=3)
    other = draw_pairs(domain, tokenized.tokenizer, 500, seed=4)
    assert (small.tokens, large.tokens) == (500, 2000)
    for name in ("first", "second"):
        begin = getattr(large, name)[large.pair][:500]
        assert (getattr(small, name)[small.pair] == begin).all()
    assert (other.first[other.pair] != small.first[small.pair]).any()


def test_copies_share_a_block(tokenized: TokenizedDomains) -> None:
    domain = tokenized.domains[0]
    sample = draw_pairs(domain, tokenized.tokenizer, 1 << 40, seed=3)
    assert sample.blocks == len(domain) - duplicates(domain).documents


def test_duplicates_of_the_planted_corpus(tokenized: TokenizedDomains) -> None:
    # The last of each ten documents is a copy of the first.
    for domain in tokenized.domains:
        found = duplicates(domain)
        assert found.documents == len(domain) // 10
        assert found.document_share == pytest.approx(0.1)
        assert 0.03 < found.token_share < 0.25


def test_texts_come_back_from_their_tokens(tokenized: TokenizedDomains) -> None:
    for domain in tokenized.domains:
        texts = sample_texts(domain, tokenized.tokenizer, 1 << 40, seed=0)
        assert sum(map(len, texts)) == int(domain.text_bytes.sum())
        some = sample_texts(domain, tokenized.tokenizer, 2000, seed=0)
        assert some == texts[: len(some)]
        assert 2000 <= sum(map(len, some)) < 2000 + 1200


def test_compression_of_repetition_noise_and_their_interval() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, 4 * FRAME_BYTES, np.uint8).tobytes()
    found = compression([noise])
    assert found.ratio == pytest.approx(1, abs=0.01)
    assert found.bits_per_byte == pytest.approx(8, abs=0.05)
    assert found.sample_bytes == 4 * FRAME_BYTES
    assert compression([b"the same words again " * 50_000]).ratio > 100
    # Digits hold log2(10) bits each; no code gets below.
    digits = (rng.integers(0, 10, 8 * FRAME_BYTES) + ord("0")).astype(np.uint8).tobytes()
    found = compression([digits])
    assert math.log2(10) < found.bits_per_byte < math.log2(10) + 0.5
    assert found.low is not None and found.high is not None
    assert found.low < found.ratio < found.high < found.low * 1.02
    assert found.codec == "zstd level 9, window 1048576, frame 262144 bytes"
    assert compression([b"short"]).low is None
    with pytest.raises(ValueError, match="at least one byte"):
        compression([])


def test_bits_per_byte_do_not_depend_on_the_unit() -> None:
    # Two tokens merged into one: twice the nats and twice the bytes.
    assert bits_per_byte(3.0, 4.0) == pytest.approx(bits_per_byte(6.0, 8.0))
    with pytest.raises(ValueError, match="positive bytes per token, got 0"):
        bits_per_byte(3.0, 0.0)


def test_type_token_curve_by_hand() -> None:
    token = np.array([1, 1, 2, 1, 3, 2, 3, 4])
    sample = pair_sample(token, np.zeros(8, np.int64), np.arange(8), 5)
    assert type_token_curve(sample, halvings=3) == [(1, 1), (2, 1), (4, 2), (8, 4)]


def test_divergence_by_hand_and_bounds() -> None:
    left, right = np.array([30_000, 10_000]), np.array([10_000, 30_000])
    half = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert jensen_shannon(left, right) == pytest.approx(math.log(2) - half, abs=1e-4)
    assert jensen_shannon(left, left) == pytest.approx(0, abs=1e-4)
    matrix = js_matrix([left, right, np.array([0, 0, 40_000])])
    assert (matrix == matrix.T).all() and not matrix.diagonal().any()
    assert matrix[0, 2] == pytest.approx(math.log(2), abs=1e-4)


def test_divergence_of_one_source_is_near_zero_where_the_plugin_is_not() -> None:
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, 5001)
    left, right = (rng.multinomial(20_000, share / share.sum()) for _ in range(2))
    assert jensen_shannon(left, right, plugin) > 0.04
    assert jensen_shannon(left, right) < 0.01


def test_divergence_refuses_samples_of_different_size() -> None:
    with pytest.raises(ValueError, match=r"same positive size, got \(2, 4\) tokens"):
        jensen_shannon(np.array([2]), np.array([4]))
    with pytest.raises(ValueError, match=r"same symbols, got \(1,\), \(2,\)"):
        jensen_shannon(np.array([2]), np.array([1, 1]))


def test_overlap_counts_tokens_whose_pair_is_shared() -> None:
    def sample(first: list[int], second: list[int]) -> object:
        found = pair_sample(np.array(first), np.array(second), np.zeros(len(first), np.int64), 4)
        return found.counts(found.totals())

    left = sample([1, 1, 2, 3], [2, 2, 3, 0])
    right = sample([1, 3], [2, 1])
    assert pair_overlap([left, right]).tolist() == [[1.0, 0.5], [0.5, 1.0]]


def test_leverage_does_not_depend_on_units_origin_or_order() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 12))
    scores = leverage_scores(rows)
    assert leverage_scores(70 * rows + 3) == pytest.approx(scores)
    order = rng.permutation(6)
    assert leverage_scores(rows[order]) == pytest.approx(scores[order])
    assert ((scores >= 0) & (scores < 1)).all()


def reference_leverage(embedding: np.ndarray) -> np.ndarray:
    """The arithmetic of Chameleon's code, on an embedding whose kernel has mean diagonal 1."""
    centred = embedding - embedding.mean(axis=0)
    centred = centred / np.sqrt((centred**2).sum() / len(centred))
    kernel, count = centred @ centred.T, len(centred)
    scores = np.diag(kernel @ np.linalg.inv(kernel + 10 * count * np.eye(count)))
    inverse = 1 / (scores / scores.sum() + 1e-12)
    raised = np.exp((inverse - inverse.max()) / 5)
    return np.asarray(raised / raised.sum())


def test_leverage_weights_are_those_of_the_published_code() -> None:
    far = []
    for seed in range(20):
        rows = np.random.default_rng(seed).normal(size=(7, 12)) * np.linspace(0.4, 1.6, 7)[:, None]
        shares = np.array(pretraining_weights(leverage_scores(rows)))
        assert shares == pytest.approx(reference_leverage(rows), rel=1e-6, abs=1e-12)
        far.append(np.abs(shares - 1 / 7).sum() / 2)
    assert min(far) > 0.2, "without the division by the sum, shares were within .07 of uniform"


def test_leverage_by_hand() -> None:
    # Two domains at ±1: K has eigenvalue 2, scaled to mean diagonal 1; 2 / (2 + 2 ridge) halved.
    assert leverage_scores(np.array([[0.0], [2.0]]), ridge=1.0) == pytest.approx([0.25, 0.25])
    scores = leverage_scores(np.array([[0.0, 0.1], [0.1, 0.0], [0.0, 0.0], [9.0, 9.0]]), ridge=0.1)
    assert scores.argmax() == 3
    assert np.argmin(pretraining_weights(scores)) == 3
    assert sum(pretraining_weights(scores)) == pytest.approx(1)
    assert pretraining_weights(leverage_scores(np.ones((4, 2)))) == [0.25] * 4
    with pytest.raises(ValueError, match="expected a positive ridge, got 0"):
        leverage_scores(np.ones((2, 2)), ridge=0.0)
    with pytest.raises(ValueError, match="expected a finite matrix"):
        leverage_scores(np.full((2, 2), np.nan))


def test_every_domain_is_measured_on_the_same_sample(tokenized: TokenizedDomains) -> None:
    plan, warnings = sample_plan(tokenized.domains, seed=5)
    short = [d.name for d in tokenized.domains if d.total_tokens - len(d) < plan.sample_tokens]
    about_tokens = [warning for warning in warnings if " tokens, fewer than the" in warning]
    assert [warning.split("'")[1] for warning in about_tokens] == short
    reports = [measure_domain(domain, tokenized.tokenizer, plan) for domain in tokenized.domains]
    for report, domain in zip(reports, tokenized.domains, strict=True):
        supply = domain.total_tokens - len(domain)
        shown = report.to_json()
        assert shown["entropy"]["conditional"]["sample_tokens"] == min(supply, plan.sample_tokens)
        assert shown["entropy"]["von_neumann"]["encoder"] == "hashed-ngrams"
        assert shown["duplicates"]["document_share"] == pytest.approx(0.1)
        assert report.estimate("joint").nats == pytest.approx(
            report.estimate("shannon").nats + report.estimate("conditional").nats
        )
        held_out = shown["entropy"]["conditional"]["held_out"]
        assert held_out > report.estimate("conditional").nats - 0.1
    found = compare(reports)
    assert set(found) == {"js", "pair_overlap"}
