"""Flip one byte of one file of the cache, build, and compare with a build from a whole cache.

Every file is hit: counts, tokens, evidence, lists of files, attributes and decisions of curation,
the trained tokenizer, the embedded corpus and what is kept for the user. The artifacts must be
those of the whole cache, or the run must end with one line. A run forks from this process, which
has imported everything; flips of the user's cache (compiled code, answers of self-tests) start a
new one.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import traceback
from pathlib import Path

import numpy as np
from trials import CURATED, Row, curate, difference, main, tree, workplace, write_recipe

from curate.cli import main as command_line
from curate.sources.embedded.corpus import LIMIT_BYTES, materialise

COMMANDS = (["stats", "recipe.yaml", "--intervals"], ["build", "recipe.yaml"])


def run(trials: int, seed: int) -> list[Row]:
    """Spread flips evenly over the kinds of files."""
    generator = np.random.default_rng(seed)
    with workplace() as root:
        os.environ["XDG_CACHE_HOME"] = str(root / "work" / "user")
        work, whole = root / "work", root / "whole"
        _prepare(root, work)
        for command in COMMANDS:
            finished = curate(command, work)
            if finished.code:
                raise SystemExit(finished.errors)
        expected = tree(work / "out")
        shutil.rmtree(work / "out")
        work.rename(whole)
        kinds = _kinds(whole)
        rows = {kind: Row(f"cache flip: {kind}") for kind in kinds}
        order = generator.permutation(list(kinds))  # few trials see other kinds by each seed
        for trial in range(trials):
            kind = str(order[trial % len(kinds)])
            name = str(generator.choice(kinds[kind]))
            began = time.monotonic()
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(whole, work)
            place = _flip(work / name, generator)
            _judge(work, f"{name} at byte {place}", expected, rows[kind])
            rows[kind].seconds += time.monotonic() - began
        return list(rows.values())


def _prepare(root: Path, work: Path) -> None:
    work.mkdir()
    shutil.copytree(root / "data", work / "data")
    for name in ("ids.txt", "scores.csv", "quiz.jsonl"):
        shutil.copy(root / name, work)
    # A tenth of the embedded corpus, since a harvest parses for most of its time.
    LIMIT_BYTES.update({name: limit // 10 for name, limit in LIMIT_BYTES.items()})
    materialise(work / "cache" / "corpus")
    domains = [*CURATED["domains"], {"name": "licences", "paths": "corpus://licences"}]
    write_recipe(
        work / "recipe.yaml",
        **CURATED | {"domains": domains, "mixture": {"method": "entropy"}},
        tokenizer={"train": {"vocab_size": 400, "sample_bytes": 40_000}},
        output={"dir": "out", "format": "npy"},
    )


def _kinds(whole: Path) -> dict[str, list[str]]:
    """Group the files of both caches by what they are."""
    kinds: dict[str, list[str]] = {}
    for path in sorted([*(whole / "cache").rglob("*"), *(whole / "user").rglob("*")]):
        if path.is_file() and path.stat().st_size:
            parts = path.relative_to(whole).parts
            is_named = parts[1] not in ("evidence", "corpus", "attributes")
            is_named &= parts[1] != "curation" or path.suffix != ".bin"
            last = path.name if is_named else path.suffix
            kind = "/".join(parts[:2] if len(parts) > 2 else parts[:1]) + f" {last}"
            kind = "user's cache" if parts[0] == "user" else kind
            kinds.setdefault(kind, []).append(str(path.relative_to(whole)))
    return kinds


def _flip(path: Path, generator: np.random.Generator) -> int:
    """Flip one bit; return the position of its byte."""
    place = int(generator.integers(0, path.stat().st_size))
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ (1 << int(generator.integers(0, 8)))]))
    return place


def _judge(work: Path, place: str, expected: dict[str, str], row: Row) -> None:
    """Run the commands on a damaged cache and count how they ended."""
    for command in COMMANDS:
        code, errors = _run(command, work, forked=not place.startswith("user"))
        if code == 2 and "Traceback" not in errors and errors.strip():
            row.held("one line")
            return
        if code:
            row.failed(f"{place}: exit code {code}: {errors.strip()[-300:]}")
            return
    changed = difference(expected, tree(work / "out"))
    if changed:
        row.failed(f"{place}: {changed}")
    else:
        row.held("same artifacts")


def _run(command: list[str], work: Path, forked: bool) -> tuple[int, str]:
    """Run a command in a fork of this process, or in a new one; return exit code and stderr."""
    if not forked:
        finished = curate(command, work)
        return finished.code, finished.errors
    log = work / "stderr"
    child = os.fork()
    if child == 0:
        code = 99
        with log.open("w") as file:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(file.fileno(), 2)
            os.chdir(work)
            sys.argv = ["curate", *command, "--workers", "1", "--quiet"]
            try:
                command_line()
            except SystemExit as leaving:
                code = leaving.code if isinstance(leaving.code, int) else 0
            except BaseException:  # noqa: BLE001 - a traceback is what this program looks for
                traceback.print_exc()
            sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), log.read_text(errors="replace")


if __name__ == "__main__":
    main(run, "Flip bytes of the cache and build from it.", 500)
