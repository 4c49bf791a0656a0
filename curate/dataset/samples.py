"""Show the beginnings of some documents of a dataset, decoded from its own shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.dataset.manifest import Manifest, ShardRecord, read_provenance
from curate.formats.base import TextFormat, TokenFormat
from curate.tokens import tokenizer as tokenizers
from curate.tokens.backends import ReferenceEncoder

SAMPLE_TOKENS = 200
"""Most tokens of a document that are decoded."""
SAMPLE_LETTERS = 600
"""Most letters of a document that are returned."""
MOST_READ_TOKENS = 1 << 22
"""Tokens of a shard within which samples are taken, so that no large shard is read to its end."""


def sample_documents(directory: Path, manifest: Manifest, count: int) -> dict[str, list[str]]:
    """Take the first documents of every domain, held-out ones before those to train on.

    Args:
        directory: Directory of the dataset.
        manifest: Its manifest.
        count: Most documents of a domain.

    Returns:
        Beginnings of documents by domain; fewer, or none, where the first shards have no more.

    Raises:
        CurateError: A shard or the tokenizer is damaged.
    """
    samples: dict[str, list[str]] = {name: [] for name in manifest.domains}
    output_format = manifest.configured()
    reads = _texts if isinstance(output_format, TextFormat) else _token_texts
    for shard in sorted(manifest.shards, key=lambda shard: shard.split == "train"):
        if all(len(texts) >= count for texts in samples.values()):
            break
        pieces = read_provenance(directory / shard.provenance.path, shard, manifest)
        for domain, text in reads(directory, manifest, shard, pieces):
            if len(samples[domain]) < count:
                samples[domain].append(text[:SAMPLE_LETTERS])
    return {name: texts for name, texts in samples.items() if texts}


def _texts(
    directory: Path, manifest: Manifest, shard: ShardRecord, pieces: NDArray[Any]
) -> Iterator[tuple[str, str]]:
    """Yield the first documents of a shard of text, each with its domain."""
    output_format = manifest.configured()
    assert isinstance(output_format, TextFormat)
    batch = next(output_format.read(directory / shard.stem), None)
    if batch is not None:
        for piece, text in zip(pieces, batch.texts, strict=False):
            yield manifest.domains[int(piece["domain"])], text


def _token_texts(
    directory: Path, manifest: Manifest, shard: ShardRecord, pieces: NDArray[Any]
) -> Iterator[tuple[str, str]]:
    """Yield the documents that begin early in a shard of tokens, a few for each domain."""
    output_format = manifest.configured()
    assert isinstance(output_format, TokenFormat)
    record = manifest.tokenizer
    tokenizer = tokenizers.load(directory / "tokenizer.json", record.eos)
    reference = ReferenceEncoder(tokenizer)
    starts = np.cumsum(pieces["tokens"]) - pieces["tokens"]
    is_first = (pieces["start"] == 0) & (pieces["domain"] < len(manifest.domains))
    is_first &= starts < MOST_READ_TOKENS
    places = [
        int(place)
        for number in np.unique(pieces["domain"][is_first])
        for place in np.flatnonzero(is_first & (pieces["domain"] == number))[:4]
    ]
    if not places:
        return
    stop = int(max(starts[place] + pieces["tokens"][place] for place in places))
    tokens = _first_tokens(directory / shard.stem, output_format, manifest, stop)
    for place in places:
        begin = int(starts[place])
        length = min(int(pieces["tokens"][place]), SAMPLE_TOKENS)
        ids = tokens[begin : begin + length].astype(np.uint32)
        text = reference.decode(ids if record.eos_id is None else ids[ids != record.eos_id])
        yield manifest.domains[int(pieces["domain"][place])], text


def _first_tokens(
    stem: Path, output_format: TokenFormat, manifest: Manifest, stop: int
) -> NDArray[Any]:
    batches, size = [], 0
    for batch in output_format.read(stem, np.dtype(manifest.dtype)):
        batches.append(np.asarray(batch.tokens))
        size += len(batch.tokens)
        if size >= stop:
            break
    return np.concatenate(batches) if batches else np.zeros(0, np.int64)
