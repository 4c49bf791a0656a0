"""Find and identify files behind URLs through fsspec, and filter file names."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import xxhash

from curate.errors import InputError
from curate.runtime.machine import remote_fault_or
from curate.sources.plans import reader_of_name

NameFilter: TypeAlias = Callable[[str], Any]
"""A test of file names, true for those to read."""

GLOB_CHARACTERS = frozenset("*?[")

PROTOCOL = "hf://datasets/"
"""Prefix of URLs of datasets on the Hugging Face Hub."""

PINNED = ("pinned",)
"""Status of a file whose URL names a commit: its content never changes."""

_is_pinned = re.compile(rf"{PROTOCOL}(?P<id>[^@]+)@(?P<commit>[0-9a-f]{{40}})/").match


def name_filter(patterns: str) -> NameFilter:
    """Make a test for comma-separated fnmatch patterns.

    Example:
        >>> fits = name_filter("*.py, *.md")
        >>> bool(fits("a.py")), bool(fits("a.pyc"))
        (True, False)
    """
    split = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    return re.compile("|".join(map(fnmatch.translate, split))).match


@contextmanager
def remote_errors(url: str) -> Iterator[None]:
    """Turn the exceptions of a remote store into one line that names the URL.

    Raises:
        EngineError: The machine is at fault, or the store does not answer.
        InputError: Anything else went wrong.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - each store's library has its own exceptions
        reason = " ".join(str(error).split()) or type(error).__name__
        unreached = InputError(f"{url}: cannot be reached ({reason})")
        raise remote_fault_or(unreached, error, url) from error


def expand_url(url: str, fits: NameFilter, left_out: dict[str, str]) -> list[tuple[str, str]]:
    """Find the files of a URL that is a file, a glob, or a directory whose files fit.

    Args:
        url: Pattern in the recipe.
        fits: Filter of file names in directories.
        left_out: Receives hidden files of records, and the reason.

    Returns:
        URLs, and the path of each file below the fixed part of the pattern.

    Raises:
        InputError: The store cannot be reached, or the protocol's package is not installed.
    """
    with remote_errors(url):
        filesystem, path = _open(url)
        if filesystem.isfile(path):
            return [(url, path.rsplit("/", 1)[-1])]
        root = path
        if GLOB_CHARACTERS & set(path):
            fixed = path[: min(path.find(mark) for mark in GLOB_CHARACTERS if mark in path)]
            root = fixed.rpartition("/")[0]
            matches = filesystem.glob(path, detail=True)
        else:
            matches = {path: {"type": "directory"}} if filesystem.isdir(path) else {}
        files = []
        for match, details in matches.items():
            is_directory = details["type"] == "directory"
            for file in filesystem.find(match) if is_directory else [match]:
                name = file.removeprefix(root).strip("/")
                if is_directory and not fits(name.rsplit("/", 1)[-1]):
                    continue
                address = filesystem.unstrip_protocol(file)
                if "/." in f"/{name}" and "/." not in url:
                    if reader_of_name(name) != "text":
                        left_out[address] = "hidden"
                    continue
                files.append((address, name))
        return files


def pinned_parts(url: str) -> tuple[str, str] | None:
    """Return dataset and commit of a URL of the Hub that names a commit; None for others.

    Example:
        >>> pinned_parts(f"hf://datasets/me/web@{'0' * 40}/a.parquet") == ("me/web", "0" * 40)
        True
        >>> pinned_parts("hf://datasets/me/web@main/a.parquet") is None
        True
    """
    match = _is_pinned(url)
    return None if match is None else (match["id"], match["commit"])


def remote_details(url: str) -> dict[str, Any]:
    """Return what the store says of a file.

    Raises:
        InputError: The store cannot be reached.
    """
    with remote_errors(url):
        filesystem, path = _open(url)
        details: dict[str, Any] = filesystem.info(path)
        return details


def hub_content_hash(details: dict[str, Any]) -> str:
    """Hash a file's content by what the Hub says of it: its SHA-256, or Git's hash.

    Args:
        details: From `remote_details`.
    """
    lfs = details.get("lfs")
    digest = f"sha256:{lfs['sha256']}" if lfs else f"git:{details['blob_id']}"
    return xxhash.xxh3_128_hexdigest(digest.encode())


def remote_status(url: str) -> tuple[int, str]:
    """Return the size in bytes (0 if unknown), and a text that changes when the file does.

    Raises:
        InputError: The store cannot be reached.
    """
    if pinned_parts(url):
        return 0, *PINNED
    with remote_errors(url):
        filesystem, path = _open(url)
        return filesystem.info(path).get("size") or 0, str(filesystem.ukey(path))


def _open(url: str) -> tuple[Any, str]:
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(url)
    return filesystem, str(path)
