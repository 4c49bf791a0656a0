"""Show the beginnings of some documents of a dataset, decoded from its own shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.dataset.manifest import Manifest, ShardOnDisk, read_provenance
from curate.errors import ShardError
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
    for shard in sorted(manifest.shards, key=lambda shard: shard.split == "train"):
        if all(len(texts) >= count for texts in samples.values()):
            break
        pieces = read_provenance(directory / shard.provenance.path, shard, manifest)
        on_disk = ShardOnDisk(directory, manifest, shard, pieces)
        texts = (
            _texts(on_disk, output_format)
            if isinstance(output_format, TextFormat)
            else _token_texts(on_disk, output_format)
        )
        for domain, text in texts:
            if len(samples[domain]) < count:
                samples[domain].append(text[:SAMPLE_LETTERS])
    return {name: texts for name, texts in samples.items() if texts}


def _texts(shard: ShardOnDisk, output_format: TextFormat) -> Iterator[tuple[str, str]]:
    """Yield the first documents of a shard of text, each with its domain."""
    batch = next(output_format.read(shard.directory / shard.record.stem), None)
    if batch is not None:
        for piece, text in zip(shard.pieces, batch.texts, strict=False):
            yield shard.manifest.domains[int(piece["domain"])], text


def _token_texts(shard: ShardOnDisk, output_format: TokenFormat) -> Iterator[tuple[str, str]]:
    """Yield the documents that begin early in a shard of tokens, a few for each domain."""
    manifest, pieces = shard.manifest, shard.pieces
    record = manifest.tokenizer
    tokenizer = tokenizers.load(shard.directory / "tokenizer.json", record.eos)
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
    stem, dtype = shard.directory / shard.record.stem, np.dtype(manifest.dtype)
    tokens = stored_tokens(output_format, stem, dtype, (0, stop))
    for place in places:
        begin = int(starts[place])
        length = min(int(pieces["tokens"][place]), SAMPLE_TOKENS)
        ids = tokens[begin : begin + length].astype(np.uint32)
        text = reference.decode(ids if record.eos_id is None else ids[ids != record.eos_id])
        yield manifest.domains[int(pieces["domain"][place])], text


def stored_tokens(
    output_format: TokenFormat, stem: Path, dtype: np.dtype[Any], span: tuple[int, int]
) -> NDArray[Any]:
    """Return tokens of a shard, as its file holds them; nothing behind them is read.

    Args:
        output_format: Format of the shard.
        stem: Path of the shard without suffix.
        dtype: Type of a token on disk.
        span: First token, and the one after the last.

    Raises:
        ShardError: The shard is too short.
    """
    begin, end = span
    parts, position = [], 0
    for batch in output_format.read(stem, dtype):
        stop = position + len(batch.tokens)
        if stop > begin:
            parts.append(batch.tokens[max(0, begin - position) : end - position])
        position = stop
        if position >= end:
            break
    if position < end:
        raise ShardError(f"{stem}: ends after {position} tokens; run curate verify")
    return np.concatenate(parts) if parts else np.empty(0, dtype)
