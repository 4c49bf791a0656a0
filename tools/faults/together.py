"""Start two builds at once, in all combinations, and compare what they leave with builds alone.

    python tools/faults/together.py [--rounds 50] [--seed 0]

The two share a cache, an output directory, both, or neither, at moments up to a second apart. With
one output directory a build either ends well or is told who has locked it. A lock that names
another machine is respected until its file is removed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from curate.runtime.locks import DIRECTORY_LOCK

WORDS = "the river city history of and in was north king founded museum station".split()

RECIPE = """
name: pair
tokenizer: {train: {vocab_size: 300, sample_bytes: 20000}}
domains:
  - {name: a, paths: a.jsonl}
  - {name: b, paths: b.jsonl}
mixture: {method: uniform}
max_epochs: 10
budget_tokens: 20000
output: {format: npy}
"""


def run(rounds: int, seed: int) -> dict[str, int]:
    """Start pairs of builds, and count rounds, refusals and differences."""
    draw = random.Random(seed)
    counts = {"rounds": 0, "refused": 0, "faults": 0}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for domain in "ab":
            rows = [" ".join(draw.choices(WORDS, k=draw.randint(5, 90))) for _ in range(150)]
            text = "".join(json.dumps({"text": f"{row} {n}"}) + "\n" for n, row in enumerate(rows))
            (root / f"{domain}.jsonl").write_text(text)
        (root / "recipe.yaml").write_text(RECIPE)
        _finish(_start(root, "alone", "alone"))
        expected = _shards(root / "alone")
        for number in range(rounds):
            share_cache, share_output = bool(number & 1), bool(number & 2)
            foreign = number % 10 == 9
            _round(root, (share_cache, share_output, foreign), draw.random(), expected, counts)
            counts["rounds"] += 1
    return counts


def _round(
    root: Path,
    shared: tuple[bool, bool, bool],
    delay: float,
    expected: dict[str, bytes],
    counts: dict[str, int],
) -> None:
    share_cache, share_output, foreign = shared
    outputs = ["one", "one" if share_output else "two"]
    caches = ["cache-one", "cache-one" if share_cache else "cache-two"]
    for path in {*outputs, *caches}:
        shutil.rmtree(root / path, ignore_errors=True)
    if foreign:
        (root / "one").mkdir()
        holder = {"machine": "another", "process": 1, "since": 0}
        (root / "one" / DIRECTORY_LOCK).write_text(json.dumps(holder))
    builds = []
    for output, cache in zip(outputs, caches, strict=True):
        builds.append(_start(root, output, cache))
        time.sleep(delay)
    for build, output in zip(builds, outputs, strict=True):
        code, complaint = _finish(build)
        refused = code == 2 and "has locked it" in complaint and (share_output or foreign)
        counts["refused"] += refused
        if not refused and code:
            counts["faults"] += 1
            print(shared, round(delay, 2), code, complaint)
        if foreign and output == "one" and not refused:
            counts["faults"] += 1
            print(shared, round(delay, 2), "the lock of another machine was ignored")
    if foreign:
        (root / "one" / DIRECTORY_LOCK).unlink()
        _finish(_start(root, "one", caches[0]))
    for output in set(outputs):
        if _shards(root / output) != expected or list((root / output).rglob(".*.tmp")):
            counts["faults"] += 1
            print(shared, round(delay, 2), output, "differs from a build alone")


def _start(root: Path, output: str, cache: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "curate.cli", "build", "recipe.yaml", "--quiet", "--workers",
               "2", "--out", output, "--set", f"cache={cache}"]  # fmt: skip
    return subprocess.Popen(command, cwd=root, text=True, stderr=subprocess.PIPE)


def _finish(build: subprocess.Popen[str]) -> tuple[int, str]:
    complaint = build.communicate()[1]
    return build.returncode, complaint


def _shards(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.relative_to(directory).parts[0] in ("train", "validation")
    }


def main() -> None:
    """Parse the command line, run the rounds, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    counts = run(arguments.rounds, arguments.seed)
    print(json.dumps(counts))
    raise SystemExit(int(counts["faults"] > 0))


if __name__ == "__main__":
    main()
