"""Build a dataset: tokenise, measure, mix, plan, write, read back and certify.

Stages pass state through files in the dataset's directory, each written whole, each with the hash
of the recipe it was made from. An infeasible plan ends the build before any shard is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from curate.curation.excluded import list_path
from curate.dataset import manifest as dataset
from curate.dataset.bucket import LAST
from curate.dataset.certificate import write_certificate
from curate.dataset.ownership import (
    check_removable,
    holds_dataset,
    refuse_foreign,
    remove_dataset,
)
from curate.dataset.staged import find_stages, names_of_stages
from curate.dataset.verify import verify
from curate.formats.trainer_files import DIRECTORY
from curate.pipeline.check import check_mixture, check_names
from curate.pipeline.plan import Planned, plan_dataset
from curate.pipeline.read_back import check_excluded, verdict
from curate.pipeline.resume import is_fresh, refuse_other_dataset
from curate.pipeline.tokenize import TokenizedDomains
from curate.pipeline.write import write_dataset
from curate.plan.budget import Plan
from curate.recipe import LoadedRecipe
from curate.report.card import write_card
from curate.report.croissant import write_croissant
from curate.report.pictures import write_pictures
from curate.runtime.locks import directory_lock
from curate.runtime.progress import Observer


@dataclass(frozen=True)
class BuiltDataset:
    """A finished dataset."""

    directory: Path
    tokenized: TokenizedDomains
    plan: Plan
    certificate: dict[str, Any]
    mixture: dict[str, Any]
    """The fields of `mixture.json`."""
    stats: dict[str, Any]
    """The fields of `stats.json`."""
    reused: bool
    """Whether the same dataset existed already and was only read back."""
    url: str | None = None
    """Its URL, if it is in a bucket; `directory` was for staging then."""


def build(
    loaded: LoadedRecipe, workers: int, observer: Observer, *, overwrite: bool = False
) -> BuiltDataset:
    """Run every stage, reusing what is up to date.

    Args:
        loaded: The recipe.
        workers: Number of processes.
        observer: Receives progress and warnings.
        overwrite: Whether a finished dataset of another recipe may be replaced.

    Raises:
        CurateError: Any user-fixable error, including an infeasible plan.
    """
    assert not loaded.recipe.stages  # see `build_stages`
    check_names(loaded)  # before a directory is made
    check_mixture(loaded)
    if loaded.output_url is None:
        refuse_other_dataset(loaded, overwrite)  # before a lock, which fails on a read-only disk
    with ExitStack() as stack:
        stack.enter_context(directory_lock(loaded.output_dir, loaded.output_url))
        bucket = dataset.layout_of(loaded).bucket
        if bucket is not None:
            stack.enter_context(bucket.locked())
            stack.enter_context(bucket.opened(names_of_stages))
        refuse_other_dataset(loaded, overwrite)
        return _build(loaded, workers, observer)


def _build(loaded: LoadedRecipe, workers: int, observer: Observer) -> BuiltDataset:
    refuse_foreign(loaded.output_dir)
    bucket = dataset.layout_of(loaded).bucket
    with nullcontext() if bucket is None else bucket.deleting():
        remove_stages(loaded.output_dir)
    # Artifacts beside a manifest are those of its build until the manifest is removed.
    is_kept = holds_dataset(loaded.output_dir)
    planned = plan_dataset(loaded, workers, observer, write=not is_kept)
    return build_planned(loaded, planned, workers, observer, artifacts_written=not is_kept)


def remove_stages(directory: Path, keep: Sequence[str] = ()) -> None:
    """Remove stages of the dataset in a directory, and the files that are about all of them.

    Args:
        directory: Directory of the dataset; one without stages stays as it is.
        keep: Names of stages that stay.

    Raises:
        ShardError: A stage holds files that curate did not make; then nothing is removed.
    """
    stages = find_stages(directory)
    if stages is None:
        return
    dropped = [directory / stage.name for stage in stages.stages if stage.name not in keep]
    for stage_directory in dropped:
        check_removable(stage_directory)
    for name in ("manifest.json", "certificate.json", *(file.path for file in stages.files)):
        (directory / name).unlink(missing_ok=True)
    if (directory / DIRECTORY).is_dir() and not any((directory / DIRECTORY).iterdir()):
        (directory / DIRECTORY).rmdir()
    for stage_directory in dropped:
        remove_dataset(stage_directory)


def build_planned(
    loaded: LoadedRecipe,
    planned: Planned,
    workers: int,
    observer: Observer,
    *,
    artifacts_written: bool,
) -> BuiltDataset:
    """Write a planned dataset unless it is there already, read it back and certify it.

    Args:
        loaded: The recipe; its output directory is locked.
        planned: Its plan.
        workers: Number of processes.
        observer: Receives progress and warnings.
        artifacts_written: Whether `stats.json`, `mixture.json` and `plan.json` are those of the
            plan; otherwise they belong to the dataset that is there.

    Raises:
        CurateError: Any user-fixable error.
    """
    is_kept = not artifacts_written
    tokenized, layout = planned.tokenized, dataset.layout_of(loaded)
    earlier = dataset.find_manifest(loaded.output_dir)
    reused = earlier is not None and is_fresh(loaded.output_dir, earlier, planned.build_hash)
    if reused:
        observer.notice("built already: reading it back")
    else:
        if is_kept and earlier is None:
            path = f"{layout.where}/{layout.manifest.name}"
            observer.notice(f"{path} is damaged: writing the dataset again")
        write_dataset(loaded, planned, workers, observer, artifacts_written=artifacts_written)
    check = partial(_read_back, layout, tokenized, workers)
    certificate = check(observer)
    if reused and not certificate["ok"]:  # files of the right sizes, but not with the right bytes
        observer.notice("the dataset is damaged: writing it again")
        write_dataset(loaded, planned, workers, observer)
        certificate, reused = check(observer), False
    names = list_path(loaded)
    if names is not None:
        check_excluded(layout, tokenized.domains, names, certificate)
    artifacts = {
        "mixture": planned.mixed.mixture.to_json(),
        "stats": planned.mixed.stats,
        "certificate": certificate,
    }
    write_pictures(loaded.output_dir, artifacts)
    write_card(loaded, tokenized.stats, certificate)
    write_croissant(loaded, tokenized.stats, certificate, workers, observer.tick)
    certificate["files"] = msgspec.to_builtins(dataset.list_cards(loaded.output_dir))
    write_certificate(loaded.output_dir / "certificate.json", certificate)
    if layout.bucket is not None:
        layout.bucket.send(loaded.output_dir / name for name in (*dataset.CARDS, *LAST))
    return BuiltDataset(
        directory=loaded.output_dir,
        tokenized=tokenized,
        plan=planned.plan,
        certificate=certificate,
        mixture=planned.mixed.mixture.to_json(),
        stats=planned.mixed.stats,
        reused=reused,
        url=loaded.output_url,
    )


def _read_back(
    layout: dataset.DatasetLayout,
    tokenized: TokenizedDomains,
    workers: int,
    observer: Observer,
) -> dict[str, Any]:
    """Verify a dataset that was just written, as it is on disk or in its bucket."""
    observer.begin("verify", [layout.directory.name])
    if layout.bucket is not None:
        layout.bucket.mirror(keep=["manifest.json"])
    certificate = verify(layout, tokenized.domains, workers, observer, with_cards=False)
    observer.end(verdict(certificate))
    return certificate
