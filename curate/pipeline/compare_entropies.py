"""Measure domains with intervals, and make the mixtures that their entropies give.

`measure_domains` makes the measurements of `entropy_report.json`, once, and keeps them in the
cache; `entropy_entrants` makes the mixtures to compare.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from curate import __version__
from curate.mixture import MixtureRequest
from curate.mixture.compare_methods import Entrant, before_caps
from curate.pipeline.measure import SCHEMA, TextEvidence, entropy_fields, recall, remember
from curate.pipeline.tokenize import TokenizedDomains
from curate.recipe import LoadedRecipe
from curate.runtime.files import hash_json, json_text
from curate.runtime.progress import Observer
from curate.runtime.sealed import read_cached, write_sealed
from curate.runtime.workers import map_tasks
from curate.stats import STATISTICS, entropy_statistics
from curate.stats.estimate import order_warnings
from curate.stats.sampling import SamplePlan, sample_plan

if TYPE_CHECKING:  # loads compiled code, which a kept report does without
    from curate.stats.measure import DomainReport

ORIGIN = ("schema", "curate_version", "recipe_hash", "inputs", "backend", "tokenizer")
"""Fields of `stats.json` that identify the source of the numbers."""


@dataclass(frozen=True, slots=True)
class MeasuredDomains:
    """Measurements of all domains on samples of the same size."""

    report: dict[str, Any]
    """The fields of `entropy_report.json`, without those of the origin."""
    evidence: tuple[TextEvidence, ...]
    """Entropies and embedding of each domain, as mixtures use them."""

    def to_json(self, stats: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of `entropy_report.json`.

        Args:
            stats: The fields of `stats.json`, for the origin.
        """
        return {**{field: stats[field] for field in ORIGIN}, **self.report}


def measure_domains(
    loaded: LoadedRecipe, tokenized: TokenizedDomains, workers: int, observer: Observer
) -> MeasuredDomains:
    """Measure every domain on a sample of the same size, unless the cache holds the report.

    Args:
        loaded: The recipe, for its seed and cache.
        tokenized: The domains in the store.
        workers: Number of processes.
        observer: Receives the stage and every warning.
    """
    plan, _ = sample_plan(tokenized.domains, loaded.recipe.seed)
    path = _report_path(loaded.cache_dir, tokenized, plan)
    kept = read_cached(path, "measured again", observer.notice)
    evidence = recall(loaded, tokenized, observer.notice)
    measures = entropy_statistics().keys()
    if kept is None or any(measures - one.entropy.keys() for one in evidence):
        kept = _measure(loaded, tokenized, workers, observer)
        write_sealed(path, kept)
        evidence = recall(loaded, tokenized, observer.notice)
    report = json.loads(kept)
    for warning in report["warnings"]:
        observer.notice(warning)
    return MeasuredDomains(report, evidence)


def entropy_entrants(measured: MeasuredDomains, request: MixtureRequest) -> list[Entrant]:
    """Make the mixtures, before caps, that need no trained models; one for every entropy.

    Args:
        measured: Measurements of the request's domains, in its order.
        request: Request of the recipe, with plug-in entropies of all tokens.
    """
    domains = tuple(
        replace(domain, **entropy_fields(evidence))
        for domain, evidence in zip(request.domains, measured.evidence, strict=True)
    )
    return before_caps(replace(request, domains=domains), request)


def _report_path(cache: Path, tokenized: TokenizedDomains, plan: SamplePlan) -> Path:
    """Return the file that keeps the report; its name hashes all that the report depends on."""
    domains = [[domain.name, domain.fingerprint] for domain in tokenized.domains]
    key = hash_json([SCHEMA, __version__, domains, asdict(plan), list(STATISTICS)])
    directory = cache / "evidence" / tokenized.tokenizer.fingerprint[:16]
    return directory / f"report-{key[:24]}.json"


def _measure(
    loaded: LoadedRecipe,
    tokenized: TokenizedDomains,
    workers: int,
    observer: Observer,
) -> bytes:
    """Measure every domain, one task each, and keep what mixtures use; return the report."""
    from curate.stats.measure import measure_domain

    plan, warnings = sample_plan(tokenized.domains, loaded.recipe.seed)
    observer.begin("entropies", [domain.name for domain in tokenized.domains])
    measure = partial(measure_domain, tokenizer=tokenized.tokenizer, plan=plan)
    reports = tuple(map_tasks(measure, tokenized.domains, workers))
    observer.end(f"at most {plan.sample_tokens:,} tokens of each domain")
    remember(loaded, tokenized, plan, reports)
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
    return json_text(_report(plan, reports, warnings)).encode()


def _report(
    plan: SamplePlan, reports: Sequence[DomainReport], warnings: Sequence[str]
) -> dict[str, Any]:
    from curate.stats.measure import compare

    matrices = compare(reports)
    return {
        "sample": {
            "tokens": plan.sample_tokens,
            "excerpts": plan.sample_excerpts,
            "text_bytes": plan.text_bytes,
            "encoder": plan.encoder,
            "seed": plan.seed,
        },
        "estimators": {
            name: sorted({report.estimate(name).estimator for report in reports})
            for name in entropy_statistics()
        },
        "domains": {report.name: report.to_json() for report in reports},
        "between": {
            "order": [report.name for report in reports],
            **{name: _nullable(matrix) for name, matrix in matrices.items()},
        },
        "warnings": list(warnings),
    }


def _nullable(matrix: NDArray[np.float64]) -> list[list[float | None]]:
    """Convert a matrix to lists, NaN to None."""
    return [[None if np.isnan(value) else float(value) for value in row] for row in matrix]
