"""levanter: Parquet of input_ids as `prebuilt`, the cache it makes of it, and `train_weights`.

`prebuilt` takes a row as a sequence, so its rows must have the trainer's length. The cache that
levanter makes of whole documents is one stream, which its `text` format cuts into sequences.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import shutil
from collections import Counter
from pathlib import Path

import draccus
import haliax
import jax
import mixtures
import numpy as np
import yaml
from expected import Dataset, Report, Tally, Work, work_from_arguments
from levanter.data.text import (
    DatasetComponent,
    LmDataConfig,
    PrebuiltLmDatasetFormat,
    UrlDatasetSourceConfig,
)
from levanter.data.text.datasets import TokenSeqDataset
from levanter.schedule import BatchSchedule

EOS = "<|endoftext|>"
BATCH_SEQUENCES = 64
"""Sequences of a training step.

levanter's store gives a first row cut short to a batch that has it twice.
"""
BLOCK_SEQUENCES = 2048
"""levanter's default. In each block every weight is rounded down and one takes what is left."""


def main() -> None:
    work = work_from_arguments()
    report = Report("levanter", "marin-levanter")
    data = work.dataset("input_ids")
    cache = configuration(work, {"mix": data}).build_caches("train")["mix"]
    tally = Tally(work, data)
    for row in asyncio.run(rows_of(cache)):
        tally.add_tokens(row["input_ids"])
    tally.report(report, "prebuilt, documents")

    windows = asyncio.run(windows_from(cache, work.sequence_tokens))
    starts = [number * work.sequence_tokens for number in range(len(windows))]
    plain = dataclasses.replace(data, lost_tokens=None)  # the certificate's is for rows cut short
    report.windows("its cache as text: sequences are the source's", plain, windows, starts)
    mixture(work, report)
    own_data(work, report, "input_ids_sequences", "passthrough")
    for name in ("parquet", "jsonl"):
        own_data(work, report, name, tokenizer(work))
    stages(work, report)


async def rows_of(cache: object) -> list[dict]:
    """All rows of a cache."""
    return await cache.get_batch(range(await cache.async_len()))


async def windows_from(cache: object, length: int) -> list[np.ndarray]:
    """The cache cut into sequences."""
    dataset = TokenSeqDataset(cache, length)
    found = await dataset.get_batch(range(await dataset.async_len()))
    return [np.asarray(one["input_ids"]) for one in found]


def configuration(work: Work, sets: dict[str, Dataset], **settings: object) -> LmDataConfig:
    """Settings, as a training run's `data:`."""
    folder = Path("levanter-cache").resolve() / "-".join(data.name for data in sets.values())
    shutil.rmtree(folder, ignore_errors=True)
    components = {
        name: DatasetComponent(
            source=UrlDatasetSourceConfig(
                train_urls=[shard.path(".parquet") for shard in data.shards]
            ),
            format=PrebuiltLmDatasetFormat(input_ids_key="input_ids"),
            cache_dir=str(folder / name),
        )
        for name, data in sets.items()
    }
    vocabulary = next(iter(sets.values())).vocabulary
    return LmDataConfig(
        tokenizer="passthrough", vocab_size=vocabulary, components=components,
        cache_dir=str(folder), **settings,
    )  # fmt: skip


def mixture(work: Work, report: Report) -> None:
    """Weights are of sequences, exact in every block."""
    sets = {domain: work.dataset(f"input_ids_sequences-{domain}") for domain in work.domains}
    config = configuration(
        work, sets, train_weights=work.weights, mixture_block_size=BLOCK_SEQUENCES, shuffle=True
    )
    position = haliax.Axis("position", work.sequence_tokens)
    dataset = config.train_set(position, BatchSchedule(8), key=jax.random.PRNGKey(0))
    examples = asyncio.run(dataset.get_batch(range(BLOCK_SEQUENCES)))
    owner = {
        sequence.tobytes(): domain
        for domain, data in sets.items()
        for sequence in filled(data, work.sequence_tokens)
    }
    found: Counter[str | None] = Counter()
    for example in examples:
        tokens = np.asarray(example.tokens.array).astype(np.uint32)
        found[owner.get(tokens.tobytes())] += len(tokens)
    unknown = found.pop(None, 0)
    report.add("train_weights: sequences are the domain's", not unknown, f"{unknown} unknown")
    rounding = (len(sets) - 1) * work.sequence_tokens
    report.shares("train_weights: share", dict(found), work.weights, rounding)


def tokenizer(work: Work) -> str:
    """A folder with the reference tokenizer, as levanter loads one."""
    folder = Path("tokenizer").resolve()
    folder.mkdir(exist_ok=True)
    shutil.copy(work.tokenizer_path, folder / "tokenizer.json")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOS}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return str(folder)


def own_data(work: Work, report: Report, name: str, tokenizer: str) -> None:
    """`trainer/levanter.yaml`, decoded as a training run's; one whole block of sequences."""
    data = work.dataset(f"{name}-apart")
    promise = mixtures.promised(data, "levanter")
    settings = mixtures.configuration(data, "levanter.yaml").pop("data")
    cache = Path("levanter-own").resolve() / name
    shutil.rmtree(cache, ignore_errors=True)
    given = {"tokenizer": tokenizer, "cache_dir": str(cache)}
    given |= {"vocab_size": data.vocabulary} if tokenizer == "passthrough" else {}
    with contextlib.chdir(data.directory):
        config = draccus.decode(LmDataConfig, settings | given)
        position = haliax.Axis("position", promise.window_tokens)
        train = config.train_set(position, BatchSchedule(8), key=jax.random.PRNGKey(0))
        examples = [
            example
            for start in range(0, config.mixture_block_size, BATCH_SEQUENCES)
            for example in asyncio.run(train.get_batch(range(start, start + BATCH_SEQUENCES)))
        ]
        held_out = config.validation_sets(position)
        rows = {key: len(one.as_sync_dataset()) for key, one in held_out.items()}
    drawn = mixtures.Owners(data).sort(np.asarray(one.tokens.array) for one in examples)
    mixtures.keeps(report, promise, drawn, name)
    report.add(f"own mixture file: validation ({name})", set(rows) == set(data.domains), str(rows))


def stages(work: Work, report: Report) -> None:
    """`levanter_stages.yaml`, decoded as a training run's, all sequences of all steps."""
    sets = {name: work.dataset(f"input_ids_sequences-stages/{name}") for name in work.stages}
    first = next(iter(sets.values()))
    length = mixtures.promised(first, "levanter").window_tokens
    root, step = first.directory.parent, work.batch_sequences
    settings = yaml.safe_load((root / "trainer" / "levanter_stages.yaml").read_text())["data"]
    cache = Path("levanter-own").resolve() / "stages"
    shutil.rmtree(cache, ignore_errors=True)
    given = {"tokenizer": "passthrough", "cache_dir": str(cache), "vocab_size": first.vocabulary}
    sequences = sum(budget // length for budget in work.stages.values())
    with contextlib.chdir(root):
        config = draccus.decode(LmDataConfig, settings | given)
        position = haliax.Axis("position", length)
        train = config.train_set(position, BatchSchedule(step), key=jax.random.PRNGKey(0))
        block = config.mixture_block_size
        stop = -(-sequences // block) * block  # whole blocks, in each of which shares are exact
        drawn = [
            np.asarray(example.tokens.array)
            for start in range(0, stop, BATCH_SEQUENCES)
            for example in asyncio.run(train.get_batch(range(start, start + BATCH_SEQUENCES)))
        ]
        held_out = config.validation_sets(position)
        rows = {key: len(one.as_sync_dataset()) for key, one in held_out.items()}
    starts = [change[0] * step for change in settings["train_weights"]]
    planned = 0
    for (name, data), start, end in zip(sets.items(), starts, [*starts[1:], stop], strict=True):
        owners = mixtures.Owners(data)
        off, unknown = 0.0, 0
        for low in range(start, end, block):
            counts = Counter(map(owners.of, drawn[low : low + block]))
            unknown += counts.pop(None, 0)
            shares = {key: counts[key] / block for key in data.domains}
            off = max(off, *(abs(shares[k] - w) for k, w in work.stage_weights[name].items()))
        kind = f"own file of stages, {name}"
        report.add(
            f"{kind}: sequences are the stage's", not unknown,
            f"{end - start:,} sequences, {unknown} of no domain of the stage",
        )  # fmt: skip
        report.add(
            f"{kind}: shares of the plan in every block", off < len(data.domains) / block,
            f"furthest off by {off:.3%}, {(end - start) // block} blocks of {block}",
        )  # fmt: skip
        report.add(
            f"{kind}: begins at the nearest block", abs(start - planned) <= block / 2,
            f"sequence {start:,} for {planned:,}",
        )  # fmt: skip
        planned += work.stages[name] // length
    expected = {f"{first.directory.name}/{domain}" for domain in first.domains}
    report.add("own file of stages: validation", set(rows) == expected, str(rows))


def filled(data: Dataset, length: int) -> np.ndarray:
    """The stream as sequences, the last filled up with end tokens."""
    missing = -len(data.stream) % length
    end = np.full(missing, data.eos_id, data.stream.dtype)
    return np.concatenate([data.stream, end]).reshape(-1, length)


if __name__ == "__main__":
    logging.disable(logging.INFO)
    main()
