"""Read and write `runs.csv`, one row for each checkpoint of a run; needs no torch.

Columns: run, seed, params, step, tokens, w_<domain>…, loss_<domain>… (nats per token),
bpb_<domain>… (bits per byte of text).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from curate.errors import InputError
from curate.runtime.files import atomic_path


@dataclass(frozen=True, slots=True)
class RunRow:
    """One checkpoint of a run."""

    run: str
    seed: int
    params: int
    """Parameters of blocks, norms and head."""
    step: int
    """Steps taken so far."""
    tokens: int
    """Tokens trained on so far."""
    weights: tuple[float, ...]
    """shape (domains,), shares of tokens."""
    losses: tuple[float, ...]
    """shape (domains,), nats per token of held-out documents."""
    bits_per_byte: tuple[float, ...]
    """shape (domains,), bits per byte of their text; comparable between tokenizers."""


FIXED = ("run", "seed", "params", "step", "tokens")


def columns(domains: Sequence[str]) -> list[str]:
    """Return the headings of `runs.csv`.

    Example:
        >>> columns(["a"])
        ['run', 'seed', 'params', 'step', 'tokens', 'w_a', 'loss_a', 'bpb_a']
    """
    kinds = [f"{kind}_{domain}" for kind in ("w", "loss", "bpb") for domain in domains]
    return [*FIXED, *kinds]


def read_runs(path: Path, domains: Sequence[str]) -> list[RunRow]:
    """Read the rows of a table of these domains; none if there is no file.

    Raises:
        InputError: The table has other domains, or a line is not a row of a run.
    """
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        headings = next(lines, [])
        if headings != columns(domains):
            raise InputError(
                f"{path}:1: not the columns of these domains ({', '.join(domains)}); give another "
                "--out, or move that file away"
            )
        rows = []
        for line in lines:
            try:
                rows.append(_row(line, len(domains)))
            except (ValueError, IndexError) as error:
                raise InputError(f"{path}:{lines.line_num}: not a row of a run ({error})") from None
    return rows


def _row(line: Sequence[str], domains: int) -> RunRow:
    values = [float(text) for text in line[5:]]
    if len(values) != 3 * domains:
        raise ValueError(f"expected {5 + 3 * domains} columns, got {len(line)}")
    return RunRow(
        run=line[0],
        seed=int(line[1]),
        params=int(line[2]),
        step=int(line[3]),
        tokens=int(line[4]),
        weights=tuple(values[:domains]),
        losses=tuple(values[domains : 2 * domains]),
        bits_per_byte=tuple(values[2 * domains :]),
    )


def append_runs(path: Path, domains: Sequence[str], rows: Sequence[RunRow]) -> None:
    """Add rows; a reader sees the table without them or with all of them.

    Args:
        path: Table to extend, or to begin.
        domains: Names of its domains.
        rows: Rows to add.
    """
    write_runs(path, domains, [*read_runs(path, domains), *rows])


def write_runs(path: Path, domains: Sequence[str], rows: Sequence[RunRow]) -> None:
    """Write a table of these rows, whole or not at all.

    Args:
        path: Table to write or replace.
        domains: Names of its domains.
        rows: All its rows.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns(domains))
        for row in rows:
            numbers = [*row.weights, *row.losses, *row.bits_per_byte]
            writer.writerow(
                [row.run, row.seed, row.params, row.step, row.tokens, *map(repr, numbers)]
            )
