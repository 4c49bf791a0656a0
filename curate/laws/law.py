"""What every law takes and gives.

A law is fitted to a `RunTable`, one row a checkpoint of a run, and then predicts the loss on every
validation set of any mixture at any number of tokens and parameters. It knows nothing of supply,
caps or recipes: what to do with its predictions is `curate.mixture`'s business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RunTable:
    """Checkpoints of training runs; columns are found by name, never by position."""

    domains: tuple[str, ...]
    """Training domains, of the columns of `weights`."""
    targets: tuple[str, ...]
    """Validation sets, of the columns of `losses`; often, not always, the domains' own."""
    runs: tuple[str, ...]
    """shape (rows,), the run a row is a checkpoint of."""
    weights: Array
    """shape (rows, domains), shares of training tokens; each row sums to 1 within 1e-12."""
    tokens: Array
    """shape (rows,), training tokens seen; NaN where the table does not say, in all rows or none.
    Where a table has only steps, steps stand here: laws take any positive measure of progress."""
    params: Array
    """shape (rows,), parameters of the model; NaN where the table does not say, all or none."""
    losses: Array
    """shape (rows, targets), nats per token (or the unit of the table), positive; no NaN."""

    def __post_init__(self) -> None:
        """Raise `ValueError` where the shapes do not belong together."""
        rows = len(self.runs)
        expected = {
            "weights": (rows, len(self.domains)),
            "tokens": (rows,),
            "params": (rows,),
            "losses": (rows, len(self.targets)),
        }
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(f"{name}: expected shape {shape}, got {found}")

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> RunTable:
        """The table of these rows only, in that order."""
        chosen = np.arange(len(self.runs))[rows]
        return RunTable(
            self.domains, self.targets, tuple(self.runs[row] for row in chosen),
            self.weights[chosen], self.tokens[chosen], self.params[chosen], self.losses[chosen],
        )  # fmt: skip


class FittedLaw(Protocol):
    """A law with its coefficients found."""

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Losses, shape (rows, targets), of mixtures of shape (rows, domains).

        `tokens` and `params` have shape (rows,); NaN where the fitted table had NaN.
        """
        ...

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array | None:
        """Derivative by the weights, shape (rows, targets, domains); None: it has none.

        The weights are taken as free numbers, not held to sum to 1.
        """
        ...


@dataclass(frozen=True, slots=True)
class Law:
    """A row of `LAWS`."""

    name: str
    summary: str
    paper: str
    """Short citation with arXiv number and equation; says so where there is none."""
    needs: str
    """What a table must have, in words: checkpoints, model sizes, more runs than so many."""
    fit: Callable[[RunTable], FittedLaw]
    """Raises `FitError` where the table cannot determine it, saying what would."""
    dummy: bool = False
    """Whether it is a yardstick that any other law must beat."""
    convex: bool = False
    """Whether its losses are convex in the shares as fitted here: then one descent finds the best
    mixture, and a certificate says how near it is."""
    replicates: int = 0
    """Resamples that a mixture takes for its intervals unless the recipe says otherwise: as many as
    fit in a minute on 512 runs of 17 domains. Most laws take over a second a fit, and get none."""
