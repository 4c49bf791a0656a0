"""Everything that a report shows, as read from the files of a recipe, a dataset or runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TrainingCurve:
    """Training loss of one small model."""

    run: str
    tokens: Array
    """shape (points,)."""
    losses: Array
    """shape (points,), nats per token."""


@dataclass(frozen=True, slots=True)
class LawCheck:
    """A law beside the runs that it was fitted to."""

    name: str
    targets: tuple[str, ...]
    measured: Array
    """shape (rows, targets), losses of the runs."""
    unseen: Array
    """shape (rows, targets), predicted by fits without each fifth of the mixtures in turn."""
    measured_objective: Array
    """shape (rows,), the objective of the measured losses."""
    unseen_objective: Array
    """shape (rows,), the objective of the predicted losses."""
    relative: bool
    """Whether objectives are ratios."""
    half_width: Array
    """shape (targets,), relative half width of the 95 % interval of a new run's loss."""
    distances: Array
    """shape (mixtures,), Hellinger distance of each trained mixture to its nearest other one."""
    radius: float
    """Largest distance at which the law is trusted."""
    unit: str
    """Unit of the losses, in words."""


@dataclass(frozen=True, slots=True)
class Material:
    """All evidence at hand; a part that is absent has the command that makes it in `missing`."""

    title: str
    source: str
    """Path that was given, and what it is."""
    command: str
    """How the recipe or the runs are named on the command line, as an example in remedies."""
    artifacts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """JSON artifacts by name without suffix: `stats`, `mixture`, `plan`, …"""
    recipe: str | None = None
    """The recipe as it takes effect, YAML."""
    licences: Mapping[str, str] = field(default_factory=dict)
    """Licence by domain, where the recipe states one."""
    samples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Beginnings of some documents, by domain."""
    samples_missing: str = ""
    bad_records: Sequence[Mapping[str, Any]] = ()
    """The first rows of `quarantine.jsonl`."""
    bad_records_total: int = 0
    run_tables: Sequence[str] = ()
    """Paths of the run tables that the law was fitted to, or may be."""
    law: LawCheck | None = None
    law_missing: str = ""
    """Why there is no law, and the command that makes its evidence."""
    curves: Sequence[TrainingCurve] = ()
    explorer: Mapping[str, Any] | None = None
    """Data of the mixture explorer, see `curate.report.page.explorer`."""
    notices: Sequence[str] = ()
    """Warnings about the evidence itself, such as artifacts of another recipe."""
