"""The planning stage: all decisions of a build that come before its shards are written.

`plan_dataset` leaves it to its caller to check the recipe's names first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from curate.formats import configure
from curate.formats.base import Settings, TextFormat, TokenFormat
from curate.pipeline.artifacts import notice_bad_records, write_stats
from curate.pipeline.check import check_mixture, check_names
from curate.pipeline.mix import MixedDomains, mix_domains, write_mixture
from curate.pipeline.resume import notice_other_documents, writable_artifacts
from curate.pipeline.tokenize import TokenizedDomains, tokenize_domains
from curate.plan import DocumentStream
from curate.plan.budget import Plan, make_plan
from curate.plan.schedules import Curve, CurveShape
from curate.plan.shards import ShardInputs, ShardPlan, format_settings, plan_shards
from curate.plan.streams import documents_used
from curate.plan.uses import least_used
from curate.recipe import LoadedRecipe
from curate.runtime.external_sort import metered_sorts
from curate.runtime.files import hash_json
from curate.runtime.memory import blocks, take
from curate.runtime.progress import Observer, write_artifact
from curate.runtime.registry import counted
from curate.stats.domain_stats import Amounts


@dataclass(frozen=True)
class Planned:
    """The decisions of a build, made before its shards are written."""

    mixed: MixedDomains
    plan: Plan
    streams: tuple[DocumentStream, ...]
    format: TokenFormat | TextFormat
    """The output format, configured."""
    settings: Settings
    """The settings that `format` is configured with."""
    shaped: ShardPlan

    @property
    def tokenized(self) -> TokenizedDomains:
        """Return the domains."""
        return self.mixed.tokenized

    @property
    def build_hash(self) -> str:
        """Hash of the recipe, tokenizer, documents, evidence and curate version."""
        return hash_json(self.mixed.origin)


def plan_recipe(loaded: LoadedRecipe, workers: int, observer: Observer) -> dict[str, Any]:
    """Plan a recipe's dataset and write the plan, unless another dataset is in its directory.

    Args:
        loaded: The recipe.
        workers: Number of processes.
        observer: Receives progress and warnings.

    Returns:
        The fields of `plan.json`, without those of its origin.

    Raises:
        CurateError: Any user-fixable error, including an infeasible plan.
    """
    check_names(loaded)
    check_mixture(loaded)
    with writable_artifacts(loaded, observer) as writable:
        planned = plan_dataset(loaded, workers, observer, write=writable)
        if not writable:
            notice_other_documents(loaded, planned.tokenized.content_hash, observer)
    return plan_json(planned)


def plan_dataset(
    loaded: LoadedRecipe, workers: int, observer: Observer, *, write: bool = True
) -> Planned:
    """Tokenise, measure, mix and plan.

    Args:
        loaded: The recipe, its names checked.
        workers: Number of processes.
        observer: Receives progress and warnings.
        write: Whether to write `stats.json`, `mixture.json` and `plan.json`.

    Raises:
        CurateError: Any user-fixable error, including an infeasible plan.
    """
    tokenized = tokenize_domains(loaded, workers, observer)
    planned = plan_tokenized(loaded, tokenized, workers, observer, write=write)
    if not write:  # otherwise they are counted where they are listed
        notice_bad_records(tokenized, observer)
    return planned


def plan_tokenized(
    loaded: LoadedRecipe,
    tokenized: TokenizedDomains,
    workers: int,
    observer: Observer,
    *,
    write: bool = True,
) -> Planned:
    """Measure, mix and plan.

    Args:
        loaded: The recipe, its names checked.
        tokenized: Its domains.
        workers: Number of processes.
        observer: Receives progress and warnings.
        write: Whether to write `stats.json`, `mixture.json` and `plan.json`.

    Raises:
        CurateError: Any user-fixable error, including an infeasible plan.
    """
    settings = format_settings(loaded, tokenized.tokenizer)
    output_format = configure(loaded.recipe.output.format, settings)
    if isinstance(output_format, TokenFormat):  # fail now, not after measuring and training
        output_format.dtype_for(tokenized.tokenizer.vocabulary - 1)
    mixed = mix_domains(loaded, tokenized, workers, observer, write=write)
    plan = make_plan(mixed.mixture, mixed.request)
    observer.begin("plan", [loaded.recipe.name])
    streams = _ordered(loaded, tokenized, plan, observer)
    inputs = ShardInputs(output_format, settings, streams, tokenized.domains, plan)
    shaped = plan_shards(loaded, inputs)
    observer.end(f"{counted(sum(len(order.documents) for order in streams), 'document')} in order")
    planned = Planned(
        mixed=mixed,
        plan=_with_documents(plan, shaped.sampler.documents()),
        streams=streams,
        format=output_format,
        settings=settings,
        shaped=shaped,
    )
    if write:
        _write_plan(loaded, planned, observer)
    warnings = [*plan.warnings]
    if output_format.notices is not None:
        warnings += output_format.notices(settings)
    warnings += [warning for prediction in shaped.predictions for warning in prediction.warnings]
    for warning in warnings:
        observer.notice(warning)
    return planned


def _ordered(
    loaded: LoadedRecipe, tokenized: TokenizedDomains, plan: Plan, observer: Observer
) -> tuple[DocumentStream, ...]:
    """Put the documents of each domain into the order in which they are taken."""
    streams = []
    curves = curves_of(loaded, tokenized)
    masks = map(tokenized.drawable, range(len(tokenized.domains)))
    drawn = (np.count_nonzero(mask[rows]) for mask in masks for rows in blocks(len(mask)))
    with metered_sorts(observer, int(sum(drawn))):
        domains = zip(tokenized.domains, plan.domains, strict=True)
        for number, (domain, of_domain) in enumerate(domains):
            draws = () if tokenized.stage is None else tokenized.stage.domains[number].draws
            drawable = tokenized.drawable(number)
            ordered = least_used(domain, drawable, of_domain.tokens, loaded.recipe.seed, draws)
            streams.append(replace(ordered, curve=curves[number]) if curves else ordered)
    return tuple(streams)


def curves_of(loaded: LoadedRecipe, tokenized: TokenizedDomains) -> list[Curve]:
    """Return the share of each domain over the dataset; empty where it is the same everywhere."""
    schedule = loaded.recipe.schedule
    if schedule is None:
        return []
    shape = CurveShape(schedule.shape, schedule.steps)
    return [Curve(shape, start, end) for start, end in tokenized.settings.ends]


def write_artifacts(loaded: LoadedRecipe, planned: Planned, observer: Observer) -> None:
    """Write `stats.json`, `mixture.json`, `plan.json` and `quarantine.jsonl` of a planned dataset.

    Args:
        loaded: The recipe.
        planned: Its plan.
        observer: Receives a notice of bad records.
    """
    write_stats(loaded, planned.tokenized, planned.mixed.stats, observer)
    _write_plan(loaded, planned, observer)


def _write_plan(loaded: LoadedRecipe, planned: Planned, observer: Observer) -> None:
    write_mixture(loaded, planned.mixed, observer)
    path = loaded.output_dir / "plan.json"
    write_artifact(path, {**planned.mixed.origin, **plan_json(planned)}, observer)


def plan_json(planned: Planned) -> dict[str, Any]:
    """Return the fields of `plan.json`: tokens, and how trainers will mix and drop them."""
    fields = planned.plan.to_json()
    for name, row in _sources(planned).items():
        fields["domains"][name] |= row
    shaped = planned.shaped
    if shaped.predictions:
        for row in fields["domains"].values():
            row["written_tokens"] = min(row["tokens"], row["supply_tokens"])
        fields["trainer_mixture"] = [prediction.to_json() for prediction in shaped.predictions]
    if shaped.packing is not None:
        fields["packing"] = shaped.packing
    fields["reader_loss"] = shaped.reader_loss
    return fields


def _sources(planned: Planned) -> dict[str, dict[str, Any]]:
    """Count what was read of each domain, by what becomes of it; the certificate repeats it."""
    rows = {}
    tokenized = planned.tokenized
    by_domain = zip(tokenized.stats, tokenized.domains, planned.streams, strict=True)
    for stats, domain, stream_of_domain in by_domain:
        documents, tokens = documents_used(stream_of_domain)
        text_bytes = sum(
            int(take(domain.text_bytes, documents[rows]).sum()) for rows in blocks(len(documents))
        )
        used = Amounts(len(documents), text_bytes, tokens)
        rows[stats.name] = {
            "amounts": stats.amounts_used(used),
            "lost": stats.losses.to_json(),
            "copies_in_domain": stats.repeats._asdict(),
            "copies_in_other_domains": stats.copies._asdict(),
        }
    return rows


def _with_documents(plan: Plan, documents: Sequence[int]) -> Plan:
    domains = tuple(
        replace(domain, documents=count)
        for domain, count in zip(plan.domains, documents, strict=True)
    )
    return replace(plan, domains=domains)
