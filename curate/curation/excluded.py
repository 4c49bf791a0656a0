"""Remove the documents that a file names by identifier, URL or content hash."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from curate.curation.reasons import Reason
from curate.curation.step import CurationRequest, Step, StepRequest
from curate.errors import InputError, RecipeError
from curate.recipe import LoadedRecipe
from curate.runtime.files import hash_file
from curate.runtime.machine import fault_or
from curate.runtime.memory import blocks
from curate.runtime.registry import counted, list_first
from curate.tokens.domain import DomainTokens, document_mask

SHOWN_CHARACTERS = 80
"""Most characters of a line that are shown."""

CONTENT_HASH = re.compile(r"[0-9a-fA-F]{32}")


@dataclass(frozen=True)
class ListedNames:
    """The lines of a list of documents, each once."""

    names: list[str]
    identities: NDArray[np.uint64]
    """Hashes of the names as identifiers, ascending."""
    identity_name: NDArray[np.int64]
    """Number of the name of each of `identities`."""
    contents: NDArray[np.uint64]
    """First halves of the names that are content hashes, ascending."""
    content_low: NDArray[np.uint64]
    """Second halves, in the order of `contents`."""
    content_name: NDArray[np.int64]
    """Number of the name of each of `contents`."""


def read_names(path: Path) -> ListedNames:
    """Read a list of documents: an identifier or a content hash a line; blank lines are skipped.

    Raises:
        InputError: The file cannot be read, or is not UTF-8.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        unreadable = InputError(f"{path}: cannot be read ({reason})")
        raise fault_or(unreadable, error, str(path)) from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    names = list(dict.fromkeys(line for line in lines if line.strip()))
    identities = np.array([xxhash.xxh3_64_intdigest(name.encode()) for name in names], np.uint64)
    hashes = [number for number, name in enumerate(names) if CONTENT_HASH.fullmatch(name)]
    high = np.array([int(names[number][:16], 16) for number in hashes], np.uint64)
    low = np.array([int(names[number][16:], 16) for number in hashes], np.uint64)
    by_identity, by_content = np.argsort(identities), np.lexsort((low, high))
    return ListedNames(
        names=names,
        identities=identities[by_identity],
        identity_name=by_identity,
        contents=high[by_content],
        content_low=low[by_content],
        content_name=np.array(hashes, np.int64)[by_content],
    )


def match_names(
    domain: DomainTokens, listed: ListedNames
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the documents of a domain that a list names.

    Args:
        domain: The domain.
        listed: The list.

    Returns:
        shape (matches,) each: numbers of documents, ascending, and of the names that match; a
        document that is named by identifier and by hash stands twice.
    """
    documents, names = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for rows in blocks(len(domain)):
        number, place = _pairs(domain.identity[rows], listed.identities)
        number += rows.start
        name = listed.identity_name[place]
        same = [
            identifier == listed.names[listed_name]
            for identifier, listed_name in zip(domain.identifiers(number), name, strict=True)
        ]
        documents.append(number[same])
        names.append(name[same])
        number, place = _pairs(domain.content_high[rows], listed.contents)
        number += rows.start
        is_same = domain.content_low[number] == listed.content_low[place]
        documents.append(number[is_same])
        names.append(listed.content_name[place[is_same]])
    document, name = np.concatenate(documents), np.concatenate(names)
    order = np.argsort(document, kind="stable")
    return document[order], name[order]


def _pairs(
    values: NDArray[np.uint64], ranked: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return all pairs of positions, in `values` and in ascending `ranked`, of equal numbers."""
    first, stop = ranked.searchsorted(values), ranked.searchsorted(values, "right")
    counts = stop - first
    number = np.repeat(np.arange(len(values)), counts)
    begin = np.repeat(np.cumsum(counts) - counts, counts)
    return number, first[number] + np.arange(len(number)) - begin


def list_path(loaded: LoadedRecipe) -> Path | None:
    """Return the path of the recipe's list, or None."""
    exclude = loaded.recipe.exclude
    return None if exclude is None else loaded.base / Path(exclude).expanduser()


def _check(loaded: LoadedRecipe) -> None:
    path = list_path(loaded)
    if path is not None and not path.is_file():
        raise RecipeError(
            f"exclude: {path} is no file; name a text file with an identifier, URL or content "
            "hash on each line"
        )


def _settings(request: CurationRequest) -> Any:
    path = list_path(request.loaded)
    return None if path is None else hash_file(path)


def _find(request: StepRequest) -> Sequence[NDArray[np.bool_]]:
    import polars as pl  # here, since it takes as long to import as all else

    path = list_path(request.curation.loaded)
    assert path is not None  # or there would be no settings, and no step
    listed = read_names(path)
    is_matched = np.zeros(len(listed.names), bool)
    masks, details = [], []
    for number, domain in enumerate(request.curation.domains):
        documents, names = match_names(domain, listed)
        is_matched[names] = True
        mask = document_mask(len(domain))
        mask[...] = False
        mask[documents] = True
        masks.append(mask)
        details.append(
            pl.DataFrame(
                {
                    "domain": np.full(len(documents), number, np.int32),
                    "row": documents,
                    "detail": [listed.names[name] for name in names],
                },
                {"domain": pl.Int32, "row": pl.Int64, "detail": pl.String},
            ).unique(["domain", "row"], keep="first", maintain_order=True)
        )
    pl.concat(details).write_parquet(request.details)
    unmatched = [
        f"'{listed.names[number][:SHOWN_CHARACTERS]}'" for number in np.flatnonzero(~is_matched)
    ]
    if not listed.names:
        request.notices.append(f"exclude: {path} names no document")
    if unmatched:
        request.notices.append(
            f"exclude: {len(unmatched):,} of {counted(len(listed.names), 'line')} in {path} match "
            f"no document: {list_first(unmatched)}"
        )
    return masks


EXCLUDED = Step(Reason.EXCLUDED, 1, _check, _settings, _find)
