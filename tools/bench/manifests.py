"""What the process that starts a run adds up: checks of shards, and a manifest of them.

    python tools/bench/manifests.py [--shards 1e3,1e4,1e5] [--domains 100] [--files-a-shard 10]

Results are made up, sent through pickle as workers send them, and added by the code that `verify`
uses. The manifest is written as a build writes it, and read as `verify` reads it. CPU seconds; MB
are the growth of this process's peak since the row began.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from curate.dataset.certificate import ShardCheck, Totals, certify  # noqa: E402
from curate.dataset.hashed_json import write_hashed  # noqa: E402
from curate.dataset.manifest import (  # noqa: E402
    FileRecord,
    InputRecord,
    Manifest,
    PlannedDomain,
    PlanRecord,
    ShardRecord,
    TokenizerRecord,
    load_manifest,
)

SHARD_TOKENS = 50_000_000
HASH = "0123456789abcdef" * 2


def main() -> None:
    parser = argparse.ArgumentParser(description="What a run's first process adds up.")
    parser.add_argument("--shards", default="1e3,1e4,1e5", help="numbers, with commas")
    parser.add_argument("--domains", type=int, default=100)
    parser.add_argument("--files-a-shard", type=int, default=10, help="input files a shard")
    options = parser.parse_args()
    print("| shards | input files | step | CPU s | MB | |\n|---:|---:|---|---:|---:|---|")
    for shards in (int(float(text)) for text in options.shards.split(",")):
        _measure(shards, options.domains, shards * options.files_a_shard)


def _measure(shards: int, domains: int, inputs: int) -> None:
    checks: list[ShardCheck] = []
    totals = Totals(domains)
    sent_bytes = 0

    def add_up() -> str:
        nonlocal sent_bytes
        for check in _checks(shards, domains):
            message = pickle.dumps(check)
            sent_bytes += len(message)
            received = pickle.loads(message)
            totals.add(totals.train, received)
            checks.append(received)
        return f"{sent_bytes / shards:,.0f} bytes a shard"

    def step(name: str, body: Callable[[], str]) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        before, started = _peak_mb(), time.process_time()
        words = body()
        seconds = time.process_time() - started
        print(
            f"| {shards:,} | {inputs:,} | {name} | {seconds:.1f} | {_peak_mb() - before:.0f} "
            f"| {words} |",
            flush=True,
        )

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "manifest.json")
        manifest: Any = None

        def write() -> str:
            nonlocal manifest
            manifest = _manifest(shards, domains, inputs)
            write_hashed(path, msgspec.json.format(msgspec.json.encode(manifest), indent=2))
            return f"{path.stat().st_size / 1e6:.0f} MB"

        def read() -> str:
            load_manifest(path.parent)
            return ""

        def judge() -> str:
            tokens = [PlannedDomain(1.0, count, 10**12) for count in totals.train.tolist()]
            plan = PlanRecord(dict(zip(manifest.domains, tokens, strict=True)))
            problems = certify(manifest, plan, checks, [], totals)["problems"]
            assert problems == [], problems
            return ""

        step("add up checks", add_up)
        step("write the manifest", write)
        step("read it", read)
        step("make the certificate", judge)


def _checks(shards: int, domains: int) -> Iterator[ShardCheck]:
    tokens = dict(enumerate(np.full(domains, SHARD_TOKENS // domains).tolist()))
    for number in range(shards):
        window = number * 100 // shards
        yield ShardCheck(
            tokens=dict(tokens),
            first_window=window,
            windows=np.full((1, domains), SHARD_TOKENS // domains),
            is_read=True,
            content_checked=True,
        )


def _manifest(shards: int, domains: int, inputs: int) -> Manifest:
    def file(path: str) -> FileRecord:
        return FileRecord(path, SHARD_TOKENS * 2, HASH)

    names = [f"domain-{number}" for number in range(domains)]
    budget_tokens = SHARD_TOKENS // domains * domains * shards
    return Manifest(
        schema=2,
        curate_version="0",
        name="many",
        recipe_hash=HASH,
        build_hash=HASH,
        format="npy",
        dtype="<u2",
        sequence_length=2048,
        seed=0,
        budget_tokens=budget_tokens,
        tokenizer=TokenizerRecord("gpt2", HASH, "<|end|>", 0, 50_257, "fastokens 0"),
        domains=names,
        shards=[
            ShardRecord("train", f"train/shard-{number:05d}", 24_415, SHARD_TOKENS,
                        [file(f"train/shard-{number:05d}.npy")],
                        file(f"provenance/train/shard-{number:05d}.npy"))
            for number in range(shards)
        ],
        inputs=[
            InputRecord(names[number % domains], f"/corpora/web/part-{number:07d}.jsonl.zst",
                        f"{number:032x}", 3)
            for number in range(inputs)
        ],
        cache="/shared/cache",
    )  # fmt: skip


def _peak_mb() -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) / 1000


if __name__ == "__main__":
    main()
