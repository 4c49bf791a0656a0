"""The interface of laws: the table they are fitted to, and the predictions they make.

A law is fitted to a `RunTable`, one row for each checkpoint of a run, and then predicts the loss of
any mixture on every validation set, at any number of tokens and parameters. It knows nothing of
supply, caps or recipes; `curate.mixture` decides what to do with its predictions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from curate.runtime.artifact_names import NATS

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RunTable:
    """Checkpoints of training runs."""

    domains: tuple[str, ...]
    """Training domains, the columns of `weights`."""
    targets: tuple[str, ...]
    """Validation sets, the columns of `losses`; often one for each domain, but not always."""
    runs: tuple[str, ...]
    """shape (rows,), the run that each row is a checkpoint of."""
    weights: Array
    """shape (rows, domains), shares of training tokens; each row sums to 1 within 1e-12."""
    tokens: Array
    """shape (rows,), training tokens seen; NaN in all rows or in none. Steps if the table has no
    tokens: laws take any positive measure of progress."""
    params: Array
    """shape (rows,), parameters of the model; NaN in all rows or in none."""
    losses: Array
    """shape (rows, targets), nats per token or the unit of the table; positive, no NaN."""
    loss_per_bpb: float = float("nan")
    """How many of the losses' unit one bit per byte is: 1 if that is the unit, ln 2 times the bytes
    of a token for nats per token; NaN if the table does not say."""
    stages: tuple[str, ...] = ()
    """Stages of the runs, in order. Then each domain is `STAGE/DOMAIN`, and `weights` are shares of
    the tokens of all stages. Empty: every run has one mixture throughout."""
    earlier: NDArray[np.bool_] | None = None
    """shape (rows,), whether a row is of a run on earlier domains, which lacked some of these by
    necessity; None: no row is."""
    alike: Array | None = None
    """shape (domains, domains), likeness of the domains' texts: positive semi-definite, with 1 on
    the diagonal. None: unknown."""

    def __post_init__(self) -> None:
        """Raise `ValueError` if the shapes do not match."""
        rows = len(self.runs)
        expected = {
            "weights": (rows, len(self.domains)),
            "tokens": (rows,),
            "params": (rows,),
            "losses": (rows, len(self.targets)),
        }
        for name, shape in expected.items():
            actual = getattr(self, name).shape
            if actual != shape:
                raise ValueError(f"{name}: expected shape {shape}, got {actual}")

    @property
    def unit(self) -> str:
        """Unit of the losses in words, as far as bits per byte beside them tell it."""
        is_nats = math.isfinite(self.loss_per_bpb) and self.loss_per_bpb != 1
        return NATS if is_nats else "in the unit of the runs"

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> RunTable:
        """Keep only these rows, in this order."""
        places = np.arange(len(self.runs))[rows]
        return replace(
            self,
            runs=tuple(self.runs[place] for place in places),
            weights=self.weights[places],
            tokens=self.tokens[places],
            params=self.params[places],
            losses=self.losses[places],
            earlier=None if self.earlier is None else self.earlier[places],
        )


def domains_of_stages(table: RunTable) -> tuple[str, ...]:
    """List the domains of all stages, each once; those of the table where it has no stages.

    Example:
        >>> nothing = np.empty((0, 2))
        >>> table = RunTable(("pre/web", "end/web"), (), (), nothing, nothing[:, 0],
        ...                  nothing[:, 0], nothing[:, :0], stages=("pre", "end"))
        >>> domains_of_stages(table), stage_columns(table).tolist()
        (('web',), [[0], [1]])
    """
    if not table.stages:
        return table.domains
    return tuple(dict.fromkeys(name.partition("/")[2] for name in table.domains))


def stage_columns(table: RunTable) -> NDArray[np.int64]:
    """Find the column of each stage's share of each domain.

    Returns:
        shape (stages, domains), with domains as in `domains_of_stages`; -1 where there is none.
    """
    if not table.stages:
        return np.arange(len(table.domains))[None]
    place = {name: column for column, name in enumerate(table.domains)}
    return np.array(
        [
            [place.get(f"{stage}/{domain}", -1) for domain in domains_of_stages(table)]
            for stage in table.stages
        ]
    )


class FittedLaw(Protocol):
    """A law with fitted coefficients."""

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Predict losses.

        Args:
            weights: shape (rows, domains), shares of training tokens; each row sums to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            shape (rows, targets), in the unit of the fitted table.
        """
        ...

    def gradient(self, weights: Array, tokens: Array, params: Array) -> Array | None:
        """Differentiate the predicted losses by the weights.

        Args:
            weights: shape (rows, domains); free numbers, which need not sum to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            shape (rows, targets, domains); None if the law has no gradient.
        """
        ...


@dataclass(frozen=True, slots=True)
class Law:
    """A row of `LAWS`: the fit of a law, and all properties of it that other code reads."""

    name: str
    summary: str
    """Its form in a few words, for the command line."""
    paper: str
    """Short citation with arXiv number and equation, or `no paper`."""
    needs: str
    """Requirements of a table, in words: checkpoints, model sizes, a number of runs."""
    fit: Callable[[RunTable], FittedLaw]
    """Fit the law; raises `FitError` if the table cannot determine it, and says what would."""
    dummy: bool = False
    """Whether it is a yardstick that any other law must beat."""
    convex: bool = False
    """Whether its fitted losses are convex in the shares: then one descent finds the best mixture,
    with a bound on its distance from the optimum."""
    replicates: int = 0
    """Resamples that a mixture takes for its intervals unless the recipe says otherwise: as many as
    fit in a minute on 512 runs of 17 domains. Most laws take over a second a fit, and get none:
    their intervals come from refits without groups of mixtures alone."""
