"""Trace a step of a training run to stretches of the shards.

Three orders can be followed: that of the shards, that of `curate.load`, and Megatron's own through
the index files that it cached. Other trainers that shuffle keep no record of their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curate.dataset.manifest import Manifest
from curate.dataset.megatron_order import read_order
from curate.dataset.places import Provenance, Stretch
from curate.dataset.windows import Cut, NumberedWindows, shuffled, stretches_of
from curate.errors import InputError
from curate.formats.base import WHOLE, TextFormat
from curate.plan import epoch_seed
from curate.plan.per_domain import MIXED

ORDERS = {
    "stored": "the order of the shards, as readers have it that do not shuffle",
    "shuffled": "the order of `curate.load(DIR, L).loader(B)`",
}


@dataclass(frozen=True)
class StepQuery:
    """A step of a training run."""

    step: int
    """Number of the step, from 0."""
    batch: int
    """Sequences of a step, over all ranks and accumulated micro-batches."""
    length: int | None = None
    """Tokens from one sequence to the next; None for the dataset's `sequence_length`."""
    order: str = "stored"
    """A name from `ORDERS`."""
    labels: bool = False
    """Whether windows hold one token more than `length`, as with the field `labels`."""
    index: Path | None = None
    """Directory of Megatron's index files, whose order is followed in place of `order`."""


@dataclass(frozen=True)
class TracedBatch:
    """The samples of a step."""

    samples: list[int]
    """Number of each sample, in the order that was followed."""
    stretches: list[list[Stretch]]
    """Tokens of each sample."""
    notices: list[str] = field(default_factory=list)


def trace_step(provenance: Provenance, query: StepQuery) -> TracedBatch:
    """Find the tokens of a step.

    Args:
        provenance: Provenance of the dataset.
        query: The step.

    Raises:
        InputError: The step cannot be traced: the message says why, and what can be.
    """
    if query.step < 0 or query.batch < 1:
        raise InputError("--step counts from 0, and --batch is at least 1")
    if query.index is not None:
        return _megatron_batch(provenance, query, query.index)
    manifest = provenance.manifest
    form = manifest.configured()
    if isinstance(form, TextFormat):
        raise InputError(
            f"{provenance.directory}: {manifest.format} holds text, which the trainer cuts into "
            f"sequences by itself, so no step can be traced; look up a row, as in "
            f"{manifest.shards[0].stem}#0"
        )
    if manifest.shape != MIXED:
        raise InputError(
            f"{provenance.directory}: the trainer mixes its domains, so no step can be traced; "
            "--index DIR follows the order that Megatron cached"
        )
    notices = []
    if form.sample_order and query.order == "stored":
        remedy = "; --index DIR follows its own" if manifest.format == "megatron" else ""
        notices.append(f"{form.sample_order}; shown is a reader in the order of the shards{remedy}")
    if manifest.packing == WHOLE or (
        form.drops_by_row and manifest.sequence_length is None and query.order == "stored"
    ):
        return _batch_of_rows(provenance, query, notices)
    return _batch_of_windows(provenance, query, notices)


def _batch_of_rows(provenance: Provenance, query: StepQuery, notices: list[str]) -> TracedBatch:
    """Take stored rows as samples, whatever their lengths."""
    if query.length is not None:
        raise InputError(
            f"--length does not fit {provenance.manifest.format}, whose samples are its rows; "
            "leave it out"
        )
    shards = provenance.shard_numbers("train")
    stops = np.cumsum([provenance.manifest.shards[number].sequences for number in shards])
    samples, _ = _samples_of(query, int(stops[-1]), notices)
    stretches = []
    for sample in samples.tolist():
        place = int(np.searchsorted(stops, sample, side="right"))
        pieces = provenance.shard(shards[place])
        row = sample - int(stops[place - 1] if place else 0)
        tokens = int(pieces.rows["tokens"][row])
        stretches.append([Stretch(shards[place], int(pieces.starts[row]), tokens)])
    return TracedBatch(samples.tolist(), stretches, notices)


def _batch_of_windows(provenance: Provenance, query: StepQuery, notices: list[str]) -> TracedBatch:
    """Take windows of one length as samples."""
    manifest = provenance.manifest
    shards = provenance.shard_numbers("train")
    tokens = np.array([manifest.shards[number].tokens for number in shards], np.int64)
    stored, total = manifest.sequence_length, int(tokens.sum())
    cut = _cut(manifest, query, total)
    windows = NumberedWindows(tokens if stored else np.array([total]), cut)
    samples, epoch = _samples_of(query, windows.count, notices)
    numbers = samples
    if query.order == "shuffled":
        key = epoch_seed(manifest.seed, epoch)
        stretches = stretches_of(manifest, windows.count)
        numbers = shuffled(samples, windows.count, key, stretches)
    stops = np.cumsum(tokens)
    return TracedBatch(
        numbers.tolist(),
        [
            _stretches(start, cut.window_tokens, shards, stops)
            for start in windows.starts(numbers).tolist()
        ],
        notices,
    )


def _cut(manifest: Manifest, query: StepQuery, total_tokens: int) -> Cut:
    """Return the rule that cuts windows of the length asked for."""
    stored = manifest.sequence_length
    length = query.length if stored is None or query.length else stored - query.labels
    if length is None:
        raise InputError("the shards hold whole documents: add --length, the trainer's tokens a "
                         "sequence")  # fmt: skip
    window = length + query.labels
    most = stored or total_tokens
    if not 1 <= window <= most:
        raise InputError(
            f"--length {length}: no such window fits; it is 1 to {most - query.labels}"
        )
    return Cut(length, window, stored or total_tokens + 1)


def _samples_of(query: StepQuery, count: int, notices: list[str]) -> tuple[NDArray[np.int64], int]:
    """Return the positions of a step in its epoch, and the epoch; a later one is noted."""
    steps = -(-count // query.batch)
    epoch, step = divmod(query.step, steps)
    if epoch:
        notices.append(
            f"a pass over the shards has {steps:,} steps: shown is step {step:,} of pass "
            f"{epoch + 1}"
        )
    return np.arange(step * query.batch, min(count, (step + 1) * query.batch)), epoch


def _stretches(
    start: int, tokens: int, shards: Sequence[int], stops: NDArray[np.int64]
) -> list[Stretch]:
    """Cut a run of the stream at the borders of shards.

    Args:
        start: First token, from the start of the first shard.
        tokens: Tokens of the run.
        shards: Numbers of the shards in the manifest.
        stops: shape (shards,), end of each shard in the stream.
    """
    stretches, end = [], start + tokens
    while start < end:
        place = int(np.searchsorted(stops, start, side="right"))
        before = int(stops[place - 1]) if place else 0
        stop = min(end, int(stops[place]))
        stretches.append(Stretch(shards[place], start - before, stop - start))
        start = stop
    return stretches


def _megatron_batch(provenance: Provenance, query: StepQuery, index: Path) -> TracedBatch:
    """Follow Megatron's own index."""
    if provenance.manifest.format != "megatron":
        raise InputError(
            f"--index is for format megatron, and {provenance.directory} is "
            f"{provenance.manifest.format}; leave it out"
        )
    if query.length is not None or query.labels:
        raise InputError("--index says how long sequences are; leave out --length and --labels")
    order = read_order(index, provenance)
    first = query.step * query.batch
    if first >= order.samples:
        raise InputError(
            f"--step {query.step}: Megatron's index has {order.samples:,} samples, "
            f"{-(-order.samples // query.batch):,} steps of {query.batch}"
        )
    samples = list(range(first, min(order.samples, first + query.batch)))
    return TracedBatch(samples, [order.stretches(sample, provenance) for sample in samples])
