from __future__ import annotations

import math

import numpy as np
import pytest

from curate.stats.embedding import DIMENSION, LONGEST_BYTES, hashed_ngrams
from curate.stats.von_neumann import neumann_report, normalised_rows, spectrum_entropy


def gram_entropy(embedding: np.ndarray) -> float:
    return neumann_report(embedding, "x").plugin


def kernel_entropy(embedding: np.ndarray) -> float:
    """Take the same entropy from the kernel of documents, shape (documents, documents)."""
    unit = normalised_rows(embedding)
    return spectrum_entropy(unit @ unit.T / len(unit))


@pytest.mark.parametrize("documents", [1, 2, 7, 50])
def test_identical_documents_count_as_one_and_orthogonal_ones_each(documents: int) -> None:
    same = np.tile(np.array([[0.3, -2.0, 1.0]]), (documents, 1))
    assert math.exp(gram_entropy(same)) == pytest.approx(1, abs=1e-9)
    assert math.exp(kernel_entropy(same)) == pytest.approx(1, abs=1e-9)
    assert math.exp(gram_entropy(3 * np.eye(documents))) == pytest.approx(documents, abs=1e-9)


@pytest.mark.parametrize("documents, dimension", [(3, 40), (40, 3), (100, 60), (60, 60)])
def test_gram_and_kernel_forms_are_equal(documents: int, dimension: int) -> None:
    rows = np.random.default_rng(documents).normal(size=(documents, dimension)) + 0.5
    assert gram_entropy(rows) == pytest.approx(kernel_entropy(rows), abs=1e-9)


def test_two_directions_by_hand() -> None:
    # Unit vectors at an angle a: eigenvalues (1 ± cos a) / 2.
    angle = 0.7
    rows = np.array([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
    half = [(1 + math.cos(angle)) / 2, (1 - math.cos(angle)) / 2]
    assert gram_entropy(rows) == pytest.approx(-sum(x * math.log(x) for x in half))


def test_length_order_and_rotation_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(30, 8))
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    changed = rng.permutation(rows * rng.uniform(0.1, 9, (30, 1))) @ rotation
    assert gram_entropy(changed) == pytest.approx(gram_entropy(rows), abs=1e-9)


def test_the_jackknife_takes_off_the_bias_and_covers_the_truth() -> None:
    """Documents of 60 equally likely kinds, each a direction of its own: the truth is ln 60."""
    truth = math.log(60)
    errors, covered = [], 0
    for seed in range(60):
        kind = np.random.default_rng(seed).integers(0, 60, 400)
        report = neumann_report(np.eye(60)[kind], "kinds")
        errors.append((report.entropy.nats - truth, report.plugin - truth))
        assert report.entropy.low is not None and report.entropy.high is not None
        covered += report.entropy.low <= truth <= report.entropy.high
    corrected, plugin = np.abs(np.mean(errors, axis=0))
    assert corrected < plugin / 3
    assert covered >= 54


def test_copies_come_and_go_together() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 20))
    copied = np.repeat(rows, 5, axis=0)
    block = np.repeat(np.arange(40), 5)
    apart = neumann_report(copied, "x").entropy
    together = neumann_report(copied, "x", block).entropy
    assert together.standard_error > 1.5 * apart.standard_error


def test_one_document_has_no_interval() -> None:
    report = neumann_report(np.ones((1, 4)), "x")
    assert report.entropy.low is None
    assert report.vendi == pytest.approx(1)


@pytest.mark.parametrize("rows", [np.zeros((2, 3)), np.array([[1.0, np.nan]])])
def test_rows_without_a_direction_are_refused(rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="row 0 is zero or not finite"):
        gram_entropy(rows)


def test_an_empty_sample_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected shape \(documents, dimension\), got \(0, 3\)"):
        gram_entropy(np.zeros((0, 3)))


WORDS = "river city history north king founded museum station bridge tower harbour garden".split()


def test_hashed_ngrams_tell_wording_apart() -> None:
    rng = np.random.default_rng(0)
    english = [" ".join(rng.choice(WORDS, 60)).encode() for _ in range(20)]
    code = [f"for i in range({n}): value[i] += index * {n}\n".encode() * 8 for n in range(20)]
    rows = hashed_ngrams([*english, *code])
    assert rows.shape == (40, DIMENSION)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1)
    cosine = rows @ rows.T
    assert cosine[:20, :20].mean() > cosine[:20, 20:].mean() + 0.3
    assert math.exp(gram_entropy(rows)) > math.exp(gram_entropy(rows[20:]))


def test_hashed_ngrams_are_fixed_and_keep_inner_products() -> None:
    rows = hashed_ngrams([b"abcabc", b"abcabc", b"", b"ab", b"x" * LONGEST_BYTES + b"more"])
    assert (rows[0] == rows[1]).all()
    assert not rows[2:4].any()  # no n-gram of three bytes
    assert (rows[4] == hashed_ngrams([b"x" * LONGEST_BYTES])[0]).all()
    # Half of the text is shared, the other half is not: the cosine is near a half.
    rng = np.random.default_rng(1)
    shared, left, right = (rng.integers(0, 256, 2000, np.uint8).tobytes() for _ in range(3))
    pair = hashed_ngrams([shared + left, shared + right])
    assert float(pair[0] @ pair[1]) == pytest.approx(0.5, abs=0.2)
