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
from curate.laws.run_tables.columns import NO_NAME, is_name, quoted
from curate.runtime.machine import fault_or

Array = NDArray[np.float64]

PREFIX = "logp_"
KEYS = ("target_domain", "document", "position")
LEAST_NATS = -1e6
"""No softmax of floats gives less; sums of a document would overflow far below."""


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
    table = _table(path)
    names = table.column_names
    lacking = [name for name in KEYS if name not in names]
    columns = [name for name in names if name.startswith(PREFIX) and len(name) > len(PREFIX)]
    if lacking or not columns:
        missing = ", ".join(lacking) or f"{PREFIX}<expert>"
        raise InputError(
            f"{path}: no column {missing}; an experts file has {', '.join(KEYS)} and "
            f"{PREFIX}<expert> for each expert; columns of this one: {', '.join(names)}"
        )
    if not len(table):
        raise InputError(f"{path}: has no rows; run `curate experts` again")
    logp = np.column_stack([_logp(table, name, path) for name in columns])
    wrong = np.argwhere(~((logp <= 1e-6) & ((logp >= LEAST_NATS) | np.isneginf(logp))))
    if len(wrong):
        row, column = wrong[0]
        raise InputError(
            f"{path}: row {row + 1}, {columns[column]}: {logp[row, column]:g} is no "
            f"log-probability in nats (expected at most 0, and above {LEAST_NATS:g} or -inf)"
        )
    hopeless = np.flatnonzero(np.isneginf(logp).all(axis=1))
    if len(hopeless):
        raise InputError(
            f"{path}: row {hopeless[0] + 1}: every expert gives this token probability 0, so every "
            "mixture of them does too"
        )
    return _assembled(table, path, tuple(name.removeprefix(PREFIX) for name in columns), logp)


def _table(path: Path) -> pa.Table:
    """Read all columns; their names differ and can be shown."""
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
            names = table.column_names
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        unreadable = InputError(f"{path}: cannot be read as Parquet: {quoted(reason, 160)}")
        raise fault_or(unreadable, error, str(path)) from error
    for name in names:
        if not is_name(name):
            raise InputError(f"{path}: column {quoted(name)} {NO_NAME}")
        if names.count(name) > 1:
            raise InputError(f"{path}: column '{name}' occurs twice")
    return table


def _logp(table: pa.Table, name: str, path: Path) -> Array:
    column = table.column(name)
    if not pa.types.is_floating(column.type) or column.null_count:
        raise _wrong_values(path, name, "floats", column)
    return np.asarray(column.to_numpy(), np.float64)


def _whole(table: pa.Table, name: str, path: Path) -> NDArray[np.int64]:
    column = table.column(name)
    if not pa.types.is_integer(column.type) or column.null_count:
        raise _wrong_values(path, name, "whole numbers", column)
    try:
        return np.asarray(column.cast(pa.int64()).to_numpy(), np.int64)
    except pa.ArrowInvalid:
        raise InputError(f"{path}: column {name}: a number is too large for int64") from None


def _wrong_values(path: Path, name: str, expected: str, column: pa.ChunkedArray) -> InputError:
    """Return the error about a column of another type, or with a gap, which names the first."""
    text = f"{path}: column {name}: expected {expected} without gaps, "
    kind = quoted(str(column.type)).strip("'")
    if column.null_count and column.null_count < len(column):
        row = int(column.is_null().to_numpy().argmax()) + 1
        return InputError(f"{text}row {row} of {kind} is empty")
    return InputError(f"{text}found {'nothing' if column.null_count else kind}")


def _targets(table: pa.Table, path: Path) -> tuple[NDArray[np.int64], list[str]]:
    """Return the target of each row, shape (rows,), and the names of the targets."""
    column = table.column("target_domain")
    values = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(values) or pa.types.is_large_string(values)) or column.null_count:
        raise _wrong_values(path, "target_domain", "text", column)
    try:
        domain = column.cast(pa.string()).combine_chunks().dictionary_encode()
        names: list[str] = domain.dictionary.to_pylist()
    except (pa.ArrowInvalid, UnicodeDecodeError):
        raise InputError(f"{path}: column target_domain: a name is not UTF-8 text") from None
    for name in names:
        if name is None or not is_name(name):
            raise InputError(f"{path}: column target_domain: {quoted(str(name))} {NO_NAME}")
    return np.asarray(domain.indices.to_numpy(zero_copy_only=False), np.int64), names


def _assembled(table: pa.Table, path: Path, experts: tuple[str, ...], logp: Array) -> Likelihoods:
    """Group the rows into documents; refuse documents whose rows are apart or out of order."""
    code, names = _targets(table, path)
    document, position = (_whole(table, name, path) for name in ("document", "position"))
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
        targets=tuple(names),
        target=code[first],
        starts=np.append(first, len(code)).astype(np.int64),
        logp_nats=np.minimum(logp, 0.0),
    )
