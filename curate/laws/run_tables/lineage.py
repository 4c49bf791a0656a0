"""Carry run tables over to the domains of today: renamed, divided, merged, added or gone.

A run on an earlier set of domains still says something, if it is known what became of each domain.
Where a domain was divided, a run that drew from it drew from every part in proportion to the part's
tokens, so its share divides exactly. Such runs never vary that proportion; new runs must.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from curate.errors import FitError, RecipeError
from curate.laws.law import Array, RunTable, domains_of_stages
from curate.recipe import AbsentDomains
from curate.runtime.registry import list_first, nearest_hint

Became = Mapping[str, Mapping[str, float]]
"""Old domain → the domains that its tokens are in now → their shares of it, which sum to 1."""

SUM_SLACK = 0.01
"""How far from 1 the shares that a user gives may sum; they are divided by their sum."""

NAMED_SHARE = 0.005
"""Least share of a gone domain for which a run counts as one that had it."""


def shares_of_parts(
    became: Mapping[str, str | Sequence[str] | Mapping[str, float]],
    supply: Mapping[str, float] | None = None,
) -> dict[str, dict[str, float]]:
    """Turn what a recipe says of old domains into shares.

    Args:
        became: Old domain → its new name; the parts that it was divided into; or the parts with
            their shares of it.
        supply: Tokens of each domain of today, by which parts without shares divide; None: unknown.

    Raises:
        RecipeError: Shares do not sum to 1, or parts have no shares and no supply.

    Example:
        >>> shares_of_parts({"a": "b", "web": ["hi", "lo"]}, {"hi": 30, "lo": 10})
        {'a': {'b': 1.0}, 'web': {'hi': 0.75, 'lo': 0.25}}
    """
    shares: dict[str, dict[str, float]] = {}
    for old, parts in became.items():
        where = f"mixture.evidence.became.{old}"
        if isinstance(parts, str):
            shares[old] = {parts: 1.0}
            continue
        if isinstance(parts, Mapping):
            given = {name: float(share) for name, share in parts.items()}
            below = next((name for name, share in given.items() if share < 0), None)
            if below is not None:
                raise RecipeError(
                    f"{where}: the share of '{below}' is {given[below]:g}; give at least 0"
                )
            if not abs(sum(given.values()) - 1) <= SUM_SLACK:
                raise RecipeError(
                    f"{where}: the shares of {', '.join(given)} sum to {sum(given.values()):g}; "
                    "give each part's share of the old domain's tokens, which sum to 1"
                )
        else:
            given = {name: float((supply or {}).get(name, math.nan)) for name in parts}
            unknown = [name for name, tokens in given.items() if math.isnan(tokens)]
            if unknown or not sum(given.values()) > 0:
                typed = ", ".join(f"{name}: {1 / len(given):.2g}" for name in given)
                raise RecipeError(
                    f"{where}: the tokens of {list_first(unknown or list(given))} are unknown, and "
                    f"so are shares of '{old}'; give them, as in became: {{{old}: {{{typed}}}}}"
                )
        total = sum(given.values())
        shares[old] = {name: share / total for name, share in given.items()}
    return shares


def carry_over(table: RunTable, became: Became) -> RunTable:
    """Give a table the domains of today.

    Args:
        table: Runs on earlier domains.
        became: What became of some of its domains; the others stay.

    Returns:
        The table with shares of today's domains, each in the place of its first part.

    Example:
        >>> runs = RunTable(("a", "web"), ("x",), ("r",), np.array([[0.2, 0.8]]),
        ...                 np.array([1e6]), np.array([1e6]), np.array([[3.0]]))
        >>> carried = carry_over(runs, {"web": {"hi": 0.25, "lo": 0.75}})
        >>> carried.domains, carried.weights.round(9).tolist()
        (('a', 'hi', 'lo'), [[0.2, 0.2, 0.6]])
    """
    became = _in_stages(became, table.stages)
    if not any(name in became for name in table.domains):
        return table
    columns: dict[str, Array] = {}
    for place, old in enumerate(table.domains):
        for name, share in became.get(old, {old: 1.0}).items():
            column = table.weights[:, place] * share
            columns[name] = columns[name] + column if name in columns else column
    weights = np.stack(list(columns.values()), axis=1)
    return replace(
        table, domains=tuple(columns), weights=weights / weights.sum(axis=1, keepdims=True)
    )


def _in_stages(became: Became, stages: Sequence[str]) -> Became:
    """Say the same of the domains of every stage, where there are stages."""
    if not stages:
        return became
    return {
        f"{stage}/{old}": {f"{stage}/{name}": share for name, share in parts.items()}
        for stage in stages
        for old, parts in became.items()
    }


def check_old_names(became: Became, tables: Sequence[RunTable]) -> None:
    """Check that some table has each domain that is said to have become another.

    Raises:
        FitError: None has it.
    """
    names = list(dict.fromkeys(name for table in tables for name in domains_of_stages(table)))
    for old in became:
        if old not in names:
            raise FitError(
                f"mixture.evidence.became: no run table has a domain '{old}'"
                f"{nearest_hint(old, names)} (they have {list_first(names)})"
            )


def add_domains(table: RunTable, names: Sequence[str]) -> RunTable:
    """Add the domains that a table lacks, with share 0 in all runs."""
    lacking = tuple(name for name in names if name not in table.domains)
    if not lacking:
        return table
    zeros = np.zeros((len(table.runs), len(lacking)))
    return replace(
        table, domains=(*table.domains, *lacking), weights=np.hstack([table.weights, zeros])
    )


def today(
    table: RunTable, names: Sequence[str], became: Sequence[Became], absent_domains: AbsentDomains
) -> tuple[RunTable, tuple[str, ...]]:
    """Add the domains of today that no run had, if the caller says so, and say what still speaks.

    Args:
        table: Runs that were carried over.
        names: Domains of today.
        became: What became of old domains, of all tables or of each.
        absent_domains: `zero` adds the domains that the table lacks; `refuse` leaves them out.

    Returns:
        The table, and a sentence for each thing that the runs do not say.
    """
    became = [_in_stages(one, table.stages) for one in became]
    names = [f"{stage}/{name}" for stage in table.stages for name in names] or names
    lacking = any(name not in table.domains for name in names)
    if absent_domains == "zero":
        table = add_domains(table, names)
    elif lacking:
        return table, ()  # the method refuses, and says what to do
    reuse = reuse_of(table, names, became)
    if table.earlier is None and (reuse.without or reuse.tied):
        table = replace(table, earlier=np.ones(len(table.runs), bool))
    return table, tuple(reuse.sentences())


@dataclass(frozen=True, slots=True)
class Reuse:
    """How far the runs of a table speak for the domains of today."""

    runs: int
    without: tuple[str, ...]
    """Domains of today that no run had."""
    tied: tuple[tuple[str, ...], ...]
    """Groups of domains of today whose proportions are the same in all runs that have them."""
    gone: tuple[str, ...]
    """Domains of the runs that are not among those of today."""
    with_gone: int
    """Runs that had some of those."""
    most_gone: float
    """Largest share that those had in a run."""

    def sentences(self) -> list[str]:
        """Say which runs still speak, and about what they are silent; nothing if all do."""
        said = []
        if self.gone:
            names = list_first([f"'{name}'" for name in self.gone])
            said.append(
                f"{self.runs - self.with_gone} of {self.runs} runs have only domains of today; "
                f"{self.with_gone} also drew from {names}, up to {self.most_gone:.0%}, and speak "
                "through the law"
            )
        if self.without:
            names = list_first([f"'{name}'" for name in self.without])
            said.append(
                f"none of {self.runs} runs has {names}: they say nothing of "
                f"{'it' if len(self.without) == 1 else 'them'}; `curate design` proposes runs"
            )
        for group in self.tied:
            names = list_first([f"'{name}'" for name in group])
            said.append(
                f"the proportions of {names} are the same in all {self.runs} runs, as parts of one "
                "domain: the runs say nothing of how to divide it; `curate design` proposes runs"
            )
        return said


def reuse_of(table: RunTable, names: Sequence[str], became: Sequence[Became]) -> Reuse:
    """Find how far runs speak for the domains of today.

    Args:
        table: Runs that were carried over.
        names: Domains of today.
        became: What became of old domains, for which parts may be tied.
    """
    runs = np.array(table.runs)
    most = dict(zip(table.domains, table.weights.max(axis=0).tolist(), strict=True))
    gone = [name for name in table.domains if name not in names]
    share_gone = table.weights[:, [table.domains.index(name) for name in gone]].sum(axis=1)
    with_gone = set(runs[share_gone > NAMED_SHARE].tolist())
    groups = {
        tuple(name for name in parts if name in names) for one in became for parts in one.values()
    }
    return Reuse(
        runs=len(set(table.runs)),
        without=tuple(name for name in names if not most.get(name, 0.0) > 0),
        tied=tuple(sorted(g for g in groups if len(g) > 1 and _tied(table, g))),
        gone=tuple(name for name in gone if most[name] > 0),
        with_gone=len(with_gone),
        most_gone=float(share_gone.max()) if gone else 0.0,
    )


def _tied(table: RunTable, group: Sequence[str]) -> bool:
    """Tell whether a group's proportions are the same in all runs that have any of it."""
    if not all(name in table.domains for name in group):
        return False
    shares = table.weights[:, [table.domains.index(name) for name in group]]
    totals = shares.sum(axis=1, keepdims=True)
    proportions = shares[totals[:, 0] > 0] / totals[totals[:, 0] > 0]
    return bool(len(proportions)) and bool((np.ptp(proportions, axis=0) < 1e-6).all())
