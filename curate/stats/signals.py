"""Training-free signals of a domain besides entropy: compression, duplicates, type growth, bits.

All are taken on samples of stated size, documents in keyed order, so that domains compare.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import zstandard
from numpy.typing import NDArray
from tokenizers import Tokenizer as ReferenceTokenizer

from curate.stats.bigram_sample import (
    EXCERPT_TOKENS,
    PairSample,
    copies,
    excerpts,
    keyed_documents,
    text_numbers,
)
from curate.stats.estimate import student_t
from curate.tokens.domain import DomainTokens
from curate.tokens.tokenizer import Tokenizer

COMPRESSION_LEVEL = 9
WINDOW_LOG2 = 20
FRAME_BYTES = 1 << 18
"""Text is compressed in frames of so many bytes, each by itself: every domain has the same context
to exploit, and frames are the sample the interval comes from."""

LONGEST_TOKENS = 1 << 14
"""So much of a document is compressed at most, or a few books would stand for all."""


@dataclass(frozen=True, slots=True)
class Compression:
    """How well text compresses; a ratio of 3 is 3 bytes of text in one compressed."""

    ratio: float
    low: float | None
    high: float | None
    """95 % interval from the spread of frames; None below two frames."""
    bits_per_byte: float
    codec: str
    """Codec, level, window and frame."""
    sample_bytes: int


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Documents whose text already occurred; shares of the whole domain."""

    documents: int
    document_share: float
    token_share: float


def sample_texts(
    domain: DomainTokens, tokenizer: Tokenizer, sample_bytes: int, seed: int
) -> list[bytes]:
    """Texts of documents in keyed order, decoded from their tokens, until there are enough bytes.

    A tokenizer that normalises gives back normalised text. Of a long document, only the first
    `LONGEST_TOKENS` count.

    Args:
        domain: The domain.
        tokenizer: The store's.
        sample_bytes: Of UTF-8 text, about; the last document is not cut to hit the number.
        seed: The recipe's.
    """
    order = keyed_documents(domain, seed)
    share = np.minimum(1.0, LONGEST_TOKENS / np.maximum(domain.tokens[order], 1))
    reached = np.cumsum(domain.text_bytes[order] * share)
    taken = int(np.searchsorted(reached, sample_bytes)) + 1
    ended = int(tokenizer.eos_id is not None)
    stored = [domain.document(int(number)) for number in order[:taken]]
    tokens = [found[: min(len(found) - ended, LONGEST_TOKENS)].tolist() for found in stored]
    return _texts(tokenizer, tokens)


def excerpt_texts(
    domain: DomainTokens, tokenizer: Tokenizer, most: int, seed: int
) -> tuple[list[bytes], NDArray[np.int64]]:
    """Texts of excerpts in keyed order, and the number of the text that each is from."""
    ended = int(tokenizer.eos_id is not None)
    document, start = (found[:most] for found in excerpts(domain, ended, seed))
    stop = np.minimum(start + EXCERPT_TOKENS, domain.tokens[document] - ended)
    tokens = [
        domain.document(int(number))[begin:end].tolist()
        for number, begin, end in zip(document, start, stop, strict=True)
    ]
    return _texts(tokenizer, tokens), text_numbers(domain)[document]


def _texts(tokenizer: Tokenizer, tokens: list[list[int]]) -> list[bytes]:
    reference = ReferenceTokenizer.from_str(tokenizer.definition)
    return [text.encode() for text in reference.decode_batch(tokens, skip_special_tokens=False)]


def compression(texts: Sequence[bytes]) -> Compression:
    """Compression ratio of texts joined by newlines, in frames of `FRAME_BYTES`.

    The ratio is all bytes over all compressed bytes of whole frames; its interval treats frames as
    the sample of a ratio estimate.

    Raises:
        ValueError: No text.
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
    return Compression(1 / share, low, high, 8 * share, codec, int(raw_bytes.sum()))


def duplicates(domain: DomainTokens) -> Duplicates:
    """Exact copies: documents beyond the first of each text."""
    if not len(domain):
        return Duplicates(0, 0.0, 0.0)
    copy = copies(domain)
    tokens = int(domain.tokens[copy].sum())
    return Duplicates(int(copy.sum()), float(copy.mean()), tokens / max(1, domain.total_tokens))


def type_token_curve(sample: PairSample, halvings: int = 8) -> list[tuple[int, int]]:
    """Distinct tokens among the first so many, smallest part first.

    Returns:
        Pairs of tokens and types.
    """
    token = sample.first[sample.pair]
    first_seen = np.full(sample.symbols, sample.tokens, np.int64)
    np.minimum.at(first_seen, token, np.arange(sample.tokens))
    sizes = sorted({sample.tokens >> halving for halving in range(halvings + 1)} - {0})
    return [(size, int((first_seen < size).sum())) for size in sizes]


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """An entropy in bits per byte of text, which does not depend on the tokenizer's units.

    Raises:
        ValueError: Bytes per token are not positive.

    Example:
        >>> round(bits_per_byte(nats_per_token=4 * math.log(2), bytes_per_token=4.0), 6)
        1.0
    """
    if not bytes_per_token > 0:
        raise ValueError(f"expected positive bytes per token, got {bytes_per_token}")
    return nats_per_token / math.log(2) / bytes_per_token
