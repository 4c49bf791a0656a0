"""Search directories for files: each directory and each file once, whatever links lead there.

What curate writes is never found: the places of the running recipe, and datasets of other recipes.
"""

from __future__ import annotations

import fnmatch
import glob
import heapq
import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from curate.errors import InputError
from curate.runtime.artifact_names import ARTIFACTS, MARK
from curate.runtime.machine import fault_or, raise_fault
from curate.sources.places import Places
from curate.sources.plans import reader_of_name
from curate.sources.remote import NameFilter

ARTIFACT_HEAD_BYTES = 1024
"""Bytes near the start of an artifact that state the version of curate."""

CACHE_TAG = "CACHEDIR.TAG"
CACHE_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
"""Name and beginning of the file that marks a cache, see https://bford.info/cachedir."""

is_marker = re.compile(
    "|".join(
        map(
            fnmatch.translate,
            (
                "_SUCCESS", "_committed_*", "_started_*", "_metadata", "_common_metadata",
                "*.crc", "*.md5", "*.sha1", "*.sha256", "*.sha512", "*.md5sum", "*.sha256sum",
                "MD5SUMS*", "SHA1SUMS*", "SHA256SUMS*", "SHA512SUMS*",
            ),
        )
    )
).match  # fmt: skip
"""Test for names of files that other tools write beside data: end marks, indices, checksums."""

is_unfinished = re.compile(
    "|".join(
        map(
            fnmatch.translate,
            (
                "*.part", "*.partial", "*.filepart", "*.incomplete", "*.crdownload", "*.download",
                "*.aria2", "*.tmp", "*.temp", "*~", "#*#",
            ),
        )
    )
).match  # fmt: skip
"""Test for names that downloads and editors give to files which are not, or no longer, whole."""

HIDDEN_ENTRIES = 1000
"""Entries of a hidden directory among which files of records are sought, to say what is not read.
"""


class Directory(NamedTuple):
    """A directory to search."""

    path: str
    """Path by which it was reached; it begins like the pattern."""
    real: str
    """Without links."""
    part: int
    """The component of the pattern that its entries must match; one more than there are to take
    every file below that fits."""


class Search:
    """Finds what one pattern matches.

    Directories reached through links come after all others, so that a file which is reached both
    ways keeps its own path, in whatever order a directory lists its entries.
    """

    def __init__(self, parts: Sequence[str], fits: NameFilter, places: Places) -> None:
        """Prepare a search.

        Args:
            parts: Components of a glob below a root, perhaps none: the root is then searched.
            fits: Filter of file names where a directory is searched.
            places: What is left out; receives what was.
        """
        self._parts = parts
        self._fits = fits
        self._places = places
        self._root = ""
        self._seen: set[tuple[int, str]] = set()
        self._direct: list[Directory] = []
        self._linked: list[Directory] = []
        """A heap, so that the order does not depend on the order of entries."""
        self._linked_files: list[tuple[str, str]] = []

    def below(self, root: str) -> Iterator[tuple[str, str]]:
        """Yield path and real path of every file; a file may come twice, its own path first.

        Raises:
            InputError: A directory cannot be listed.
        """
        self._root = os.path.realpath(root)
        self._direct.append(Directory(root, self._root, 0))
        while self._direct or self._linked:
            if self._direct:
                directory = self._direct.pop()
            else:
                directory = heapq.heappop(self._linked)
            if (directory.part, directory.real) in self._seen:
                continue
            self._seen.add((directory.part, directory.real))
            yield from self._files_in(directory)
        yield from sorted(self._linked_files)

    def _files_in(self, directory: Directory) -> Iterator[tuple[str, str]]:
        part = self._parts[directory.part] if directory.part < len(self._parts) else ""
        is_last = directory.part == len(self._parts) - 1
        is_deep = part in ("", "**")
        if is_deep and (reason := self._no_source(directory)):
            self._places.left_out[directory.path] = reason
            return
        if part == "**" and not is_last:
            self._direct.append(directory._replace(part=directory.part + 1))
        elif part and not glob.has_magic(part):
            yield from self._named(directory, part)
            return
        fits = self._fits if not part else re.compile(fnmatch.translate(part)).match
        below = directory.part if is_deep else directory.part + 1
        for entry in _entries(directory):
            if entry.name.startswith(".") and not part.startswith("."):
                if is_deep and self._hides_records(directory, entry, fits):
                    self._places.left_out[entry.path] = "hidden"
                continue
            path = entry.path if directory.path != os.curdir else entry.name
            real = os.path.join(directory.real, entry.name)
            is_link = entry.is_symlink()
            if _is_directory(entry):
                if is_deep or fits(entry.name):
                    self._descend(path, real, below, is_link)
            elif part == "**":
                if is_last:
                    yield from self._file(path, real, is_link)
            elif fits(entry.name) and (not part or is_last):
                yield from self._file(path, real, is_link)

    def _hides_records(
        self, directory: Directory, entry: os.DirEntry[str], fits: NameFilter
    ) -> bool:
        """Whether a hidden file, or one in a hidden directory, would be read but for that."""
        if not entry.is_dir(follow_symlinks=False):
            return suggests_records(entry.name, fits)
        real = os.path.join(directory.real, entry.name)
        if real == self._places.output or real in self._places.written:
            return False
        entries = 0
        for _, directories, files in os.walk(entry.path):
            if CACHE_TAG in files:
                directories.clear()
            elif any(suggests_records(name, fits) for name in files):
                return True
            entries += len(directories) + len(files)
            if entries > HIDDEN_ENTRIES:
                break
        return False

    def _named(self, directory: Directory, part: str) -> Iterator[tuple[str, str]]:
        """Take the entry that a component names literally."""
        path = part if directory.path == os.curdir else os.path.join(directory.path, part)
        if os.path.isdir(path):
            self._descend(path, os.path.realpath(path), directory.part + 1, os.path.islink(path))
        elif directory.part == len(self._parts) - 1 and os.path.exists(path):
            yield from self._file(path, os.path.join(directory.real, part), os.path.islink(path))

    def _descend(self, path: str, real: str, part: int, is_link: bool) -> None:
        if is_link:
            real = os.path.realpath(path)
        if real == self._places.output and real != self._root:
            self._places.left_out[path] = "the output directory"
        elif real in self._places.written or (is_link and self._places.is_written(real)):
            self._places.left_out[path] = "written by this recipe"
        else:
            directory = Directory(path, real, part)
            if is_link:
                heapq.heappush(self._linked, directory)
            else:
                self._direct.append(directory)

    def _file(self, path: str, real: str, is_link: bool) -> Iterator[tuple[str, str]]:
        if is_link:
            real = os.path.realpath(path)
        if real in self._places.written or (is_link and self._places.is_written(real)):
            self._places.left_out[path] = "written by this recipe"
        elif os.path.basename(path) in ARTIFACTS and is_artifact(path):
            self._places.left_out[path] = "written by curate"
        elif is_link:
            self._linked_files.append((path, real))
        else:
            yield path, real

    def _no_source(self, directory: Directory) -> str:
        """Say why a directory, other than the recipe's own output, is not searched; else empty."""
        path = directory.path
        if directory.real == self._places.output:
            return ""
        if directory.real != self._root and os.path.isfile(os.path.join(path, MARK)):
            return "a dataset of curate"
        tag = beginning(os.path.join(path, CACHE_TAG), len(CACHE_SIGNATURE))
        if tag == CACHE_SIGNATURE:
            return "a cache, says its CACHEDIR.TAG"
        is_unfinished = os.path.isfile(os.path.join(path, "train", MARK))
        is_dataset = is_unfinished or is_artifact(os.path.join(path, "manifest.json"))
        return "a dataset of curate" if is_dataset else ""


def suggests_records(name: str, fits: NameFilter) -> bool:
    """Whether a name fits, and is that of a file of records, whole, rather than of text."""
    return bool(fits(name)) and reader_of_name(name) != "text" and not is_unfinished(name)


def beginning(path: str, limit_bytes: int) -> bytes:
    """Return the first bytes of a regular file; nothing if there is none that can be read."""
    if not os.path.isfile(path):  # opening a pipe would wait for its writer
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(limit_bytes)
    except OSError as error:
        raise_fault(error, path)
        return b""


def is_artifact(path: str) -> bool:
    """Whether a file is JSON of curate, which states the version that wrote it."""
    return b'"curate_version"' in beginning(path, ARTIFACT_HEAD_BYTES)


def _entries(directory: Directory) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory.path) as entries:
            return list(entries)
    except OSError as error:
        unlisted = InputError(f"{directory.path}: cannot be listed ({error.strerror})")
        raise fault_or(unlisted, error, directory.path) from error


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a directory; a link that leads nowhere is a file, and named later."""
    try:
        return entry.is_dir()
    except OSError as error:  # a link to itself
        raise_fault(error, entry.path)
        return False
