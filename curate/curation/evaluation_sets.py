"""Read evaluation sets, and index the runs of words in their texts.

Each text of an item is looked for on its own, so that a question is found without its passage.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curate.curation.words import fold, hash_shingles, split_words
from curate.errors import InputError, RecipeError
from curate.recipe.structs import DecontaminateRecipe, EvaluationSet
from curate.runtime.compiled import kernel
from curate.runtime.files import hash_bytes, open_input
from curate.runtime.machine import fault_or
from curate.runtime.registry import list_first
from curate.runtime.sealed import Notice
from curate.sources.decompress.open import StreamFile, open_stream
from curate.sources.decompress.stream import StreamDamage
from curate.sources.discover import matching_files
from curate.sources.plans import PARQUET_MAGIC

FILTER_BITS, FILL = 16, 4
"""Bits of the filter, and places of the table, for each run of words."""

NO_NUMBER = re.compile("NaN|Infinity")
"""Values that some writers of JSON give, and that JSON does not have."""


@dataclass(frozen=True)
class EvaluationText:
    """A text of an item."""

    set_name: str
    item: int
    """Record of the set, 1 is the first."""
    column: str
    folded: str


@dataclass(frozen=True)
class EvaluationIndex:
    """Runs of words of all texts that have enough words."""

    texts: tuple[EvaluationText, ...]
    items: dict[str, int]
    """Items of each set."""
    searched: dict[str, int]
    """Items of each set with a text that has enough words."""
    runs: NDArray[np.uint64]
    """shape (runs,), hashes of the distinct runs of words, ascending."""
    starts: NDArray[np.int64]
    """shape (texts + 1,), where the runs of each text begin in `text_runs`."""
    text_runs: NDArray[np.int64]
    """shape (places,), number of each run of each text, in the text's order."""
    words: NDArray[np.int64]
    """shape (texts,), words of each text."""
    ngram: int

    @property
    def key(self) -> str:
        """Hash of all that decides which runs a document holds."""
        return hash_bytes(self.runs.tobytes(), str(self.ngram).encode())


def read_index(
    settings: DecontaminateRecipe, files: Mapping[str, Sequence[str]]
) -> EvaluationIndex:
    """Read all sets of a recipe.

    Args:
        settings: The section of the recipe.
        files: The files of each set, as `set_files` finds them.

    Raises:
        CurateError: A file cannot be read, or lacks a column that the recipe names.
    """
    texts: list[EvaluationText] = []
    items: dict[str, int] = {}
    for name, evaluation in settings.sets.items():
        items[name] = 0
        for path in files[name]:
            for number, record in _records(path):
                items[name] += 1
                for column, text in _texts(record, as_set(evaluation), (name, path, number)):
                    texts.append(EvaluationText(name, items[name], column, fold(text)))
        if not items[name]:
            raise InputError(
                f"decontaminate.sets.{name}: no record in {list_first([*files[name]])}; name the "
                "files of the set, or leave it out"
            )
    words = split_words([text.folded for text in texts])
    counts = np.diff(words.stops)
    hashes, stops = hash_shingles(words, settings.ngram)
    long_enough = np.flatnonzero(counts >= settings.ngram)
    pieces = [hashes[stops[number] : stops[number + 1]] for number in long_enough]
    joined = np.concatenate([np.empty(0, np.uint64), *pieces])
    runs, text_runs = np.unique(joined, return_inverse=True)
    starts = np.zeros(len(pieces) + 1, np.int64)
    np.cumsum([len(piece) for piece in pieces], out=starts[1:])
    kept = tuple(texts[number] for number in long_enough.tolist())
    searched = {
        name: len({text.item for text in kept if text.set_name == name}) for name in settings.sets
    }
    return EvaluationIndex(
        texts=kept,
        items=items,
        searched=searched,
        runs=runs,
        starts=starts,
        text_runs=text_runs.astype(np.int64),
        words=counts[long_enough],
        ngram=settings.ngram,
    )


def as_set(evaluation: str | EvaluationSet) -> EvaluationSet:
    """Return a set, which a recipe may give by its path alone."""
    return EvaluationSet(path=evaluation) if isinstance(evaluation, str) else evaluation


def set_files(
    name: str, evaluation: str | EvaluationSet, places: tuple[Path, Path], notice: Notice
) -> list[str]:
    """Return the files of a set: local paths, or URLs that name a commit.

    Args:
        name: Its name.
        evaluation: Its entry in the recipe.
        places: The recipe's directory and the cache.
        notice: Called with a line if a revision on the Hub has moved since the last run.

    Raises:
        RecipeError: There is none.
        InputError: The Hub has no such dataset, or cannot be reached.
    """
    where = f"decontaminate.sets.{name}"
    listed = as_set(evaluation)
    if listed.hf is not None and listed.path is None:
        from curate.sources.hub import find_hub_files

        try:
            files = find_hub_files(
                listed.hf, "auto", places, lambda line: notice(f"{where}.hf: {line}")
            )
        except InputError as error:
            raise InputError(f"{where}.hf: {error}") from error
        return [file.path for file in files]
    if listed.path is None or listed.hf is not None:
        raise RecipeError(f"{where}: needs exactly one of path and hf")
    pattern = str(places[0] / Path(listed.path).expanduser())
    paths = matching_files(pattern)
    if not paths:
        raise RecipeError(
            f"{where}: {pattern} is no file; name a file of JSON Lines or Parquet, or a pattern "
            "of them"
        )
    return paths


def _records(path: str) -> Iterator[tuple[int, Any]]:
    """Yield the records of a file, each with its line or row, 1 is the first."""
    try:
        with open_input(path) as file:
            if file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC:
                file.seek(0)
                batches = pq.ParquetFile(file).iter_batches()
                yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
                return
            size_bytes = file.seek(0, io.SEEK_END)
        with io.BufferedReader(StreamFile(open_stream(path, size_bytes))) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, _parse(line, f"{path}:{number}")
    except (StreamDamage, pa.ArrowException, ValueError, OverflowError, OSError) as error:
        # A ValueError also of text that is not UTF-8; an OverflowError of a date beyond Python's.
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        unreadable = InputError(
            f"{path}: cannot be read as an evaluation set ({reason}); it must be JSON Lines or "
            "Parquet"
        )
        raise fault_or(unreadable, error, path) from error


def _parse(line: bytes, where: str) -> Any:
    """Parse a line of JSON.

    Raises:
        InputError: It is no JSON; names the line and the column.
    """
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        number = NO_NUMBER.match(line.decode("utf-8", "replace"), error.pos)
        reason = error.msg if number is None else f"{number[0]} is not JSON, write null"
        raise InputError(
            f"{where}: cannot be read as an evaluation set ({reason}, column {error.colno}); it "
            "must be JSON Lines or Parquet"
        ) from error


def _texts(
    record: Any, evaluation: EvaluationSet, where: tuple[str, str, int]
) -> Iterator[tuple[str, str]]:
    """Yield the texts of a record, each with its column."""
    name, path, number = where
    if not isinstance(record, Mapping):
        raise InputError(f"{path}:{number}: is no record; each line must be an object of JSON")
    listed = evaluation.text
    columns = list(record) if listed is None else [listed] if isinstance(listed, str) else listed
    for column in columns:
        value: Any = record
        for key in [column] if column in record else column.split("."):
            if not isinstance(value, Mapping) or key not in value:
                raise InputError(
                    f"decontaminate.sets.{name}.text: {path}:{number} has no '{column}'; it has "
                    f"{list_first([str(key) for key in record])}"
                )
            value = value[key]
        text = "\n".join(_strings(value))
        if text:
            yield column, text


def _strings(value: Any) -> Iterator[str]:
    """Yield all texts in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for item in value:
            yield from _strings(item)


@dataclass(frozen=True)
class ShingleTable:
    """Hash table that says which runs of words are in the index."""

    keys: NDArray[np.uint64]
    numbers: NDArray[np.int64]
    """Number of each run; -1 for a free place."""
    bits: NDArray[np.uint8]
    """A filter small enough for the processor's caches: a bit is set for each run."""

    @classmethod
    def of(cls, runs: NDArray[np.uint64]) -> ShingleTable:
        """Make the table of distinct runs."""
        places = 1 << (len(runs) * FILL).bit_length()
        filter_bytes = max(1, (1 << (len(runs) * FILTER_BITS).bit_length()) // 8)
        table = cls(
            np.zeros(places, np.uint64),
            np.full(places, -1, np.int64),
            np.zeros(filter_bytes, np.uint8),
        )
        keys = table.keys.view(np.int64)
        _fill(runs.view(np.int64), len(runs), keys, table.numbers, places - 1, table.bits,
              filter_bytes - 1)  # fmt: skip
        return table

    def hits(self, shingles: NDArray[np.uint64], stops: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the runs of documents that are in the index.

        Args:
            shingles: Runs of the documents, as `hash_shingles` returns them.
            stops: shape (documents + 1,).

        Returns:
            shape (hits, 3): document, number of the run, and its place in the document.
        """
        rows = np.empty((len(shingles) + 1, 3), np.int64)
        count = _probe(
            shingles.view(np.int64), stops, len(stops) - 1, self.keys.view(np.int64), self.numbers,
            len(self.keys) - 1, self.bits, len(self.bits) - 1, rows.reshape(-1),
        )  # fmt: skip
        return rows[:count].copy()


@kernel
def _fill(runs, count, keys, numbers, place_mask, bits, byte_mask):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    """Enter each run at the first free place from the one that its hash names."""
    for number in range(count):
        run = runs[number]
        place = run & place_mask
        while numbers[place] >= 0:
            place = (place + 1) & place_mask
        keys[place] = run
        numbers[place] = number
        mixed = run >> 24
        bits[mixed & byte_mask] |= 1 << ((run >> 21) & 7)
    return 0


@kernel
def _probe(shingles, stops, documents, keys, numbers, place_mask, bits, byte_mask, rows):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    """Write document, run and place of each run that is in the table; return how many there are."""
    hits = 0
    for document in range(documents):
        for position in range(stops[document], stops[document + 1]):
            run = shingles[position]
            mixed = run >> 24
            if (bits[mixed & byte_mask] >> ((run >> 21) & 7)) & 1:
                place = run & place_mask
                while numbers[place] >= 0:
                    if keys[place] == run:
                        rows[3 * hits] = document
                        rows[3 * hits + 1] = numbers[place]
                        rows[3 * hits + 2] = position - stops[document]
                        hits += 1
                        break
                    place = (place + 1) & place_mask
    return hits
