"""Reading batches back: written shards and the token store, against plain reading of a map.

    python tools/bench/loader.py [--tokens 100e6] [--length 2048] [--batch 8] [--rounds 3] [--smoke]

Makes a store of random ids in 7 domains (documents of about 700 tokens, spread as in web text),
writes it as megatron and npy shards, and reads an epoch of each in every round, from the page
cache, in one thread. Tokens a second of CPU time are what one core gives; the wall clock beside it
tells how much of the machine others had. `weights` draws by domain, at shares that stay or that
change before every step. `memmap` is the loop of many small trainers: for each
sequence of a shuffled order a slice of one map, widened to int64, stacked to a batch. `widen` only
widens the tokens in file order, a batch at a time: what memory gives.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from curate.dataset import manifest as dataset  # noqa: E402
from curate.dataset.manifest import DatasetLayout, Manifest, TokenizerRecord  # noqa: E402
from curate.dataset.ownership import clear  # noqa: E402
from curate.dataset.write_tokens import ShardTask, ShardWriter, write_shards  # noqa: E402
from curate.formats import find  # noqa: E402
from curate.formats.base import TokenFormat  # noqa: E402
from curate.loader import LoaderOptions, Sequences, load  # noqa: E402
from curate.loader.domain_windows import DomainStore, store_limits  # noqa: E402
from curate.loader.draws import Weights  # noqa: E402
from curate.loader.store_windows import PlannedStore, StoreSource  # noqa: E402
from curate.loader.weighted_loader import DomainDraws  # noqa: E402
from curate.mixture.request import DomainSupply  # noqa: E402
from curate.plan import DocumentSampler, SequenceSampler, stream  # noqa: E402
from curate.tokens.domain import DomainTokens  # noqa: E402
from curate.tokens.entries import DomainFile, Entry, StoredEntry  # noqa: E402
from curate.tokens.store import DOCUMENT, PartWriter  # noqa: E402

DOMAINS = 7
VOCABULARY = 50_257
DOCUMENT_TOKENS = 700
SHARDS = 4
SEED = 42
SMOKE_TOKENS = 400_000
UINT16 = np.dtype("<u2")
ALL_FIELDS = ("tokens", "document_labels", "positions", "cu_seqlens", "domains")


@dataclass(frozen=True)
class Shape:
    """Input of a benchmark."""

    length: int
    batch: int


def main() -> None:
    options = _options()
    tokens = SMOKE_TOKENS if options.smoke else int(options.tokens)
    rounds = 1 if options.smoke else options.rounds
    work = options.work / "loader"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    shape = Shape(options.length, options.batch)
    domains = [_domain(work / "store", number, tokens // DOMAINS) for number in range(DOMAINS)]
    directories = {name: _build(work / name, name, domains, shape) for name in ("megatron", "npy")}
    cases = _cases(domains, directories, shape)
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for case in cases.values():  # compiles, and fills the page cache
        _measure(case)
    for _ in range(rounds):
        for name, case in cases.items():
            rates[name].append(_measure(case))
    print(_table(rates, tokens, shape, rounds))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Reading batches back.")
    parser.add_argument("--tokens", type=float, default=100e6)
    parser.add_argument("--length", type=int, default=2048, help="tokens of a sequence")
    parser.add_argument("--batch", type=int, default=8, help="sequences of a batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it runs")
    parser.add_argument("--work", type=Path, default=Path("bench-work"), help="scratch directory")
    return parser.parse_args()


def _domain(store: Path, number: int, tokens: int) -> DomainTokens:
    """A domain of one part, as if it had been tokenised."""
    rng = np.random.default_rng([SEED, number])
    mean = np.log(DOCUMENT_TOKENS) - 0.5
    lengths = rng.lognormal(mean, 1.0, 2 * tokens // DOCUMENT_TOKENS).astype(np.int64) + 1
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), tokens)) + 1]
    table = np.zeros(len(lengths), DOCUMENT)
    table["token_stop"] = np.cumsum(lengths)
    for name in ("content_high", "content_low", "identity"):
        table[name] = rng.integers(0, 2**63, len(lengths))
    ids = rng.integers(0, VOCABULARY, int(lengths.sum()), UINT16)
    writer = PartWriter(store, "random ids")
    writer.add_documents(ids, table, [b""] * len(lengths))
    entry = Entry(
        key=f"domain-{number}", segment=0, last=True, path=f"domain-{number}", document_start=0,
        document_stop=len(lengths), token_start=0, token_stop=len(ids), lines=len(lengths),
        raw_bytes=0, text_bytes=0, bad_records=0,
    )  # fmt: skip
    writer.entries.append(entry)
    path = writer.flush()
    assert path is not None
    stored = StoredEntry(path, entry, "random ids")
    return DomainTokens(f"domain-{number}", [DomainFile(entry.path, (stored,))], UINT16)


def _streams(domains: list[DomainTokens]) -> list[Any]:
    return [
        stream(domain, np.ones(len(domain), bool), domain.total_tokens, SEED) for domain in domains
    ]


def _build(directory: Path, name: str, domains: list[DomainTokens], shape: Shape) -> Path:
    """A dataset of the whole store, as a build writes it."""
    directory.mkdir()
    tasks = [ShardTask("train", f"shard-{number:05d}", number) for number in range(SHARDS)]
    clear(directory, [(task.split, task.name) for task in tasks])
    streams = _streams(domains)
    length = shape.length if name == "npy" else None
    sampler = (
        DocumentSampler(streams, domains, SEED)
        if length is None
        else SequenceSampler(streams, length, SEED)
    )
    form = find(name)
    assert isinstance(form, TokenFormat)
    writer = ShardWriter(
        DatasetLayout(directory), form, UINT16, sampler, SHARDS, domains, [], length, 1
    )
    records = write_shards(writer, tasks, 1, lambda: None)
    manifest = Manifest(
        schema=dataset.SCHEMA, curate_version="", name=name, recipe_hash="", build_hash="",
        format=name, dtype=UINT16.str, sequence_length=length, seed=SEED,
        budget_tokens=sum(domain.total_tokens for domain in domains),
        tokenizer=TokenizerRecord("", "", None, None, VOCABULARY, ""),
        domains=[domain.name for domain in domains], shards=records, inputs=[], cache="",
    )  # fmt: skip
    dataset.write_manifest(manifest, directory)
    return directory


def _cases(
    domains: list[DomainTokens], directories: dict[str, Path], shape: Shape
) -> dict[str, Callable[[], Iterable[int]]]:
    """Name → a generator of the tokens of each batch, for one epoch."""
    megatron, npy = directories["megatron"], directories["npy"]
    planned = PlannedStore("bench", _streams(domains), domains, VOCABULARY - 1, SEED)
    store = StoreSource(planned, shape.length)
    labelled = StoreSource(planned, shape.length + 1)
    plain = np.memmap(megatron / "train" / "shard-00000.bin", UINT16, "r")
    opened = {
        "shards, npy": load(npy, shape.length),
        "shards, megatron": load(megatron, shape.length),
        "shards, megatron, labels": load(megatron, shape.length, fields=("tokens", "labels")),
        "shards, megatron, all fields": load(megatron, shape.length, fields=ALL_FIELDS),
        "store": Sequences(store),
        "store, all fields": Sequences(labelled, ALL_FIELDS),
    }
    cases: dict[str, Callable[[], Iterable[int]]] = {
        "plain: memmap": lambda: _memmap(plain, shape),
        "plain: widen": lambda: _widen(plain, shape),
    }
    for name, data in opened.items():
        cases[name] = lambda data=data: _batches(data, shape, "shuffled")  # type: ignore[misc]
    stored = opened["shards, megatron"]
    supply = [DomainSupply(domain.name, domain.total_tokens, 1.0) for domain in domains]
    limits = store_limits(planned, supply, True, shape.length)
    by_domain = DomainStore(planned, limits)
    given: dict[str, Weights] = {"stay": "planned", "change": _Tilted(limits.names)}
    for name, weights in given.items():
        drawn = Sequences(by_domain, draws=DomainDraws(limits, weights))
        cases[f"store, weights {name}"] = (
            lambda drawn=drawn: _batches(drawn, shape, "shuffled")  # type: ignore[misc]
        )
    cases["shards, megatron, stored order"] = lambda: _batches(stored, shape, "stored")
    return cases


class _Tilted:
    """Other weights in every step, a thousandth apart."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names, self._steps = names, 0

    def __call__(self, loader: Any) -> dict[str, float]:
        self._steps += 1
        return {name: 1 + (self._steps + at) % 7 / 1000 for at, name in enumerate(self._names)}


def _batches(data: Sequences, shape: Shape, order: str) -> Iterator[int]:
    loader = data.loader(shape.batch, options=LoaderOptions(order=order, prefetch_batches=0))
    for batch in loader:
        yield batch["tokens"].size


def _memmap(tokens: NDArray[np.uint16], shape: Shape) -> Iterator[int]:
    order = np.random.default_rng(SEED).permutation(len(tokens) // shape.length)
    for start in range(0, len(order), shape.batch):
        rows = [
            tokens[number * shape.length : (number + 1) * shape.length].astype(np.int64)
            for number in order[start : start + shape.batch].tolist()
        ]
        yield np.stack(rows).size


def _widen(tokens: NDArray[np.uint16], shape: Shape) -> Iterator[int]:
    step = shape.length * shape.batch
    for start in range(0, len(tokens), step):
        yield tokens[start : start + step].astype(np.int64).size


def _measure(case: Callable[[], Iterable[int]]) -> tuple[float, float]:
    """Million tokens a second of CPU, and of wall clock."""
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = sum(case())
    return (
        tokens / 1e6 / (time.process_time() - cpu),
        tokens / 1e6 / (time.perf_counter() - wall),
    )


def _table(
    rates: dict[str, list[tuple[float, float]]], tokens: int, shape: Shape, rounds: int
) -> str:
    lines = [
        f"{tokens / 1e6:.1f}M tokens, batches of {shape.batch} x {shape.length} as int64, "
        f"{rounds} rounds, median (least-most), M tokens a second",
        "",
        "| read | of CPU | of wall clock | CPU a sequence over the plain store's |",
        "|---|---|---|---|",
    ]
    plain = [cpu for cpu, _ in rates["store"]]
    for name, pairs in rates.items():
        cpu, wall = zip(*pairs, strict=True)
        over = [base / rate for base, rate in zip(plain, cpu, strict=True)]
        lines.append(f"| {name} | {_shown(cpu)} | {_shown(wall)} | {statistics.median(over):.2f} |")
    return "\n".join(lines)


def _shown(values: tuple[float, ...]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"


if __name__ == "__main__":
    main()
