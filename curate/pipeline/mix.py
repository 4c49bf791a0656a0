"""The mixing stage: from tokenised domains and evidence to shares of tokens.

No budget is turned into whole tokens here; that is `curate.pipeline.plan`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from curate.mixture import DomainSupply, Mixture, MixtureOptions, MixtureRequest, mix
from curate.pipeline.artifacts import notice_bad_records, origin, stats_fields, write_stats
from curate.pipeline.check import by_hand, check_mixture, check_names, kept_shares
from curate.pipeline.measure import TextEvidence, entropy_fields, gather, needed_samples
from curate.pipeline.read_evidence import made_by_proxies, read_evidence, search_options
from curate.pipeline.results import MixtureResult
from curate.pipeline.resume import notice_other_documents, writable_artifacts
from curate.pipeline.stage_supply import StageDomain
from curate.pipeline.tokenize import TokenizedDomains, tokenize_domains
from curate.recipe import LoadedRecipe
from curate.runtime.progress import Observer, write_artifact
from curate.runtime.registry import list_first
from curate.stats.domain_stats import DomainStats, plugin_entropies


@dataclass(frozen=True, slots=True)
class MixedDomains:
    """Tokenised domains and their mixture."""

    tokenized: TokenizedDomains
    measured: tuple[TextEvidence, ...]
    """Further measurements of each domain."""
    request: MixtureRequest
    """Supply, budget and evidence that the method was given."""
    mixture: Mixture
    origin: dict[str, Any]
    """Fields that every artifact starts with: versions and hashes of the inputs."""

    @property
    def stats(self) -> dict[str, Any]:
        """Return the fields of `stats.json`."""
        return stats_fields(self.tokenized, self.measured, self.origin)


def mix_recipe(loaded: LoadedRecipe, workers: int, observer: Observer) -> MixtureResult:
    """Derive a recipe's mixture, and write `stats.json` and `mixture.json`.

    Args:
        loaded: The recipe.
        workers: Number of processes.
        observer: Receives progress, warnings, and the constraints that bind.

    Raises:
        CurateError: Any user-fixable error, including a mixture that its caps do not allow.
    """
    check_names(loaded)
    check_mixture(loaded)
    with writable_artifacts(loaded, observer) as writable:
        tokenized = tokenize_domains(loaded, workers, observer)
        mixed = mix_domains(loaded, tokenized, workers, observer, write=writable)
        if writable:
            write_mixture(loaded, mixed, observer)
        else:
            notice_bad_records(tokenized, observer)
            notice_other_documents(loaded, tokenized.content_hash, observer)
    supply: dict[str, int | None] = {d.name: d.supply_tokens for d in mixed.request.domains}
    return MixtureResult(mixed.mixture.to_json(), supply)


def mix_domains(
    loaded: LoadedRecipe,
    tokenized: TokenizedDomains,
    workers: int,
    observer: Observer,
    *,
    write: bool = True,
) -> MixedDomains:
    """Measure what the method needs, train the proxies it needs, and mix.

    Args:
        loaded: The recipe.
        tokenized: Its domains.
        workers: Number of processes.
        observer: Receives progress, warnings, and the constraints that bind.
        write: Whether to write `stats.json` and the bad records; `write_mixture` writes the rest.

    Raises:
        CurateError: Any user-fixable error.
    """
    measured = gather(loaded, tokenized, needed_samples(loaded.recipe.mixture), workers, observer)
    if made_by_proxies(loaded) is not None:
        from curate.pipeline.proxies import make_evidence

        make_evidence(loaded, tokenized, workers, observer)
    inputs = origin(loaded, tokenized)  # after the proxies, whose runs are among them
    if write:
        write_stats(loaded, tokenized, stats_fields(tokenized, measured, inputs), observer)
    request = mixture_request(loaded, tokenized, measured)
    mixture = _with_schedule(mix(request), loaded, request)
    for warning in mixture.warnings:
        observer.notice(warning)
    if mixture.constraints_active:
        observer.notice(f"mixture: {list_first(mixture.constraints_active)}")
    return MixedDomains(tokenized, measured, request, mixture, inputs)


def _with_schedule(mixture: Mixture, loaded: LoadedRecipe, request: MixtureRequest) -> Mixture:
    """Add a recipe's schedule, of which the mixture is the mean, with shares at its ends."""
    schedule = loaded.recipe.schedule
    if schedule is None:
        return mixture
    starts, ends = zip(*request.ends, strict=True)
    fields = {
        "from": dict(zip(mixture.weights, starts, strict=True)),
        "to": dict(zip(mixture.weights, ends, strict=True)),
        "shape": schedule.shape,
        "steps": schedule.steps,
    }
    return replace(mixture, details={**mixture.details, "schedule": fields})


def write_mixture(loaded: LoadedRecipe, mixed: MixedDomains, observer: Observer) -> None:
    """Write `mixture.json` and, with a law, `law.json`.

    A build does so only after its plan has proved feasible.

    Args:
        loaded: The recipe.
        mixed: The mixture, and what it was made from.
        observer: Told of the files.
    """
    path = loaded.output_dir / "mixture.json"
    write_artifact(path, {**mixed.origin, **mixed.mixture.to_json()}, observer)
    law = loaded.output_dir / "law.json"
    if mixed.mixture.law is None:
        law.unlink(missing_ok=True)  # that of an earlier mixture
    else:
        write_artifact(law, {**mixed.origin, **mixed.mixture.law}, observer)


def mixture_request(
    loaded: LoadedRecipe, tokenized: TokenizedDomains, measured: Sequence[TextEvidence] = ()
) -> MixtureRequest:
    """Make the request of a mixing method from the recipe and the measurements.

    Args:
        loaded: The recipe.
        tokenized: Supply, and the plug-in entropies of all tokens.
        measured: shape (domains,), further measurements; empty for plug-in entropies only.
    """
    recipe, settings = loaded.recipe, tokenized.settings
    mixture = settings.mixture
    stage = tokenized.stage
    limits = [StageDomain(stats.tokens_train, 0) for stats in tokenized.stats]
    domains = tuple(
        DomainSupply(
            name=name,
            supply_tokens=limit.supply_tokens,
            max_epochs=max_epochs,
            weight=weight,
            used_tokens=limit.used_tokens,
            earlier=limit.earlier,
            **_entropies(stats, evidence, mixture.estimator == "corrected"),
            embedding=evidence.embedding,
        )
        for (name, weight), limit, max_epochs, stats, evidence in zip(
            by_hand(loaded, settings),
            limits if stage is None else stage.domains,
            settings.epochs(recipe.max_epochs),
            tokenized.stats,
            measured or [TextEvidence()] * len(tokenized.stats),
            strict=True,
        )
    )
    options = MixtureOptions(
        temperature=mixture.temperature,
        measure=mixture.measure,
        on_shortfall=recipe.on_shortfall,
        search=search_options(
            mixture, recipe.seed, kept_shares(mixture, loaded.base, [d.name for d in domains])
        ),
        floors=mixture.floors,
        caps=mixture.caps,
    )
    supply = {domain.name: float(domain.supply_tokens) for domain in domains}
    evidence = read_evidence(loaded, supply, tokenized.domains)
    return MixtureRequest(
        domains=domains,
        budget_tokens=recipe.budget_tokens,
        method=mixture.method,
        options=options,
        evidence=evidence,
        where=loaded.where,
        ends=settings.ends,
    )


def _entropies(
    stats: DomainStats, evidence: TextEvidence, corrected: bool
) -> dict[str, dict[str, float]]:
    """Return the fields `entropy` and `entropy_error`; corrected entropies replace plug-in ones."""
    entropy = plugin_entropies(stats.entropies) | evidence.plugin
    if not corrected:
        return {"entropy": entropy}
    fields = entropy_fields(evidence)
    return {"entropy": entropy | fields["entropy"], "entropy_error": fields["entropy_error"]}
