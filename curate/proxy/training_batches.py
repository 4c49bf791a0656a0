"""Training batches and validation rows, straight from the memory-mapped token store.

The sampler of the dataset builder selects and orders the tokens of a run: whole tokens by domain
that sum to the run exactly, documents in keyed order, samples spread evenly. Every sequence begins
with the end-of-text token as context, so each of its tokens is predicted once and shares hold for
predictions too. Nothing is tokenised, and nothing but the batch itself is copied.

Shapes: K models, B sequences of each, T tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import InfeasiblePlan, InputError
from curate.plan import PIECE, DocumentStream, SequenceSampler, TokenCopier, shard_count, stream
from curate.plan.budget import apportion
from curate.tokens.domain import DomainTokens

STRETCH_TOKENS = 4_000_000
"""Tokens of a run whose places are computed at a time; bounds the memory of a long run."""


@dataclass(frozen=True, slots=True)
class ProxyDomain:
    """Tokens of a domain, and which of them a swarm may train on."""

    tokens: DomainTokens
    held_out: NDArray[np.bool_]
    """shape (documents,), true for the documents of validation."""
    max_epochs: float
    """Passes over its training tokens that a run may use."""
    supply_share: float = 1.0
    """Share of its training tokens, the first in keyed order, that runs may see; below 1 where
    repetition should match the target run: tokens of a run over those of the target run."""


@dataclass(frozen=True, slots=True)
class RunTokens:
    """Tokens that one run trains on, by number and shares."""

    run: str
    """Name, for messages."""
    weights: tuple[float, ...]
    """shape (domains,), shares of tokens."""
    tokens: int
    """Total; a multiple of the sequence length."""
    seed: int
    """Key of the order of documents and samples."""


def supply_streams(domains: Sequence[ProxyDomain], seed: int) -> list[DocumentStream]:
    """Select the documents that runs of one seed may see, in keyed order, whatever their mixture.

    Returns:
        One stream for each domain.
    """
    streams = []
    for domain in domains:
        full = stream(domain.tokens, ~domain.held_out, 0, seed)
        streams.append(_first_tokens(full, round(full.supply_tokens * domain.supply_share)))
    return streams


def run_streams(
    run: RunTokens, domains: Sequence[ProxyDomain], supply: Sequence[DocumentStream]
) -> list[DocumentStream]:
    """Set how many tokens of each domain a run takes from the supply.

    Args:
        run: Shares and tokens of the run.
        domains: Domains in the order of the shares.
        supply: Result of `supply_streams` for the run's seed.

    Raises:
        InfeasiblePlan: A domain has too few tokens for its share; the message says what to change.
    """
    taken = apportion(run.weights, run.tokens)
    streams = [replace(each, tokens=tokens) for each, tokens in zip(supply, taken, strict=True)]
    for domain, needed in zip(domains, streams, strict=True):
        _check_supply(run, domain, needed)
    return streams


def _first_tokens(full: DocumentStream, tokens: int) -> DocumentStream:
    """Cut a stream to its first `tokens`, at least one, through a document where need be."""
    tokens = max(1, tokens)
    if tokens >= full.supply_tokens:
        return full
    documents = int(np.searchsorted(full.stops, tokens)) + 1
    stops = full.stops[:documents].copy()
    stops[-1] = tokens
    return replace(full, documents=full.documents[:documents], stops=stops)


def _check_supply(run: RunTokens, domain: ProxyDomain, needed: DocumentStream) -> None:
    supply = needed.supply_tokens
    most = int(supply * domain.max_epochs)
    if needed.tokens <= most:
        return
    epochs = needed.tokens / supply if supply else float("inf")
    fewer = f"proxy.tokens: {int(run.tokens * most / needed.tokens):_}"
    seen = lower = ""
    if needed.tokens < run.tokens:  # else an expert, whose share of 1 cannot be lowered
        lower = f"give it a share of at most {most / run.tokens:.4g} in proxy.mixtures, or "
    if domain.supply_share < 1:  # fewer proxy.tokens would shrink the supply by the same factor
        fewer = f"budget_tokens times {most / needed.tokens:.4g}, or proxy.repetition: fresh"
        seen = ", as often as the target run would see it"
    raise InfeasiblePlan(
        f"proxy: run '{run.run}' needs {needed.tokens:,} tokens of '{needed.name}' (share "
        f"{needed.tokens / run.tokens:.4g}), {epochs:.3g} epochs{seen}; max_epochs "
        f"{domain.max_epochs:g} allow {most:,}. Either {lower}{fewer}, or domains[{needed.name}]."
        f"max_epochs: {np.ceil(epochs * 100) / 100:g}"
    )


class BatchSource:
    """Makes the batches of a stack of runs over the same domains."""

    def __init__(
        self,
        runs: Sequence[RunTokens],
        domains: Sequence[ProxyDomain],
        sequence_length: int,
        start_id: int,
    ) -> None:
        """Plan every run.

        Args:
            runs: One for each model.
            domains: Domains in the order of the runs' weights.
            sequence_length: Tokens of a sequence, T.
            start_id: Id of the token put before every sequence.

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

    def batches(self, sequences: int, first_step: int = 0) -> Iterator[NDArray[np.int32]]:
        """Yield a batch for each step; all ids but the last of a sequence are the input.

        Args:
            sequences: Sequences of each model in a batch, B.
            first_step: Batches to skip, for runs that resume.

        Yields:
            Shape (K, B, T + 1), context and targets.
        """
        readers = [
            _sequences(sampler, run.tokens, sequences, first_step)
            for sampler, run in zip(self._samplers, self._runs, strict=True)
        ]
        out = np.empty(len(self._runs) * sequences * self._length, np.int64)
        for pieces in zip(*readers, strict=True):
            self._copier.copy(np.concatenate(pieces), out)
            batch = np.full((len(self._runs), sequences, self._length + 1), self._start, np.int32)
            batch[:, :, 1:] = out.reshape(len(self._runs), sequences, self._length)
            yield batch


def _sequences(
    sampler: SequenceSampler, tokens: int, sequences: int, first_step: int
) -> Iterator[NDArray[Any]]:
    """Yield the pieces of `sequences` whole sequences at a time, to the end of the run."""
    stretches = shard_count(tokens, STRETCH_TOKENS)
    skip = first_step * sequences
    # Pieces that no batch holds yet, and how many of them make up each sequence. A batch may reach
    # over the border of two stretches, so both are carried over.
    pieces, lengths = np.empty(0, PIECE), np.empty(0, np.int64)
    for number in range(stretches):
        samples = sampler.shard(number, stretches)
        counts = _pieces_of_each(samples.pieces["tokens"], samples.lengths)
        if skip >= len(counts):
            skip -= len(counts)
            continue
        pieces = np.concatenate([pieces, samples.pieces[counts[:skip].sum() :]])
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
    """Count the pieces of each sample."""
    ends = np.searchsorted(np.cumsum(tokens), np.cumsum(lengths)) + 1
    counts: NDArray[np.int64] = np.diff(ends, prepend=0)
    return counts


@dataclass(frozen=True, slots=True)
class ValidationRows:
    """Held-out tokens of all domains, as rows that are evaluated together.

    Each row is a stretch of one document with the token before it as context, which for the first
    stretch is the end-of-text token. Rows are sorted by length, so that little is padding.
    """

    ids: NDArray[np.int64]
    """All rows one after another, each with its context token first."""
    starts: NDArray[np.int64]
    """shape (rows,), index of each row's context token in `ids`."""
    tokens: NDArray[np.int64]
    """shape (rows,), tokens to predict; ascending."""
    domain: NDArray[np.int64]
    """shape (rows,), number of the domain."""
    document: NDArray[np.int64]
    """shape (rows,), number of the document in its domain."""
    position: NDArray[np.int64]
    """shape (rows,), place of the first predicted token in its document."""
    domain_tokens: NDArray[np.int64]
    """shape (domains,), tokens to predict."""
    domain_bytes: NDArray[np.float64]
    """shape (domains,), bytes of text; a cut document counts in proportion to its tokens."""

    def batches(
        self, most_tokens: int, most_rows: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield numbers of rows, and their ids padded on the right to one of few shapes.

        Rows are padded to the next of 1, 2, 3, 4, 6, 8, 12... tokens, and all batches of a length
        have as many rows: a device that prepares for every new shape meets one for each length.

        Args:
            most_tokens: Largest batch with its padding; a longer row is a batch of its own.
            most_rows: Most rows of a batch.

        Yields:
            Row numbers, shape (n,); and ids, shape (at least n, length + 1), whose rows beyond n
            are padding.
        """
        lengths = np.minimum(_ladder(int(self.tokens[-1])), self.tokens[-1])
        bucket = lengths[np.searchsorted(lengths, self.tokens)]
        for length in np.unique(bucket):
            members = np.flatnonzero(bucket == length)
            most = max(1, min(most_tokens // int(length), most_rows))
            rows = -(-len(members) // -(-len(members) // most))
            column = np.arange(int(length) + 1)
            for first in range(0, len(members), rows):
                numbers = members[first : first + rows]
                every = np.resize(numbers, rows)
                inside = np.minimum(column[None, :], self.tokens[every, None])
                yield numbers, self.ids[self.starts[every, None] + inside]


def _ladder(longest: int) -> NDArray[np.int64]:
    """Lengths that rows are padded to: powers of two, and one and a half times them."""
    powers = 2 ** np.arange(longest.bit_length() + 1)
    return np.unique(np.concatenate([powers, powers[1:] * 3 // 2]))


def validation_rows(
    domains: Sequence[ProxyDomain],
    sequence_length: int,
    tokens_per_domain: int,
    start_id: int,
    seed: int,
) -> ValidationRows:
    """Take held-out documents in keyed order until a domain has enough tokens; the last is cut.

    Args:
        domains: Domains of the swarm.
        sequence_length: Most tokens of a row.
        tokens_per_domain: Tokens to predict for each domain; fewer where it holds out fewer.
        start_id: Id of the token before each document.
        seed: Key of the order of documents.

    Raises:
        InputError: A domain holds out no document.
    """
    ids: list[NDArray[np.int64]] = []
    rows: list[tuple[int, int, int, int]] = []
    totals, text_bytes = np.zeros(len(domains), np.int64), np.zeros(len(domains))
    for number, domain in enumerate(domains):
        held_out = stream(domain.tokens, domain.held_out, 0, seed)
        if not held_out.supply_tokens:
            raise InputError(
                f"proxy: domain '{domain.tokens.name}' holds out no document to measure its loss "
                "on; set validation.documents higher"
            )
        for document in held_out.documents.tolist():
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
            whole_bytes = int(domain.tokens.text_bytes[document])
            text_bytes[number] += whole_bytes * len(taken) / len(whole)
    table = np.array(rows, np.int64)
    order = np.argsort(table[:, 0], kind="stable")
    table = table[order]
    starts = np.cumsum(table[:, 0] + 1) - table[:, 0] - 1
    tokens, domain, document, position = table.T
    joined = np.concatenate([ids[row] for row in order])
    return ValidationRows(
        ids=joined,
        starts=starts,
        tokens=tokens,
        domain=domain,
        document=document,
        position=position,
        domain_tokens=totals,
        domain_bytes=text_bytes,
    )
