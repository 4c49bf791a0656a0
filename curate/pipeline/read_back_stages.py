"""The `verify` command for a dataset in stages: read each back, then compare them together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from curate.dataset.certificate import without_manifest
from curate.dataset.manifest import DatasetLayout, layout_in_bucket
from curate.dataset.staged import StagedManifest, load_stages, names_of_stages
from curate.dataset.verify_stages import certify_stages
from curate.errors import ShardError
from curate.pipeline.read_back import CERTIFICATE, add_damage, read_back, written
from curate.pipeline.results import CertificateResult
from curate.runtime.files import begin_directory, remove_tree, user_cache
from curate.runtime.progress import Observer


def read_back_any(
    directory: Path, report: Path | None, workers: int, observer: Observer
) -> CertificateResult:
    """Check a dataset, in stages or not, and write its certificate.

    Args:
        directory: Directory of the dataset.
        report: Where to write the certificate; None: to the dataset, if that is possible.
        workers: Number of processes.
        observer: Receives notices.

    Raises:
        ShardError: The directory holds nothing of curate.
        InputError: `report` cannot be written.
    """
    return _read_back_layout(DatasetLayout(directory), report, workers, observer)


def _read_back_layout(
    layout: DatasetLayout, report: Path | None, workers: int, observer: Observer
) -> CertificateResult:
    directory = layout.directory
    try:
        stages = load_stages(directory)
    except ShardError as error:
        return written(directory, report, without_manifest(str(error)), None, observer)
    if stages is None:
        return read_back(layout, report, workers, observer)
    return _read_back_stages(layout, stages, report, workers, observer)


def read_back_bucket(
    url: str, report: Path | None, workers: int, observer: Observer
) -> CertificateResult:
    """Check a dataset in a bucket, one shard for each process on disk at once.

    Args:
        url: URL of the dataset.
        report: Where to write the certificate; None: to the bucket.
        workers: Number of processes.
        observer: Receives notices.

    Raises:
        ShardError: The bucket holds nothing of curate there.
        InputError: `report` cannot be written, or the store refuses.
        EngineError: The store does not answer.
    """
    staging = begin_directory(user_cache() / "buckets" / url.rpartition("/")[2])
    layout = layout_in_bucket(url, staging)
    bucket = layout.bucket
    assert bucket is not None
    try:
        with bucket.opened(names_of_stages):
            result = _read_back_layout(layout, report, workers, observer)
            if report is None:
                places = [staging, *(staging / name for name in names_of_stages(staging))]
                bucket.send(place / CERTIFICATE for place in places)
    finally:
        remove_tree(staging)
    return replace(result, directory=url, path=report or f"{url}/{CERTIFICATE}")


def _read_back_stages(
    layout: DatasetLayout,
    stages: StagedManifest,
    report: Path | None,
    workers: int,
    observer: Observer,
) -> CertificateResult:
    certificates, bad_records = {}, None
    for stage in stages.stages:
        observer.notice(f"stage {stage.name}")
        try:
            result = read_back(layout.stage(stage.name), None, workers, observer)
        except ShardError as error:  # the folder of the stage is gone
            certificates[stage.name] = without_manifest(str(error))
            continue
        certificates[stage.name] = result.json
        bad_records = bad_records or result.bad_records
    directory = layout.directory
    with layout.at_hand(directory / file.path for file in stages.files):
        certificate = certify_stages(directory, stages, certificates)
    add_damage(directory, certificate)
    return written(directory, report, certificate, bad_records, observer)
