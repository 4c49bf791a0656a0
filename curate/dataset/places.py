"""Find documents in the shards of a dataset, and the documents at a place, by the provenance.

A place is a run of tokens of one document in a shard. Left out: texts, files and lines, which
`look_up` adds from the token store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from curate.dataset.manifest import Manifest, ShardRecord, file_damage, read_provenance
from curate.errors import InputError, ShardError
from curate.formats.base import WHOLE, TextFormat, TokenFormat
from curate.plan import PAD

TEXT_TOKENS = 64
"""Tokens that are shown from a position on."""


class DocumentKey(NamedTuple):
    """The number of a document in the token store."""

    domain: int
    """Number of its domain in the manifest."""
    number: int
    """Number in the domain, in the order of content hashes."""


class Place(msgspec.Struct, frozen=True, rename={"pass_number": "pass"}):
    """Consecutive tokens of one document in a shard."""

    shard: str
    """Stem of the shard, relative to the dataset's directory."""
    position: int
    """First token in the shard, from 0."""
    row: int | None
    """Row or document of the shard that holds this token, from 0; None in a stream without."""
    tokens: int
    """Number of tokens."""
    domain: str | None
    """Name of the document's domain; None for the filling of a row."""
    document: int | None
    """Number of the document in the domain; None for filling."""
    start: int
    """First of these tokens in the document, from 0."""
    pass_number: int | None
    """How often the split has shown this token, this time included; None for filling."""


class Standing(NamedTuple):
    """The places of a document."""

    content: str
    """First 16 digits of its content hash; empty for a document that no shard holds."""
    places: tuple[Place, ...]


class Stretch(NamedTuple):
    """Consecutive tokens of a shard, of any documents."""

    shard: int
    """Number of the shard in the manifest."""
    position: int
    tokens: int


class ShardPieces:
    """The provenance of one shard, in the order of its tokens."""

    def __init__(self, directory: Path, manifest: Manifest, record: ShardRecord) -> None:
        """Map the file.

        Args:
            directory: Directory of the dataset.
            manifest: The dataset's manifest.
            record: The shard, as the manifest lists it.

        Raises:
            ShardError: It is absent, damaged, or not the one that the manifest lists.
        """
        damage = file_damage(directory, record.provenance, hashed=False)
        if damage is not None:
            raise ShardError(f"{directory}/{damage}; run curate build to write the dataset again")
        self.record = record
        self.rows = read_provenance(directory / record.provenance.path, record, manifest)
        self._manifest, self._form = manifest, manifest.configured()

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First token of each piece in the shard."""
        tokens = self.rows["tokens"]
        starts: NDArray[np.int64] = np.cumsum(tokens) - tokens
        return starts

    def row_of(self, piece: int, position: int) -> int | None:
        """Return the row of a token, which the piece of this number holds."""
        manifest, form = self._manifest, self._form
        fixed = manifest.sequence_length
        is_train = self.record.split == "train"
        takes_rows = isinstance(form, TokenFormat) and form.takes_sequences
        if fixed is not None and manifest.packing != WHOLE and (is_train or takes_rows):
            return position // fixed
        return piece if isinstance(form, TextFormat) or form.keeps_documents else None

    def first_token_of_row(self, row: int) -> int:
        """Return the first token of a row.

        Raises:
            InputError: The shard has no rows, or fewer.
        """
        stem, record = self.record.stem, self.record
        whole = self.row_of(0, 0)
        if whole is None:
            raise InputError(
                f"{stem}#{row}: this format stores one stream without rows; name a token, as in "
                f"{stem}:0"
            )
        if not 0 <= row < record.sequences:
            raise InputError(f"{stem}#{row}: the shard has the rows 0 to {record.sequences - 1}")
        fixed = self._manifest.sequence_length
        if fixed is not None and self._manifest.packing != WHOLE and self.row_of(0, fixed):
            return row * fixed
        return int(self.starts[row])

    def place(
        self, piece: int, position: int, tokens: int, pass_number: int | None = None
    ) -> Place:
        """Describe consecutive tokens of a piece.

        Args:
            piece: Number of the piece.
            position: First token in the shard.
            tokens: Number of tokens.
            pass_number: As in `Place`.
        """
        row = self.rows[piece]
        is_filling = row["domain"] == PAD
        return Place(
            shard=self.record.stem,
            position=position,
            row=self.row_of(piece, position),
            tokens=tokens,
            domain=None if is_filling else self._manifest.domains[row["domain"]],
            document=None if is_filling else int(row["document"]),
            start=0 if is_filling else int(row["start"]) + position - int(self.starts[piece]),
            pass_number=pass_number,
        )

    def cut(self, position: int, tokens: int) -> Iterator[tuple[int, int, int]]:
        """Yield piece, first token in the shard, and tokens.

        Args:
            position: First token in the shard.
            tokens: Tokens of the stretch.
        """
        end = position + tokens
        piece = int(np.searchsorted(self.starts, position, side="right")) - 1
        while position < end:
            start, length = int(self.starts[piece]), int(self.rows["tokens"][piece])
            stop = min(end, start + length)
            if stop > position:
                yield piece, position, stop - position
            position, piece = max(position, stop), piece + 1


class Provenance:
    """The provenance of every shard of a dataset."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Take the shards of a manifest; their files are read when they are needed.

        Args:
            directory: Directory of the dataset.
            manifest: Its manifest.
        """
        self.directory, self.manifest = directory, manifest
        self._shards: dict[int, ShardPieces] = {}

    def shard(self, number: int) -> ShardPieces:
        """Return the provenance of the shard of this number in the manifest."""
        if number not in self._shards:
            record = self.manifest.shards[number]
            self._shards[number] = ShardPieces(self.directory, self.manifest, record)
        return self._shards[number]

    def shard_numbers(self, split: str) -> list[int]:
        """Return the numbers of the shards of a split that hold tokens, in order."""
        shards = enumerate(self.manifest.shards)
        return [number for number, record in shards if record.split == split and record.tokens]

    def with_content(self, content: str) -> list[DocumentKey]:
        """Return the documents in shards whose content hash begins with 16 hexadecimal digits."""
        keys = set()
        for number in range(len(self.manifest.shards)):
            rows = self.shard(number).rows
            same = rows[(rows["content"] == np.uint64(int(content, 16))) & (rows["domain"] != PAD)]
            keys |= set(map(_key, same))
        return sorted(keys)

    def places(self, keys: Iterable[DocumentKey]) -> dict[DocumentKey, Standing]:
        """Find every place of some documents, in the order of the shards.

        Args:
            keys: The documents.

        Returns:
            The places of each; empty for a document in no shard.
        """
        places: dict[DocumentKey, list[Place]] = {key: [] for key in keys}
        contents = dict.fromkeys(places, "")
        sought = np.array([_packed(*key) for key in places], np.int64)
        shown: dict[tuple[DocumentKey, str], list[tuple[int, int]]] = {}
        for number in range(len(self.manifest.shards)):
            shard = self.shard(number)
            rows = shard.rows
            packed = _packed(rows["domain"].astype(np.int64), rows["document"])
            for piece in np.flatnonzero(np.isin(packed, sought) & (rows["domain"] != PAD)).tolist():
                row = rows[piece]
                key = _key(row)
                content = f"{int(row['content']):016x}"
                if contents[key] not in ("", content):
                    raise ShardError(
                        f"{self.directory}: the provenance gives two texts to one document of "
                        f"'{self.manifest.domains[key.domain]}'; run curate verify, then build"
                    )
                contents[key] = content
                start, tokens = int(row["start"]), int(row["tokens"])
                earlier = shown.setdefault((key, shard.record.split), [])
                pass_number = 1 + sum(low <= start < high for low, high in earlier)
                earlier.append((start, start + tokens))
                places[key].append(
                    shard.place(piece, int(shard.starts[piece]), tokens, pass_number)
                )
        return {key: Standing(contents[key], tuple(places[key])) for key in places}

    def within(self, stretches: Sequence[Stretch]) -> list[tuple[DocumentKey | None, Place]]:
        """Cut stretches of shards into documents.

        Returns:
            Document and place of each run of tokens; no document for filling. `pass_number` is left
            out: `numbered` sets it.
        """
        runs: list[tuple[DocumentKey | None, Place]] = []
        for stretch in stretches:
            shard = self.shard(stretch.shard)
            for piece, position, tokens in shard.cut(stretch.position, stretch.tokens):
                place = shard.place(piece, position, tokens)
                key = None if place.document is None else _key(shard.rows[piece])
                runs.append((key, place))
        return runs


def _key(row: Any) -> DocumentKey:
    """Return the document of a row of the provenance."""
    return DocumentKey(int(row["domain"]), int(row["document"]))


def _packed(domain: Any, number: Any) -> Any:
    """Pack domain and number of documents into one integer; domains are below 2^16."""
    return domain << 47 | number


def numbered(place: Place, places: Sequence[Place]) -> Place:
    """Set the pass of a run of tokens.

    Args:
        place: A part of one of `places`.
        places: All places of the same document, in order.
    """
    split = place.shard.partition("/")[0]
    count = 0
    for other in places:
        if other.shard.partition("/")[0] == split:
            count += other.start <= place.start < other.start + other.tokens
        is_here = other.shard == place.shard
        if is_here and other.position <= place.position < other.position + other.tokens:
            break
    return msgspec.structs.replace(place, pass_number=count)


def find_shard(manifest: Manifest, name: str) -> int | None:
    """Return the number of the shard of a name: its stem, or the end of it with a `shard-…`.

    `validation/wiki` must be written out, for `wiki:17` may be an identifier.

    Raises:
        InputError: Several shards end so.
    """
    stems = [record.stem for record in manifest.shards]
    candidates = [number for number, stem in enumerate(stems) if stem == name]
    if not candidates and name.rpartition("/")[2].startswith("shard-"):
        ending = f"/{name}"
        candidates = [number for number, stem in enumerate(stems) if stem.endswith(ending)]
    if len(candidates) > 1:
        names = ", ".join(stems[number] for number in candidates[:4])
        raise InputError(f"'{name}' names {len(candidates)} shards; name one of {names}")
    return candidates[0] if candidates else None
