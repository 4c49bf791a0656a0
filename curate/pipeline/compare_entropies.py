"""Measure domains with intervals, and make the mixtures that their entropies give.

`measure_domains` makes the measurements of `entropy_report.json`, and `entropy_entrants` makes the
mixtures to compare. `curate.pipeline.measure.remember` keeps the measurements for a later build.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.mixture import MixtureRequest
from curate.mixture.compare_methods import Entrant, before_caps
from curate.pipeline.measure import entropy_fields, report_evidence
from curate.pipeline.tokenize import TokenizedDomains
from curate.runtime.progress import Observer
from curate.runtime.workers import map_tasks
from curate.stats import entropy_statistics
from curate.stats.estimate import order_warnings
from curate.stats.measure import DomainReport, compare, measure_domain
from curate.stats.sampling import SamplePlan, sample_plan

ORIGIN = ("schema", "curate_version", "recipe_hash", "inputs", "backend", "tokenizer")
"""Fields of `stats.json` that identify the source of the numbers."""


@dataclass(frozen=True, slots=True)
class MeasuredDomains:
    """Measurements of all domains on samples of the same size."""

    plan: SamplePlan
    domains: tuple[DomainReport, ...]
    warnings: tuple[str, ...]
    """Name domains that are too small, and domains whose order is within the error."""

    def to_json(self, stats: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of `entropy_report.json`.

        Args:
            stats: The fields of `stats.json`, for the origin.
        """
        matrices = compare(self.domains)
        return {
            **{field: stats[field] for field in ORIGIN},
            "sample": {
                "tokens": self.plan.sample_tokens,
                "excerpts": self.plan.sample_excerpts,
                "text_bytes": self.plan.text_bytes,
                "encoder": self.plan.encoder,
                "seed": self.plan.seed,
            },
            "estimators": {
                name: sorted({report.estimate(name).estimator for report in self.domains})
                for name in entropy_statistics()
            },
            "domains": {report.name: report.to_json() for report in self.domains},
            "between": {
                "order": [report.name for report in self.domains],
                **{name: _nullable(matrix) for name, matrix in matrices.items()},
            },
            "warnings": list(self.warnings),
        }


def measure_domains(
    tokenized: TokenizedDomains, seed: int, workers: int, observer: Observer
) -> MeasuredDomains:
    """Measure every domain on a sample of the same size, one task per domain.

    Args:
        tokenized: The domains in the store.
        seed: Seed of the recipe.
        workers: Number of processes.
        observer: Receives the stage and every warning.
    """
    plan, warnings = sample_plan(tokenized.domains, seed)
    observer.begin("entropies", [domain.name for domain in tokenized.domains])
    measure = partial(measure_domain, tokenizer=tokenized.tokenizer, plan=plan)
    reports = tuple(map_tasks(measure, tokenized.domains, workers))
    observer.end(f"at most {plan.sample_tokens:,} tokens of each domain")
    estimates = {report.name: report.estimate("conditional") for report in reports}
    warnings += tuple(
        f"'{name}' has a single document, so its entropies, and all weights made of them, have "
        "no interval"
        for name, estimate in estimates.items()
        if estimate.error is None
    )
    errors = {name: row.error for name, row in estimates.items() if row.error is not None}
    centre = np.array([estimates[name].nats for name in errors])
    warnings += order_warnings(list(errors), centre, np.array(list(errors.values())))
    for warning in warnings:
        observer.notice(warning)
    return MeasuredDomains(plan, reports, warnings)


def entropy_entrants(measured: MeasuredDomains, request: MixtureRequest) -> list[Entrant]:
    """Make the mixtures, before caps, that need no trained models; one for every entropy.

    Args:
        measured: Measurements of the request's domains, in its order.
        request: Request of the recipe, with plug-in entropies of all tokens.
    """
    domains = tuple(
        replace(domain, **entropy_fields(report_evidence(report)))
        for domain, report in zip(request.domains, measured.domains, strict=True)
    )
    return before_caps(replace(request, domains=domains), request)


def _nullable(matrix: NDArray[np.float64]) -> list[list[float | None]]:
    """Convert a matrix to lists, NaN to None."""
    return [[None if np.isnan(value) else float(value) for value in row] for row in matrix]
