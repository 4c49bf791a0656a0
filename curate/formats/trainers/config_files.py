"""Configuration files with which trainers mix domains that are written apart.

Each function returns files for `trainer/`, name and text. Paths in them are relative to the
dataset's directory, so that it can be moved: start the trainer there, or prefix the paths with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from curate.errors import RecipeError
from curate.formats.trainer_files import DIRECTORY
from curate.formats.trainers import draws, rounding
from curate.formats.trainers.draws import WrittenDomain
from curate.runtime.files import atomic_path

MOST_PREFIXES = 32_767
"""Most entries of a Megatron blend, which numbers them in int16."""

LEVANTER_TEXT = {"type": "text"}
LEVANTER_ROWS = {"type": "prebuilt", "input_ids_key": "input_ids"}
"""Formats of rows, as levanter names them."""

REPETITION_UNIT = 1_000_000
"""`max_repetition_ratio` is written in whole multiples of one over this."""


@dataclass(frozen=True, slots=True)
class ConfigInputs:
    """Content for a trainer's configuration files."""

    train: Sequence[WrittenDomain]
    """Domains with tokens on disk."""
    validation: Mapping[str, str]
    """Domain → stem of its held-out documents."""
    window_tokens: int
    """Tokens of the trainer's windows."""
    suffix: str
    """Suffix of a shard's file of tokens or text, which follows the stem."""


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def as_yaml(value: Any, *comments: str) -> str:
    """Return a value as YAML below comments."""
    lines = "".join(f"# {comment}\n" for comment in comments)
    return lines + str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def folder(domain: WrittenDomain) -> str:
    """Return the folder of a domain's shards."""
    return Path(domain.shards[0].stem).parent.as_posix()


def _paths(domain: WrittenDomain, suffix: str) -> list[str]:
    return [f"{shard.stem}{suffix}" for shard in domain.shards]


def megatron(inputs: ConfigInputs) -> dict[str, str]:
    """Make Megatron's blend, as a list and by split, and GPT-NeoX's keys.

    Raises:
        RecipeError: A blend cannot number as many shards.
    """
    shares = draws.by_planned(inputs.train)
    weighted = [
        (f"{share * shard.tokens / tokens:.17g}", shard.stem)
        for domain, share in zip(inputs.train, shares, strict=True)
        for tokens in [domain.tokens]  # sums over shards, so not once for each shard
        for shard in domain.shards
    ]
    if len(weighted) > MOST_PREFIXES:
        raise RecipeError(
            f"output.shape: per-domain makes {len(weighted)} prefixes, Megatron blends at most "
            f"{MOST_PREFIXES}; raise output.shard_tokens, or set output.shape: mixed"
        )
    train = [part for pair in weighted for part in pair]
    valid = [
        part
        for domain, share in zip(inputs.train, shares, strict=True)
        if domain.name in inputs.validation
        for part in (f"{share:.17g}", inputs.validation[domain.name])
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
        "neox.yml": as_yaml(neox, "keys for a configuration of GPT-NeoX"),
    }


def olmo(inputs: ConfigInputs) -> dict[str, str]:
    """Make the list of OLMo-core's source mixture."""
    shares = draws.by_planned(inputs.train)
    requested = sum(domain.planned_tokens for domain in inputs.train)
    sources = [
        {
            "source_name": domain.name,
            "target_ratio": share,
            "paths": _paths(domain, inputs.suffix),
            "max_repetition_ratio": repetition(domain),
        }
        for domain, share in zip(inputs.train, shares, strict=True)
    ]
    return {
        "mixture.yaml": as_yaml(
            {"sources": sources},
            f"for SourceMixtureList; requested_tokens: {requested}, sequence_length: "
            f"{inputs.window_tokens}",
        )
    }


def repetition(domain: WrittenDomain) -> float:
    """Count passes over a domain, rounded up so that OLMo-core does not fall short of them.

    Example:
        >>> from curate.formats.trainers.draws import WrittenShard
        >>> repetition(WrittenDomain("a", 100, (WrittenShard("a", 30, 1),)))
        3.333334
    """
    parts = -(-domain.planned_tokens * REPETITION_UNIT // domain.tokens)
    return max(REPETITION_UNIT, parts) / REPETITION_UNIT


def nanotron(inputs: ConfigInputs) -> dict[str, str]:
    """Make folders and weights of a Nanoset."""
    return {"nanoset.yaml": as_yaml({"dataset": nanoset(inputs)}, "data_stages[].data of nanotron")}


def nanoset(inputs: ConfigInputs) -> dict[str, Any]:
    """Make the settings of a Nanoset; skip folders without a window, which stop it."""
    weights = draws.nanotron(inputs.train, inputs.window_tokens).weights
    kept = [(s, weight) for s, weight in zip(inputs.train, weights, strict=True) if weight]
    return {
        "dataset_folder": [folder(domain) for domain, _ in kept],
        "dataset_weights": [weight for _, weight in kept],
    }


def mosaic(inputs: ConfigInputs) -> dict[str, str]:
    """Make streams of llm-foundry, in whole rows."""
    samples = draws.mosaic(inputs.train, inputs.window_tokens).samples
    streams = {
        domain.name: {"local": folder(domain), "choose": rows}
        for domain, rows in zip(inputs.train, samples, strict=True)
    }
    dataset = {"dataset": {"streams": streams}}
    return {"streams.yaml": as_yaml(dataset, "train_loader of llm-foundry")}


def mosaic_proportion(inputs: ConfigInputs) -> dict[str, str]:
    """Make streams of llm-foundry, in shares of rows."""
    weights = draws.mosaic_proportion(inputs.train, inputs.window_tokens).weights
    streams = {
        domain.name: {"local": folder(domain), "proportion": weight}
        for domain, weight in zip(inputs.train, weights, strict=True)
    }
    dataset = {"dataset": {"streams": streams, "epoch_size": draws.epoch_rows(inputs.train)}}
    return {
        "streams_proportion.yaml": as_yaml(
            dataset, "the same in shares of rows, which streaming rounds by lot"
        )
    }


def litdata(inputs: ConfigInputs) -> dict[str, str]:
    """Make folders and weights of a CombinedStreamingDataset; skip folders without a block."""
    weights = draws.litdata(inputs.train, inputs.window_tokens).weights
    kept = [(s, weight) for s, weight in zip(inputs.train, weights, strict=True) if weight]
    combined = {
        "folders": [folder(domain) for domain, _ in kept],
        "weights": [weight for _, weight in kept],
        "iterate_over_all": False,
    }
    return {"combined.json": _json(combined)}


def levanter(inputs: ConfigInputs) -> dict[str, str]:
    """Make components and `train_weights` of levanter for text."""
    return _levanter(inputs, LEVANTER_TEXT)


def levanter_prebuilt(inputs: ConfigInputs) -> dict[str, str]:
    """Make components and `train_weights` of levanter for rows of tokens, one sequence a row."""
    return _levanter(inputs, LEVANTER_ROWS)


def _levanter(inputs: ConfigInputs, row_format: dict[str, str]) -> dict[str, str]:
    weights = draws.by_planned(inputs.train)
    data = {
        "components": levanter_components(inputs, row_format),
        "train_weights": {s.name: w for s, w in zip(inputs.train, weights, strict=True)},
        # The smallest block that holds every domain, if there is one.
        "mixture_block_size": rounding.levanter_block(weights),
        "stop_strategy": "restart",
    }
    return {"levanter.yaml": as_yaml({"data": data})}


def levanter_components(inputs: ConfigInputs, row_format: dict[str, str]) -> dict[str, Any]:
    """Make the components of levanter, by domain.

    Args:
        inputs: The domains.
        row_format: The format of rows, as levanter names it.
    """
    components = {}
    for domain in inputs.train:
        urls: dict[str, Any] = {"type": "url", "train_urls": _paths(domain, inputs.suffix)}
        if domain.name in inputs.validation:
            urls["validation_urls"] = [inputs.validation[domain.name] + inputs.suffix]
        components[domain.name] = {"source": urls, "format": dict(row_format)}
    return components


def hugging_face(inputs: ConfigInputs) -> dict[str, str]:
    """Make files, probabilities of rows and strategy for `interleave_datasets`."""
    drawn = draws.random_rows(inputs.train, inputs.window_tokens)
    repeats = any(domain.planned_tokens > domain.tokens for domain in inputs.train)
    # Without repeats the plan takes every row once, and only this strategy does.
    strategy = "all_exhausted" if repeats else "all_exhausted_without_replacement"
    return {
        "interleave.json": _json(
            {
                "names": [domain.name for domain in inputs.train],
                "data_files": [_paths(domain, inputs.suffix) for domain in inputs.train],
                "probabilities": drawn.weights,
                "stopping_strategy": strategy,
                "seed": 42,
                "rows": draws.epoch_rows(inputs.train),
            }
        )
    }


def torchtitan(inputs: ConfigInputs) -> dict[str, str]:
    """Make folders and weights of torchtitan's interleaved sources, which pack, then draw."""
    shares = draws.by_planned(inputs.train)
    sources = [
        {"dataset": "c4_test", "dataset_path": folder(domain), "weight": share}
        for domain, share in zip(inputs.train, shares, strict=True)
    ]
    return {"torchtitan.json": _json({"sources": sources})}


def webdataset(inputs: ConfigInputs) -> dict[str, str]:
    """Make shards and probabilities of `webdataset.RandomMix`, and a blend of energon."""
    drawn = draws.random_rows(inputs.train, inputs.window_tokens)
    mix = {
        "urls": [_paths(domain, inputs.suffix) for domain in inputs.train],
        "probs": drawn.weights,
    }
    blend = [
        {"path": folder(domain), "weight": weight}
        for domain, weight in zip(inputs.train, drawn.weights, strict=True)
    ]
    energon = {
        "__module__": "megatron.energon",
        "__class__": "MetadatasetV2",
        "splits": {"train": {"blend": blend}},
    }
    return {
        "random_mix.json": _json(mix),
        "energon.yaml": as_yaml(energon, "run `energon prepare` in every folder first"),
    }


def write(texts: Mapping[str, str], directory: Path) -> list[Path]:
    """Write configuration files, given as name and text, to `trainer/` of a dataset's directory."""
    paths = []
    for name, text in texts.items():
        path = directory / DIRECTORY / name
        with atomic_path(path) as temporary:
            temporary.write_text(text, "utf-8")
        paths.append(path)
    return paths
