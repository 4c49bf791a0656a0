"""Find documents whose text occurs again, in their domain or another, and files of the same ones.

Texts are compared by content hash, so copies are seen however files are named, cut or compressed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from curate.runtime.memory import block_rows, blocks, next_block
from curate.tokens.domain import DomainTokens, mix64
from curate.tokens.entries import DomainFile


def shared_documents(domains: Sequence[DomainTokens]) -> NDArray[np.uint64]:
    """Return the texts that several domains hold, as first halves of content hashes, ascending."""
    documents = sum(len(domain) for domain in domains)
    parts = max(1, -(-documents // block_rows()))
    # Hashes are evenly spread and each domain has them in order, so equal ranges are equal work.
    cuts = [np.uint64((2**64 * part) // parts) for part in range(1, parts)]
    starts = [domain.content_high.searchsorted(cuts) for domain in domains]
    shared = [np.empty(0, np.uint64)]
    for part in range(parts):
        texts = [
            domain.content_high[
                slice(start[part - 1] if part else 0, start[part] if part < len(cuts) else None)
            ]
            for domain, start in zip(domains, starts, strict=True)
        ]
        distinct = [_distinct(hashes) for hashes in texts]
        # Timsort merges these runs in a third of the time that a sort of all takes.
        joined = np.sort(np.concatenate([np.empty(0, np.uint64), *distinct]), kind="stable")
        shared.append(_distinct(joined[1:][joined[1:] == joined[:-1]]))
        next_block()
    return np.concatenate(shared)


def _distinct(ascending: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Drop repeated values; `numpy.unique` takes 0.01 s to import what it needs."""
    distinct: NDArray[np.uint64] = ascending[np.diff(ascending, prepend=~ascending[:1]) != 0]
    return distinct


def is_among(values: NDArray[np.uint64], ranked: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which values an ascending array holds; both are hashes, spread evenly.

    A table of the first bits rules out most values, as a search waits for memory at each step: of
    500,000 hashes 81 instead of 515 ns a value. `numpy.isin` takes 0.01 s to import.
    """
    among = np.ones(len(values), np.bool_)
    if len(values) > len(ranked) // 16:  # or the table would cost more than it saves
        shift = np.uint64(64 - (8 * len(ranked) | 1).bit_length())
        table = np.zeros(1 << (64 - int(shift)), np.bool_)
        table[ranked >> shift] = True
        among = table[values >> shift]
    likely = values[among]
    among[among] = ranked.searchsorted(likely) != ranked.searchsorted(likely, "right")
    return among


def held_out_documents(
    domains: Sequence[DomainTokens],
    share: float,
    key: int,
    among: Sequence[NDArray[np.bool_]] | None = None,
) -> tuple[NDArray[np.bool_], ...]:
    """Select the validation documents of all domains, a text in every domain that holds it.

    Otherwise a text could be held out in one domain and trained on in another.

    Args:
        domains: The domains.
        share: See `DomainTokens.validation`.
        key: See there.
        among: For each domain, shape (documents,), the documents to select from; None for all.

    Returns:
        For each domain, shape (documents,), True for documents held out.
    """
    kept: Sequence[NDArray[np.bool_] | None] = among if among is not None else [None] * len(domains)
    masks = tuple(
        domain.validation(share, key, mask) for domain, mask in zip(domains, kept, strict=True)
    )
    texts = [np.empty(0, np.uint64)]
    for domain, mask in zip(domains, masks, strict=True):
        texts += [domain.content_high[rows][mask[rows]] for rows in blocks(len(domain))]
    held_out = np.sort(np.concatenate(texts))
    for domain, mask in zip(domains, masks, strict=True):
        for rows in blocks(len(domain)):
            mask[rows] |= is_among(domain.content_high[rows], held_out)
    return masks


def repeated_documents(domain: DomainTokens, rows: slice) -> NDArray[np.bool_]:
    """Return which documents have the text of the one before, in the domain's order by content.

    Args:
        domain: The domain.
        rows: Range of documents to look at; they are compared with the one before the range, too.
    """
    first = max(0, rows.start - 1)
    high, low = domain.content_high[first : rows.stop], domain.content_low[first : rows.stop]
    repeated = np.zeros(len(high), np.bool_)
    repeated[1:] = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    return repeated[rows.start - first :]


def same_files(domain: DomainTokens) -> Iterator[tuple[DomainFile, DomainFile]]:
    """Yield each file that holds the same documents as one before it, and that one.

    Files of equal bytes are left out: they are seen before anything is read.
    """
    documents = np.zeros(len(domain.files), np.int64)
    # The sum of hashes does not depend on the order of the documents in a file.
    sums = np.zeros(len(domain.files), np.uint64)
    for rows in blocks(len(domain)):
        files = domain.file_numbers(rows)
        documents += np.bincount(files, minlength=len(documents))
        np.add.at(sums, files, mix64(domain.content_high[rows], domain.content_low[rows]))
    first: dict[tuple[int, int], int] = {}
    same = enumerate(zip(documents.tolist(), sums.tolist(), strict=True))
    pairs = [(number, first.setdefault(held, number)) for number, held in same if held[0]]
    for number, original in pairs:
        if number != original:
            file, before = domain.files[number], domain.files[original]
            if before.entries[0].entry.key != file.entries[0].entry.key:
                yield file, before
