"""Reproduce the rules by which trainers draw from domains that are written apart.

A rule takes the domains on disk and the tokens of the trainer's window. Shares of tokens are
translated to the unit that it weights (windows or rows), and its rounding is reproduced to the
sample.

Left out: the random draws themselves. Where a trainer samples at random, counts are expected
values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curate.formats.trainers import rounding


@dataclass(frozen=True, slots=True)
class WrittenShard:
    """A shard of a domain written apart: the files under one stem."""

    stem: str
    """Relative to the dataset's directory."""
    tokens: int
    rows: int
    """Documents, or sequences of fixed length."""


@dataclass(frozen=True, slots=True)
class WrittenDomain:
    """A domain on disk, and the tokens that the plan takes from it."""

    name: str
    planned_tokens: int
    """Tokens that training should see, repeats included."""
    shards: tuple[WrittenShard, ...]

    @property
    def tokens(self) -> int:
        """Tokens on disk."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def rows(self) -> int:
        """Rows on disk."""
        return sum(shard.rows for shard in self.shards)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Samples that a trainer draws in an epoch; each list has one entry a domain."""

    weights: list[float]
    """Weights in the trainer's configuration; zero where a domain is left out of it."""
    samples: list[int]
    sample_tokens: list[float]
    """Mean tokens of a sample."""
    pass_samples: list[float]
    """Samples of one pass over what is on disk."""
    missed: list[float]
    """Probability that a domain is never drawn."""


def by_planned(domains: Sequence[WrittenDomain]) -> list[float]:
    """Return each domain's share of the planned tokens."""
    total = sum(domain.planned_tokens for domain in domains)
    return [domain.planned_tokens / total for domain in domains]


def _windows(domains: Sequence[WrittenDomain], window_tokens: int) -> int:
    """Count the windows that the planned tokens fill."""
    return max(1, sum(domain.planned_tokens for domain in domains) // window_tokens)


def _whole_windows(domain: WrittenDomain, stride: int, overlap: int = 0) -> int:
    """Count the windows that lie whole in one shard, over all shards of a domain."""
    return sum(max(0, shard.tokens - overlap) // stride for shard in domain.shards)


def megatron(domains: Sequence[WrittenDomain], window_tokens: int) -> Drawn:
    """Weight shards, not domains; Megatron repeats a shard that is too short without a warning."""
    weights, owners = [], []
    for number, (domain, share) in enumerate(zip(domains, by_planned(domains), strict=True)):
        weights += [share * shard.tokens / domain.tokens for shard in domain.shards]
        owners += [number] * len(domain.shards)
    drawn = rounding.greedy(weights, _windows(domains, window_tokens))
    samples = np.bincount(owners, drawn, len(domains)).astype(np.int64).tolist()
    passes = [max(0.0, (domain.tokens - 1) / window_tokens) for domain in domains]
    return _drawn(by_planned(domains), samples, [float(window_tokens)] * len(domains), passes)


def olmo(domains: Sequence[WrittenDomain], window_tokens: int) -> Drawn:
    """Take the first tokens of each file, in batches of one window (OLMo-core source mixture)."""
    requested = sum(domain.planned_tokens for domain in domains)
    paths: list[rounding.FileShare] = []
    owners: list[int] = []
    for number, (domain, share) in enumerate(zip(domains, by_planned(domains), strict=True)):
        shard_tokens = [shard.tokens for shard in domain.shards]
        paths += rounding.olmo_paths(shard_tokens, int(requested * share))
        owners += [number] * (len(paths) - len(owners))
    instances = rounding.olmo_instances(paths, window_tokens, -(-requested // window_tokens))
    samples = np.bincount(owners, instances, len(domains)).astype(np.int64).tolist()
    passes = [float(_whole_windows(domain, window_tokens)) for domain in domains]
    return _drawn(by_planned(domains), samples, [float(window_tokens)] * len(domains), passes)


def nanotron(domains: Sequence[WrittenDomain], window_tokens: int) -> Drawn:
    """Draw as many windows as all folders hold; Nanoset fails on a folder without a window."""
    passes = [_whole_windows(domain, window_tokens + 1) for domain in domains]
    shares = by_planned(domains)
    weights = [share if held else 0.0 for share, held in zip(shares, passes, strict=True)]
    if not any(weights):
        nothing = [0] * len(domains)
        return _drawn(weights, nothing, [float(window_tokens)] * len(domains), [0.0] * len(domains))
    drawn = rounding.greedy(weights, sum(passes))
    samples = [
        count if weight else 0 for count, weight in zip(drawn.tolist(), weights, strict=True)
    ]
    return _drawn(
        weights, samples, [float(window_tokens)] * len(domains), [float(held) for held in passes]
    )


def levanter(domains: Sequence[WrittenDomain], window_tokens: int) -> Drawn:
    """Round shares to whole sequences in every block of sequences."""
    weights = by_planned(domains)
    block = rounding.levanter_block(weights)
    counts = rounding.block_counts(weights, block)
    total = _windows(domains, window_tokens)
    shares = counts / block
    samples = (
        rounding.largest_remainder(shares, total).tolist()
        if total < block
        else [int(count) for count in np.rint(shares * total)]
    )
    missed = [(1.0 - share) ** total if total < block else float(share == 0) for share in shares]
    passes = [domain.tokens / window_tokens for domain in domains]
    sample_tokens = [float(window_tokens)] * len(domains)
    return Drawn(weights, samples, sample_tokens, passes, missed)


def random_windows(domains: Sequence[WrittenDomain], window_tokens: int) -> Drawn:
    """Draw windows independently at random."""
    weights = by_planned(domains)
    total = _windows(domains, window_tokens)
    samples = rounding.largest_remainder(weights, total).tolist()
    missed = rounding.missed_chance(weights, total).tolist()
    passes = [domain.tokens / window_tokens for domain in domains]
    return Drawn(weights, samples, [float(window_tokens)] * len(domains), passes, missed)


def litdata(domains: Sequence[WrittenDomain], window_tokens: int) -> Drawn:
    """Draw blocks at random; a block never crosses files, and an empty folder cannot be mixed."""
    held = [_whole_windows(domain, window_tokens + 1) for domain in domains]
    kept = [number for number, blocks in enumerate(held) if blocks]
    weights, samples = [0.0] * len(domains), [0] * len(domains)
    missed = [1.0] * len(domains)
    if kept:
        drawn = random_windows([domains[number] for number in kept], window_tokens)
        for place, number in enumerate(kept):
            weights[number], samples[number] = drawn.weights[place], drawn.samples[place]
            missed[number] = drawn.missed[place]
    sample_tokens = [float(window_tokens)] * len(domains)
    return Drawn(weights, samples, sample_tokens, [float(blocks) for blocks in held], missed)


def row_tokens(domain: WrittenDomain) -> float:
    """Return the mean tokens of a domain's rows."""
    return domain.tokens / max(1, domain.rows)


def planned_rows(domains: Sequence[WrittenDomain]) -> list[float]:
    """Convert planned tokens to rows, at each domain's mean tokens a row."""
    return [domain.planned_tokens / row_tokens(domain) for domain in domains]


def mosaic(domains: Sequence[WrittenDomain], window_tokens: int) -> Drawn:
    """Choose whole rows, at least one of each domain; nothing is random (`choose`)."""
    del window_tokens  # rows are taken as they are
    samples = [max(1, round(rows)) for rows in planned_rows(domains)]
    weights = [rows / sum(samples) for rows in samples]
    return _drawn(weights, samples, _mean_rows(domains), [float(s.rows) for s in domains])


def mosaic_proportion(domains: Sequence[WrittenDomain], window_tokens: int) -> Drawn:
    """Round shares of rows over an epoch of the planned rows (`proportion`)."""
    del window_tokens
    rows = planned_rows(domains)
    drawn = rounding.proportions(rows, epoch_rows(domains))
    weights = rounding.normalised(rows).tolist()
    return _drawn(weights, drawn.tolist(), _mean_rows(domains), [float(s.rows) for s in domains])


def epoch_rows(domains: Sequence[WrittenDomain]) -> int:
    """Count the rows that hold the planned tokens."""
    return max(1, round(sum(planned_rows(domains))))


def random_rows(domains: Sequence[WrittenDomain], window_tokens: int) -> Drawn:
    """Draw rows independently at random."""
    del window_tokens
    rows = planned_rows(domains)
    weights = rounding.normalised(rows).tolist()
    samples = rounding.largest_remainder(rows, epoch_rows(domains)).tolist()
    missed = rounding.missed_chance(rows, epoch_rows(domains)).tolist()
    return Drawn(weights, samples, _mean_rows(domains), [float(s.rows) for s in domains], missed)


def _mean_rows(domains: Sequence[WrittenDomain]) -> list[float]:
    return [row_tokens(domain) for domain in domains]


def _drawn(
    weights: list[float], samples: list[int], sample_tokens: list[float], passes: list[float]
) -> Drawn:
    return Drawn(weights, samples, sample_tokens, passes, [float(not count) for count in samples])
