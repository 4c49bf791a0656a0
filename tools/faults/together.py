"""Start two builds at once, in all combinations, and compare what they leave with builds alone.

The two share a cache, an output directory, both, or neither, at moments up to a second apart. With
one output directory a build either ends well or is told who has locked it. A lock that names
another machine is respected until its file is removed.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trials import Row, main, timed

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


def run(trials: int, seed: int) -> list[Row]:
    """Start that many pairs of builds, and compare what they leave with a build alone."""
    row = Row("two builds at once")
    timed(row, lambda: _rounds(row, trials, seed))
    return [row]


def _rounds(row: Row, rounds: int, seed: int) -> None:
    draw = random.Random(seed)
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
            shared = (share_cache, share_output, foreign)
            complaint, refusals = _round(root, shared, draw.random(), expected)
            if complaint:
                row.failed(f"round {number}: {complaint}")
            else:
                row.held(f"{refusals} refused")


def _round(
    root: Path,
    shared: tuple[bool, bool, bool],
    delay: float,
    expected: dict[str, bytes],
) -> tuple[str, int]:
    """Return what is wrong, and how many of the builds were refused."""
    share_cache, share_output, foreign = shared
    outputs = ["one", "one" if share_output else "two"]
    caches = ["cache-one", "cache-one" if share_cache else "cache-two"]
    for path in {*outputs, *caches}:
        shutil.rmtree(root / path, ignore_errors=True)
    if foreign:
        (root / "one").mkdir()
        holder = {"machine": "another", "process": 1, "since": 0}
        (root / "one" / DIRECTORY_LOCK).write_text(json.dumps(holder))
    builds, wrong, refusals = [], [], 0
    for output, cache in zip(outputs, caches, strict=True):
        builds.append(_start(root, output, cache))
        time.sleep(delay)
    for build, output in zip(builds, outputs, strict=True):
        code, complaint = _finish(build)
        refused = code == 2 and "has locked it" in complaint and (share_output or foreign)
        refusals += refused
        if not refused and code:
            wrong.append(f"exit code {code}, {complaint}")
        if foreign and output == "one" and not refused:
            wrong.append("the lock of another machine was ignored")
    if foreign:
        (root / "one" / DIRECTORY_LOCK).unlink()
        _finish(_start(root, "one", caches[0]))
    for output in set(outputs):
        if _shards(root / output) != expected or list((root / output).rglob(".*.tmp")):
            wrong.append(f"{output} differs from a build alone")
    return "; ".join(wrong), refusals


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


if __name__ == "__main__":
    main(run, "Start two builds at once, in all combinations.", 50)
