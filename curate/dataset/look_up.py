"""Look up what stands in the shards of a dataset, from either end.

From a place in a shard, or a step of a training run, to documents: text, file, line, licence. From
a document's identifier, content hash or text to every place in the shards. Places come from the
provenance beside the shards; files, lines and identifiers from the token store.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from curate.dataset.manifest import REMOVED, Manifest, ShardRecord, file_damage
from curate.dataset.places import (
    TEXT_TOKENS,
    DocumentKey,
    Place,
    Provenance,
    Standing,
    Stretch,
    find_shard,
    numbered,
)
from curate.dataset.samples import stored_tokens
from curate.dataset.steps import StepQuery, trace_step
from curate.errors import InputError, ShardError
from curate.formats.base import TextFormat
from curate.runtime.registry import counted, list_first
from curate.runtime.tabular import Row, Tabular
from curate.tokens.backends import ReferenceEncoder
from curate.tokens.domain import DomainTokens

POSITION = re.compile(r"(?P<shard>.+)(?P<unit>[:#])(?P<number>\d[\d_,]*)")
"""`SHARD:TOKEN` or `SHARD#ROW`."""

CONTENT = re.compile(r"[0-9a-f]{32}|[0-9a-f]{16}")
"""A content hash, or its first half, which is all that the provenance holds."""

QueryKind = Literal["position", "step", "hash", "id", "text"]

MOST_DOCUMENTS = 100
"""Most documents that a search by text returns."""

DOCUMENT_MARK = " ‖ "
"""Shown between documents that follow each other in a shard."""

DECODED_DOCUMENTS = 256
"""Documents that are decoded at once in a search by text."""


class ShownDocument(msgspec.Struct, frozen=True):
    """A document, where it came from, and every place where it stands."""

    domain: str
    document: int
    """Number of the document in the domain, as in the provenance."""
    id: str
    """Identifier of the record; empty where it has none, or without the token store."""
    content: str
    """xxh3-128 of the text; only its first 16 digits without the token store."""
    file: str | None
    """Source file; None without the token store."""
    line: int | None
    """Line or row of the file, 1 is the first; None without the token store."""
    license: str | None
    """Licence of the domain, as the recipe states it."""
    tokens: int | None
    """Tokens of the whole document, end token included; None without the token store."""
    text: str
    """The whole text, decoded from its tokens; without the token store, what a shard holds of it.
    """
    places: tuple[Place, ...]
    """Every place in the shards, in their order; none for a document that no shard holds."""


class ShownRemoval(msgspec.Struct, frozen=True):
    """A document that curation removed."""

    domain: str
    id: str
    """Identifier of the record; empty where it has none."""
    content: str
    """xxh3-128 of the text."""
    file: str
    line: int
    reason: str
    """`excluded`, `filtered`, `contaminated` or `copies`."""
    detail: str | None
    """The cause: the line of the list, the expression, the evaluation item, the copy kept."""


class ShownSequence(msgspec.Struct, frozen=True):
    """One sequence of a step."""

    number: int
    """Number in the batch, from 0."""
    sample: int
    """Number of the sample in the dataset, from 0; in the shards' order unless Megatron's."""
    places: tuple[Place, ...]
    """The runs of tokens that make it up, in order."""


class LookUp(Tabular, msgspec.Struct, frozen=True):
    """Answer to a look-up."""

    query: str
    by: QueryKind
    """How the query was understood."""
    place: Place | None
    """For a position: the run of tokens that begins there, to the end of the document's piece."""
    excerpt: str
    """For a position: the text of the next tokens in the shard, as read from disk, with
    `DOCUMENT_MARK` where another document begins.
    """
    sequences: tuple[ShownSequence, ...]
    """For a step: its batch."""
    documents: tuple[ShownDocument, ...]
    notices: tuple[str, ...]
    removed: tuple[ShownRemoval, ...] = ()
    """Documents of this identifier, hash or whole text that curation removed."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields that the command prints with `--json`."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields

    def rows(self) -> list[Row]:
        """Return one row for each place of each document, and for each removed document.

        A document without places has one row. Texts are left out; `to_json` has them.
        """
        named = {(document.domain, document.document): document for document in self.documents}
        rows = [
            _row(named.get((place.domain or "", -1 if place.document is None else place.document)),
                 place, sequence)
            for sequence in self.sequences
            for place in sequence.places
        ]  # fmt: skip
        if not self.sequences:
            rows += [
                _row(document, place)
                for document in self.documents
                for place in (document.places or (None,))
            ]
        return rows + [_row(removal) for removal in self.removed]


def _row(
    document: ShownDocument | ShownRemoval | None,
    place: Place | None = None,
    sequence: ShownSequence | None = None,
) -> Row:
    """Return a document at a place as a row; fields of what is absent are None."""
    names = ("domain", "id", "content", "file", "line", "license", "tokens", "reason", "detail")
    places = ("shard", "position", "row", "start", "pass_number")
    return {
        "sequence": getattr(sequence, "number", None),
        "sample": getattr(sequence, "sample", None),
        **{name: getattr(document, name, None) for name in names},
        **{name.removesuffix("_number"): getattr(place, name, None) for name in places},
        "tokens_here": getattr(place, "tokens", None),
    }


@dataclass
class OpenDataset:
    """A dataset whose documents are looked up."""

    directory: Path
    manifest: Manifest
    domains: Sequence[DomainTokens] | None
    """Its domains in the token store; None where that is missing or changed."""
    licenses: Mapping[str, str | None]
    """Licence of each domain."""
    encoder: ReferenceEncoder
    """Decodes tokens."""
    fetch: Callable[[ShardRecord], None]
    """Called with a shard before its files are read, which may be in a bucket."""
    notices: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Open the provenance."""
        self.provenance = Provenance(self.directory, self.manifest)
        self.form = self.manifest.configured()

    def decode(self, tokens: NDArray[Any]) -> str:
        """Return the text of tokens, without the end token."""
        eos_id = self.manifest.tokenizer.eos_id
        if eos_id is not None:
            tokens = tokens[tokens != eos_id]
        return self.encoder.decode(tokens.astype(np.uint32))

    def read(self, shard: int, position: int, tokens: int) -> str:
        """Return the text that stands in a shard from a token on, with a mark between documents.

        Args:
            shard: Number of the shard.
            position: First token.
            tokens: Number of tokens; for a format of text, the whole document is returned.

        Raises:
            ShardError: The shard is absent, damaged or too short.
        """
        record = self.manifest.shards[shard]
        self.fetch(record)
        for file in record.files:
            damage = file_damage(self.directory, file, hashed=False)
            if damage is not None:
                raise ShardError(f"{self.directory}/{damage}; run curate verify to see all damage")
        stem = self.directory / record.stem
        if isinstance(self.form, TextFormat):
            (row, *_), *_ = self.provenance.shard(shard).cut(position, 1)
            return _text_row(self.form, stem, row)
        dtype = np.dtype(self.manifest.dtype)
        stored = stored_tokens(self.form, stem, dtype, (position, position + tokens))
        starts = [start for _, start, _ in self.provenance.shard(shard).cut(position, tokens)]
        return DOCUMENT_MARK.join(
            map(self.decode, np.split(stored, np.array(starts[1:], np.int64) - position))
        )


def look_up(dataset: OpenDataset, query: str) -> LookUp:
    """Find what a query names: a position in a shard, a content hash, an identifier, or a text.

    Documents that curation removed are among the answers, with the reason.

    Args:
        dataset: The dataset.
        query: `SHARD:TOKEN`, `SHARD#ROW`, a hash, an identifier, or a part of a text; tried in this
            order.

    Raises:
        InputError: Nothing fits, or the position is outside its shard.
        ShardError: The shard or its provenance is damaged.
    """
    match = POSITION.fullmatch(query)
    shard = find_shard(dataset.manifest, match["shard"]) if match else None
    if match is not None and shard is not None:
        return _at_position(dataset, query, shard, (match["unit"], match["number"]))
    searches: dict[QueryKind, Callable[[OpenDataset, str], list[DocumentKey]]] = {
        "hash": _by_hash,
        "id": _by_identifier,
        "text": _by_text,
    }
    for by, search in searches.items():
        removed = _removed(dataset, by, query)
        # A search by text reads everything, so a removed document with that text is enough.
        is_answered = by == "text" and bool(removed)
        if by == "text" and not is_answered and match and match["shard"].isdecimal():
            _refuse_number(dataset, query, match["shard"])
        keys = [] if is_answered else search(dataset, query)
        if keys or removed:
            return LookUp(
                query=query,
                by=by,
                place=None,
                excerpt="",
                sequences=(),
                documents=_documents(dataset, keys),
                notices=tuple(dataset.notices),
                removed=removed,
            )
    raise InputError(_no_match(dataset, query))


def _removed(dataset: OpenDataset, by: QueryKind, query: str) -> tuple[ShownRemoval, ...]:
    """Find removed documents by content hash, identifier or whole text."""
    path = dataset.directory / REMOVED
    if not path.is_file():
        return ()
    import polars as pl  # here, since it takes as long to import as all else

    tests = {
        "hash": pl.col("content").str.starts_with(
            query.lower() if CONTENT.fullmatch(query.lower()) else "-"
        ),
        "id": pl.col("id") == query,
        "text": pl.col("content") == xxhash.xxh3_128_hexdigest(query.encode()),
    }
    try:
        rows = pl.scan_parquet(path).filter(tests[by]).collect()
        return tuple(msgspec.convert(row, ShownRemoval) for row in rows.to_dicts())
    except (pl.exceptions.PolarsError, msgspec.ValidationError) as error:
        raise ShardError(
            f"{path}: damaged ({str(error).splitlines()[0]}); run curate build to write it again"
        ) from error


def _refuse_number(dataset: OpenDataset, query: str, number: str) -> None:
    """Raise InputError for a number in place of a shard's name, which would be taken for text."""
    stems = [shard.stem for shard in dataset.manifest.shards]
    named = [stem for stem in stems if stem.endswith(f"shard-{int(number):05}")] or stems
    place = query[len(number) :]
    raise InputError(
        f"{dataset.directory}: '{query}' names a shard by its number, and is no identifier; write "
        f"the shard's name, as in {list_first([f'{stem}{place}' for stem in named])}"
    )


def _no_match(dataset: OpenDataset, query: str) -> str:
    shown = query if len(query) <= 60 else f"{query[:60]}…"
    problem = f"{dataset.directory}: '{shown}' is no position, hash, identifier or part of a text"
    if dataset.domains is None:
        problem = (
            f"{dataset.directory}: '{shown}' is no position or hash, and {dataset.notices[-1]}"
        )
    stems = [shard.stem for shard in dataset.manifest.shards]
    match = POSITION.fullmatch(query)
    if match is not None and "shard-" in match["shard"]:
        return f"{dataset.directory}: no shard '{match['shard']}'; there are {list_first(stems)}"
    return f"{problem}; a position is written {stems[0]}:0"


def look_up_step(dataset: OpenDataset, query: StepQuery) -> LookUp:
    """Find the documents of a training step.

    Args:
        dataset: The dataset.
        query: The step.

    Raises:
        InputError: The step cannot be traced: the message says why and what can.
    """
    batch = trace_step(dataset.provenance, query)
    dataset.notices += batch.notices
    runs = [dataset.provenance.within(stretches) for stretches in batch.stretches]
    keys = dict.fromkeys(key for sequence in runs for key, _ in sequence if key is not None)
    documents = _documents(dataset, keys)
    places = {key: document.places for key, document in zip(keys, documents, strict=True)}
    sequences = tuple(
        ShownSequence(
            number,
            sample,
            tuple(place if key is None else numbered(place, places[key]) for key, place in run),
        )
        for number, (sample, run) in enumerate(zip(batch.samples, runs, strict=True))
    )
    return LookUp(
        query=f"step {query.step}, batch {query.batch}",
        by="step",
        place=None,
        excerpt="",
        sequences=sequences,
        documents=documents,
        notices=tuple(dataset.notices),
    )


def _at_position(dataset: OpenDataset, query: str, shard: int, written: tuple[str, str]) -> LookUp:
    """Look up a token or the first token of a row."""
    unit, digits = written
    pieces = dataset.provenance.shard(shard)
    position = int(re.sub("[_,]", "", digits))
    if unit == "#":
        position = pieces.first_token_of_row(position)
    total = pieces.record.tokens
    if position >= total:
        raise InputError(
            f"{pieces.record.stem}:{position}: the shard has the tokens 0 to {total - 1}"
        )
    key, place = dataset.provenance.within([Stretch(shard, position, total - position)])[0]
    documents = _documents(dataset, [key] if key else [])
    if documents:
        place = numbered(place, documents[0].places)
    return LookUp(
        query=query,
        by="position",
        place=place,
        excerpt=dataset.read(shard, position, min(TEXT_TOKENS, total - position)),
        sequences=(),
        documents=documents,
        notices=tuple(dataset.notices),
    )


def _by_hash(dataset: OpenDataset, query: str) -> list[DocumentKey]:
    """Return the documents of a content hash, or of its first half."""
    content = query.lower()
    if not CONTENT.fullmatch(content):
        return []
    if dataset.domains is None:
        return dataset.provenance.with_content(content[:16])
    high, low = np.uint64(int(content[:16], 16)), content[16:]
    keys = []
    for number, domain in enumerate(dataset.domains):
        same = domain.content_high == high
        if low:
            same &= domain.content_low == np.uint64(int(low, 16))
        keys += [DocumentKey(number, int(document)) for document in np.flatnonzero(same)]
    return keys


def _by_identifier(dataset: OpenDataset, query: str) -> list[DocumentKey]:
    return [
        DocumentKey(number, int(document))
        for number, domain in enumerate(dataset.domains or ())
        for document in domain.with_identifier(query)
    ]


def _by_text(dataset: OpenDataset, query: str) -> list[DocumentKey]:
    """Return the documents that hold a text: by hash where it is a whole one, else by search."""
    whole = _by_hash(dataset, xxhash.xxh3_128_hexdigest(query.encode()))
    if whole or dataset.domains is None or not query:
        return whole
    keys: list[DocumentKey] = []
    for number, domain in enumerate(dataset.domains):
        for document in _containing(dataset, domain, query):
            keys.append(DocumentKey(number, document))
            if len(keys) == MOST_DOCUMENTS:
                dataset.notices.append(
                    f"shown are the first {MOST_DOCUMENTS} documents that hold this text; there "
                    "may be more, and a longer text names fewer"
                )
                return keys
    return keys


def _containing(dataset: OpenDataset, domain: DomainTokens, text: str) -> Iterator[int]:
    """Yield the documents of a domain whose text holds another."""
    eos_id = dataset.manifest.tokenizer.eos_id
    for first in range(0, len(domain), DECODED_DOCUMENTS):
        numbers = range(first, min(first + DECODED_DOCUMENTS, len(domain)))
        tokens = [domain.document(number) for number in numbers]
        bodies = [ids[:-1] if eos_id is not None else ids for ids in tokens]
        for number, decoded in zip(numbers, dataset.encoder.decode_batch(bodies), strict=True):
            if text in decoded:
                yield number


def _documents(dataset: OpenDataset, keys: Iterable[DocumentKey]) -> tuple[ShownDocument, ...]:
    standings = dataset.provenance.places(keys)
    return tuple(_document(dataset, key, standing) for key, standing in standings.items())


def _document(dataset: OpenDataset, key: DocumentKey, standing: Standing) -> ShownDocument:
    """Describe a document from the token store, or without it from its first place."""
    name = dataset.manifest.domains[key.domain]
    show = partial(
        ShownDocument,
        domain=name,
        document=key.number,
        license=dataset.licenses.get(name),
        places=standing.places,
    )
    if dataset.domains is None:
        place = standing.places[0]
        shards = [record.stem for record in dataset.manifest.shards]
        text = dataset.read(shards.index(place.shard), place.position, place.tokens)
        return show(id="", content=standing.content, file=None, line=None, tokens=None, text=text)
    domain = dataset.domains[key.domain]
    content = domain.content_hash(key.number) if key.number < len(domain) else ""
    if not content or not content.startswith(standing.content):
        raise ShardError(
            f"{dataset.directory}: the documents of '{name}' in the token store are not those that "
            "were written; build again"
        )
    numbers = np.array([key.number])
    files, lines = domain.locate(numbers)
    text = dataset.decode(domain.document(key.number))
    if xxhash.xxh3_128_hexdigest(text.encode()) != content:
        notice = (
            "texts are decoded from tokens, and this tokenizer does not give back every character"
        )
        if notice not in dataset.notices:
            dataset.notices.append(notice)
    return show(
        id=domain.identifiers(numbers)[0],
        content=content,
        file=domain.files.paths[int(files[0])],
        line=int(lines[0]),
        tokens=int(domain.tokens[key.number]),
        text=text,
    )


def _text_row(form: TextFormat, stem: Path, row: int) -> str:
    """Return the text of a row of a shard."""
    for batch in form.read(stem):
        if row < len(batch.texts):
            return batch.texts[row]
        row -= len(batch.texts)
    raise ShardError(f"{stem}: ends {counted(row + 1, 'row')} early; run curate verify")
