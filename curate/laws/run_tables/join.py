"""Join several run tables as one: columns are matched by name, runs kept apart by file.

Laws pool sizes and run lengths, so every row of a join says its own: a table without `params` or
`tokens` is refused unless the caller fills them in. Nothing else is assumed either. A domain that a
table lacks has share 0 only where the caller says so, and losses that a table lacks are left out of
all, with a notice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, get_args

import msgspec
import numpy as np

from curate.errors import FitError, RecipeError
from curate.laws.fitting.features import SHARE_DECIMALS
from curate.laws.law import Array, RunTable
from curate.laws.run_tables.columns import TableFile, holds_both
from curate.laws.run_tables.lineage import Became, shares_of_parts
from curate.recipe import AbsentDomains, TableFill
from curate.recipe.checks import readable
from curate.runtime.registry import list_first, unknown_name

SAME_UNIT = 1.05
"""Largest ratio of two tables' losses per bit per byte; further apart, tokenizers differ."""


@dataclass(frozen=True, slots=True)
class Joining:
    """Facts that tables do not state themselves."""

    fill: Mapping[str, TableFill] = field(default_factory=dict)
    """`params` and `tokens` of tables without such columns, by file or by the end of its path."""
    absent_domains: AbsentDomains = "refuse"
    """Whether a domain that a table has no column for is refused, or has share 0 there."""
    became: Became = field(default_factory=dict)
    """Present names or parts of domains that the tables call otherwise."""
    stage: str | None = None
    """Stage whose rows are read, where a column `stage` says to which each belongs."""
    learnt: Mapping[Path, Became] = field(default_factory=dict)
    """The same as `became` for single files, as documents say it."""

    def by_table(self, tables: Sequence[Sequence[Path]]) -> list[TableFill]:
        """Return the numbers to fill into each table.

        Args:
            tables: The files of each table.

        Raises:
            FitError: A name is of no file, or of several.
        """
        fills = [TableFill() for _ in tables]
        for name, fill in self.fill.items():
            tail = Path(name).parts
            places = [
                place
                for place, paths in enumerate(tables)
                if any(path.parts[-len(tail) :] == tail for path in paths)
            ]
            if len(places) != 1:
                files = ", ".join(str(path) for paths in tables for path in paths)
                which = "several run tables" if places else "no run table"
                raise FitError(f"fill: '{name}' names {which}; the files are {files}")
            fills[places[0]] = fill
        return fills


def joining(
    fill: Mapping[str, Any],
    absent_domains: str,
    became: Mapping[str, str | Sequence[str] | Mapping[str, float]] | None = None,
    stage: str | None = None,
) -> Joining:
    """Check what a caller says about tables.

    Args:
        fill: File → mapping with `params` and `tokens`.
        absent_domains: `refuse` or `zero`.
        became: Old domain → its new name, or its parts with their shares of it.
        stage: Stage whose rows are read; None: all.

    Raises:
        RecipeError: A key or value is none that `mixture.evidence` takes.
    """
    fills: dict[str, TableFill] = {}
    for file, numbers in fill.items():
        try:
            fills[file] = msgspec.convert(numbers, TableFill)
        except msgspec.ValidationError as error:
            raise RecipeError(f"fill: '{file}': {readable(str(error), numbers)}") from error
    if absent_domains not in get_args(AbsentDomains):
        raise RecipeError(
            unknown_name("treatment", absent_domains, get_args(AbsentDomains), "absent_domains")
        )
    shares = shares_of_parts(became or {})
    return Joining(fills, cast(AbsentDomains, absent_domains), shares, stage)


@dataclass(frozen=True, slots=True)
class PartTable:
    """A run table to join with others."""

    name: str
    """Its file; for a pair, that of the losses."""
    table: RunTable
    progress: str
    """Column that `tokens` was read from: `tokens`, `step`, or empty for none."""
    carried_over: bool = False
    """Whether its domains had other names, so that its runs are of earlier domains."""


def table_files(files: Sequence[TableFile]) -> list[tuple[TableFile, ...]]:
    """Group files into tables.

    A file with shares and losses is a table. Of the others, each two that follow one another are a
    pair, mixtures and losses in any order.
    """
    tables: list[tuple[TableFile, ...]] = []
    half: TableFile | None = None
    for file in files:
        if holds_both(file):
            tables.append((file,))
        elif half is None:
            half = file
        else:
            tables.append((half, file))
            half = None
    return tables if half is None else [*tables, (half,)]


def join_tables(
    parts: Sequence[PartTable], absent_domains: AbsentDomains
) -> tuple[RunTable, list[str]]:
    """Join run tables, in the order given.

    Args:
        parts: Two or more.
        absent_domains: Whether a domain that only some tables have is refused, or 0 elsewhere.

    Returns:
        The table, whose domains come in the order in which the tables have them first; and what
        was left out or changed, a sentence each.

    Raises:
        FitError: A table lacks sizes, tokens or domains, has losses in another unit, or has no
            loss in common with the others.
    """
    _check_progress(parts)
    stages = parts[0].table.stages
    for part in parts[1:]:
        if part.table.stages != stages:
            ours, theirs = (", ".join(names) or "none" for names in (part.table.stages, stages))
            raise FitError(
                f"{part.name}: stages ({ours}) are not those of {parts[0].name} ({theirs}); read "
                "tables of different stages apart"
            )
    domains, notices = _domains(parts, absent_domains)
    targets, more = _targets(parts)
    unit = _unit(parts)
    aligned = [_aligned(part.table, domains, targets) for part in parts]
    kept, repeats = _without_repeats(parts, aligned)
    names = _names_apart(parts, aligned)
    table = RunTable(
        domains=domains,
        targets=targets,
        runs=tuple(name for names_of, keep in zip(names, kept, strict=True) for name in
                   np.array(names_of, object)[keep]),
        weights=np.concatenate([t.weights[keep] for t, keep in zip(aligned, kept, strict=True)]),
        tokens=np.concatenate([t.tokens[keep] for t, keep in zip(aligned, kept, strict=True)]),
        params=np.concatenate([t.params[keep] for t, keep in zip(aligned, kept, strict=True)]),
        losses=np.concatenate([t.losses[keep] for t, keep in zip(aligned, kept, strict=True)]),
        loss_per_bpb=unit,
        stages=stages,
        earlier=_earlier(parts, kept, domains),
    )  # fmt: skip
    return table, [*notices, *more, *repeats]


def _earlier(
    parts: Sequence[PartTable], kept: Sequence[np.ndarray], domains: Sequence[str]
) -> np.ndarray | None:
    """Tell which rows are of tables that lack domains of today; None where all or none do.

    Where each lacks some, since some domains are gone, those under earlier names are the earlier.

    Args:
        parts: The tables.
        kept: For each, shape (rows,), the rows that are joined.
        domains: Domains of the join.
    """
    lacks = [any(name not in part.table.domains for name in domains) for part in parts]
    if all(lacks):
        lacks = [part.carried_over for part in parts]
    rows = [np.full(int(keep.sum()), lack) for keep, lack in zip(kept, lacks, strict=True)]
    every = np.concatenate(rows)
    return None if every.all() or not every.any() else every


def _check_progress(parts: Sequence[PartTable]) -> None:
    """Refuse tables whose rows do not say their size or length.

    Raises:
        FitError: A table lacks `params` or `tokens`; names the file and the columns.
    """
    for part in parts:
        both = (("params", part.table.params), ("tokens", part.table.tokens))
        absent = [column for column, values in both if not np.isfinite(values).all()]
        if absent:
            file = Path(part.name).name
            numbers = {"params": "6e7", "tokens": "1e9"}
            yaml = ", ".join(f"{column}: {numbers[column]}" for column in absent)
            typed = ",".join(f"{column}={numbers[column]}" for column in absent)
            raise FitError(
                f"{part.name}: no column {' and no column '.join(map(repr, absent))}, so its runs "
                f"cannot be told from those of other tables; add it, or give one "
                f"number for all rows: mixture.evidence.fill: {{{file}: {{{yaml}}}}}, or curate "
                f"fit --fill {file}:{typed}"
            )
        if part.progress == "step":
            raise FitError(
                f"{part.name}: column 'step' counts steps, and tables are joined by tokens; add a "
                "column 'tokens': steps times the tokens of a batch"
            )


def _domains(
    parts: Sequence[PartTable], absent_domains: AbsentDomains
) -> tuple[tuple[str, ...], list[str]]:
    """Unite the domains.

    Raises:
        FitError: A table lacks some, and they are not to be 0.
    """
    domains = tuple(dict.fromkeys(name for part in parts for name in part.table.domains))
    notices = []
    for part in parts:
        absent = [name for name in domains if name not in part.table.domains]
        if not absent:
            continue
        names = list_first([f"'{name}'" for name in absent])
        if absent_domains == "refuse":
            raise FitError(
                f"{part.name}: no share of {names}, which other tables have; add the column"
                f"{'s' if len(absent) > 1 else ''}, or, if no run there had any of it, set "
                "mixture.evidence.absent_domains: zero, or curate fit --absent-domains zero"
            )
        notices.append(f"{part.name}: no share of {names}; taken as 0, as absent_domains says")
    return domains, notices


def _targets(parts: Sequence[PartTable]) -> tuple[tuple[str, ...], list[str]]:
    """Keep the losses that all tables have.

    Raises:
        FitError: There is none.
    """
    every = dict.fromkeys(name for part in parts for name in part.table.targets)
    lacking = {
        name: [part.name for part in parts if name not in part.table.targets] for name in every
    }
    common = tuple(name for name, files in lacking.items() if not files)
    if not common:
        losses = "; ".join(f"{part.name} has {list_first(part.table.targets)}" for part in parts)
        raise FitError(f"fit: the tables have no loss in common: {losses}")
    left_out = [f"'{name}' (not in {files[0]})" for name, files in lacking.items() if files]
    if not left_out:
        return common, []
    count = f"{len(left_out)} loss{'es' if len(left_out) > 1 else ''}"
    return common, [f"{count} that not every table has left out: {list_first(left_out)}"]


def _unit(parts: Sequence[PartTable]) -> float:
    """Return the common unit of the losses.

    Raises:
        FitError: Two tables have losses in different units.
    """
    first = parts[0]
    for part in parts[1:]:
        one, other = first.table.loss_per_bpb, part.table.loss_per_bpb
        if math.isfinite(one) and math.isfinite(other):
            differ = not 1 / SAME_UNIT < other / one < SAME_UNIT
        else:
            # Bits per byte beside losses of an unknown unit: nats per token, as a rule.
            differ = 1.0 in (one, other)
        if differ:
            raise FitError(
                f"{part.name}: losses are in another unit than those of {first.name} "
                f"({_unit_name(other)}; {_unit_name(one)}); give all tables bpb_… columns, bits "
                "per byte, and no loss_… columns"
            )
    units = [part.table.loss_per_bpb for part in parts]
    real = [unit for unit in units if math.isfinite(unit)]
    return float(np.median(real)) if real else math.nan


def _unit_name(loss_per_bpb: float) -> str:
    if math.isnan(loss_per_bpb):
        return "no bits per byte beside them"
    return f"{loss_per_bpb:.4g} of it is one bit per byte"


def _aligned(table: RunTable, domains: tuple[str, ...], targets: tuple[str, ...]) -> RunTable:
    """Bring a table's columns into the order of the join, absent domains at 0."""
    weights: Array = np.zeros((len(table.runs), len(domains)))
    for place, name in enumerate(domains):
        if name in table.domains:
            weights[:, place] = table.weights[:, table.domains.index(name)]
    columns = [table.targets.index(name) for name in targets]
    return replace(
        table, domains=domains, targets=targets, weights=weights, losses=table.losses[:, columns]
    )


def _without_repeats(
    parts: Sequence[PartTable], aligned: Sequence[RunTable]
) -> tuple[list[np.ndarray], list[str]]:
    """Select the rows that no earlier table has, with the same run, mixture, progress and losses.

    Returns:
        For each table shape (rows,), whether to keep a row; and a sentence a table with repeats.
    """
    first_in: dict[tuple[object, ...], int] = {}
    kept, notices = [], []
    for place, (part, table) in enumerate(zip(parts, aligned, strict=True)):
        numbers = np.column_stack(
            [np.round(table.weights, SHARE_DECIMALS), table.tokens, table.params, table.losses]
        ).tolist()
        keep = np.array(
            [
                first_in.setdefault((name, *row), place) == place
                for name, row in zip(table.runs, numbers, strict=True)
            ]
        )
        kept.append(keep)
        repeats = int((~keep).sum())
        if repeats:
            notices.append(
                f"{part.name}: {repeats} row{'s repeat rows' if repeats > 1 else ' repeats a row'} "
                "of an earlier table; left out"
            )
    return kept, notices


def _names_apart(parts: Sequence[PartTable], aligned: Sequence[RunTable]) -> list[list[str]]:
    """Add the file to the names of runs that occur in several tables."""
    tables_of: dict[str, int] = {}
    for table in aligned:
        for name in set(table.runs):
            tables_of[name] = tables_of.get(name, 0) + 1
    stems = [Path(part.name).name for part in parts]
    labels = [part.name if stems.count(stem) > 1 else stem for part, stem in
              zip(parts, stems, strict=True)]  # fmt: skip
    return [
        [f"{name}, {label}" if tables_of[name] > 1 else name for name in table.runs]
        for label, table in zip(labels, aligned, strict=True)
    ]
