"""Small real inputs: three domains of made-up words, and a tokenizer trained on them."""

from __future__ import annotations

import gc
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Before libraries read it: threads of two tests that wait for each other by spinning took eight
# times the CPU time (`test_online_mixing`, 340 s and 41 s on a busy machine).
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from curate.dataset.hashed_json import with_hash
from curate.runtime.mapping import _system
from curate.runtime.progress import Observer

os.environ.pop("COLUMNS", None)  # xdist sets it to 80, and tables obey it


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runslow", action="store_true", help="run tests marked slow, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--runslow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="repeats a check: --runslow runs it"))


def slow_if(is_slow: Callable[[Any], bool], cases: Iterable[Any]) -> list[Any]:
    """Values of a parameter, some of which are marked slow."""
    return [pytest.param(case, marks=pytest.mark.slow) if is_slow(case) else case for case in cases]


@pytest.fixture(scope="session")
def runslow(request: pytest.FixtureRequest) -> bool:
    """Whether a check goes through all of its inputs, or through some of them."""
    return bool(request.config.getoption("--runslow"))


def pytest_configure() -> None:
    """Collect no garbage among a million objects of modules and tests, which all stay."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()
    use_large_pages()


def use_large_pages() -> None:
    """Move what was imported to pages of 2 MB, which a fork copies in half the time.

    All of it takes 600 MB; four files of tests took 128 CPU seconds with large pages, 137 without.
    Where the system cannot do it (before Linux 6.1), nothing happens.
    """
    if sys.platform != "linux":
        return
    collapse = 25  # MADV_COLLAPSE, which mmap does not name
    system = _system()
    for area, rights, *rest in map(str.split, Path("/proc/self/maps").read_text().splitlines()):
        if rights == "rw-p" and rest[3:] in ([], ["[heap]"]):
            start, stop = (int(end, 16) for end in area.split("-"))
            system.madvise(start, stop - start, collapse)


END = "<|endoftext|>"
PAD = "<|pad|>"

WORDS = {
    "wiki": "the river city history of and in was north king founded museum station".split(),
    "code": "def return self import for in range ( ) : = + value index size list".split(),
    "talk": "yes no hello please thanks when where would like to book a table 你好 ещё".split(),
}


class Listener(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.notices: list[str] = []

    def begin(self, stage: str, names: Sequence[str] = (), totals: Sequence[int] = ()) -> None:
        self.begun.append(stage)

    def notice(self, message: str) -> None:
        self.notices.append(message)


def make_documents(domain: str, documents: int, seed: int = 0) -> list[dict[str, str]]:
    """Seeded documents of 5 to 120 words, the last of each ten a copy of the first."""
    rng = np.random.default_rng([seed, *domain.encode()])
    rows: list[dict[str, str]] = []
    for number in range(documents):
        words = rng.choice(WORDS[domain], rng.integers(5, 120))
        text = " ".join(words) + f" {number}\n"
        if number % 10 == 9:
            text = rows[number - 9]["text"]
        rows.append({"id": f"{domain}-{number}", "text": text, "lang": "xx"})
    return rows


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def forge_manifest(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a dataset's manifest, and give it the hash of what it now says."""
    path = directory / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest.pop("xxh3")
    change(manifest)
    path.write_bytes(with_hash(json.dumps(manifest, indent=2).encode()))


ABOUT_PROCESSES = {
    "test_build",
    "test_claims",
    "test_cli",
    "test_docs",
    "test_engine",
    "test_environments",
    "test_escape",
    "test_faults",
    "test_interrupts",
    "test_machine",
    "test_memory",
    "test_output_dirs",
    "test_proxy_shared",
    "test_syscalls",
}
"""Test files whose commands start as many workers as there are cores."""


@pytest.fixture(scope="module", autouse=True)
def cores(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let commands do their work in one process, unless a test sets the number of workers.

    Such a test wants that many, however small its work. A build then forks 18 times: from a process
    of 1 GB, as one that runs all tests is, 1 s of CPU, where the work of a small build takes 0.1 s.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("curate.runtime.workers.BYTES_PER_WORKER", 1)
        if request.path.stem not in ABOUT_PROCESSES:
            patch.setenv("PYTHON_CPU_COUNT", "1")
        yield


SMALL_SEARCH = {
    "curate.laws.forms.joint.ROWS_REFIT": 0,
    "curate.laws.forms.boosted.TREES": 300,
    "curate.mixture.search.optimise.STARTS": 2,
    "curate.mixture.search.optimise.ANCHORS": 1,
    "curate.mixture.search.optimise.CANDIDATES": 400,
}


@contextmanager
def small_searches() -> Iterator[None]:
    """Fewer trees, starts and candidates, for tests that ask what is read, refused or written.

    They hold for any optimum, and the whole search takes most of their time.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL_SEARCH.items():
            patch.setattr(name, value)
        yield


@pytest.fixture
def small_search() -> Iterator[None]:
    with small_searches():
        yield


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `data/<domain>/part-<n>.jsonl`, 600 documents in all."""
    root = tmp_path_factory.mktemp("corpus")
    for domain, documents in (("wiki", 300), ("code", 200), ("talk", 100)):
        rows = make_documents(domain, documents)
        half = documents // 2
        write_jsonl(root / "data" / domain / "part-0.jsonl", rows[:half])
        write_jsonl(root / "data" / domain / "part-1.jsonl", rows[half:])
    return root


@pytest.fixture(scope="session")
def bpe() -> dict[str, Any]:
    """A byte-level BPE of 400 tokens as a tokenizer.json value."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [row["text"] for name in ("wiki", "code", "talk") for row in make_documents(name, 50)]
    trained.train_from_iterator(texts, trainer)
    value: dict[str, Any] = json.loads(trained.to_str())
    return value


RECIPE = """
name: tiny
tokenizer: {{train: {{vocab_size: 400, sample_bytes: 60000}}}}
domains:
  - {{name: wiki, paths: "{data}/wiki/*"}}
  - {{name: code, paths: "{data}/code/*"}}
  - {{name: talk, paths: "{data}/talk/*"}}
mixture: {{method: entropy, estimator: plugin}}
max_epochs: 4
budget_tokens: 30000
validation: {{documents: 0.05}}
"""


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for all tests, so that the corpus is tokenised once; see `own_store`."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def recipe(corpus: Path, cache: Path, tmp_path: Path) -> Path:
    """A recipe over the corpus, with an output of its own."""
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{RECIPE.format(data=corpus / 'data')}cache: {cache}\n", "utf-8")
    return path


@pytest.fixture
def own_store(request: pytest.FixtureRequest) -> None:
    """Let the recipe keep its tokens beside itself, in a test of what a store holds."""
    if "recipe" in request.fixturenames:
        recipe: Path = request.getfixturevalue("recipe")
        own = re.sub(r"^cache: .*\n", "", recipe.read_text("utf-8"), flags=re.M)
        recipe.write_text(own, "utf-8")
