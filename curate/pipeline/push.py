"""The `push` command: verify a dataset, and upload it to the Hugging Face Hub in one commit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.dataset.manifest import (
    OWN_DIRECTORIES,
    DatasetLayout,
    Manifest,
    load_manifest,
)
from curate.errors import InputError, ShardError
from curate.formats import FORMATS
from curate.pipeline.read_back import CERTIFICATE, read_back
from curate.pipeline.results import PushResult
from curate.runtime.progress import Observer
from curate.runtime.registry import counted
from curate.sources.hub import hub_errors

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class PushRequest:
    """A dataset, and where to push it."""

    directory: Path
    repository: str
    """`owner/name`."""
    public: bool
    """Whether a new repository is public; one that exists stays as it is."""
    message: str | None
    """Message of the commit; None for one that names the dataset."""


def list_files(request: PushRequest) -> PushResult:
    """List what a push would upload, without a network.

    Raises:
        ShardError: The directory holds no finished dataset.
        InputError: `load_dataset` opens no dataset of its format, or the repository is misnamed.
    """
    manifest = load_manifest(request.directory)
    _check(request, manifest)
    return _result(request, manifest, None)


def push(request: PushRequest, workers: int, observer: Observer) -> PushResult:
    """Verify a dataset, and upload it in one commit; other files of curate there are deleted.

    Args:
        request: The dataset and the repository.
        workers: Number of processes.
        observer: Receives progress.

    Raises:
        ShardError: The directory holds no finished dataset, or it is damaged.
        InputError: As for `list_files`; or the Hub refuses.
    """
    directory = request.directory
    manifest = load_manifest(directory)
    _check(request, manifest)
    certificate = read_back(DatasetLayout(directory), None, workers, observer)
    if not certificate.ok:
        raise ShardError(
            f"{directory}: {certificate.problems[0]}; nothing is pushed: run curate build, which "
            "writes what is damaged again"
        )
    if certificate.path is None:
        raise ShardError(f"{directory}: its certificate cannot be written; nothing is pushed")
    observer.begin("push", [request.repository])
    uploaded = _upload(request, manifest)
    result = _result(request, manifest, uploaded)
    observer.end(f"{counted(len(result.files), 'file')}, {result.bytes / 1e6:.1f} MB")
    return result


def _check(request: PushRequest, manifest: Manifest) -> None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", request.repository):
        raise InputError(f"'{request.repository}': expected a repository as owner/name")
    if manifest.configured().hub_suffix is None:
        opened = [name for name, form in FORMATS.items() if form.hub_suffix]
        raise InputError(
            f"{request.directory}: load_dataset opens no dataset of format {manifest.format}; "
            f"build one with output.format {', '.join(opened)}"
        )


def _paths(manifest: Manifest) -> list[str]:
    """List the files of a dataset, relative to its directory."""
    return sorted([*(file.path for file in manifest.listed), CERTIFICATE, MANIFEST])


def _upload(request: PushRequest, manifest: Manifest) -> dict[str, Any]:
    """Upload all files, and delete those of an earlier dataset of curate there."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    api, repository = HfApi(), request.repository
    paths = _paths(manifest)
    with hub_errors(repository, "main"):
        api.create_repo(repository, repo_type="dataset", private=not request.public, exist_ok=True)
        info = api.dataset_info(repository)
        stale = [
            file.rfilename
            for file in info.siblings or ()
            if file.rfilename.partition("/")[0] in OWN_DIRECTORIES and file.rfilename not in paths
        ]
        commit = api.create_commit(
            repository,
            [
                *(CommitOperationDelete(path) for path in stale),
                *(CommitOperationAdd(path, request.directory / path) for path in paths),
            ],
            commit_message=request.message or f"Dataset '{manifest.name}' by curate",
            repo_type="dataset",
        )
    return {
        "url": str(commit.repo_url),
        "commit": commit.oid,
        "private": bool(info.private),
        "deleted": stale,
    }


def _result(
    request: PushRequest, manifest: Manifest, uploaded: dict[str, Any] | None
) -> PushResult:
    sizes = {path: (request.directory / path).stat().st_size for path in _paths(manifest)
             if (request.directory / path).exists()}  # fmt: skip
    fields = {
        "repository": request.repository,
        "pushed": uploaded is not None,
        "private": not request.public,
        **(uploaded or {}),
        "files": [{"path": path, "bytes": size_bytes} for path, size_bytes in sizes.items()],
    }
    return PushResult(fields)
