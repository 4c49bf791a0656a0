"""Configuration files with which trainers mix domains that are written apart.

`FILES` maps a format to functions that each give files under `trainer/`, name and text. Paths in
them are relative to the dataset's directory, so that it can be moved: start the trainer there, or
put the directory before them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from curate.errors import RecipeError
from curate.formats.trainer_files import DIRECTORY
from curate.formats.trainers import draws, rounding
from curate.formats.trainers.draws import Source
from curate.runtime.files import atomic_path

MOST_PREFIXES = 32_767
"""Of a Megatron blend, whose dataset numbers are int16."""

REPETITION_UNIT = 1_000_000
"""Of `max_repetition_ratio`."""


@dataclass(frozen=True, slots=True)
class Domains:
    """Everything that a configuration file is made of."""

    train: Sequence[Source]
    """With tokens on disk."""
    validation: Mapping[str, str]
    """Domain → stem of its held-out documents."""
    window_tokens: int
    suffix: str
    """Of the file of tokens or text, after the stem."""
    tokenised: bool = True
    one_length: bool = True
    """Whether all rows of tokens are of one length."""


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _yaml(value: Any, *comments: str) -> str:
    lines = "".join(f"# {comment}\n" for comment in comments)
    return lines + str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def _folder(source: Source) -> str:
    return Path(source.files[0].stem).parent.as_posix()


def _paths(source: Source, suffix: str) -> list[str]:
    return [f"{file.stem}{suffix}" for file in source.files]


def megatron(domains: Domains) -> dict[str, str]:
    """Megatron's blend list, the same for each split, and GPT-NeoX's keys.

    Raises:
        RecipeError: More prefixes than a blend numbers.
    """
    shares = draws.by_planned(domains.train)
    weighted = [
        (f"{share * file.tokens / source.tokens:.17g}", file.stem)
        for source, share in zip(domains.train, shares, strict=True)
        for file in source.files
    ]
    if len(weighted) > MOST_PREFIXES:
        raise RecipeError(
            f"output.shape: per-domain makes {len(weighted)} prefixes, Megatron blends at most "
            f"{MOST_PREFIXES}; raise output.shard_tokens, or set output.shape: mixed"
        )
    train = [part for pair in weighted for part in pair]
    valid = [
        part
        for source, share in zip(domains.train, shares, strict=True)
        if source.name in domains.validation
        for part in (f"{share:.17g}", domains.validation[source.name])
    ]
    neox: dict[str, Any] = {
        "data_impl": "mmap",
        "train_data_paths": [stem for _, stem in weighted],
        "train_data_weights": [float(weight) for weight, _ in weighted],
    }
    if valid:
        neox["valid_data_paths"] = valid[1::2]
        neox["valid_data_weights"] = [float(weight) for weight in valid[::2]]
    return {
        "blend.txt": "".join(f"{weight} {stem}\n" for weight, stem in weighted),
        "blend.json": _json({"train": train, "valid": valid or None, "test": None}),
        "neox.yml": _yaml(neox, "keys for a configuration of GPT-NeoX"),
    }


def olmo(domains: Domains) -> dict[str, str]:
    """The list of OLMo-core's source mixture."""
    shares = draws.by_planned(domains.train)
    requested = sum(source.planned_tokens for source in domains.train)
    sources = [
        {
            "source_name": source.name,
            "target_ratio": share,
            "paths": _paths(source, domains.suffix),
            "max_repetition_ratio": repetition(source),
        }
        for source, share in zip(domains.train, shares, strict=True)
    ]
    return {
        "mixture.yaml": _yaml(
            {"sources": sources},
            f"for SourceMixtureList; requested_tokens: {requested}, sequence_length: "
            f"{domains.window_tokens}",
        )
    }


def repetition(source: Source) -> float:
    """Passes over a source, rounded up so that OLMo-core does not fall short of them.

    Example:
        >>> from curate.formats.trainers.draws import SourceFile
        >>> repetition(Source("a", 100, (SourceFile("a", 30, 1),)))
        3.333334
    """
    parts = -(-source.planned_tokens * REPETITION_UNIT // source.tokens)
    return max(REPETITION_UNIT, parts) / REPETITION_UNIT


def nanotron(domains: Domains) -> dict[str, str]:
    """Folders and weights of a Nanoset; folders without a window would stop it."""
    weights = draws.nanotron(domains.train, domains.window_tokens).weights
    kept = [(s, weight) for s, weight in zip(domains.train, weights, strict=True) if weight]
    dataset = {
        "dataset_folder": [_folder(source) for source, _ in kept],
        "dataset_weights": [weight for _, weight in kept],
    }
    return {"nanoset.yaml": _yaml({"dataset": dataset}, "data_stages[].data of nanotron")}


def mosaic(domains: Domains) -> dict[str, str]:
    """Streams of llm-foundry, in whole rows, and again in proportions."""
    chosen = draws.mosaic(domains.train, domains.window_tokens)
    proportion = draws.mosaic_proportion(domains.train, domains.window_tokens)
    rows = {
        source.name: {"local": _folder(source), "choose": samples}
        for source, samples in zip(domains.train, chosen.samples, strict=True)
    }
    shares = {
        source.name: {"local": _folder(source), "proportion": weight}
        for source, weight in zip(domains.train, proportion.weights, strict=True)
    }
    epoch = {"streams": shares, "epoch_size": draws.epoch_rows(domains.train)}
    return {
        "streams.yaml": _yaml({"dataset": {"streams": rows}}, "train_loader of llm-foundry"),
        "streams_proportion.yaml": _yaml(
            {"dataset": epoch}, "the same in shares of rows, which streaming rounds by lot"
        ),
    }


def litdata(domains: Domains) -> dict[str, str]:
    """Folders and weights of a CombinedStreamingDataset."""
    weights = draws.litdata(domains.train, domains.window_tokens).weights
    kept = [(s, weight) for s, weight in zip(domains.train, weights, strict=True) if weight]
    combined = {
        "folders": [_folder(source) for source, _ in kept],
        "weights": [weight for _, weight in kept],
        "iterate_over_all": False,
    }
    return {"combined.json": _json(combined)}


def levanter(domains: Domains) -> dict[str, str]:
    """Components and `train_weights` of levanter, in blocks that hold every domain if possible.

    None for rows of tokens of many lengths: its `prebuilt` format takes a row for a sequence, and
    stops at one of another length.
    """
    if domains.tokenised and not domains.one_length:
        return {}
    weights = draws.by_planned(domains.train)
    prebuilt = {"type": "prebuilt", "input_ids_key": "input_ids"}
    layout = prebuilt if domains.tokenised else {"type": "text"}
    components = {}
    for source in domains.train:
        urls: dict[str, Any] = {"type": "url", "train_urls": _paths(source, domains.suffix)}
        if source.name in domains.validation:
            urls["validation_urls"] = [domains.validation[source.name] + domains.suffix]
        components[source.name] = {"source": urls, "format": dict(layout)}
    data = {
        "components": components,
        "train_weights": {s.name: w for s, w in zip(domains.train, weights, strict=True)},
        "mixture_block_size": rounding.levanter_block(weights),
        "stop_strategy": "restart",
    }
    return {"levanter.yaml": _yaml({"data": data})}


def hugging_face(domains: Domains) -> dict[str, str]:
    """Files, probabilities of rows and strategy for `interleave_datasets`."""
    drawn = draws.by_lot_rows(domains.train, domains.window_tokens)
    repeats = any(source.planned_tokens > source.tokens for source in domains.train)
    # Without repeats every row is wanted once, which no strategy but the first gives.
    strategy = "all_exhausted" if repeats else "all_exhausted_without_replacement"
    return {
        "interleave.json": _json(
            {
                "names": [source.name for source in domains.train],
                "data_files": [_paths(source, domains.suffix) for source in domains.train],
                "probabilities": drawn.weights,
                "stopping_strategy": strategy,
                "seed": 42,
                "rows": draws.epoch_rows(domains.train),
            }
        )
    }


def torchtitan(domains: Domains) -> dict[str, str]:
    """Folders and weights of torchtitan's interleaved sources, which pack before they draw."""
    shares = draws.by_planned(domains.train)
    sources = [
        {"dataset": "c4_test", "dataset_path": _folder(source), "weight": share}
        for source, share in zip(domains.train, shares, strict=True)
    ]
    return {"torchtitan.json": _json({"sources": sources})}


def webdataset(domains: Domains) -> dict[str, str]:
    """Shards and probabilities of `webdataset.RandomMix`, and a blend of energon."""
    drawn = draws.by_lot_rows(domains.train, domains.window_tokens)
    mix = {
        "urls": [_paths(source, domains.suffix) for source in domains.train],
        "probs": drawn.weights,
    }
    blend = [
        {"path": _folder(source), "weight": weight}
        for source, weight in zip(domains.train, drawn.weights, strict=True)
    ]
    energon = {
        "__module__": "megatron.energon",
        "__class__": "MetadatasetV2",
        "splits": {"train": {"blend": blend}},
    }
    return {
        "random_mix.json": _json(mix),
        "energon.yaml": _yaml(energon, "run `energon prepare` in every folder first"),
    }


FILES: dict[str, tuple[Callable[[Domains], dict[str, str]], ...]] = {
    "megatron": (megatron,),
    "olmo": (olmo,),
    "datatrove": (nanotron,),
    "mds": (mosaic,),
    "litdata": (litdata,),
    "input_ids": (levanter, hugging_face),
    "parquet": (hugging_face, torchtitan, levanter),
    "jsonl": (hugging_face, torchtitan, levanter),
    "arrow": (hugging_face,),
    "webdataset": (webdataset,),
}
"""By format, as `blends.BLENDS`."""

STEMS = (
    "blend", "neox", "mixture", "nanoset", "streams", "streams_proportion", "combined",
    "levanter", "interleave", "torchtitan", "random_mix", "energon",
)  # fmt: skip
"""Names of all these files without suffix."""


def write(name: str, domains: Domains, directory: Path) -> list[Path]:
    """Write the files of a format's trainers under `trainer/`; returns their paths.

    Args:
        name: Of the format.
        domains: What to mix.
        directory: Of the dataset.

    Raises:
        RecipeError: A trainer cannot mix as many files.
    """
    texts = {key: text for make in FILES[name] for key, text in make(domains).items()}
    written = []
    for key, text in texts.items():
        path = directory / DIRECTORY / key
        with atomic_path(path) as temporary:
            temporary.write_text(text, "utf-8")
        written.append(path)
    return written
