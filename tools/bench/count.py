"""CPU time a token and peak memory of bigram counting.

    python tools/bench/count.py [--tokens FILE.npy --end ID] [--count 50e6]
    python tools/bench/count.py --synthetic 1e9 [--memory-mb 256]

Real text is a `.npy` of ids in which every document ends with END, or by default the embedded
corpus, tokenised and repeated until there is enough of it (repetition adds no new bigrams, so a
file with enough tokens says more). Synthetic text is drawn while it is counted: unigrams follow
Zipf, and the next id is the k-th favourite successor of the current one with k from a power law,
tuned so that distinct bigrams grow as in GPT-2 ids of mixed text: 0.92M in 10M tokens, 3.21M in
100M. Counting runs in a fresh process; the time counted is that of counting alone, once compiled.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import measure

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT_TOKENS = 700
VOCABULARY = 50_000
STREAM_TOKENS = 8 << 20
"""Tokens handed to the counter at once, as the tokenising pipeline does."""

SUCCESSOR_EXPONENT = 1.45
"""k-th favourite successor with probability ~ k^-1.45; gives the growth named above."""

QUANTILES = 1 << 20
SMOKE_TOKENS = 300_000
CORPUS_MEGABYTES = 60.0


@dataclass(frozen=True)
class Streams:
    """Token ids to count, in pieces of whole documents."""

    end: int
    symbols: int
    pieces: Iterator[Any]


def main() -> None:
    options = _options()
    if options.prepare is not None:
        _save_corpus_ids(options)
        return
    if options.child:
        print(json.dumps(count(options)))
        return
    if options.tokens is None and options.synthetic is None:
        options.tokens = options.work / ("smoke-ids.npy" if options.smoke else "corpus-ids.npy")
        if not options.tokens.exists():
            _run(options, "--prepare", str(options.tokens.absolute()))
    usage = _run(options, "--child")
    result = json.loads(usage.output.strip().splitlines()[-1])
    result["peak_mb"] = usage.peak_bytes / 1e6
    print(
        f"{result['tokens'] / 1e6:.1f}M tokens of {result['source']}: "
        f"{result['cpu_ns_token']:.1f} ns of CPU a token "
        f"({result['add_ns_token']:.1f} adding, the rest finishing), "
        f"{result['distinct'] / 1e6:.2f}M distinct bigrams, {result['spills']} spills, "
        f"peak {result['peak_mb']:.0f} MB (limit {result['memory_mb']} MB of tables; "
        f"{result['before_mb']:.0f} MB before counting)"
    )
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Bigram counting: CPU and memory.")
    parser.add_argument("--tokens", type=Path, help=".npy of ids")
    parser.add_argument("--end", type=int, help="id that ends documents; default: the last id")
    parser.add_argument("--count", type=float, default=50e6, help="tokens to count")
    parser.add_argument("--synthetic", type=float, help="count so many drawn tokens instead")
    parser.add_argument("--memory-mb", type=int, default=256, help="limit of the counter")
    parser.add_argument("--work", type=Path, default=Path("bench-work"), help="scratch directory")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--smoke", action="store_true", help="little: does it run at all?")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(options: argparse.Namespace, *more: str) -> measure.Usage:
    """This script again, in a process of its own that runs in another directory."""
    command = [sys.executable, str(Path(__file__).resolve()), *more]
    for name in ("tokens", "end", "count", "synthetic", "memory_mb", "work"):
        value = getattr(options, name)
        if value is not None:
            shown = value.absolute() if isinstance(value, Path) else value
            command += [f"--{name.replace('_', '-')}", str(shown)]
    if options.smoke:
        command.append("--smoke")
    with tempfile.TemporaryDirectory(prefix="bench-count-") as directory:
        return measure.run(
            command, directory=Path(directory), environment={"PYTHONPATH": str(ROOT)}
        )


def count(options: argparse.Namespace) -> dict[str, Any]:
    """Count in this process; figures without the peak, which the parent reads."""
    import resource

    import numpy as np

    from curate.tokens.counting import BigramCounter

    source, streams = _streams(options)
    with tempfile.TemporaryDirectory(prefix="bench-count-") as directory:
        _compile(streams, Path(directory))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        spill = Path(directory) / "spill"
        spill.mkdir()
        limit_bytes = options.memory_mb << 20
        counter = BigramCounter(streams.end, streams.symbols, limit_bytes, spill)
        tokens = 0
        adding_seconds = 0.0
        for piece in streams.pieces:
            start = time.process_time()
            counter.add(piece)
            adding_seconds += time.process_time() - start
            tokens += len(piece)
            del piece  # or it lives on while the next one is made
        spills = len(counter.runs)
        start = time.process_time()
        counter.finish(Path(directory) / "total")
        finish_seconds = time.process_time() - start
        distinct = int(np.fromfile(Path(directory) / "total" / "row_starts.bin", np.int64)[-1])
    return {
        "source": source,
        "tokens": tokens,
        "symbols": streams.symbols,
        "distinct": distinct,
        "spills": spills,
        "cpu_ns_token": (adding_seconds + finish_seconds) / tokens * 1e9,
        "add_ns_token": adding_seconds / tokens * 1e9,
        "memory_mb": options.memory_mb,
        "before_mb": before * measure.PEAK_UNIT_BYTES / 1e6,
    }


def _compile(streams: Streams, directory: Path) -> None:
    """Count a few tokens twice, so that counting and merging are compiled for this id type."""
    import numpy as np

    from curate.tokens.counting import count_stream

    dtype = np.uint16 if streams.symbols <= 1 << 16 else np.uint32
    table = count_stream(np.array([1, 2, streams.end], dtype), streams.end, streams.symbols)
    assert (table + table).tokens == 4


def _streams(options: argparse.Namespace) -> tuple[str, Streams]:
    if options.synthetic:
        total = SMOKE_TOKENS if options.smoke else int(options.synthetic)
        return "synthetic text", Streams(0, VOCABULARY + 1, synthetic(total))
    total = SMOKE_TOKENS if options.smoke else int(options.count)
    stored = _TokenFile.open(options.tokens)
    end = stored.last() if options.end is None else options.end
    return str(options.tokens), Streams(end, stored.symbols(), _repeated(stored, end, total))


@dataclass(frozen=True)
class _TokenFile:
    """Ids in a `.npy` file, read rather than mapped: mapped pages would count as memory."""

    path: Path
    dtype: Any
    offset_bytes: int
    count_tokens: int

    @classmethod
    def open(cls, path: Path) -> _TokenFile:
        import numpy as np

        mapped = np.load(path, mmap_mode="r")
        return cls(path, mapped.dtype, mapped.offset, len(mapped))

    def read(self, start: int, count_tokens: int) -> Any:
        import numpy as np

        offset = self.offset_bytes + start * self.dtype.itemsize
        return np.fromfile(self.path, self.dtype, count_tokens, offset=offset)

    def last(self) -> int:
        return int(self.read(self.count_tokens - 1, 1)[0])

    def symbols(self) -> int:
        """One more than the highest id."""
        starts = range(0, self.count_tokens, STREAM_TOKENS)
        return 1 + max(int(self.read(start, STREAM_TOKENS).max()) for start in starts)


def _repeated(stored: _TokenFile, end: int, total: int) -> Iterator[Any]:
    """Pieces of whole documents, from the start again where there are not enough."""
    taken = start = 0
    while taken < total:
        piece = stored.read(start, min(STREAM_TOKENS, total - taken))
        start += len(piece)
        if start >= stored.count_tokens:
            start = 0
        piece[-1] = end  # a document is cut at the end of a piece, not carried over
        taken += len(piece)
        yield piece


def _save_corpus_ids(options: argparse.Namespace) -> None:
    """Save ids of the embedded corpus by a tokenizer trained on it, documents ended."""
    import inputs
    import numpy as np
    import tokenizers

    request = inputs.Request(None, CORPUS_MEGABYTES, 1.0, None, inputs.EOS)
    if options.smoke:
        request = replace(request, megabytes=1.0, vocabulary=1000)
    prepared = inputs.prepare(request, options.work / "inputs")
    tokenizer = tokenizers.Tokenizer.from_file(str(prepared / "tokenizer" / "tokenizer.json"))
    end = tokenizer.token_to_id(inputs.EOS)
    texts = list(inputs.read_texts([prepared / "full" / "all.jsonl"]))
    pieces = []
    for start in range(0, len(texts), 256):
        for encoding in tokenizer.encode_batch_fast(texts[start : start + 256]):
            pieces.append(np.array([*encoding.ids, end], np.uint16))
    with options.prepare.open("wb") as file:
        np.save(file, np.concatenate(pieces))


def synthetic(total: int, seed: int = 1) -> Iterator[Any]:
    """Drawn ids in pieces; 0 ends a document every `DOCUMENT_TOKENS` or so."""
    import numba
    import numpy as np

    probability = 1 / np.arange(1, VOCABULARY + 1)
    stops = np.cumsum(probability / probability.sum())
    quantiles = (np.searchsorted(stops, np.arange(QUANTILES) / QUANTILES) + 1).astype(np.uint16)
    ranks = np.arange(1, 1 << 16, dtype=np.float64) ** -SUCCESSOR_EXPONENT
    rank_stops = np.cumsum(ranks / ranks.sum())
    rank_quantiles = np.searchsorted(rank_stops, np.arange(QUANTILES) / QUANTILES) + 1
    rank_quantiles = rank_quantiles.astype(np.uint32)
    document_quantum = (1 << 32) // DOCUMENT_TOKENS

    @numba.njit
    def draw(out, state, quantiles, rank_quantiles, document_quantum):  # type: ignore[no-untyped-def]
        current = np.uint64(0)
        for position in range(len(out)):
            state ^= state << np.uint64(13)  # xorshift64
            state ^= state >> np.uint64(7)
            state ^= state << np.uint64(17)
            if (state & np.uint64(0xFFFFFFFF)) < document_quantum:
                current = np.uint64(0)
            else:
                rank = np.uint64(rank_quantiles[state >> np.uint64(44)])
                mixed = (current * np.uint64(0x9E3779B97F4A7C15)) ^ (
                    rank * np.uint64(0xC2B2AE3D27D4EB4F)
                )
                mixed ^= mixed >> np.uint64(29)
                mixed *= np.uint64(0xBF58476D1CE4E5B9)
                current = np.uint64(quantiles[mixed >> np.uint64(44)])
            out[position] = current
        out[-1] = 0
        return state

    state = np.uint64(0x2545F4914F6CDD1D) + np.uint64(seed)
    taken = 0
    while taken < total:
        piece = np.empty(min(STREAM_TOKENS, total - taken), np.uint16)
        state = draw(piece, np.uint64(state), quantiles, rank_quantiles, document_quantum)
        taken += len(piece)
        yield piece


if __name__ == "__main__":
    main()
