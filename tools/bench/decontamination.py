"""Evaluation sets in documents: what is found of each kind, what is taken for it, and speed.

    python tools/bench/decontamination.py [--seeds 5] [--documents 10000]

Items of three made-up sets are planted in documents whole, in part, retyped and with other numbers,
beside documents that only share a licence, a quotation, boilerplate, a template or the beginning of
a question with them; see `planted_texts.py`. *Any run* flags each document that shares a run of
eight words with an item. Parts are planted again at several lengths. Speed is CPU time of
`curate tokenize`, with and without `decontaminate`, in processes of their own.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from measure import run
from near_duplicates import END, make_corpus

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from bench.planted_texts import CONTAMINATED, Writer, planted_corpus  # noqa: E402

from curate.curation.contamination import (  # noqa: E402
    ContaminationRequest,
    find_contaminated,
    masks_of,
)
from curate.curation.evaluation_sets import read_index  # noqa: E402
from curate.curation.texts import TextDecoder  # noqa: E402
from curate.pipeline.tokenize import tokenize_domains  # noqa: E402
from curate.recipe import load_recipe  # noqa: E402
from curate.recipe.structs import DecontaminateRecipe  # noqa: E402
from curate.runtime.progress import Observer  # noqa: E402

ROUNDS = 3
PARTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def recipe_of(work: Path, tokenizer: Path, paths: str) -> dict[str, Any]:
    return {
        "name": "bench",
        "tokenizer": {"path": str(tokenizer), "eos": END},
        "domains": [{"name": "all", "paths": paths}],
        "budget_tokens": 1000,
        "cache": str(work / "cache"),
    }


def write_sets(work: Path, sets: dict[str, list[Any]]) -> dict[str, str]:
    """Write evaluation sets as JSON Lines; return the path of each."""
    paths = {}
    for name, rows in sets.items():
        path = work / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths[name] = str(path)
    return paths


def flagged(work: Path, tokenizer: Path, texts: list[str], sets: dict[str, list[Any]]) -> set[str]:
    """Return the texts that hold an item."""
    work.mkdir(parents=True)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (work / "texts.jsonl").write_text(lines)
    paths = write_sets(work, sets)
    recipe = work / "recipe.json"
    recipe.write_text(json.dumps(recipe_of(work, tokenizer, str(work / "texts.jsonl"))))
    corpus = tokenize_domains(load_recipe(recipe), 1, Observer())
    settings = DecontaminateRecipe(sets=paths)
    request = ContaminationRequest(
        domains=corpus.domains,
        staying=[np.ones(len(domain), bool) for domain in corpus.domains],
        settings=settings,
        index=read_index(settings, {name: [path] for name, path in paths.items()}),
        tokenizer=corpus.tokenizer,
        cache=work / "cache" / "curation",
        workers=1,
        observer=Observer(),
    )
    decoder = TextDecoder(corpus.tokenizer)
    (domain,) = corpus.domains
    (mask,) = masks_of(find_contaminated(request), corpus.domains)
    shutil.rmtree(work)
    return {
        decoder.decode(tokens, np.array([len(tokens)]))[0]
        for tokens in map(domain.document, np.flatnonzero(mask))
    }


def runs_of(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[n : n + 8]) for n in range(len(words) - 7)}


def show_kinds(work: Path, tokenizer: Path, seeds: int) -> None:
    totals, ours, any_run = Counter(), Counter(), Counter()
    for seed in range(seeds):
        planted = planted_corpus(seed)
        texts = [text for listed in planted.documents.values() for text in listed]
        held = flagged(work / "kinds", tokenizer, texts, planted.sets)
        rows = [row for listed in planted.sets.values() for row in listed]
        runs = {run for row in rows for text in row.values() for run in runs_of(text)}
        for kind, listed in planted.documents.items():
            totals[kind] += len(listed)
            ours[kind] += sum(text in held for text in listed)
            any_run[kind] += sum(not runs.isdisjoint(runs_of(text)) for text in listed)
    print("| kind | documents | flagged | any run |\n|---|---|---|---|")
    for kind, count in totals.items():
        share, other = ours[kind] / count, any_run[kind] / count
        print(f"| {kind} | {count:,} | {share:.1%} | {other:.1%} |")
    for name, counts in (("curate", ours), ("any run", any_run)):
        right = sum(counts[kind] for kind in CONTAMINATED)
        print(f"\nprecision of {name}: {right / counts.total():.1%} of {counts.total():,}")


def show_parts(work: Path, tokenizer: Path) -> None:
    print("\n| share of the item's words | flagged |\n|---|---|")
    writer = Writer(9)
    items = [writer.text(int(writer.rng.integers(40, 200))) for _ in range(200)]
    sets = {"items": [{"text": text} for text in items]}
    for share in PARTS:
        texts = []
        for item in items:
            words = item.split(" ")
            count = round(len(words) * share)
            start = int(writer.rng.integers(0, len(words) - count + 1))
            texts.append(writer.between(" ".join(words[start : start + count])))
        background = [writer.text(300) for _ in range(500)]
        held = flagged(work / "parts", tokenizer, texts + background, sets)
        print(f"| {share:.0%} | {sum(text in held for text in texts) / len(texts):.1%} |")


def show_speed(work: Path, documents: int) -> None:
    path = make_corpus(work, documents)
    sets = write_sets(work, planted_corpus(0).sets)
    recipe = recipe_of(work, path.parent / "tokenizer.json", str(path))
    (work / "plain.json").write_text(json.dumps(recipe))
    (work / "held.json").write_text(json.dumps(recipe | {"decontaminate": {"sets": sets}}))
    again = recipe | {"decontaminate": {"sets": sets, "coverage": 0.7}}
    (work / "again.json").write_text(json.dumps(again))
    shutil.rmtree(work / "cache", ignore_errors=True)
    command = [sys.executable, "-m", "curate.cli", "tokenize", "--workers", "1"]
    environment = {"PYTHONPATH": str(ROOT)}
    tokenising = run([*command, "plain.json"], directory=work, environment=environment).cpu_seconds
    rounds = []
    for _ in range(ROUNDS):
        shutil.rmtree(work / "cache" / "curation", ignore_errors=True)
        rounds.append(
            [
                run([*command, name], directory=work, environment=environment).cpu_seconds
                for name in ("plain.json", "held.json", "again.json")
            ]
        )
    warm, held, changed = (min(taken) for taken in zip(*rounds, strict=True))
    print(f"\n{documents:,} documents, {path.stat().st_size / 1e6:.1f} MB\n")
    print("| | CPU s | documents/s |\n|---|---|---|")
    for label, taken in (
        ("tokenising", tokenising), ("decontaminating, from the token store", held - warm),
        ("another coverage", changed - warm),
    ):  # fmt: skip
        print(f"| {label} | {taken:.1f} | {documents / max(taken, 0.01):,.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("bench-work") / "decontamination")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--documents", type=float, default=10_000)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    tokenizer = make_corpus(work, 500).parent / "tokenizer.json"
    show_kinds(work, tokenizer, 1 if arguments.smoke else arguments.seeds)
    show_parts(work, tokenizer)
    show_speed(work, 500 if arguments.smoke else int(arguments.documents))


if __name__ == "__main__":
    main()
