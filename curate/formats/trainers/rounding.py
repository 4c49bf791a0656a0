"""Turn a mixture of datasets into whole samples by the rounding rules of each trainer.

A trainer draws samples (windows of tokens, or rows), not tokens, and each rounds in its own way.
These functions return the number of samples it draws from each dataset, as its own code would. Left
out: which samples those are, and in which order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.runtime.compiled import kernel

Weights = Sequence[float] | NDArray[Any]
"""shape (datasets,), non-negative, not all zero; need not sum to 1."""

GREEDY_STEPS = 400_000_000
"""Samples times datasets up to which `greedy` goes step by step, in less than a second."""

LEVANTER_BLOCKS = (2048, 4096, 8192, 16384, 32768)
"""Block sizes to choose from: the default first; levanter refuses 2^16."""

MDS_SEED = 9176
"""`shuffle_seed` of StreamingDataset where none is given."""


@dataclass(frozen=True, slots=True)
class FileShare:
    """A file that a trainer takes samples from."""

    tokens: int
    ratio: float = 1.0
    """Share of the file to take."""


def normalised(weights: Weights) -> NDArray[np.float64]:
    """Scale weights to sum to 1.

    Raises:
        ValueError: One is negative or not finite, or none is positive.
    """
    values = np.asarray(weights, np.float64)
    if not np.all(np.isfinite(values)) or np.any(values < 0) or not values.sum() > 0:
        raise ValueError(f"weights must be non-negative and not all zero, got {weights}")
    shares: NDArray[np.float64] = values / values.sum()
    return shares


def greedy(weights: Weights, samples: int) -> NDArray[np.int64]:
    """Draw each sample from the dataset that lags most, as Megatron and nanotron's Nanoset do.

    Sample i comes from the dataset with the largest w * max(i, 1) - drawn, the first of equals.
    Among few datasets even a tiny one is drawn early; among many, one that is due less than about
    half a sample is never drawn. Beyond 4e8 steps the largest remainder stands in, which is off by
    about one sample.

    Args:
        weights: shape (datasets,), non-negative.
        samples: Samples to draw in all.

    Example:
        >>> greedy([0.3, 0.7], 1000).tolist(), greedy([0.999, 0.001], 100).tolist()
        ([300, 700], [99, 1])
    """
    shares = normalised(weights)
    if len(shares) * samples > GREEDY_STEPS:
        return largest_remainder(shares, samples)
    drawn = np.zeros(len(shares), np.int64)
    _greedy(shares, drawn, len(shares), samples)
    return drawn


@kernel
def _greedy(shares, drawn, datasets, samples):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Count what each dataset gives, in place."""
    for sample in range(samples):
        step = max(sample, 1)
        most, neediest = shares[0] * step - drawn[0], 0
        for dataset in range(1, datasets):
            missing = shares[dataset] * step - drawn[dataset]
            if missing > most:
                most, neediest = missing, dataset
        drawn[neediest] += 1
    return samples


def largest_remainder(weights: Weights, samples: int) -> NDArray[np.int64]:
    """Round shares to whole samples, nearest to the mean of random draws.

    Example:
        >>> largest_remainder([0.5, 0.3, 0.2], 11).tolist()
        [6, 3, 2]
    """
    exact = normalised(weights) * samples
    drawn = np.floor(exact).astype(np.int64)
    order = np.argsort(drawn - exact, kind="stable")
    drawn[order[: samples - int(drawn.sum())]] += 1
    return drawn


def missed_chance(weights: Weights, samples: int) -> NDArray[np.float64]:
    """Return the probability that independent draws never take a dataset: (1 - w)^samples.

    Example:
        >>> missed_chance([0.5, 0.5], 2).tolist()
        [0.25, 0.25]
    """
    never: NDArray[np.float64] = (1.0 - normalised(weights)) ** samples
    return never


def proportions(weights: Weights, samples: int, seed: int = MDS_SEED) -> NDArray[np.int64]:
    """Round down, then give one more to streams by lot, as MosaicML's `proportion` does.

    Args:
        weights: shape (streams,), non-negative.
        samples: Samples to draw in all.
        seed: The trainer's `shuffle_seed`.

    Example:
        >>> proportions([0.3, 0.7], 1000).tolist(), int(proportions([1, 1, 1], 100).sum())
        ([300, 700], 100)
    """
    shares = normalised(weights)
    drawn = (samples * shares).astype(np.int64)
    short = samples - int(drawn.sum())
    drawn[np.random.default_rng(seed).choice(len(shares), short, False)] += 1
    return drawn


def block_counts(weights: Weights, block_samples: int) -> NDArray[np.int64]:
    """Round down within each block and give the rest to the largest, as levanter does.

    Example:
        >>> block_counts([0.7, 0.2999, 0.0001], 2048).tolist()
        [1434, 614, 0]
    """
    drawn = (normalised(weights) * block_samples).astype(np.int64)
    drawn[int(np.argmax(drawn))] += block_samples - int(drawn.sum())
    return drawn


def levanter_block(weights: Weights) -> int:
    """Return the smallest block in which every dataset has a sample, else the largest allowed.

    Example:
        >>> levanter_block([0.5, 0.5]), levanter_block([0.9999, 0.0001])
        (2048, 16384)
    """
    shares = normalised(weights)
    least = float(shares[shares > 0].min())
    return next((block for block in LEVANTER_BLOCKS if least * block >= 1), LEVANTER_BLOCKS[-1])


def olmo_paths(file_tokens: Sequence[int], requested_tokens: int) -> list[FileShare]:
    """List a source's files as OLMo-core's source mixture does: once, or again for each pass.

    Example:
        >>> [round(path.ratio, 3) for path in olmo_paths([100, 300], 500)]
        [1.0, 1.0, 0.25, 0.25]
    """
    left = requested_tokens / max(1, sum(file_tokens))
    paths: list[FileShare] = []
    while left > 0:
        ratio = min(1.0, left)
        paths += [FileShare(tokens, ratio) for tokens in file_tokens]
        left -= ratio
    return paths


def olmo_instances(paths: Sequence[FileShare], window_tokens: int, instances: int) -> list[int]:
    """Count the instances that OLMo-core's source mixture takes of each file.

    Each file gives the whole instances of its requested tokens. The instances still missing are
    first dealt out evenly among files that have more; the rest goes to the largest remainders.

    Args:
        paths: Files of all sources, in order.
        window_tokens: Tokens of an instance.
        instances: Instances in all: requested tokens, rounded up to whole batches, over the window.

    Example:
        >>> olmo_instances([FileShare(40_000, 0.5), FileShare(60_000, 0.5)], 16, 3125)
        [1250, 1875]
    """
    requested = [math.ceil(path.tokens * path.ratio) for path in paths]
    most = [path.tokens // window_tokens for path in paths]
    given = [
        min(tokens // window_tokens, limit) for tokens, limit in zip(requested, most, strict=True)
    ]
    able = [number for number in range(len(paths)) if given[number] < most[number]]
    missing = instances - sum(given)
    if missing <= 0 or not able:
        return given
    order = sorted(((requested[n] % window_tokens) / window_tokens, n) for n in able)[::-1]
    for number in able:
        given[number] += min(missing // len(able), most[number] - given[number])
    missing = instances - sum(given)
    open_files = [number for _, number in order if given[number] < most[number]]
    for number in open_files[: max(0, missing)]:
        given[number] += 1
    return given
