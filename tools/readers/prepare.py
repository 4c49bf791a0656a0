"""Build one mixture in every format, and write down what its readers must give.

    python tools/readers/prepare.py WORK [--input DIR] [--tokens 2e6] [--wide]

`DIR` holds `<domain>.jsonl` files with a `text`; by default four domains of the embedded corpus are
taken. Documents are made distinct, so that a text says its domain. The same mixture is built as
each of `BUILDS`, each domain by itself, and another mixture with `output.shape: per-domain`, for
trainers that mix; some of these also in three stages. `--wide` gives the tokenizer 60,000 ids that
no text uses, so that tokens need more than 16 bits; formats that cannot hold them are then left
out, with the reason.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from curate.dataset.manifest import load_manifest, read_provenance  # noqa: E402
from curate.errors import RecipeError  # noqa: E402
from curate.pipeline.build import build  # noqa: E402
from curate.pipeline.build_stages import build_staged_recipe  # noqa: E402
from curate.pipeline.read_back import reopen  # noqa: E402
from curate.recipe import parse  # noqa: E402
from curate.runtime.files import read_json, write_json  # noqa: E402
from curate.runtime.progress import Observer  # noqa: E402
from curate.sources.embedded import corpus  # noqa: E402

EMBEDDED = ("python_code", "docstrings", "c_headers", "manuals")
SHARES = (0.4, 0.3, 0.2, 0.1)
"""Shares of the domains in order; further ones share what the last has."""
SEQUENCE_TOKENS = 512
VOCABULARY = 8192
SHARDS = 3
UNUSED_FROM = 1000
UNUSED = 60_000
WINDOWS = {"window_tokens": SEQUENCE_TOKENS}
"""So that certificates state the loss in the windows that the reader scripts ask for."""
EOS = "<|endoftext|>"
LONGEST_CHARACTERS = 60_000
BYTES_A_TOKEN = 3.4
"""Bytes for each token of the embedded corpus under a small vocabulary; sizes the text to take."""


@dataclass(frozen=True)
class Build:
    """One dataset to build."""

    format: str
    options: dict[str, Any] = field(default_factory=dict)
    sequences: bool = False
    """Whether rows are sequences of one length."""
    by_domain: bool = False
    """Whether each domain is built by itself too."""
    apart: bool = False
    """Whether it is also built with the trainer's own mixture file, as `NAME-apart`."""
    stages: tuple[int, ...] = ()
    """Tokens of a sequence in each of `STAGES`, where it is also built in them with domains apart,
    as `NAME-stages/STAGE`; empty: it is not."""


STAGES = {"pretrain": 0.6, "mid": 0.3, "anneal": 0.1}
"""Shares of the budget."""
BATCH_SEQUENCES = 32
"""Sequences of a training step in every stage."""
LENGTHS = (512, 512, 1024)
SHORT = (64, 64, 64)
"""levanter has one length for the run, and a border between stages at blocks of 2,048 sequences, of
which even the last stage has one."""

BUILDS: dict[str, Build] = {
    "megatron": Build("megatron", WINDOWS, by_domain=True, apart=True, stages=LENGTHS),
    "olmo": Build("olmo", WINDOWS, by_domain=True, apart=True),
    "datatrove": Build("datatrove", WINDOWS, by_domain=True, apart=True, stages=LENGTHS),
    "mds": Build("mds", sequences=True, by_domain=True, apart=True, stages=LENGTHS),
    "mds_documents": Build("mds", apart=True),
    "litdata": Build("litdata", WINDOWS, by_domain=True, apart=True),
    "llmc": Build("llmc", {**WINDOWS, "step_tokens": SEQUENCE_TOKENS}),
    "nanogpt": Build("llmc", {"variant": "nanogpt"}),
    "nemo": Build("llmc", {"variant": "nemo", **WINDOWS}),
    "npy": Build("npy"),
    "input_ids": Build("input_ids", apart=True),
    "input_ids_sequences": Build(
        "input_ids", sequences=True, by_domain=True, apart=True, stages=SHORT
    ),
    "parquet": Build("parquet", by_domain=True, apart=True),
    "jsonl": Build("jsonl", by_domain=True, apart=True),
    "arrow": Build("arrow", apart=True),
    "webdataset": Build("webdataset", apart=True),
}


def main() -> None:
    """Prepare a work directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--input", type=Path, help="folder of <domain>.jsonl")
    parser.add_argument("--tokens", type=float, default=2e6)
    parser.add_argument("--wide", action="store_true")
    options = parser.parse_args()
    prepare(options.work.resolve(), options.input, int(options.tokens), wide=options.wide)


def prepare(work: Path, source: Path | None, budget_tokens: int, *, wide: bool) -> None:
    """Fill a work directory, unless that was done already."""
    if (work / "work.json").exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    texts = _distinct(source, work, budget_tokens)
    weights = dict(zip(texts, _shares(len(texts)), strict=True))
    for domain, documents in texts.items():
        path = work / "data" / f"{domain}.jsonl"
        path.parent.mkdir(exist_ok=True)
        rows = [
            json.dumps({"id": f"{domain}-{number}", "text": text}, ensure_ascii=False)
            for number, text in enumerate(documents)
        ]
        path.write_text("\n".join(rows) + "\n", "utf-8")
    recipes = _Recipes(work, weights, budget_tokens)
    trained = _build(work, recipes.mixed("megatron", BUILDS["megatron"]))
    definition = json.loads((trained / "tokenizer.json").read_bytes())
    if wide:
        _widen(definition)
    (work / "tokenizer.json").write_text(json.dumps(definition), "utf-8")
    encoded = _encode(work, texts)
    datasets, refused = {}, {}
    for name, one in BUILDS.items():
        try:
            directory = _build(work, recipes.mixed(name, one))
        except RecipeError as error:
            refused[name] = str(error)
            continue
        datasets[name] = _expect(work, name, directory, encoded)
        for domain in weights if one.by_domain else ():
            single = f"{name}-{domain}"
            tokens = datasets[name]["tokens"][domain]
            directory = _build(work, recipes.single(single, one, domain, tokens))
            datasets[single] = _expect(work, single, directory, encoded)
        if one.apart:
            directory = _build(work, recipes.apart(f"{name}-apart", one))
            datasets[f"{name}-apart"] = _expect(work, f"{name}-apart", directory, encoded)
        if one.stages:
            directory = _build(work, recipes.staged(f"{name}-stages", one))
            for stage in STAGES:
                key = f"{name}-stages/{stage}"
                datasets[key] = _expect(work, key, directory / stage, encoded)
        print(name, flush=True)
    write_json(
        work / "work.json",
        {
            "weights": weights,
            "sequence_tokens": SEQUENCE_TOKENS,
            "stages": {name: int(share * budget_tokens) for name, share in STAGES.items()},
            "stage_weights": dict(zip(STAGES, stage_weights(weights), strict=True)),
            "batch_sequences": BATCH_SEQUENCES,
            "datasets": datasets,
            "refused": refused,
        },  # fmt: skip
    )


def _widen(definition: dict[str, Any]) -> None:
    """Move the ids from `UNUSED_FROM` up and fill the gap with tokens that no merge makes."""
    vocabulary = definition["model"]["vocab"]
    for token, number in vocabulary.items():
        if number >= UNUSED_FROM:
            vocabulary[token] = number + UNUSED
    for number in range(UNUSED_FROM, UNUSED_FROM + UNUSED):
        vocabulary[f"unused {number}"] = number


def _shares(domains: int) -> list[float]:
    shares = [*SHARES[: domains - 1]][: len(SHARES) - 1]
    rest = round((1 - sum(shares)) / (domains - len(shares)), 12)
    return [*shares, *[rest] * (domains - len(shares))]


def _distinct(source: Path | None, work: Path, budget_tokens: int) -> dict[str, list[str]]:
    """Distinct texts of each domain, as many as the budget wants of any."""
    if source is None:
        files = {name: corpus.resolve(f"corpus://{name}", work / "cache") for name in EMBEDDED}
    else:
        files = {path.stem: path for path in sorted(source.glob("*.jsonl"))}
        if not files:
            raise SystemExit(f"{source}: expected files <domain>.jsonl, found none")
    enough = int(budget_tokens * BYTES_A_TOKEN * 0.45)
    seen: set[str] = set()
    texts: dict[str, list[str]] = {}
    for domain, path in files.items():
        taken, characters = [], 0
        for text in _texts(path):
            if characters < enough and len(text) < LONGEST_CHARACTERS and text not in seen:
                seen.add(text)
                taken.append(text)
                characters += len(text)
        texts[domain] = taken
    return texts


def _texts(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            text = json.loads(line)["text"]
            if text.strip():
                yield text


@dataclass(frozen=True)
class _Recipes:
    """The recipes, as YAML, which is JSON here."""

    work: Path
    weights: dict[str, float]
    budget_tokens: int

    def mixed(self, name: str, one: Build) -> str:
        """All domains at their weights."""
        recipe = self._recipe(name, one, self.budget_tokens, list(self.weights))
        recipe["mixture"] = {"method": "manual", "weights": self.weights}
        return json.dumps(recipe)

    def single(self, name: str, one: Build, domain: str, tokens: int) -> str:
        """One domain."""
        return json.dumps(self._recipe(name, one, tokens, [domain]))

    def apart(self, name: str, one: Build) -> str:
        """Each domain in a folder of its own; the last has most weight, so that it repeats."""
        recipe = self._recipe(name, one, self.budget_tokens, list(self.weights))
        shares = dict(zip(self.weights, reversed(self.weights.values()), strict=True))
        recipe["mixture"] = {"method": "manual", "weights": shares}
        recipe["output"]["shape"] = "per-domain"
        return json.dumps(recipe)

    def staged(self, name: str, one: Build) -> str:
        """Each domain in a folder of its own, in stages on three mixtures."""
        recipe = self._recipe(name, one, self.budget_tokens, list(self.weights))
        del recipe["budget_tokens"]
        recipe["output"] |= {"shape": "per-domain", "options": {}}
        recipe["stages"] = [
            {
                "name": stage,
                "budget_tokens": int(share * self.budget_tokens),
                "batch_sequences": BATCH_SEQUENCES,
                "mixture": {"method": "manual", "weights": weights},
                **(
                    {"sequence_length": length}
                    if one.sequences
                    else {"options": {**one.options, "window_tokens": length}}
                ),
            }
            for (stage, share), length, weights in zip(
                STAGES.items(), one.stages, stage_weights(self.weights), strict=True
            )
        ]
        return json.dumps(recipe)

    def _recipe(self, name: str, one: Build, tokens: int, domains: list[str]) -> dict[str, Any]:
        ready = self.work / "tokenizer.json"
        recipe: dict[str, Any] = {
            "name": name,
            "tokenizer": {"path": str(ready), "eos": EOS}
            if ready.exists()
            else {"train": {"vocab_size": VOCABULARY, "sample_bytes": 4_000_000}},
            "domains": [
                {"name": domain, "paths": str(self.work / "data" / f"{domain}.jsonl")}
                for domain in domains
            ],
            "max_epochs": 8,
            "budget_tokens": tokens,
            "validation": {"documents": 0.01},
            "output": {
                "format": one.format, "options": one.options,
                "shard_tokens": -(-self.budget_tokens // SHARDS),
                "dir": str(self.work / "out" / name),
            },
            "cache": str(self.work / "cache"),
        }  # fmt: skip
        if one.sequences:
            recipe["sequence_length"] = SEQUENCE_TOKENS
        return recipe


def stage_weights(weights: dict[str, float]) -> list[dict[str, float]]:
    """Shares by domain in each of `STAGES`: the mixture, all the same, and the mixture reversed."""
    shares = list(weights.values())
    even = [1 / len(shares)] * len(shares)
    return [dict(zip(weights, row, strict=True)) for row in (shares, even, shares[::-1])]


def _build(work: Path, recipe: str) -> Path:
    loaded = parse(recipe, work)
    # The first dataset trains the tokenizer, and is replaced by one that reads it.
    if loaded.recipe.stages:
        certificate = build_staged_recipe(loaded, 1, Observer(), overwrite=True).json
    else:
        certificate = build(loaded, 1, Observer(), overwrite=True).certificate
    if not certificate["ok"]:
        raise SystemExit(f"{loaded.output_dir}: {certificate['problems']}")
    return loaded.output_dir


def _encode(work: Path, texts: dict[str, list[str]]) -> dict[str, list[np.ndarray]]:
    """Documents as ids by the reference tokenizer, and `sources.jsonl`."""
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    eos_id = tokenizer.token_to_id(EOS)
    encoded: dict[str, list[np.ndarray]] = {}
    with (work / "sources.jsonl").open("w", encoding="utf-8") as file:
        for domain, documents in texts.items():
            encodings = tokenizer.encode_batch_fast(documents, add_special_tokens=False)
            encoded[domain] = [np.array([*one.ids, eos_id], np.uint32) for one in encodings]
            for text, ids in zip(documents, encoded[domain], strict=True):
                row = {"domain": domain, "text": text, "tokens": len(ids)}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return encoded


def _expect(
    work: Path, name: str, directory: Path, encoded: dict[str, list[np.ndarray]]
) -> dict[str, Any]:
    """Write the stream that must come out of the training shards; returns its description."""
    manifest = load_manifest(directory)
    domains = reopen(manifest, 1, Observer())
    assert domains is not None
    certificate = read_json(directory / "certificate.json")
    shards = [shard for shard in manifest.shards if shard.split == "train"]
    rows = np.concatenate(
        [read_provenance(directory / one.provenance.path, one, manifest) for one in shards]
    )
    lines = [domain.locate(np.arange(len(domain.tokens)))[1] - 1 for domain in domains]
    documents = [encoded[name] for name in manifest.domains]
    pieces = [
        documents[domain][lines[domain][number]][start : start + tokens]
        for domain, number, start, tokens in rows[
            ["domain", "document", "start", "tokens"]
        ].tolist()
    ]
    target = work / "expected" / name
    target.mkdir(parents=True, exist_ok=True)
    stream = np.concatenate(pieces)
    assert len(stream) == rows["tokens"].sum()
    np.save(target / "stream.npy", stream)
    np.save(target / "domain_of.npy", np.repeat(rows["domain"].astype(np.uint8), rows["tokens"]))
    np.save(target / "lengths.npy", rows["tokens"])
    return {
        "format": manifest.format,
        "dtype": manifest.dtype,
        "eos_id": manifest.tokenizer.eos_id,
        "vocabulary": manifest.tokenizer.vocabulary,
        "domains": manifest.domains,
        "tokens": {
            domain: row["realised_tokens"] for domain, row in certificate["domains"].items()
        },
        "shards": [{"stem": one.stem, "tokens": one.tokens} for one in shards],
        "lost_tokens": (certificate["reader_loss"] or {}).get("tokens"),
    }


if __name__ == "__main__":
    main()
