"""Measure each domain's text for mixing methods, once, and keep the results in the cache.

Bias-corrected entropies with intervals take seconds per domain, so they are measured only when a
mixture needs them, on a sample of the same size for all domains. The name of a cached file holds a
hash of everything its values depend on: documents, tokenizer, sample and seed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from curate import __version__
from curate.mixture import METHODS
from curate.pipeline.tokenize import TokenizedDomains
from curate.recipe import LoadedRecipe, MixtureRecipe
from curate.runtime.files import hash_json
from curate.runtime.progress import Observer
from curate.runtime.sealed import Notice, read_cached, write_sealed
from curate.runtime.workers import map_tasks
from curate.stats import Statistic, entropy_statistics
from curate.stats.estimate import Estimate
from curate.stats.sampling import SamplePlan, sample_plan
from curate.stats.statistic import EXCERPTS, TEXT, TOKENS, DomainSample, SampleKind
from curate.tokens.domain import DomainTokens
from curate.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:  # loads compiled code, which most commands do not need
    from curate.stats.measure import DomainReport

SCHEMA = 5
"""Version of the kept files. Bump it when an estimator changes."""


class TextEvidence(msgspec.Struct, frozen=True):
    """Entropies and embedding of one domain's text."""

    entropy: dict[str, Estimate] = {}
    """Bias-corrected entropy of each statistic."""
    plugin: dict[str, float] = {}
    """Uncorrected entropy of the same sample, nats, for statistics that counts do not give."""
    embedding: tuple[float, ...] = ()
    """Mean direction of the excerpts, shape (dimension,)."""
    encoder: str = ""
    """Name of the encoder that embedded them."""

    def joined(self, other: TextEvidence) -> TextEvidence:
        """Merge two sets of measurements; the other's win."""
        return TextEvidence(
            {**self.entropy, **other.entropy}, {**self.plugin, **other.plugin},
            self.embedding or other.embedding, self.encoder or other.encoder,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Task:
    """Measure the entropies of one domain that share a sample."""

    domain: DomainTokens
    tokenizer: Tokenizer
    plan: SamplePlan
    kind: SampleKind

    def path(self, cache: Path) -> Path:
        """Return the file that keeps the result."""
        plan = self.plan
        extents: dict[SampleKind, Any] = {
            TOKENS: plan.sample_tokens,
            EXCERPTS: [plan.sample_excerpts, plan.encoder],
            TEXT: plan.text_bytes,
        }
        extent = extents.get(self.kind)
        key = hash_json([SCHEMA, __version__, self.domain.fingerprint, extent, plan.seed])
        directory = cache / "evidence" / self.tokenizer.fingerprint[:16]
        return directory / f"{self.domain.name}-{self.kind}-{key[:24]}.json"


def needed_samples(mixture: MixtureRecipe) -> tuple[SampleKind, ...]:
    """List the samples whose measurements the recipe's method needs, from the method's row.

    Example:
        >>> needed_samples(MixtureRecipe(method="entropy"))
        ('tokens',)
        >>> needed_samples(MixtureRecipe(method="unimax"))
        ()
    """
    return METHODS.find(mixture.method, "mixture.method").measures(mixture)


def recall(
    loaded: LoadedRecipe, tokenized: TokenizedDomains, notice: Notice
) -> tuple[TextEvidence, ...]:
    """Read the measurements that earlier runs kept, one per domain; measure nothing.

    Args:
        loaded: The recipe, for its seed and cache.
        tokenized: The domains in the store.
        notice: Called with a line that names a damaged file.
    """
    plan, _ = sample_plan(tokenized.domains, loaded.recipe.seed)
    domains = []
    for domain in tokenized.domains:
        evidence = TextEvidence()
        for kind in _sample_kinds():
            task = _Task(domain, tokenized.tokenizer, plan, kind)
            evidence = evidence.joined(_read(task.path(loaded.cache_dir), notice))
        domains.append(evidence)
    return tuple(domains)


def gather(
    loaded: LoadedRecipe,
    tokenized: TokenizedDomains,
    kinds: Collection[SampleKind],
    workers: int,
    observer: Observer,
) -> tuple[TextEvidence, ...]:
    """Measure what is missing, then `recall` everything.

    Args:
        loaded: The recipe, for its seed and cache.
        tokenized: The domains in the store; those without documents are not measured.
        kinds: Samples whose entropies are needed, from `needed_samples`.
        workers: Number of processes.
        observer: Receives the stage, and a notice of each domain too small to compare.

    Raises:
        InputError: No document of a domain is long enough to be embedded.
    """
    plan, warnings = sample_plan(tokenized.domains, loaded.recipe.seed)
    tasks = [
        _Task(domain, tokenized.tokenizer, plan, kind)
        for kind in kinds
        for domain in tokenized.domains
        if len(domain)
    ]
    cache = loaded.cache_dir
    notice = observer.notice
    tasks = [
        task
        for task in tasks
        if not _rows(task.kind).keys() <= _read(task.path(cache), notice).entropy.keys()
    ]
    if tasks:
        observer.begin("entropies", [task.domain.name for task in tasks])
        map_tasks(partial(_measure_and_keep, cache), tasks, workers, observer.tick)
        observer.end(f"at most {plan.sample_tokens:,} tokens of each domain")
    for warning in warnings if kinds else ():
        observer.notice(warning)
    return recall(loaded, tokenized, notice)


def remember(
    loaded: LoadedRecipe,
    tokenized: TokenizedDomains,
    plan: SamplePlan,
    reports: Sequence[DomainReport],
) -> None:
    """Keep the measurements of `curate.pipeline.compare_entropies` for later runs.

    Args:
        loaded: The recipe, for its cache.
        tokenized: The domains in the store.
        plan: Sizes of the samples that were measured.
        reports: shape (domains,), measurements of each domain.
    """
    for domain, report in zip(tokenized.domains, reports, strict=True):
        for kind in _sample_kinds():
            task = _Task(domain, tokenized.tokenizer, plan, kind)
            _write(task.path(loaded.cache_dir), _report_evidence(report, kind))


def _report_evidence(report: DomainReport, kind: SampleKind) -> TextEvidence:
    """Extract the entropies of one sample from a report."""
    measurements = {name: report.measurements[name] for name in _rows(kind)}
    embedded = kind == EXCERPTS
    return TextEvidence(
        {name: report.estimate(name) for name in measurements},
        {name: row.plugin for name, row in measurements.items() if row.plugin is not None},
        tuple(report.mean_embedding.tolist()) if embedded else (),
        report.plan.encoder if embedded else "",
    )


def entropy_fields(evidence: TextEvidence) -> dict[str, Any]:
    """Return the fields of a `DomainSupply` that measurements fill."""
    errors = {name: estimate.error for name, estimate in evidence.entropy.items()}
    return {
        "entropy": {name: estimate.nats for name, estimate in evidence.entropy.items()},
        "entropy_error": {name: error for name, error in errors.items() if error is not None},
        "embedding": evidence.embedding,
    }


def _rows(kind: SampleKind) -> dict[str, Statistic]:
    """Return the entropies that are measured on this sample."""
    return {name: row for name, row in entropy_statistics().items() if kind == row.sample}


def _sample_kinds() -> tuple[SampleKind, ...]:
    return tuple(dict.fromkeys(row.sample for row in entropy_statistics().values()))


def _measure_and_keep(cache: Path, task: _Task) -> None:
    """Measure a domain and write the result at once, so that an interrupted run keeps it."""
    _write(task.path(cache), _measure(task))


def _measure(task: _Task) -> TextEvidence:
    sample = DomainSample(task.domain, task.tokenizer, task.plan)
    measurements = {name: row.measure(sample) for name, row in _rows(task.kind).items()}
    embedded = task.kind == EXCERPTS
    return TextEvidence(
        {name: row.estimate for name, row in measurements.items() if row.estimate is not None},
        {name: row.plugin for name, row in measurements.items() if row.plugin is not None},
        tuple(sample.mean_embedding.tolist()) if embedded else (),
        task.plan.encoder if embedded else "",
    )


def _read(path: Path, notice: Notice) -> TextEvidence:
    """Read kept measurements; return none if the file is absent or damaged."""
    payload = read_cached(path, "measured again when a method needs it", notice)
    if payload is None:
        return TextEvidence()
    kept = msgspec.json.decode(payload, type=TextEvidence)
    # Drop statistics of packages that are no longer installed.
    entropy = {name: kept.entropy[name] for name in entropy_statistics() if name in kept.entropy}
    return msgspec.structs.replace(kept, entropy=entropy)


def _write(path: Path, evidence: TextEvidence) -> None:
    write_sealed(path, msgspec.json.encode(evidence))
