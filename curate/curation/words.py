"""Normalised text, its words, and hashes of runs of words.

The *normalised form* of a text is its Unicode NFKC form in lower case, with each run of white space
as one space. Its *words* are the runs of letters, marks and digits in it; characters of scripts
written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) are words of their own.
Punctuation separates words and is no part of them. A text is compared by its *shingles*, the runs
of so many words.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from curate.runtime.compiled import kernel

VERSION = f"1, Unicode {unicodedata.unidata_version}"
"""Version of words and their hashes, which is a part of the key of everything made of them."""

ALONE = (
    (0x0E00, 0x0EFF),  # Thai and Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x2FDF),  # radicals
    (0x3005, 0x3007),
    (0x3040, 0x30FF),  # Hiragana and Katakana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
"""Ranges of characters that are words of their own, where they are letters, marks or digits."""


@dataclass(frozen=True, slots=True)
class Words:
    """The words of several texts, back to back."""

    hashes: NDArray[np.int64]
    """shape (words,), a hash of each word's characters."""
    ends: NDArray[np.int64]
    """shape (words,), one past the word's last character in its folded text."""
    stops: NDArray[np.int64]
    """shape (texts + 1,), words before each text."""


def fold(text: str) -> str:
    """Return a text in NFKC and lower case, with its white space as it is."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).lower()


def normalise(text: str) -> str:
    r"""Return the normalised form of a text.

    Example:
        >>> normalise("\tＴhe  ﬁrst\nLine. ")
        'the first line.'
    """
    return " ".join(fold(text).split())


def split_words(folded: Sequence[str]) -> Words:
    """Find and hash the words of folded texts.

    Example:
        >>> words = split_words(["don't stop", "stop"])
        >>> words.stops.tolist(), bool(words.hashes[2] == words.hashes[3])
        ([0, 3, 4], True)
    """
    joined = "".join(folded)
    if joined.isascii():
        codes = np.frombuffer(joined.encode("ascii") or b"\0", np.uint8)
        classes = _classes(128)
    else:
        encoded = joined.encode("utf-32-le", "surrogatepass")
        codes = np.frombuffer(encoded, np.uint32)
        classes = _classes(sys.maxunicode + 1)
    starts = np.zeros(len(folded) + 1, np.int64)
    np.cumsum([len(text) for text in folded], out=starts[1:])
    hashes = np.empty(len(joined) + 1, np.int64)
    ends = np.empty(len(joined) + 1, np.int64)
    stops = np.zeros(len(folded) + 1, np.int64)
    words = _hash_words(codes, classes, starts, len(folded), hashes, ends, stops)
    return Words(hashes[:words], ends[:words], stops)


def hash_shingles(words: Words, length: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hash every run of `length` words; a text with fewer, but at least one, has one run of all.

    Args:
        words: Words of the texts.
        length: Words in a run, at least 1.

    Returns:
        shape (shingles,), hashes in order; and shape (texts + 1,), shingles before each text.
    """
    counts = np.diff(words.stops)
    runs = np.where(counts >= length, counts - length + 1, counts > 0)
    stops = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(runs, out=stops[1:])
    hashes = np.empty(int(stops[-1]) + 1, np.int64)
    _hash_runs(words.hashes, words.stops, len(counts), length, hashes)
    return hashes[:-1].view(np.uint64), stops


@cache
def _classes(characters: int) -> NDArray[np.uint8]:
    """Return the class of each character: 0 separates words, 1 is in a word, 2 is a word."""
    categories = [unicodedata.category(chr(code))[0] in "LMN" for code in range(characters)]
    classes = np.array(categories, np.uint8)
    for first, last in ALONE:
        classes[first : last + 1] *= 2
    return classes


@kernel
def _hash_words(codes, classes, starts, texts, hashes, ends, stops):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    """Hash each word by its characters, and return the number of words."""
    words = 0
    for text in range(texts):
        word = 0
        inside = 0
        for position in range(starts[text], starts[text + 1]):
            code = codes[position]
            kind = classes[code]
            if kind == 1:
                word = (word ^ code) * 0x2545F4914F6CDD1D
                word ^= (word >> 29) & 0x7FFFFFFFF
                inside = 1
            else:
                if inside:
                    hashes[words] = word
                    ends[words] = position - starts[text]
                    words += 1
                    word = 0
                    inside = 0
                if kind == 2:
                    hashes[words] = (code + 0x9E3779B97F4A7C) * 0x2545F4914F6CDD1D
                    ends[words] = position + 1 - starts[text]
                    words += 1
        if inside:
            hashes[words] = word
            ends[words] = starts[text + 1] - starts[text]
            words += 1
        stops[text + 1] = words
    return words


@kernel
def _hash_runs(words, stops, texts, length, hashes):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Hash each run of words, in order; see `hash_shingles`."""
    runs = 0
    for text in range(texts):
        start = stops[text]
        stop = stops[text + 1]
        if start == stop:
            continue
        last = stop - length
        if last < start:
            last = start
        for first in range(start, last + 1):
            end = first + length
            if end > stop:
                end = stop
            run = 0x51ED270B27B4F3CF
            for position in range(first, end):
                run = (run ^ words[position]) * 0x369DEA0F31A53F85
                run ^= (run >> 32) & 0xFFFFFFFF
            run *= 0x2545F4914F6CDD1D
            run ^= (run >> 31) & 0x1FFFFFFFF
            hashes[runs] = run
            runs += 1
    return runs
