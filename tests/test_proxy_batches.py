"""Batches: exact shares, the builder's order, matched repetition; validation rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from curate.errors import InfeasiblePlan, InputError
from curate.pipeline.tokenize import TokenizedDomains, tokenize_domains
from curate.plan import SequenceSampler, TokenCopier, stream
from curate.plan.budget import apportion
from curate.proxy import training_batches
from curate.proxy.training_batches import (
    BatchSource,
    ProxyDomain,
    RunTokens,
    ValidationRows,
    run_streams,
    supply_streams,
    validation_rows,
)
from curate.recipe import load
from curate.runtime.progress import Observer

LENGTH = 32
START = 1


@pytest.fixture
def tokenized(recipe: Path) -> TokenizedDomains:
    return tokenize_domains(load(recipe), 1, Observer())


def domains_of(
    tokenized: TokenizedDomains, max_epochs: float = 4.0, share: float = 1.0
) -> tuple[ProxyDomain, ...]:
    return tuple(
        ProxyDomain(domain, held_out, max_epochs, share)
        for domain, held_out in zip(tokenized.domains, tokenized.validation, strict=True)
    )


RUNS = [
    RunTokens("a", (0.5, 0.3, 0.2), 40 * LENGTH, 42),
    RunTokens("b", (0.1, 0.2, 0.7), 40 * LENGTH, 42),
    RunTokens("c", (0.0, 1.0, 0.0), 40 * LENGTH, 43),
]


def test_every_planned_token_is_a_target_once(tokenized: TokenizedDomains) -> None:
    domains = domains_of(tokenized)
    batches = list(BatchSource(RUNS, domains, LENGTH, START).batches(4))
    assert len(batches) == 10 and batches[0].shape == (3, 4, LENGTH + 1)
    found = np.concatenate(batches, axis=1)
    assert (found[:, :, 0] == START).all()
    for model, run in enumerate(RUNS):
        supply = supply_streams(domains, run.seed)
        planned = []
        for own, tokens in zip(supply, apportion(run.weights, run.tokens), strict=True):
            number = supply.index(own)
            whole = np.concatenate([tokenized.domains[number].document(d) for d in own.documents])
            planned.append(np.resize(whole, tokens))  # repeats from the start where it is short
        expected = np.sort(np.concatenate(planned))
        assert np.array_equal(np.sort(found[model, :, 1:].ravel()), expected)


def test_order_is_that_of_the_dataset_builder(tokenized: TokenizedDomains) -> None:
    run = RUNS[0]
    streams = [
        stream(domain, ~held_out, tokens, run.seed)
        for domain, held_out, tokens in zip(
            tokenized.domains, tokenized.validation, apportion(run.weights, run.tokens), strict=True
        )
    ]
    built = SequenceSampler(streams, LENGTH, run.seed).shard(0, 1)
    expected = np.empty(run.tokens, np.int64)
    TokenCopier(tokenized.domains).copy(built.pieces, expected)
    batches = BatchSource([run], domains_of(tokenized), LENGTH, START).batches(5)
    found = np.concatenate([batch[0, :, 1:].ravel() for batch in batches])
    assert np.array_equal(found, expected)


def test_a_stack_draws_what_each_run_draws_alone(tokenized: TokenizedDomains) -> None:
    domains = domains_of(tokenized)
    together = list(BatchSource(RUNS, domains, LENGTH, START).batches(4))
    for model, run in enumerate(RUNS):
        alone = list(BatchSource([run], domains, LENGTH, START).batches(4))
        assert all(np.array_equal(t[model], a[0]) for t, a in zip(together, alone, strict=True))


@pytest.mark.parametrize("first", [0, 1, 7, 10])
def test_going_on_at_a_step_draws_the_rest(
    tokenized: TokenizedDomains, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_batches, "STRETCH_TOKENS", 7 * LENGTH)
    source = BatchSource(RUNS, domains_of(tokenized), LENGTH, START)
    whole, rest = list(source.batches(4)), list(source.batches(4, first))
    assert len(whole) == 10 and len(rest) == 10 - first
    assert all(np.array_equal(a, b) for a, b in zip(whole[first:], rest, strict=True))


def test_matched_repetition_shows_the_first_documents_as_often(tokenized: TokenizedDomains) -> None:
    # A target of 30,000 tokens and runs of 3,000: a tenth of each supply, at the same epochs.
    domains = domains_of(tokenized, share=0.1)
    weights = (0.5, 0.3, 0.2)
    run = RunTokens("a", weights, 3000, 42)
    full = supply_streams(domains_of(tokenized), 42)
    for own, whole, weight in zip(
        run_streams(run, domains, supply_streams(domains, 42)), full, weights, strict=True
    ):
        target_epochs = weight * 30_000 / whole.supply_tokens
        assert own.tokens / own.supply_tokens == pytest.approx(target_epochs, rel=0.01)
        assert np.array_equal(own.documents, whole.documents[: len(own.documents)])


def test_a_domain_with_too_few_tokens_for_its_share(tokenized: TokenizedDomains) -> None:
    run = RunTokens("m007", (0.0, 0.0, 1.0), 4096 * LENGTH, 42)
    with pytest.raises(InfeasiblePlan) as caught:
        BatchSource([run], domains_of(tokenized, max_epochs=2.0), LENGTH, START)
    message = str(caught.value)
    assert "run 'm007' needs 131,072 tokens of 'talk' (share 1)" in message
    assert "max_epochs 2 allow" in message and "proxy.tokens: " in message
    possible = int(message.split("proxy.tokens: ")[1].split(",")[0])
    smaller = RunTokens("m007", (0.0, 0.0, 1.0), possible // LENGTH * LENGTH, 42)
    BatchSource([smaller], domains_of(tokenized, max_epochs=2.0), LENGTH, START)
    assert "share of at most" not in message  # an expert's share is nobody's choice
    with pytest.raises(InfeasiblePlan, match="give it a share of at most 0.* in proxy.mixtures"):
        own = RunTokens("m007", (0.0, 0.1, 0.9), 4096 * LENGTH, 42)
        BatchSource([own], domains_of(tokenized, max_epochs=2.0), LENGTH, START)
    with pytest.raises(InfeasiblePlan, match="as often as the target run would see it; max_epochs"):
        BatchSource([run], domains_of(tokenized, share=0.5), LENGTH, START)


def test_validation_rows_are_the_held_out_documents(tokenized: TokenizedDomains) -> None:
    rows = validation_rows(domains_of(tokenized), LENGTH, 300, START, seed=42)
    assert (np.diff(rows.tokens) >= 0).all() and rows.tokens.max() <= LENGTH
    total = np.bincount(rows.domain, rows.tokens, 3).astype(int)
    assert np.array_equal(total, rows.domain_tokens) and (total <= 300).all()
    for row in range(len(rows.tokens)):
        number, document = rows.domain[row], rows.document[row]
        assert tokenized.validation[number][document]
        text = tokenized.domains[number].document(document)
        first, tokens = rows.position[row], rows.tokens[row]
        own = rows.ids[rows.starts[row] : rows.starts[row] + tokens + 1]
        assert own[0] == (text[first - 1] if first else START)
        assert np.array_equal(own[1:], text[first : first + tokens])
    seen, shapes = [], set()
    for numbers, batch in rows.batches(64, 10):
        longest = rows.tokens[numbers].max()
        count, length = batch.shape[0], batch.shape[1] - 1
        assert len(numbers) <= count <= 10 and longest <= length <= 1.5 * longest
        assert count == 1 or batch[:, 1:].size <= 64
        for number, ids in zip(numbers, batch, strict=False):
            start, tokens = rows.starts[number], rows.tokens[number]
            assert np.array_equal(ids[: tokens + 1], rows.ids[start : start + tokens + 1])
        shapes.add(batch.shape)
        seen += numbers.tolist()
    assert seen == list(range(len(rows.tokens)))
    assert len(shapes) == len({length for _, length in shapes})  # one for each length


def test_an_evaluation_has_few_shapes() -> None:
    tokens = np.sort(np.random.default_rng(0).integers(1, 2049, 3000))
    tokens[-1] = 2048
    starts = np.cumsum(tokens + 1) - tokens - 1
    rows = ValidationRows(np.zeros(starts[-1] + 2049, np.int64), starts, tokens,
                          tokens * 0, tokens * 0, tokens * 0, tokens[:1], np.ones(1))  # fmt: skip
    batches = list(rows.batches(7281, 65_535 // 72))
    assert len({batch.shape for _, batch in batches}) <= 22
    assert sum(batch[:, 1:].size for _, batch in batches) < 1.3 * tokens.sum()


def test_bytes_of_whole_documents_are_exact(tokenized: TokenizedDomains) -> None:
    rows = validation_rows(domains_of(tokenized), LENGTH, 10**9, START, seed=42)
    for number, domain in enumerate(tokenized.domains):
        held_out = tokenized.validation[number]
        assert rows.domain_bytes[number] == domain.text_bytes[held_out].sum()
        assert rows.domain_tokens[number] == domain.tokens[held_out].sum()


def test_a_domain_that_holds_nothing_out(recipe: Path) -> None:
    none = tokenize_domains(load(recipe, ("validation.documents=0",)), 1, Observer())
    with pytest.raises(InputError, match="'wiki' holds out no document .* validation.documents"):
        validation_rows(domains_of(none), LENGTH, 100, START, seed=0)
