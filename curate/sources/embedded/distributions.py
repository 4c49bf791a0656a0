"""The distributions whose text makes the embedded corpus: all that curate depends on."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Sequence
from typing import TypeAlias

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

DISTRIBUTION = "curate-mix"
DEPENDENCIES = (
    *(
        "click",
        "fastokens",
        "fsspec",
        "msgspec",
        "numba",
        "numpy",
        "orjson",
        "packaging",
        "pyarrow",
    ),
    *("pyyaml", "rich", "scipy", "tokenizers", "xxhash", "zstandard"),
)
"""What curate requires, for a source checkout that is not installed; a test holds it to that."""

Installed: TypeAlias = dict[str, importlib.metadata.Distribution]
"""Canonical name → distribution."""


def installed(distributions: Sequence[str] | None) -> Installed:
    """The distributions asked for, or all that curate depends on, as far as installed."""
    if distributions is not None:
        return closure(tuple(distributions), follow=False)
    own = _find(DISTRIBUTION)
    return closure(tuple(requirements(own)) if own else DEPENDENCIES, follow=True)


@functools.cache
def closure(names: tuple[str, ...], *, follow: bool) -> Installed:
    """The named distributions and, if `follow`, what those require in turn, sorted by name."""
    pending = list(names)
    asked: set[str] = set()
    found: Installed = {}
    while pending:
        name = canonicalize_name(pending.pop())
        distribution = None if name in asked else _find(name)
        asked.add(name)
        if distribution:
            found[name] = distribution
            pending += requirements(distribution) if follow else []
    return dict(sorted(found.items()))


def _find(name: str) -> importlib.metadata.Distribution | None:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements(distribution: importlib.metadata.Distribution) -> list[str]:
    """Names a distribution requires here, extras apart; a line that is no requirement is none."""
    names = []
    for line in distribution.requires or []:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            names.append(requirement.name)
    return names
