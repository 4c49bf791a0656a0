"""Give the command line damaged input files, recipes, tokenizers and run tables.

Every run must end in time, in bounded memory and without a traceback: with a certified dataset in
which each line of the file is a document or a bad record, or with one line that says what is wrong.
`tests/test_fuzz_*.py` damage the same things a thousand times as often, below the command line.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from trials import Row, curate, main, workplace, write_recipe

MOST_MEMORY_BYTES = 3 << 30
"""Most memory of any process of a run; libraries alone take about 300 MB."""

PIECES = (
    b"\x00", b"\n", b'"', b"\\u0000", b"\xff\xfe", b"\xed\xa0\x80", b"{" * 500, b"[" * 100_000,
    b"9" * 5_000, b"NaN", b"-1", b"1e999", b"null", b"\x1b[31m", b"&a *a", b"!!python/object:os.x",
    b"\xff" * 8, b"\x7f\xff\xff\xff",
)  # fmt: skip

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".lz4": lambda content: pa.compress(content, "lz4", asbytes=True),
}

RUNS = "run,tokens,w_wiki,w_code,w_talk,loss_wiki,loss_code,loss_talk\n" + "".join(
    f"r{number},1000,{a},{b},{1 - a - b:.2f},{3 - a / 2:.3f},{2.5 - b / 2:.3f},{2 + a / 3:.3f}\n"
    for number, (a, b) in enumerate(
        [(0.1, 0.2), (0.2, 0.5), (0.6, 0.1), (0.3, 0.3), (0.4, 0.2)] * 4
    )
)


def run(trials: int, seed: int) -> list[Row]:
    """Spread trials over input files, recipes, tokenizers and run tables."""
    kinds = (_domain_file, _recipe, _tokenizer, _run_table)
    rows = []
    with workplace() as root:
        for number, kind in enumerate(kinds):
            row = Row(f"hostile: {kind.__name__.strip('_').replace('_', ' ')}")
            generator = np.random.default_rng([seed, number])
            began = time.monotonic()
            for trial in range(trials // len(kinds)):
                work = root / "work"
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir()
                shutil.copytree(root / "data", work / "data")
                shutil.copy(root / "tokenizer.json", work)
                kind(work, generator, trial, row)
            row.seconds = time.monotonic() - began
            rows.append(row)
    memory = Row("hostile: memory of the largest process")
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    if most > MOST_MEMORY_BYTES:
        memory.failed(f"{most >> 20} MB")
    else:
        memory.held(f"{most >> 20} MB")
    return [*rows, memory]


def damage(content: bytes, generator: np.random.Generator) -> bytes:
    """Flip, insert, cut or repeat at up to four random places."""
    for _ in range(int(generator.integers(1, 5))):
        at = int(generator.integers(0, len(content) + 1))
        kind = int(generator.integers(0, 5))
        if kind == 0 and at < len(content):
            content = (
                content[:at]
                + bytes([content[at] ^ (1 << int(generator.integers(0, 8)))])
                + content[at + 1 :]
            )
        elif kind == 1:
            content = content[:at] + PIECES[int(generator.integers(0, len(PIECES)))] + content[at:]
        elif kind == 2:
            content = content[:at] + content[at + int(generator.integers(1, 400)) :]
        elif kind == 3:
            content = content[: at + int(generator.integers(1, 4000))] + content[at:]
        elif generator.integers(0, 4) == 0:
            content = content[:at]
    return content


def _domain_file(work: Path, generator: np.random.Generator, trial: int, row: Row) -> None:
    """Damage one file of a domain, in turn of each kind and compression."""
    lines = (work / "data" / "wiki" / "0.jsonl").read_bytes()
    texts = [json.loads(line)["text"] for line in lines.splitlines()]
    contents = {
        ".jsonl": lines,
        ".json": json.dumps([{"text": text} for text in texts]).encode(),
        ".csv": ("text\n" + "".join(f'"{text}"\n' for text in texts)).encode(),
        ".txt": "\n".join(texts).encode(),
        ".parquet": _parquet(texts),
    }
    forms = [(suffix, packed) for suffix in contents for packed in COMPRESSIONS]
    suffix, packed = forms[trial % len(forms)]
    if generator.integers(0, 2):
        content = COMPRESSIONS[packed](damage(contents[suffix], generator))
    else:
        content = damage(COMPRESSIONS[packed](contents[suffix]), generator)
    path = work / "data" / "wiki" / f"1{suffix}{packed}"
    shutil.rmtree(work / "data" / "wiki")
    path.parent.mkdir()
    path.write_bytes(content)
    write_recipe(work / "recipe.yaml", limits={"lost_share": 1}, mixture={"method": "uniform"})
    problem = _judge(work, ["build", "recipe.yaml", "--workers", "1"])
    if problem is None and suffix + packed == ".jsonl" and (work / "out" / "stats.json").exists():
        counts = json.loads((work / "out" / "stats.json").read_text())["domains"]["wiki"]
        records = sum(1 for line in content.split(b"\n") if line.strip())
        if counts["documents"] + counts["bad_records"] != records:
            problem = (
                f"{records} lines, {counts['documents']} documents, {counts['bad_records']} bad"
            )
    _count(row, f"{path.name}, trial {trial}", problem)


def _recipe(work: Path, generator: np.random.Generator, trial: int, row: Row) -> None:
    path = write_recipe(work / "recipe.yaml", mixture={"method": "uniform"})
    path.write_bytes(damage(path.read_bytes(), generator))
    _count(row, f"trial {trial}", _judge(work, ["plan", "recipe.yaml", "--workers", "1"]))


def _tokenizer(work: Path, generator: np.random.Generator, trial: int, row: Row) -> None:
    path = work / "tokenizer.json"
    path.write_bytes(damage(path.read_bytes(), generator))
    write_recipe(work / "recipe.yaml", mixture={"method": "uniform"})
    _count(row, f"trial {trial}", _judge(work, ["plan", "recipe.yaml", "--workers", "1"]))


def _run_table(work: Path, generator: np.random.Generator, trial: int, row: Row) -> None:
    (work / "runs.csv").write_bytes(damage(RUNS.encode(), generator))
    arguments = ["mix", "--runs", "runs.csv", "--method", "dml"]
    _count(row, f"trial {trial}", _judge(work, arguments))


def _judge(work: Path, arguments: list[str]) -> str | None:
    """Run a command; describe what is wrong with its end, None if nothing is."""
    finished = curate(arguments, work)
    problem = finished.complaint([0, 2])
    last = finished.errors.strip().rpartition("\n")[2]
    if problem is None and any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in last):
        problem = f"control characters in {last!r}"
    return problem


def _count(row: Row, place: str, problem: Any) -> None:
    if problem:
        row.failed(f"{place}: {problem}")
    else:
        row.held("ended well")


def _parquet(texts: list[str]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), sink, row_group_size=50)
    return sink.getvalue()


if __name__ == "__main__":
    main(run, "Give the command line damaged files, recipes, tokenizers and run tables.", 200)
