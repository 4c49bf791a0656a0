"""Plan 10,000 domains of 10^6 files and 10^13 tokens: seconds and memory of each step.

    python tools/bench/many_domains.py [--domains 10000 --files 100 --tokens 1e13] [--form npy]

The store is synthetic: real tables of documents, one document a file, beside token files that are
holes of the right length. Everything from reading the parts to the plan's shards is the code that
`curate plan` runs; finding files and counting pairs are left out. Parts are larger than those of a
real store, which would be more maps than Linux allows a process.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from curate.curation.levels import DomainSettings  # noqa: E402
from curate.pipeline import tokenize  # noqa: E402
from curate.pipeline.plan import plan_json, plan_tokenized  # noqa: E402
from curate.recipe import LoadedRecipe, parse  # noqa: E402
from curate.runtime.files import hash_json  # noqa: E402
from curate.runtime.memory import bounded  # noqa: E402
from curate.runtime.progress import Observer  # noqa: E402
from curate.runtime.sealed import seal_of  # noqa: E402
from curate.stats.copies import held_out_documents, shared_documents  # noqa: E402
from curate.stats.domain_stats import domain_stats  # noqa: E402
from curate.stats.entropy import Entropies  # noqa: E402
from curate.stats.losses import domain_losses  # noqa: E402
from curate.tokens.domain import DomainTokens  # noqa: E402
from curate.tokens.entries import DomainFiles, Entry  # noqa: E402
from curate.tokens.store import DOCUMENT, HASHED, PartInfo, TokenStore  # noqa: E402
from curate.tokens.tokenizer import Tokenizer  # noqa: E402

PARTS = 1000
SEED = 5
BYTES_PER_TOKEN = 4
BUDGET_SHARE = 0.5


def main() -> None:
    options = _options()
    if options.smoke:
        options.domains, options.tokens = 20, 1e9
    work = (options.work / "many-domains").resolve()
    shutil.rmtree(work, ignore_errors=True)
    tokens = int(options.tokens)
    recipe = _recipe(work, options, tokens)
    tokenizer = Tokenizer("synthetic", "", "5" * 32, "<|end|>", 0, 50_000, ())
    store = TokenStore(work / ".curate", tokenizer.fingerprint, tokenizer.dtype)
    _write_store(store, options.domains, options.files, tokens)
    print(
        f"{options.domains:,} domains, {options.domains * options.files:,} files, "
        f"{tokens:.3g} tokens, {options.form}, limits.memory_mb {options.memory_mb}\n\n"
        "| step | CPU s | peak MB |\n|---|---:|---:|"
    )
    with bounded(recipe.recipe.limits.memory_mb << 20, work / ".curate"):
        with _step("read the parts"):
            store.scan()
        with _step("open the domains"):
            domains = tuple(_open(store, number, options) for number in range(options.domains))
        with _step("held out, copies, counts"):
            tokenized = _tokenized(recipe, tokenizer, domains)
        with _step("mix and plan"):
            planned = plan_tokenized(recipe, tokenized, 1, Observer(), write=False)
        with _step("fields of plan.json"):
            fields = plan_json(planned)
        assert sum(row["tokens"] for row in fields["domains"].values()) == fields["budget_tokens"]
        with _step(f"samples of 1 of {planned.shaped.shards:,} shards"):
            for _ in planned.shaped.sampler.parts(0, planned.shaped.shards):
                pass
    shutil.rmtree(work)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Very many domains.")
    parser.add_argument("--domains", type=int, default=10_000)
    parser.add_argument("--files", type=int, default=100, help="files of each domain")
    parser.add_argument("--tokens", type=float, default=1e13)
    parser.add_argument("--form", default="npy", help="output format")
    parser.add_argument("--memory-mb", type=int, default=1024, help="limits.memory_mb")
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it runs")
    parser.add_argument("--work", type=Path, default=Path("bench-work"), help="scratch directory")
    return parser.parse_args()


@contextmanager
def _step(name: str) -> Iterator[None]:
    """Print what a step took."""
    Path("/proc/self/clear_refs").write_text("5")
    start = time.process_time()
    yield
    seconds = time.process_time() - start
    peak_kb = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    print(f"| {name} | {seconds:.1f} | {peak_kb * 1024 / 1e6:.0f} |", flush=True)


def _recipe(work: Path, options: argparse.Namespace, tokens: int) -> LoadedRecipe:
    work.mkdir(parents=True)
    fields = {
        "name": "many",
        "tokenizer": {"path": "tokenizer.json", "eos": "<|end|>"},
        "domains": [
            {"name": f"d{number}", "paths": f"d{number}"} for number in range(options.domains)
        ],
        "mixture": {"method": "natural"},
        "budget_tokens": int(tokens * BUDGET_SHARE),
        "output": {"format": options.form},
        "limits": {"memory_mb": options.memory_mb},
        **({"sequence_length": 2048} if options.form == "npy" else {}),
    }
    return parse(json.dumps(fields), work)


def _write_store(store: TokenStore, domains: int, files: int, tokens: int) -> None:
    rng = np.random.default_rng(SEED)
    keys = [f"{number}-{file}" for number in range(domains) for file in range(files)]
    lengths = rng.lognormal(0, 1, len(keys))
    lengths = np.maximum(1, lengths / lengths.sum() * tokens).astype(np.int64)
    for part, members in enumerate(np.array_split(np.arange(len(keys)), min(PARTS, domains))):
        directory = store.directory / f"part-{part:05d}"
        directory.mkdir(parents=True)
        table = np.zeros(len(members), DOCUMENT)
        table["token_stop"] = np.cumsum(lengths[members])
        table["text_bytes"] = BYTES_PER_TOKEN * lengths[members]
        for name in ("content_high", "content_low", "identity"):
            table[name] = rng.integers(0, 2**64, len(members), np.uint64)
        table["line"] = 1
        table.tofile(directory / "documents.bin")
        total = int(lengths[members].sum())
        with (directory / "tokens.bin").open("wb") as file:
            file.truncate(total * store.dtype.itemsize)
        stops = np.cumsum(lengths[members])
        entries = [
            Entry(
                key=keys[member], segment=0, last=True, path=keys[member], document_start=place,
                document_stop=place + 1, token_start=int(stops[place] - lengths[member]),
                token_stop=int(stops[place]), lines=1, raw_bytes=0,
                text_bytes=int(table["text_bytes"][place]), bad_records=0,
            )
            for place, member in enumerate(members)
        ]  # fmt: skip
        info = PartInfo("synthetic", len(members), total, ("",) * len(HASHED), entries)
        payload = msgspec.json.encode(info)
        (directory / "part.json").write_bytes(seal_of(payload) + payload)


def _open(store: TokenStore, number: int, options: argparse.Namespace) -> DomainTokens:
    keys = [f"{number}-{file}" for file in range(options.files)]
    rows = [store.file_rows(key, 1) for key in keys]
    assert all(rows)
    sizes = [1000] * len(keys)
    files = DomainFiles(store.entries, [row for row in rows if row], keys, sizes)
    return DomainTokens(f"d{number}", files, store.dtype)


def _tokenized(
    recipe: LoadedRecipe, tokenizer: Tokenizer, domains: tuple[DomainTokens, ...]
) -> tokenize.TokenizedDomains:
    """Domains as `tokenize_domains` returns them, with made-up entropies."""
    validation = held_out_documents(domains, 0.005, 0)
    shared = shared_documents(domains)
    counted = Entropies(1000, 100, 1000, 1.0, 2.0, 1.0)
    losses = [domain_losses(domain) for domain in domains]
    tokenized = tokenize.TokenizedDomains(
        tokenizer=tokenizer,
        backend=tokenize._backends(domains),
        plans=(),
        domains=domains,
        validation=validation,
        stats=tuple(
            domain_stats(domain, mask, counted, loss, shared)
            for domain, mask, loss in zip(domains, validation, losses, strict=True)
        ),
        content_hash=hash_json([[domain.name, domain.fingerprint] for domain in domains]),
        tokenised_bytes=0,
        sources=tuple(range(len(domains))),
        settings=DomainSettings(tuple(recipe.recipe.domains), recipe.recipe.mixture),
        curation=None,
    )
    list(tokenize._notices(recipe, tokenized))
    return tokenized


if __name__ == "__main__":
    main()
