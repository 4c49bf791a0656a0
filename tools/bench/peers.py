"""The pipelines that are compared: how each is got, started, and how many tokens it wrote.

A peer runs in the environment given for it, as its manual says, in a process tree of its own, from
files to token files. curate does more in the same time: it also keeps a document table, counts
bigrams, measures entropies and tests its tokenizer.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MEGATRON_UINT16_VOCABULARY = 65_500

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@dataclass(frozen=True)
class Setup:
    """Settings that all pipelines share."""

    directory: Path
    """Made by `inputs.py`."""
    described: dict[str, Any]
    """Its `input.json`."""
    workers: int
    pythons: dict[str, str]
    """Environment → interpreter."""
    megatron: Path | None
    """A checkout of Megatron-LM."""
    eos: str

    @property
    def tokenizer(self) -> Path:
        """Directory of the tokenizer in all its forms."""
        return self.directory / "tokenizer"

    def token_bytes(self) -> int:
        """Width of an id where a writer takes the smallest unsigned type."""
        return 2 if self.described["vocabulary"] <= 1 << 16 else 4


@dataclass(frozen=True)
class Case:
    """A pipeline on one form of the input."""

    pipeline: str
    size: str
    """`full`, `subset` or `tiny`."""
    form: str
    """`zst` or `jsonl` (a directory a domain), `all.jsonl` or `all.jsonl.zst` (one file)."""

    @property
    def label(self) -> str:
        """Name in a table."""
        return f"{self.pipeline} {self.form}" + (" (subset)" if self.size == "subset" else "")

    def input(self, setup: Setup) -> Path:
        """Its input, a directory or a file."""
        return setup.directory / self.size / self.form


@dataclass(frozen=True)
class Pipeline:
    """How to run one tool."""

    environment: str
    """Whose interpreter runs it; `curate` is ours."""
    get: str
    """How a person gets it."""
    cases: tuple[tuple[str, str], ...]
    """(size, form) of the inputs it is run on by default."""
    command: Callable[[Setup, Case, Path], list[str]]
    """(setup, case, output directory) → arguments; may write small files into the output."""
    tokens: Callable[[Setup, Path, str], int | None]
    """(setup, output directory, what it printed) → tokens written; None where not easily seen."""


def _curate_command(setup: Setup, case: Case, output: Path) -> list[str]:
    source = case.input(setup)
    if source.is_dir():
        paths = {domain.name: [str(domain / "*")] for domain in sorted(source.iterdir())}
    else:
        paths = {"all": [str(source)]}
    recipe = {
        "name": "bench",
        "tokenizer": {"path": str(setup.tokenizer / "tokenizer.json"), "eos": setup.eos},
        "domains": [{"name": name, "paths": found} for name, found in paths.items()],
        "budget_tokens": 1_000,
        "cache": "cache",
        "output": {"dir": "out"},
    }
    path = output / "recipe.yaml"
    path.write_text(json.dumps(recipe, indent=2))  # JSON is YAML
    options = ["--workers", str(setup.workers), "--quiet"]
    return [setup.pythons["curate"], "-m", "curate.cli", "tokenize", str(path), *options]


def _curate_tokens(setup: Setup, output: Path, printed: str) -> int:
    domains = json.loads((output / "out" / "stats.json").read_text())["domains"].values()
    return sum(domain["tokens"] for domain in domains)


def _peer_command(setup: Setup, case: Case, output: Path) -> list[str]:
    python = setup.pythons[PIPELINES[case.pipeline].environment]
    script = [python, str(HERE / "peer_main.py"), case.pipeline]
    places = [str(case.input(setup)), str(output), str(setup.tokenizer)]
    return [*script, *places, setup.eos, str(setup.workers)]


def _dolma_command(setup: Setup, case: Case, output: Path) -> list[str]:
    return [
        *(setup.pythons["dolma"], "-m", "dolma.cli", "tokens"),
        *("--documents", str(case.input(setup) / "*" / "*.jsonl*")),
        *("--destination", str(output / "tokens")),
        *("--tokenizer.name_or_path", str(setup.tokenizer / "string_merges.json")),
        *("--tokenizer.eos_token_id", str(setup.described["eos_id"])),
        *("--dtype", "uint16" if setup.token_bytes() == 2 else "uint32"),
        *("--processes", str(setup.workers)),
    ]


def _megatron_command(setup: Setup, case: Case, output: Path) -> list[str]:
    assert setup.megatron is not None
    fast = case.pipeline == "megatron-fast"
    script = "preprocess_data_fast.py" if fast else "preprocess_data.py"
    own = ["--use-gigatoken"] if fast else ["--workers", str(setup.workers)]
    return [
        *(setup.pythons["megatron"], str(setup.megatron / "tools" / script)),
        *("--input", str(case.input(setup)), "--output-prefix", str(output / "tokens")),
        *("--tokenizer-type", "HuggingFaceTokenizer"),
        *("--tokenizer-model", str(setup.tokenizer), "--append-eod", *own),
    ]


def _megatron_tokens(setup: Setup, output: Path, printed: str) -> int:
    narrow = setup.described["vocabulary"] < MEGATRON_UINT16_VOCABULARY
    return _written(output, "*.bin") // (2 if narrow else 4)


def _limit_command(setup: Setup, case: Case, output: Path) -> list[str]:
    script = [setup.pythons[PIPELINES[case.pipeline].environment], str(HERE / "limits.py")]
    places = [str(case.input(setup)), str(output), str(setup.tokenizer)]
    return [*script, case.pipeline.removeprefix("limit:"), *places, str(setup.workers)]


def _limit_tokens(setup: Setup, output: Path, printed: str) -> int | None:
    return printed_json(printed).get("tokens")


def printed_json(printed: str) -> dict[str, Any]:
    r"""The object a limit printed on its last line.

    Example:
        >>> printed_json('warning: x\n{"tokens": 3}\n')
        {'tokens': 3}
    """
    value: dict[str, Any] = json.loads(printed.strip().splitlines()[-1])
    return value


def _litdata_tokens(setup: Setup, output: Path, printed: str) -> int:
    index = json.loads((output / "optimized" / "index.json").read_text())
    return sum(int(chunk["dim"]) for chunk in index["chunks"])


def _by_size(pattern: str) -> Callable[[Setup, Path, str], int]:
    def tokens(setup: Setup, output: Path, printed: str) -> int:
        return _written(output, pattern) // setup.token_bytes()

    return tokens


def _written(output: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in output.rglob(pattern))


def _unknown(setup: Setup, output: Path, printed: str) -> None:
    return None


SUBSET_ZST = (("subset", "zst"),)

PIPELINES: dict[str, Pipeline] = {
    "curate": Pipeline("curate", "this checkout", (), _curate_command, _curate_tokens),
    "megatron-fast": Pipeline(
        "megatron",
        "git clone Megatron-LM; pip install torch transformers gigatoken",
        (("full", "all.jsonl"), ("subset", "all.jsonl")),
        _megatron_command,
        _megatron_tokens,
    ),
    "megatron": Pipeline(
        "megatron",
        "git clone Megatron-LM; pip install torch transformers",
        (("subset", "all.jsonl"),),
        _megatron_command,
        _megatron_tokens,
    ),
    "datatrove": Pipeline(
        "datatrove",
        "pip install 'datatrove[io,processing]' zstandard",
        SUBSET_ZST,
        _peer_command,
        _by_size("merged/*.ds"),
    ),
    "hf-datasets": Pipeline(
        "hf-datasets",
        "pip install datasets tokenizers zstandard",
        SUBSET_ZST,
        _peer_command,
        _unknown,
    ),
    "dolma": Pipeline(
        "dolma",
        "pip install dolma==1.2.1 'tokenizers<=0.19.1' backports.zstd",
        SUBSET_ZST,
        _dolma_command,
        _by_size("*.npy"),
    ),
    "litdata": Pipeline(
        "litdata",
        "pip install litdata tokenizers zstandard",
        SUBSET_ZST,
        _peer_command,
        _litdata_tokens,
    ),
    "mds": Pipeline(
        "mds",
        "pip install mosaicml-streaming tokenizers zstandard",
        SUBSET_ZST,
        _peer_command,
        _unknown,
    ),
    "limit:gigatoken": Pipeline(
        "gigatoken",
        "pip install gigatoken",
        (("full", "jsonl"), ("full", "zst")),
        _limit_command,
        _limit_tokens,
    ),
    "limit:fastokens": Pipeline(
        "curate", "comes with curate", (("full", "jsonl"),), _limit_command, _limit_tokens
    ),
    "limit:zstd": Pipeline(
        "curate", "comes with curate", (("full", "zst"),), _limit_command, _unknown
    ),
    "limit:copy": Pipeline(
        "curate", "comes with curate", (("full", "jsonl"),), _limit_command, _unknown
    ),
}
"""Name → how to run it. Slow peers get the subset; rates a MB are what is compared."""


def environment(setup: Setup, pipeline: str) -> dict[str, str]:
    """Variables for a pipeline's processes."""
    if PIPELINES[pipeline].environment == "curate":
        return {"PYTHONPATH": str(ROOT)}
    variables = dict(OFFLINE)
    if pipeline == "megatron-fast":
        variables["RAYON_NUM_THREADS"] = str(setup.workers)
    if setup.megatron is not None and pipeline.startswith("megatron"):
        variables["PYTHONPATH"] = str(setup.megatron)
    return variables


def find_pythons(given: list[str]) -> dict[str, str]:
    """Interpreters from `NAME=PYTHON` options and CURATE_BENCH_<NAME> variables.

    Ours serves for gigatoken too, unless another is given.
    """
    pythons = {"curate": sys.executable, "gigatoken": sys.executable}
    for name in {pipeline.environment for pipeline in PIPELINES.values()}:
        variable = os.environ.get(f"CURATE_BENCH_{name.upper().replace('-', '_')}")
        if variable:
            pythons[name] = variable
    for option in given:
        name, equals, python = option.partition("=")
        environments = {pipeline.environment for pipeline in PIPELINES.values()}
        if not equals or name not in environments:
            raise SystemExit(
                f"--peer-env {option}: NAME=PYTHON, NAME one of {sorted(environments)}"
            )
        pythons[name] = str(Path(python).absolute())
    return pythons
