"""Build the same recipes with two checkouts and compare every file they leave, byte for byte.

`python tools/same_artifacts.py OLD NEW WORK [--corpus DIR --tokenizer FILE] [--runs FILE FILE]`

A refactor must leave artifacts as they were, but for the seconds that a fit took. Each recipe is
built by each checkout into a directory of the same name, one after the other, from an empty cache.
Files that differ are listed with the JSON fields that differ; the last line counts them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

FORMATS = (
    "megatron", "npy", "olmo", "datatrove", "mds", "litdata", "llmc", "input_ids", "parquet",
    "jsonl", "arrow", "webdataset",
)  # fmt: skip

COMMANDS = (
    ["stats", "--intervals"], ["stats", "--compare"], ["mix", "--compare"], ["design", "-n", "5"],
    ["plan"], ["build"], ["verify"],
)  # fmt: skip


TIMED = "only the seconds that fits took"

RUN_METHODS = ("dml", "olmix", "bimix", "regmix", "ridge", "gaussian")


def recipes(work: Path, corpus: Path | None, tokenizer: Path | None) -> dict[str, dict[str, Any]]:
    """The quick start, one recipe of each format, and the corpus's where one is given."""
    embedded = ["python_code", "docstrings", "c_headers", "manuals"]
    common = {
        "domains": [{"name": name, "paths": f"corpus://{name}"} for name in embedded],
        "budget_tokens": 300_000,
        "max_epochs": 2,
        "cache": str(work / "cache"),
        "tokenizer": {"train": {"vocab_size": 4096, "sample_bytes": 1_000_000}},
    }
    made: dict[str, dict[str, Any]] = {
        "quickstart": {
            **common,
            "max_epochs": 4,
            "budget_tokens": 2_000_000,
            "mixture": {"method": "entropy"},
        }
    }
    for name in FORMATS:
        made[f"format-{name}"] = {
            **common,
            "mixture": {"method": "temperature", "temperature": 2},
            "output": {"format": name, "shard_tokens": 120_000},
            **({"sequence_length": 256} if name in ("npy", "litdata") else {}),
        }
    for name in ("mds", "megatron", "jsonl"):
        made[f"apart-{name}"] = {
            **common,
            "mixture": {"method": "uniform"},
            "output": {"format": name, "shape": "per-domain"},
        }
    if corpus is not None:
        made["corpus"] = {
            "domains": [
                {"name": path.name.partition(".")[0], "paths": str(path)}
                for path in sorted(corpus.resolve().iterdir())
            ],
            "tokenizer": {"path": str(tokenizer and tokenizer.resolve()), "eos": "<|endoftext|>"},
            "mixture": {"method": "entropy"},
            "budget_tokens": 50_000_000,
            "max_epochs": 4,
            "cache": str(work / "cache"),
        }
    return {name: {"name": name, **recipe} for name, recipe in made.items()}


def runs_commands(runs: list[Path]) -> list[list[str]]:
    """Laws fitted to a run table, and mixtures derived from it alone."""
    if not runs:
        return []
    files = [str(path.resolve()) for path in runs]
    table = [part for path in files for part in ("--runs", path)]
    laws = "bimix,bimix_mixed,exponential,ridge,additive,boosted,own_share"
    return [
        ["fit", *files, "--laws", laws, "--out", "out/fit"],
        ["design", *table, "-n", "6", "--out", "out/design"],
        *(["mix", *table, "--method", name, "--out", f"out/mix-{name}"] for name in RUN_METHODS),
    ]


def run_checkout(
    checkout: Path, work: Path, made: dict[str, dict[str, Any]], runs: list[Path]
) -> dict[str, str]:
    """Build every recipe in `work`; the SHA-256 of each file left, by its path."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": str(checkout)}

    def run(arguments: list[str]) -> None:
        call = [sys.executable, "-m", "curate.cli", *arguments, "--quiet"]
        finished = subprocess.run(call, cwd=work, env=environment, check=False)
        if finished.returncode:
            raise SystemExit(f"{checkout}: {' '.join(call)} ended with {finished.returncode}")

    for arguments in runs_commands(runs):
        run(arguments)
    for name, recipe in made.items():
        path = work / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe, sort_keys=False), "utf-8")
        commands = COMMANDS if name == "quickstart" else COMMANDS[-2:]
        for command, *options in commands:
            target = work / "out" / name if command == "verify" else path
            run([command, str(target), *options])
    return {
        str(path.relative_to(work)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((work / "out").rglob("*"))
        if path.is_file()
    }


def fields(value: Any, path: str = "") -> dict[str, Any]:
    """Leaves of a JSON value by their path."""
    if isinstance(value, dict):
        return {k: v for key in value for k, v in fields(value[key], f"{path}.{key}").items()}
    if isinstance(value, list):
        return {
            k: v for at, item in enumerate(value) for k, v in fields(item, f"{path}[{at}]").items()
        }
    return {path: value}


def differences(old: Path, new: Path) -> list[str]:
    """JSON fields that differ between two files, at most eight; none where they are no JSON."""
    try:
        first, second = (fields(json.loads(path.read_bytes())) for path in (old, new))
    except (OSError, ValueError):
        return []
    keys = [
        key
        for key in {**first, **second}
        if first.get(key) != second.get(key) and not key.endswith(".seconds")
    ]
    if not keys:
        return [TIMED]
    return [f"{key}: {first.get(key)} | {second.get(key)}"[:120] for key in keys[:8]]


def main() -> None:
    """Compare, print, and exit 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--corpus", type=Path, help="a directory with a file or folder a domain")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json for that corpus")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="a run table, or a pair")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    kept = work.parent / f"{work.name}-old"
    made = recipes(work, arguments.corpus, arguments.tokenizer)
    before = run_checkout(arguments.old.resolve(), work, made, arguments.runs)
    shutil.rmtree(kept, ignore_errors=True)
    work.rename(kept)
    after = run_checkout(arguments.new.resolve(), work, made, arguments.runs)
    different = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    for name in different:
        print(name)
        for line in differences(kept / name, work / name):
            print(f"    {line}")
    timed = sum(differences(kept / name, work / name) == [TIMED] for name in different)
    print(f"{len(before)} files before, {len(after)} after, {len(different) - timed} differ")
    sys.exit(len(different) > timed)


if __name__ == "__main__":
    main()
