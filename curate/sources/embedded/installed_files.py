"""Assign installed files to the domains of the embedded corpus, and order them.

The order is that of the hash of their bytes, tests last. Left out: what texts the files hold, and
how many of them are taken, see `harvesting`.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from curate.runtime.files import hash_bytes
from curate.runtime.machine import raise_fault
from curate.sources.embedded.distributions import Installed

HEADER_SUFFIXES = frozenset({".h", ".hh", ".hpp", ".cuh", ".pyx", ".pxd", ".pxi"})
CONFIG_SUFFIXES = frozenset({".pyi", ".toml", ".cfg", ".ini", ".json", ".yaml", ".yml"})
MANUAL_SUFFIXES = frozenset({".rst", ".md", ".txt"})
LICENCE_NAME = re.compile(r"(licen[sc]es?|copying|notice)\b", re.IGNORECASE)
MANUAL_NAME = re.compile(r"(readme|news|changes|changelog|history|howto)\b", re.IGNORECASE)
NOT_A_MANUAL = re.compile(r"(requirements|cmakelists|entry_points|top_level)", re.IGNORECASE)
DESCRIPTION_NAMES = frozenset({"METADATA", "PKG-INFO"})
TOPICS_PATH = "pydoc_data/topics.py"
TEST_DIRECTORIES = frozenset({"test", "tests", "idle_test"})
SKIPPED_DIRECTORIES = frozenset({"__pycache__", "site-packages", "dist-packages"})


@dataclass(frozen=True, slots=True)
class CandidateFile:
    """A file that may become a document; candidates are taken in the order of `rank`."""

    rank: tuple[bool, str, str]
    """Whether it is a test, the hash of its bytes, and `id`."""
    id: str
    path: Path
    metadata: dict[str, str]


def _domain_of(path: PurePosixPath) -> str | None:
    """Return the domain of a file; `python_code` stands for docstrings too."""
    suffix = path.suffix.lower()
    in_metadata = path.parts[0].endswith((".dist-info", ".egg-info"))
    is_code = suffix in HEADER_SUFFIXES or suffix in CONFIG_SUFFIXES or suffix == ".py"
    if not is_code and (LICENCE_NAME.match(path.name) or "licenses" in path.parts[1:]):
        return "licences"
    if path.name in DESCRIPTION_NAMES:
        return "manuals"
    if in_metadata or path.name.startswith("_sysconfigdata"):
        return None
    if suffix == ".py":
        return "manuals" if str(path) == TOPICS_PATH else "python_code"
    if suffix in HEADER_SUFFIXES:
        return "c_headers"
    if suffix == ".pyi" or (suffix in CONFIG_SUFFIXES and not _is_test(path)):
        return "stubs_config"
    if _is_test(path):
        return None
    if suffix in MANUAL_SUFFIXES or (not suffix and MANUAL_NAME.match(path.name)):
        return None if NOT_A_MANUAL.match(path.name) else "manuals"
    return None


def _is_test(path: PurePosixPath) -> bool:
    return not TEST_DIRECTORIES.isdisjoint(path.parts)


def _python_files() -> Iterator[tuple[Path, PurePosixPath]]:
    """List absolute and relative paths of the files of Python itself."""
    paths = sysconfig.get_paths()
    for root, prefix in ((paths["stdlib"], ""), (paths["include"], "include/")):
        for folder, folders, names in os.walk(root, onerror=partial(raise_fault, path=root)):
            folders[:] = [name for name in folders if name not in SKIPPED_DIRECTORIES]
            relative = Path(folder).relative_to(root).as_posix()
            for name in names:
                yield Path(folder, name), PurePosixPath(prefix, relative, name)


def _distribution_files(
    distribution: importlib.metadata.Distribution,
) -> Iterator[tuple[Path, PurePosixPath]]:
    """List absolute and relative paths of the files in a distribution's own directories."""
    root = Path(str(distribution.locate_file("")))
    for listed in distribution.files or []:
        if ".." not in listed.parts and not listed.is_absolute():
            yield root / listed, PurePosixPath(listed)


def _licence(distribution: importlib.metadata.Distribution) -> str:
    """Return the licence that a distribution states, in one line; empty if it states none."""
    metadata = distribution.metadata
    for name in ("License-Expression", "License"):
        stated = str(metadata[name]).strip() if name in metadata else ""
        if stated and "\n" not in stated:
            return stated
    classifiers = [entry for entry in metadata.get_all("Classifier") or [] if "License ::" in entry]
    return ", ".join(entry.rpartition(" :: ")[2] for entry in classifiers)


def find_candidates(installed: Installed, names: set[str]) -> dict[str, list[CandidateFile]]:
    """List the files of each requested domain, in the order in which they are taken."""
    origins = [({"distribution": "python", "version": platform.python_version()}, _python_files())]
    origins[0][0]["licence"] = "PSF-2.0"
    for name, distribution in installed.items():
        origin = {"distribution": name, "version": distribution.version}
        origins.append(
            ({**origin, "licence": _licence(distribution)}, _distribution_files(distribution))
        )
    candidates_of: dict[str, list[CandidateFile]] = {domain: [] for domain in names}
    for origin, files in origins:
        for path, relative in files:
            domain = _domain_of(relative)
            if domain not in names:
                continue
            try:
                content = path.read_bytes()
            except OSError as error:
                raise_fault(error, str(path))
                content = b""  # `harvesting` meets the same fault, and counts it
            identifier = f"{origin['distribution']}/{relative}"
            metadata = {**origin, "path": str(relative)}
            rank = (_is_test(relative), hash_bytes(content), identifier)
            candidates_of[domain].append(CandidateFile(rank, identifier, path, metadata))
    for candidates in candidates_of.values():
        candidates.sort(key=lambda candidate: candidate.rank)
    return candidates_of
