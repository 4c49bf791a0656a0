"""Uses by earlier stages, computed from a few numbers, are those of the documents drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from curate.pipeline.tokenize import tokenize_domains
from curate.plan.streams import ORDER_KEY, document_keys, whole_passes
from curate.plan.uses import Draw, Pool, draw_of, earlier_uses, least_used, usage
from curate.recipe import load
from curate.runtime.memory import bounded
from curate.runtime.progress import Observer
from curate.tokens.domain import DomainTokens

SEED = 42


@pytest.fixture
def domain(recipe: Path) -> DomainTokens:
    return tokenize_domains(load(recipe), 1, Observer()).domains[1]


def appearances(documents: np.ndarray, passes: int, partial: int, count: int) -> np.ndarray:
    """Count how often each document appears in whole passes and a part of one."""
    times = np.zeros(count, np.int64)
    for _ in range(passes):
        np.add.at(times, documents, 1)
    np.add.at(times, documents[:partial], 1)
    return times


@pytest.mark.parametrize("seed", range(8))
def test_uses_are_those_of_a_table(domain: DomainTokens, seed: int) -> None:
    """Stages of random sizes and pools, against a table that counts document by document."""
    rng = np.random.default_rng(seed)
    count = len(domain)
    numbers = np.arange(count)
    keys = document_keys(domain, numbers, SEED, ORDER_KEY)
    held_out = rng.random(count) < 0.1
    table = np.zeros(count, np.int64)
    draws: tuple[Draw, ...] = ()
    for stage in range(5):
        pool = None if rng.random() < 0.5 else Pool(rng.random(count) < 0.6, str(stage))
        drawable = ~held_out if pool is None else ~held_out & pool.mask
        supply = int(domain.tokens[drawable].sum())
        tokens = int(rng.uniform(0, 2.5) * supply)
        uses = earlier_uses(numbers, keys, draws)
        np.testing.assert_array_equal(uses[~held_out], table[~held_out])
        counted = usage(domain, drawable, SEED, draws)
        assert counted == {
            times: int(domain.tokens[drawable & (table == times)].sum())
            for times in np.unique(table[drawable]).tolist()
        }
        stream = least_used(domain, drawable, tokens, SEED, draws)
        assert drawable[stream.documents].all()
        order = np.lexsort((numbers, keys, table))
        in_turn = order[np.isin(order, stream.documents)]
        np.testing.assert_array_equal(stream.documents, in_turn)
        passes, partial = whole_passes(stream)
        draws += (draw_of(stream, domain, SEED, draws, pool),)
        table += appearances(stream.documents, passes, partial, count)
    np.testing.assert_array_equal(earlier_uses(numbers, keys, draws)[~held_out], table[~held_out])


@pytest.mark.parametrize("seed", range(4))
def test_without_pools_no_document_is_used_twice_more_than_another(
    domain: DomainTokens, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    count, numbers = len(domain), np.arange(len(domain))
    keys = document_keys(domain, numbers, SEED, ORDER_KEY)
    supply, draws = int(domain.tokens.sum()), ()
    for _ in range(6):
        tokens = int(rng.uniform(0.1, 1.7) * supply)
        stream = least_used(domain, np.ones(count, bool), tokens, SEED, draws)
        draws = (*draws, draw_of(stream, domain, SEED, draws, None))
        uses = earlier_uses(numbers, keys, draws)
        assert uses.max() - uses.min() <= 1


def test_more_documents_than_memory_holds_are_ordered_alike(
    domain: DomainTokens, tmp_path: Path
) -> None:
    first = least_used(domain, np.ones(len(domain), bool), 9_000, SEED, ())
    draws = (draw_of(first, domain, SEED, (), None),)
    whole = least_used(domain, np.ones(len(domain), bool), 20_000, SEED, draws)
    with bounded(1 << 10, tmp_path, lambda: None):
        parts = least_used(domain, np.ones(len(domain), bool), 20_000, SEED, draws)
    np.testing.assert_array_equal(whole.documents, parts.documents)
    np.testing.assert_array_equal(whole.stops, parts.stops)


def test_documents_that_were_used_too_often_wait(domain: DomainTokens) -> None:
    """A stage of a pool uses some documents three times; the next draws the others until then."""
    count = len(domain)
    pool = Pool(np.arange(count) % 2 == 0, "even")
    inside = int(domain.tokens[pool.mask].sum())
    first = least_used(domain, pool.mask, 3 * inside, SEED, ())
    draws = (draw_of(first, domain, SEED, (), pool),)
    others = int(domain.tokens.sum()) - inside
    second = least_used(domain, np.ones(count, bool), 3 * others, SEED, draws)
    assert not pool.mask[second.documents].any()
    assert whole_passes(second) == (3, 0)
