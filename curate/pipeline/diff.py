"""The `diff` command: compare two recipes, mixtures or datasets, and say which runs that strands.

Where the two are of different kinds, the fuller one stands for its own recipe or mixture: a dataset
keeps both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import structs

from curate.dataset.copies import at_hand
from curate.dataset.differences import (
    SOURCES,
    Change,
    Differences,
    DomainDifference,
    StrandedRuns,
    dataset_changes,
    merged,
    mixture_changes,
    recipe_changes,
    renamed_domains,
)
from curate.dataset.manifest import RECIPE, load_manifest
from curate.errors import CurateError, InputError, RecipeError
from curate.laws.law import RunTable
from curate.laws.run_tables.join import Joining
from curate.laws.run_tables.lineage import shares_of_parts
from curate.laws.run_tables.read import read_runs
from curate.recipe import LoadedRecipe, load
from curate.runtime.files import dataset_url, hash_file, read_small
from curate.runtime.machine import fault_or
from curate.runtime.registry import list_first

MIXTURE = "mixture.json"
RUNS = "runs.csv"
MOST_BYTES = 256 << 20

Kind = Literal["recipe", "mixture", "dataset"]

Compared = tuple[list[Change], list[DomainDifference]]


class _Mixture(msgspec.Struct):
    """The fields of `mixture.json` that a comparison cannot do without."""

    weights: dict[str, float]
    epochs: dict[str, float] | None = None


@dataclass(frozen=True)
class _Side:
    """One of the two things to compare."""

    path: Path
    kind: Kind

    @property
    def recipe_path(self) -> Path:
        """The recipe: the file itself, or the one that a dataset keeps."""
        return self.path if self.kind == "recipe" else self.path / RECIPE

    @property
    def mixture_path(self) -> Path:
        """The mixture: the file itself, or that of a dataset."""
        return self.path if self.kind == "mixture" else self.path / MIXTURE

    def recipe(self) -> LoadedRecipe:
        """Read the recipe."""
        return load(self.recipe_path)

    def mixture(self) -> dict[str, Any]:
        """Read the fields of the mixture.

        Raises:
            InputError: It is no `mixture.json`.
        """
        path = self.mixture_path
        try:
            content = read_small(path, MOST_BYTES)
            msgspec.json.decode(content, type=_Mixture)
            fields: dict[str, Any] = msgspec.json.decode(content)
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or error
            other = InputError(f"{path}: no mixture that curate mix wrote ({reason})")
            raise fault_or(other, error, str(path)) from error
        return fields


def diff(a: Path, b: Path) -> Differences:
    """Compare two recipes, mixtures or datasets.

    Args:
        a: A recipe, a `mixture.json`, or the directory of a dataset or its URL in a bucket.
        b: Another.

    Raises:
        CurateError: One of them cannot be read, or they are of kinds that have nothing in common.
    """
    urls = dataset_url(a), dataset_url(b)
    with at_hand(a, urls[0]) as a_place, at_hand(b, urls[1]) as b_place:
        differences = _diff(a_place, b_place)
    return structs.replace(differences, a=urls[0] or str(a), b=urls[1] or str(b))


def _diff(a: Path, b: Path) -> Differences:
    """Compare two recipes, mixtures or datasets on a disk."""
    sides = _Side(a, _kind(a)), _Side(b, _kind(b))
    kinds = {side.kind for side in sides}
    if kinds == {"recipe", "mixture"}:
        raise InputError(
            f"{a} and {b}: a recipe and a mixture have nothing to compare; name two recipes, two "
            "mixture.json, or a dataset's directory beside either"
        )
    kind: Kind = sides[0].kind if len(kinds) == 1 else (kinds - {"dataset"}).pop()
    notices: list[str] = []
    parts: list[Compared] = []
    tables: list[_Table] = []
    names: set[str] = set()
    if kind != "mixture":
        recipes = [_recipe_of(side, kind, notices) for side in sides]
        if recipes[0] is not None and recipes[1] is not None:
            parts.append(recipe_changes(recipes[0], recipes[1]))
            notices += renamed_domains(recipes[0], recipes[1])
        for recipe in filter(None, recipes):
            tables += _tables_of(recipe)
            names.update(domain.name for domain in recipe.recipe.domains)
    if kind != "recipe":
        mixtures = _mixtures_of(sides, kind, notices)
        if mixtures is not None:
            parts.append(mixture_changes(*mixtures))
            names = set().union(*(fields["weights"] for fields in mixtures))
    if kind == "dataset":
        a_dataset, b_dataset = [(side.path, load_manifest(side.path)) for side in sides]
        parts.append(dataset_changes(a_dataset, b_dataset))
        names = {*a_dataset[1].domains, *b_dataset[1].domains}
    tables += _tables_beside(sides)
    changes, domains = merged(parts)
    runs = _read_tables(tables, notices)
    return Differences(
        a=str(a),
        b=str(b),
        kind=kind,
        changes=changes,
        domains=domains,
        equal_domains=len(names - {domain.domain for domain in domains}),
        stranded=tuple(_stranded(runs, _decisive(changes, kind), domains)),
        notices=tuple(notices),
    )


def _kind(path: Path) -> Kind:
    """Recognise what a path is.

    Raises:
        InputError: It does not exist.
    """
    if path.is_dir():
        return "dataset"
    if not path.is_file():
        raise InputError(
            f"{path}: not there; name a recipe, a mixture.json, or the directory of a dataset"
        )
    return "mixture" if path.suffix == ".json" else "recipe"


def _recipe_of(side: _Side, kind: Kind, notices: list[str]) -> LoadedRecipe | None:
    """Read a side's recipe; for two datasets it is not needed."""
    try:
        return side.recipe()
    except RecipeError as error:
        if kind == "recipe":
            raise
        notices.append(f"recipes are not compared: {error}")
        return None


def _mixtures_of(
    sides: Sequence[_Side], kind: Kind, notices: list[str]
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Read both mixtures; for two datasets they are not needed."""
    try:
        return sides[0].mixture(), sides[1].mixture()
    except InputError as error:
        if kind == "mixture":
            raise
        notices.append(f"mixtures are not compared: {error}")
        return None


class _Table(NamedTuple):
    """A run table of one of the two sides, and how its files are joined."""

    files: tuple[Path, ...]
    joining: Joining


def _tables_of(loaded: LoadedRecipe) -> list[_Table]:
    """List the run tables that a recipe names, and the one that its proxies wrote."""
    evidence = loaded.recipe.mixture.evidence
    tables = []
    if evidence is not None and evidence.runs:
        named = [evidence.runs] if isinstance(evidence.runs, str) else evidence.runs
        files = tuple((loaded.base / name).resolve() for name in named)
        shares = {
            old: parts for old, parts in evidence.became.items() if not isinstance(parts, list)
        }
        became = shares_of_parts(shares)  # parts by supply need counts, which are not at hand
        tables.append(
            _Table(files, Joining(evidence.fill, evidence.absent_domains, became, evidence.stage))
        )
    return tables + _written_tables([loaded.output_dir])


def _tables_beside(sides: Sequence[_Side]) -> list[_Table]:
    """List the run tables that lie beside mixtures, and in datasets."""
    return _written_tables(
        side.path if side.kind == "dataset" else side.path.parent
        for side in sides
        if side.kind != "recipe"
    )


def _written_tables(folders: Iterable[Path]) -> list[_Table]:
    files = [(folder / RUNS).resolve() for folder in folders]
    return [_Table((file,), Joining()) for file in files if file.is_file()]


def _read_tables(tables: Sequence[_Table], notices: list[str]) -> dict[tuple[Path, ...], RunTable]:
    """Read run tables, each once, and note those that cannot be read."""
    runs = {}
    for number, table in enumerate(tables):
        if table in tables[:number]:
            continue
        files, joining = table
        try:
            runs[files], _ = read_runs(files, far_runs="keep", joining=joining)
        except CurateError as error:
            notices.append(f"runs are not compared: {error}")
    return runs


def _stranded(
    tables: Mapping[tuple[Path, ...], RunTable],
    changes: Sequence[Change],
    domains: Sequence[DomainDifference],
) -> list[StrandedRuns]:
    """List the runs that B cannot use as A does."""
    stranded = []
    for files, table in tables.items():
        for runs, reason in _reasons(table, changes, domains):
            name = ", ".join(map(str, files))
            total = len(set(table.runs))
            stranded.append(StrandedRuns(name, total, tuple(runs), reason))
    return stranded


def _reasons(
    table: RunTable, changes: Sequence[Change], domains: Sequence[DomainDifference]
) -> list[tuple[list[str], str]]:
    """Return runs and why B cannot use them, the widest reason first."""
    every = list(dict.fromkeys(table.runs))
    reasons = []
    if _tokenizer_changes(changes):
        reasons.append((every, "losses are per token of another tokenizer"))
    added = [domain.domain for domain in domains if domain.kind == "added"]
    added = [name for name in added if name not in table.domains]
    if added:
        names = list_first([f"'{name}'" for name in added])
        reasons.append((every, f"trained without {names}, which B adds"))
    for domain in domains:
        if domain.kind == "added" or domain.domain not in table.domains:
            continue
        column = table.weights[:, table.domains.index(domain.domain)]
        used = list(dict.fromkeys(np.array(table.runs, object)[column > 0].tolist()))
        if domain.kind == "removed":
            reasons.append((used, f"trained on '{domain.domain}', which B lacks"))
        elif _reads_otherwise(domain):
            reasons.append((used, f"trained on other text of '{domain.domain}'"))
    return [(runs, reason) for runs, reason in reasons if runs]


def _decisive(changes: Sequence[Change], kind: Kind) -> list[Change]:
    """Leave out the recipe's words for a tokenizer where datasets show which it was."""
    return [
        change for change in changes
        if kind != "dataset" or change.key == "tokenizer.fingerprint"
    ]  # fmt: skip


def _tokenizer_changes(changes: Sequence[Change]) -> bool:
    """Return whether the tokens of B are other ones, as far as keys and files show."""
    keys = {change.key: change for change in changes if change.key.startswith("tokenizer.")}
    keys.pop("tokenizer.backend", None)
    if "tokenizer.fingerprint" in keys:
        return True
    moved = keys.get("tokenizer.path")
    if moved is not None and len(keys) == 1 and moved.before and moved.after:
        paths = Path(moved.before), Path(moved.after)
        if all(path.is_file() for path in paths):
            return hash_file(paths[0]) != hash_file(paths[1])
    return bool(keys)


TEXT_KEYS = ("paths", "text", "reader", "glob", SOURCES)
"""Keys of a domain that decide which text it holds."""


def _reads_otherwise(domain: DomainDifference) -> bool:
    """Return whether a domain reads other files, or other parts of them."""
    return any(change.key in TEXT_KEYS for change in domain.changes)
