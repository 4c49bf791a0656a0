"""Plan from a token store of very many small parts, as thousands of small additions leave behind.

    python tools/bench/parts.py [--parts 100,2000,10000] [--documents 20]

The store is made directly, of random documents; see `documents.py`. `curate plan` then runs three
times as a process of its own with at most 256 open files. Parts are counted before each run. The
plans must be the same.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import documents as tiny
from measure import run

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from curate.runtime import files  # noqa: E402
from curate.sources import expand, identify, segments  # noqa: E402
from curate.sources.records import ReadOptions  # noqa: E402
from curate.tokens import tokenizer as tokenizers  # noqa: E402
from curate.tokens.store import TokenStore  # noqa: E402

OPEN_FILES = 256
RUNS = 3


def main() -> None:
    options = _options()
    print("| parts at first | run | parts before it | CPU s | wall s | peak MB |")
    print("|---:|---:|---:|---:|---:|---:|")
    for parts in [300] if options.smoke else map(int, options.parts.split(",")):
        work = (options.work / f"parts-{parts}").resolve()
        shutil.rmtree(work, ignore_errors=True)
        store = _make_store(work, parts, options.documents)
        plans = []
        for number in range(1, RUNS + 1):
            here = len(list(store.glob("part-*")))
            command = [sys.executable, "-m", "curate.cli", "plan", work / "recipe.json"]
            usage = run(list(map(str, command)), directory=work, limit_seconds=3600.0)
            print(
                f"| {parts:,} | {number} | {here:,} | {usage.cpu_seconds:.1f} "
                f"| {usage.wall_seconds:.1f} | {usage.peak_bytes / 1e6:.0f} |",
                flush=True,
            )
            (plan,) = work.rglob("plan.json")
            plans.append(plan.read_bytes())
        assert plans == plans[:1] * RUNS
        if not options.keep:
            shutil.rmtree(work)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Very many small parts.")
    parser.add_argument("--parts", default="100,2000,10000", help="numbers, with commas")
    parser.add_argument("--documents", type=int, default=20, help="documents of each part")
    parser.add_argument("--keep", action="store_true", help="keep the stores")
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it runs")
    parser.add_argument("--work", type=Path, default=Path("bench-work"), help="scratch directory")
    return parser.parse_args()


def _make_store(work: Path, parts: int, documents: int) -> Path:
    """Write input files, the recipe, and a store of a part a file; return the store."""
    (work / "web").mkdir(parents=True)
    tiny._write_tokenizer(work / "tokenizer.json")
    tokenizer = tokenizers.load(work / "tokenizer.json", "<|end|>")
    store = TokenStore(work / ".curate", tokenizer.fingerprint, tokenizer.dtype)
    for number in range(parts):
        text = json.dumps({"text": f"file {number}"}) + "\n"
        (work / "web" / f"{number:06d}.jsonl").write_text(text)
    options = ReadOptions("text", "id", "auto", "*")
    paths = expand(["web/*.jsonl"], options, work)
    files.flush = files.flush_directory = lambda _: None  # 35 ms a part
    tokens = 0
    for plan in segments(identify(paths, work / ".curate", print), options):
        for file, key in zip(plan.files, plan.keys, strict=True):
            tokens += tiny._write_part(store.directory, key, file.path, documents)
    fields: dict[str, Any] = {
        "name": "parts",
        "tokenizer": {"path": "tokenizer.json", "eos": "<|end|>"},
        "domains": [{"name": "web", "paths": "web/*.jsonl"}],
        "mixture": {"method": "natural"},
        "budget_tokens": tokens // 2,
        "sequence_length": tiny.SEQUENCE_TOKENS,
        "output": {"format": "npy"},
    }
    (work / "recipe.json").write_text(json.dumps(fields))
    return store.directory


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, hard))
    main()
