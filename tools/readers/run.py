"""Read one dataset with the trainers' own readers and print what came of it.

    python tools/readers/run.py WORK --envs DIR [--install] [--only megatron_core,levanter]
        [--input DIR] [--tokens 2e6] [--wide] [--markdown FILE]

`WORK` gets the datasets (`prepare.py`), `DIR` the environments: `torch` for most readers and
`levanter` for one that goes with JAX. `--install` makes them (2.2 GB and 1.8 GB). Each reader runs
in a process of its own and is told only where the datasets are; a reader that is absent, or that
fails, is a row of the table with the reason. Exit code 1 if any check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import prepare
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Reader:
    """A script and where it runs."""

    script: str
    environment: str
    distribution: str


READERS = (
    Reader("megatron_core", "torch", "megatron-core"),
    Reader("olmo_core_", "torch", "ai2-olmo-core"),
    Reader("datatrove_", "torch", "datatrove"),
    Reader("mosaicml_streaming", "torch", "mosaicml-streaming"),
    Reader("litdata_litgpt", "torch", "litdata"),
    Reader("nemo_automodel_", "torch", "nemo-automodel"),
    Reader("hf_datasets", "torch", "datasets"),
    Reader("torchtitan_", "torch", "torchtitan"),
    Reader("webdataset_", "torch", "webdataset"),
    Reader("numpy_", "torch", "numpy"),
    Reader("levanter_", "levanter", "marin-levanter"),
)

ABSENT = {
    "llm.c (C)": "not a package: its reader is a C header; its layout is checked byte by byte",
    "nanoGPT": "not a package; it reads with one numpy.memmap, as the row of NumPy does",
    "nanotron (Nanoset)": "the package (0.4, 2024) has no Nanoset; datatrove's reader, which "
    "Nanoset wraps, is checked",
    "llm-foundry": "needs torch < 2.7.1, which does not go with the other readers",
    "GPT-NeoX": "not a package; reads the same files as Megatron-core",
    "nanochat": "the source package builds Rust crates",
    "megatron-energon": "its storage client needs filelock >= 4.1, OLMo-core < 4",
}
"""Readers that no registry has in a usable form, and why."""


def main() -> None:
    """Prepare, read, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--envs", type=Path, required=True)
    parser.add_argument("--install", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--input", type=Path)
    parser.add_argument("--tokens", type=float, default=2e6)
    parser.add_argument("--wide", action="store_true", help="token ids of more than 16 bits")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    if options.install:
        install(options.envs.resolve())
    work = options.work.resolve()
    prepare.prepare(work, options.input, int(options.tokens), wide=options.wide)
    readers = [one for one in READERS if not options.only or one.script in options.only.split(",")]
    rows = [row for one in readers for row in read(one, work, options.envs.resolve())]
    if not options.only:
        rows += [_row(name, "-", "", "not installed", reason) for name, reason in ABSENT.items()]
    show(rows)
    if options.markdown:
        options.markdown.write_text(markdown(rows), "utf-8")
    sys.exit(1 if any(row["result"] == "FAILED" for row in rows) else 0)


def install(envs: Path) -> None:
    """Make the two environments, in the order in which nothing replaces torch."""
    torch, levanter = envs / "torch", envs / "levanter"
    constraints = ["-c", str(HERE / "constraints.txt")]
    steps = {
        torch: (
            [*constraints, "torch"],
            [*constraints, "-r", str(HERE / "requirements.txt")],
            ["--no-deps", "-r", str(HERE / "requirements-nodeps.txt")],
        ),
        levanter: (["--pre", "-r", str(HERE / "requirements-levanter.txt")],),
    }
    for environment, installs in steps.items():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        for arguments in installs:
            pip = [str(environment / "bin" / "pip"), "install", "--quiet", *arguments]
            subprocess.run(pip, check=True)


def read(reader: Reader, work: Path, envs: Path) -> list[dict[str, str]]:
    """The rows that one reader's script prints."""
    python = envs / reader.environment / "bin" / "python"
    if not python.exists():
        reason = f"no environment {python.parent.parent}; run with --install"
        return [_row(reader.distribution, "-", "", "not installed", reason)]
    scratch = work / "scratch" / reader.script
    scratch.mkdir(parents=True, exist_ok=True)
    settings = {
        **os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(scratch / "hf"), "TOKENIZERS_PARALLELISM": "false", "JAX_PLATFORMS": "cpu",
        "LITDATA_DISABLE_VERSION_CHECK": "1", "CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "disabled",
    }  # fmt: skip
    log = scratch / "log.txt"
    with log.open("w") as errors:
        try:
            done = subprocess.run(
                [str(python), str(HERE / f"{reader.script}.py"), str(work)],
                stdout=subprocess.PIPE, stderr=errors, cwd=scratch, env=settings,
                timeout=TIMEOUT_SECONDS, text=True, check=False,
            )  # fmt: skip
            output, fault = done.stdout, f"exit code {done.returncode}" * (done.returncode != 0)
        except subprocess.TimeoutExpired as error:
            output = (error.stdout or b"").decode() if isinstance(error.stdout, bytes) else ""
            fault = f"no end after {TIMEOUT_SECONDS} seconds"
    rows = [json.loads(line[2:]) for line in output.splitlines() if line.startswith("@@")]
    if fault:
        lines = [line for line in log.read_text().splitlines() if line.strip()]
        last = lines[-1] if lines else "nothing said"
        absent = last.startswith("ModuleNotFoundError") and not rows
        result = "not installed" if absent else "FAILED"
        version = rows[0]["version"] if rows else "-"
        rows.append(
            _row(reader.distribution, version, "runs to its end", result, f"{fault}: {last}")
        )
    return rows


def _row(reader: str, version: str, check: str, result: str, detail: str) -> dict[str, str]:
    return {"reader": reader, "version": version, "check": check, "result": result,
            "detail": detail}  # fmt: skip


def show(rows: list[dict[str, str]]) -> None:
    """The table, on the terminal."""
    table = Table("reader", "version", "what was checked", "result", "detail")
    for row in rows:
        table.add_row(*(row[key] for key in ("reader", "version", "check", "result", "detail")))
    Console(width=200).print(table)


def markdown(rows: list[dict[str, str]]) -> str:
    """The table, for a page."""
    lines = ["| reader | version | what was checked | result | detail |", "|---|---|---|---|---|"]
    for row in rows:
        cells = (row[key].replace("|", "\\|") for key in ("reader", "version", "check", "result"))
        lines.append("| " + " | ".join([*cells, row["detail"].replace("|", "\\|")]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
