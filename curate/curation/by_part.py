"""Facts about stored documents, worked out once for each part of the token store and kept.

A part is written once and holds documents of whatever domains, so what is known of its documents is
kept in a sealed file of its own. When files are added, only their parts are read.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from curate.runtime.files import hash_bytes, sweep
from curate.runtime.memory import Columns, blocks, columns, next_block
from curate.runtime.sealed import Notice, read_cached, read_sealed, write_sealed
from curate.runtime.workers import map_tasks
from curate.tokens.domain import DomainTokens
from curate.tokens.store import INFO, PartInfo

Compute = Callable[[Path], NDArray[Any]]
"""Works out the rows of a part."""


@dataclass(frozen=True)
class PartFacts:
    """One kind of fact about the documents of parts."""

    directory: Path
    """Directory of its files."""
    settings: str
    """Everything that the fact depends on but the part's content."""
    compute: Compute
    """Must be picklable where workers are spawned."""

    def path(self, part: Path) -> Path:
        """Return the file of a part's facts, named by the content of the part and the settings."""
        info = msgspec.json.decode(read_sealed(part / INFO), type=PartInfo)
        name = hash_bytes(self.settings.encode(), *(text.encode() for text in info.hashes[:2]))
        return self.directory / f"{name[:24]}.bin"

    def read(self, part: Path) -> NDArray[Any]:
        """Return what `gather` has written for a part.

        Raises:
            SealError: It is damaged.
        """
        rows: NDArray[Any] = np.load(io.BytesIO(read_sealed(self.path(part))), allow_pickle=False)
        return rows


def gather(
    facts: PartFacts,
    parts: Sequence[Path],
    workers: int,
    on_tick: Callable[[], None],
    notice: Notice,
) -> int:
    """Work out what is missing of the facts about parts.

    Args:
        facts: The kind of fact.
        parts: Directories of the parts.
        workers: Number of processes.
        on_tick: Called now and then.
        notice: Called with a line that names a damaged file.

    Returns:
        Number of parts that were read for it.
    """
    facts.directory.mkdir(parents=True, exist_ok=True)
    sweep(facts.directory)
    missing = [
        part for part in parts if read_cached(facts.path(part), "made again", notice) is None
    ]
    map_tasks(partial(_write, facts), missing, workers, on_tick)
    return len(missing)


def _write(facts: PartFacts, part: Path) -> None:
    content = io.BytesIO()
    np.save(content, facts.compute(part), allow_pickle=False)
    write_sealed(facts.path(part), content.getvalue())


def stored_columns(
    facts: PartFacts, domains: Sequence[DomainTokens], dtypes: Sequence[Any]
) -> tuple[Columns, NDArray[np.int64]]:
    """Collect the facts about the documents of domains, in the order in which they are stored.

    Args:
        facts: The kind of fact, of whose rows `gather` has made all.
        domains: The domains.
        dtypes: Type of each column of the facts.

    Returns:
        Columns "0", "1", … of the facts; and the number of each document, which counts the
        documents of all domains in their own order, one domain after the other.
    """
    total = sum(len(domain) for domain in domains)
    made = columns(total, {str(place): dtype for place, dtype in enumerate(dtypes)})
    numbers: NDArray[np.int64] = columns(total, {"number": np.int64})["number"]
    start = 0
    part, rows = None, np.empty((0, len(dtypes)))
    for domain in domains:
        for block in blocks(len(domain)):
            positions = start + domain.stored_positions(block)
            numbers[positions] = np.arange(start + block.start, start + block.stop)
        for stored in domain.stored_entries:
            if stored.part != part:  # entries of one part mostly follow each other
                part, rows = stored.part, facts.read(stored.part)
            stop = start + stored.entry.documents
            here = rows[stored.entry.document_start : stored.entry.document_stop]
            for place in range(len(dtypes)):
                made[str(place)][start:stop] = here[:, place]
            start = stop
            next_block(0.01)
    return made, numbers
