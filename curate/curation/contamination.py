"""Find the texts of evaluation sets in documents, precision first.

A text is found by its runs of words, as they stand in the normalised text. How much a run says
depends on how many documents hold it: its weight is 1 - ln(documents) / ln(common), so one that is
in a single document weighs 1, and licences, headers, famous quotations and boilerplate weigh
nothing. In the same way it depends on how many different texts of evaluation sets hold it, as with
the words of a template. A document holds a text if the runs that both share have at least the share
`coverage` of the weight of all runs of the text, and cover enough words of it.

Differs from counting any shared n-gram (GPT-3: 13 words; Llama 2: 10 tokens), which takes a
quotation or a licence for the whole text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curate.curation.by_part import PartFacts, gather
from curate.curation.evaluation_sets import EvaluationIndex, ShingleTable
from curate.curation.signatures import shared_decoder
from curate.curation.texts import document_texts, part_texts
from curate.curation.words import VERSION, fold, hash_shingles, split_words
from curate.recipe.structs import DecontaminateRecipe
from curate.runtime import arrow
from curate.runtime.memory import blocks, columns
from curate.runtime.progress import Observer
from curate.runtime.registry import counted, list_first
from curate.stats.copies import repeated_documents
from curate.tokens.domain import DomainTokens, document_mask
from curate.tokens.tokenizer import Tokenizer

SCHEMA = 1
"""Version of what is kept for parts."""

LEAST_COMMON = 10

SHOWN_CHARACTERS = 400
"""Most characters of a span in the list of spans."""

NOTICE_CHARACTERS = 80

SPANS = pa.schema(
    [
        ("set", pa.string()),
        ("item", pa.int64()),
        ("column", pa.string()),
        ("domain", pa.string()),
        ("content", pa.string()),
        ("coverage", pa.float64()),
        ("words", pa.int64()),
        ("text_words", pa.int64()),
        ("span", pa.string()),
        ("text", pa.string()),
    ]
)
"""Columns of the list of spans: set, record and column of a text; domain and content hash of the
document that holds it; the share of the weight, and words, that it holds; words of the text; and
what matches in the document and in the text, both normalised."""


@dataclass(frozen=True)
class ContaminationRequest:
    """Domains in which to look for evaluation sets."""

    domains: Sequence[DomainTokens]
    staying: Sequence[NDArray[np.bool_]]
    """For each domain, shape (documents,), the documents to look at."""
    settings: DecontaminateRecipe
    index: EvaluationIndex
    tokenizer: Tokenizer
    cache: Path
    """Directory for what documents share with the sets, which later runs use again."""
    workers: int
    observer: Observer


@dataclass(frozen=True)
class Match:
    """A text that a document holds."""

    domain: int
    row: int
    text: int
    coverage: float
    """Share of the weight of the text's runs that the document holds, up to 1."""
    words: int
    """Words of the text that these runs cover."""
    document_span: tuple[int, int]
    """First and last run in the document."""
    text_span: tuple[int, int]
    """First and last run in the text."""


def find_contaminated(request: ContaminationRequest) -> list[Match]:
    """Find the documents that hold texts of evaluation sets, in the order of domains and rows.

    Args:
        request: The domains and sets.
    """
    index, observer = request.index, request.observer
    if not len(index.runs):
        return []
    settings = f"runs {SCHEMA} {VERSION} {index.key} {request.tokenizer.fingerprint}"
    table = ShingleTable.of(index.runs)
    facts = PartFacts(
        request.cache / "runs", settings, partial(_part_hits, request.tokenizer, table, index.ngram)
    )
    parts = sorted({part for domain in request.domains for part in domain.part_paths})
    gather(facts, parts, request.workers, observer.tick, observer.notice)
    weights = _weights(request, facts)
    scorer = _Scorer(request.settings, index, weights)
    matches = []
    for number, (domain, staying) in enumerate(zip(request.domains, request.staying, strict=True)):
        of_domain = [
            match
            for hits in _domain_hits(domain, staying, facts)
            for match in scorer.matches(number, hits)
        ]
        matches += sorted(of_domain, key=lambda match: (match.row, match.text))
    return matches


def masks_of(matches: Sequence[Match], domains: Sequence[DomainTokens]) -> list[NDArray[np.bool_]]:
    """Return for each domain, shape (documents,), the documents that hold a text."""
    masks = []
    for number, domain in enumerate(domains):
        mask = document_mask(len(domain))
        for rows in blocks(len(domain)):
            mask[rows] = False
        mask[np.array([m.row for m in matches if m.domain == number], np.int64)] = True
        masks.append(mask)
    return masks


def common_documents(settings: DecontaminateRecipe, documents: int) -> int:
    """Return the number of documents from which on a run of words is no evidence."""
    return settings.common or _common(documents)


def _common(count: int) -> int:
    """Return how many of `count` must hold a run that is no evidence.

    A leaked item is in a few documents, or in hundreds of a large corpus; a licence that is in 1 of
    200 documents must be no evidence in a small one, too.
    """
    return max(LEAST_COMMON, math.isqrt(count) // 4)


def _part_hits(
    tokenizer: Tokenizer, table: ShingleTable, ngram: int, part: Path
) -> NDArray[np.int64]:
    """Return document, run and first place of each run of the index in a part's documents."""
    pieces = [np.empty((0, 3), np.int64)]
    for first, texts in part_texts(part, shared_decoder(tokenizer), tokenizer.dtype):
        shingles, stops = hash_shingles(split_words([fold(text) for text in texts]), ngram)
        rows = table.hits(shingles, stops)
        _, places = np.unique(rows[:, 0] * len(table.keys) + rows[:, 1], return_index=True)
        rows = rows[np.sort(places)]
        rows[:, 0] += first
        pieces.append(rows)
    return np.concatenate(pieces)


@dataclass(frozen=True)
class _Hits:
    """Runs of the index in some documents of a domain, all of each document."""

    rows: NDArray[np.int64]
    runs: NDArray[np.int64]
    places: NDArray[np.int64]


def _domain_hits(
    domain: DomainTokens, staying: NDArray[np.bool_], facts: PartFacts
) -> Iterator[_Hits]:
    """Yield the hits in the documents of a domain that stay, entry by entry."""
    numbers: NDArray[np.int64] = columns(len(domain), {"number": np.int64})["number"]
    for rows in blocks(len(domain)):
        numbers[domain.stored_positions(rows)] = np.arange(rows.start, rows.stop)
    start, part, hits = 0, None, np.empty((0, 3), np.int64)
    for stored in domain.stored_entries:
        if stored.part != part:  # entries of one part mostly follow each other
            part, hits = stored.part, facts.read(stored.part)
        entry = stored.entry
        bounds = np.searchsorted(hits[:, 0], [entry.document_start, entry.document_stop])
        here = hits[bounds[0] : bounds[1]]
        row = numbers[start + here[:, 0] - entry.document_start]
        kept = staying[row]
        yield _Hits(row[kept], here[kept, 1], here[kept, 2])
        start += entry.documents


def _weights(request: ContaminationRequest, facts: PartFacts) -> NDArray[np.float64]:
    """Return the weight of each run of the index: shape (runs,), 0 to 1."""
    index = request.index
    held_by = np.zeros(len(index.runs), np.int64)
    documents = 0
    for domain, staying in zip(request.domains, request.staying, strict=True):
        distinct = document_mask(len(domain))
        for rows in blocks(len(domain)):
            distinct[rows] = staying[rows] & ~repeated_documents(domain, rows)
            documents += int(np.count_nonzero(distinct[rows]))
        for hits in _domain_hits(domain, staying, facts):
            runs = hits.runs[distinct[hits.rows]]
            held_by += np.bincount(runs, minlength=len(held_by))
    # Sets share items, and items passages: a text that occurs again says nothing of its runs.
    in_texts = np.zeros(len(index.runs), np.int64)
    different = {text.folded: number for number, text in enumerate(index.texts)}
    for number in different.values():
        runs = index.text_runs[index.starts[number] : index.starts[number + 1]]
        in_texts[np.unique(runs)] += 1
    return np.minimum(
        _rarity(held_by, common_documents(request.settings, documents)),
        _rarity(in_texts, _common(len(different))),
    )


def _rarity(counts: NDArray[np.int64], common: int) -> NDArray[np.float64]:
    """Return 1 - ln(count) / ln(common), within 0 and 1; counts of 0 are as those of 1."""
    values: NDArray[np.float64] = np.maximum(
        0, 1 - np.log(np.maximum(counts, 1)) / math.log(common)
    )
    return values


class _Scorer:
    """Decides which texts the hits in documents amount to."""

    def __init__(
        self,
        settings: DecontaminateRecipe,
        index: EvaluationIndex,
        weights: NDArray[np.float64],
    ) -> None:
        self._index = index
        self._weights = weights
        self._coverage = settings.coverage
        self._least_words = np.minimum(settings.least_words, index.words)
        lengths = np.diff(index.starts)
        text = np.repeat(np.arange(len(lengths)), lengths)
        place = np.arange(len(text)) - index.starts[text]
        order = np.argsort(index.text_runs, kind="stable")
        self._texts, self._places = text[order], place[order]
        self._first = np.searchsorted(index.text_runs[order], np.arange(len(index.runs) + 1))
        self._totals = np.add.reduceat(weights[index.text_runs], index.starts[:-1])

    def matches(self, domain: int, hits: _Hits) -> Iterator[Match]:
        """Yield the texts that documents hold."""
        rare = self._weights[hits.runs] > 0
        rows, runs, spots = hits.rows[rare], hits.runs[rare], hits.places[rare]
        counts = self._first[runs + 1] - self._first[runs]
        hit = np.repeat(np.arange(len(runs)), counts)
        if not len(hit):
            return
        begin = np.repeat(np.cumsum(counts) - counts, counts)
        posting = self._first[runs[hit]] + np.arange(len(hit)) - begin
        text, place = self._texts[posting], self._places[posting]
        order = np.lexsort((place, text, rows[hit]))
        hit, text, place = hit[order], text[order], place[order]
        row = rows[hit]
        is_first = np.append(True, (np.diff(row) != 0) | (np.diff(text) != 0))
        starts = np.flatnonzero(is_first)
        stops = np.append(starts[1:], len(hit))
        ngram = self._index.ngram
        gap = np.append(np.diff(place), ngram)
        gap[stops - 1] = ngram
        words = np.add.reduceat(np.minimum(gap, ngram), starts)
        weight = np.add.reduceat(self._weights[runs[hit]], starts)
        share = weight / self._totals[text[starts]]
        is_match = (share >= self._coverage) & (words >= self._least_words[text[starts]])
        for group in np.flatnonzero(is_match):
            members = slice(starts[group], stops[group])
            number = int(text[starts[group]])
            yield Match(
                domain=domain,
                row=int(row[starts[group]]),
                text=number,
                coverage=min(1.0, float(share[group])),
                words=int(words[group]),
                document_span=_densest(spots[hit[members]], int(self._index.words[number])),
                text_span=(int(place[members].min()), int(place[members].max())),
            )


def _densest(places: NDArray[np.int64], gap: int) -> tuple[int, int]:
    """Return first and last of the largest group of places that no wider gap divides."""
    ranked = np.unique(places)
    pieces = np.split(ranked, np.flatnonzero(np.diff(ranked) > gap) + 1)
    largest = max(pieces, key=len)
    return int(largest[0]), int(largest[-1])


def write_spans(request: ContaminationRequest, matches: Sequence[Match], path: Path) -> None:
    """Write the list of what matches, with the texts to look at; its columns are `SPANS`.

    Args:
        request: The domains and sets.
        matches: The matches, as `find_contaminated` returns them.
        path: The Parquet file.
    """
    index, decoder = request.index, shared_decoder(request.tokenizer)
    with pq.ParquetWriter(path, SPANS) as writer:
        for start in range(0, len(matches), 1000):
            part = matches[start : start + 1000]
            texts = [index.texts[match.text] for match in part]
            homes = [request.domains[match.domain] for match in part]
            spans = []
            for domain, match in zip(homes, part, strict=True):
                (document,) = document_texts(domain, np.array([match.row]), decoder)
                spans.append(_cut(fold(document), match.document_span, index.ngram))
            columns_of: dict[str, arrow.Values] = {
                "set": [text.set_name for text in texts],
                "item": np.array([text.item for text in texts]),
                "column": [text.column for text in texts],
                "domain": [domain.name for domain in homes],
                "content": [
                    domain.content_hash(match.row)
                    for domain, match in zip(homes, part, strict=True)
                ],
                "coverage": np.array([match.coverage for match in part]),
                "words": np.array([match.words for match in part]),
                "text_words": index.words[[match.text for match in part]],
                "span": spans,
                "text": [
                    _cut(text.folded, match.text_span, index.ngram)
                    for text, match in zip(texts, part, strict=True)
                ],
            }
            writer.write_table(arrow.table(columns_of, SPANS))


def _cut(folded: str, span: tuple[int, int], ngram: int) -> str:
    """Return the words of a text from a run to another, on one line."""
    ends = split_words([folded]).ends
    start = int(ends[span[0] - 1]) if span[0] else 0
    stop = int(ends[min(span[1] + ngram, len(ends)) - 1])
    words = " ".join(folded[start:stop].split())
    return words if len(words) <= SHOWN_CHARACTERS else f"{words[:SHOWN_CHARACTERS]}…"


def write_details(request: ContaminationRequest, matches: Sequence[Match], path: Path) -> None:
    """Write a Parquet file with `domain` and `row`, numbers, and `detail`, the best match of each.

    Args:
        request: The domains and sets.
        matches: The matches.
        path: The file.
    """
    best: dict[tuple[int, int], Match] = {}
    for match in matches:
        key = match.domain, match.row
        if key not in best or match.coverage > best[key].coverage:
            best[key] = match
    details = []
    for match in best.values():
        text = request.index.texts[match.text]
        details.append(
            f"{text.set_name} item {text.item} '{text.column}': {match.words} of "
            f"{request.index.words[match.text]} words"
        )
    table = arrow.table(
        {
            "domain": np.array([domain for domain, _ in best], np.int32),
            "row": np.array([row for _, row in best], np.int64),
            "detail": details,
        }
    )
    pq.write_table(table, path)


def describe(request: ContaminationRequest, matches: Sequence[Match]) -> Iterator[str]:
    """Say for each set what was found, and show its least certain match.

    Args:
        request: The domains and sets.
        matches: The matches.
    """
    index = request.index
    done = "removed" if request.settings.action == "remove" else "reported only"
    for name, items in index.items.items():
        of_set = [match for match in matches if index.texts[match.text].set_name == name]
        documents = {(match.domain, match.row) for match in of_set}
        held = {index.texts[match.text].item for match in of_set}
        names = list_first(sorted({request.domains[domain].name for domain, _ in documents}))
        line = f"decontaminate: {name}: {len(held):,} of {counted(items, 'item')} in "
        line += counted(len(documents), "document") + (f" of {names} ({done})" if names else "")
        short = items - index.searched[name]
        if short:
            line += f"; {short:,} have fewer than {index.ngram} words and were not looked for"
        yield line
        if of_set:
            least = min(of_set, key=lambda match: (match.coverage, match.domain, match.row))
            domain, text = request.domains[least.domain], index.texts[least.text]
            span = _cut(text.folded, least.text_span, index.ngram)
            span = span if len(span) <= NOTICE_CHARACTERS else f"{span[:NOTICE_CHARACTERS]}…"
            yield (
                f"decontaminate: {name}: least certain is item {text.item}, {least.coverage:.0%} "
                f"in {domain.content_hash(least.row)} of '{domain.name}': '{span}'"
            )
