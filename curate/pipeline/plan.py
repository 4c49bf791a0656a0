"""Measures, mixes and plans: everything that a build decides before a byte of it is written.

What needs no data (names of methods, formats and measures) is checked before any is read. Stages
leave what they found in files of the dataset's directory, each with the hash of its origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from curate import __version__
from curate.dataset.manifest import QUARANTINE, refuse_foreign
from curate.errors import RecipeError
from curate.formats import FORMATS, check_options, configure
from curate.formats import find as find_format
from curate.formats.base import Settings, TextFormat, TokenFormat
from curate.mixture import DomainSupply, Mixture, MixtureOptions, MixtureRequest, mix
from curate.mixture import find as find_method
from curate.mixture.methods.entropic import MEASURES
from curate.pipeline.measure import Evidence, gather, wanted
from curate.pipeline.proxies import make_evidence
from curate.pipeline.proxy_setup import check_proxy
from curate.pipeline.read_evidence import (
    evidence_hash,
    evidence_paths,
    made_by_proxies,
    read_evidence,
    search_options,
)
from curate.pipeline.tokenize import TokenizedDomains, tokenize_domains
from curate.plan import Stream, stream
from curate.plan.budget import Plan, make_plan
from curate.plan.per_domain import PER_DOMAIN, check_shape
from curate.plan.shards import ShardInputs, ShardPlan, format_settings, plan_shards
from curate.recipe import LoadedRecipe
from curate.runtime.files import atomic_path, hash_json, write_json
from curate.runtime.progress import Observer
from curate.runtime.registry import nearest_hint
from curate.stats.domain_stats import DomainStats
from curate.stats.entropy import MEASURES as PLUGIN_MEASURES


@dataclass(frozen=True)
class Planned:
    """Everything known before a byte is written."""

    tokenized: TokenizedDomains
    request: MixtureRequest
    mixture: Mixture
    plan: Plan
    streams: tuple[Stream, ...]
    format: TokenFormat | TextFormat
    """Configured."""
    settings: Settings
    """What `format` is configured with."""
    shaped: ShardPlan
    origin: dict[str, Any]
    """What every artifact says of where it came from."""

    @property
    def build_hash(self) -> str:
        """Recipe, tokenizer, documents, evidence and curate version."""
        return hash_json(self.origin)


def check_names(loaded: LoadedRecipe) -> None:
    """Resolve every name in the recipe that a registry owns, before data is read.

    Raises:
        RecipeError: A method, measure or format is unknown, or they do not go together.
    """
    recipe = loaded.recipe
    find_method(recipe.mixture.method)
    evidence_paths(loaded)
    if made_by_proxies(loaded) is not None:
        check_proxy(loaded)
    if recipe.mixture.measure not in MEASURES:
        measure = recipe.mixture.measure
        raise RecipeError(
            f"mixture.measure: no measure is called '{measure}'{nearest_hint(measure, MEASURES)} "
            f"(known: {', '.join(MEASURES)})"
        )
    chosen = find_format(recipe.output.format)
    options = check_options(recipe.output.format, recipe.output.options)
    if recipe.output.shape == PER_DOMAIN:
        check_shape(recipe.output.format, options)
    if recipe.packing not in chosen.packings:
        fit = [row.name for row in FORMATS.values() if recipe.packing in row.packings]
        raise RecipeError(
            f"packing: {recipe.packing} is not for format {recipe.output.format}, whose readers "
            f"would not keep its rows; it is for {', '.join(fit)}. Set packing: concat, or another "
            "output.format"
        )
    keeps = isinstance(chosen, TextFormat) or (
        chosen.keeps_documents and not chosen.takes_sequences
    )
    if keeps and recipe.sequence_length is not None:
        raise RecipeError(
            f"sequence_length: format {chosen.name} keeps whole documents and its readers cut "
            "them; remove sequence_length, or use output.format: npy"
        )


def plan_dataset(
    loaded: LoadedRecipe, workers: int, observer: Observer, *, write: bool = True
) -> Planned:
    """Measure, mix and plan; write `stats.json`, `mixture.json` and `plan.json`.

    Raises:
        CurateError: What the user can mend; an infeasible plan among it.
    """
    check_names(loaded)
    tokenized = tokenize_domains(loaded, workers, observer)
    settings = format_settings(loaded, tokenized.tokenizer)
    chosen = configure(loaded.recipe.output.format, settings)
    if isinstance(chosen, TokenFormat):
        chosen.dtype_for(tokenized.tokenizer.vocabulary - 1)
    found = gather(loaded, tokenized, wanted(loaded.recipe.mixture), workers, observer)
    make_evidence(loaded, tokenized, workers, observer)
    if write:
        write_stats(loaded, tokenized, found, observer)
    request = mixture_request(loaded, tokenized, found)
    mixture = mix(request)
    plan = make_plan(mixture, request)
    streams = tuple(
        stream(domain, ~held_out, planned.tokens, loaded.recipe.seed)
        for domain, held_out, planned in zip(
            tokenized.domains, tokenized.validation, plan.domains, strict=True
        )
    )
    inputs = ShardInputs(chosen, settings, streams, tokenized.domains, plan)
    shaped = plan_shards(loaded, inputs)
    plan = _with_documents(plan, shaped.sampler.documents())
    stamp = origin(loaded, tokenized)
    planned = Planned(tokenized, request, mixture, plan, streams, chosen, settings, shaped, stamp)
    if write:
        write_json(loaded.output_dir / "mixture.json", {**stamp, **mixture.to_json()})
        write_json(loaded.output_dir / "plan.json", {**stamp, **plan_json(planned)})
    told = chosen.notices(settings) if chosen.notices is not None else []
    told += [warning for made in shaped.predictions for warning in made.warnings]
    for warning in [*mixture.warnings, *plan.warnings, *told]:
        observer.notice(warning)
    for active in mixture.constraints_active:
        observer.notice(f"mixture: {active}")
    return planned


def plan_json(planned: Planned) -> dict[str, Any]:
    """The fields of `plan.json` that say what will be written, and what trainers make of it."""
    found = planned.plan.to_json()
    shaped = planned.shaped
    if shaped.predictions:
        for row in found["domains"].values():
            row["written_tokens"] = min(row["tokens"], row["supply_tokens"])
        found["trainer_mixture"] = [prediction.to_json() for prediction in shaped.predictions]
    if shaped.packing is not None:
        found["packing"] = shaped.packing
    found["reader_loss"] = shaped.reader_loss
    return found


def mixture_request(
    loaded: LoadedRecipe, tokenized: TokenizedDomains, found: Sequence[Evidence] = ()
) -> MixtureRequest:
    """What a mixing method needs, from the recipe and the measurements.

    Args:
        loaded: The recipe.
        tokenized: Supply, and the plug-in entropies of all tokens.
        found: shape (domains,), what was measured beyond that; none: plug-in entropies only.
    """
    recipe = loaded.recipe
    by_hand = recipe.mixture.weights
    domains = tuple(
        DomainSupply(
            name=domain.name,
            supply_tokens=stats.tokens_train,
            max_epochs=domain.max_epochs or recipe.max_epochs,
            weight=domain.weight if by_hand is None else by_hand.get(domain.name),
            **_entropies(stats, evidence, recipe.mixture.estimator == "corrected"),
            embedding=evidence.embedding,
        )
        for domain, stats, evidence in zip(
            recipe.domains,
            tokenized.stats,
            found or [Evidence()] * len(tokenized.stats),
            strict=True,
        )
    )
    options = MixtureOptions(
        recipe.mixture.temperature, recipe.mixture.measure, recipe.on_shortfall,
        search_options(recipe.mixture, recipe.seed),
    )  # fmt: skip
    return MixtureRequest(
        domains, recipe.budget_tokens, recipe.mixture.method, options, read_evidence(loaded)
    )


def _entropies(
    stats: DomainStats, evidence: Evidence, corrected: bool
) -> dict[str, dict[str, float]]:
    """Fields `entropy` and `entropy_error` of a domain: corrected where asked for and measured."""
    entropy = {measure: getattr(stats.entropies, measure) for measure in PLUGIN_MEASURES}
    entropy |= evidence.plugin
    if not corrected:
        return {"entropy": entropy}
    entropy |= {measure: found.nats for measure, found in evidence.entropy.items()}
    error = {measure: found.error for measure, found in evidence.entropy.items()}
    known = {measure: value for measure, value in error.items() if value is not None}
    return {"entropy": entropy, "entropy_error": known}


def write_stats(
    loaded: LoadedRecipe, tokenized: TokenizedDomains, found: Sequence[Evidence], observer: Observer
) -> None:
    """Write `stats.json`, and `quarantine.jsonl` with every bad record.

    Args:
        loaded: The recipe.
        tokenized: Documents, counts and plug-in entropies.
        found: shape (domains,), entropies measured with intervals, by this or an earlier run; they
            stand in place of the plug-in ones, which stay beside them.
        observer: Told of bad records.

    Raises:
        ShardError: The directory holds files of these names that curate did not write.
    """
    refuse_foreign(loaded.output_dir)
    domains = {
        stats.name: stats.to_json(evidence.entropy)
        for stats, evidence in zip(tokenized.stats, found, strict=True)
    }
    backend = {"backend": tokenized.backend, "tokenizer": tokenized.tokenizer.name}
    write_json(
        loaded.output_dir / "stats.json",
        {**origin(loaded, tokenized), **backend, "domains": domains},
    )
    bad_records = sum(stats.bad_records for stats in tokenized.stats)
    path = loaded.output_dir / QUARANTINE
    path.unlink(missing_ok=True)
    if not bad_records:
        return
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for domain in tokenized.domains:
            for source, line, reason, excerpt in domain.bad_record_rows():
                row = {"domain": domain.name, "file": source, "line": line, "reason": reason,
                       "excerpt": excerpt}  # fmt: skip
                file.write(msgspec.json.encode(row) + b"\n")
    observer.notice(f"{bad_records:,} bad records: see {path}")


def _with_documents(plan: Plan, documents: Sequence[int]) -> Plan:
    domains = tuple(
        replace(domain, documents=count)
        for domain, count in zip(plan.domains, documents, strict=True)
    )
    return replace(plan, domains=domains)


def origin(loaded: LoadedRecipe, tokenized: TokenizedDomains) -> dict[str, Any]:
    """What every artifact says of its origin."""
    evidence = evidence_hash(loaded)
    return {
        "schema": 1,
        "curate_version": __version__,
        "recipe_hash": loaded.hash,
        "inputs": {
            "documents": tokenized.content_hash,
            "tokenizer": tokenized.tokenizer.fingerprint,
            **({} if evidence is None else {"evidence": evidence}),
        },
    }
