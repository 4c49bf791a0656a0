"""Compare every document in a token store with its source: place, id, hash, and decoded text.

    python tools/bench/roundtrip.py recipe.yaml [--share 1.0]

The recipe's domains are tokenised if they are not in the store yet. Then its files are read again,
and each document is looked for in the store: it must be there once for each time it is in the
files, under the line it came from and with its id, and its tokens must decode to its text. Exit
code 1 if any document is missing, misplaced, left over or different.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import tokenizers
import xxhash

from curate.pipeline.tokenize import TokenizedDomains, tokenize_domains
from curate.recipe import load
from curate.runtime.progress import Observer
from curate.runtime.workers import default_workers
from curate.sources import FilePlan, SegmentReader
from curate.tokens.domain import DomainTokens

DECODED_AT_ONCE = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="of documents that are decoded")
    options = parser.parse_args()
    tokenized = tokenize_domains(load(options.recipe), default_workers(), Observer())
    print("| domain | documents | in the files | misplaced | decoded | differ |")
    print("|---|---|---|---|---|---|")
    failed = False
    for number in range(len(tokenized.domains)):
        row = compare(tokenized, number, options.share)
        failed |= row[0] != row[1] or row[2] > 0 or row[4] > 0
        shown = " | ".join(f"{value:,}" for value in row)
        print(f"| {tokenized.domains[number].name} | {shown} |", flush=True)
    sys.exit(int(failed))


def compare(
    tokenized: TokenizedDomains, number: int, share: float
) -> tuple[int, int, int, int, int]:
    """Documents in the store and in the files, misplaced ones; decoded ones and those differing."""
    domain = tokenized.domains[number]
    reference = tokenizers.Tokenizer.from_str(tokenized.tokenizer.definition)
    files, lines = domain.locate(np.arange(len(domain)))
    places = {
        (int(file), int(line)): position
        for position, (file, line) in enumerate(zip(files, lines, strict=True))
    }
    read_back = misplaced = decoded = different = 0
    waiting: list[tuple[int, str]] = []
    for file, line, text, name in documents(tokenized.plans[number], domain):
        read_back += 1
        position = places.pop((file, line), None)
        digest = xxhash.xxh3_128_digest(text.encode())
        identity = xxhash.xxh3_64_intdigest(name.encode())
        if position is None or (
            domain.content_hash(position) != digest.hex()
            or int(domain.identity[position]) != identity
        ):
            misplaced += 1
            continue
        if int.from_bytes(digest[:8], "big") < share * 2.0**64:
            waiting.append((position, text))
        if len(waiting) == DECODED_AT_ONCE:
            decoded, different = (
                decoded + len(waiting),
                different + _differ(waiting, domain, reference),
            )
            waiting = []
    decoded, different = decoded + len(waiting), different + _differ(waiting, domain, reference)
    return len(domain), read_back, misplaced + len(places), decoded, different


def documents(
    plans: tuple[FilePlan, ...], domain: DomainTokens
) -> Iterator[tuple[int, int, str, str]]:
    """File, line, text and id of every document in a domain's files."""
    numbers = {file.path: number for number, file in enumerate(domain.files)}
    with closing(SegmentReader()) as reader:
        for plan in plans:
            segment, ended, lines = 0, False, 0
            while not ended and (plan.count is None or segment < plan.count):
                read = 0
                for block in reader.read(plan.segment(segment)):
                    ended, read = block.end_of_file, read + block.lines_read
                    columns = zip(block.files, block.lines, block.texts, block.ids, strict=True)
                    for file, line, text, name in columns:
                        yield numbers[plan.files[file].path], lines + line, text, name
                lines += read
                segment += 1


def _differ(
    waiting: list[tuple[int, str]], domain: DomainTokens, reference: tokenizers.Tokenizer
) -> int:
    """Return those of some documents whose tokens do not decode to their text and one end token."""
    ids = [domain.document(position)[:-1].tolist() for position, _ in waiting]
    texts = reference.decode_batch(ids, skip_special_tokens=False)
    return sum(text != wanted for text, (_, wanted) in zip(texts, waiting, strict=True))


if __name__ == "__main__":
    main()
