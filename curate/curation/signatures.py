"""MinHash signatures of documents, and how likely bands of them find a pair of a given similarity.

Two documents are compared by the Jaccard similarity of their sets of shingles. A signature has a
number for each of bands × rows hash functions, and two signatures agree in each with probability
equal to the similarity J. A pair is a candidate if all rows of some band agree, so it is caught
with probability 1 - (1 - J^rows)^bands. Candidates are not verified, which is the practice of
datatrove, FineWeb and SlimPajama: that curve is all there is to it.

References:
    Broder 1997, "On the resemblance and containment of documents". Indyk and Motwani 1998 (bands).
    Dahlgaard et al. 2017, "Fast Similarity Sketching", arXiv:1704.04370, which `rensa` adapts.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from curate.curation.by_part import PartFacts
from curate.curation.texts import TextDecoder, part_texts
from curate.curation.words import VERSION, fold, hash_shingles, normalise, split_words
from curate.errors import EngineError
from curate.tokens.tokenizer import Tokenizer

SCHEMA = 1
"""Version of what is kept for parts."""

SEED = 1

SHOWN_SIMILARITIES = (0.5, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class Banding:
    """How signatures are cut into bands."""

    bands: int
    rows: int
    shingle_words: int

    def caught(self, similarity: float) -> float:
        """Return the probability that a pair of a Jaccard similarity is a candidate.

        Example:
            >>> round(Banding(14, 8, 5).caught(0.8), 3)
            0.924
        """
        return 1 - (1 - similarity**self.rows) ** self.bands

    def describe(self) -> str:
        """Say what is caught at a few similarities.

        Example:
            >>> Banding(14, 8, 5).describe()
            '14 bands of 8 rows catch 5%, 56%, 92%, 100% of pairs at Jaccard 0.5, 0.7, 0.8, 0.9'
        """
        shares = ", ".join(f"{self.caught(value):.0%}" for value in SHOWN_SIMILARITIES)
        values = ", ".join(map(str, SHOWN_SIMILARITIES))
        bands = f"{self.bands} bands of {self.rows} rows"
        return f"{bands} catch {shares} of pairs at Jaccard {values}"


def best_banding(threshold: float, permutations: int, shingle_words: int) -> Banding:
    """Choose the bands and rows whose curve is nearest to a step at a threshold.

    It minimises the area of the curve below the threshold plus that above the curve beyond it.

    Args:
        threshold: Jaccard similarity, between 0 and 1.
        permutations: Most numbers in a signature.
        shingle_words: Words in a shingle.

    Example:
        >>> best_banding(0.8, 128, 5)
        Banding(bands=9, rows=13, shingle_words=5)
    """
    similarity = (np.arange(1000) + 0.5) / 1000
    step = similarity >= threshold
    pairs = [
        (bands, rows)
        for rows in range(1, permutations + 1)
        for bands in range(1, permutations // rows + 1)
    ]
    errors = [np.abs(1 - (1 - similarity**rows) ** bands - step).sum() for bands, rows in pairs]
    bands, rows = pairs[int(np.argmin(errors))]
    return Banding(bands, rows, shingle_words)


def band_facts(directory: Path, tokenizer: Tokenizer, banding: Banding) -> PartFacts:
    """Return the kind of fact whose rows are a document's band hashes; 0 for one without words.

    Args:
        directory: Directory to keep them in.
        tokenizer: Of the token store.
        banding: The bands.
    """
    settings = f"bands {band_version(banding)} {tokenizer.fingerprint}"
    return PartFacts(directory, settings, partial(_part_bands, tokenizer, banding))


def band_version(banding: Banding) -> str:
    """Return all that a document's band hashes depend on but its text."""
    return f"{SCHEMA} {VERSION} {_rensa().RMinHash.ALGORITHM_VERSION} {SEED} {banding}"


def normalised_facts(directory: Path, tokenizer: Tokenizer) -> PartFacts:
    """Return the kind of fact whose rows are the two halves of a hash of the normalised text."""
    settings = f"normalised {SCHEMA} {VERSION} {tokenizer.fingerprint}"
    return PartFacts(directory, settings, partial(_part_normalised, tokenizer))


def band_hashes(texts: list[str], banding: Banding) -> NDArray[np.uint64]:
    """Return band hashes of texts: shape (texts, bands), a row of zeros for one without words."""
    words = split_words([fold(text) for text in texts])
    shingles, stops = hash_shingles(words, banding.shingle_words)
    slots = banding.bands * banding.rows
    with _one_thread():
        matrix = _rensa().RMinHash.digest_matrix_from_flat_token_hashes(
            shingles, stops.view(np.uint64), slots, SEED
        )
        digits = itertools.chain.from_iterable(matrix.to_rows())
        digest = np.fromiter(digits, np.uint64, len(texts) * slots)
    digest = digest.reshape(len(texts), banding.bands, banding.rows)
    hashes = np.full((len(texts), banding.bands), 0x9E3779B97F4A7C15, np.uint64)
    for row in range(banding.rows):
        hashes ^= digest[:, :, row]
        hashes *= np.uint64(0x2545F4914F6CDD1D)
        hashes ^= hashes >> np.uint64(32)
    hashes[np.diff(stops) == 0] = 0
    return hashes


def _part_bands(tokenizer: Tokenizer, banding: Banding, part: Path) -> NDArray[np.uint64]:
    blocks = part_texts(part, shared_decoder(tokenizer), tokenizer.dtype)
    made = [band_hashes(texts, banding) for _, texts in blocks]
    return np.concatenate([np.empty((0, banding.bands), np.uint64), *made])


def _part_normalised(tokenizer: Tokenizer, part: Path) -> NDArray[np.uint64]:
    digests = [
        xxhash.xxh3_128_digest(normalise(text).encode("utf-8", "surrogatepass"))
        for _, texts in part_texts(part, shared_decoder(tokenizer), tokenizer.dtype)
        for text in texts
    ]
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64).reshape(-1, 2)


@cache
def shared_decoder(tokenizer: Tokenizer) -> TextDecoder:
    """Make a decoder once in each process."""
    return TextDecoder(tokenizer)


@cache
def _rensa() -> Any:
    try:
        import rensa
    except ImportError as error:
        raise EngineError(
            "duplicates.near: needs the package rensa, which is not installed; "
            "install it, or leave duplicates.near out"
        ) from error
    return rensa


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep rensa from starting threads: they would be missing in a forked worker, which would hang.

    It looks at the variable once, when it is first called; other libraries must not see it.
    """
    before = os.environ.get("RAYON_NUM_THREADS")
    os.environ["RAYON_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["RAYON_NUM_THREADS"]
        else:
            os.environ["RAYON_NUM_THREADS"] = before
