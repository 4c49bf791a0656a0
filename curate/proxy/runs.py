"""`runs.csv`: one row a checkpoint of a run, written whole or not at all. Needs no torch.

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
    """Of blocks, norms and head."""
    step: int
    tokens: int
    """Trained on so far."""
    weights: tuple[float, ...]
    """shape (domains,), shares of tokens."""
    losses: tuple[float, ...]
    """shape (domains,), nats per token of held-out documents."""
    bits_per_byte: tuple[float, ...]
    """shape (domains,), of their text; comparable between tokenizers."""


FIXED = ("run", "seed", "params", "step", "tokens")


def columns(domains: Sequence[str]) -> list[str]:
    """Headings of `runs.csv`.

    Example:
        >>> columns(["a"])
        ['run', 'seed', 'params', 'step', 'tokens', 'w_a', 'loss_a', 'bpb_a']
    """
    kinds = [f"{kind}_{domain}" for kind in ("w", "loss", "bpb") for domain in domains]
    return [*FIXED, *kinds]


def read_runs(path: Path, domains: Sequence[str]) -> list[RunRow]:
    """The rows of a table of these domains; none where there is no file.

    Raises:
        InputError: It is of other domains, or a line is not ours.
    """
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        found = next(lines, [])
        if found != columns(domains):
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
        line[0], int(line[1]), int(line[2]), int(line[3]), int(line[4]),
        tuple(values[:domains]), tuple(values[domains : 2 * domains]), tuple(values[2 * domains :]),
    )  # fmt: skip


def append_runs(path: Path, domains: Sequence[str], rows: Sequence[RunRow]) -> None:
    """Add rows; a reader sees the table without them or with all of them."""
    write_runs(path, domains, [*read_runs(path, domains), *rows])


def write_runs(path: Path, domains: Sequence[str], rows: Sequence[RunRow]) -> None:
    """Write a table of these rows, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns(domains))
        for row in rows:
            numbers = [*row.weights, *row.losses, *row.bits_per_byte]
            writer.writerow(
                [row.run, row.seed, row.params, row.step, row.tokens, *map(repr, numbers)]
            )
