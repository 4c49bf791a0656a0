"""Fit a law to the same runs once in a process.

A mixture takes up to nine fits, of all runs and without groups of them, and none of them depends on
the objective, the pull, floors or caps. Whoever changes these in a notebook, or compares methods
that share laws, waits for the fits once.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields
from functools import lru_cache

import numpy as np

from curate.laws import LAWS
from curate.laws.law import FittedLaw, Law, RunTable

KEPT_FITS = 32
"""Fits that are kept: those of a law and its refits, and of the panel that intervals include."""


class _Content:
    """A table that is equal to another of the same content, as a key of a cache."""

    def __init__(self, table: RunTable) -> None:
        self.table = table
        digest = hashlib.sha256()
        for field in fields(table):  # all of them, or a fit of another table might be taken
            value = getattr(table, field.name)
            digest.update(f"\0{field.name}=".encode())
            if isinstance(value, np.ndarray):
                digest.update(repr((value.dtype.str, value.shape)).encode())
                digest.update(value.tobytes())
            else:
                digest.update(repr(value).encode())
        self.digest = digest.digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Content) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def fit_once(law: Law, table: RunTable) -> FittedLaw:
    """Fit a law, or return its earlier fit to a table of the same content.

    Laws that are made for one request, as those with experts are, are fitted every time.

    Args:
        law: The law.
        table: The runs.

    Raises:
        FitError: The table cannot determine the law.
    """
    if LAWS.get(law.name) is not law:
        return law.fit(table)
    content = _Content(table)
    fitted = _fit(law, content)
    del content.table  # the digest is key enough, and a table may take much memory
    return fitted


@lru_cache(maxsize=KEPT_FITS)
def _fit(law: Law, content: _Content) -> FittedLaw:
    return law.fit(content.table)


forget = _fit.cache_clear
"""Forget all fits, so that the next one is made."""
