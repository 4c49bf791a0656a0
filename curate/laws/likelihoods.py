"""Read an experts file: log-probabilities of validation tokens under every expert.

An expert is a model trained on one domain. The file has a row for each token that was predicted:
`target_domain` (text), `document` and `position` (whole numbers, the position counted from the
document's start), and `logp_<expert>` for each expert, in nats. Rows of a document stand together
and in order. `curate.mixture.search.expert_mixing` uses the matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curate.errors import InputError

Array = NDArray[np.float64]

PREFIX = "logp_"
KEYS = ("target_domain", "document", "position")


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Log-probabilities of validation tokens under each expert."""

    experts: tuple[str, ...]
    """Training domains, the columns of `logp_nats`."""
    targets: tuple[str, ...]
    """Validation domains, in the order of their first token."""
    target: NDArray[np.int64]
    """shape (documents,), index into `targets`."""
    starts: NDArray[np.int64]
    """shape (documents + 1,), first token of each document, then the number of tokens."""
    logp_nats: Array
    """shape (tokens, experts), at most 0; minus infinity where an expert excludes a token."""

    def __post_init__(self) -> None:
        """Raise `ValueError` if the shapes do not match."""
        if self.logp_nats.ndim != 2 or self.logp_nats.shape[1] != len(self.experts):
            raise ValueError(
                f"logp_nats: expected a column for each of {len(self.experts)} experts, got shape "
                f"{self.logp_nats.shape}"
            )
        if len(self.starts) != len(self.target) + 1 or self.starts[-1] != len(self.logp_nats):
            raise ValueError(
                f"starts: expected {len(self.target) + 1} numbers that end at "
                f"{len(self.logp_nats)}, got {len(self.starts)} that end at {self.starts[-1]}"
            )
        if np.any(np.diff(self.starts) < 1):
            raise ValueError("starts: a document has no token")


def read_likelihoods(path: Path) -> Likelihoods:
    """Read an experts file.

    Raises:
        InputError: It is absent, is not Parquet, lacks a column, or holds a number that is not a
            log-probability. The message names the column, and the row where there is one.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({error})") from error
    names = table.column_names
    lacking = [name for name in KEYS if name not in names]
    columns = [name for name in names if name.startswith(PREFIX) and len(name) > len(PREFIX)]
    if lacking or not columns:
        missing = ", ".join(lacking) or f"{PREFIX}<expert>"
        raise InputError(
            f"{path}: no column {missing}; an experts file has {', '.join(KEYS)} and "
            f"{PREFIX}<expert> for each expert (found: {', '.join(names)})"
        )
    if not len(table):
        raise InputError(f"{path}: has no rows; run `curate experts` again")
    logp = np.column_stack([_numbers(table, name, path) for name in columns])
    wrong = np.argwhere(np.isnan(logp) | (logp > 1e-6))
    if len(wrong):
        row, column = wrong[0]
        raise InputError(
            f"{path}: row {row + 1}, {columns[column]}: {logp[row, column]:g} is no "
            "log-probability in nats (expected at most 0)"
        )
    hopeless = np.flatnonzero(np.isneginf(logp).all(axis=1))
    if len(hopeless):
        raise InputError(
            f"{path}: row {hopeless[0] + 1}: every expert gives this token probability 0, so every "
            "mixture of them does too"
        )
    return _assembled(table, path, tuple(name.removeprefix(PREFIX) for name in columns), logp)


def _numbers(table: pa.Table, name: str, path: Path) -> Array:
    column = table.column(name)
    if column.null_count or not (pa.types.is_floating(column.type)):
        raise InputError(
            f"{path}: column {name}: expected floats without gaps, found {column.type} with "
            f"{column.null_count} empty"
        )
    return np.asarray(column.to_numpy(), np.float64)


def _assembled(table: pa.Table, path: Path, experts: tuple[str, ...], logp: Array) -> Likelihoods:
    """Group the rows into documents; refuse documents whose rows are apart or out of order."""
    domain = table.column("target_domain").cast(pa.string()).combine_chunks().dictionary_encode()
    if domain.null_count:
        raise InputError(f"{path}: column target_domain: {domain.null_count} rows are empty")
    code = np.asarray(domain.indices.to_numpy(zero_copy_only=False), np.int64)
    document, position = (
        np.asarray(table.column(name).to_numpy(), np.int64) for name in ("document", "position")
    )
    starts = np.ones(len(code), bool)
    starts[1:] = (code[1:] != code[:-1]) | (document[1:] != document[:-1])
    back = np.flatnonzero(~starts[1:] & (position[1:] <= position[:-1]))
    first = np.flatnonzero(starts)
    _, once = np.unique(np.stack([code[first], document[first]]), axis=1, return_index=True)
    again = np.setdiff1d(np.arange(len(first)), once)
    if len(back) or len(again):
        row = int(back[0]) + 2 if len(back) else int(first[again[0]]) + 1
        raise InputError(
            f"{path}: row {row}: rows of a document must stand together, by rising position; sort "
            "by target_domain, document, position"
        )
    return Likelihoods(
        experts=experts,
        targets=tuple(domain.dictionary.to_pylist()),
        target=code[first],
        starts=np.append(first, len(code)).astype(np.int64),
        logp_nats=np.minimum(logp, 0.0),
    )
