"""The main job: measure, mix, plan, write, certify.

Stages pass state through files in the dataset's directory, each written whole, each with the hash
of the recipe it was made from. What needs no data (names of methods, formats and measures) is
checked before any is read, and an infeasible plan ends the build before any is written.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from curate import __version__, dataset
from curate.dataset import FileRecord, InputRecord, Layout, Manifest, ShardRecord, TokenizerRecord
from curate.errors import InfeasiblePlan, RecipeError, ShardError, TokenizerError
from curate.evidence import Evidence, gather, recall, wanted
from curate.formats import blend_files, check_options, configure
from curate.formats import find as find_format
from curate.formats.base import Folder, Settings, TextFormat, TokenFormat
from curate.formats.blends import Forecast, Source, SourceFile
from curate.formats.losses import cut_rows, worst_tails
from curate.ingest import Ingested, ingest
from curate.mixture import DomainSupply, Mixture, MixtureOptions, MixtureRequest, mix
from curate.mixture import find as find_method
from curate.mixture.entropic import MEASURES
from curate.mixture.evidence import (
    evidence_hash,
    evidence_paths,
    made_by_proxies,
    read_evidence,
    search_options,
)
from curate.observer import Observer
from curate.packing import BEST_FIT, CONCAT, WHOLE, PackedSampler, Tally, tally
from curate.plan import Plan, make_plan
from curate.recipe import LoadedRecipe, Recipe
from curate.recipe_text import nearest_hint
from curate.report.card import write_card
from curate.sample import DocumentSampler, SequenceSampler, Stream, shard_count, stream
from curate.shape import (
    PER_DOMAIN,
    DomainSampler,
    check_shape,
    data_suffix,
    forecasts,
    shard_stem,
    sources_of,
)
from curate.stats.entropy import MEASURES as PLUGIN_MEASURES
from curate.stats.report import DomainStats
from curate.storage import atomic_path, directory_lock, hash_json, write_json
from curate.swarms import check_proxy, make_evidence
from curate.text import TextJob, write_text_shards
from curate.tokens import tokenizer as tokenizers
from curate.tokens.pipeline import PROGRESS
from curate.tokens.store import DomainFile, DomainTokens, TokenStore
from curate.tokens.tokenizer import Tokenizer
from curate.verify import verify
from curate.write import ShardTask, ShardWriter, write_shards

Sampler = DocumentSampler | SequenceSampler | PackedSampler

TEXT_SHARD_TOKENS = 64_000_000
"""Most tokens in a shard of text, about 250 MB: readers take text a file at a time."""


PACKINGS = {
    "npy": (CONCAT, BEST_FIT),
    "litdata": (CONCAT, BEST_FIT),
    "mds": (CONCAT, BEST_FIT, WHOLE),
    "input_ids": (CONCAT, BEST_FIT, WHOLE),
}
"""By format; readers of npy and litdata see rows only where all are full."""

MOST_LOSS = 0.05
"""Share of the training set that a reader may drop, where the recipe states its windows."""


@dataclass(frozen=True)
class Built:
    """A finished dataset."""

    directory: Path
    ingested: Ingested
    mixture: Mixture
    plan: Plan
    certificate: dict[str, Any]
    reused: bool
    """The same dataset was there already; it was only read back."""


@dataclass(frozen=True)
class Shaped:
    """Training shards, and what will become of them."""

    sampler: Sampler | DomainSampler
    shards: int
    reader_loss: dict[str, int] | None
    packing: dict[str, Any] | None = None
    """Rows, filling and cuts, where documents are packed."""
    sources: tuple[Source, ...] = ()
    """Every domain, where they are written apart."""
    forecasts: tuple[Forecast, ...] = ()
    """What each trainer's own mixture will do with them."""


@dataclass(frozen=True)
class Planned:
    """Everything known before a byte is written."""

    ingested: Ingested
    request: MixtureRequest
    mixture: Mixture
    plan: Plan
    streams: tuple[Stream, ...]
    format: TokenFormat | TextFormat
    """Configured."""
    shaped: Shaped


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
    if recipe.packing not in PACKINGS.get(recipe.output.format, (CONCAT,)):
        fit = [name for name, known in PACKINGS.items() if recipe.packing in known]
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
    ingested = ingest(loaded, workers, observer)
    settings = _settings(loaded, ingested.tokenizer)
    chosen = configure(loaded.recipe.output.format, settings)
    if isinstance(chosen, TokenFormat):
        chosen.dtype_for(ingested.tokenizer.vocabulary - 1)
    found = gather(loaded, ingested, wanted(loaded.recipe.mixture), workers, observer)
    make_evidence(loaded, ingested, workers, observer)
    if write:
        write_stats(loaded, ingested, observer)
    request = mixture_request(loaded, ingested, found)
    mixture = mix(request)
    plan = make_plan(mixture, request)
    streams = tuple(
        stream(domain, ~held_out, planned.tokens, loaded.recipe.seed)
        for domain, held_out, planned in zip(
            ingested.domains, ingested.validation, plan.domains, strict=True
        )
    )
    shaped = _shape(loaded, chosen, streams, ingested, plan)
    plan = _with_documents(plan, shaped.sampler.documents())
    planned = Planned(ingested, request, mixture, plan, streams, chosen, shaped)
    if write:
        stamp = _stamp(loaded, ingested)
        write_json(loaded.output_dir / "mixture.json", {**stamp, **mixture.to_json()})
        write_json(loaded.output_dir / "plan.json", {**stamp, **plan_json(planned)})
    told = chosen.notices(settings) if chosen.notices is not None else []
    told += [warning for found in shaped.forecasts for warning in found.warnings]
    for warning in [*mixture.warnings, *plan.warnings, *told]:
        observer.notice(warning)
    for active in mixture.constraints_active:
        observer.notice(f"mixture: {active}")
    return planned


def plan_json(planned: Planned) -> dict[str, Any]:
    """The fields of `plan.json` that say what will be written, and what trainers make of it."""
    found = planned.plan.to_json()
    shaped = planned.shaped
    if shaped.forecasts:
        for row in found["domains"].values():
            row["written_tokens"] = min(row["tokens"], row["supply_tokens"])
        found["trainer_mixture"] = [forecast.to_json() for forecast in shaped.forecasts]
    if shaped.packing is not None:
        found["packing"] = shaped.packing
    found["reader_loss"] = shaped.reader_loss
    return found


def built_otherwise(loaded: LoadedRecipe) -> bool:
    """Whether the output directory holds a dataset of another recipe, whose plan must stay."""
    try:
        return dataset.load_manifest(loaded.output_dir).recipe_hash != loaded.hash
    except ShardError:
        return False


def build(loaded: LoadedRecipe, workers: int, observer: Observer) -> Built:
    """Everything the recipe asks for, in order, reusing what is fresh.

    Raises:
        CurateError: What the user can mend.
    """
    check_names(loaded)
    with directory_lock(loaded.output_dir):
        return _build(loaded, workers, observer)


def _build(loaded: LoadedRecipe, workers: int, observer: Observer) -> Built:
    planned = plan_dataset(loaded, workers, observer)
    ingested = planned.ingested
    reused = _is_fresh(loaded, ingested)
    if reused:
        observer.notice("built already: reading it back")
    else:
        _write(loaded, planned, workers, observer)
    observer.begin("verify", [loaded.recipe.name])
    certificate = verify(
        loaded.output_dir, ingested.domains, workers, lambda: observer.advance(_NOTHING)
    )
    observer.end("ok" if certificate["ok"] else f"{len(certificate['problems'])} problems")
    if reused and not certificate["ok"]:
        observer.notice("what was built is damaged: writing it again")
        _write(loaded, planned, workers, observer)
        certificate, reused = verify(loaded.output_dir, ingested.domains, workers), False
    write_card(loaded, planned.ingested.stats, certificate)
    return Built(loaded.output_dir, ingested, planned.mixture, planned.plan, certificate, reused)


def mixture_request(
    loaded: LoadedRecipe, ingested: Ingested, found: Sequence[Evidence] = ()
) -> MixtureRequest:
    """What a mixing method needs, from the recipe and the measurements.

    Args:
        loaded: The recipe.
        ingested: Supply, and the plug-in entropies of all tokens.
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
            recipe.domains, ingested.stats, found or [Evidence()] * len(ingested.stats), strict=True
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


def write_stats(loaded: LoadedRecipe, ingested: Ingested, observer: Observer) -> None:
    """Write `stats.json`, and `quarantine.jsonl` with every bad record.

    Entropies that this or an earlier run measured with intervals stand in place of the plug-in
    ones, which stay beside them.
    """
    domains = {
        stats.name: stats.to_json(found.entropy)
        for stats, found in zip(ingested.stats, recall(loaded, ingested), strict=True)
    }
    backend = {"backend": ingested.backend, "tokenizer": ingested.tokenizer.name}
    write_json(
        loaded.output_dir / "stats.json",
        {**_stamp(loaded, ingested), **backend, "domains": domains},
    )
    bad_records = sum(stats.bad_records for stats in ingested.stats)
    path = loaded.output_dir / "quarantine.jsonl"
    path.unlink(missing_ok=True)
    if not bad_records:
        return
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for domain in ingested.domains:
            for source, line, reason, excerpt in domain.bad_record_rows():
                row = {"domain": domain.name, "file": source, "line": line, "reason": reason,
                       "excerpt": excerpt}  # fmt: skip
                file.write(msgspec.json.encode(row) + b"\n")
    observer.notice(f"{bad_records:,} bad records: see {path}")


def reopen(directory: Path) -> tuple[Manifest, Sequence[DomainTokens] | None]:
    """A dataset's manifest and, if its token store is still at hand, its domains.

    Raises:
        ShardError: There is no finished dataset.
    """
    manifest = dataset.load_manifest(directory)
    try:
        tokenizer = tokenizers.load(directory / "tokenizer.json", manifest.tokenizer.eos)
    except TokenizerError as error:
        raise ShardError(str(error)) from error
    if tokenizer.fingerprint != manifest.tokenizer.fingerprint:
        raise ShardError(
            f"{directory}/tokenizer.json: not the tokenizer that made the dataset; put it back"
        )
    store = TokenStore(Path(manifest.cache), tokenizer.fingerprint, tokenizer.dtype)
    store.scan()
    domains = []
    for name in manifest.domains:
        files = []
        for record in manifest.inputs:
            if record.domain == name:
                entries = store.file_entries(record.content, record.segments)
                if entries is None:
                    return manifest, None
                files.append(DomainFile(record.path, tuple(entries)))
        domains.append(DomainTokens(name, files, tokenizer.dtype))
    return manifest, domains


_NOTHING = np.zeros((0, len(PROGRESS)), np.int64)
"""Counters of a stage that has none."""


def _settings(loaded: LoadedRecipe, tokenizer: Tokenizer) -> Settings:
    """What the output format is configured with."""
    recipe = loaded.recipe
    return Settings(
        tokenizer.eos_id, tokenizer.vocabulary, tokenizer.name, recipe.sequence_length,
        None if recipe.packing == WHOLE else recipe.row_tokens,
        check_options(recipe.output.format, recipe.output.options),
    )  # fmt: skip


def _shape(
    loaded: LoadedRecipe,
    chosen: TokenFormat | TextFormat,
    streams: Sequence[Stream],
    ingested: Ingested,
    plan: Plan,
) -> Shaped:
    """Decide on shards, and foretell what readers and trainers make of them."""
    settings = _settings(loaded, ingested.tokenizer)
    recipe = loaded.recipe
    if recipe.output.shape == PER_DOMAIN:
        return _apart(loaded, chosen, _domain_sampler(loaded, chosen, streams, ingested), plan,
                      settings)  # fmt: skip
    sampler = _sampler(loaded, chosen, streams, ingested)
    shards = _shards(loaded, chosen, sampler)
    if isinstance(sampler, PackedSampler):
        rows, tallies = _rows_of(sampler, shards)
        loss = _exact_loss(chosen, settings, rows)
        return Shaped(sampler, shards, loss, _packing_json(loaded, tallies))
    loss = _reader_loss(loaded, chosen, settings, shards)
    if isinstance(sampler, DocumentSampler) and loss is not None and _by_row(chosen):
        loss = _exact_loss(chosen, settings, [sampler.lengths()])
    return Shaped(sampler, shards, loss)


def _apart(
    loaded: LoadedRecipe,
    chosen: TokenFormat | TextFormat,
    sampler: DomainSampler,
    plan: Plan,
    settings: Settings,
) -> Shaped:
    """With domains apart everything about rows is known before they are written."""
    rows, tallies = _rows_of(sampler, len(sampler.shards))
    names = [domain.name for domain in plan.domains]
    files = [
        (
            place.domain,
            SourceFile(
                f"train/{shard_stem(names[place.domain], place.number)}",
                found.document_tokens,
                found.rows,
            ),
        )
        for place, found in zip(sampler.shards, tallies, strict=True)
    ]
    sources = sources_of(names, [domain.tokens for domain in plan.domains], files)
    loss = _exact_loss(chosen, settings, rows)
    if loss is not None and isinstance(chosen, TokenFormat):
        written = sum(found.document_tokens for found in tallies)
        _refuse_loss(loaded, chosen, settings, loss["tokens_at_most"], written)
    found = forecasts(loaded.recipe.output.format, sources, settings.window_tokens)
    packing = _packing_json(loaded, tallies) if loaded.recipe.packing != CONCAT else None
    return Shaped(sampler, len(files), loss, packing, tuple(sources), tuple(found))


def _rows_of(
    sampler: PackedSampler | DomainSampler, shards: int
) -> tuple[list[NDArray[np.int64]], list[Tally]]:
    """Tokens of each row, and what rows are made of, by shard."""
    rows, tallies = [], []
    for number in range(shards):
        samples = sampler.shard(number, shards)
        rows.append(samples.lengths)
        tallies.append(tally(samples.pieces, len(samples.lengths)))
    return rows, tallies


def _packing_json(loaded: LoadedRecipe, tallies: Sequence[Tally]) -> dict[str, Any]:
    row_tokens = loaded.recipe.row_tokens
    assert row_tokens is not None
    return sum(tallies, Tally()).to_json(loaded.recipe.packing, row_tokens)


def _by_row(chosen: TokenFormat | TextFormat) -> bool:
    """Whether readers cut single rows, so that their loss does not depend on shards."""
    return isinstance(chosen, TokenFormat) and chosen.loss_tokens is cut_rows


def _exact_loss(
    chosen: TokenFormat | TextFormat, settings: Settings, rows: Sequence[NDArray[np.int64]]
) -> dict[str, int] | None:
    """What the trainer's reader drops of shards whose rows are known."""
    if isinstance(chosen, TextFormat) or chosen.loss_tokens is None:
        return None
    window = settings.window_tokens
    lost = sum(chosen.loss_tokens(lengths, window) for lengths in rows)
    return {"window_tokens": window, "tokens_at_most": lost}


def _refuse_loss(
    loaded: LoadedRecipe, chosen: TokenFormat, settings: Settings, lost: int, written: int
) -> None:
    """Raise `InfeasiblePlan` where readers drop more of domains apart than can be meant."""
    stated = settings.options.get("window_tokens") is not None
    if stated and lost > MOST_LOSS * written:
        raise InfeasiblePlan(
            f"plan: readers of {chosen.name} drop {lost} of {written} tokens at the ends of "
            f"{len(loaded.recipe.domains)} domains written apart, in windows of "
            f"{settings.window_tokens}, more than {MOST_LOSS:.0%}; set output.shape: mixed, or "
            "raise budget_tokens, or leave out window_tokens"
        )


def _domain_sampler(
    loaded: LoadedRecipe,
    chosen: TokenFormat | TextFormat,
    streams: Sequence[Stream],
    ingested: Ingested,
) -> DomainSampler:
    """A sampler for each domain that gives tokens, of one pass at most."""
    most = TEXT_SHARD_TOKENS if isinstance(chosen, TextFormat) else chosen.shard_tokens_most
    shard_tokens = min(loaded.recipe.output.shard_tokens, most or 10**18)
    streams = [
        replace(stream, tokens=min(stream.tokens, stream.supply_tokens)) for stream in streams
    ]
    return DomainSampler(
        [
            _sampler(loaded, chosen, [stream], ingested, [domain]) if stream.tokens else None
            for stream, domain in zip(streams, ingested.domains, strict=True)
        ],
        [shard_count(stream.tokens, shard_tokens) for stream in streams],
    )


def _shards(
    loaded: LoadedRecipe,
    chosen: TokenFormat | TextFormat,
    sampler: Sampler,
) -> int:
    """Training shards: as many as `shard_tokens` asks for and the format's readers take.

    Raises:
        InfeasiblePlan: The whole training set is shorter than the shortest shard a reader takes.
    """
    recipe = loaded.recipe
    most = TEXT_SHARD_TOKENS if isinstance(chosen, TextFormat) else chosen.shard_tokens_most
    least = 1 if isinstance(chosen, TextFormat) else chosen.shard_tokens_least
    shards = shard_count(recipe.budget_tokens, min(recipe.output.shard_tokens, most or 10**18))
    if least == 1:
        return shards
    if recipe.budget_tokens < least:
        raise InfeasiblePlan(
            f"plan: budget_tokens {recipe.budget_tokens} is less than the {least} that every shard "
            f"of format {chosen.name} needs (step_tokens + 1: its reader stops at a shorter one); "
            f"either set budget_tokens: {least} or a smaller output.options.step_tokens"
        )
    shards = min(shards, recipe.budget_tokens // least)
    while shards > 1:
        lengths = (sampler.shard(number, shards).lengths.sum() for number in range(shards))
        if min(lengths) >= least:
            break
        shards -= 1
    return shards


def _reader_loss(
    loaded: LoadedRecipe, chosen: TokenFormat | TextFormat, settings: Settings, shards: int
) -> dict[str, int] | None:
    """What the trainer's reader may drop at the ends of shards, for `plan.json`.

    Raises:
        InfeasiblePlan: More than a share that can be meant, in windows that the recipe states.
    """
    if isinstance(chosen, TextFormat) or chosen.loss_tokens is None:
        return None
    budget, window = loaded.recipe.budget_tokens, settings.window_tokens
    lost = worst_tails(shards, window, budget)
    stated = settings.options.get("window_tokens") is not None
    if stated and lost > MOST_LOSS * budget:
        fewest = max(1, int(MOST_LOSS * budget / window))
        raise InfeasiblePlan(
            f"plan: readers of {chosen.name} may drop {lost} of {budget} tokens, a window of "
            f"{window} at the end of each of {shards} shards, more than {MOST_LOSS:.0%}; set "
            f"output.shard_tokens: {-(-budget // fewest)} or more, or leave out window_tokens"
        )
    return {"window_tokens": window, "tokens_at_most": lost}


def _sampler(
    loaded: LoadedRecipe,
    chosen: TokenFormat | TextFormat,
    streams: Sequence[Stream],
    ingested: Ingested,
    domains: Sequence[DomainTokens] | None = None,
) -> Sampler:
    """A sampler of streams, whose domains are all unless given."""
    recipe = loaded.recipe
    if isinstance(chosen, TokenFormat):
        if recipe.row_tokens is not None and recipe.packing == CONCAT:
            return SequenceSampler(streams, recipe.row_tokens, recipe.seed)
    # A document of text needs a token of text beside its end-of-text token.
    ended = ingested.tokenizer.eos_id is not None
    smallest = 2 if isinstance(chosen, TextFormat) and ended else 1
    whole = DocumentSampler(streams, domains or ingested.domains, recipe.seed, smallest)
    if recipe.row_tokens is None:
        return whole
    if recipe.packing == BEST_FIT and ingested.tokenizer.eos_id is None:
        raise RecipeError(
            "packing: best-fit fills rows with the end token, and the tokenizer has none; set "
            "tokenizer.eos, or packing: whole"
        )
    return PackedSampler(whole, recipe.row_tokens, recipe.packing)


def _with_documents(plan: Plan, documents: Sequence[int]) -> Plan:
    domains = tuple(
        replace(domain, documents=count)
        for domain, count in zip(plan.domains, documents, strict=True)
    )
    return replace(plan, domains=domains)


def _build_hash(loaded: LoadedRecipe, ingested: Ingested) -> str:
    evidence = evidence_hash(loaded)
    return hash_json(
        [__version__, loaded.hash, ingested.tokenizer.fingerprint, ingested.content_hash]
        + ([] if evidence is None else [evidence])
    )


def _stamp(loaded: LoadedRecipe, ingested: Ingested) -> dict[str, Any]:
    """What every artifact says of its origin."""
    evidence = evidence_hash(loaded)
    return {
        "schema": 1,
        "curate_version": __version__,
        "recipe_hash": loaded.hash,
        "inputs": {
            "documents": ingested.content_hash,
            "tokenizer": ingested.tokenizer.fingerprint,
            **({} if evidence is None else {"evidence": evidence}),
        },
    }


def _is_fresh(loaded: LoadedRecipe, ingested: Ingested) -> bool:
    try:
        manifest = dataset.load_manifest(loaded.output_dir)
    except ShardError:
        return False
    if manifest.build_hash != _build_hash(loaded, ingested):
        return False
    files = [file for shard in manifest.shards for file in [*shard.files, shard.provenance]]
    files += manifest.folder_files
    directory = loaded.output_dir
    return all(
        (directory / file.path).is_file() and (directory / file.path).stat().st_size == file.bytes
        for file in files
    )


def _write(loaded: LoadedRecipe, planned: Planned, workers: int, observer: Observer) -> None:
    """Write shards, then the manifest."""
    recipe, directory = loaded.recipe, loaded.output_dir
    ingested = planned.ingested
    chosen, shards = planned.format, planned.shaped.shards
    tasks = [ShardTask("train", name, number) for number, name in enumerate(_names(planned))]
    tasks += [
        ShardTask("validation", domain.name, number)
        for number, domain in enumerate(ingested.domains)
        if ingested.validation[number].any()
    ]
    _check_room(planned, directory)
    dataset.clear(
        directory,
        [(task.split, task.name) for task in tasks],
        chosen.folder_stems,
        blend_files.STEMS if recipe.output.shape == PER_DOMAIN else (),
    )
    tokenizers.save(ingested.tokenizer, directory / "tokenizer.json")
    dtype = np.dtype(np.uint32)
    if isinstance(chosen, TokenFormat):
        dtype = chosen.dtype_for(ingested.tokenizer.vocabulary - 1)
    writer = ShardWriter(
        Layout(directory), chosen, dtype, planned.shaped.sampler, shards, ingested.domains,
        ingested.validation, recipe.row_tokens, max(1, workers // shards), recipe.packing,
        ingested.tokenizer.eos_id or 0,
    )  # fmt: skip
    observer.begin("write", [recipe.name], [recipe.budget_tokens])

    def tick() -> None:
        observer.advance(_NOTHING)

    records = _run_writer(loaded, writer, tasks, ingested, workers, tick)
    folder_files = _finish(directory, chosen, tasks, dtype)
    if isinstance(planned.shaped.sampler, DomainSampler):
        folder_files += _write_blends(directory, planned, records, recipe)
    manifest = _manifest(loaded, ingested, records, dtype)
    dataset.write_manifest(msgspec.structs.replace(manifest, folder_files=folder_files), directory)
    written = sum(file.bytes for record in records for file in record.files)
    observer.end(f"{len(records)} shards, {written / 1e6:.1f} MB")


def _finish(
    directory: Path,
    chosen: TokenFormat | TextFormat,
    tasks: Sequence[ShardTask],
    dtype: np.dtype[Any],
) -> list[FileRecord]:
    """Write what the format's readers want beside the shards."""
    if chosen.finish is None:
        return []
    layout = Layout(directory)
    files = []
    for folder in sorted({task.name.rpartition("/")[0] for task in tasks}):
        stems = {
            split: [
                layout.stem(split, task.name)
                for task in tasks
                if task.split == split and task.name.rpartition("/")[0] == folder
            ]
            for split in dataset.SPLITS
        }
        files += chosen.finish(Folder(directory, stems, dtype))
    return [dataset.record_file(path, directory) for path in files]


def _names(planned: Planned) -> list[str]:
    """Of the training shards, under `train/`."""
    sampler = planned.shaped.sampler
    if isinstance(sampler, DomainSampler):
        names = [stream.name for stream in planned.streams]
        return [shard_stem(names[place.domain], place.number) for place in sampler.shards]
    return [f"shard-{number:05d}" for number in range(planned.shaped.shards)]


def _write_blends(
    directory: Path, planned: Planned, records: Sequence[ShardRecord], recipe: Recipe
) -> list[FileRecord]:
    """Write the trainers' own mixture files, from what was written."""
    made = blend_files.Domains(
        [source for source in planned.shaped.sources if source.tokens],
        {
            record.stem.rpartition("/")[2]: record.stem
            for record in records
            if record.split == "validation" and record.tokens
        },
        planned.shaped.forecasts[0].window_tokens,
        data_suffix(planned.format),
        isinstance(planned.format, TokenFormat),
    )
    paths = blend_files.write(recipe.output.format, made, directory)
    return [dataset.record_file(path, directory) for path in paths]


def _run_writer(  # noqa: PLR0913 - one stage, all of whose inputs are its own
    loaded: LoadedRecipe,
    writer: ShardWriter,
    tasks: Sequence[ShardTask],
    ingested: Ingested,
    workers: int,
    tick: Callable[[], None],
) -> list[ShardRecord]:
    if isinstance(writer.format, TokenFormat):
        return write_shards(writer, tasks, workers, tick)
    spill = Path(tempfile.mkdtemp(prefix=".text-", dir=loaded.cache_dir))
    try:
        plans = [
            [replace(plan, files=(file,)) for plan in domain for file in plan.files]
            for domain in ingested.plans
        ]
        job = TextJob(
            writer, writer.format, plans, ingested.tokenizer,
            ingested.backend.split()[0], spill,
        )  # fmt: skip
        return write_text_shards(job, tasks, workers, tick)
    finally:
        shutil.rmtree(spill, ignore_errors=True)


def _check_room(planned: Planned, directory: Path) -> None:
    """Refuse to start what the disk cannot hold."""
    directory.mkdir(parents=True, exist_ok=True)
    needed = planned.plan.budget_tokens * planned.ingested.tokenizer.dtype.itemsize
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise ShardError(
            f"{directory}: needs about {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free; "
            "make room, lower budget_tokens, or give output.dir another disk"
        )


def _manifest(
    loaded: LoadedRecipe,
    ingested: Ingested,
    records: list[ShardRecord],
    dtype: np.dtype[Any],
) -> Manifest:
    recipe, tokenizer = loaded.recipe, ingested.tokenizer
    chosen = find_format(recipe.output.format)
    inputs = [
        InputRecord(
            domain.name, file.path, file.entries[0].entry.key if file.entries else "",
            len(file.entries),
        )
        for domain in ingested.domains
        for file in domain.files
    ]  # fmt: skip
    return Manifest(
        schema=dataset.SCHEMA,
        curate_version=__version__,
        name=recipe.name,
        recipe_hash=loaded.hash,
        build_hash=_build_hash(loaded, ingested),
        format=recipe.output.format,
        dtype=dtype.str if isinstance(chosen, TokenFormat) else None,
        sequence_length=recipe.row_tokens,
        window=recipe.window,
        packing=recipe.packing,
        seed=recipe.seed,
        budget_tokens=recipe.budget_tokens,
        tokenizer=TokenizerRecord(
            tokenizer.name, tokenizer.fingerprint, tokenizer.eos, tokenizer.eos_id,
            tokenizer.vocabulary, ingested.backend,
        ),
        domains=[domain.name for domain in ingested.domains],
        shards=records,
        inputs=inputs,
        cache=str(loaded.cache_dir.resolve()),
        options=dict(recipe.output.options),
        shape=recipe.output.shape,
    )  # fmt: skip
