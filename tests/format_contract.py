"""What holds for every output format, ours or another package's; each check takes a directory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate.errors import ShardError
from curate.formats import FORMATS, TextBatch, TextFormat, TokenBatch, TokenFormat

HIGHEST_ID = 50_256
ALPHABET = list("abc xyz é漢🙂\"'\\/\n\r\t\0\u2028\u0085{}[],:")


@dataclass(frozen=True)
class Case:
    """A format with the kind of batches it takes, so that one test body serves all."""

    format: TokenFormat | TextFormat

    @property
    def dtype(self) -> np.dtype[Any]:
        assert isinstance(self.format, TokenFormat)
        return self.format.dtype_for(HIGHEST_ID)

    def write(self, stem: Path, batches: Iterable[Any]) -> list[Path]:
        if isinstance(self.format, TokenFormat):
            return self.format.write(stem, batches, self.dtype)
        return self.format.write(stem, batches)

    def read(self, stem: Path) -> Iterator[Any]:
        if isinstance(self.format, TokenFormat):
            return self.format.read(stem, self.dtype)
        return self.format.read(stem)

    def batch(self, rng: np.random.Generator, lengths: list[int]) -> Any:
        """A random batch of sequences or documents of the given lengths (tokens, characters)."""
        if isinstance(self.format, TokenFormat):
            tokens = rng.integers(0, HIGHEST_ID + 1, sum(lengths)).astype(self.dtype)
            return TokenBatch(tokens, np.array(lengths, np.int64))
        texts = ["".join(rng.choice(ALPHABET, length)) for length in lengths]
        serials = rng.integers(0, 10**9, len(lengths))
        return TextBatch(
            texts,
            [f"id-{serial}" for serial in serials],
            [("wiki", "code é")[serial % 2] for serial in serials],
            ["{}" if serial % 3 else f'{{"n":{serial},"x":["é",1.50]}}' for serial in serials],
        )

    def content(self, batches: Iterable[Any]) -> Any:
        """Everything that must survive the round trip, in a comparable form."""
        if isinstance(self.format, TextFormat):
            return [
                row
                for batch in batches
                for row in zip(batch.texts, batch.ids, batch.domains, batch.metadata, strict=True)
            ]
        kept = list(batches)
        tokens = [token for batch in kept for token in batch.tokens.tolist()]
        lengths = [length for batch in kept for length in batch.lengths.tolist()]
        assert sum(lengths) == len(tokens)
        return (tokens, lengths) if self.format.keeps_documents else tokens

    def content_sum(self, batches: Iterable[Any]) -> int:
        if isinstance(self.format, TokenFormat):
            return sum(int(batch.tokens.sum(dtype=np.int64)) for batch in batches)
        return sum(len(text) for batch in batches for text in batch.texts)


def some_batches(case: Case, seed: int = 0) -> list[Any]:
    """About 60 short sequences in a dozen batches, one of them empty."""
    rng = np.random.default_rng(seed)
    return [case.batch(rng, rng.integers(1, 40, most).tolist()) for most in (1, 7, 0, *range(9))]


def written_bytes(paths: list[Path]) -> list[bytes]:
    return [path.read_bytes() for path in paths]


def damaged(case: Case, stem: Path) -> str:
    """The message of the error that reading raises; fails if it raises none."""
    with pytest.raises(ShardError) as caught:
        list(case.read(stem))
    message = str(caught.value)
    assert str(stem) in message
    return message


def round_trip_of_random_batches(case: Case, directory: Path) -> None:
    for seed in range(8):
        batches = some_batches(case, seed)
        stem = directory / f"shard-v1.{seed}"
        paths = case.write(stem, batches)
        assert [path.name.startswith(stem.name + ".") for path in paths] == [True] * len(paths)
        assert all(path.is_file() for path in paths)
        assert case.content(case.read(stem)) == case.content(batches)


def round_trip_of_a_single_sequence_of_length_one(case: Case, directory: Path) -> None:
    batches = [case.batch(np.random.default_rng(1), [1])]
    case.write(directory / "one", batches)
    assert case.content(case.read(directory / "one")) == case.content(batches)


def a_stream_without_sequences_gives_a_shard_without_sequences(case: Case, directory: Path) -> None:
    for count in (0, 2):
        case.write(directory / "none", [case.batch(np.random.default_rng(0), [])] * count)
        assert list(case.read(directory / "none")) == []


def file_bytes_do_not_depend_on_the_run_or_on_batching(case: Case, directory: Path) -> None:
    lengths = np.random.default_rng(5).integers(1, 60, 90).tolist()
    whole = case.batch(np.random.default_rng(6), lengths)
    first = written_bytes(case.write(directory / "a" / "shard", [whole]))
    assert written_bytes(case.write(directory / "b" / "shard", [whole])) == first
    singly = [
        TextBatch([text], [identifier], [domain], [metadata])
        if isinstance(whole, TextBatch)
        else TokenBatch(text, identifier)
        for text, identifier, domain, metadata in pieces(whole)
    ]
    assert written_bytes(case.write(directory / "c" / "shard", singly)) == first


def pieces(batch: Any) -> list[tuple[Any, Any, Any, Any]]:
    if isinstance(batch, TextBatch):
        return list(zip(batch.texts, batch.ids, batch.domains, batch.metadata, strict=True))
    cuts = np.split(batch.tokens, np.cumsum(batch.lengths)[:-1])
    return [(cut, np.array([cut.size]), None, None) for cut in cuts]


def a_stream_that_raises_leaves_what_was_there(case: Case, directory: Path) -> None:
    def breaking() -> Iterator[Any]:
        yield from some_batches(case, 2)
        raise KeyboardInterrupt

    for _ in ("nothing", "an earlier shard"):
        before = {path.name: path.read_bytes() for path in directory.iterdir()}
        with pytest.raises(KeyboardInterrupt):
            case.write(directory / "shard", breaking())
        assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
        case.write(directory / "shard", some_batches(case, 1))


def writing_again_replaces_the_shard(case: Case, directory: Path) -> None:
    case.write(directory / "shard", some_batches(case, 1))
    case.write(directory / "shard", some_batches(case, 2))
    assert case.content(case.read(directory / "shard")) == case.content(some_batches(case, 2))


def a_file_cut_anywhere_is_found(case: Case, directory: Path) -> None:
    stem = directory / "shard"
    for path in case.write(stem, some_batches(case)):
        whole = path.read_bytes()
        size = len(whole)
        random_cuts = np.random.default_rng(3).integers(0, size, 20).tolist()
        for cut in {0, 1, 8, 34, 128, size // 2, size - 8, size - 4, size - 1, *random_cuts}:
            if cut < size:
                path.write_bytes(whole[:cut])
                damaged(case, stem)
        path.write_bytes(whole)
    assert case.content(case.read(stem)) == case.content(some_batches(case))


def bytes_after_the_end_are_found(case: Case, directory: Path) -> None:
    stem = directory / "shard"
    for path in case.write(stem, some_batches(case)):
        whole = path.read_bytes()
        for extra in (b"\0", b"\0" * 8, b"PAR2"):
            path.write_bytes(whole + extra)
            damaged(case, stem)
        path.write_bytes(whole)


def an_absent_file_is_named(case: Case, directory: Path) -> None:
    for path in case.write(directory / "shard", some_batches(case)):
        whole = path.read_bytes()
        path.unlink()
        assert f"{path}: cannot be opened (No such file" in damaged(case, directory / "shard")
        path.write_bytes(whole)


CONTRACT = (
    round_trip_of_random_batches,
    round_trip_of_a_single_sequence_of_length_one,
    a_stream_without_sequences_gives_a_shard_without_sequences,
    file_bytes_do_not_depend_on_the_run_or_on_batching,
    a_stream_that_raises_leaves_what_was_there,
    writing_again_replaces_the_shard,
    a_file_cut_anywhere_is_found,
    bytes_after_the_end_are_found,
    an_absent_file_is_named,
)
"""Every check, by name."""


def describes_itself(name: str) -> None:
    row = FORMATS[name]
    assert row.name == name
    assert row.summary and row.trainers
    assert "/some/shard" in row.snippet.format(path="/some/shard")
