"""Write a planned dataset: shards, the files trainers expect beside them, then the manifest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType, structs

from curate import __version__
from curate.dataset import manifest as dataset
from curate.dataset.manifest import (
    DatasetLayout,
    FileRecord,
    HubRecord,
    InputRecord,
    Manifest,
    ScheduleRecord,
    SelectionRecord,
    ShardRecord,
    TokenizerRecord,
    layout_of,
)
from curate.dataset.ownership import clear
from curate.dataset.write_text import TextJob, write_text_shards
from curate.dataset.write_tokens import WRITING, ShardTask, ShardWriter, write_shards
from curate.errors import ShardError
from curate.formats import trainer_file_stems
from curate.formats.base import DatasetFolder, TextFormat, TokenFormat
from curate.formats.trainers import config_files
from curate.pipeline.plan import Planned, write_artifacts
from curate.pipeline.tokenize import TokenizedDomains
from curate.plan.per_domain import PER_DOMAIN, DomainSampler, shard_stem
from curate.recipe import LoadedRecipe
from curate.recipe.effective import effective_text
from curate.runtime.files import atomic_path, begin_directory
from curate.runtime.progress import Observer, metered
from curate.runtime.registry import counted
from curate.runtime.workers import uses_cluster
from curate.sources.hub import pin
from curate.tokens import tokenizer as tokenizers


def write_dataset(
    loaded: LoadedRecipe,
    planned: Planned,
    workers: int,
    observer: Observer,
    *,
    artifacts_written: bool = False,
) -> None:
    """Write shards, then the manifest; an earlier dataset of curate in the directory is replaced.

    Args:
        loaded: The recipe.
        planned: Its plan.
        workers: Number of processes.
        observer: Receives progress.
        artifacts_written: Whether `stats.json`, `mixture.json` and `plan.json` are there already.

    Raises:
        ShardError: The directory holds files that curate did not write, or the disk is too small.
    """
    recipe, directory = loaded.recipe, loaded.output_dir
    layout = layout_of(loaded)
    tokenized = planned.tokenized
    output_format = planned.format
    tasks = _tasks(planned)
    _check_room(planned, layout, len(tasks), workers)
    earlier = set() if layout.bucket is None else layout.bucket.present()
    clear(
        directory,
        [(task.split, task.name) for task in tasks],
        output_format.folder_stems,
        trainer_file_stems() if recipe.output.shape == PER_DOMAIN else (),
    )
    if layout.bucket is not None:
        layout.bucket.begin(earlier)
    if not artifacts_written:
        write_artifacts(loaded, planned, observer)
    tokenizers.save(tokenized.tokenizer, directory / "tokenizer.json")
    with atomic_path(directory / dataset.RECIPE) as temporary:
        temporary.write_text(effective_text(_pinned(loaded, tokenized)), "utf-8")
    dtype = _dtype(planned)
    writer = _writer(loaded, planned, layout, workers)
    observer.begin("write", [recipe.name], [recipe.budget_tokens])
    tokens = recipe.budget_tokens + sum(row.tokens_validation for row in tokenized.stats)
    if isinstance(output_format, TokenFormat):
        with metered(observer, [tokens] * len(WRITING), WRITING) as on_tick:
            enough = layout.workers_for(tokens * dtype.itemsize, workers)
            records = write_shards(writer, tasks, enough, on_tick)
    else:
        with _text_job(loaded, writer, output_format, tokenized) as job:
            with metered(observer, [tokens, tokens], (1, 1)) as on_tick:
                records = write_text_shards(job, tasks, workers, on_tick)
    folder_files = _finish(layout, output_format, tasks, dtype)
    if isinstance(planned.shaped.sampler, DomainSampler):
        folder_files += _write_mixtures(directory, planned, records)
    manifest = _manifest(loaded, planned, records, dtype)
    manifest = msgspec.structs.replace(manifest, folder_files=folder_files)
    dataset.write_manifest(manifest, directory)
    if layout.bucket is not None:
        layout.bucket.send_beside([file.path for file in manifest.listed], earlier)
    written = sum(file.bytes for record in records for file in record.files)
    observer.end(f"{counted(len(records), 'shard')}, {written / 1e6:.1f} MB")


def _dtype(planned: Planned) -> np.dtype[Any]:
    """Return the type of a token on disk; meaningless for text."""
    if isinstance(planned.format, TokenFormat):
        return planned.format.dtype_for(planned.tokenized.tokenizer.vocabulary - 1)
    return np.dtype(np.uint32)


def _tasks(planned: Planned) -> list[ShardTask]:
    """List the shards to write: those for training, and one of each domain's held-out documents."""
    tokenized = planned.tokenized
    tasks = [ShardTask("train", name, number) for number, name in enumerate(_names(planned))]
    tasks += [
        ShardTask("validation", domain.stem, number)
        for number, domain in enumerate(tokenized.domains)
        if tokenized.validation[number].any()
    ]
    return tasks


def _writer(
    loaded: LoadedRecipe, planned: Planned, layout: DatasetLayout, workers: int
) -> ShardWriter:
    """Collect what every shard is written from."""
    tokenized, shards = planned.tokenized, planned.shaped.shards
    return ShardWriter(
        layout=layout,
        format=planned.format,
        dtype=_dtype(planned),
        sampler=planned.shaped.sampler,
        shards=shards,
        domains=tokenized.domains,
        validation=tokenized.validation,
        sequence_length=loaded.recipe.row_tokens,
        threads=1 if uses_cluster() else max(1, workers // shards),  # a task there has one core
        packing=loaded.recipe.packing,
        pad_id=tokenized.tokenizer.eos_id or 0,
    )


def _finish(
    layout: DatasetLayout,
    output_format: TokenFormat | TextFormat,
    tasks: Sequence[ShardTask],
    dtype: np.dtype[Any],
) -> list[FileRecord]:
    """Write the files that the format's readers expect beside the shards."""
    if output_format.finish is None:
        return []
    records = []
    for folder in sorted({task.name.rpartition("/")[0] for task in tasks}):
        stems = {
            split: [
                layout.stem(split, task.name)
                for task in tasks
                if task.split == split and task.name.rpartition("/")[0] == folder
            ]
            for split in dataset.SPLITS
        }
        files = DatasetFolder(layout.directory, stems, dtype, layout.at_hand)
        for path in output_format.finish(files):
            records.append(dataset.record_file(path, layout.directory))
            layout.settle([path])
    return records


def _names(planned: Planned) -> list[str]:
    """Name the training shards, under `train/`."""
    sampler = planned.shaped.sampler
    if isinstance(sampler, DomainSampler):
        names = [stream.name for stream in planned.streams]
        return [shard_stem(names[place.domain], place.number) for place in sampler.shards]
    return [f"shard-{number:05d}" for number in range(planned.shaped.shards)]


def _write_mixtures(
    directory: Path, planned: Planned, records: Sequence[ShardRecord]
) -> list[FileRecord]:
    """Write the mixture files that trainers read, from the tokens that were written."""
    inputs = config_inputs(planned, records)
    texts: dict[str, str] = {}
    for mixture in planned.format.mixtures_for(planned.settings):
        texts |= mixture.config_files(inputs)
    paths = config_files.write(texts, directory)
    return [dataset.record_file(path, directory) for path in paths]


def config_inputs(planned: Planned, records: Sequence[ShardRecord]) -> config_files.ConfigInputs:
    """Collect what trainers' mixture files are made from.

    Args:
        planned: The plan of domains that are written apart.
        records: The shards that were written.
    """
    return config_files.ConfigInputs(
        train=[domain for domain in planned.shaped.written_domains if domain.tokens],
        validation={
            record.stem.rpartition("/")[2]: record.stem
            for record in records
            if record.split == "validation" and record.tokens
        },
        window_tokens=planned.settings.window_tokens,
        suffix=planned.format.data_suffix,
    )


@contextmanager
def _text_job(
    loaded: LoadedRecipe,
    writer: ShardWriter,
    output_format: TextFormat,
    tokenized: TokenizedDomains,
) -> Iterator[TextJob]:
    """Make a job that writes text, with a directory for its temporary files."""
    spill = begin_directory(loaded.cache_dir / "text")
    plans = [
        [replace(plan, files=(file,)) for plan in domain for file in plan.files]
        for domain in tokenized.plans
    ]
    try:
        yield TextJob(
            writer=writer,
            text_format=output_format,
            plans=plans,
            tokenizer=tokenized.tokenizer,
            backend=tokenized.backend.split()[0],
            spill=spill,
        )
    finally:
        shutil.rmtree(spill, ignore_errors=True)


def _check_room(planned: Planned, layout: DatasetLayout, shards: int, workers: int) -> None:
    """Refuse to start if the disk cannot hold the dataset, or the shards on their way to it."""
    directory = layout.directory
    directory.mkdir(parents=True, exist_ok=True)
    needed = planned.plan.budget_tokens * planned.tokenized.tokenizer.dtype.itemsize
    if layout.bucket is not None:
        needed = needed * min(workers, shards) // shards
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise ShardError(
            f"{directory}: needs about {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free; "
            "make room, lower budget_tokens, or give output.dir another disk"
        )


def _manifest(
    loaded: LoadedRecipe, planned: Planned, records: list[ShardRecord], dtype: np.dtype[Any]
) -> Manifest:
    recipe, tokenized = loaded.recipe, planned.tokenized
    tokenizer = tokenized.tokenizer
    sources = tokenized.domains
    if tokenized.curation is not None:
        sources = tokenized.curation.wholes
    inputs = [
        InputRecord(
            domain.name, file.path, file.entries[0].entry.key if file.entries else "",
            len(file.entries),
        )
        for domain in sources
        for file in domain.files
    ]  # fmt: skip
    return Manifest(
        schema=dataset.SCHEMA,
        curate_version=__version__,
        name=recipe.name,
        recipe_hash=loaded.hash,
        build_hash=planned.build_hash,
        format=recipe.output.format,
        dtype=dtype.str if isinstance(planned.format, TokenFormat) else None,
        sequence_length=recipe.row_tokens,
        window=recipe.window,
        packing=recipe.packing,
        seed=recipe.seed,
        budget_tokens=recipe.budget_tokens,
        tokenizer=TokenizerRecord(
            name=tokenizer.name,
            fingerprint=tokenizer.fingerprint,
            eos=tokenizer.eos,
            eos_id=tokenizer.eos_id,
            vocabulary=tokenizer.vocabulary,
            backend=tokenized.backend,
        ),
        domains=[domain.name for domain in tokenized.domains],
        shards=records,
        inputs=inputs,
        cache=str(loaded.cache_dir.resolve()),
        options=dict(recipe.output.options),
        files=dataset.records_beside(loaded.output_dir),
        shape=recipe.output.shape,
        selections=selection_records(tokenized),
        hub=_hub_records(_pinned(loaded, tokenized)) or UNSET,
        schedule=_schedule_record(loaded, tokenized),
    )  # fmt: skip


def _schedule_record(
    loaded: LoadedRecipe, tokenized: TokenizedDomains
) -> ScheduleRecord | UnsetType:
    """Record how the mixture changes; UNSET where it does not."""
    schedule = loaded.recipe.schedule
    if schedule is None:
        return UNSET
    names = [domain.name for domain in tokenized.domains]
    shares = dict(zip(names, tokenized.settings.ends, strict=True))
    return ScheduleRecord(schedule.shape, schedule.steps, shares)


def selection_records(tokenized: TokenizedDomains) -> dict[str, SelectionRecord] | UnsetType:
    """Record which documents of each domain curation kept."""
    if tokenized.curation is None:
        return UNSET
    records = {}
    for curated in tokenized.curation.domains:
        selection = curated.domain.selection
        if selection is not None:
            removals, buckets = selection.removals, selection.buckets
            records[curated.domain.name] = SelectionRecord(
                source=curated.source,
                removals=UNSET if removals is None else removals.parent.name,
                buckets=UNSET if buckets is None else buckets.parent.name,
                bucket=selection.bucket,
            )
    return records


def _pinned(loaded: LoadedRecipe, tokenized: TokenizedDomains) -> LoadedRecipe:
    """Return the recipe with the commits that its datasets on the Hub were read at."""
    plans_of = dict(zip(tokenized.sources, tokenized.plans, strict=True))
    domains = [
        domain
        if domain.hf is None
        else structs.replace(
            domain, hf=pin(domain.hf, [f.path for plan in plans_of[number] for f in plan.files])
        )
        for number, domain in enumerate(loaded.recipe.domains)
    ]
    recipe = structs.replace(loaded.recipe, domains=domains)
    return structs.replace(loaded, recipe=recipe)


def _hub_records(pinned: LoadedRecipe) -> list[HubRecord]:
    """List the datasets of the Hub that a recipe reads, local folders left out."""
    return [
        HubRecord(domain.name, domain.hf.id, domain.hf.config, domain.hf.split, domain.hf.revision)
        for domain in pinned.recipe.domains
        if domain.hf is not None and domain.hf.revision is not None
    ]
