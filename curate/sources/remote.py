"""Find and identify files behind URLs, and filter file names.

Objects of S3, Google Cloud Storage and web servers are asked for through `curate.runtime.objects`;
fsspec opens other URLs.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
import urllib.parse
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import xxhash

from curate.errors import InputError
from curate.runtime.artifact_names import MARK
from curate.runtime.machine import remote_fault_or
from curate.runtime.objects import (
    ODD_KEY,
    MissingObject,
    ObjectInfo,
    is_object_url,
    list_with_odd,
    object_info,
    refuse_access,
)
from curate.sources.places import Places
from curate.sources.plans import reader_of_name

NameFilter: TypeAlias = Callable[[str], Any]
"""A test of file names, true for those to read."""

GLOB_CHARACTERS = frozenset("*?[")

has_password = re.compile(r"(?<!github)://[^/?#@]*:[^/?#]*@").search
"""Test for a password in a URL that fsspec opens; GitHub's name a repository there."""

PROTOCOL = "hf://datasets/"
"""Prefix of URLs of datasets on the Hugging Face Hub."""

UNREADABLE = f"as {ODD_KEY}; rename such objects to have them read"
"""Reason to leave an object out."""

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


def expand_url(url: str, fits: NameFilter, places: Places) -> list[tuple[str, str]]:
    """Find the files of a URL that is a file, a glob, or a directory whose files fit.

    Args:
        url: Pattern in the recipe.
        fits: Filter of file names in directories.
        places: What this recipe writes; receives what was left out.

    Returns:
        URLs, and the path of each file below the fixed part of the pattern.

    Raises:
        InputError: The store cannot be reached, or the protocol's package is not installed.
    """
    if is_object_url(url):
        return expand_objects(url, fits, places)
    if has_password(url):
        refuse_access(url)
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
                        places.left_out[address] = "hidden"
                    continue
                files.append((address, name))
        return files


_listed: dict[str, ObjectInfo] = {}
"""Objects as listings described them, each until it is asked for."""


def expand_objects(url: str, fits: NameFilter, places: Places) -> list[tuple[str, str]]:
    """Find the objects of a URL; see `expand_url`.

    An object is in the directories that its key spells. Objects of no bytes whose key is such a
    directory, as some tools make, are no files.

    Args:
        url: Pattern in the recipe.
        fits: Filter of file names in directories.
        places: What this recipe writes; receives what was left out.

    Returns:
        As `expand_url`.

    Raises:
        InputError: The store refuses, or the URL is a glob of a web server, or lies where this
            recipe writes.
        EngineError: The store does not answer.
    """
    refuse_access(url)  # before a line names a glob, which `?` makes of parameters
    protocol, _, rest = url.partition("://")
    if protocol in ("http", "https"):
        if GLOB_CHARACTERS & set(rest.partition("?")[0]):
            raise InputError(f"{url}: web servers list no files; name each file")
        return [(url, _keep(object_info(url)))]
    from fsspec.utils import glob_translate

    pattern = url.rstrip("/")
    if places.is_written(pattern):
        raise written_by_recipe(url)
    is_glob = bool(GLOB_CHARACTERS & set(pattern))
    if "/" in rest and not url.endswith("/") and not is_glob:
        with contextlib.suppress(MissingObject):
            return [(url, _keep(object_info(url)))]
    fixed = re.split(r"[*?[]", pattern, maxsplit=1)[0]
    root = fixed.rpartition("/")[0] if is_glob else pattern
    if root.endswith(":/"):
        raise InputError(f"{url}: names no bucket; write {protocol}://BUCKET/KEY")
    matches = re.compile(glob_translate(pattern) if is_glob else re.escape(pattern)).fullmatch
    infos, unreadable = list_with_odd(root)
    odd = {info.url for info in unreadable}
    infos += unreadable
    literal = [info for info in infos if info.url == url]
    if is_glob and literal:
        return [(url, _keep(literal[0]))]
    directories = {root, *(parent for info in infos for parent in parents(info.url, root))}
    matching = {directory for directory in directories if matches(directory)}
    datasets = {
        directory
        for directory in _datasets(infos, root)
        if "**" in pattern or not matching.isdisjoint((*parents(directory, root), directory))
    }
    files = []
    for info in infos:
        name = info.url[len(root) + 1 :]
        is_below = not matching.isdisjoint(parents(info.url, root))
        if not (is_below and fits(name.rpartition("/")[2])) and not matches(info.url):
            continue
        if info.url in odd:
            places.left_out[info.url] = UNREADABLE
            continue
        if not info.size_bytes and (info.url in directories or not _exists(info.url)):
            continue
        if "/." in f"/{name}" and "/." not in url:
            if reader_of_name(name) != "text":
                places.left_out[info.url] = "hidden"
            continue
        if written := _written(info.url, root, datasets, places):
            places.left_out.update([written])
            continue
        _keep(info)
        files.append((info.url, name))
    return files


def written_by_recipe(pattern: str) -> InputError:
    """Return the error for a pattern that names, or starts in, a place where the recipe writes."""
    return InputError(
        f"'{pattern}' lies where this recipe writes its output or its cache, which are never "
        "input; name the source, or give output.dir or cache another directory"
    )


def _datasets(infos: Sequence[ObjectInfo], root: str) -> set[str]:
    """Return the directories that hold datasets of curate; `root`, if a finished one."""
    urls = {info.url for info in infos}
    marked = {url.removesuffix(f"/{MARK}") for url in urls if url.endswith(f"/{MARK}")}
    return marked if f"{root}/manifest.json" in urls else marked - {root}


def _written(
    url: str, root: str, datasets: Collection[str], places: Places
) -> tuple[str, str] | None:
    """Return what curate wrote and holds an object, with the reason to leave it out, as on a disk.

    Args:
        url: The object.
        root: Fixed part of the pattern.
        datasets: Directories that hold datasets.
        places: What this recipe writes.
    """
    for place in (*parents(url, root), url):
        if place == places.output:
            if place != root:
                return place, "the output directory"
        elif place in places.written:
            return place, "written by this recipe"
        elif place in datasets:
            return place, "a dataset of curate"
    return None


def parents(url: str, root: str) -> Iterator[str]:
    """Yield the directories of a URL, from `root` on.

    Example:
        >>> list(parents("s3://b/a/x/y.txt", "s3://b/a"))
        ['s3://b/a', 's3://b/a/x']
    """
    stop = len(root)
    while stop >= 0:
        yield url[:stop]
        stop = url.find("/", stop + 1)


def _keep(info: ObjectInfo) -> str:
    """Keep what a store said of an object, and return the object's name."""
    _listed[info.url] = info
    path = info.url
    if path.startswith("http"):
        path = urllib.parse.unquote(urllib.parse.urlsplit(path).path)
    return path.rpartition("/")[2]


def _exists(url: str) -> bool:
    """Whether an object exists under this key; a listing names `a/` as `a`."""
    try:
        object_info(url)
    except MissingObject:
        return False
    return True


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
    if is_object_url(url):
        info = _listed.pop(url, None) or object_info(url)
        return info.size_bytes, info.version
    with remote_errors(url):
        filesystem, path = _open(url)
        return filesystem.info(path).get("size") or 0, str(filesystem.ukey(path))


def _open(url: str) -> tuple[Any, str]:
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(url)
    return filesystem, str(path)
