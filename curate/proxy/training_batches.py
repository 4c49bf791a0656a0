"""Training batches and validation rows, straight from the memory-mapped token store.

A run's tokens are chosen and ordered by the sampler of the dataset builder: whole tokens by domain
that sum to the run exactly, documents in keyed order, samples spread evenly. Every sequence begins
with the end-of-text token as context, so each of its tokens is predicted once, and shares hold for
predictions too. Nothing is tokenised and nothing is copied but the batch itself.

Shapes: K models, B sequences of each, T tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import InfeasiblePlan, InputError
from curate.plan import PIECE, SequenceSampler, Stream, TokenCopier, shard_count, stream
from curate.plan.budget import allocate
from curate.tokens.domain import DomainTokens

STRETCH_TOKENS = 4_000_000
"""Tokens of a run whose places are worked out at a time."""


@dataclass(frozen=True, slots=True)
class ProxyDomain:
    """A domain as the swarm sees it."""

    tokens: DomainTokens
    held_out: NDArray[np.bool_]
    """shape (documents,), for validation."""
    max_epochs: float
    """Passes over its training tokens that a run may use."""
    supply_share: float = 1.0
    """Of its training tokens, the first in keyed order, that runs may see: the tokens of a run over
    those of the target run, where repetition is to match."""


@dataclass(frozen=True, slots=True)
class RunTokens:
    """What one run trains on."""

    run: str
    weights: tuple[float, ...]
    """shape (domains,), shares of tokens."""
    tokens: int
    """In all; a multiple of the sequence length."""
    seed: int


def supply_streams(domains: Sequence[ProxyDomain], seed: int) -> list[Stream]:
    """What runs of one seed may see of each domain, in keyed order; the same for every mixture."""
    streams = []
    for domain in domains:
        full = stream(domain.tokens, ~domain.held_out, 0, seed)
        streams.append(_first_tokens(full, round(full.supply_tokens * domain.supply_share)))
    return streams


def run_streams(
    run: RunTokens, domains: Sequence[ProxyDomain], supply: Sequence[Stream]
) -> list[Stream]:
    """The supply, with how many tokens of each domain a run takes.

    Args:
        run: Its shares and tokens.
        domains: In the order of its shares.
        supply: From `supply_streams`, of the run's seed.

    Raises:
        InfeasiblePlan: A domain has too few tokens for its share; says what would do.
    """
    taken = allocate(run.weights, run.tokens)
    streams = [replace(own, tokens=tokens) for own, tokens in zip(supply, taken, strict=True)]
    for domain, own in zip(domains, streams, strict=True):
        _check_supply(run, domain, own)
    return streams


def _first_tokens(full: Stream, tokens: int) -> Stream:
    """The stream with a supply of `tokens`, its last document cut; at least one token."""
    tokens = max(1, tokens)
    if tokens >= full.supply_tokens:
        return full
    documents = int(np.searchsorted(full.stops, tokens)) + 1
    stops = full.stops[:documents].copy()
    stops[-1] = tokens
    return replace(full, documents=full.documents[:documents], stops=stops)


def _check_supply(run: RunTokens, domain: ProxyDomain, own: Stream) -> None:
    supply = own.supply_tokens
    most = int(supply * domain.max_epochs)
    if own.tokens <= most:
        return
    epochs = own.tokens / supply if supply else float("inf")
    fewer = f"proxy.tokens: {int(run.tokens * most / own.tokens):_}"
    seen = lower = ""
    if own.tokens < run.tokens:  # else an expert, whose share is nobody's choice
        lower = f"give it a share of at most {most / run.tokens:.4g} in proxy.mixtures, or "
    if domain.supply_share < 1:  # fewer tokens would be drawn from a supply as much smaller
        fewer = f"budget_tokens times {most / own.tokens:.4g}, or proxy.repetition: fresh"
        seen = ", as often as the target run would see it"
    raise InfeasiblePlan(
        f"proxy: run '{run.run}' needs {own.tokens:,} tokens of '{own.name}' (share "
        f"{own.tokens / run.tokens:.4g}), {epochs:.3g} epochs{seen}; max_epochs "
        f"{domain.max_epochs:g} allow {most:,}. Either {lower}{fewer}, or domains[{own.name}]."
        f"max_epochs: {np.ceil(epochs * 100) / 100:g}"
    )


class BatchSource:
    """Batches of a stack of runs over the same domains."""

    def __init__(
        self,
        runs: Sequence[RunTokens],
        domains: Sequence[ProxyDomain],
        sequence_length: int,
        start_id: int,
    ) -> None:
        """Plan every run.

        Args:
            runs: One a model.
            domains: In the order of the runs' weights.
            sequence_length: T.
            start_id: Put before every sequence.

        Raises:
            InfeasiblePlan: A domain has too few tokens for its share.
        """
        self._length = sequence_length
        self._start = start_id
        self._runs = runs
        supply = {seed: supply_streams(domains, seed) for seed in {run.seed for run in runs}}
        self._samplers = [
            SequenceSampler(run_streams(run, domains, supply[run.seed]), sequence_length, run.seed)
            for run in runs
        ]
        self._copier = TokenCopier([domain.tokens for domain in domains])

    def batches(self, sequences: int, first_step: int = 0) -> Iterator[NDArray[np.int64]]:
        """Shape (K, B, T + 1) a step: context and targets; the ids but the last are the input.

        Args:
            sequences: B.
            first_step: Batches to leave out, of a run that goes on.
        """
        readers = [
            _sequences(sampler, run.tokens, sequences, first_step)
            for sampler, run in zip(self._samplers, self._runs, strict=True)
        ]
        out = np.empty(len(self._runs) * sequences * self._length, np.int64)
        for pieces in zip(*readers, strict=True):
            self._copier.copy(np.concatenate(pieces), out)
            batch = np.full((len(self._runs), sequences, self._length + 1), self._start, np.int64)
            batch[:, :, 1:] = out.reshape(len(self._runs), sequences, self._length)
            yield batch


def _sequences(
    sampler: SequenceSampler, tokens: int, sequences: int, first_step: int
) -> Iterator[NDArray[Any]]:
    """Pieces of `sequences` whole sequences at a time, to the end of the run."""
    stretches = shard_count(tokens, STRETCH_TOKENS)
    skip = first_step * sequences
    pieces, lengths = np.empty(0, PIECE), np.empty(0, np.int64)  # pieces, and how many a sequence
    for number in range(stretches):
        found = sampler.shard(number, stretches)
        counts = _pieces_of_each(found.pieces["tokens"], found.lengths)
        if skip >= len(counts):
            skip -= len(counts)
            continue
        pieces = np.concatenate([pieces, found.pieces[counts[:skip].sum() :]])
        lengths = np.concatenate([lengths, counts[skip:]])
        skip = 0
        stops = np.cumsum(lengths)
        taken, whole = 0, len(lengths) // sequences
        for batch in range(whole):
            stop = int(stops[(batch + 1) * sequences - 1])
            yield pieces[taken:stop]
            taken = stop
        pieces, lengths = pieces[taken:], lengths[whole * sequences :]


def _pieces_of_each(tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many pieces make up each sample."""
    ends = np.searchsorted(np.cumsum(tokens), np.cumsum(lengths)) + 1
    counts: NDArray[np.int64] = np.diff(ends, prepend=0)
    return counts


@dataclass(frozen=True, slots=True)
class ValidationRows:
    """Held-out tokens of all domains, as rows that are evaluated together.

    Each row is a stretch of one document: its first tokens after the end-of-text token, or further
    ones after the token before them. Rows are sorted by length, so that little is padding.
    """

    ids: NDArray[np.int64]
    """All tokens with the one before each row, rows one after another."""
    starts: NDArray[np.int64]
    """shape (rows,), of each row in `ids`, where the context token stands."""
    tokens: NDArray[np.int64]
    """shape (rows,), to predict; ascending."""
    domain: NDArray[np.int64]
    """shape (rows,)."""
    document: NDArray[np.int64]
    """shape (rows,), number in the domain."""
    position: NDArray[np.int64]
    """shape (rows,), of the first predicted token in its document."""
    domain_tokens: NDArray[np.int64]
    """shape (domains,)."""
    domain_bytes: NDArray[np.float64]
    """shape (domains,), of text; of a document that is cut, in proportion to its tokens."""

    def batches(self, most_tokens: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Rows and a padded batch, shape (rows, longest + 1), of at most so many tokens."""
        first = 0
        while first < len(self.tokens):
            last = first
            while (
                last + 1 < len(self.tokens)
                and (last + 2 - first) * self.tokens[last + 1] <= most_tokens
            ):
                last += 1
            rows = np.arange(first, last + 1)
            column = np.arange(int(self.tokens[last]) + 1)
            inside = np.minimum(column[None, :], self.tokens[rows, None])
            yield rows, self.ids[self.starts[rows, None] + inside]
            first = last + 1


def validation_rows(
    domains: Sequence[ProxyDomain],
    sequence_length: int,
    tokens_per_domain: int,
    start_id: int,
    seed: int,
) -> ValidationRows:
    """Choose held-out documents in keyed order until a domain has enough; the last is cut.

    Raises:
        InputError: A domain holds out no document.
    """
    ids: list[NDArray[np.int64]] = []
    rows: list[tuple[int, int, int, int]] = []
    totals, text_bytes = np.zeros(len(domains), np.int64), np.zeros(len(domains))
    for number, domain in enumerate(domains):
        chosen = stream(domain.tokens, domain.held_out, 0, seed)
        if not chosen.supply_tokens:
            raise InputError(
                f"proxy: domain '{domain.tokens.name}' holds out no document to measure its loss "
                "on; set validation.documents higher"
            )
        for document in chosen.documents.tolist():
            left = tokens_per_domain - int(totals[number])
            if left <= 0:
                break
            whole = domain.tokens.document(document)
            taken = whole[:left].astype(np.int64)
            for position in range(0, len(taken), sequence_length):
                before = taken[position - 1] if position else start_id
                part = taken[position : position + sequence_length]
                ids.append(np.concatenate([[before], part]))
                rows.append((len(part), number, document, position))
            totals[number] += len(taken)
            own_bytes = int(domain.tokens.text_bytes[document])
            text_bytes[number] += own_bytes * len(taken) / len(whole)
    table = np.array(rows, np.int64)
    order = np.argsort(table[:, 0], kind="stable")
    table = table[order]
    starts = np.cumsum(table[:, 0] + 1) - table[:, 0] - 1
    tokens, domain, document, position = table.T
    joined = np.concatenate([ids[row] for row in order])
    return ValidationRows(joined, starts, tokens, domain, document, position, totals, text_bytes)
