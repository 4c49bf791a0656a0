"""Tokenising the same text in awkward shapes, against the same text in well-cut files.

    python tools/bench/shapes.py [--input DIR --tokenizer tokenizer.json] [--rounds 3]
        [--shapes tiny,large,long,unique] [--large-copies 10]

Every round runs `curate tokenize` into an empty cache on the well-cut input (files of 16 MB) and on
each shape: `tiny`, the same documents in the same order in 20,000 files; `large`, the whole input
over and over in one file of about 2 GB; `long`, the input with a document of 50 MB in it; `unique`,
270 MB of words that never repeat, for the memory it takes. Ratios are of MB/s to the well-cut
input's in the same round, whole process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import inputs
import measure

ROOT = Path(__file__).resolve().parents[2]
TINY_FILES = 20_000
LONG_DOCUMENT_BYTES = 50_000_000
UNIQUE_BYTES = 270_000_000
UNIQUE_DOCUMENT_WORDS = 1_000
COPY_BYTES = 1 << 24


@dataclass
class Shape:
    """One form of the input, and what its runs took."""

    name: str
    path: Path
    text_bytes: int
    runs: list[measure.Usage] = field(default_factory=list)

    def speed(self, number: int) -> float:
        """MB of text a second in one round."""
        return self.text_bytes / 1e6 / self.runs[number].wall_seconds


def main() -> None:
    options = _options()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    request = inputs.from_options(options)
    made = subprocess.run(
        inputs.arguments(request, work / "inputs"), check=True, capture_output=True, text=True
    )
    directory = Path(made.stdout.strip().splitlines()[-1])
    described = json.loads((directory / "input.json").read_text())
    text_bytes = described["full"]["text_bytes"]
    shapes = [Shape("well-cut", directory / "full" / "jsonl", text_bytes)]
    scale = 0.01 if options.smoke else 1.0
    for name in options.shapes.split(","):  # in processes of their own: this one must stay small
        with ProcessPoolExecutor(1) as maker:
            made_shape = maker.submit(MAKERS[name], directory, scale, options.large_copies)
            path, size_bytes = made_shape.result()
        shapes.append(Shape(name, path, size_bytes or text_bytes))
    for _ in range(1 if options.smoke else options.rounds):
        for shape in shapes:
            shape.runs.append(_tokenise(shape, directory, described["eos"], work, options.workers))
    print(_table(shapes))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Tokenising text in awkward shapes.")
    inputs.add_options(parser)
    parser.add_argument("--shapes", default="tiny,large,long,unique", help="comma-separated")
    parser.add_argument("--large-copies", type=int, default=10, help="of the input in one file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--work", type=Path, default=Path("bench-work"), help="scratch directory")
    return parser.parse_args()


def _lines(directory: Path) -> Iterator[bytes]:
    with (directory / "full" / "all.jsonl").open("rb") as file:
        yield from file


def _tiny(directory: Path, scale: float, copies: int) -> tuple[Path, int]:
    """The input's lines in 20,000 files or, of fewer lines, as many as there are.

    In their order: where documents of several domains are mixed anew, tokenising is a fortieth
    slower whatever the files, as encoders remember words.
    """
    target = directory / "shapes" / "tiny-in-order"
    if target.exists():
        return target, 0
    lines = list(_lines(directory))
    files = min(len(lines), int(TINY_FILES * scale) or 1)
    unfinished = target.with_name("tiny-in-order.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    for number in range(files):
        start, stop = number * len(lines) // files, (number + 1) * len(lines) // files
        folder = unfinished / f"{number // 1000:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05d}.jsonl").write_bytes(b"".join(lines[start:stop]))
    unfinished.rename(target)
    return target, 0


def _large(directory: Path, scale: float, copies: int) -> tuple[Path, int]:
    """The whole input `copies` times in one file."""
    source, target = (
        directory / "full" / "all.jsonl",
        directory / "shapes" / f"large-{copies}.jsonl",
    )
    text_bytes = json.loads((directory / "input.json").read_text())["full"]["text_bytes"] * copies
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        unfinished = target.with_suffix(".part")
        with unfinished.open("wb") as file:
            for _ in range(copies):
                with source.open("rb") as original:
                    shutil.copyfileobj(original, file, COPY_BYTES)
        unfinished.rename(target)
    return target, text_bytes


def _long(directory: Path, scale: float, copies: int) -> tuple[Path, int]:
    """The input, its first documents joined to one of 50 MB."""
    target = directory / "shapes" / "long.jsonl"
    if target.exists():
        return target, 0
    target.parent.mkdir(exist_ok=True)
    joined: list[str] = []
    joined_bytes = 0
    with target.with_suffix(".part").open("wb") as file:
        for line in _lines(directory):
            if joined_bytes < LONG_DOCUMENT_BYTES * scale:
                joined.append(json.loads(line)["text"])
                joined_bytes += len(line)
                continue
            if joined:
                whole = {"id": "long", "text": "".join(joined)}
                file.write(json.dumps(whole, ensure_ascii=False).encode() + b"\n")
                joined = []
            file.write(line)
    target.with_suffix(".part").rename(target)
    return target, 0


def _unique(directory: Path, scale: float, copies: int) -> tuple[Path, int]:
    """Words of random letters, none twice but by chance: what word caches cannot remember."""
    target, text_bytes = directory / "shapes" / "unique.jsonl", int(UNIQUE_BYTES * scale)
    if target.exists():
        return target, text_bytes
    target.parent.mkdir(exist_ok=True)
    draw = random.Random(0)
    with target.with_suffix(".part").open("w") as file:
        written, number = 0, 0
        while written < text_bytes:
            letters = draw.randbytes(UNIQUE_DOCUMENT_WORDS * 6).hex()
            words = " ".join(letters[start : start + 12] for start in range(0, len(letters), 12))
            file.write(json.dumps({"id": f"unique-{number}", "text": words}) + "\n")
            written += len(words)
            number += 1
    target.with_suffix(".part").rename(target)
    return target, text_bytes


MAKERS = {"tiny": _tiny, "large": _large, "long": _long, "unique": _unique}


def _tokenise(shape: Shape, directory: Path, eos: str, work: Path, workers: int) -> measure.Usage:
    for name in ("cache", "out"):
        shutil.rmtree(work / name, ignore_errors=True)
    recipe: dict[str, Any] = {
        "name": shape.name,
        "tokenizer": {"path": str(directory / "tokenizer" / "tokenizer.json"), "eos": eos},
        "domains": [{"name": "all", "paths": [str(shape.path)]}],
        "budget_tokens": 1,
        "cache": "cache",
        "output": {"dir": "out"},
    }
    path = work / "shape.yaml"
    path.write_text(json.dumps(recipe))
    options = ["--quiet", "--workers", str(workers)]
    command = [sys.executable, "-m", "curate.cli", "tokenize", str(path), *options]
    environment = {"PYTHONPATH": str(ROOT)}
    return measure.run(command, directory=work, environment=environment)


def _table(shapes: list[Shape]) -> str:
    lines = [
        "| input | MB | wall MB/s | CPU MB/s | peak MB | of well-cut |",
        "|---|---|---|---|---|---|",
    ]
    for shape in shapes:
        rounds = range(len(shape.runs))
        speeds = [shape.speed(number) for number in rounds]
        ratios = [shape.speed(number) / shapes[0].speed(number) for number in rounds]
        cpu = [shape.text_bytes / 1e6 / run.cpu_seconds for run in shape.runs]
        peak = max(run.peak_bytes for run in shape.runs) / 1e6
        lines.append(
            f"| {shape.name} | {shape.text_bytes / 1e6:.0f} | {_shown(speeds)} | {_shown(cpu)} "
            f"| {peak:.0f} | {_shown(ratios, 2)} |"
        )
    return "\n".join(lines)


def _shown(values: list[float], digits: int = 0) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


if __name__ == "__main__":
    main()
