"""Writing token ids in every binary format, against plain writing of as many bytes.

    python tools/bench/formats.py [--tokens 100e6] [--document-tokens 600] [--rounds 3]

Documents of lognormal length hold Zipf-distributed ids of a 50k vocabulary; a few batches, made
beforehand, are written again and again, so that only the format is timed: its bytes, its index, and
what it puts over the folder. One process, one shard; both sides write to the page cache. Every
round writes plainly before and after each format, and ratios are taken within the round. Rates are
also given by CPU seconds, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from plain import plain_write, shown

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from curate.formats import FORMATS, Settings, TokenBatch, TokenFormat, configure  # noqa: E402
from curate.formats.base import DatasetFolder  # noqa: E402

VOCABULARY = 50_257
EOS = 0
BATCH_TOKENS = 4_000_000
BATCHES = 4
SMOKE_TOKENS = 400_000


def main() -> None:
    options = _options()
    tokens = SMOKE_TOKENS if options.smoke else int(options.tokens)
    names = [name for name, form in FORMATS.items() if isinstance(form, TokenFormat)]
    pool = _pool(options.document_tokens, min(tokens, BATCH_TOKENS))
    options.work.mkdir(parents=True, exist_ok=True)
    rates: dict[str, list[float]] = {name: [] for name in names}
    cpu_rates: dict[str, list[float]] = {name: [] for name in names}
    ratios: dict[str, list[float]] = {name: [] for name in names}
    sizes: dict[str, int] = {}
    plain: list[float] = []
    for _ in range(1 if options.smoke else options.rounds):
        for name in names:
            before = plain_write(options.work, 2 * tokens)
            seconds, cpu_seconds, sizes[name], written = _write(name, pool, tokens, options.work)
            after = plain_write(options.work, 2 * tokens)
            plain.append(2 * written / 1e6 / statistics.mean([before, after]))
            rates[name].append(2 * written / 1e6 / seconds)
            cpu_rates[name].append(2 * written / 1e6 / cpu_seconds)
            ratios[name].append(rates[name][-1] / plain[-1])
    print(f"{tokens / 1e6:.0f}M tokens of 2 bytes, documents of about {options.document_tokens}")
    print(f"plain writing: {shown(plain, 0)} MB/s\n")
    print("| format | MB on disk | MB/s | MB/s of CPU | of plain writing |\n|---|---|---|---|---|")
    for name in names:
        row = f"{sizes[name] / 1e6:.0f} | "
        row += f"{shown(rates[name], 0)} | {shown(cpu_rates[name], 0)} | {shown(ratios[name], 2)}"
        print(f"| {name} | {row} |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Writing every binary format.")
    parser.add_argument("--tokens", type=float, default=100e6)
    parser.add_argument("--document-tokens", type=int, default=600, help="median")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("bench-work"), help="scratch directory")
    parser.add_argument("--smoke", action="store_true", help="a small run, to see that it works")
    return parser.parse_args()


def _pool(document_tokens: int, batch_tokens: int) -> list[TokenBatch]:
    """A few batches of whole documents, each ending with the end token."""
    rng = np.random.default_rng(0)
    pool = []
    for _ in range(BATCHES):
        lengths: Any = rng.lognormal(np.log(document_tokens), 1.0, batch_tokens // document_tokens)
        lengths = np.maximum(2, lengths).astype(np.int64)
        lengths = lengths[: max(1, int(np.searchsorted(np.cumsum(lengths), batch_tokens)))]
        tokens = np.minimum(rng.zipf(1.2, int(lengths.sum())), VOCABULARY - 1).astype(np.uint16)
        tokens[np.cumsum(lengths) - 1] = EOS
        pool.append(TokenBatch(tokens, lengths))
    return pool


def _batches(pool: list[TokenBatch], tokens: int) -> Iterator[TokenBatch]:
    """The pool over and over, until that many tokens."""
    number = 0
    while tokens > 0:
        yield pool[number % len(pool)]
        tokens -= pool[number % len(pool)].tokens.size
        number += 1


def _write(
    name: str, pool: list[TokenBatch], tokens: int, work: Path
) -> tuple[float, float, int, int]:
    """Seconds and CPU seconds to write a shard and its folder, bytes on disk, and tokens."""
    form = configure(name, Settings(eos_id=EOS, vocabulary=VOCABULARY))
    assert isinstance(form, TokenFormat)
    directory = work / "formats"
    shutil.rmtree(directory, ignore_errors=True)
    dtype = form.dtype_for(VOCABULARY - 1)
    stem = directory / "train" / "shard-00000"
    stem.parent.mkdir(parents=True)
    os.sync()
    start, start_cpu = time.perf_counter(), time.process_time()
    files = form.write(stem, _batches(pool, tokens), dtype)
    if form.finish is not None:
        files += form.finish(DatasetFolder(directory, {"train": [stem], "validation": []}, dtype))
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    size_bytes = sum(path.stat().st_size for path in files)
    written = sum(batch.tokens.size for batch in _batches(pool, tokens))
    shutil.rmtree(directory)
    return seconds, cpu_seconds, size_bytes, written


if __name__ == "__main__":
    main()
