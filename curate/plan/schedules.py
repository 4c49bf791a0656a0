"""Spread a domain over a dataset so that its share follows a curve.

Samples of a domain are spread evenly over places from 0 to 1, see `curate.plan`. A schedule moves
each to the place by which the curve has given the domain as many tokens. The shares of all domains
sum to 1 at every place, so places stay places in the dataset, and every window follows the curve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

NODES = 4096
"""Straight pieces of a curve that is not made of constant ones."""


@dataclass(frozen=True)
class CurveShape:
    """How a mixture goes from its start, 0, to its end, 1, over the tokens of a dataset."""

    name: str = "linear"
    """`linear`, `cosine` or `step`."""
    steps: int | None = None
    """Equal parts of the tokens in which it is constant; None where it changes all the time."""

    @property
    def parts(self) -> int | None:
        """Number of parts with one mixture each; None where it changes all the time."""
        return self.steps or (2 if self.name == "step" else None)

    @cached_property
    def levels(self) -> NDArray[np.float64]:
        """Progress from start to end in each of equal parts, shape (parts,)."""
        parts = self.parts or NODES
        if self.name == "step":
            return np.arange(parts) / (parts - 1)
        middle = (np.arange(parts) + 0.5) / parts
        return middle if self.name == "linear" else (1 - np.cos(math.pi * middle)) / 2


@dataclass(frozen=True)
class Curve:
    """The share of one domain over the places of a dataset."""

    shape: CurveShape
    start: float
    """Share at the start."""
    end: float
    """Share at the end."""

    @property
    def mean(self) -> float:
        """Share of the whole dataset."""
        return (self.start + self.end) / 2

    def part_of(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the part of the domain's tokens that lies before each place, from 0 to 1."""
        edges, sums = self._sums
        return np.interp(places, edges, sums)

    def places(self, parts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the place at which a part of the domain's tokens is reached, from 0 to 1."""
        edges, sums = self._sums
        return np.interp(parts, sums, edges)

    @cached_property
    def _sums(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Places, and the parts of the domain's tokens that lie before them, both ascending."""
        shares = self.start + (self.end - self.start) * self.shape.levels
        sums = np.concatenate([[0.0], np.cumsum(shares)])
        if sums[-1] <= 0:  # no tokens, so no place of it is ever asked for
            sums = np.arange(len(sums), dtype=np.float64)
        return np.linspace(0.0, 1.0, len(sums)), sums / sums[-1]


def window_shares(curves: Sequence[Curve], windows: int) -> NDArray[np.float64]:
    """Return the shares that equal windows of a dataset should have, shape (windows, domains)."""
    edges = np.linspace(0.0, 1.0, windows + 1)
    columns = [np.diff(curve.part_of(edges)) * windows * curve.mean for curve in curves]
    shares: NDArray[np.float64] = np.stack(columns, axis=1)
    return shares
