"""List every removed document with its reason, beside the dataset that it is missing from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curate.curation.apply import DETAILS, Curation, removals_path
from curate.curation.reasons import Reason
from curate.recipe import DomainRecipe
from curate.runtime import arrow
from curate.runtime.files import atomic_path
from curate.runtime.memory import blocks
from curate.tokens.domain import DomainTokens, read_numbers

WRITTEN_ROWS = 1 << 16
"""Documents that are described at once: their texts take far more memory than rows of numbers."""

FIELDS = pa.schema(
    [
        ("domain", pa.string()),
        ("id", pa.string()),
        ("content", pa.string()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("bytes", pa.int64()),
        ("tokens", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""Columns of the list: the recipe's domain, the record's identifier, the xxh3-128 of its text, and
why it was removed."""


def write_removed(curation: Curation, recipes: Sequence[DomainRecipe], path: Path) -> int:
    """Write all removed documents, in blocks, in the order of domains and of content hashes.

    Args:
        curation: The result of all steps.
        recipes: The recipe's domains.
        path: The Parquet file; without removed documents, none is written.

    Returns:
        The number of removed documents.
    """
    path.unlink(missing_ok=True)
    removed = sum(
        amounts.documents for domain in curation.domains for amounts in domain.removed.values()
    )
    if not removed:
        return 0
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, FIELDS) as writer:
        for number, (domain, recipe) in enumerate(zip(curation.wholes, recipes, strict=True)):
            removals = read_numbers(
                removals_path(curation.states[-1], number), np.uint8, len(domain)
            )
            details = _details(curation, number)
            for rows in blocks(len(domain)):
                numbers = rows.start + np.flatnonzero(removals[rows])
                for start in range(0, len(numbers), WRITTEN_ROWS):
                    part = numbers[start : start + WRITTEN_ROWS]
                    writer.write_table(_table(domain, recipe, part, removals[part], details))
    return removed


def copy_rows(curation: Curation, name: str, path: Path) -> int:
    """Copy a Parquet file that a step left in its state, unless it has no rows.

    Args:
        curation: The result of all steps.
        name: Name of the file.
        path: Where to copy it.

    Returns:
        The number of rows.
    """
    kept = [state / name for state in curation.states if (state / name).is_file()]
    rows = sum(int(pq.read_metadata(file).num_rows) for file in kept)
    if rows:
        (file,) = kept
        with atomic_path(path) as temporary:
            shutil.copyfile(file, temporary)
    return rows


def _table(
    domain: DomainTokens,
    recipe: DomainRecipe,
    numbers: NDArray[np.int64],
    reasons: NDArray[np.uint8],
    details: dict[Reason, dict[int, str]],
) -> Any:
    files, lines = domain.locate(numbers)
    words: list[str | None] = []
    for row, code in zip(numbers.tolist(), reasons.tolist(), strict=True):
        word = details.get(Reason(code), {}).get(row)
        if code == Reason.FILTERED:
            word = f"{recipe.where}{' is null' if word else ''}"
        words.append(word)
    return arrow.table(
        {
            "domain": [domain.name] * len(numbers),
            "id": domain.identifiers(numbers),
            "content": [domain.content_hash(int(number)) for number in numbers],
            "file": [domain.files.paths[file] for file in files],
            "line": lines,
            "bytes": domain.text_bytes[numbers],
            "tokens": domain.tokens[numbers],
            "reason": [Reason(code).field for code in reasons.tolist()],
            "detail": words,
        },
        FIELDS,
    )


def _details(curation: Curation, number: int) -> dict[Reason, dict[int, str]]:
    """Return what each step said of the documents of a domain, by row."""
    details: dict[Reason, dict[int, str]] = {}
    for reason, state in zip(curation.reasons, curation.states, strict=True):
        path = state / DETAILS
        if path.is_file():
            table = pq.read_table(
                path, columns=["row", "detail"], filters=[("domain", "=", number)]
            ).to_pydict()
            details[reason] = dict(zip(table["row"], table["detail"], strict=True))
    return details
