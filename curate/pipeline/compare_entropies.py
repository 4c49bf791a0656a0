"""Domains measured with intervals, and the mixtures that different methods would make of them.

`measure_domains` makes what `entropy_report.json` holds, `compare_mixtures` the mixtures beside it.
What was measured is kept by `curate.pipeline.measure`, so a build after it measures nothing again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.mixture import (
    METHODS,
    DomainSupply,
    MixtureOptions,
    MixtureRequest,
    Preference,
    limit_tokens,
)
from curate.mixture.methods.entropic import MEASURES
from curate.mixture.simplex import normalised
from curate.pipeline.tokenize import TokenizedDomains
from curate.runtime.progress import Observer
from curate.runtime.workers import map_tasks
from curate.stats.estimate import WeightIntervals, weight_intervals
from curate.stats.measure import (
    DomainReport,
    compare,
    measure_domain,
)
from curate.stats.sampling import SamplePlan, sample_plan
from curate.tokens.domain import DomainTokens
from curate.tokens.tokenizer import Tokenizer

ORIGIN = ("schema", "curate_version", "recipe_hash", "inputs", "backend", "tokenizer")
"""Fields of `stats.json` that say where the numbers come from."""


@dataclass(frozen=True, slots=True)
class Measured:
    """All domains on one sample plan."""

    plan: SamplePlan
    domains: tuple[DomainReport, ...]
    warnings: tuple[str, ...]
    """Domains that are too small, and neighbours whose order is within noise."""

    def to_json(self, stats: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of `entropy_report.json`.

        Args:
            stats: What `stats.json` holds, for the origin.
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
                name: sorted({report.measure(name).estimator for report in self.domains})
                for name in MEASURES
            },
            "domains": {report.name: report.to_json() for report in self.domains},
            "between": {
                "order": [report.name for report in self.domains],
                **{name: _nullable(matrix) for name, matrix in matrices.items()},
            },
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, slots=True)
class _Task:
    domain: DomainTokens
    tokenizer: Tokenizer
    plan: SamplePlan


def measure_domains(
    tokenized: TokenizedDomains, seed: int, workers: int, observer: Observer
) -> Measured:
    """Measure every domain on a sample of the same size, a domain a task.

    Args:
        tokenized: The domains, in the store.
        seed: The recipe's.
        workers: Processes.
        observer: Told of the stage and of every warning.
    """
    plan, warnings = sample_plan(tokenized.domains, seed)
    observer.begin("entropies", [domain.name for domain in tokenized.domains])
    tasks = [_Task(domain, tokenized.tokenizer, plan) for domain in tokenized.domains]
    reports = tuple(map_tasks(_measure, tasks, workers))
    observer.end(f"at most {plan.sample_tokens:,} tokens of each domain")
    alone = _without_interval(reports)
    warnings += tuple(
        f"'{name}' has a single document, so its entropies, and all weights made of them, have "
        "no interval"
        for name in alone
    )
    if others := [report for report in reports if report.name not in alone]:
        warnings += corrected_weights(others, 1.0).warnings
    for warning in warnings:
        observer.notice(warning)
    return Measured(plan, reports, warnings)


def corrected_weights(reports: Sequence[DomainReport], temperature: float) -> WeightIntervals:
    """Shares proportional to exp(CE / T), CE bias corrected, with their 95 % intervals."""
    return weight_intervals(
        {report.name: report.measure("conditional") for report in reports}, temperature
    )


def compare_mixtures(measured: Measured, request: MixtureRequest) -> dict[str, Any]:
    """What each method would choose, before caps but for UniMax, which has them built in.

    Args:
        measured: The same domains as the request's, in its order.
        request: The recipe's, with plug-in entropies; its method matters only for the temperature
            of `entropy`.

    Returns:
        `budget_tokens`, `temperature` of the entropies, `left_out` (why a mixture is not there)
        and `mixtures`: by name `weights`, `low` and `high` (or None), `epochs` at the budget and
        `tv_natural`, the total-variation distance to the natural mixture.

    Raises:
        RecipeError: The temperature is not positive, or the recipe's weights are none.
    """
    names = [domain.name for domain in request.domains]
    heat = request.options.temperature if request.method == "entropy" else None
    heat = 1.0 if heat is None else heat
    chosen = _baselines(request)
    plain = replace(request, options=MixtureOptions(heat, "conditional"))
    chosen["entropy, plug-in"] = METHODS["entropy"].solve(plain)
    known = replace(request, domains=_with_reports(request, measured))
    for measure in ("conditional", "shannon", "joint", "von_neumann"):
        asked = replace(known, options=MixtureOptions(heat, measure))
        chosen[f"entropy, {measure}"] = METHODS["entropy"].solve(asked)
    chosen["leverage"] = METHODS["leverage"].solve(replace(known, options=MixtureOptions()))
    natural = normalised(chosen["natural"].weights)
    mixtures: dict[str, dict[str, Any]] = {}
    for label, preference in chosen.items():
        shares = normalised(preference.weights)
        low, high = _ends(preference)
        mixtures[label] = {
            "weights": dict(zip(names, shares, strict=True)),
            "low": low and dict(zip(names, low, strict=True)),
            "high": high and dict(zip(names, high, strict=True)),
            "epochs": _epochs(shares, request),
            "tv_natural": total_variation(shares, natural),
        }
    return {
        "budget_tokens": request.budget_tokens,
        "temperature": heat,
        "left_out": _left_out(request),
        "mixtures": mixtures,
    }


def _with_reports(request: MixtureRequest, measured: Measured) -> tuple[DomainSupply, ...]:
    """The request's domains with what was measured of them."""
    domains = []
    for domain, report in zip(request.domains, measured.domains, strict=True):
        found = {measure: report.measure(measure) for measure in MEASURES}
        error = {measure: estimate.error for measure, estimate in found.items()}
        domains.append(
            replace(
                domain,
                entropy={measure: estimate.nats for measure, estimate in found.items()},
                entropy_error={name: value for name, value in error.items() if value is not None},
                embedding=tuple(report.mean_embedding.tolist()),
            )
        )
    return tuple(domains)


def _ends(preference: Preference) -> tuple[list[float] | None, list[float] | None]:
    """95 % intervals of the shares before caps, where the method has them."""
    if preference.draws is None:
        return None, None
    low, high = np.quantile(preference.draws, [0.025, 0.975], axis=0)
    weights = preference.weights
    return np.minimum(low, weights).tolist(), np.maximum(high, weights).tolist()


def total_variation(left: Sequence[float], right: Sequence[float]) -> float:
    """Half the sum of absolute differences of two mixtures: the share of tokens that moves.

    Example:
        >>> total_variation([0.5, 0.5, 0.0], [0.25, 0.5, 0.25])
        0.25
    """
    return sum(abs(a - b) for a, b in zip(left, right, strict=True)) / 2


def _without_interval(reports: Sequence[DomainReport]) -> list[str]:
    """Domains of a single document, whose error is unknown rather than nothing."""
    return [report.name for report in reports if report.measure("conditional").low is None]


def _measure(task: _Task) -> DomainReport:
    return measure_domain(task.domain, task.tokenizer, task.plan)


def _baselines(request: MixtureRequest) -> dict[str, Preference]:
    """Mixtures that look at no text, by name."""
    chosen = {name: METHODS[name].solve(request) for name in ("natural", "uniform")}
    if not _left_out(request):
        chosen["unimax"] = METHODS["unimax"].solve(request)
    if all(domain.weight is not None for domain in request.domains):
        chosen["manual"] = METHODS["manual"].solve(request)
    return chosen


def _left_out(request: MixtureRequest) -> list[str]:
    """UniMax needs caps that the budget fits into."""
    most = sum(limit_tokens(request))
    if most >= request.budget_tokens:
        return []
    return [
        f"unimax is left out: max_epochs allows {most:,} tokens, budget_tokens is "
        f"{request.budget_tokens:,}; lower the budget or raise max_epochs"
    ]


def _epochs(shares: Sequence[float], request: MixtureRequest) -> dict[str, float | None]:
    """Passes over each domain at the budget; None where there is nothing to pass over."""
    return {
        domain.name: share * request.budget_tokens / domain.supply_tokens
        if domain.supply_tokens
        else None
        for share, domain in zip(shares, request.domains, strict=True)
    }


def _nullable(matrix: NDArray[np.float64]) -> list[list[float | None]]:
    """Rows of a matrix, None for NaN."""
    return [[None if np.isnan(value) else float(value) for value in row] for row in matrix]
