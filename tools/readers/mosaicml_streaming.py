"""MosaicML's StreamingDataset: rows, proportions of several streams, resume."""

from __future__ import annotations

import contextlib
import sys
import types
from collections import Counter
from pathlib import Path

import mixtures
import numpy as np
import transformers  # noqa: F401 - before the stand-in below: it would take it for the real one
from expected import Dataset, Report, Tally, Work, windows_of, work_from_arguments

BATCH = 4
EPOCH_ROWS = 2000


def stand_in() -> None:
    """`import streaming` wants torchvision for its images; no image is read here."""
    for name in ("torchvision", "torchvision.datasets", "torchvision.transforms",
                 "torchvision.transforms.functional"):  # fmt: skip
        module = types.ModuleType(name)
        module.VisionDataset = object
        module.ToTensor = module.to_tensor = None
        sys.modules[name] = module
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
    sys.modules["torchvision.transforms"].functional = sys.modules[
        "torchvision.transforms.functional"
    ]


stand_in()

from streaming import Stream, StreamingDataLoader, StreamingDataset  # noqa: E402
from streaming.base.util import clean_stale_shared_memory  # noqa: E402


def main() -> None:
    work = work_from_arguments()
    clean_stale_shared_memory()
    report = Report("MosaicML streaming", "mosaicml-streaming")
    documents = work.dataset("mds_documents")
    tally = Tally(work, documents)
    rows = StreamingDataset(local=folder(documents), shuffle=False, batch_size=1)
    for number in range(rows.num_samples):
        tally.add_tokens(rows[number]["tokens"])
    tally.report(report, "rows of documents")

    data = work.dataset("mds")
    length = work.sequence_tokens
    rows = StreamingDataset(local=folder(data), shuffle=False, batch_size=1)
    windows = [row["tokens"] for row in rows]
    starts = windows_of(data, length, length)
    last = data.shards[-1]
    whole = last.start + last.tokens // length * length
    if whole < len(data.stream):
        starts.append(whole)
    report.windows("rows of sequences are the source's", data, windows, starts)
    report.add(
        "rows of sequences: all of one length but the last",
        {len(row) for row in windows[:-1]} == {length}, f"{len(windows):,} rows of {length}",
    )  # fmt: skip
    proportions(work, report)
    resume(report, data)
    for name in ("mds-apart", "mds_documents-apart", *(f"mds-stages/{s}" for s in work.stages)):
        for file, trainer in (
            ("streams.yaml", "streaming, choose"),
            ("streams_proportion.yaml", "streaming, proportion"),
        ):
            own_streams(work, report, name, (file, trainer))


def folder(data: Dataset) -> str:
    """Holds index.json."""
    return str(data.directory / "train")


def proportions(work: Work, report: Report) -> None:
    """Proportions are of rows."""
    sets = [work.dataset(f"mds-{domain}") for domain in work.domains]
    owner = {
        data.stream[start : start + work.sequence_tokens].tobytes(): data.domains[0]
        for data in sets
        for start in windows_of(data, 1, work.sequence_tokens)
    }
    streams = [
        Stream(local=folder(data), proportion=work.weights[data.domains[0]]) for data in sets
    ]
    mixed = StreamingDataset(
        streams=streams, epoch_size=EPOCH_ROWS, shuffle=True, shuffle_seed=3, batch_size=BATCH
    )
    drawn_tokens: Counter[str | None] = Counter()
    for row in mixed:
        drawn_tokens[owner.get(row["tokens"].astype(np.uint32).tobytes())] += len(row["tokens"])
    unknown = drawn_tokens.pop(None, 0)
    report.add("proportions: rows are the domain's", not unknown, f"{unknown} tokens unknown")
    report.shares("proportions: share", dict(drawn_tokens), work.weights, 2 * work.sequence_tokens)


def resume(report: Report, data: Dataset) -> None:
    """A loader stopped half way goes on with the next batch."""
    whole = [key(batch) for batch in loader(data)]
    first, seen = loader(data), []
    half = len(whole) // 2
    iterator = iter(first)
    seen += [key(next(iterator)) for _ in range(half)]
    state = first.state_dict()
    del iterator
    again = loader(data)
    again.load_state_dict(state)
    seen += [key(batch) for batch in again]
    report.add("StreamingDataLoader: resume", seen == whole, f"{half} of {len(whole)} batches")


def loader(data: Dataset) -> StreamingDataLoader:
    """One epoch, shuffled."""
    rows = StreamingDataset(
        local=folder(data), shuffle=True, shuffle_seed=5, batch_size=BATCH, num_canonical_nodes=1
    )
    return StreamingDataLoader(rows, batch_size=BATCH, collate_fn=collate)


def collate(rows: list[dict]) -> dict:
    """The loader counts samples by the first entry of a batch."""
    return {"tokens": [row["tokens"] for row in rows]}


def key(batch: dict) -> bytes:
    """Content of a batch, comparable."""
    return np.concatenate(batch["tokens"]).tobytes()


def own_streams(work: Work, report: Report, name: str, written: tuple[str, str]) -> None:
    """A file of `trainer/`: every key goes to Stream or StreamingDataset, as llm-foundry does.

    Args:
        work: What was built.
        report: Where the rows go.
        name: The dataset.
        written: The file, and the trainer in the certificate.
    """
    data, (file, trainer) = work.dataset(name), written
    promise = mixtures.promised(data, trainer)
    settings = mixtures.configuration(data, file).pop("dataset")
    streams = settings.pop("streams").values()
    owner = rows_of(data, None if name == "mds_documents-apart" else promise.window_tokens)
    drawn: mixtures.Drawn = {}
    with contextlib.chdir(data.directory):
        rows = StreamingDataset(
            streams=[Stream(**keys) for keys in streams], shuffle=True, batch_size=1,
            **settings,
        )  # fmt: skip
        for row in rows:
            domain = owner.get(row["tokens"].astype(np.uint32).tobytes())
            drawn.setdefault(domain, []).append(len(row["tokens"]))
    mixtures.keeps(report, promise, drawn, name.removesuffix("-apart"))


def rows_of(data: Dataset, length: int | None) -> dict[bytes, str]:
    """Each row's domain: documents, or sequences of `length`."""
    stops = np.cumsum(data.lengths)
    if length is not None:
        ends = [s.start + s.tokens for s in data.shards]
        steps = [np.arange(s.start, s.start + s.tokens, length)[1:] for s in data.shards]
        stops = np.sort(np.concatenate([ends, *steps]))
    starts = np.concatenate([[0], stops[:-1]])
    return {
        data.stream[start:stop].tobytes(): data.domains[data.domain_of[start]]
        for start, stop in zip(starts, stops, strict=True)
    }


if __name__ == "__main__":
    Path("streaming").mkdir(exist_ok=True)
    main()
