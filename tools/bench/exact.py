"""Compare a fast tokenizer's ids with the reference's on every document, or a share of them.

    python tools/bench/exact.py --input DIR --share 0.1 tokenizer.json [tokenizer.json …]

Documents are chosen by content hash. The reference makes 2 to 4 MB/s a core, so the whole of a
large corpus takes long; the share looked at is printed. Exit code 1 if any document differs.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import xxhash

from curate.sources import SegmentReader, expand, identify, segments
from curate.sources.records import ReadOptions
from curate.tokens import tokenizer as tokenizers
from curate.tokens.backends import BACKENDS, ReferenceEncoder


def documents(directory: Path, cache: Path, share: float) -> list[str]:
    options = ReadOptions()
    files = identify(expand([str(directory)], options, Path.cwd()), cache)
    kept: list[str] = []
    with closing(SegmentReader()) as reader:
        for plan in segments(files, options):
            segment, ended = 0, False
            while not ended and (plan.count is None or segment < plan.count):
                for block in reader.read(plan.segment(segment)):
                    ended = block.end_of_file
                    kept += [text for text in block.texts if _chosen(text, share)]
                segment += 1
    return kept


def _chosen(text: str, share: float) -> bool:
    return xxhash.xxh3_64_intdigest(text.encode()) < share * 2.0**64


def differing(path: Path, backend: str, texts: list[str]) -> tuple[int, int]:
    tokenizer = tokenizers.load(path, None)
    fast, reference = BACKENDS[backend](tokenizer), ReferenceEncoder(tokenizer)
    different = tokens = 0
    for start in range(0, len(texts), 64):
        batch = texts[start : start + 64]
        ids, offsets = reference.encode(batch)
        got_ids, got_offsets = fast.encode(batch)
        tokens += len(ids)
        for number in range(len(batch)):
            expected = ids[offsets[number] : offsets[number + 1]]
            got = got_ids[got_offsets[number] : got_offsets[number + 1]]
            different += not np.array_equal(expected, got)
    return different, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--backend", default="fastokens", choices=sorted(BACKENDS))
    parser.add_argument("--cache", type=Path, default=Path("bench-work"))
    parser.add_argument("tokenizers", type=Path, nargs="+")
    options = parser.parse_args()
    texts = documents(options.input, options.cache, options.share)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts):,} documents, {megabytes:.1f} MB, share {options.share}")
    print("| tokenizer | tokens | documents that differ |\n|---|---|---|")
    failed = False
    for path in options.tokenizers:
        different, tokens = differing(path, options.backend, texts)
        failed |= different > 0
        print(f"| {path.parent.name} | {tokens:,} | {different} |", flush=True)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
