"""Predict every run from the others, by an average of Gaussian processes with simple kernels.

A kernel is linear in square roots or logarithms of the shares, with or without a smooth part. Each
process is weighed by its marginal likelihood, so the standard error of a prediction includes what
is not known of the kernel. Leaving a run out has a closed form.

It judges runs (`far_runs`) and learns noise; the laws make the predictions that mixtures rest on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.laws.fitting.gaussian_process import matern, squared_distances
from curate.laws.law import Array

NOISES = tuple(10.0 ** np.arange(-4, 1.1, 0.75))
"""Variances of the noise that are tried, in units of the linear kernel's mean variance."""
LENGTHS = (1.0, 4.0)
"""Squared lengths of the smooth part, in median squared distances between runs."""
SIZES = (0.3, 3.0)
"""Variances of the smooth part, in the same units as `NOISES`."""
LEVEL_VARIANCE = 10.0
"""Prior variance of the unknown mean: vague."""
OFFSET = 1e-2
"""Added to a share before its logarithm."""
COLUMNS_AT_ONCE = 128


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Predictions of each run by the others; shape (runs, columns) each, or (columns,)."""

    residual: Array
    """Value minus its prediction by the kept runs without this one."""
    errors: Array
    """The residual in its standard errors."""
    noise: Array
    """shape (columns,), standard deviation that no kernel explains."""


def run_kernels(weights: Array) -> list[Array]:
    """Make the kernels between runs, shape (runs, runs) each, from shares (runs, domains)."""
    roots, logs = np.sqrt(weights), np.log(weights + OFFSET)
    squares = squared_distances(roots, roots)
    apart = squares[~np.eye(len(weights), dtype=bool)]
    median = float(np.median(apart[apart > 0])) if (apart > 0).any() else 1.0
    smooth = [matern(squares / (length * median))[0] for length in LENGTHS]
    kernels = []
    for share in (1.0, 0.0, 0.5):
        linear = share * _linear(roots) + (1 - share) * _linear(logs)
        kernels.append(linear)
        kernels += [linear + size * part for part in smooth for size in SIZES]
    return kernels


def predict_left_out(kernels: Sequence[Array], values: Array, kept: NDArray[np.bool_]) -> LeftOut:
    """Predict each run's values from the kept runs but itself.

    Args:
        kernels: Of `run_kernels`, shape (runs, runs) each.
        values: shape (runs, columns), such as log losses.
        kept: shape (runs,), the runs that predict; at least 3.

    References:
        Rasmussen and Williams 2006, Eq. 5.12, for leaving one out; the scale is estimated without
        the run too, as in an externally studentised residual (Belsley, Kuh and Welsch 1980).
    """
    blocks = range(0, values.shape[1], COLUMNS_AT_ONCE)
    parts = [_block(kernels, values[:, at : at + COLUMNS_AT_ONCE], kept) for at in blocks]
    return LeftOut(
        np.hstack([part.residual for part in parts]),
        np.hstack([part.errors for part in parts]),
        np.concatenate([part.noise for part in parts]),
    )


def _linear(features: Array) -> Array:
    centred = features - features.mean(axis=0)
    kernel: Array = centred @ centred.T
    return kernel / max(float(np.trace(kernel)) / len(kernel), 1e-12)


def _block(kernels: Sequence[Array], values: Array, kept: NDArray[np.bool_]) -> LeftOut:
    inside, outside = np.flatnonzero(kept), np.flatnonzero(~kept)
    count = len(inside)
    spread = np.maximum(values[inside].std(axis=0), 1e-9)
    scaled = (values - values[inside].mean(axis=0)) / spread
    noise = np.array(NOISES)[:, None]  # the first axis of what follows, all at once: three times
    losses, residuals, variances, noises = [], [], [], []  # as fast where runs are few
    for kernel in kernels:
        roots, vectors = np.linalg.eigh(kernel[np.ix_(inside, inside)] + LEVEL_VARIANCE)
        turned = vectors.T @ scaled[inside]
        across = (kernel[np.ix_(outside, inside)] + LEVEL_VARIANCE) @ vectors
        prior = kernel[outside, outside] + LEVEL_VARIANCE
        variance = np.maximum(roots, 0) + noise
        solved = turned / variance[:, :, None]
        squares = (turned * solved).sum(axis=1)
        precision = (1 / variance @ vectors.T**2)[:, :, None]
        dual = vectors @ solved
        residual = np.zeros((len(noise), *scaled.shape))
        error = np.zeros_like(residual)
        residual[:, inside] = dual / precision
        positive = np.maximum(squares, 1e-12)
        without = np.maximum(squares[:, None] - dual**2 / precision, 1e-12) / (count - 1)
        error[:, inside] = without / precision
        residual[:, outside] = scaled[outside] - across @ solved
        unseen = prior + noise - 1 / variance @ across.T**2
        error[:, outside] = unseen[:, :, None] * positive[:, None] / count
        losses += list(0.5 * (count * np.log(positive) + np.log(variance).sum(axis=1)[:, None]))
        residuals += list(residual)
        variances += list(error)
        noises += list(noise * squares / count)
    weight = np.exp(np.min(losses, axis=0) - np.array(losses))
    weight /= weight.sum(axis=0)
    tried = np.array(residuals)
    mean = np.einsum("kc,krc->rc", weight, tried)
    variance = np.einsum("kc,krc->rc", weight, np.array(variances) + (tried - mean) ** 2)
    unexplained = np.sqrt((weight * np.array(noises)).sum(axis=0))
    return LeftOut(mean * spread, mean / np.sqrt(variance), unexplained * spread)
