"""torchtitan 0.3: text folders tokenised, packed, interleaved by weight, and resumed.

Its loader shifts inputs and labels inside each document, so a document of n tokens and an end
token gives n inputs; a document is whole once its last label, the end token, was seen.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import mixtures
import numpy as np
from expected import Report, Tally, Work, work_from_arguments
from torchtitan.components.tokenizer import BaseTokenizer
from torchtitan.hf_datasets.text_datasets import (
    HFDataSource,
    HuggingFaceTextDataset,
    InterleavedHuggingFaceTextDataLoader,
)

LOCAL = "c4_test"
"""torchtitan's name for a folder with a `text` column."""
DRAWS = 2000


class Ours(BaseTokenizer):
    """The reference tokenizer, with no token before a document and the end token after it."""

    def __init__(self, work: Work, eos_id: int) -> None:
        """Take the tokenizer of the work directory."""
        self.work, self.eos_id = work, eos_id

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """Ids of a text."""
        return [*self.work.tokenizer.encode(text).ids, *[self.eos_id] * add_eos]

    def decode(self, ids: list[int]) -> str:
        """Text of ids."""
        return self.work.tokenizer.decode(ids, skip_special_tokens=False)

    def get_vocab_size(self) -> int:
        """Ids there are."""
        return self.work.tokenizer.get_vocab_size()


def main() -> None:
    work = work_from_arguments()
    report = Report("torchtitan", "torchtitan")
    for name in ("parquet", "jsonl"):
        folder(work, report, name)
    resume(work, report)
    interleaved(work, report)
    for name in ("parquet", "jsonl"):
        own_sources(work, report, name)


def folder(work: Work, report: Report, name: str) -> None:
    """Documents in the order of the files; a last window that is not full is not shown."""
    data = work.dataset(name)
    tally = Tally(work, data)
    inputs, labels = [], []
    for sample, label in windows(work, name):
        inputs.append(sample["input"].numpy())
        labels.append(label.numpy())
    flat, ends = np.concatenate(inputs), np.flatnonzero(np.concatenate(labels) == data.eos_id) + 1
    for document in np.split(flat, ends)[:-1]:
        tally.add_text(work.tokenizer.decode(document.tolist(), skip_special_tokens=False))
    seen = data.lengths[: tally.documents]
    wanted = data.shares(slice(0, int(seen.sum())))
    fine = not tally.unknown and tally.tokens == wanted
    report.add(
        f"{name}: documents decode to the source text", not tally.unknown,
        f"{tally.documents:,} of {len(data.lengths):,} documents, the rest in the last window",
    )  # fmt: skip
    report.add(f"{name}: tokens by domain", fine, str(tally.tokens))


def windows(work: Work, name: str) -> HuggingFaceTextDataset:
    """One pass over a dataset's training folder."""
    data = work.dataset(name)
    return HuggingFaceTextDataset(
        LOCAL, str(data.directory), Ours(work, data.eos_id), seq_len=work.sequence_tokens
    )


def keys(samples: Iterator) -> list[bytes]:
    """Content of windows."""
    return [sample["input"].numpy().tobytes() for sample, _ in samples]


def resume(work: Work, report: Report) -> None:
    """A pass stopped half way goes on with the next window."""
    whole = keys(windows(work, "parquet-manuals"))
    half = len(whole) // 2
    first = windows(work, "parquet-manuals")
    seen = keys(itertools.islice(first, half))
    again = windows(work, "parquet-manuals")
    again.load_state_dict(first.state_dict())
    seen += keys(again)
    report.add("resume", seen == whole, f"{half} of {len(whole)} windows")


def interleaved(work: Work, report: Report) -> None:
    """Weights are of windows, drawn at random."""
    owner, sources = {}, []
    for number, domain in enumerate(work.domains):
        name = f"parquet-{domain}"
        owner |= dict.fromkeys(keys(windows(work, name)), number)
        sources.append(
            HFDataSource(
                dataset=LOCAL, dataset_path=str(work.dataset(name).directory),
                weight=work.weights[domain], infinite=False,
            )
        )  # fmt: skip
    loader = InterleavedHuggingFaceTextDataLoader(
        InterleavedHuggingFaceTextDataLoader.Config(sources=sources, seed=11),
        dp_world_size=1, dp_rank=0, tokenizer=Ours(work, work.dataset("parquet").eos_id),
        seq_len=work.sequence_tokens, local_batch_size=1,
    )  # fmt: skip
    count = np.zeros(len(sources))
    unknown = 0
    for sample, _ in itertools.islice(loader, DRAWS):
        which = owner.get(sample["input"].numpy().tobytes())
        if which is None:
            unknown += 1
        else:
            count[which] += 1
    drawn, share = count.sum(), np.array(list(work.weights.values()))
    worst = float((np.abs(count - drawn * share) / np.sqrt(drawn * share * (1 - share))).max())
    report.add(
        "interleaved: share", worst < 4 and not unknown,
        f"{drawn:.0f} windows, {unknown} unknown, furthest {worst:.1f} standard deviations; "
        "random by design",
    )  # fmt: skip


def own_sources(work: Work, report: Report, name: str) -> None:
    """`trainer/torchtitan.json`: each source's keys go to HFDataSource."""
    data = work.dataset(f"{name}-apart")
    promise = mixtures.promised(data, "torchtitan")
    settings = mixtures.configuration(data, "torchtitan.json")
    sources = [HFDataSource(**keys) for keys in settings.pop("sources")]
    with contextlib.chdir(data.directory):
        loader = InterleavedHuggingFaceTextDataLoader(
            InterleavedHuggingFaceTextDataLoader.Config(sources=sources, **settings),
            dp_world_size=1, dp_rank=0, tokenizer=Ours(work, data.eos_id),
            seq_len=promise.window_tokens, local_batch_size=1,
        )  # fmt: skip
        drawn = mixtures.Owners(data).sort(
            sample["input"].numpy() for sample, _ in itertools.islice(loader, promise.samples)
        )
    mixtures.keeps(report, promise, drawn, name)


if __name__ == "__main__":
    main()
