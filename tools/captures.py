"""Write docs/captures.md: what each command prints at 80 columns, and where it differs at 140.

`python tools/captures.py` runs every command on the embedded corpus in an empty directory, which
takes about three minutes of two cores. It needs the extras `plots`, `proxy` and `laws`. A test runs
the same commands on a smaller corpus and looks for cut numbers.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from click.testing import CliRunner

import curate
from curate.cli import cli

PAGE = Path(__file__).parents[1] / "docs" / "captures.md"

WIDTHS = (80, 140)

WIDE = ("diff", "validate", "verify", "plan", "mix")
"""Commands whose wide tables are worth showing, too."""

UNSHOWN = ("methods", "formats", "tokenize mix.yaml", "stats mix.yaml --compare",
           "build mix.yaml --dry-run", "build mix.yaml --set name=other --set seed=7",
           "build mix.yaml --set name=hub --set output.format=parquet")  # fmt: skip
"""Commands that print what others do, or tables that other pages have."""

INTRODUCTION = """\
# What each command prints

Every command that shows a result, on a small dataset, in a terminal of 80 columns; some at 140,
too. Columns that do not fit go on below, and numbers are never cut. Progress and notes are left
out here.
`python tools/captures.py` wrote this page; its times and counts are those of one machine.
"""

PROXY = (
    "{preset: nano, runs: 8, tokens: 4096, sequence_length: 32, batch: 4, checkpoints: 3, "
    "validation_tokens: 400}"
)

COMMANDS = (
    "--help",
    "methods", "formats", "formats megatron", "corpus", "doctor", "init data --recipe first.yaml",
    "tokenize mix.yaml", "stats mix.yaml", "stats mix.yaml --intervals", "stats mix.yaml --compare",
    "mix mix.yaml", "mix mix.yaml --methods natural,temperature,unimax,entropy", "plan mix.yaml",
    "build mix.yaml --dry-run", "build mix.yaml", "build mix.yaml --set name=other --set seed=7",
    "verify out/mix", "report mix.yaml", "show out/mix train/shard-00000:17", "show out/mix ID",
    "show out/mix --step 0 --batch 4 --length 64", "diff mix.yaml small.yaml",
    "diff out/mix out/other", "build mix.yaml --set name=hub --set output.format=parquet",
    "push out/hub owner/name --dry-run", "remove out/mix ids.txt",
    "proxy small.yaml", "experts small.yaml", "validate small.yaml --seeds 2", "mix small.yaml",
    "mix small.yaml --methods natural,bimix,ridge", "fit RUNS --laws bimix,ridge",
    "design --runs RUNS -n 3",
    "mix --runs RUNS --set mixture.method=bimix --set mixture.replicates=0",
)  # fmt: skip
"""Every command that shows a result, in an order that can be run; `ID` and `RUNS` are filled in."""

MIX = """\
name: mix
tokenizer: {{train: {{vocab_size: {vocabulary}, sample_bytes: 200_000}}}}
domains:
{domains}
mixture: {{method: entropy}}
max_epochs: 4
budget_tokens: {tokens}
validation: {{documents: 0.05}}
output: {{format: megatron}}
"""


def write_recipes(
    work: Path, domains: Sequence[tuple[str, str]], tokens: int, vocabulary: int
) -> None:
    """Write the two recipes that the commands name.

    Args:
        work: Directory to write to.
        domains: Name and paths of each.
        tokens: Budget of both.
        vocabulary: Tokens of the tokenizer that is trained.
    """
    lines = "\n".join(f'  - {{name: {name}, paths: "{paths}"}}' for name, paths in domains)
    mix = MIX.format(domains=lines, tokens=tokens, vocabulary=vocabulary)
    (work / "mix.yaml").write_text(mix, "utf-8")
    evidence = f"{{method: bimix, replicates: 0, evidence: {{proxy: {PROXY}}}}}"
    small = mix.replace("{method: entropy}", evidence).replace("name: mix", "name: small")
    (work / "small.yaml").write_text(small, "utf-8")


def run(command: str, width: int) -> str:
    """Run a command in the current directory and return what it prints, errors too.

    Args:
        command: One of `COMMANDS`.
        width: Columns of the terminal.

    Raises:
        RuntimeError: The command fails.
    """
    arguments = shlex.split(command)
    if "RUNS" in arguments:
        runs = str(next(Path().glob("**/runs.csv")))
        arguments = [runs if argument == "RUNS" else argument for argument in arguments]
    if "ID" in arguments:
        arguments[arguments.index("ID")] = Path("ids.txt").read_text("utf-8").split()[0]
    result = CliRunner(env={"COLUMNS": str(width)}).invoke(cli, arguments)
    if result.exit_code:
        raise RuntimeError(f"curate {command}: {result.output}") from result.exception
    return result.output


def faults(text: str, width: int) -> list[str]:
    """Return lines of a capture that are cut, or whose table is wider than the terminal.

    A sentence or path may be longer than a line: the terminal wraps it, and it can be copied whole.

    Args:
        text: What a command printed.
        width: Columns of the terminal.
    """
    return [
        line
        for line in text.splitlines()
        if re.search(r"\d\s?…|…\s?\d|[│┃]\s*…|…\s*[│┃]|\w\.\.\.$|Traceback", line)
        or (len(line) > width and re.search(r"[│┃━─]|   ", line.strip()))
    ]


def page(work: Path) -> str:
    """Run the commands in the current directory, and return the page.

    Args:
        work: That directory, whose name the page does not tell.
    """
    parts = [INTRODUCTION]
    for command in COMMANDS:
        if command.startswith("init"):
            Path("data").mkdir()
            for name in ("manuals", "licences"):
                shutil.copyfile(next(Path(".curate").rglob(f"{name}.jsonl*")), f"data/{name}.jsonl")
        texts = []
        for width in WIDTHS:
            Path("first.yaml").unlink(missing_ok=True)
            texts.append(run(command, width).replace(f"{work}{os.sep}", "").rstrip())
            if command == "build mix.yaml" and not Path("ids.txt").exists():
                Path("ids.txt").write_text(identifiers(), "utf-8")
        if command in UNSHOWN:
            continue
        name = command.split()[0].strip("-")
        heading = "" if f"\n## {name}\n" in "".join(parts) else f"\n## {name}\n"
        shown = command.replace("RUNS", "runs.csv")
        parts.append(f"{heading}\n`curate {shown}`\n\n```text\n{results(texts[0])}\n```\n")
        if results(texts[1]) != results(texts[0]) and name in WIDE:
            parts.append(f"\nAt 140 columns:\n\n```text\n{results(texts[1])}\n```\n")
    return "".join(parts)


def results(text: str) -> str:
    """Return a capture without progress, notes and the spaces at ends of lines."""
    return "\n".join(
        line.rstrip() for line in text.splitlines() if not line.startswith(("✓ ", "note "))
    ).strip("\n")


def identifiers() -> str:
    """Return the identifiers of two documents of the dataset, a line each."""
    places = (curate.show("out/mix", f"train/shard-00000:{place}") for place in (17, 5000))
    return "".join(f"{place.documents[0].id}\n" for place in places)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("out/captures"), help="new directory")
    work = parser.parse_args().work.resolve()
    work.mkdir(parents=True)
    os.chdir(work)
    domains = [(name, f"corpus://{name}") for name in ("docstrings", "stubs_config", "manuals")]
    write_recipes(work, domains, 200_000, 2048)
    text = page(work)
    PAGE.write_text(text, "utf-8")
    print(f"{PAGE}: {len(text.encode()):,} bytes")


if __name__ == "__main__":
    main()
