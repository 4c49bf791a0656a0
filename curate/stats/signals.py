"""Signals of a domain besides entropy: compression, duplicates, growth of types, bits per byte.

All are measured on samples of stated size, documents in keyed order, so domains are comparable.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import zstandard
from numpy.typing import NDArray
from tokenizers import Tokenizer as ReferenceTokenizer

from curate.runtime.memory import blocks, take
from curate.stats.bigram_sample import (
    EXCERPT_TOKENS,
    FEWEST_EXCERPTS,
    PairSample,
    excerpts,
    keyed_documents,
    text_numbers,
)
from curate.stats.copies import repeated_documents
from curate.stats.estimate import student_t
from curate.tokens.domain import DomainTokens
from curate.tokens.tokenizer import Tokenizer

COMPRESSION_LEVEL = 9
WINDOW_LOG2 = 20
FRAME_BYTES = 1 << 18
"""Bytes of a frame. Each is compressed by itself, so every domain has the same context to exploit,
and the interval comes from the spread of frames."""

LONGEST_TOKENS = 1 << 14
"""Most tokens of a document that are compressed, so that a few books do not make up the sample."""


@dataclass(frozen=True, slots=True)
class Compression:
    """Compression of text; a ratio of 3 means 3 bytes of text in 1 compressed byte."""

    ratio: float
    low: float | None
    high: float | None
    """95 % interval of the ratio from the spread of frames; None for a single frame."""
    bits_per_byte: float
    codec: str
    """Codec, level, window and frame."""
    sample_bytes: int


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Documents whose text already occurred, as a number and as shares of the whole domain."""

    documents: int
    document_share: float
    token_share: float


def sample_texts(
    domain: DomainTokens, tokenizer: Tokenizer, sample_bytes: int, seed: int
) -> list[bytes]:
    """Decode documents in keyed order until there are enough bytes of text.

    Text is decoded from tokens, so a tokenizer that normalises yields normalised text. Only the
    first `LONGEST_TOKENS` of a document are used.

    Args:
        domain: The domain to sample.
        tokenizer: Tokenizer of the store.
        sample_bytes: Approximate bytes of UTF-8 text; the last document is not cut to hit it.
        seed: Seed of the recipe.
    """
    most = FEWEST_EXCERPTS
    while True:
        order = keyed_documents(domain, seed, most)
        share = np.minimum(1.0, LONGEST_TOKENS / np.maximum(take(domain.tokens, order), 1))
        reached = np.cumsum(take(domain.text_bytes, order) * share)
        if len(order) < most or reached[-1] >= sample_bytes:
            break
        most *= 4
    taken = int(np.searchsorted(reached, sample_bytes)) + 1
    ended = int(tokenizer.eos_id is not None)
    stored = [domain.document(int(number)) for number in order[:taken]]
    tokens = [ids[: min(len(ids) - ended, LONGEST_TOKENS)].tolist() for ids in stored]
    return _texts(tokenizer, tokens)


def excerpt_texts(
    domain: DomainTokens, tokenizer: Tokenizer, most: int, seed: int
) -> tuple[list[bytes], NDArray[np.int64]]:
    """Decode excerpts in keyed order.

    Args:
        domain: The domain to sample.
        tokenizer: Tokenizer of the store.
        most: Largest number of excerpts.
        seed: Seed of the recipe.

    Returns:
        UTF-8 texts, and the number of the document text that each is from, shape (excerpts,).
    """
    ended = int(tokenizer.eos_id is not None)
    document, start = excerpts(domain, ended, seed, most)
    stop = np.minimum(start + EXCERPT_TOKENS, take(domain.tokens, document) - ended)
    tokens = [
        domain.document(int(number))[begin:end].tolist()
        for number, begin, end in zip(document, start, stop, strict=True)
    ]
    return _texts(tokenizer, tokens), text_numbers(domain, document)


def _texts(tokenizer: Tokenizer, tokens: list[list[int]]) -> list[bytes]:
    texts = _reference(tokenizer.definition).decode_batch(tokens, skip_special_tokens=False)
    return [text.encode() for text in texts]


@functools.lru_cache(maxsize=1)  # loading takes 0.16 s, and each domain has two such samples
def _reference(definition: str) -> ReferenceTokenizer:
    return ReferenceTokenizer.from_str(definition)


def compression(texts: Sequence[bytes]) -> Compression:
    """Compress texts, joined by newlines, in frames of `FRAME_BYTES`.

    The ratio is bytes over compressed bytes of all whole frames; its interval treats frames as the
    sample of a ratio estimate.

    Raises:
        ValueError: There is no text.
    """
    joined = b"\n".join(texts)
    if not joined:
        raise ValueError("expected at least one byte of text")
    parameters = zstandard.ZstdCompressionParameters.from_level(
        COMPRESSION_LEVEL, window_log=WINDOW_LOG2, write_content_size=False
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    frames = max(1, len(joined) // FRAME_BYTES)
    raw = [joined[start * FRAME_BYTES : (start + 1) * FRAME_BYTES] for start in range(frames)]
    raw_bytes = np.array([len(frame) for frame in raw], np.float64)
    packed_bytes = np.array([len(compressor.compress(frame)) for frame in raw], np.float64)
    share = float(packed_bytes.sum() / raw_bytes.sum())
    low = high = None
    if frames > 1:
        left = packed_bytes - share * raw_bytes
        error = math.sqrt(float((left**2).sum()) * frames / (frames - 1)) / float(raw_bytes.sum())
        half = student_t(frames - 1) * error
        low, high = 1 / (share + half), 1 / max(share - half, 1e-9)
    codec = f"zstd level {COMPRESSION_LEVEL}, window {1 << WINDOW_LOG2}, frame {FRAME_BYTES} bytes"
    return Compression(
        ratio=1 / share, low=low, high=high, bits_per_byte=8 * share, codec=codec,
        sample_bytes=int(raw_bytes.sum()),
    )  # fmt: skip


def duplicates(domain: DomainTokens) -> Duplicates:
    """Count exact copies: documents beyond the first of each text."""
    if not len(domain):
        return Duplicates(0, 0.0, 0.0)
    documents = tokens = 0
    for rows in blocks(len(domain)):
        copy = repeated_documents(domain, rows)
        documents += int(np.count_nonzero(copy))
        tokens += int(domain.tokens[rows][copy].sum())
    return Duplicates(documents, documents / len(domain), tokens / max(1, domain.total_tokens))


def type_token_curve(sample: PairSample, halvings: int = 8) -> list[tuple[int, int]]:
    """Count the distinct tokens of ever larger parts of a sample.

    Args:
        sample: Sampled tokens.
        halvings: Number of times that the sample is halved for the smallest part.

    Returns:
        Pairs of tokens and distinct tokens, smallest part first.
    """
    token = sample.first[sample.pair]
    first_seen = np.full(sample.symbols, sample.tokens, np.int64)
    np.minimum.at(first_seen, token, np.arange(sample.tokens))
    sizes = sorted({sample.tokens >> halving for halving in range(halvings + 1)} - {0})
    return [(size, int((first_seen < size).sum())) for size in sizes]


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """Convert an entropy to bits per byte of text, which are comparable between tokenizers.

    Raises:
        ValueError: Bytes per token are not positive.

    Example:
        >>> round(bits_per_byte(nats_per_token=4 * math.log(2), bytes_per_token=4.0), 6)
        1.0
    """
    if not bytes_per_token > 0:
        raise ValueError(f"expected positive bytes per token, got {bytes_per_token}")
    return nats_per_token / math.log(2) / bytes_per_token
