"""Entropies: the formulas as they read, known values, and the identity that ties them together."""

import collections
import math

import numpy as np
import pytest

from curate.stats.entropy import Entropies, entropies, table_entropies
from curate.tokens.count_tables import CountTable, write_table
from curate.tokens.counting import count_stream


def random_stream(rng, symbols, tokens):
    """Documents of skewed ids, half of the odd places repeating the id before, each ended by 0."""
    ids = np.minimum(rng.zipf(1.2, tokens), symbols - 1)
    repeated = np.flatnonzero(rng.random(tokens // 2) < 0.5) * 2 + 1
    ids[repeated] = ids[repeated - 1]
    ids[rng.random(tokens) < 0.05] = 0
    return np.append(ids, 0).astype(np.uint16)


def directly(stream):
    """Plug-in entropies in nats from the definitions, summed exactly."""
    pairs = collections.Counter()
    for first, second in zip(stream.tolist(), stream.tolist()[1:], strict=False):
        if first:
            pairs[first, second] += 1
    firsts = collections.Counter()
    for (first, _), count in pairs.items():
        firsts[first] += count
    total = sum(firsts.values())
    shannon = -math.fsum(c / total * math.log(c / total) for c in firsts.values())
    joint = -math.fsum(c / total * math.log(c / total) for c in pairs.values())
    conditional = -math.fsum(
        c / total * math.log(c / firsts[first]) for (first, _), c in pairs.items()
    )
    return {"shannon": shannon, "joint": joint, "conditional": conditional}, firsts, pairs


@pytest.mark.parametrize("symbols", [2, 5, 300, 5000])
def test_equals_the_definitions(symbols):
    rng = np.random.default_rng(symbols)
    for tokens in (1, 2, 10, 1000, 20_000):
        stream = random_stream(rng, symbols, tokens)
        found = entropies([count_stream(stream, 0, symbols)])
        expected, firsts, pairs = directly(stream)
        for measure in ("shannon", "joint", "conditional"):
            assert getattr(found, measure) == pytest.approx(expected[measure], abs=1e-9)
        assert (found.tokens, found.vocabulary_used) == (firsts.total(), len(firsts))
        assert found.bigrams_used == len(pairs)


def test_joint_is_shannon_plus_conditional():
    rng = np.random.default_rng(0)
    for _ in range(100):
        symbols = int(rng.integers(2, 2000))
        stream = random_stream(rng, symbols, int(rng.integers(1, 5000)))
        found = entropies([count_stream(stream, 0, symbols)])
        assert found.joint == pytest.approx(found.shannon + found.conditional, abs=1e-9)
        assert 0 <= found.conditional <= found.joint
        assert found.shannon <= math.log(max(1, found.vocabulary_used)) + 1e-12


def test_by_hand():
    # Documents (1, 2) and (1, 1): c(1) = 3, c(2) = 1; pairs 1→2, 2→end, 1→1, 1→end once each.
    found = entropies([count_stream(np.array([1, 2, 0, 1, 1, 0], np.uint16), 0, 3)])
    assert found.shannon == pytest.approx(math.log(4) - 3 / 4 * math.log(3), abs=1e-12)
    assert found.joint == pytest.approx(math.log(4), abs=1e-12)
    assert found.conditional == pytest.approx(3 / 4 * math.log(3), abs=1e-12)


@pytest.mark.parametrize("vocabulary", [1, 2, 10, 1000])
def test_a_uniform_source_has_the_logarithm_of_its_symbols(vocabulary):
    stream = np.zeros(2 * vocabulary, np.uint16)
    stream[::2] = np.arange(1, vocabulary + 1)  # every symbol is a document of its own
    found = entropies([count_stream(stream, 0, vocabulary + 1)])
    assert found.shannon == pytest.approx(math.log(vocabulary), abs=1e-12)
    assert found.conditional == pytest.approx(0, abs=1e-12)  # each is followed by the end


def test_uniform_pairs():
    # One document that walks every pair of 1 … V once (V² tokens): each pair has probability 1/V².
    count = 20
    table = np.full((count, count), 7)
    stream = _stream_with_pairs(table)
    found = entropies([count_stream(stream, 0, count + 1)])
    assert found.shannon == pytest.approx(math.log(count), abs=1e-3)
    assert found.conditional == pytest.approx(math.log(count), abs=1e-2)


def _stream_with_pairs(table):
    """A walk that takes each pair as often as the table says (its rows and columns sum alike)."""
    remaining = table.copy()
    walk, stack = [], [0]
    while stack:
        here = stack[-1]
        following = np.flatnonzero(remaining[here])
        if len(following):
            remaining[here, following[0]] -= 1
            stack.append(following[0])
        else:
            walk.append(stack.pop())
    return np.append(np.array(walk[::-1]) + 1, 0).astype(np.uint16)


def test_a_deterministic_chain_has_no_conditional_entropy():
    cycle = np.tile(np.arange(1, 51), 40)
    stream = np.append(cycle, 0).astype(np.uint16)
    # All but the last symbol's end is determined: 50 follows 49, 1 follows 50 but for the end.
    found = entropies([count_stream(stream, 0, 51)])
    assert found.shannon == pytest.approx(math.log(50), abs=1e-12)
    assert found.conditional < 0.003
    documents = np.tile([1, 2, 3, 4, 0], 100).astype(np.uint16)
    found = entropies([count_stream(documents, 0, 5)])
    assert found.conditional == pytest.approx(0, abs=1e-12)
    assert found.joint == pytest.approx(found.shannon, abs=1e-12)


def test_independent_tokens_have_the_conditional_entropy_of_their_distribution():
    rng = np.random.default_rng(5)
    share = np.array([0.5, 0.25, 0.125, 0.125])
    stream = np.append(rng.choice([1, 2, 3, 4], 400_000, p=share), 0).astype(np.uint16)
    found = entropies([count_stream(stream, 0, 5)])
    expected = 1.75 * math.log(2)  # 1/2 · 1 + 1/4 · 2 + 2/8 · 3 bits
    assert found.shannon == pytest.approx(expected, abs=0.003)
    assert found.conditional == pytest.approx(expected, abs=0.003)


def test_nothing_has_no_entropy():
    empty = Entropies(0, 0, 0, 0.0, 0.0, 0.0)
    assert entropies([]) == empty
    assert entropies([count_stream(np.array([0, 0], np.uint16), 0, 9)]) == empty


def test_pieces_of_a_table_give_what_the_table_gives(tmp_path):
    stream = random_stream(np.random.default_rng(6), 200, 5000)
    table = count_stream(stream, 0, 200)
    write_table(tmp_path / "table", [table], 200)
    whole = entropies([table])
    from_disk = table_entropies(tmp_path / "table")
    assert from_disk == whole
    cuts = [0, 3, 4, 50, 200]
    pieces = [
        CountTable(
            table.row_starts[low : high + 1] - table.row_starts[low],
            table.second[table.row_starts[low] : table.row_starts[high]],
            table.count[table.row_starts[low] : table.row_starts[high]],
        )
        for low, high in zip(cuts, cuts[1:], strict=False)
    ]
    cut = entropies(pieces)
    assert (cut.tokens, cut.vocabulary_used) == (whole.tokens, whole.vocabulary_used)
    for measure in ("shannon", "joint", "conditional"):
        assert getattr(cut, measure) == pytest.approx(getattr(whole, measure), abs=1e-12)


def test_precision_holds_for_counts_of_a_trillion():
    # 1,000 symbols a billion times each, always followed by the same one.
    symbols = 1001
    row_starts = np.append(0, np.arange(symbols)).astype(np.int64)
    second = np.zeros(symbols - 1, np.uint32)
    count = np.full(symbols - 1, 10**9, np.int64)
    table = CountTable(row_starts, second, count)
    found = entropies([table])
    assert found.tokens == 10**12
    assert found.shannon == pytest.approx(math.log(1000), abs=1e-11)
    assert found.conditional == pytest.approx(0, abs=1e-11)
