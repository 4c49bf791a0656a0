"""Shared by the fault campaign: a tiny corpus, runs of the command line, comparisons, one table.

Each program of this directory breaks curate in one way, many times, at places drawn from a seed. It
has a function `run(trials, seed)` that returns rows, and prints them when it is started by itself:

    python tools/faults/kills.py --trials 300 --seed 1

A row counts trials and lists every one that did not hold. The exit code is 1 if there is any.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import yaml
from tokenizers import decoders, models, pre_tokenizers, trainers

END = "<|endoftext|>"

DOMAINS = {"wiki": 240, "code": 160, "talk": 80}
"""Documents of each domain of the tiny corpus."""

CURATED: dict[str, Any] = {
    "domains": [
        {
            "name": "wiki",
            "paths": "data/wiki/*",
            "id": "url",
            "attributes": "scores.csv",
            "where": "score > 0.1 AND quality IS NOT NULL",
            "split": [{"by": "topic"}, {"by": "quality", "quantiles": 2}],
            "keep": ["quality"],
        },
        {"name": "code", "paths": "data/code/*", "id": "url"},
        {"name": "talk", "paths": "data/talk/*", "id": "url", "where": "copies < 3"},
    ],
    "exclude": "ids.txt",
    "duplicates": {"near": {}, "order": ["code"]},
    "decontaminate": {"sets": {"quiz": "quiz.jsonl"}, "ngram": 5, "action": "remove"},
    "mixture": {"method": "natural"},
}
"""Keys of a recipe that uses all of curation, over the tiny corpus."""

RUN_SECONDS = 180.0
"""A run that takes longer counts as hanging."""


@dataclass
class Row:
    """The trials of one kind."""

    kind: str
    """The fault, such as `kill: build`."""
    trials: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    """One line for each trial that did not hold."""
    outcomes: dict[str, int] = field(default_factory=dict)
    """How trials that held ended, such as `mended` or `one line`."""

    def held(self, outcome: str) -> None:
        """Count a trial that held."""
        self.trials += 1
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def failed(self, description: str) -> None:
        """Count a trial that did not hold."""
        self.trials += 1
        self.failures.append(description)


@dataclass(frozen=True)
class Finished:
    """A run of the command line that has ended."""

    code: int
    """Exit code; negative: ended by that signal."""
    output: str
    errors: str
    survivors: int
    """Processes of its group that outlived it."""

    def complaint(self, codes: Sequence[int]) -> str | None:
        """Describe what is wrong with how it ended; None if nothing is.

        Args:
            codes: Exit codes that are right.
        """
        last = self.errors.strip().rpartition("\n")[2]
        if "Traceback" in self.errors or "panicked" in self.errors:
            return f"traceback: {last}"
        if self.code not in codes:
            return f"exit code {self.code}: {last}"
        if self.code == 2 and not last.startswith("curate: "):
            return f"no line of curate: {last!r}"
        if self.survivors:
            return f"{self.survivors} processes survive"
        return None


WITH_WORKERS = """
from curate.cli import interrupt, main
interrupt.install()
try:
    from curate.runtime import workers
    workers.BYTES_PER_WORKER = 1
finally:
    main()  # where a signal that came meanwhile is raised again
"""
"""Run the command line with all workers, which the work of so small a corpus does not pay for."""


def start(arguments: Sequence[str], directory: Path, **environment: str) -> subprocess.Popen[str]:
    """Start `curate` in a process group of its own.

    Args:
        arguments: Arguments of the command line.
        directory: Working directory.
        environment: Variables that are added.
    """
    return subprocess.Popen(
        [sys.executable, "-c", WITH_WORKERS, *arguments],
        cwd=directory,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], seconds: float = RUN_SECONDS) -> Finished:
    """Wait for a run to end; a hanging one is killed and has the exit code -999."""
    code: int | None = None
    try:
        output, errors = process.communicate(timeout=seconds)
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        code = -999
    survivors = _survivors(process.pid)
    if survivors:
        os.killpg(process.pid, signal.SIGKILL)
    return Finished(code, output, errors, survivors)


def curate(arguments: Sequence[str], directory: Path, **environment: str) -> Finished:
    """Run `curate` and wait for it."""
    return finish(start(arguments, directory, **environment))


def _survivors(group: int) -> int:
    """Count the processes of a group once they have had two seconds to end."""
    deadline = time.monotonic() + 2
    while members := _members(group):
        if time.monotonic() > deadline:
            return members
        time.sleep(0.02)
    return 0


def _members(group: int) -> int:
    """Count the processes of a group that are no zombies."""
    count = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, owner = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except (OSError, ValueError):
                continue
            count += state != "Z" and int(owner) == group
    return count


@contextmanager
def workplace() -> Iterator[Path]:
    """Yield a directory with the tiny corpus and its tokenizer; remove it at the end."""
    root = Path(tempfile.mkdtemp(prefix="curate-faults-"))
    try:
        make_corpus(root)
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def make_corpus(root: Path) -> None:
    """Write the corpus and its tokenizer, the same on every call.

    They are `data/<domain>/<number>.jsonl`, `tokenizer.json`, and what `CURATED` names: identifiers
    to leave out, scores by identifier, and questions of an evaluation set.
    """
    texts, urls, questions = [], [], []
    for name, documents in DOMAINS.items():
        generator = np.random.default_rng([*name.encode()])
        words = [f"{name[:2]}{number}" for number in range(300)]
        shares = 1 / np.arange(1, 301)
        shares /= shares.sum()
        for part in range(2):
            path = root / "data" / name / f"{part}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [
                " ".join(
                    generator.choice(words, generator.integers(5, 120), p=shares / shares.sum())
                )
                for _ in range(documents // 2)
            ]
            if part:  # a copy, and a near copy
                rows[3:5] = [rows[2], f"{rows[5]} {words[0]}"]
            records = [
                {
                    "text": text,
                    "url": f"{name}/{part}/{number}",
                    "topic": ("sea", "land")[number % 2],
                    "quality": None if number % 29 == 0 else number % 10,
                }
                for number, text in enumerate(rows)
            ]
            path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
            texts += rows[:40]
            urls += [record["url"] for record in records]
            questions.append(" ".join(max(rows, key=len).split()[:30]))
    (root / "ids.txt").write_text("".join(f"{url}\n" for url in urls[::40]), "utf-8")
    scores = [f"{url},{number % 7 / 7}\n" for number, url in enumerate(urls)]
    (root / "scores.csv").write_text("url,score\n" + "".join(scores), "utf-8")
    items = [json.dumps({"question": question}) + "\n" for question in questions]
    (root / "quiz.jsonl").write_text("".join(items), "utf-8")
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    trained.save(str(root / "tokenizer.json"))


def write_recipe(path: Path, **changes: Any) -> Path:
    """Write a recipe over the tiny corpus, which lies beside it.

    Args:
        path: File to write.
        changes: Top-level keys that are added or replaced.
    """
    recipe = {
        "name": "tiny",
        "tokenizer": {"path": "tokenizer.json", "eos": END},
        "domains": [{"name": name, "paths": f"data/{name}/*"} for name in DOMAINS],
        "mixture": {"method": "entropy", "estimator": "plugin"},
        "max_epochs": 4,
        "budget_tokens": 30_000,
        "validation": {"documents": 0.05},
        "cache": "cache",
        "output": {"dir": "out"},
        **changes,
    }
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), "utf-8")
    return path


def tree(directory: Path) -> dict[str, str]:
    """Return the hash of every file below a directory, by its path there."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def difference(expected: dict[str, str], actual: dict[str, str]) -> str | None:
    """Name the files in which two trees differ; None if there are none."""
    stray = [f"stray {name}" for name in actual if name not in expected]
    absent = [f"no {name}" for name in expected if name not in actual]
    other = [f"other {name}" for name in actual if expected.get(name, actual[name]) != actual[name]]
    return ", ".join([*stray, *absent, *other][:4]) or None


def timed(row: Row, trial: Callable[[], None]) -> None:
    """Run a trial and add its time to the row."""
    began = time.monotonic()
    trial()
    row.seconds += time.monotonic() - began


def main(run: Callable[[int, int], list[Row]], description: str, trials: int) -> None:
    """Run a program of the campaign from the command line.

    Args:
        run: Takes trials and a seed, and returns rows.
        description: Sentence for `--help`.
        trials: Default number of trials.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--trials", type=int, default=trials)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    sys.exit(report(run(options.trials, options.seed)))


def report(rows: Sequence[Row]) -> int:
    """Print the table and the trials that did not hold; return the exit code."""
    print(f"{'fault':<44}{'trials':>7}{'held':>7}{'seconds':>9}  outcomes")
    for row in rows:
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(row.outcomes.items()))
        held = row.trials - len(row.failures)
        print(f"{row.kind:<44}{row.trials:>7}{held:>7}{row.seconds:>9.0f}  {outcomes}")
    trials, failures = sum(row.trials for row in rows), [f for row in rows for f in row.failures]
    print(f"{'all':<44}{trials:>7}{trials - len(failures):>7}")
    for row in rows:
        for failure in row.failures:
            print(f"NOT HELD  {row.kind}: {failure}")
    return 1 if failures else 0
