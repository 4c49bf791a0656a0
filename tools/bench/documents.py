"""Plan, write and verify datasets of very many tiny documents: seconds and memory by stage.

    python tools/bench/documents.py [--documents 1e6,1e7] [--form npy] [--workers 1]

A token store of random documents, about eight tokens each, is made directly: its input files are
empty shells with the right names, so nothing is tokenised. Then every command runs as a process of
its own: `plan`, and `build` (which plans, writes and verifies) and `verify`, of 1 % and of all
tokens. A peak is the largest resident set of any process of the command, pages of mapped files
included; with one worker, those of the stages are of the same process. Silence is the longest time
between two signs of progress.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measure import run
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from curate.dataset.manifest import DatasetLayout  # noqa: E402
from curate.pipeline.build import build  # noqa: E402
from curate.pipeline.plan import plan_recipe  # noqa: E402
from curate.pipeline.read_back import read_back  # noqa: E402
from curate.recipe import LoadedRecipe, parse  # noqa: E402
from curate.runtime.memory import bounded  # noqa: E402
from curate.runtime.progress import Observer  # noqa: E402
from curate.sources import expand, identify, segments  # noqa: E402
from curate.sources.records import ReadOptions  # noqa: E402
from curate.tokens import tokenizer as tokenizers  # noqa: E402
from curate.tokens.entries import Entry  # noqa: E402
from curate.tokens.store import DOCUMENT, PartWriter, TokenStore  # noqa: E402

DOMAINS = ("web", "code", "books", "talk")
WORDS = 4096
FILE_DOCUMENTS = 500_000
TOKENS_OF_DOCUMENT = 8
COPIES = 0.01
"""Share of the documents that have the text of another."""

COMMANDS = "plan 0.01,build 0.01,verify 0.01,build 1,verify 1"
SHARD_TOKENS = 50_000_000
SEQUENCE_TOKENS = 2048
SEED = 19


class StageClock(Observer):
    """Seconds, peak memory and longest silence of each stage."""

    def __init__(self) -> None:
        """Start the clock of what comes before the first stage."""
        self.rows: dict[str, list[float]] = {}
        self._stage = "start"
        self._begun = self._heard = time.perf_counter()
        self._silence = 0.0
        _reset_peak()

    def begin(self, stage: str, names: Sequence[str] = (), totals: Sequence[int] = ()) -> None:
        """Close the stretch between two stages."""
        self._close(stage)

    def advance(self, counters: NDArray[np.int64]) -> None:
        """Note a sign of progress."""
        now = time.perf_counter()
        self._silence, self._heard = max(self._silence, now - self._heard), now

    def end(self, summary: str = "") -> None:
        """Close the stage; what follows belongs to the next."""
        self._close("between")

    def finish(self) -> None:
        """Close the last stretch."""
        self._close("")

    def _close(self, stage: str) -> None:
        self.tick()
        row = self.rows.setdefault(self._stage, [0.0, 0.0, 0.0])
        row[0] += self._heard - self._begun
        row[1], row[2] = max(row[1], _peak_bytes()), max(row[2], self._silence)
        self._stage, self._begun, self._silence = stage, self._heard, 0.0
        _reset_peak()


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> float:
    text = Path("/proc/self/status").read_text()
    return 1024.0 * int(text.partition("VmHWM:")[2].split()[0])


def main() -> None:
    options = _options()
    if options.command:
        print(json.dumps(_command(options)))
        return
    sizes = [200_000] if options.smoke else [int(float(n)) for n in options.documents.split(",")]
    print(
        f"| documents | command | wall s | CPU s | peak MB | silence s |"
        f" seconds / peak MB by stage ({options.form}, {options.workers} workers) |\n"
        "|---:|---|---:|---:|---:|---:|---|"
    )
    for documents in sizes:
        work = (options.work / f"documents-{documents}").resolve()
        if not (work / "store.json").exists():
            shutil.rmtree(work, ignore_errors=True)
            _make_store(work, documents)
        for command in options.commands.split(","):
            print(_measured(command, documents, work, options), flush=True)
        if not options.keep:
            shutil.rmtree(work)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Very many tiny documents.")
    parser.add_argument("--documents", default="1e6,1e7", help="sizes, with commas")
    parser.add_argument("--commands", default=COMMANDS, help="which, each with its share")
    parser.add_argument("--form", default="npy", help="output format")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--memory-mb", type=int, help="limits.memory_mb of the recipe")
    parser.add_argument("--keep", action="store_true", help="keep the stores for later runs")
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it runs")
    parser.add_argument("--work", type=Path, default=Path("bench-work"), help="scratch directory")
    parser.add_argument("--command", help=argparse.SUPPRESS)
    return parser.parse_args()


def _measured(command: str, documents: int, work: Path, options: argparse.Namespace) -> str:
    """Run one command in a process of its own, and return its row of the table."""
    arguments = [sys.executable, __file__, "--command", command, "--work", str(work)]
    arguments += ["--form", options.form, "--workers", str(options.workers)]
    if options.memory_mb:
        arguments += ["--memory-mb", str(options.memory_mb)]
    usage = run(arguments, directory=work, limit_seconds=7200.0)
    rows = json.loads(usage.output.splitlines()[-1])
    stages = ", ".join(
        f"{stage} {seconds:.1f} / {peak / 1e6:.0f}"
        for stage, (seconds, peak, _) in rows.items()
        if seconds >= 0.05
    )
    silence = max(row[2] for row in rows.values())
    peak = max(usage.peak_bytes, *(row[1] for row in rows.values()))  # resets hide earlier peaks
    return (
        f"| {documents:,} | {command} | {usage.wall_seconds:.1f} | {usage.cpu_seconds:.1f} "
        f"| {peak / 1e6:.0f} | {silence:.1f} | {stages} |"
    )


def _command(options: argparse.Namespace) -> dict[str, list[float]]:
    command, share = options.command.split()
    clock = StageClock()
    loaded = _recipe(options, float(share))
    if command in ("plan", "build"):
        with bounded(loaded.recipe.limits.memory_mb << 20, loaded.cache_dir, clock.tick):
            if command == "plan":
                plan_recipe(loaded, options.workers, clock)
            else:
                certificate = build(loaded, options.workers, clock, overwrite=True).certificate
                assert certificate["ok"], certificate["problems"]
    else:
        result = read_back(DatasetLayout(loaded.output_dir), None, options.workers, clock)
        assert result.ok, result.problems
    clock.finish()
    return clock.rows


def _recipe(options: argparse.Namespace, share: float) -> LoadedRecipe:
    """The recipe that takes a share of the training tokens, as far as it is known."""
    work = options.work
    described = json.loads((work / "store.json").read_text())
    fields: dict[str, Any] = {
        "name": f"share-{share:g}",
        "tokenizer": {"path": "tokenizer.json", "eos": "<|end|>"},
        "domains": [{"name": name, "paths": f"{name}/*.jsonl"} for name in DOMAINS],
        "mixture": {"method": "natural"},
        "budget_tokens": int(described["tokens"] * share),
        "on_shortfall": "repeat",
        "output": {"format": options.form, "shard_tokens": SHARD_TOKENS},
    }
    if options.form == "npy":
        fields["sequence_length"] = SEQUENCE_TOKENS
    if options.memory_mb:
        fields["limits"] = {"memory_mb": options.memory_mb}
    return parse(json.dumps(fields), work)


def _make_store(work: Path, documents: int) -> None:
    """Write input files, the tokenizer, and a store that says it was made from them."""
    work.mkdir(parents=True)
    _write_tokenizer(work / "tokenizer.json")
    tokenizer = tokenizers.load(work / "tokenizer.json", "<|end|>")
    store = TokenStore(work / ".curate", tokenizer.fingerprint, tokenizer.dtype)
    files = -(-documents // FILE_DOCUMENTS)
    by_domain: dict[str, list[int]] = {name: [] for name in DOMAINS}
    for number in range(max(files, len(DOMAINS))):
        by_domain[DOMAINS[number % len(DOMAINS)]].append(number)
    per_file = -(-documents // max(files, len(DOMAINS)))
    tokens = 0
    for name, numbers in by_domain.items():
        (work / name).mkdir()
        for number in numbers:
            (work / name / f"{number}.jsonl").write_text(f'{{"text": "file {number}"}}\n')
        options = ReadOptions("text", "id", "auto", "*")
        paths = expand([f"{name}/*.jsonl"], options, work)
        for plan in segments(identify(paths, work / ".curate", print), options):
            for file, key in zip(plan.files, plan.keys, strict=True):
                tokens += _write_part(store.directory, key, file.path, per_file)
    (work / "store.json").write_text(json.dumps({"documents": documents, "tokens": tokens}))


def _write_tokenizer(path: Path) -> None:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import WordLevel

    words = {f"w{number}": number for number in range(WORDS)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    tokenizer.save(str(path))


def _write_part(store: Path, key: str, path: str, documents: int) -> int:
    """Write one file's documents as a part; return their tokens."""
    rng = np.random.default_rng([SEED, int(key[:8], 16)])
    lengths = rng.geometric(1 / (TOKENS_OF_DOCUMENT - 1), documents) + 1
    table = np.zeros(documents, DOCUMENT)
    table["token_stop"] = np.cumsum(lengths)
    table["text_bytes"] = 4 * (lengths - 1)
    for name in ("content_high", "content_low", "identity"):
        table[name] = rng.integers(0, 2**64, documents, np.uint64)
    copies = np.flatnonzero(rng.random(documents) < COPIES)[1:]
    for name in ("content_high", "content_low"):
        table[name][copies] = table[name][copies - 1]
    table["line"] = np.arange(1, documents + 1)
    tokens = rng.integers(0, WORDS, int(lengths.sum()), np.uint16)
    tokens[table["token_stop"].astype(np.int64) - 1] = WORDS
    entry = Entry(
        key=key, segment=0, last=True, path=path, document_start=0, document_stop=documents,
        token_start=0, token_stop=len(tokens), lines=documents, raw_bytes=0,
        text_bytes=int(table["text_bytes"].sum()), bad_records=0,
    )  # fmt: skip
    writer = PartWriter(store, "random ids")
    writer.add_documents(tokens, table, [b""] * documents)
    writer.entries.append(entry)
    writer.flush()
    return len(tokens)


if __name__ == "__main__":
    main()
