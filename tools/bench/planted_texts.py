"""Texts with planted copies: documents at known similarities, and evaluation items beside traps."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

LICENCE = """Permission is hereby granted, free of charge, to any person obtaining a copy of this
software and associated documentation files (the "Software"), to deal in the Software without
restriction, including without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the
Software is furnished to do so, subject to the following conditions: The above copyright notice and
this permission notice shall be included in all copies or substantial portions of the Software."""

BOILERPLATE = """from __future__ import annotations
import argparse, json, logging, os, sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple
logger = logging.getLogger(__name__)
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, required=True, help="input file")
    parser.add_argument("--verbose", action="store_true", help="print more")
    args = parser.parse_args()
    logging.basicConfig(level=logging.DEBUG if args.verbose else logging.INFO)
if __name__ == "__main__":
    sys.exit(main())
"""

QUOTATIONS = (
    "four score and seven years ago our fathers brought forth on this continent a new nation "
    "conceived in liberty and dedicated to the proposition that all men are created equal",
    "it was the best of times it was the worst of times it was the age of wisdom it was the age of "
    "foolishness it was the epoch of belief it was the epoch of incredulity",
    "we hold these truths to be self evident that all men are created equal that they are endowed "
    "by their creator with certain unalienable rights that among these are life liberty and the "
    "pursuit of happiness",
)

TEMPLATE = "Which of the following statements best describes the relationship between"

VERBATIM = ("whole", "partial", "casing")
"""Kinds that hold a span of an item word for word."""

CONTAMINATED = (*VERBATIM, "numbers")

TRAPS = ("licence", "quotation", "boilerplate", "template", "question alone", "background")


@dataclass
class PlantedCorpus:
    """Documents by kind, and evaluation sets."""

    documents: dict[str, list[str]] = field(default_factory=dict)
    """Kind → documents; those of `CONTAMINATED` hold an item."""
    sets: dict[str, list[dict[str, str]]] = field(default_factory=dict)


class Writer:
    """Makes up text of words whose frequencies fall as those of a language do."""

    def __init__(self, seed: int, vocabulary: int = 30_000) -> None:
        """Make up a vocabulary."""
        self.rng = np.random.default_rng(seed)
        letters = np.array(list("etaoinshrdlcumwfgypbvk"))
        lengths = self.rng.integers(2, 9, vocabulary)
        self._words = np.array(["".join(self.rng.choice(letters, n)) for n in lengths])
        share = 1 / (np.arange(vocabulary) + 3.0)
        self._stops = np.cumsum(share / share.sum())

    def words(self, count: int) -> list[str]:
        """Draw words."""
        places = np.searchsorted(self._stops, self.rng.random(count))
        return [str(word) for word in self._words[np.minimum(places, len(self._words) - 1)]]

    def text(self, count: int) -> str:
        """Write words as sentences."""
        words = self.words(count)
        for start in range(0, count, 12):
            words[start] = words[start].capitalize()
            words[min(start + 11, count - 1)] += "."
        return " ".join(words)

    def between(self, text: str, count: int = 150) -> str:
        """Put a text into the middle of another."""
        return f"{self.text(count)}\n\n{text}\n\n{self.text(count)}"


def planted_corpus(seed: int, items: int = 200, background: int = 4000) -> PlantedCorpus:
    """Plant items of three evaluation sets in documents, beside traps.

    Args:
        seed: Of all that is made up.
        items: Items of each set; a quarter of them is planted, in each way in turn.
        background: Documents that share nothing with the sets but by chance.
    """
    writer = Writer(seed)
    rng = writer.rng
    problems, passages, code = [], [], []
    for number in range(items):
        amounts = rng.integers(2, 900, 3)
        start, middle, end = (writer.text(int(rng.integers(8, 16))) for _ in range(3))
        problems.append(
            f"{start} {amounts[0]} {middle} for {amounts[1]} {end} How many of {amounts[2]}?"
        )
        quotation = QUOTATIONS[number % len(QUOTATIONS)] if number % 4 == 0 else ""
        passages.append(f"{writer.text(60)} {quotation} {writer.text(50)}")
        head = f"# {LICENCE}\n" if number % 3 == 0 else ""
        body = "\n".join(
            f"    {' = '.join(writer.words(2))}({', '.join(writer.words(3))})" for _ in range(12)
        )
        code.append(f"{head}{BOILERPLATE}def {'_'.join(writer.words(2))}():\n{body}\n")
    made = PlantedCorpus(
        sets={
            "problems": [{"id": f"p{n}", "question": text} for n, text in enumerate(problems)],
            "passages": [
                {"passage": text, "question": f"{TEMPLATE} {writer.text(6)}?"} for text in passages
            ],
            "code": [{"prompt": text} for text in code],
        }
    )
    texts = [text for n in range(0, items, 4) for text in (problems[n], passages[n], code[n])]
    made.documents = {
        "whole": [writer.between(text) for text in texts],
        "partial": [writer.between(_part(rng, text)) for text in texts],
        "casing": [writer.between(_retyped(text)) for text in texts],
        "numbers": [writer.between(_renumbered(rng, text)) for text in problems[1::4]],
        "licence": [f"{LICENCE}\n\n{writer.text(200)}" for _ in range(background // 20)],
        "quotation": [writer.between(f"“{QUOTATIONS[n % len(QUOTATIONS)]}”") for n in range(60)],
        "boilerplate": [f"{BOILERPLATE}\n{writer.text(200)}" for _ in range(background // 20)],
        "template": [writer.between(f"{TEMPLATE} {writer.text(8)}?") for _ in range(100)],
        "question alone": [writer.between(" ".join(text.split()[:7])) for text in problems[2::4]],
        "background": [writer.text(300) for _ in range(background)],
    }
    return made


def _part(rng: np.random.Generator, text: str) -> str:
    """Take 70 to 90 % of a text's words that follow each other, its end included.

    The end, since what is rare in code with a header is there.
    """
    words = text.split(" ")
    return " ".join(words[int(len(words) * rng.uniform(0.1, 0.3)) :])


def _retyped(text: str) -> str:
    """Change case, white space and punctuation."""
    return "  ".join(word.strip(".,?").upper() for word in text.split()) + " …"


def _renumbered(rng: np.random.Generator, text: str) -> str:
    return " ".join(
        str(rng.integers(1000, 9000)) if word.strip("?.").isdigit() else word
        for word in text.split()
    )
