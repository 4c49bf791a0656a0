"""Megatron-core: IndexedDataset, GPTDataset and a blend of one prefix a domain.

GPTDataset shuffles documents and then samples of L tokens and one more; its own indices say where a
sample stands, so each is compared with the source documents in that order.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import mixtures
import numpy as np
from expected import Dataset, Report, Shard, Tally, Work, work_from_arguments
from megatron.core.datasets.blended_dataset import BlendedDataset
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDataset
from megatron.core.datasets.utils import Split, get_blend_from_list

BLEND_SAMPLES = 2000
VALIDATION_SAMPLES = 20
SEED = 7


@dataclass
class EndToken:
    """Attributes of a tokenizer that Megatron reads."""

    vocab_size: int
    eod: int
    pad: int = -1
    """Outside the vocabulary: a pad that is a token of the data would be masked."""
    unique_identifiers: str = "curate"


def main() -> None:
    work = work_from_arguments()
    report = Report("Megatron-core", "megatron-core")
    data = work.dataset("megatron")
    tally, same = Tally(work, data), True
    number = 0
    for shard in data.shards:
        indexed = IndexedDataset(str(shard.stem))
        for document in indexed:
            tally.add_tokens(document)
            same &= len(document) == data.lengths[number]
            number += 1
    tally.report(report, "IndexedDataset")
    report.add("IndexedDataset: boundaries", same and number == len(data.lengths), f"{number:,}")
    shown = np.zeros(len(data.stream), bool)
    wrong = samples = 0
    for shard in data.shards:
        one = gpt_dataset(work, data, shard)
        wrong += sum(not fits(one, index, data, shard, shown) for index in range(len(one)))
        samples += len(one)
    lost = len(shown) - int(shown.sum())
    report.add(
        "GPTDataset: samples are the source's tokens",
        not wrong and lost == data.lost_tokens,
        f"{samples:,} samples, {wrong} wrong; {lost:,} tokens not shown "
        f"(certificate: {data.lost_tokens:,})",
    )
    blend(work, report)
    every_sample_once(work, report, data)
    own_blend(report, work.dataset("megatron-apart"), work.sequence_tokens)
    for stage in work.stages:
        data = work.dataset(f"megatron-stages/{stage}")
        own_blend(report, data, mixtures.promised(data, "Megatron-LM").window_tokens, stage)


def configuration(length: int, data: Dataset, **blend: object) -> GPTDatasetConfig:
    """Settings as a training run with sequences of `length` tokens has them."""
    return GPTDatasetConfig(
        random_seed=SEED,
        sequence_length=length,
        tokenizer=EndToken(data.vocabulary, data.eos_id),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        **blend,
    )


def gpt_dataset(work: Work, data: Dataset, shard: Shard) -> GPTDataset:
    """One epoch of a shard."""
    blend = ([str(shard.stem)], None)
    config = configuration(work.sequence_tokens, data, blend=blend, split="1,0,0")
    indexed = GPTDataset.build_low_level_dataset(str(shard.stem), config)
    documents = np.arange(len(indexed), dtype=np.int32)
    return GPTDataset(indexed, str(shard.stem), documents, None, Split.train, config)


def fits(
    one: GPTDataset, index: int, data: Dataset, shard: Shard, shown: np.ndarray | None = None
) -> bool:
    """Whether a sample is the source's tokens at the place that the indices name."""
    begin = int(one.shuffle_index[index])
    length = one.config.sequence_length
    first, last = one.sample_index[begin], one.sample_index[begin + 1]
    stops = np.cumsum(data.lengths)
    before = int(np.searchsorted(stops, shard.start, side="right"))
    places = []
    for position in range(int(first[0]), int(last[0]) + 1):
        document = before + int(one.document_index[position])
        start = int(stops[document] - data.lengths[document])
        low = int(first[1]) if position == first[0] else 0
        high = int(last[1]) + 1 if position == last[0] else int(data.lengths[document])
        places.append(np.arange(start + low, start + high))
    place = np.concatenate(places)
    if shown is not None:
        shown[place] = True
    sample = one[index]
    tokens = np.append(sample["tokens"].numpy(), sample["labels"].numpy()[-1])
    return len(place) == length + 1 and np.array_equal(tokens, data.stream[place])


def blend(work: Work, report: Report) -> None:
    """`--train-data-path 40 prefix 30 prefix …`: a prefix is a shard of a domain."""
    sets = [work.dataset(f"megatron-{domain}") for domain in work.domains]
    shards = [(data, shard) for data in sets for shard in data.shards]
    weights = [
        work.weights[data.domains[0]] * shard.tokens / sum(one.tokens for one in data.shards)
        for data, shard in shards
    ]
    prefixes = [str(shard.stem) for _, shard in shards]
    blend = [(prefixes, weights), None, None]
    config = configuration(work.sequence_tokens, sets[0], blend_per_split=blend)
    blended = build(config, BLEND_SAMPLES)
    drawn_tokens = dict.fromkeys(work.domains, 0)
    wrong = 0
    for index in range(len(blended)):
        which, sample = int(blended.dataset_index[index]), int(blended.dataset_sample_index[index])
        data, shard = shards[which]
        one = blended.datasets[which]
        wrong += not fits(one, sample, data, shard)
        drawn_tokens[data.domains[0]] += work.sequence_tokens
    report.add("BlendedDataset: samples are the domain's", not wrong, f"{len(blended):,} samples")
    most = max(len(data.shards) for data in sets)
    report.shares("BlendedDataset: share", drawn_tokens, work.weights, most * work.sequence_tokens)


def every_sample_once(work: Work, report: Report, data: Dataset) -> None:
    """`--data-path prefix prefix …` without weights, as for a mixed output."""
    prefixes = [str(shard.stem) for shard in data.shards]
    by_split = [(prefixes, None), None, None]
    config = configuration(work.sequence_tokens, data, blend_per_split=by_split)
    blend = build(config, None)
    samples = sum((shard.tokens - 1) // work.sequence_tokens for shard in data.shards)
    report.add("Blend without weights: every sample once", len(blend) == samples, f"{len(blend):,}")


def build(config: GPTDatasetConfig, samples: int | None) -> BlendedDataset:
    """The training split, by Megatron's own builder."""
    return build_splits(config, [samples, None, None])[0]


def build_splits(config: GPTDatasetConfig, sizes: Sequence[int | None]) -> list[BlendedDataset]:
    """All splits."""
    return BlendedMegatronDatasetBuilder(GPTDataset, sizes, lambda: True, config).build()


def own_blend(report: Report, data: Dataset, length: int, stage: str = "") -> None:
    """`trainer/blend.txt` as `--data-args-path`, `trainer/blend.json` by split, as written."""
    what = f"own mixture file{f' of stage {stage}' * bool(stage)}"
    promise = mixtures.promised(data, "Megatron-LM")
    splits = mixtures.configuration(data, "blend.json")
    listed = get_blend_from_list((data.directory / "trainer/blend.txt").read_text().split())
    by_split = [get_blend_from_list(splits.pop(name)) for name in ("train", "valid", "test")]
    fine = not splits and listed == by_split[0] and by_split[2] is None
    report.add(f"{what}: both say the same", fine, f"{len(listed[0])} prefixes")
    shards = {str(shard.stem.relative_to(data.directory)): shard for shard in data.shards}
    with contextlib.chdir(data.directory):
        config = configuration(length, data, blend_per_split=by_split)
        sizes = [promise.samples, VALIDATION_SAMPLES, None]
        train, validation, _ = build_splits(config, sizes)
        wrong, drawn = 0, defaultdict(list)
        for index in range(promise.samples):  # a few more are made, and not trained on
            which, sample = int(train.dataset_index[index]), int(train.dataset_sample_index[index])
            shard = shards[by_split[0][0][which]]
            wrong += not fits(train.datasets[which], sample, data, shard)
            drawn[mixtures.folder_of(shard.stem)].append(length)
        held_out = {len(validation[index]["tokens"]) for index in range(len(validation))}
    report.add(f"{what}: samples are the domain's", not wrong, f"{wrong} wrong")
    mixtures.keeps(report, promise, drawn, stage)
    fine = len(validation) >= VALIDATION_SAMPLES and held_out == {length}
    report.add(f"{what}: validation", fine, f"{len(validation)} samples")


if __name__ == "__main__":
    main()
