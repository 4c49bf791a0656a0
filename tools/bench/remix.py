"""Writing new mixtures of a token store, against plain writing of as many bytes.

    python tools/bench/remix.py [--input DIR --tokenizer tokenizer.json] [--tokens 100e6]
        [--formats megatron,npy] [--rounds 3]

The store is filled once. Then every round builds a mixture never built before, once a format;
before and after, one process writes as many bytes from memory to one plain file. What is compared
is the stage `write` of a build alone: its shards and their provenance, not planning before or
verification after. Neither waits for the disk, so both are writes to the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import inputs
from plain import plain_write, shown

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from curate.pipeline.build import BuiltDataset, build  # noqa: E402
from curate.recipe import LoadedRecipe, parse  # noqa: E402
from curate.runtime.progress import Observer  # noqa: E402
from curate.runtime.workers import default_workers  # noqa: E402

SEQUENCE_TOKENS = 2048
SMOKE_TOKENS = 200_000
MOST_EPOCHS = 10_000.0


class StageClock(Observer):
    """Wall seconds of each stage of a build."""

    def __init__(self) -> None:
        """Nothing has run yet."""
        self.seconds: dict[str, float] = {}
        self._stage = ""
        self._start = 0.0

    def begin(self, stage: str, names: Sequence[str] = (), totals: Sequence[int] = ()) -> None:
        """Note the time."""
        self._stage, self._start = stage, time.perf_counter()

    def end(self, summary: str = "") -> None:
        """Add up the stage's time."""
        taken = time.perf_counter() - self._start
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + taken


@dataclass
class Result:
    """MB/s of one format, a figure a round."""

    token_bytes: int
    """Bytes of the training tokens, which all rates count."""
    written_mb: float = 0.0
    write: list[float] = field(default_factory=list)
    ratio: list[float] = field(default_factory=list)
    """To plain writing in the same round."""
    whole: list[float] = field(default_factory=list)
    """MB/s of the whole build: plan, write, verify."""


def main() -> None:
    options = _options()
    work = options.work.resolve()
    directory = inputs.prepare(inputs.from_options(options), work / "inputs")
    described = json.loads((directory / "input.json").read_text())
    budget_tokens = SMOKE_TOKENS if options.smoke else int(options.tokens)
    rounds = 1 if options.smoke else options.rounds
    formats = options.formats.split(",")
    first = _recipe(directory, described, budget_tokens, formats[0], seed=0)
    built = _build(first, work, options.workers, StageClock())  # fills the store and compiles
    token_bytes = budget_tokens * built.tokenized.tokenizer.dtype.itemsize
    results = {name: Result(token_bytes) for name in formats}
    plain: list[float] = []
    for number in range(rounds):
        for name in formats:
            recipe = _recipe(directory, described, budget_tokens, name, seed=number + 1)
            _measure(recipe, work, options.workers, results[name], plain)
    print(_table(results, plain, budget_tokens, described, rounds))
    if options.json is not None:
        value = {name: vars(result) for name, result in results.items()}
        options.json.write_text(json.dumps({"plain": plain, **value}, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Writing new mixtures of a token store.")
    inputs.add_options(parser)
    parser.add_argument("--tokens", type=float, default=100e6, help="of a mixture")
    parser.add_argument("--formats", default="megatron,npy", help="comma-separated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--work", type=Path, default=Path("bench-work"), help="scratch directory")
    parser.add_argument("--json", type=Path, help="write every figure there")
    return parser.parse_args()


def _recipe(
    directory: Path, described: dict[str, Any], budget_tokens: int, name: str, seed: int
) -> str:
    """A recipe with weights of its own for every seed."""
    draw = random.Random(seed)
    domains = [
        {
            "name": domain,
            "paths": [str(directory / "full" / "jsonl" / domain / "*")],
            "weight": draw.uniform(0.2, 1.0),
            "max_epochs": MOST_EPOCHS,
        }
        for domain in described["full"]["domains"]
    ]
    path = str(directory / "tokenizer" / "tokenizer.json")
    recipe = {
        "name": f"remix-{name}-{seed}",
        "tokenizer": {"path": path, "eos": described["eos"]},
        "domains": domains,
        "mixture": {"method": "manual"},
        "budget_tokens": budget_tokens,
        "seed": seed,
        "cache": "store",
        "output": {"format": name, "dir": f"built-{name}"},
    }
    if name == "npy":
        recipe["sequence_length"] = SEQUENCE_TOKENS
    return json.dumps(recipe)  # JSON is YAML


def _build(text: str, work: Path, workers: int, clock: StageClock) -> BuiltDataset:
    loaded: LoadedRecipe = parse(text, work)
    shutil.rmtree(loaded.output_dir, ignore_errors=True)
    os.sync()  # so that nothing written before is paid for here
    return build(loaded, workers, clock)


def _measure(text: str, work: Path, workers: int, result: Result, plain: list[float]) -> None:
    """One build between two plain writes."""
    token_bytes = result.token_bytes
    clock = StageClock()
    before_seconds = plain_write(work, token_bytes)
    start = time.perf_counter()
    built = _build(text, work, workers, clock)
    whole_seconds = time.perf_counter() - start
    if not built.certificate["ok"] or built.reused:
        raise SystemExit(f"remix: {text}: {built.certificate['problems'] or 'was built before'}")
    written = sum(path.stat().st_size for path in built.directory.rglob("*") if path.is_file())
    shutil.rmtree(built.directory)
    after_seconds = plain_write(work, token_bytes)
    rate = token_bytes / 1e6 / clock.seconds["write"]
    reference = token_bytes / 1e6 / statistics.mean([before_seconds, after_seconds])
    plain.append(reference)
    result.written_mb = written / 1e6
    result.write.append(rate)
    result.ratio.append(rate / reference)
    result.whole.append(token_bytes / 1e6 / whole_seconds)


def _table(
    results: dict[str, Result],
    plain: list[float],
    budget_tokens: int,
    described: dict[str, Any],
    rounds: int,
) -> str:
    text_mb = described["full"]["text_bytes"] / 1e6
    lines = [
        f"{budget_tokens / 1e6:.1f}M tokens a mixture from {text_mb:.0f} MB of text "
        f"({described['source']}), {rounds} rounds: median (least-most), MB of training tokens "
        "a second",
        f"plain writing: {shown(plain, 0)} MB/s",
        "",
        "| format | MB on disk | stage write MB/s | of plain writing | whole build MB/s |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {result.written_mb:.0f} | {shown(result.write, 0)} | "
        f"{shown(result.ratio, 2)} | {shown(result.whole, 0)} |"
        for name, result in results.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
