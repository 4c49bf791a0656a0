"""The distributions whose text makes the embedded corpus: a fixed list and what that requires."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Sequence
from typing import TypeAlias

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

SOURCES = (
    *("click", "fastokens", "fsspec", "msgspec", "numba", "numpy", "orjson", "packaging"),
    *("pyarrow", "pyyaml", "rich", "scipy", "tokenizers", "xxhash", "zstandard"),
)
"""Distributions to read. All are dependencies of curate, but not every dependency is one: adding to
this list changes the corpus of everyone, and with it every dataset built from it."""

Installed: TypeAlias = dict[str, importlib.metadata.Distribution]
"""Distributions by canonical name."""


def installed(distributions: Sequence[str] | None) -> Installed:
    """Return the named distributions, or `SOURCES` and all they require, as far as installed."""
    if distributions is not None:
        return closure(tuple(distributions), follow=False)
    return closure(SOURCES, follow=True)


@functools.cache
def closure(names: tuple[str, ...], *, follow: bool) -> Installed:
    """Find distributions and, if `follow`, what those require in turn; sorted by name."""
    pending = list(names)
    visited: set[str] = set()
    distributions: Installed = {}
    while pending:
        name = canonicalize_name(pending.pop())
        distribution = None if name in visited else _find(name)
        visited.add(name)
        if distribution:
            distributions[name] = distribution
            pending += requirements(distribution) if follow else []
    return dict(sorted(distributions.items()))


def _find(name: str) -> importlib.metadata.Distribution | None:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements(distribution: importlib.metadata.Distribution) -> list[str]:
    """List the names that a distribution requires here, without extras; skip malformed lines."""
    names = []
    for line in distribution.requires or []:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            names.append(requirement.name)
    return names
