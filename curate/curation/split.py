"""Split domains into sub-domains by values, quantiles or edges of their attributes.

The sub-domains of `web` are called `web:VALUE`, or `web:q1` (lowest) and so on for numbers that are
cut; those without a value are `web:none`. A list of splits nests: `web:sports:q4`. As in `cut` of
polars, a bucket holds the values above its lower edge up to and including its upper edge, so equal
values are never apart. Quantiles are taken over the documents that stay, within each sub-domain of
the splits before.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.curation.attributes import (
    attribute_frame,
    attribute_settings,
    evaluate,
    names_in,
    parse,
)
from curate.curation.levels import NONE
from curate.curation.step import CurationRequest
from curate.errors import InputError, RecipeError
from curate.recipe.structs import SplitRecipe
from curate.runtime.registry import counted, list_first
from curate.tokens.domain import BUCKET

VERSION = 2
"""Raise it when the same settings make other sub-domains."""

MOST = 1000
"""Most sub-domains of a domain; a column with more values hardly names topics."""

BUCKET_NAME = re.compile("q([0-9]+)")
"""Name of a bucket of numbers."""

UNFIT = re.compile(r"[^A-Za-z0-9._+-]+")
"""Characters that names of sub-domains do not hold; each becomes `_`."""


@dataclass(frozen=True)
class SplitDomain:
    """The sub-domains of a domain."""

    names: list[str]
    """Their names, such as `web:q1`; each has documents that stay."""
    buckets: NDArray[np.uint16]
    """shape (documents,), number of the sub-domain of each. Removed documents of a sub-domain with
    no other are in the one that `nearest_name` gives.
    """


def check_types(where: str, split: SplitRecipe, kind: Any) -> None:
    """Refuse to cut what are no numbers, a sub-domain for each fraction, and what has no name.

    Args:
        where: The recipe's key, for messages.
        split: The split.
        kind: Type of its attribute, by the first records.

    Raises:
        RecipeError: It does not fit.
    """
    if split.is_cut and not kind.is_numeric() and kind != pl.Null:
        shown = kind.base_type() if kind.is_nested() else kind
        raise RecipeError(f"{where}: is {shown}, and only numbers have quantiles and edges")
    if kind.is_nested() or kind in (pl.Binary, pl.Object):
        raise RecipeError(
            f"{where}: is {kind.base_type()}, which names no sub-domain; split by text or numbers"
        )
    if not split.is_cut and kind.is_float():
        raise RecipeError(
            f"{where}: holds fractions, each of which would be a sub-domain; add quantiles: 5, or "
            "edges"
        )


def split_settings(request: CurationRequest, number: int) -> Any:
    """Return, as JSON, all that a domain's split follows from beside the documents."""
    domain = request.loaded.recipe.domains[number]
    where = f"domains[{domain.name}].split"
    expressions = [parse(split.by, where) for split in domain.splits]
    attributes = attribute_settings(request, number, expressions)
    keys = [[split.by, split.quantiles, split.edges] for split in domain.splits]
    return [domain.name, keys, attributes]


def split_domain(
    request: CurationRequest, number: int, staying: NDArray[np.bool_], notices: list[str]
) -> SplitDomain:
    """Split a domain.

    Args:
        request: The domains.
        number: Number of the domain.
        staying: shape (documents,), the documents that stay.
        notices: Lines for the user are appended.

    Raises:
        InputError: There are too many sub-domains, or two of one name.
        RecipeError: The split does not fit the type of its attribute.
    """
    domain = request.loaded.recipe.domains[number]
    where = f"domains[{domain.name}].split"
    expressions = [parse(split.by, where) for split in domain.splits]
    frame = attribute_frame(request, number, names_in(expressions), notices)
    codes = np.zeros(len(staying), np.int64)
    names = [domain.name]
    for split, expression in zip(domain.splits, expressions, strict=True):
        key = f"{where}.by '{split.by}'"
        values = evaluate(frame, expression, key)
        # A column may be null in the first records, or whole numbers.
        check_types(key, split, values.dtype)
        parents, parent_names = codes, names
        if split.is_cut:
            labels = _cut(values, split, parents, staying)
            label_names = [f"q{n + 1}" for n in range(split.buckets)] + [NONE]
        else:
            labels, label_names = _by_value(values, where, split.by)
        pairs, codes = np.unique(parents * len(label_names) + labels, return_inverse=True)
        if len(pairs) > MOST:
            raise InputError(
                f"{where}: {len(pairs):,} sub-domains, and at most {MOST:,} are possible; split by "
                f"a column with fewer values than '{split.by}', or by quantiles"
            )
        names = [
            f"{parent_names[pair // len(label_names)]}:{label_names[pair % len(label_names)]}"
            for pair in pairs.tolist()
        ]
        if split.is_cut:
            lacking = split.buckets * len(parent_names) - sum(
                not name.endswith(f":{NONE}") for name in names
            )
            if lacking:
                reason = ", since equal values are never apart" if split.quantiles else ""
                notices.append(
                    f"{where}: {counted(lacking, 'bucket')} of '{split.by}' without a document"
                    + reason
                )
    used = np.unique(codes[staying])
    left = [names[code] for code in used.tolist()]
    place = np.zeros(len(names), BUCKET)
    place[used] = np.arange(len(used))
    for code in np.setdiff1d(np.unique(codes), used).tolist():
        nearest = nearest_name(names[code], left)
        place[code] = left.index(nearest)
        notices.append(
            f"{where}: nothing is left of '{names[code]}'; its "
            f"{counted(int((codes == code).sum()), 'removed document')} count with '{nearest}'"
        )
    return SplitDomain(left, place[codes])


def nearest_name(name: str, left: Sequence[str]) -> str:
    """Find the sub-domain that the removed documents of an emptied one count with.

    It shares the most levels from the left; among these it is the nearest bucket, then the first.

    Args:
        name: The emptied sub-domain.
        left: Those with documents that stay.

    Example:
        >>> nearest_name("web:arts:q4", ["web:arts:q1", "web:arts:q3", "web:news:q4"])
        'web:arts:q3'
        >>> nearest_name("web:arts:q4", ["web:arts:none", "web:arts:q1"])
        'web:arts:q1'
        >>> nearest_name("web:law:q1", ["web:arts:q2", "web:news:q1"])
        'web:arts:q2'
    """
    levels = name.split(":")

    def distance(other: str) -> tuple[int, int]:
        others = other.split(":")
        same = len(os.path.commonprefix([levels, others]))
        buckets = [BUCKET_NAME.fullmatch(parts[same]) for parts in (levels, others)]
        if None in buckets:
            return -same, MOST
        first, second = (int(match[1]) for match in buckets if match)
        return -same, abs(first - second)

    return min(left, key=distance)


def _cut(
    values: pl.Series, split: SplitRecipe, parents: NDArray[np.int64], staying: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the bucket of each value, lowest first; the last number is for none."""
    numbers = values.cast(pl.Float64).fill_nan(None)
    has_value = numbers.is_not_null().to_numpy()
    filled = numbers.fill_null(0.0).to_numpy()
    buckets = np.full(len(filled), split.buckets, np.int64)
    if split.quantiles is None:
        buckets[has_value] = np.searchsorted(np.array(split.edges), filled[has_value])
        return buckets
    for parent in np.unique(parents):
        members = has_value & (parents == parent)
        sample = pl.Series(filled[members & staying])
        if not len(sample):
            continue
        shares = [step / split.quantiles for step in range(1, split.quantiles)]
        edges = [sample.quantile(share, "linear") for share in shares]
        buckets[members] = np.searchsorted(np.array(edges, np.float64), filled[members])
    return buckets


def _by_value(values: pl.Series, where: str, by: str) -> tuple[NDArray[np.int64], list[str]]:
    """Return the number of each value's name, and the names in order.

    Raises:
        InputError: There are too many values, or two that give one name.
    """
    texts = values.cast(pl.String)
    distinct = texts.drop_nulls().unique().sort().to_list()
    if len(distinct) > MOST:
        raise InputError(
            f"{where}: {len(distinct):,} values of '{by}', and at most {MOST:,} are possible; "
            "split by a column with fewer values, or by quantiles"
        )
    names = [UNFIT.sub("_", text)[:60] or "_" for text in distinct]
    first: dict[str, str] = {NONE: "no value"}
    for name, text in zip(names, distinct, strict=True):
        other = first.setdefault(name.lower(), text)
        if other != text:
            raise InputError(
                f"{where}: '{other}' and '{text}' of '{by}' would both be called '{name}'; change "
                "one of the values, or split by an expression such as lower(" + by + ")"
            )
    number_of = {text: number for number, text in enumerate(distinct)}
    labels = texts.replace_strict(number_of, default=len(names), return_dtype=pl.Int64)
    return labels.fill_null(len(names)).to_numpy(), [*names, NONE]


def split_notice(names: Sequence[str]) -> str:
    """Say which sub-domains a domain was split into."""
    listed = list_first([f"'{name}'" for name in names])
    return f"'{names[0].partition(':')[0]}' is split into {listed}"
