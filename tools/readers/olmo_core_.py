"""OLMo-core: windows (FSL), packed documents, and a source mixture."""

from __future__ import annotations

import contextlib
import logging
import re
from collections import Counter
from pathlib import Path

import mixtures
import numpy as np
from expected import Dataset, Report, Tally, Work, split_documents, windows_of, work_from_arguments
from olmo_core.data import (
    NumpyFSLDatasetConfig,
    NumpyPackedFSLDatasetConfig,
    TokenizerConfig,
)
from olmo_core.data.source_mixture import (
    SourceMixtureConfig,
    SourceMixtureDatasetConfig,
    SourceMixtureList,
)
from olmo_core.data.types import NumpyDatasetDType

LONGEST_TOKENS = 32_768
"""Longer than any document, so that packing cuts none."""
BATCH_SEQUENCES = 8
MIXED_SHARE = 0.5
"""Share of the budget that is requested of the source mixture, so that no source is short."""


def main() -> None:
    work = work_from_arguments()
    report = Report("OLMo-core", "ai2-olmo-core")
    data = work.dataset("olmo")
    paths = [shard.path(".npy") for shard in data.shards]
    common = {"tokenizer": tokenizer(data), "dtype": NumpyDatasetDType(data.dtype.name)}

    config = NumpyFSLDatasetConfig(
        paths=paths, sequence_length=work.sequence_tokens, work_dir=scratch("fsl"), **common
    )
    dataset = config.build()
    dataset.prepare()
    windows = [dataset[number]["input_ids"].numpy() for number in range(len(dataset))]
    starts = windows_of(data, work.sequence_tokens, work.sequence_tokens)
    report.windows("NumpyFSLDataset: windows are the source's", data, windows, starts)
    packed(work, report, data, common)
    source_mixture(work, report, common)
    own_mixture(work, report, common)


def scratch(name: str) -> str:
    """A folder for OLMo-core's indices."""
    path = Path(f"olmo-{name}").resolve()
    path.mkdir(exist_ok=True)
    return str(path)


def tokenizer(data: Dataset) -> TokenizerConfig:
    """Pad lies outside the vocabulary."""
    return TokenizerConfig(data.vocabulary, data.eos_id, pad_token_id=data.vocabulary)


def packed(work: Work, report: Report, data: Dataset, common: dict) -> None:
    """Documents by the boundaries in .csv.gz, then as found by end tokens."""
    paths = [shard.path(".npy") for shard in data.shards]
    for name, from_array in (("boundaries of .csv.gz", False), ("end tokens", None)):
        dataset = NumpyPackedFSLDatasetConfig(
            paths=paths, sequence_length=LONGEST_TOKENS, generate_doc_lengths=True,
            use_array_if_local=from_array, work_dir=scratch(f"packed-{from_array}"), **common,
        ).build()  # fmt: skip
        dataset.prepare()
        if from_array is None:
            by_end_tokens(report, data, dataset)
            continue
        tally = Tally(work, data)
        for number in range(len(dataset)):
            instance = dataset[number]
            kept = instance["input_ids"].numpy()[instance["label_mask"].numpy()]
            for document in documents(kept, work, data):
                tally.add_tokens(document)
        tally.report(report, f"NumpyPackedFSLDataset, {name}")


def documents(tokens: np.ndarray, work: Work, data: Dataset) -> list[np.ndarray]:
    """Documents by end tokens, cut ones taken off the front of what they stand before."""
    cut, whole = _cut_documents(data), []
    waiting = split_documents(tokens, data.eos_id)[::-1]
    while waiting:
        piece = waiting.pop()
        text = work.tokenizer.decode(piece[:-1].tolist(), skip_special_tokens=False)
        fronts = [one for one in cut if np.array_equal(piece[: len(one)], one)]
        if text in work.sources or not fronts or len(fronts[0]) == len(piece):
            whole.append(piece)
        else:
            whole.append(fronts[0])
            waiting.append(piece[len(fronts[0]) :])
    return whole


def _cut_documents(data: Dataset) -> list[np.ndarray]:
    stops = np.cumsum(data.lengths)
    pieces = zip(stops - data.lengths, stops, strict=True)
    return [data.stream[a:b] for a, b in pieces if data.stream[b - 1] != data.eos_id]


def by_end_tokens(report: Report, data: Dataset, dataset: object) -> None:
    """Tokens after the last end token of a file are not shown; all others are, once."""
    shown = sum(int(dataset[number]["label_mask"].sum()) for number in range(len(dataset)))
    after = 0
    for shard in data.shards:
        tokens = data.stream[shard.start : shard.start + shard.tokens]
        after += shard.tokens - 1 - int(np.flatnonzero(tokens == data.eos_id)[-1])
    total = len(data.stream)
    report.add(
        "NumpyPackedFSLDataset, end tokens: all up to each file's last", shown == total - after,
        f"{shown:,} of {total:,} tokens, {after:,} after a last end token",
    )  # fmt: skip


def source_mixture(work: Work, report: Report, common: dict) -> None:
    """Ratios of tokens, rounded to instances and the total up to whole batches."""
    sets = [work.dataset(f"olmo-{domain}") for domain in work.domains]
    length = work.sequence_tokens
    sources = [
        SourceMixtureConfig(
            source_name=data.domains[0],
            target_ratio=work.weights[data.domains[0]],
            paths=[str(data.directory / "train" / "*.npy")],
        )
        for data in sets
    ]
    requested = int(sum(len(data.stream) for data in sets) * MIXED_SHARE)
    mixture = SourceMixtureDatasetConfig(
        source_list=SourceMixtureList(sources), requested_tokens=requested,
        global_batch_size=BATCH_SEQUENCES * length, render_tables=False,
    )  # fmt: skip
    dataset = NumpyFSLDatasetConfig.from_src_mix(
        mixture, sequence_length=length, work_dir=scratch("mixture"), **common
    ).build()
    dataset.prepare()
    owner = {
        data.stream[start : start + length].tobytes(): data.domains[0]
        for data in sets
        for start in windows_of(data, length, length)
    }
    drawn: Counter[str | None] = Counter()
    for number in range(len(dataset)):
        tokens = dataset[number]["input_ids"].numpy().astype(sets[0].stream.dtype)
        drawn[owner.get(tokens.tobytes())] += length
    unknown = drawn.pop(None, 0)
    report.add(
        "SourceMixture: windows are the source's", not unknown,
        f"{len(dataset):,} windows, {unknown // length} unknown",
    )  # fmt: skip
    batches = len(dataset) / BATCH_SEQUENCES
    report.add("SourceMixture: whole batches", batches.is_integer(), f"{batches:g} batches")
    report.shares("SourceMixture: share", dict(drawn), work.weights, 2 * length)


def own_mixture(work: Work, report: Report, common: dict) -> None:
    """`trainer/mixture.yaml`, in batches of one window as forecast and of eight."""
    data = work.dataset("olmo-apart")
    promise = mixtures.promised(data, "OLMo-core source mixture")
    owners, length = mixtures.Owners(data), work.sequence_tokens
    heading = (data.directory / "trainer/mixture.yaml").read_text("utf-8").splitlines()[0]
    requested = int(re.search(r"requested_tokens: (\d+)", heading)[1])
    counts = {}
    for batch in (1, BATCH_SEQUENCES):
        folder = scratch(f"own-{batch}")
        with contextlib.chdir(data.directory):
            listed = SourceMixtureList.from_yaml(Path("trainer/mixture.yaml"))
            mixture = SourceMixtureDatasetConfig(
                source_list=listed, requested_tokens=requested,
                global_batch_size=batch * length, render_tables=False,
            )  # fmt: skip
            dataset = NumpyFSLDatasetConfig.from_src_mix(
                mixture, sequence_length=length, work_dir=folder, **common
            ).build()
            dataset.prepare()
            windows = (dataset[number]["input_ids"].numpy() for number in range(len(dataset)))
            counts[batch] = owners.sort(windows)
    mixtures.keeps(report, promise, counts[1])
    eight, one = (
        {name: len(samples) for name, samples in counts[batch].items()}
        for batch in (BATCH_SEQUENCES, 1)
    )
    added = sum(eight.values()) - sum(one.values())
    moved = max(abs(eight[name] - one[name]) for name in promise.domains)
    report.add(
        "own mixture file: in batches of eight", 0 <= added < BATCH_SEQUENCES >= moved,
        f"{added} instances more than in batches of one",
    )  # fmt: skip


if __name__ == "__main__":
    logging.disable(logging.INFO)
    main()
