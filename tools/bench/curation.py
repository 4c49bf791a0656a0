"""Time of a changed threshold or split on a warm token store: CPU and wall seconds.

    python tools/bench/curation.py --input 'corpora/*.jsonl.zst' [--key quality]

Each row is one call of `curate.stats` in this process, with one worker, on the store that the first
row fills. `--smoke` makes a small corpus. The ratio is of CPU seconds to those of the first row.
"""

from __future__ import annotations

import argparse
import glob
import json
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import curate  # noqa: E402


def main() -> None:
    options = _options()
    work = (options.work / "curation").resolve()
    work.mkdir(parents=True, exist_ok=True)
    if options.smoke:
        options.input, options.key = _corpus(work / "corpus.jsonl"), "quality"
    paths = sorted(glob.glob(options.input))
    key = options.key or "bytes_per_token"
    text_bytes = 0
    steps: list[tuple[str, dict[str, Any]]] = [
        ("tokenise and count", {}),
        ("again", {}),
        ("a filter", {"where": f"{key} > {options.low}"}),
        ("again", {"where": f"{key} > {options.low}"}),
        ("another threshold", {"where": f"{key} > {options.high}"}),
        ("five quantiles", {"split": {"by": key, "quantiles": 5}}),
        ("ten quantiles", {"split": {"by": key, "quantiles": 10}}),
    ]
    first = 0.0
    print(f"| {'step':20} | cpu s | wall s | ratio | documents left |")
    print(f"|{'-' * 22}|------:|-------:|------:|---------------:|")
    for name, fields in steps:
        recipe = {
            "name": "bench",
            "base": str(work),
            "tokenizer": {"path": str(options.tokenizer.resolve()), "eos": options.eos}
            if options.tokenizer
            else {"train": {"vocab_size": 1024, "sample_bytes": 2_000_000}},
            "domains": [
                {"name": Path(path).name.partition(".")[0], "paths": path, **fields}
                for path in paths
            ],
            "budget_tokens": 1000,
        }
        began, cpu = time.monotonic(), _cpu_seconds()
        stats = curate.stats(recipe, workers=1).json["domains"]
        seconds, cpu = time.monotonic() - began, _cpu_seconds() - cpu
        first = first or cpu
        text_bytes = text_bytes or sum(row["bytes"] for row in stats.values())
        documents = sum(row["documents"] for row in stats.values())
        print(
            f"| {name:20} | {cpu:5.2f} | {seconds:6.2f} | {cpu / first:5.3f} | {documents:14,} |",
            flush=True,
        )
    print(f"\n{text_bytes / 1e6:.1f} MB of text, {len(paths)} files")


def _cpu_seconds() -> float:
    return sum(
        resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )


def _corpus(path: Path) -> str:
    """Write a small corpus with a column `quality`."""
    chance = random.Random(3)
    words = [f"word{number}" for number in range(999)]
    with path.open("w") as file:
        for number in range(2000):
            text = " ".join(chance.choices(words, k=chance.randint(5, 99)))
            row = {"id": f"id-{number}", "text": text, "quality": chance.random()}
            file.write(json.dumps(row) + "\n")
    return str(path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", default="", help="pattern of files of JSON lines")
    parser.add_argument("--key", help="a column of numbers; default: bytes_per_token")
    parser.add_argument("--low", type=float, default=0.3)
    parser.add_argument("--high", type=float, default=0.4)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--eos", default="<|endoftext|>")
    parser.add_argument("--work", type=Path, default=Path("bench-work"))
    parser.add_argument("--smoke", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
