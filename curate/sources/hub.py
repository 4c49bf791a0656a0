"""Find the files of a split of a dataset on the Hugging Face Hub, or in a local dataset folder.

The `datasets` library resolves them, by the card's `configs` or by the names of the files, and runs
no code of a repository. Files on the Hub are named by the commit that holds them, so what a name
stands for never changes, and nothing is asked of the Hub again once it is in the cache.
"""

from __future__ import annotations

import ast
import dataclasses
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from curate.errors import InputError
from curate.recipe.structs import HubRecipe
from curate.runtime.files import hash_json
from curate.runtime.machine import remote_fault_or
from curate.runtime.registry import nearest_hint
from curate.runtime.sealed import Notice, read_cached, write_sealed
from curate.sources.discover import InputPath
from curate.sources.remote import PROTOCOL, pinned_parts

DIRECTORY = "hub"
"""Directory of the cache for what the Hub has said."""
REVISIONS = "revisions.json"

READER_OF_MODULE = {
    "parquet": "parquet",
    "arrow": "arrow",
    "json": "auto",
    "csv": "csv",
    "text": "text",
}
"""Readers that read what a loader of `datasets` does."""

NEUTRAL = frozenset(
    ["name", "version", "data_dir", "data_files", "description", "features", "batch_size",
     "chunksize", "columns", "block_size", "fragment_scan_options"]
)  # fmt: skip
"""Settings of loaders that do not change which texts the rows hold."""

DELIMITERS = (",", ";", "\t")
"""Values of `sep` that the CSV reader finds by itself."""

is_commit = re.compile(r"[0-9a-f]{40}").fullmatch
is_local = re.compile(r"[./~\\]|[A-Za-z]:").match


class HubListing(msgspec.Struct, frozen=True):
    """The files of a split."""

    module: str
    """Loader of `datasets` for them."""
    files: list[str]
    """URLs that name the commit, or local paths."""


def find_hub_files(
    dataset: HubRecipe, reader: str, places: tuple[Path, Path], notice: Notice
) -> list[InputPath]:
    """Find the files of a dataset's split.

    Args:
        dataset: The dataset, in a recipe.
        reader: The domain's.
        places: The recipe's directory and the cache.
        notice: Called with a line if a branch or tag has moved since the last run.

    Returns:
        Files in the order of `datasets`.

    Raises:
        InputError: The Hub cannot be reached, or has no such dataset, revision, config or split; or
            the dataset is loaded by code, or of a kind that no reader reads.
    """
    base, cache = places
    if is_local(dataset.id):
        folder = os.path.abspath(base / os.path.expanduser(dataset.id))
        if not os.path.isdir(folder):
            raise InputError(f"{folder} is no directory")
        listing = _ask(dataset, folder, None, cache)
        root = Path(folder).as_posix()
    else:
        commit = find_commit(dataset, cache, notice)
        root = f"{PROTOCOL}{dataset.id}@{commit}"
        listing = _list(dataset, root, commit, cache)
    _check_module(dataset, listing.module, reader)
    archives = [file for file in listing.files if "::" in file or file.endswith((".zip", ".tar"))]
    if archives:
        raise InputError(f"{archives[0]} is an archive, which curate does not open; unpack it")
    return [InputPath(file, file.removeprefix(f"{root}/")) for file in listing.files]


def find_commit(dataset: HubRecipe, cache: Path, notice: Notice) -> str:
    """Resolve a revision to a commit, and say if it was another one at the last run.

    Args:
        dataset: A dataset on the Hub; a commit as revision is taken as it is.
        cache: The cache, which keeps the commits of branches and tags.
        notice: Called with a line.

    Raises:
        InputError: The Hub cannot be reached, or has no such dataset or revision.
    """
    revision = dataset.revision or "main"
    if is_commit(revision):
        return revision
    from huggingface_hub import HfApi, constants

    path = cache / DIRECTORY / REVISIONS
    payload = read_cached(path, "the commits of earlier runs are unknown", notice)
    commits: dict[str, str] = {} if payload is None else msgspec.json.decode(payload)
    key = f"{constants.ENDPOINT}/datasets/{dataset.id}@{revision}"
    last = commits.get(key)
    keep = f"; the last run here read {last}: set revision to that to go on with it" if last else ""
    with hub_errors(dataset.id, revision, otherwise=keep):
        commit = str(HfApi().dataset_info(dataset.id, revision=revision).sha)
    if last is not None and last != commit:
        notice(
            f"{dataset.id}: revision '{revision}' is now {commit}; the last run here read {last}: "
            "set revision to that to go on with it"
        )
    if last != commit:
        write_sealed(path, msgspec.json.encode({**commits, key: commit}))
    return commit


def _list(dataset: HubRecipe, root: str, commit: str, cache: Path) -> HubListing:
    """List the files of a split at a commit, from the cache if it was asked before."""
    endpoint = os.environ.get("HF_ENDPOINT", "")
    name = hash_json([endpoint, root, dataset.config, dataset.split])
    path = cache / DIRECTORY / f"{name[:24]}.json"
    payload = read_cached(path, "the Hub is asked again", lambda _: None)
    if payload is not None:
        return msgspec.json.decode(payload, type=HubListing)
    listing = _ask(dataset, root, commit, cache)
    write_sealed(path, msgspec.json.encode(listing))
    return listing


def _ask(dataset: HubRecipe, root: str, commit: str | None, cache: Path) -> HubListing:
    """Let `datasets` resolve the files of a split."""
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"{dataset.id}: needs the package datasets: pip install 'curate-mix[hf]'"
        ) from error
    from huggingface_hub.utils.tqdm import disable_progress_bars

    datasets.disable_progress_bars()
    disable_progress_bars()
    # With a cache of its own, `datasets` never answers from a dataset that someone prepared before.
    builds = str(cache / DIRECTORY / "datasets")
    path = root if commit is None else f"{PROTOCOL}{dataset.id}"
    with hub_errors(dataset.id, dataset.revision or "main", dataset.config):
        builder = datasets.load_dataset_builder(
            path, dataset.config, revision=commit, cache_dir=builds
        )
    splits = {str(name): list(files) for name, files in (builder.config.data_files or {}).items()}
    if dataset.split not in splits:
        raise InputError(
            f"{dataset.id} has no split '{dataset.split}'{nearest_hint(dataset.split, splits)} "
            f"(splits: {', '.join(splits)})"
        )
    _check_settings(dataset, builder.config)
    module = type(builder).__module__.rpartition(".")[2]
    return HubListing(module, splits[dataset.split])


def _check_settings(dataset: HubRecipe, config: Any) -> None:
    """Refuse settings of a card that make its loader read other texts than curate's readers."""
    defaults = type(config)()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        is_default = value == getattr(defaults, field.name)
        if field.name in NEUTRAL or is_default or (field.name == "sep" and value in DELIMITERS):
            continue
        raise InputError(
            f"{dataset.id}: its card sets {field.name}: {value!r} for config '{config.name}', "
            "which curate's readers do not have; name its files in paths, as hf://datasets/"
            f"{dataset.id}@REVISION/FILES"
        )


def _check_module(dataset: HubRecipe, module: str, reader: str) -> None:
    if module not in READER_OF_MODULE:
        raise InputError(
            f"{dataset.id}: is of the kind '{module}', which curate does not read (kinds: "
            f"{', '.join(READER_OF_MODULE)})"
        )
    if module == "text" and reader != "text":
        raise InputError(
            f"{dataset.id}: holds plain text, each line of which is a row to datasets; with "
            "reader: text each file is one document"
        )


@contextmanager
def hub_errors(
    name: str, revision: str, config: str | None = None, otherwise: str = ""
) -> Iterator[None]:
    """Turn the errors of `huggingface_hub` and `datasets` into one line.

    Args:
        name: The dataset asked for.
        revision: Its revision.
        config: Its config.
        otherwise: End of the line if the Hub cannot be reached.

    Raises:
        EngineError: The machine is at fault, or the Hub does not answer.
        InputError: Anything else went wrong.
    """
    from huggingface_hub import errors

    try:
        yield
    except Exception as error:  # noqa: BLE001 - these libraries pass on errors of several others
        chain: list[BaseException] = [error]
        while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
            chain.append(cause)
        words = " ".join(str(error).split()) or type(error).__name__
        origin = " ".join(str(chain[-1]).split())
        if origin not in words:
            words += f": {origin}"
        status = getattr(getattr(error, "response", None), "status_code", None)
        if any(isinstance(cause, errors.GatedRepoError) for cause in chain):
            reason = "is gated: accept its terms on its page, and set HF_TOKEN"
        elif any(isinstance(cause, errors.RevisionNotFoundError) for cause in chain):
            reason = f"has no revision '{revision}'"
        elif any(isinstance(cause, errors.RepositoryNotFoundError) for cause in chain):
            reason = "is no dataset on the Hub, or a private one: check the name, or set HF_TOKEN"
        elif "scripts are no longer supported" in words:
            reason = f"is loaded by a script of its own, which is never run ({words})"
        elif "Config name is missing" in words or re.match("BuilderConfig .* not found", words):
            listed = re.search(r"\[[^\]]*\]", words)
            configs = ast.literal_eval(listed[0]) if listed else []
            asked = f"has no config '{config}'" if config else "has several configs"
            hint = nearest_hint(config or "", configs)
            reason = f"{asked}{hint or ';'} set config to one of: {', '.join(configs)}"
        elif status in (401, 403):
            reason = "is refused to you by the Hub: set HF_TOKEN to a token that may do this"
        elif refused := [cause.filename for cause in chain if isinstance(cause, PermissionError)]:
            path = refused[-1] or "the cache of huggingface_hub"
            raise InputError(
                f"{name}: {path} cannot be written; set HF_HOME to a directory that can"
            ) from error
        elif isinstance(error, FileNotFoundError):  # what `datasets` raises for no data, too
            reason = f"holds no data file that datasets finds ({words})"
        else:
            unreached = InputError(f"{name}: the Hub cannot be reached ({words}){otherwise}")
            raise remote_fault_or(unreached, error, name) from error
        raise InputError(f"{name} {reason}") from error


def pin(dataset: HubRecipe, files: list[str]) -> HubRecipe:
    """Return a dataset with the commit that its files name as its revision."""
    parts = next(filter(None, map(pinned_parts, files)), None)
    return dataset if parts is None else msgspec.structs.replace(dataset, revision=parts[1])
