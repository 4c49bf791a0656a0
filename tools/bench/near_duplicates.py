"""Near copies: what is caught, speed beside datatrove, and memory with very many signatures.

    python tools/bench/near_duplicates.py [--pairs 40000] [--documents 10000]
        [--signatures 1e7] [--datatrove ~/peers/datatrove/bin/python]

*Caught* plants pairs at every similarity from 0.5 to 1 and compares the share that is caught with
the curve, and recall and precision against all pairs of a corpus by their true Jaccard similarity,
for families of documents whose pairs are compared by sets of shingles without curate's code.
*Speed* runs the same documents through curate (one process, from a token store; and from text, with
tokenising) and through datatrove's four steps of MinHash with its defaults, in processes of their
own; the ratio is of CPU time. *Memory* makes a token store of empty documents with signatures, of
which a twentieth are copies, and finds their clusters in a process of its own.
"""

from __future__ import annotations

import argparse
import gzip
import io
import itertools
import json
import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measure import run

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench.planted_texts import Writer  # noqa: E402

from curate.curation.by_part import PartFacts  # noqa: E402
from curate.curation.duplicates import CopiesRequest, find_copies  # noqa: E402
from curate.curation.signatures import Banding, band_facts, band_hashes  # noqa: E402
from curate.recipe.structs import (  # noqa: E402
    DuplicatesRecipe,
    NearRecipe,
    ValidationRecipe,
)
from curate.runtime.memory import bounded  # noqa: E402
from curate.runtime.progress import Observer  # noqa: E402
from curate.runtime.sealed import write_sealed  # noqa: E402
from curate.tokens import tokenizer as tokenizers  # noqa: E402
from curate.tokens.domain import DomainTokens  # noqa: E402
from curate.tokens.entries import DomainFiles, Entry  # noqa: E402
from curate.tokens.store import DOCUMENT, PartWriter, TokenStore  # noqa: E402

BANDING = Banding(14, 8, 5)
EDGES = (0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 1.01)
PART_DOCUMENTS = 100_000
COPIES = 0.05
MEMORY_BYTES = 1 << 30
END = "<|endoftext|>"


def edited(writer: Writer, words: list[str], edits: int) -> list[str]:
    """Replace words by new ones."""
    changed = list(words)
    for place in writer.rng.choice(len(words), edits, replace=False):
        changed[place] = f"edit{writer.rng.integers(10**9)}"
    return changed


def shingles(words: list[str]) -> set[tuple[str, ...]]:
    length = BANDING.shingle_words
    return {tuple(words[n : n + length]) for n in range(len(words) - length + 1)}


def jaccard(first: set[tuple[str, ...]], second: set[tuple[str, ...]]) -> float:
    return len(first & second) / len(first | second)


def show_caught(pairs: int) -> None:
    writer = Writer(1)
    texts, similarity = [], []
    for _ in range(pairs):
        words = writer.words(150)
        other = edited(writer, words, int(writer.rng.integers(0, 12)))
        texts += [" ".join(words), " ".join(other)]
        similarity.append(jaccard(shingles(words), shingles(other)))
    caught = _share_a_band(texts)
    values = np.array(similarity)
    curve = 1 - (1 - values**BANDING.rows) ** BANDING.bands
    print(f"\n{BANDING.describe()}\n\n| true Jaccard | pairs | caught | curve |\n|---|---|---|---|")
    for low, high in itertools.pairwise(EDGES):
        here = (values >= low) & (values < high)
        print(f"| {low:.2f} to {min(high, 1):.2f} | {here.sum():,} | {caught[here].mean():.1%} "
              f"| {curve[here].mean():.1%} |")  # fmt: skip


def _share_a_band(texts: list[str]) -> np.ndarray:
    """Return whether each text at an even place shares a band with the next one."""
    blocks = [band_hashes(texts[n : n + 2000], BANDING) for n in range(0, len(texts), 2000)]
    hashes = np.concatenate(blocks)
    return (hashes[0::2] == hashes[1::2]).any(1)


def show_all_pairs(families: int) -> None:
    """Compare all pairs of a corpus that share a shingle; the others have a similarity of 0."""
    writer = Writer(2)
    documents = []
    for _ in range(families):
        words = writer.words(120)
        documents.append(words)
        documents += [edited(writer, words, int(writer.rng.integers(1, 9))) for _ in range(4)]
    sets = [shingles(words) for words in documents]
    holders = defaultdict(list)
    for number, of_document in enumerate(sets):
        for shingle in of_document:
            holders[shingle].append(number)
    pairs = sorted({p for held in holders.values() for p in itertools.combinations(held, 2)})
    values = np.array([jaccard(sets[a], sets[b]) for a, b in pairs])
    hashes = band_hashes([" ".join(words) for words in documents], BANDING)
    candidates: set[tuple[int, int]] = set()
    for band in range(BANDING.bands):
        members = defaultdict(list)
        for number, value in enumerate(hashes[:, band].tolist()):
            members[value].append(number)
        for held in members.values():
            candidates.update(itertools.combinations(held, 2))
    is_caught = np.array([pair in candidates for pair in pairs])
    stray = len(candidates - set(pairs))
    curve = 1 - (1 - values**BANDING.rows) ** BANDING.bands
    total = len(documents) * (len(documents) - 1) // 2
    print(f"\nall {total:,} pairs of {len(documents):,} documents, {stray} caught without a "
          "shingle in common\n")  # fmt: skip
    print("| relevant from | recall | by the curve | precision | by the curve |")
    print("|---|---|---|---|---|")
    for threshold in (0.5, 0.6, 0.7, 0.8, 0.9):
        relevant = values >= threshold
        precision = (is_caught & relevant).sum() / len(candidates)
        print(f"| {threshold} | {is_caught[relevant].mean():.1%} | {curve[relevant].mean():.1%} "
              f"| {precision:.1%} | {curve[relevant].sum() / curve.sum():.1%} |")  # fmt: skip


def make_corpus(work: Path, documents: int) -> Path:
    """Write documents as JSON Lines, a fifth of them near copies, and a tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    path = work / "input" / f"{documents}.jsonl"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = Writer(3)
    texts: list[str] = []
    for number in range(documents):
        if number % 5 == 4:
            words = texts[-int(writer.rng.integers(1, 5))].split(" ")
            texts.append(" ".join(edited(writer, words, int(writer.rng.integers(1, 20)))))
        else:
            texts.append(writer.text(int(writer.rng.integers(100, 600))))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=8000, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(texts[:2000], trainer)
    trained.save(str(path.parent / "tokenizer.json"))
    return path


def show_speed(work: Path, documents: int, peer: str | None) -> None:
    in_child(make_corpus, work, documents)
    path = make_corpus(work, documents)  # which is there now
    megabytes = path.stat().st_size / 1e6
    recipe = {
        "name": "near",
        "tokenizer": {"path": str(path.parent / "tokenizer.json"), "eos": END},
        "domains": [{"name": "all", "paths": str(path)}],
        "budget_tokens": 1000,
        "cache": str(work / "cache"),
    }
    (work / "plain.json").write_text(json.dumps(recipe))
    (work / "near.json").write_text(json.dumps(recipe | {"duplicates": {"near": {}}}))
    shutil.rmtree(work / "cache", ignore_errors=True)
    command = [sys.executable, "-m", "curate.cli", "tokenize", "--workers", "1"]
    environment = {"PYTHONPATH": str(ROOT)}
    text_only = run([*command, "plain.json"], directory=work, environment=environment)
    warm = run([*command, "plain.json"], directory=work, environment=environment)
    near = run([*command, "near.json"], directory=work, environment=environment)
    again = run([*command, "near.json"], directory=work, environment=environment)
    step_seconds = near.cpu_seconds - warm.cpu_seconds
    rows = [
        ("curate, near copies from the token store", step_seconds, near.peak_bytes),
        ("curate, tokenising and near copies", text_only.cpu_seconds + step_seconds,
         max(near.peak_bytes, text_only.peak_bytes)),
        ("curate, a change of nothing", again.cpu_seconds - warm.cpu_seconds, again.peak_bytes),
        ("curate, tokenising alone", text_only.cpu_seconds, text_only.peak_bytes),
    ]  # fmt: skip
    if peer is not None:
        script = [peer, str(Path(__file__).with_name("peer_near.py")), str(path), str(work / "dt")]
        shutil.rmtree(work / "dt", ignore_errors=True)
        usage = run(script, directory=work)
        rows.append(("datatrove, four steps of MinHash", usage.cpu_seconds, usage.peak_bytes))
        with gzip.open(work / "dt" / "removed" / "00000.jsonl.gz") as file:
            print(f"\ndatatrove removes {sum(1 for _ in file):,} of {documents:,} documents")
    else:
        print("\ndatatrove is left out: make an environment with 'datatrove[io,processing]' spacy")
    stats = json.loads((work / "out" / "near" / "stats.json").read_text())
    removed = stats["domains"]["all"]["amounts"]["copies"]["documents"]
    print(f"curate removes {removed:,}\n")
    print(f"{documents:,} documents, {megabytes:.1f} MB\n\n| | CPU s | MB/s | documents/s | peak MB"
          " | datatrove / this |\n|---|---|---|---|---|---|")  # fmt: skip
    for label, seconds, peak in rows:
        ratio = f"{rows[-1][1] / seconds:.1f}" if peer is not None and seconds > 0 else ""
        speed = f"{megabytes / seconds:.1f} | {documents / seconds:,.0f}" if seconds > 0 else " | "
        print(f"| {label} | {seconds:.1f} | {speed} | {peak / 1e6:,.0f} | {ratio} |")


def make_store(work: Path, signatures: int) -> None:
    """Write a token store of documents of one token, and their band hashes."""
    vocabulary = {"a": 0, END: 1}
    definition = {
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
        "added_tokens": [{"id": 1, "content": END, "special": True}],
        "decoder": {"type": "ByteLevel"},
    }
    (work / "tokenizer.json").write_text(json.dumps(definition))
    tokenizer = tokenizers.load(work / "tokenizer.json", END)
    store = TokenStore(work / "cache", tokenizer.fingerprint, tokenizer.dtype)
    store.directory.mkdir(parents=True)
    facts = band_facts(work / "cache" / "curation" / "bands", tokenizer, BANDING)
    facts.directory.mkdir(parents=True)
    rng = np.random.default_rng(4)
    writer = PartWriter(store.directory, "none")
    for number, start in enumerate(range(0, signatures, PART_DOCUMENTS)):
        count = min(PART_DOCUMENTS, signatures - start)
        table = np.zeros(count, DOCUMENT)
        table["token_stop"] = np.arange(1, count + 1)
        table["content_high"] = rng.integers(0, 2**63, count, dtype=np.uint64) * np.uint64(2)
        table["text_bytes"] = 1
        writer.add_documents(np.ones(count, tokenizer.dtype), table, [b""] * count)
        entry = Entry(
            key=f"{number:032x}", segment=0, last=True, path=f"{number}.jsonl", document_start=0,
            document_stop=count, token_start=0, token_stop=count, lines=count, raw_bytes=count,
            text_bytes=count, bad_records=0,
        )  # fmt: skip
        writer.entries.append(entry)
        part = writer.flush()
        assert part is not None
        _write_bands(facts, part, rng, count)


def _write_bands(facts: PartFacts, part: Path, rng: np.random.Generator, count: int) -> None:
    """Write random band hashes; each copy has one band of a document of its own part."""
    bands = rng.integers(1, 2**63, (count, BANDING.bands), dtype=np.uint64) * np.uint64(2)
    copies = rng.choice(count, int(count * COPIES), replace=False)
    band = rng.integers(0, BANDING.bands, len(copies))
    bands[copies, band] = bands[rng.integers(0, count, len(copies)), band]
    content = io.BytesIO()
    np.save(content, bands, allow_pickle=False)
    write_sealed(facts.path(part), content.getvalue())


def find_in_store(work: Path) -> None:
    """Find clusters in the store; run in a process of its own."""
    start = time.process_time()
    tokenizer = tokenizers.load(work / "tokenizer.json", END)
    store = TokenStore(work / "cache", tokenizer.fingerprint, tokenizer.dtype)
    store.scan()
    with bounded(MEMORY_BYTES, work / "cache"):
        paths = list(store.entries.paths)
        files = DomainFiles(store.entries, [[row] for row in range(len(paths))], paths)
        domain = DomainTokens("all", files, tokenizer.dtype)
        staying = np.ones(len(domain), bool)
        opened = time.process_time()
        copies = find_copies(
            CopiesRequest(
                domains=[domain],
                staying=[staying],
                settings=DuplicatesRecipe(exact="none", near=NearRecipe()),
                validation=ValidationRecipe(),
                tokenizer=tokenizer,
                cache=work / "cache" / "curation",
                workers=1,
                observer=Observer(),
            )
        )
        removed = int(copies.masks[0].sum())
    print(json.dumps([len(domain), removed, opened - start, time.process_time() - opened]))


def show_memory(work: Path, signatures: int) -> None:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    in_child(make_store, work, signatures)
    script = [sys.executable, str(Path(__file__).resolve()), "--find", str(work)]
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tools'}"}
    usage = run(script, directory=work, environment=environment)
    documents, removed, open_seconds, seconds = json.loads(usage.output.splitlines()[-1])
    print("\n| signatures | copies | opening, CPU s | clusters, CPU s | peak MB |")
    print("|---|---|---|---|---|")
    peak = usage.peak_bytes / 1e6
    print(f"| {documents:,} | {removed:,} | {open_seconds:.0f} | {seconds:.0f} | {peak:,.0f} |")
    shutil.rmtree(work)


def in_child(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function in a process of its own, so that this one, which measures, stays small."""
    child = os.fork()
    if not child:
        function(*arguments)
        sys.stdout.flush()
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit(f"{function.__name__} failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("bench-work") / "near")
    parser.add_argument("--pairs", type=float, default=40_000)
    parser.add_argument("--families", type=int, default=4000)
    parser.add_argument("--documents", type=float, default=10_000)
    parser.add_argument("--signatures", type=float, default=1e7)
    parser.add_argument("--datatrove", help="a Python with datatrove, to compare with")
    parser.add_argument("--find", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes")
    arguments = parser.parse_args()
    if arguments.find is not None:
        find_in_store(arguments.find)
        return
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    scale = 0.01 if arguments.smoke else 1
    if arguments.pairs:
        in_child(show_caught, int(arguments.pairs * scale))
        in_child(show_all_pairs, max(10, int(arguments.families * scale)))
    if arguments.documents:
        peer = os.environ.get("CURATE_BENCH_DATATROVE") or arguments.datatrove
        show_speed(work, int(arguments.documents * scale), peer)
    if arguments.signatures:
        show_memory(work / "store", int(arguments.signatures * scale))


if __name__ == "__main__":
    main()
