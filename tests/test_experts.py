"""Experts' mixtures: planted weights, certificates, levels, and the file."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from expert_files import write_likelihoods

from curate.errors import InputError
from curate.laws.likelihoods import Likelihoods, read_likelihoods
from curate.mixture.search.expert_mixing import (
    Solution,
    best_shares,
    blocks_of,
    combined,
    experts_law,
    scores,
)
from curate.mixture.search.objective import Problem
from curate.mixture.search.optimise import optimise
from curate.mixture.search.simplex_box import Box

PLANTED = np.array([0.6, 0.3, 0.1])


def loss_of(blocks, weights):
    """Nats per token of the experts mixed by these shares."""
    logs = np.log(blocks.scaled @ weights) + blocks.peak_nats
    return float(-(blocks.importance @ logs) / blocks.tokens_per_block)


def solve_by_gradient(blocks, steps=100):
    """MixMin's published solver: exponentiated gradient of rate 1 from equal shares.

    Its loss is per token, so slopes are divided by the length of the documents. It stops early
    where the largest slope is below 1e-4, which no optimum on a simplex brings about: there all
    slopes are -1 over the length.
    """
    weights = np.full(blocks.scaled.shape[1], 1 / blocks.scaled.shape[1])
    for _ in range(steps):
        slopes = -scores(blocks, weights) / blocks.tokens_per_block
        if np.abs(slopes).max() < 1e-4:
            break
        weights = weights * np.exp(-slopes)
        weights = weights / weights.sum()
    loss_nats = loss_of(blocks, weights) * blocks.tokens_per_block
    return Solution(weights, loss_nats, scores(blocks, weights).max() - 1, steps)


def bigram_sources(rng, sources=3, vocabulary=12, sharpness=1.2):
    """Overlapping Markov chains: each its own tables, none excluding a token."""
    logits = rng.normal(0, sharpness, (sources, vocabulary, vocabulary))
    tables = np.exp(logits + rng.normal(0, sharpness, (1, vocabulary, vocabulary)))
    return tables / tables.sum(axis=2, keepdims=True)


def documents_of(rng, tables, shares, count, length):
    """Documents of one source each, and their log-probabilities under every source."""
    sources = rng.choice(len(shares), size=count, p=shares)
    rows = []
    for source in sources:
        token, logp = int(rng.integers(tables.shape[1])), []
        for _ in range(length):
            following = int(rng.choice(tables.shape[2], p=tables[source, token]))
            logp.append(np.log(tables[:, token, following]))
            token = following
        rows.append(logp)
    starts = np.arange(count + 1) * length
    names = tuple(f"d{i}" for i in range(len(shares)))
    flat = np.array(rows).reshape(-1, len(shares))
    found = Likelihoods(names, ("all",), np.zeros(count, np.int64), starts, flat)
    return found, np.bincount(sources, minlength=len(shares)) / count


def test_levels_recover_the_planted_weights_with_their_own_bias():
    rng = np.random.default_rng(0)
    tables = bigram_sources(rng)
    spread, level_bias = {}, {}
    for length in (5, 20, 100):
        matrix, truth = documents_of(rng, tables, PLANTED, 400, length)
        for level in ("token", "document"):
            blocks = blocks_of(matrix, level)
            found = best_shares(blocks)
            assert found.certificate < 1e-6
            # 400 documents: three standard errors of what tokens so few can tell.
            assert np.abs(found.weights - truth).max() < 3 * (0.02 + 0.15 / length**0.5)
            if level == "document":
                assert (
                    np.abs(found.weights - truth).max()
                    < (0.08, 0.03, 0.01)[(5, 20, 100).index(length)]
                )
            uniform = np.full(3, 1 / 3)
            spread[level, length] = loss_of(blocks, uniform) - loss_of(blocks, found.weights)
            level_bias[level, length] = loss_of(blocks, truth)
    # Token level reacts to the weights whatever the length; document level as 1 / length.
    assert spread["token", 100] > 0.5 * spread["token", 5]
    assert spread["document", 100] < 0.15 * spread["document", 5]
    assert spread["document", 100] == pytest.approx(spread["document", 20] / 5, rel=0.3)
    # Ignoring the prefix costs: the token level is too high, more so for longer documents.
    for length in (5, 20, 100):
        assert level_bias["token", length] > level_bias["document", length]
    assert (
        level_bias["token", 100] - level_bias["document", 100]
        > level_bias["token", 5] - level_bias["document", 5]
    )


def four_sources(rng, blocks=2000):
    """Overlapping sources whose optimum is slow to reach by gradient."""
    truth = np.array([0.58, 0.25, 0.115, 0.055])
    logits = rng.normal(0, 0.5, (4, 30))
    tables = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    token = rng.choice(30, size=blocks, p=truth @ tables)
    logp = np.log(tables[:, token]).T
    return Likelihoods(
        ("a", "b", "c", "d"), ("t",), np.zeros(blocks, np.int64), np.arange(blocks + 1), logp
    )


def test_certificate_holds_where_the_published_solver_has_not_converged():
    blocks = blocks_of(four_sources(np.random.default_rng(1)), "document")
    ours, published = best_shares(blocks), solve_by_gradient(blocks)
    assert ours.certificate < 1e-6
    assert published.certificate > 1e-4 and published.iterations == 100
    assert np.abs(published.weights - ours.weights).max() > 0.02
    assert published.loss_nats > ours.loss_nats
    # With many more steps it gets there too: it is the same optimum.
    patient = solve_by_gradient(blocks, steps=20_000)
    assert patient.weights == pytest.approx(ours.weights, abs=2e-3)


def test_the_published_solver_hardly_moves_on_long_documents():
    """Its steps are as small as the documents are long: at 20,000 tokens it stops at once."""
    moved = {}
    for length in (1, 20, 200):
        rng = np.random.default_rng(3)
        matrix, _ = documents_of(rng, bigram_sources(rng), PLANTED, 200, length)
        blocks = blocks_of(matrix, "document")
        ours, published = best_shares(blocks), solve_by_gradient(blocks)
        moved[length] = np.abs(published.weights - 1 / 3).sum() / np.abs(ours.weights - 1 / 3).sum()
        assert ours.certificate < 1e-6
    assert moved[1] > 0.9 and moved[20] > 0.9 and moved[200] < 0.6
    matrix = Likelihoods(
        ("a", "b"), ("t",), np.zeros(1, np.int64), np.array([0, 20_000]),
        np.tile([-1.0, -1.00001], (20_000, 1)),
    )  # fmt: skip
    assert solve_by_gradient(blocks_of(matrix, "document")).weights.tolist() == [0.5, 0.5]


def test_certificate_bounds_the_gap():
    rng = np.random.default_rng(2)
    blocks = blocks_of(four_sources(rng, 300), "token")
    best = best_shares(blocks, tolerance=1e-9)
    for _ in range(50):
        weights = rng.dirichlet(np.ones(4))
        gap = (loss_of(blocks, weights) - loss_of(blocks, best.weights)) * blocks.tokens_per_block
        assert -1e-9 <= gap <= scores(blocks, weights).max() - 1
        assert scores(blocks, weights) @ weights == pytest.approx(1)


def test_two_experts_by_hand():
    # Each block is possible under one expert only: the optimum is the share of blocks.
    logp = np.array([[-1.0, -np.inf]] * 3 + [[-np.inf, -2.0]])
    matrix = Likelihoods(("a", "b"), ("t",), np.zeros(4, np.int64), np.arange(5), logp)
    found = best_shares(blocks_of(matrix, "document"))
    assert found.weights == pytest.approx([0.75, 0.25], abs=1e-6)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert found.loss_nats == pytest.approx(entropy + (3 * 1 + 2) / 4, abs=1e-9)
    # An expert that is better everywhere takes all, and the certificate says so.
    better = Likelihoods(
        ("a", "b"), ("t",), np.zeros(2, np.int64), np.arange(3), np.array([[-1.0, -3], [-2, -3]])
    )
    found = best_shares(blocks_of(better, "token"))
    assert found.weights[1] < 1e-6 and found.certificate < 1e-6
    # Experts that are the same keep what they began with.
    same = Likelihoods(
        ("a", "b"), ("t",), np.zeros(2, np.int64), np.arange(3), np.full((2, 2), -1.0)
    )
    assert best_shares(blocks_of(same, "token")).weights == pytest.approx([0.5, 0.5])


def test_chunks_lie_between():
    rng = np.random.default_rng(3)
    matrix, truth = documents_of(rng, bigram_sources(rng), PLANTED, 100, 24)
    losses = {level: loss_of(blocks_of(matrix, level), truth)
              for level in ("token", 4, 12, "document")}  # fmt: skip
    assert losses["token"] > losses[4] > losses[12] > losses["document"]
    assert loss_of(blocks_of(matrix, 1), truth) == pytest.approx(losses["token"])
    assert loss_of(blocks_of(matrix, 24), truth) == pytest.approx(losses["document"])
    # A last chunk may be shorter: 24 tokens in chunks of 10 are 10, 10 and 4.
    blocks = blocks_of(matrix, 10)
    assert len(blocks.scaled) == 300 and blocks.tokens_per_block == pytest.approx(8)


def test_caps_and_floors_hold_and_are_certified():
    blocks = blocks_of(four_sources(np.random.default_rng(4)), "token")
    box = Box(np.array([0, 0, 0, 0.2]), np.array([0.3, 1, 1, 1]))
    found = best_shares(blocks, box)
    assert found.certificate < 1e-6
    assert found.weights[0] <= 0.3 + 1e-12 and found.weights[3] >= 0.2 - 1e-12
    law = experts_law(four_sources(np.random.default_rng(4)), "token")
    general = optimise(Problem(law, box, np.ones((1, 1)), convex=True))
    assert general.weights == pytest.approx(found.weights, abs=1e-3)
    assert general.value == pytest.approx(found.loss_nats, abs=1e-6)


def test_targets_combine_to_the_mean_of_their_losses():
    rng = np.random.default_rng(5)
    one, _ = documents_of(rng, bigram_sources(rng), PLANTED, 30, 7)
    target = np.arange(30) % 3
    matrix = Likelihoods(one.experts, ("x", "y", "z"), target, one.starts, one.logp_nats)
    for level in ("token", 3, "document"):
        law = experts_law(matrix, level)
        weights = rng.dirichlet(np.ones(3))
        missing = np.array([np.nan])
        losses = law.predict(weights[None], missing, missing)[0]
        importance = np.array([0.5, 0.0, 2.0])
        merged = combined(law.parts, importance)
        assert loss_of(merged, weights) == pytest.approx(losses @ importance / 2.5)
        slopes = law.gradient(weights[None], missing, missing)[0]
        for expert in range(3):
            step = np.eye(3)[expert] * 1e-6
            ahead = law.predict((weights + step)[None], missing, missing)[0]
            assert slopes[:, expert] == pytest.approx((ahead - losses) / 1e-6, abs=1e-4)


def test_permuting_experts_permutes_weights():
    matrix = four_sources(np.random.default_rng(6))
    order = [2, 0, 3, 1]
    turned = Likelihoods(
        matrix.experts, matrix.targets, matrix.target, matrix.starts, matrix.logp_nats[:, order]
    )
    first = best_shares(blocks_of(matrix, "token"), tolerance=1e-9).weights
    assert best_shares(blocks_of(turned, "token"), tolerance=1e-9).weights == pytest.approx(
        first[order], abs=1e-4
    )


def test_refusals():
    matrix = four_sources(np.random.default_rng(7), 10)
    with pytest.raises(ValueError, match="expected 'token', 'document' or a positive number"):
        blocks_of(matrix, "sentence")
    with pytest.raises(ValueError, match="at least one document"):
        blocks_of(matrix, "token", np.array([], np.int64))
    with pytest.raises(ValueError, match="expected 4 shares, got 3 and 4"):
        best_shares(blocks_of(matrix, "token"), Box(np.zeros(3), np.ones(3)))
    with pytest.raises(ValueError, match="a column for each of 2"):
        Likelihoods(("a", "b"), ("t",), np.zeros(1, np.int64), np.array([0, 1]), np.zeros((1, 1)))
    with pytest.raises(ValueError, match="that end at 1, got 2 that end at 3"):
        Likelihoods(("a",), ("t",), np.zeros(1, np.int64), np.array([0, 3]), np.zeros((1, 1)))
    with pytest.raises(ValueError, match="a document has no token"):
        Likelihoods(("a",), ("t",), np.zeros(2, np.int64), np.array([0, 0, 1]), np.zeros((1, 1)))


# --- the file


def test_file_round_trip(tmp_path):
    rng = np.random.default_rng(8)
    logp = -rng.exponential(1, (9, 2))
    logp[0, 0] = -np.inf
    matrix = Likelihoods(
        ("wiki", "code"), ("wiki", "law"), np.array([0, 0, 1]), np.array([0, 2, 5, 9]), logp
    )
    write_likelihoods(matrix, tmp_path / "experts.parquet")
    found = read_likelihoods(tmp_path / "experts.parquet")
    assert found.experts == matrix.experts and found.targets == matrix.targets
    assert np.array_equal(found.target, matrix.target)
    assert np.array_equal(found.starts, matrix.starts)
    assert np.array_equal(found.logp_nats, logp)
    names = pq.read_schema(tmp_path / "experts.parquet").names
    assert names == ["target_domain", "document", "position", "logp_wiki", "logp_code"]


GOOD = {
    "target_domain": ["w", "w", "l"],
    "document": [0, 0, 1],
    "position": [0, 1, 0],
    "logp_a": [-1.0, -2.0, -3.0],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"document": None}, "no column document; an experts file has target_domain, document"),
        ({"logp_a": None}, "no column logp_<expert>"),
        ({"logp_a": [-1.0, 0.5, -1.0]}, "row 2, logp_a: 0.5 is no log-probability in nats"),
        ({"logp_a": [-1.0, np.nan, -1.0]}, "row 2, logp_a: nan is no log-probability"),
        ({"logp_a": [-1.0, None, -1.0]}, "column logp_a: expected floats without gaps"),
        ({"logp_a": ["x", "y", "z"]}, "column logp_a: expected floats without gaps, found string"),
        ({"logp_a": [-1.0, -np.inf, -1.0]}, "row 2: every expert gives this token probability 0"),
        ({"position": [1, 0, 0]}, "row 2: rows of a document must stand together"),
        (
            {"target_domain": ["w", None, "l"]},
            "column target_domain: expected text without gaps, row",
        ),
        ({"document": [0, 1, 0], "target_domain": ["w"] * 3}, "row 3: rows of a document must"),
    ],
)
def test_a_bad_file_is_refused(change, message, tmp_path):
    columns = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    pq.write_table(pa.table(columns), tmp_path / "e.parquet")
    with pytest.raises(InputError, match=message):
        read_likelihoods(tmp_path / "e.parquet")


def test_no_file_and_no_rows(tmp_path):
    with pytest.raises(InputError, match=r"none.parquet: cannot be read as Parquet"):
        read_likelihoods(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_likelihoods(tmp_path / "text.parquet")
    pq.write_table(
        pa.table({key: value[:0] for key, value in GOOD.items()}), tmp_path / "e.parquet"
    )
    with pytest.raises(InputError, match="has no rows; run `curate experts` again"):
        read_likelihoods(tmp_path / "e.parquet")


def test_acceleration_pays_where_sources_overlap():
    """Plain expectation-maximisation needs many more steps for the same certificate."""
    blocks = blocks_of(four_sources(np.random.default_rng(9), 1000), "token")
    found = best_shares(blocks)
    weights = np.full(4, 0.25)
    for steps in itertools.count():
        if scores(blocks, weights).max() - 1 < 1e-7 or steps > 20 * found.iterations:
            break
        weights = weights * scores(blocks, weights)
    assert steps > 4 * found.iterations
