"""Read `law.json`, which may come from a stranger's dataset, into a law beside its runs."""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from curate.errors import InputError
from curate.laws.formula import decoded
from curate.mixture.search.objective import goals_of
from curate.mixture.search.trust_region import hellinger
from curate.report.page.material import LawCheck

Array = NDArray[np.float64]

MOST_MIXTURES = 1000
"""Trained mixtures among which distances are shown."""

Names = Annotated[list[str], Meta(min_length=1)]


class _Law(msgspec.Struct, frozen=True):
    """The fields of `law.json` that are read; see `curate.mixture.methods.law_record`."""

    law: str
    domains: Names
    targets: Names
    unit: str
    tokens: float | None
    params: float | None
    goals: Annotated[list[list[float]], Meta(min_length=1)]
    relative: bool
    kl: float
    prior: list[float] | None
    discount_repeats: bool
    half_widths: list[float]
    widths: dict[str, Any] | None
    runs_tokens: Annotated[list[float], Meta(min_length=2, max_length=2)] | None
    misfit: float
    radius: float
    mixtures: dict[str, Any]
    measured: dict[str, Any]
    unseen: dict[str, Any]
    formula: dict[str, Any] | None


def check_law(fields: Mapping[str, Any], names: Sequence[str]) -> LawCheck:
    """Check the fields of `law.json`, and compute what the page shows of them.

    Args:
        fields: The fields, by name.
        names: Domains of the recipe, which the law must have.

    Raises:
        InputError: A field is absent, or of the wrong kind or shape.
    """
    try:
        law = msgspec.convert(fields, _Law)
        targets, domains = len(law.targets), len(law.domains)
        mixtures = decoded(law.mixtures, (None, domains))
        measured, unseen = (decoded(rows, (None, targets)) for rows in (law.measured, law.unseen))
        goals, widths = np.array(law.goals), np.array(law.half_widths)
        shapes = goals.shape == (len(law.goals), targets) and widths.shape == (targets,)
        if not shapes or measured.shape != unseen.shape or not len(measured) or not len(mixtures):
            raise ValueError("shapes differ")
        if not (np.min(measured) > 0 and np.min(unseen) > 0):
            raise ValueError("losses are not positive")
        if law.prior is not None and len(law.prior) != domains:
            raise ValueError("the prior has other domains")
        absent = [name for name in names if name not in law.domains]
        if absent:
            raise ValueError(f"it has no domain '{absent[0]}'")
    except (msgspec.ValidationError, ValueError, binascii.Error) as error:
        raise InputError(f"law.json: not as curate writes it ({error}); run curate mix") from error
    first = mixtures[:MOST_MIXTURES]
    distances = hellinger(first, first)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.min(axis=1)
    return LawCheck(
        name=law.law,
        targets=tuple(law.targets),
        measured=measured,
        unseen=unseen,
        measured_objective=goals_of(measured, goals).max(axis=1),
        unseen_objective=goals_of(unseen, goals).max(axis=1),
        relative=law.relative,
        half_width=widths,
        distances=nearest[np.isfinite(nearest)],
        radius=law.radius,
        unit=law.unit,
    )
