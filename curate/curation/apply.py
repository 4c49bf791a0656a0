"""Run the steps of curation, keep what each decided, and restrict domains to what stays.

The state after each step is a directory of the cache, named after everything that it follows from:
the documents, and the settings and versions of the steps so far. So a run with the same inputs
decides nothing anew, and after a change only the steps from there on are run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from curate.curation.reasons import Reason
from curate.curation.step import CurationRequest, Step, StepRequest
from curate.curation.steps import STEPS
from curate.errors import InputError
from curate.runtime.files import atomic_directory, hash_file, hash_json, remove_tree, sweep
from curate.runtime.memory import blocks, columns
from curate.runtime.registry import list_first
from curate.runtime.sealed import SealError, first_damaged, read_cached, read_sealed, write_sealed
from curate.stats.domain_stats import Amounts, amounts_where
from curate.tokens.domain import (
    BUCKET,
    DomainTokens,
    Selection,
    document_mask,
    read_numbers,
    stem_of,
)

SCHEMA = 2
"""Version of the kept states."""

KEY_DIGITS = 24
"""Hexadecimal digits in the name of a state."""

DETAILS = "details.parquet"
INDEX = "state.json"
"""Sealed file of a state with its notices, and the hashes of the files that are not sealed."""
NAMES = "names.json"


class StateIndex(msgspec.Struct, frozen=True):
    """Content of `INDEX`."""

    notices: list[str]
    hashes: dict[str, str]
    """Hash of each Parquet file of the state, as `hash_file` returns it, by name."""


@dataclass(frozen=True)
class CuratedDomain:
    """A domain after curation."""

    domain: DomainTokens
    """With the documents that stay."""
    source: int
    """Number of the recipe's domain that its documents come from."""
    removed: dict[str, Amounts]
    """Amounts removed, by `Reason.field`, for each reason that the recipe asks for."""


@dataclass(frozen=True)
class Curation:
    """The result of all steps."""

    domains: tuple[CuratedDomain, ...]
    states: tuple[Path, ...]
    """Directories of the states after each step, in order."""
    reasons: tuple[Reason, ...]
    """The reasons that the recipe asks for, aligned with `states`."""
    wholes: tuple[DomainTokens, ...]
    """The recipe's domains with all of their documents."""


def curate_domains(request: CurationRequest) -> Curation | None:
    """Decide which documents stay, and restrict the domains to them; None if a recipe asks nothing.

    Args:
        request: The domains.

    Raises:
        CurateError: A step cannot do what the recipe asks, or nothing is left of a domain.
    """
    if any(domain.keep for domain in request.loaded.recipe.domains):
        from curate.curation.source_columns import keep_columns

        keep_columns(request)
    asked = [(step, step.settings(request)) for step in STEPS]
    asked = [(step, settings) for step, settings in asked if settings is not None]
    is_split = request.loaded.recipe.is_split
    if not asked and not is_split:
        return None
    observer = request.observer
    observer.begin("curate", [domain.name for domain in request.domains])
    sweep(request.cache)
    key = hash_json([SCHEMA, [domain.fingerprint for domain in request.domains]])
    removals = [_zeros(len(domain)) for domain in request.domains]
    states: list[Path] = []
    notices: list[str] = []
    for step, settings in asked:
        key = hash_json([key, step.reason.name, step.version, settings])
        path = request.cache / key[:KEY_DIGITS]
        state = _kept_state(path, request)
        if state is None:
            _run_step(step, request, removals, path)
            state = _read_state(path, request)
        removals, said = state
        notices += said
        states.append(path)
    reasons = tuple(step.reason for step, _ in asked)
    last = states[-1] if states else None
    decided = [
        _Decided(domain, number, mask, reasons, last)
        for number, (domain, mask) in enumerate(zip(request.domains, removals, strict=True))
    ]
    removed = [of_domain.removed() for of_domain in decided]
    for domain, amounts in zip(request.domains, removed, strict=True):
        _check_rest(domain, amounts)
    buckets = _split_state(request, key, removals, notices) if is_split else None
    domains = tuple(
        curated
        for of_domain, amounts in zip(decided, removed, strict=True)
        for curated in _restricted(of_domain, amounts, buckets)
    )
    observer.end(_summary(domains))
    for notice in notices:
        observer.notice(notice)
    return Curation(domains, tuple(states), reasons, tuple(request.domains))


def removals_path(state: Path, source: int) -> Path:
    """Return the file of a state with the reasons of a domain's documents."""
    return state / f"{source}.removals"


def buckets_path(state: Path, source: int) -> Path:
    """Return the file of a state with the sub-domains of a domain's documents."""
    return state / f"{source}.buckets"


def _zeros(documents: int) -> NDArray[np.uint8]:
    made: NDArray[np.uint8] = columns(documents, {"reason": np.uint8})["reason"]
    for rows in blocks(documents):
        made[rows] = 0
    return made


def _read_state(path: Path, request: CurationRequest) -> tuple[list[NDArray[Any]], list[str]]:
    """Read the removals of each domain, and the notices, once all files have been checked.

    Raises:
        SealError: A file is damaged or absent.
        InputError: The removals are of other documents.
    """
    try:
        index = msgspec.json.decode(read_sealed(path / INDEX), type=StateIndex)
    except FileNotFoundError as error:
        raise SealError(f"{path / INDEX}: absent") from error
    damaged = first_damaged(path, [*index.hashes], [*index.hashes.values()])
    if damaged is not None:
        raise SealError(f"{damaged}: absent, or does not match its hash")
    removals = [
        read_numbers(removals_path(path, number), np.uint8, len(domain))
        for number, domain in enumerate(request.domains)
    ]
    return removals, index.notices


def _kept_state(
    path: Path, request: CurationRequest
) -> tuple[list[NDArray[Any]], list[str]] | None:
    """Read a state of an earlier run; None if there is none, or a damaged one, which is deleted."""
    if not path.is_dir():
        return None
    try:
        return _read_state(path, request)
    except (InputError, SealError):
        request.observer.notice(f"{path} is damaged: decided again")
        remove_tree(path)
        return None


def _run_step(
    step: Step, request: CurationRequest, removals: Sequence[NDArray[np.uint8]], path: Path
) -> None:
    """Write the state after a step."""
    staying = [_equal_zero(of_domain) for of_domain in removals]
    with atomic_directory(path) as temporary:
        asked = StepRequest(request, staying, temporary / DETAILS)
        masks = step.find(asked)
        for number, (before, mask) in enumerate(zip(removals, masks, strict=True)):
            after = _zeros(len(before))
            for rows in blocks(len(before)):
                after[rows] = before[rows]
                after[rows][staying[number][rows] & mask[rows]] = step.reason
            write_sealed(removals_path(temporary, number), after.tobytes())
        unsealed = [file for file in temporary.iterdir() if file.suffix == ".parquet"]
        hashes = {file.name: hash_file(file) for file in sorted(unsealed)}
        index = StateIndex(asked.notices, hashes)
        write_sealed(temporary / INDEX, msgspec.json.encode(index))


def _equal_zero(removals: NDArray[np.uint8]) -> NDArray[np.bool_]:
    mask = document_mask(len(removals))
    for rows in blocks(len(removals)):
        np.equal(removals[rows], 0, out=mask[rows])
    return mask


@dataclass(frozen=True)
class _Decided:
    """A whole domain, and what was decided about its documents."""

    domain: DomainTokens
    source: int
    removals: NDArray[np.uint8]
    reasons: Sequence[Reason]
    state: Path | None
    """The last state; None if no step was asked for."""

    @property
    def path(self) -> Path | None:
        """The file of `removals`; None if nothing is removed."""
        if self.state is None or not any(
            self.removals[rows].any() for rows in blocks(len(self.domain))
        ):
            return None
        return removals_path(self.state, self.source)

    def removed(
        self,
        members: Callable[[slice], NDArray[np.bool_]] = lambda rows: np.ones(
            rows.stop - rows.start, np.bool_
        ),
    ) -> dict[str, Amounts]:
        """Count by reason what was removed of some of the documents, or of all."""
        return {
            reason.field: amounts_removed(self.domain, self.removals, reason, members)
            for reason in self.reasons
        }


def _check_rest(domain: DomainTokens, removed: dict[str, Amounts]) -> None:
    """Refuse to go on with a domain of which nothing is left.

    Raises:
        InputError: All of its documents were removed.
    """
    documents = sum(amounts.documents for amounts in removed.values())
    if documents == len(domain):
        listed = ", ".join(
            f"{name} {amounts.documents:,}"
            for name, amounts in removed.items()
            if amounts.documents
        )
        raise InputError(
            f"domain '{domain.name}': no document is left, of {documents:,} ({listed}); loosen "
            "what removes them, or leave the domain out"
        )


def _restricted(
    decided: _Decided, removed: dict[str, Amounts], split: _SplitState | None
) -> list[CuratedDomain]:
    """Restrict a domain, or its sub-domains, to what stays; one that keeps all is left as it is."""
    domain, path = decided.domain, decided.path
    names = None if split is None else split.names[decided.source]
    if split is None or names is None:
        if path is not None:
            domain = domain.select(domain.name, Selection(path))
        return [CuratedDomain(domain, decided.source, removed)]
    file = buckets_path(split.path, decided.source)
    buckets = read_numbers(file, BUCKET, len(domain))
    return [
        CuratedDomain(
            domain.select(name, Selection(path, file, bucket, has_bad_records=not bucket)),
            decided.source,
            decided.removed(partial(_members, buckets, bucket)),
        )
        for bucket, name in enumerate(names)
    ]


def _members(buckets: NDArray[Any], bucket: int, rows: slice) -> NDArray[np.bool_]:
    """Return which documents of a range are in a bucket."""
    mask: NDArray[np.bool_] = buckets[rows] == bucket
    return mask


class _SplitState(NamedTuple):
    """The sub-domains of split domains, in the cache."""

    path: Path
    names: list[list[str] | None]
    """For each domain of the recipe, its sub-domains; None if it is not split."""


def _split_state(
    request: CurationRequest, key: str, removals: Sequence[NDArray[np.uint8]], notices: list[str]
) -> _SplitState:
    """Split domains by what stays of them, or take that from the cache."""
    from curate.curation.split import VERSION, split_domain, split_notice, split_settings

    recipes = request.loaded.recipe.domains
    settings = [
        split_settings(request, number) if domain.split else None
        for number, domain in enumerate(recipes)
    ]
    path = request.cache / hash_json([key, "split", VERSION, settings])[:KEY_DIGITS]
    content = _kept_names(path, request)
    if content is None:
        said: list[str] = []
        names: list[list[str] | None] = []
        with atomic_directory(path) as temporary:
            for number, domain in enumerate(recipes):
                if not domain.split:
                    names.append(None)
                    continue
                made = split_domain(request, number, _equal_zero(removals[number]), said)
                write_sealed(buckets_path(temporary, number), made.buckets.tobytes())
                names.append(made.names)
            write_sealed(temporary / NAMES, msgspec.json.encode([names, said]))
        content = read_sealed(path / NAMES)
    names, said = msgspec.json.decode(content, type=tuple[list[list[str] | None], list[str]])
    notices += said
    for of_domain in names:
        notices += [split_notice(of_domain)] if of_domain is not None else []
    stems: dict[str, str] = {}
    every = [
        [domain.name] if of_domain is None else of_domain
        for of_domain, domain in zip(names, recipes, strict=True)
    ]
    for name in itertools.chain(*every):
        other = stems.setdefault(stem_of(name).lower(), name)
        if other != name:
            raise InputError(
                f"domains '{other}' and '{name}' would be one file; rename one of them"
            )
    return _SplitState(path, names)


def _kept_names(path: Path, request: CurationRequest) -> bytes | None:
    """Read the names of a split of an earlier run; None if it is absent or damaged, then deleted.

    Another run may place it at any moment, whole, so only what was there before is looked at.
    """
    if not path.is_dir():
        return None
    content = read_cached(path / NAMES, "split again", request.observer.notice)
    if content is not None:
        try:
            for number, domain in enumerate(request.loaded.recipe.domains):
                if domain.split:
                    file = buckets_path(path, number)
                    read_numbers(file, BUCKET, len(request.domains[number]))
            return content
        except InputError:
            request.observer.notice(f"{path} is damaged: split again")
    remove_tree(path)
    return None


def amounts_removed(
    domain: DomainTokens,
    removals: NDArray[np.uint8],
    reason: Reason,
    members: Callable[[slice], NDArray[np.bool_]],
) -> Amounts:
    """Count the documents of a whole domain that were removed for a reason.

    Args:
        domain: The domain with all of its documents.
        removals: shape (documents,), a `Reason` for each.
        reason: The reason to count.
        members: Returns, for a range of documents, which of them count.
    """
    return amounts_where(domain, lambda rows: (removals[rows] == reason) & members(rows))


def _summary(domains: Sequence[CuratedDomain]) -> str:
    """Say how many documents were removed, and where."""
    parts = []
    for curated in domains:
        removed = sum(amounts.documents for amounts in curated.removed.values())
        if removed:
            parts.append(
                f"'{curated.domain.name}' {removed:,} of {removed + len(curated.domain):,}"
            )
    return f"removed of {list_first(parts)} documents" if parts else "no document removed"
