"""Compare two recipes, two mixtures or two datasets: what changed, domain by domain.

Domains are matched by name, documents by the first half of their content hash. Left out: which runs
a change strands, which `curate.pipeline.diff` adds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from curate.dataset.manifest import Manifest
from curate.dataset.places import Provenance
from curate.dataset.write_tokens import by_domain
from curate.plan import PAD
from curate.recipe import LoadedRecipe
from curate.recipe.structs import without_defaults
from curate.runtime.files import hash_json, is_url
from curate.runtime.registry import counted
from curate.runtime.tabular import Row, Tabular

PLACES = ("base", "cache", "output.dir")
"""Keys of a recipe that say where files lie, and change no dataset."""

WEIGHT_STEP = 1e-9
"""Largest difference of two shares that counts as none: rounding of their sum."""

SOURCES = "sources"
"""Key of a change of a domain's files."""

FACTS = ("format", "dtype", "shape", "sequence_length", "window", "packing", "seed",
         "budget_tokens", "curate_version")  # fmt: skip
"""Fields of a manifest that are compared, beside those of the tokenizer."""


class Change(msgspec.Struct, frozen=True):
    """A value that differs."""

    key: str
    """Dotted key, as in the recipe or the artifact."""
    before: Any
    """Value in A; None where it is absent."""
    after: Any
    """Value in B; None where it is absent."""


class DomainSide(msgspec.Struct, frozen=True):
    """A domain in A or in B, as far as that says it."""

    weight: float | None = None
    """Share of the tokens that is asked for."""
    tokens: int | None = None
    """Training tokens in the shards."""
    epochs: float | None = None
    """Passes over the domain."""
    documents: int | None = None
    """Distinct texts in the training shards."""


class DomainDifference(msgspec.Struct, frozen=True):
    """A domain that differs."""

    domain: str
    kind: Literal["added", "removed", "changed"]
    before: DomainSide | None
    """In A; None for an added domain."""
    after: DomainSide | None
    """In B; None for a removed domain."""
    documents_in_both: int | None = None
    """Distinct training texts of the domain in both datasets."""
    changes: tuple[Change, ...] = ()
    """Keys of the domain in the recipe."""


class StrandedRuns(msgspec.Struct, frozen=True):
    """A run table that does not fit B as it fits A."""

    table: str
    """File or files of the table."""
    runs: int
    """Runs in it."""
    stranded: tuple[str, ...]
    """Runs that B cannot use as they are."""
    reason: str


class Differences(Tabular, msgspec.Struct, frozen=True):
    """Result of a comparison; A is before, B after."""

    a: str
    b: str
    kind: Literal["recipe", "mixture", "dataset"]
    changes: tuple[Change, ...]
    """Values that differ and belong to no domain."""
    domains: tuple[DomainDifference, ...]
    equal_domains: int
    """Domains of both that do not differ."""
    stranded: tuple[StrandedRuns, ...] = ()
    notices: tuple[str, ...] = ()
    """Sentences about what could not be compared."""

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.changes and not self.domains

    def rows(self) -> list[Row]:
        """Return one row for each value that differs, as text; `domain` is None for others."""
        rows = [_row(None, change) for change in self.changes]
        for domain in self.domains:
            for name in DomainSide.__struct_fields__:
                before, after = (
                    None if side is None else getattr(side, name)
                    for side in (domain.before, domain.after)
                )
                if before != after:
                    rows.append(_row(domain.domain, Change(name, before, after)))
            rows += [_row(domain.domain, change) for change in domain.changes]
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return the fields that the command prints with `--json`."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return {"same": self.same, **fields}


def _row(domain: str | None, change: Change) -> Row:
    """Return a change as a row; values of different kinds share a column, so they become text."""
    texts = [
        value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for value in (change.before, change.after)
    ]
    return {"domain": domain, "key": change.key, "a": texts[0], "b": texts[1]}


def recipe_changes(
    before: LoadedRecipe, after: LoadedRecipe
) -> tuple[list[Change], list[DomainDifference]]:
    """Compare two recipes key by key, defaults included.

    Args:
        before: Recipe A.
        after: Recipe B.

    Returns:
        Changes outside domains, and domains that differ.
    """
    a, a_domains = _plain_recipe(before)
    b, b_domains = _plain_recipe(after)
    domains = []
    for name, kind in _matched(a_domains, b_domains):
        changes = _changes(a_domains.get(name, {}), b_domains.get(name, {}))
        if kind == "changed" and not changes:
            continue
        a_side, b_side = (
            DomainSide(weight=side[name].get("weight")) if name in side else None
            for side in (a_domains, b_domains)
        )
        shown = tuple(changes) if kind == "changed" else ()
        domains.append(DomainDifference(name, kind, a_side, b_side, changes=shown))
    # A section that only one side has is shown by the keys that it sets, not by its defaults.
    given = _given(before) | _given(after)
    return [change for change in _changes(a, b) if change.key in given], domains


def renamed_domains(before: LoadedRecipe, after: LoadedRecipe) -> list[str]:
    """Name domains that B seems to have renamed: the same files, read in the same way.

    Args:
        before: Recipe A.
        after: Recipe B.
    """
    (_, a), (_, b) = _plain_recipe(before), _plain_recipe(after)
    return [
        f"B seems to have renamed '{old}' to '{new}', which reads the same files: to keep its "
        f"runs, keep the name, or rename the columns w_{old} and loss_{old} of the run table"
        for old in a
        for new in b
        if old not in b and new not in a and a[old]["paths"] == b[new]["paths"]
    ]


def _plain_recipe(loaded: LoadedRecipe) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return a recipe's values by dotted key, and those of each domain."""
    value = msgspec.to_builtins(loaded.recipe, str_keys=True)
    domains = {}
    for domain in value.pop("domains"):
        patterns = [domain["paths"]] if isinstance(domain["paths"], str) else domain["paths"]
        domain["paths"] = [_absolute(pattern, loaded.base) for pattern in patterns]
        domains[domain.pop("name")] = dict(_flat(domain))
    path = value["tokenizer"].get("path")
    if path is not None:
        value["tokenizer"]["path"] = _absolute(path, loaded.base)
    flat = {key: item for key, item in _flat(value) if key not in PLACES}
    return flat, domains


def _given(loaded: LoadedRecipe) -> set[str]:
    """Return the dotted keys of a recipe whose values are not the default."""
    return {key for key, _ in _flat(msgspec.to_builtins(without_defaults(loaded.recipe)))}


def _absolute(pattern: str, base: Path) -> str:
    """Return a path as it is read, whatever directory the recipe lies in."""
    return pattern if is_url(pattern) else str(base.resolve() / Path(pattern).expanduser())


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, list) and item and all("name" in _mapping(row) for row in item):
            # Stages, as overrides name them; their order is a value of its own.
            yield f"{prefix}{key}", [row["name"] for row in item]
            item = {row["name"]: {k: v for k, v in row.items() if k != "name"} for row in item}
        if isinstance(item, dict) and item:
            yield from _flat(item, f"{prefix}{key}.")
        elif item != {}:
            yield f"{prefix}{key}", item


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    keys = dict.fromkeys([*before, *after])
    return [
        Change(key, before.get(key), after.get(key))
        for key in keys
        if before.get(key) != after.get(key)
    ]


def _matched(
    before: Iterable[str], after: Iterable[str]
) -> list[tuple[str, Literal["added", "removed", "changed"]]]:
    """List the names of both sides: A's order, then what B adds."""
    a, b = list(before), list(after)
    return [(name, "changed" if name in b else "removed") for name in a] + [
        (name, "added") for name in b if name not in a
    ]


def mixture_changes(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[list[Change], list[DomainDifference]]:
    """Compare the fields of two `mixture.json`.

    Args:
        before: Fields of A.
        after: Fields of B.

    Returns:
        Changes outside domains, and domains whose weight or passes differ.
    """
    keys = ("method", "law", "predicted_loss", "recipe_hash", "inputs")
    values = [dict(_flat({key: side.get(key) for key in keys})) for side in (before, after)]
    domains = []
    for name, kind in _matched(before["weights"], after["weights"]):
        a, b = (_mixture_side(side, name) for side in (before, after))
        if kind == "changed" and _alike(a, b):
            continue
        domains.append(DomainDifference(name, kind, a, b))
    return _changes(*values), domains


def _mixture_side(fields: Mapping[str, Any], name: str) -> DomainSide | None:
    if name not in fields["weights"]:
        return None
    return DomainSide(weight=fields["weights"][name], epochs=(fields.get("epochs") or {}).get(name))


def _alike(before: DomainSide | None, after: DomainSide | None) -> bool:
    """Return whether two sides of a domain say the same, shares and passes up to rounding."""
    if before is None or after is None:
        return before is after
    for name in before.__struct_fields__:
        a, b = getattr(before, name), getattr(after, name)
        if isinstance(a, float) and isinstance(b, float):
            if abs(a - b) > WEIGHT_STEP * max(1.0, abs(a)):
                return False
        elif a != b:
            return False
    return True


def dataset_changes(
    before: tuple[Path, Manifest], after: tuple[Path, Manifest]
) -> tuple[list[Change], list[DomainDifference]]:
    """Compare what stands in the training shards of two datasets.

    Args:
        before: Directory and manifest of A.
        after: Directory and manifest of B.

    Returns:
        Changes of facts in the manifests and of the shards, and domains whose tokens or documents
        differ.

    Raises:
        ShardError: A provenance file is absent or damaged.
    """
    facts = [_facts(manifest) for _, manifest in (before, after)]
    contents = [_contents(directory, manifest) for directory, manifest in (before, after)]
    domains = []
    for name, kind in _matched(before[1].domains, after[1].domains):
        (a_tokens, a_texts), (b_tokens, b_texts) = (side.get(name, _NOTHING) for side in contents)
        shared = len(np.intersect1d(a_texts, b_texts, assume_unique=True))
        a = None if kind == "added" else DomainSide(tokens=a_tokens, documents=len(a_texts))
        b = None if kind == "removed" else DomainSide(tokens=b_tokens, documents=len(b_texts))
        changes = () if a is None or b is None else _source_changes(before[1], after[1], name)
        if kind == "changed" and a == b and shared == len(a_texts) and not changes:
            continue
        domains.append(
            DomainDifference(
                domain=name,
                kind=kind,
                before=a,
                after=b,
                documents_in_both=shared,
                changes=changes,
            )
        )
    return _changes(*facts), domains


def _source_changes(before: Manifest, after: Manifest, name: str) -> tuple[Change, ...]:
    """Say whether the files of a domain changed, by their content and how they were read."""
    a, b = (
        sorted(record.content for record in manifest.inputs if record.domain == name)
        for manifest in (before, after)
    )
    if a == b:
        return ()
    shown = [f"{counted(len(keys), 'file')}, {hash_json(keys)[:16]}" for keys in (a, b)]
    return (Change(SOURCES, *shown),)


_NOTHING: tuple[int, NDArray[np.uint64]] = 0, np.empty(0, np.uint64)


def _facts(manifest: Manifest) -> dict[str, Any]:
    """Return what a manifest says of a whole dataset, its shards in one hash each."""
    facts = {name: getattr(manifest, name) for name in FACTS}
    facts |= {f"options.{key}": value for key, value in manifest.options.items()}
    tokenizer = manifest.tokenizer
    facts |= {f"tokenizer.{name}": getattr(tokenizer, name)
              for name in ("fingerprint", "eos", "vocabulary")}  # fmt: skip
    for split in ("train", "validation"):
        shards = [shard for shard in manifest.shards if shard.split == split]
        facts[f"{split}.shards"] = len(shards)
        facts[f"{split}.content"] = _content(shards)
    return facts


def _content(shards: Sequence[Any]) -> str:
    """Hash the hashes of shards in their order."""
    return hash_json([file.xxh3 for shard in shards for file in shard.files])[:16]


def _contents(directory: Path, manifest: Manifest) -> dict[str, tuple[int, NDArray[np.uint64]]]:
    """Return tokens and distinct texts of each domain in the training shards."""
    provenance = Provenance(directory, manifest)
    tokens = dict.fromkeys(manifest.domains, 0)
    texts: dict[str, list[NDArray[np.uint64]]] = {name: [] for name in manifest.domains}
    for number in provenance.shard_numbers("train"):
        rows = provenance.shard(number).rows
        for domain, members in by_domain(rows):
            if domain != PAD:
                name = manifest.domains[domain]
                tokens[name] += int(rows["tokens"][members].sum())
                texts[name].append(np.unique(rows["content"][members]))
    return {
        name: (tokens[name], np.unique(np.concatenate([*parts, _NOTHING[1]])))
        for name, parts in texts.items()
    }


def merged(
    parts: Sequence[tuple[list[Change], list[DomainDifference]]],
) -> tuple[tuple[Change, ...], tuple[DomainDifference, ...]]:
    """Join comparisons of the same pair: each domain once, with all that is said of it.

    Args:
        parts: Comparisons; a change that an earlier part has is left out of later ones.
    """
    changes: dict[str, Change] = {}
    domains: dict[str, DomainDifference] = {}
    for part_changes, part_domains in parts:
        for change in part_changes:
            changes.setdefault(change.key, change)
        for domain in part_domains:
            earlier = domains.get(domain.domain)
            domains[domain.domain] = domain if earlier is None else _joined(earlier, domain)
    return tuple(changes.values()), tuple(domains.values())


def _joined(first: DomainDifference, second: DomainDifference) -> DomainDifference:
    documents = second.documents_in_both
    return DomainDifference(
        first.domain,
        first.kind,
        _joined_side(first.before, second.before),
        _joined_side(first.after, second.after),
        documents_in_both=first.documents_in_both if documents is None else documents,
        changes=first.changes + second.changes,
    )


def _joined_side(first: DomainSide | None, second: DomainSide | None) -> DomainSide | None:
    if first is None or second is None:
        return first or second
    fields = {
        name: getattr(first, name) if getattr(second, name) is None else getattr(second, name)
        for name in DomainSide.__struct_fields__
    }
    return DomainSide(**fields)
