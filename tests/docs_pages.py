"""Pages of documentation: their fenced blocks, and running them as a reader would.

Marks are HTML comments on the line above a block:

* `<!-- file: NAME -->` the block is a file that later blocks use;
* `<!-- command: NAME -->` `.ci/run` runs the block, in an environment of its own;
* `<!-- not run: REASON -->` the block cannot be run by a test.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from warm import curate_command

ROOT = Path(__file__).parents[1]

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

RUN = ("bash", "console", "python")
"""Languages of blocks that are run."""

SHOWN = ("csv", "json", "mermaid", "text", "toml", "yaml")
"""Languages of blocks that are only read."""

FENCE = re.compile(
    r"(?:^<!-- (?P<mark>file|command|not run): (?P<value>[^\n]*?) -->\n+)?"
    r"^(?P<fence>```+)(?P<language>[^\n]*)\n(?P<body>.*?)^(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)

DIRECTIVE = re.compile(r"\{[a-z:-]+\}")

FRAME = re.compile(r"[\u2500-\u257f]+")
NUMBER = re.compile(r"\d[\d,._]*")


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    body: str
    mark: str
    """`file`, `command`, `not run`, or empty."""
    value: str

    @property
    def place(self) -> str:
        """The page and line, as an editor takes it."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def code_blocks(page: Path) -> list[CodeBlock]:
    """Every fenced block of a page that is no directive of the documentation generator."""
    text = page.read_text("utf-8")
    return [
        CodeBlock(
            page,
            text.count("\n", 0, match.start("fence")) + 1,
            match["language"].strip(),
            match["body"],
            match["mark"] or "",
            match["value"] or "",
        )
        for match in FENCE.finditer(text)
        if not DIRECTIVE.match(match["language"].strip())
    ]


def prepare_workbench(directory: Path) -> None:
    """Lay out what the pages assume: three small corpora, a tokenizer, a run table.

    The corpora are files that every Python installation with NumPy has: the topics of the
    interactive help, some modules of the standard library, and NumPy's type stubs.
    """
    import json
    from pydoc_data.topics import topics

    articles = directory / "data" / "articles"
    articles.mkdir(parents=True)
    rows = [{"id": name, "text": text} for name, text in sorted(topics.items())]
    for part in range(2):
        lines = [json.dumps(row) + "\n" for row in rows[part::2]]
        (articles / f"part-{part}.jsonl").write_text("".join(lines), "utf-8")
    library, stubs = Path(sysconfig.get_path("stdlib")), Path(np.__file__).parent
    sources = [
        path for name in ("json", "logging", "email") for path in (library / name).glob("*.py")
    ]
    _copy(sources, library, directory / "data" / "code")
    _copy(
        [*(stubs / "lib").glob("*.pyi"), *(stubs / "random").glob("*.pyi")],
        stubs,
        directory / "data" / "stubs",
    )
    _train_tokenizer(directory)
    (directory / "runs.csv").write_text(planted_runs(), "utf-8")


def _copy(sources: list[Path], origin: Path, target: Path) -> None:
    for path in sources:
        if path.stat().st_size:
            copy = target / path.relative_to(origin)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)


def _train_tokenizer(directory: Path) -> None:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    files = sorted((directory / "data" / "code").rglob("*.py"))
    tokenizer.train([str(path) for path in files], trainer)
    tokenizer.save(str(directory / "tokenizer.json"))


def planted_runs() -> str:
    """A table of 20 runs with three checkpoints each, by a law with noise."""
    generator = np.random.default_rng(0)
    names = ("articles", "code", "stubs")
    headings = [
        "run",
        "tokens",
        *(f"w_{name}" for name in names),
        *(f"loss_{name}" for name in names),
    ]
    lines = [",".join(headings)]
    for run in range(20):
        shares = generator.dirichlet(np.full(3, 1.5))
        for tokens in (100_000_000, 200_000_000, 400_000_000):
            losses = np.array([2.6, 1.7, 1.2]) + 0.35 * (0.05 + shares) ** -0.25
            losses = losses * (tokens / 1e8) ** -0.05 + generator.normal(0, 0.004, 3)
            cells = [*(f"{share:.9f}" for share in shares), *(f"{loss:.4f}" for loss in losses)]
            lines.append(",".join([f"run-{run:02d}", str(tokens), *cells]))
    return "\n".join(lines) + "\n"


def reader_environment(commands: Path) -> dict[str, str]:
    """The environment of a reader who has installed curate, as this interpreter has it."""
    commands.mkdir(exist_ok=True)
    script = commands / "curate"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(curate_command())} "$@"\n', "utf-8")
    script.chmod(0o755)
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PATH": path, "PYTHONPATH": python_path}


def console_commands(body: str) -> Iterator[tuple[str, list[str]]]:
    """Split a console block into commands and the lines shown below each."""
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        command, *shown = part.rstrip("\n").split("\n")
        while command.endswith("\\"):
            command = f"{command[:-1]}{shown.pop(0).strip()}"
        yield command, shown


def run_shell(script: str, directory: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a script with bash; its exit code, and all that it printed."""
    done = subprocess.run(
        ["bash", "-uo", "pipefail", "-c", script],
        cwd=directory, env=environment, text=True, encoding="utf-8",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout


def first_line_missing(shown: list[str], printed: str) -> str | None:
    """The first shown line that was not printed, in order; numbers and frames may differ.

    An ellipsis stands for any text within a line.
    """
    lines = iter([_comparable(line) for line in printed.split("\n")])
    for line in shown:
        if not _comparable(line):
            continue
        parts = [re.escape(part.strip()) for part in _comparable(line).split("…")]
        pattern = re.compile(r".*".join(parts))
        if not any(pattern.fullmatch(candidate) for candidate in lines):
            return line
    return None


def _comparable(line: str) -> str:
    return " ".join(NUMBER.sub("#", FRAME.sub(" ", line)).split())
