"""Build a dataset in stages: each stage as a dataset of its own, then what lists them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from curate import __version__
from curate.dataset.bucket import LAST
from curate.dataset.certificate import write_certificate
from curate.dataset.manifest import (
    PICTURES,
    RECIPE,
    SCHEMA,
    DatasetLayout,
    find_manifest,
    layout_of,
    load_manifest,
    record_file,
)
from curate.dataset.ownership import holds_dataset, refuse_foreign, remove_dataset
from curate.dataset.staged import (
    BESIDE_STAGES,
    StagedManifest,
    StageRecord,
    find_stages,
    names_of_stages,
    write_stages,
)
from curate.dataset.verify_stages import certify_stages
from curate.errors import ShardError
from curate.formats.trainer_files import DIRECTORY
from curate.formats.trainers import config_files
from curate.formats.trainers.staged_files import StageFiles
from curate.pipeline.build import BuiltDataset, build_planned, remove_stages
from curate.pipeline.plan import write_artifacts
from curate.pipeline.results import CertificateResult
from curate.pipeline.resume import refuse_other_dataset
from curate.pipeline.stages import (
    PlannedStage,
    check_stage_names,
    in_stage,
    plan_stages,
    without_dataset,
    write_plan,
)
from curate.pipeline.write import config_inputs
from curate.recipe import LoadedRecipe
from curate.recipe.effective import effective_text
from curate.report.pictures import write_pictures
from curate.report.stages_card import write_stages_card
from curate.runtime.files import atomic_path
from curate.runtime.locks import directory_lock
from curate.runtime.progress import Observer
from curate.runtime.registry import list_first


def build_staged_recipe(
    loaded: LoadedRecipe, workers: int, observer: Observer, *, overwrite: bool = False
) -> CertificateResult:
    """Build every stage that is not there already, and certify them together.

    Args:
        loaded: A recipe with stages.
        workers: Number of processes.
        observer: Receives progress and warnings.
        overwrite: Whether a finished dataset of another recipe may be replaced.

    Raises:
        CurateError: Any user-fixable error, including an infeasible plan; names the stage.
    """
    check_stage_names(loaded)
    directory = loaded.output_dir
    names = [stage.name for stage in loaded.recipe.stages]
    bucket = layout_of(loaded).bucket
    if bucket is None:
        _refuse_other(directory, names, overwrite)
    with ExitStack() as stack:
        stack.enter_context(directory_lock(directory, loaded.output_url))
        if bucket is not None:
            stack.enter_context(bucket.locked())
            stack.enter_context(bucket.opened(lambda at: {*names, *names_of_stages(at)}))
        _refuse_other(directory, names, overwrite)
        refuse_foreign(directory)
        stages = plan_stages(loaded, workers, observer)
        _trainer_texts(loaded, stages, written=False)
        for stage in stages:
            refuse_other_dataset(stage.loaded, overwrite)
        unbuilt = without_dataset(stages)
        with nullcontext() if bucket is None else bucket.deleting():
            if find_stages(directory) is None:  # shards of a dataset without stages
                remove_dataset(directory)
            remove_stages(directory, keep=names)
        for stage in unbuilt:
            write_artifacts(stage.loaded, stage.planned, observer)
        built = []
        for stage in stages:
            observer.notice(f"stage {stage.name}")
            with in_stage(stage.loaded):
                built.append(
                    build_planned(
                        stage.loaded,
                        stage.planned,
                        workers,
                        observer,
                        artifacts_written=any(stage is one for one in unbuilt),
                    )
                )
        write_plan(loaded, stages, observer)
        files, certificate = _finish(loaded, stages, built)
        if bucket is not None:
            bucket.send([*files, *(directory / name for name in LAST)])
    return _result(loaded, built, certificate)


def _finish(
    loaded: LoadedRecipe, stages: Sequence[PlannedStage], built: Sequence[BuiltDataset]
) -> tuple[list[Path], dict[str, Any]]:
    """Write what lies beside the folders of the stages: the manifest last, then the certificate.

    Returns:
        The files that the manifest lists, and the fields of the certificate.
    """
    directory = loaded.output_dir
    with atomic_path(directory / RECIPE) as temporary:
        temporary.write_text(effective_text(loaded), "utf-8")
    texts = _trainer_texts(loaded, stages, written=True)
    if texts:
        (directory / DIRECTORY).mkdir(exist_ok=True)
    files = [*(directory / name for name in BESIDE_STAGES), *config_files.write(texts, directory)]
    by_stage = {
        stage.name: dataset.certificate for stage, dataset in zip(stages, built, strict=True)
    }
    certificate = certify_stages(directory, _manifest(loaded, stages, files), by_stage)
    # The card says what came of reading the stages back, so it is listed only now.
    write_pictures(directory, {"stats": built[0].stats, "certificate": certificate})
    files.append(write_stages_card(loaded, certificate))
    files += [directory / name for name in PICTURES if (directory / name).is_file()]
    write_stages(_manifest(loaded, stages, files), directory)
    write_certificate(directory / "certificate.json", certificate)
    return files, certificate


def _result(
    loaded: LoadedRecipe, built: Sequence[BuiltDataset], certificate: dict[str, Any]
) -> CertificateResult:
    bad_records = {stats.name: stats.bad_records for stats in built[0].tokenized.stats}
    name = "certificate.json"
    if loaded.output_url is not None:
        path = f"{loaded.output_url}/{name}"
        return CertificateResult(certificate, loaded.output_url, bad_records, path)
    directory = loaded.output_dir
    return CertificateResult(certificate, directory, bad_records, directory / name)


def _refuse_other(directory: Path, names: Sequence[str], overwrite: bool) -> None:
    """Refuse to replace a finished dataset without stages, or to drop a finished stage.

    Args:
        directory: Directory of the dataset.
        names: Stages of the recipe.
        overwrite: Whether the user has agreed.

    Raises:
        ShardError: There is such a dataset, and the user has not agreed.
    """
    if overwrite:
        return
    earlier, stages = find_manifest(directory), find_stages(directory)
    dropped = [
        stage.name
        for stage in (() if stages is None else stages.stages)
        if stage.name not in names and holds_dataset(directory / stage.name)
    ]
    staying = [] if stages is None else [one.name for one in stages.stages if one.name in names]
    if earlier is not None:
        held = f"a dataset of another recipe, with {earlier.budget_tokens:,} tokens"
    elif dropped:
        held = f"stages that the recipe does not have ({list_first(dropped)})"
    elif staying != [name for name in names if name in staying]:
        held = f"its stages in another order ({list_first(staying)})"
    else:
        return
    raise ShardError(
        f"{directory}: holds {held}; give another directory with --out DIR, or replace it with "
        "--overwrite"
    )


def _trainer_texts(
    loaded: LoadedRecipe, stages: Sequence[PlannedStage], *, written: bool
) -> dict[str, str]:
    """Make the files with which trainers go through all stages, where they can.

    Args:
        loaded: The recipe with the stages.
        stages: Their plans.
        written: Whether the shards are there, held-out ones included; before, this only checks.

    Raises:
        RecipeError: The trainer cannot go through these stages in one run.
    """
    batches = [stage.batch_sequences for stage in loaded.recipe.stages]
    files = [
        StageFiles(
            stage.name,
            config_inputs(
                stage.planned, load_manifest(stage.loaded.output_dir).shards if written else ()
            ),
            batch,
        )
        for stage, batch in zip(stages, batches, strict=True)
        if batch is not None
    ]
    texts: dict[str, str] = {}
    first = stages[0].planned
    for mixture in first.format.mixtures_for(first.settings) if files else ():
        if mixture.staged_files is not None:
            texts |= mixture.staged_files(files)
    return texts


def _manifest(
    loaded: LoadedRecipe, stages: Sequence[PlannedStage], files: Sequence[Path]
) -> StagedManifest:
    records, first_token = [], 0
    for stage in stages:
        recipe, place = stage.loaded.recipe, stage.loaded.output_dir
        records.append(
            StageRecord(
                name=stage.name,
                build_hash=stage.planned.build_hash,
                budget_tokens=recipe.budget_tokens,
                sequence_length=recipe.row_tokens,
                first_token=first_token,
                manifest=record_file(DatasetLayout(place).manifest, place).xxh3,
            )
        )
        first_token += recipe.budget_tokens
    directory = loaded.output_dir
    return StagedManifest(
        schema=SCHEMA,
        curate_version=__version__,
        name=loaded.recipe.name,
        recipe_hash=loaded.hash,
        format=loaded.recipe.output.format,
        budget_tokens=loaded.recipe.budget_tokens,
        domains=[domain.name for domain in stages[0].planned.tokenized.domains],
        stages=records,
        files=[record_file(path, directory) for path in files],
    )
