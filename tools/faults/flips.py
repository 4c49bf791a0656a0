"""Damage one file of a dataset, verify it, then build it again; in all formats.

`verify` must find the damage, with exit code 1 and the file's name in a problem; `build` must leave
the dataset that it was, byte for byte. Nine trials in ten flip a bit; others empty, cut, lengthen
or remove the file, or put a directory, a link or a pipe in its place. All runs are in this process.
"""

from __future__ import annotations

import os
import shutil
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from trials import CURATED, Row, difference, main, tree, workplace, write_recipe

import curate
from curate.errors import CurateError
from curate.formats import FORMATS

FLIPS_IN_TEN = 9

SEQUENCES = {"mds": 64, "input_ids": 64, "litdata": 64}
"""Sequence length in tokens, for formats that are tried with rows of one length."""

APART = {"megatron", "parquet"}
"""Formats that are tried with domains apart, so that there are trainers' mixture files."""


CURATION = "jsonl, all of curation"


def flip(path: Path, generator: np.random.Generator) -> str:
    """Flip one bit of a file that is not empty."""
    content = bytearray(path.read_bytes())
    if not content:
        return replaced(path, generator)
    place, bit = int(generator.integers(len(content))), int(generator.integers(8))
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {place} flipped"


def replaced(path: Path, generator: np.random.Generator) -> str:
    """Change the length of a file, or put something else in its place."""
    name = str(generator.choice(list(REPLACEMENTS)))
    content = path.read_bytes()
    path.unlink()
    REPLACEMENTS[name](path, content)
    return name


def _link(path: Path, content: bytes) -> None:
    target = path.parents[len(path.parents) - 3] / "linked"
    target.write_bytes(content)
    path.symlink_to(target)


REPLACEMENTS: dict[str, Callable[[Path, bytes], object]] = {
    "empty": lambda path, _: path.write_bytes(b""),
    "cut": lambda path, content: path.write_bytes(content[: len(content) // 2] or b"x"),
    "longer": lambda path, content: path.write_bytes(content + b"\n"),
    "absent": lambda path, content: None,
    "a directory": lambda path, _: path.mkdir(),
    "a link": _link,
    "a pipe": lambda path, _: os.mkfifo(path),
}


def run(trials: int, seed: int) -> list[Row]:
    """Spread trials evenly over the formats, and over the files of each."""
    generator = np.random.default_rng(seed)
    rows = []
    with workplace() as root:
        kinds = [*FORMATS, CURATION]
        for number, name in enumerate(kinds):
            share = (trials + len(kinds) - 1 - number) // len(kinds)
            if not share:
                continue
            row = Row(f"dataset: {name}")
            rows.append(row)
            recipe = _recipe(root, name)
            whole, work = root / "whole", root / "work"
            for old in (whole, work):
                shutil.rmtree(old, ignore_errors=True)
            assert curate.build(recipe, workers=1).ok
            shutil.copytree(work, whole)
            expected = tree(whole)
            files = sorted(expected)
            for trial in range(share):
                path = work / files[trial % len(files)]
                began = time.monotonic()
                how = replaced if trial % 10 >= FLIPS_IN_TEN else flip
                damage = f"{files[trial % len(files)]}, {how(path, generator)}"
                try:
                    _judge(recipe, work, (path, damage), expected, row)
                except Exception:  # noqa: BLE001 - a traceback is what this program looks for
                    row.failed(f"{damage}: {traceback.format_exc()[-400:]}")
                if difference(expected, tree(work)):
                    shutil.rmtree(work)
                    shutil.copytree(whole, work)
                row.seconds += time.monotonic() - began
    return rows


def _recipe(root: Path, name: str) -> Path:
    """Write the recipe of a tiny dataset of several shards."""
    changes: dict[str, Any] = {}
    if name == CURATION:
        changes, name = CURATED, "jsonl"
    output = {"dir": "work", "format": name, "shard_tokens": 4000}
    if name in APART:
        output["shape"] = "per-domain"
    if name in SEQUENCES:
        changes = {"sequence_length": SEQUENCES[name]}
    return write_recipe(
        root / f"{name}.yaml", budget_tokens=8000, max_epochs=4, output=output, **changes
    )


def _judge(
    recipe: Path, work: Path, damaged: tuple[Path, str], expected: dict[str, str], row: Row
) -> None:
    """Verify and mend a damaged dataset, and count how that ended."""
    path, damage = damaged
    name = path.relative_to(work).as_posix()
    try:
        result = curate.verify(work, workers=1)
    except CurateError as error:
        row.failed(f"{damage}: verify gave no verdict: {error}")
        return
    if result.ok or not any(name in problem for problem in result.problems):
        row.failed(f"{damage}: not found: {result.problems}")
        return
    try:
        mended = curate.build(recipe, workers=1)
    except CurateError as error:
        row.failed(f"{damage}: not mended: {error}")
        return
    left = difference(expected, tree(work)) or "; ".join(mended.problems)
    if left:
        row.failed(f"{damage}: after a build: {left}")
    else:
        row.held("found and mended")


if __name__ == "__main__":
    main(run, "Damage files of datasets in all formats.", 1000)
