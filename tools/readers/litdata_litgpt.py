"""litdata's StreamingDataset with TokensLoader, a weighted mix, resume; litgpt's LitData."""

from __future__ import annotations

import contextlib
import itertools

import mixtures
import numpy as np
from expected import Dataset, Report, Tally, Work, split_documents, windows_of, work_from_arguments
from litdata import CombinedStreamingDataset, StreamingDataLoader, StreamingDataset, TokensLoader

DRAWS = 3000
BATCH = 4


def main() -> None:
    work = work_from_arguments()
    report = Report("litdata", "litdata")
    data = work.dataset("litdata")
    length = work.sequence_tokens + 1
    blocks = [block.numpy() for block in stream(data, length)]
    starts = windows_of(data, length, length)
    report.windows("TokensLoader: blocks are the source's", data, blocks, starts)

    one_token = np.concatenate([block.numpy() for block in stream(data, 1)])
    tally = Tally(work, data)
    for document in documents_of(one_token, data):
        tally.add_tokens(document)
    tally.report(report, "TokensLoader, blocks of 1")
    resume(report, data, length)
    combined(work, report, length)
    litgpt(work, data)
    own_mixture(work, report, length)


def stream(data: Dataset, block_tokens: int, *, shuffle: bool = False) -> StreamingDataset:
    """The training folder in blocks."""
    loader = TokensLoader(block_size=block_tokens)
    return StreamingDataset(str(data.directory / "train"), item_loader=loader, shuffle=shuffle)


def documents_of(tokens: np.ndarray, data: Dataset) -> list[np.ndarray]:
    """Documents by end tokens; a cut one has none, so what follows it is taken off."""
    documents = []
    stops = np.cumsum(data.lengths)
    cut = stops[data.stream[stops - 1] != data.eos_id]
    for piece in np.split(tokens, cut):
        documents += split_documents(piece, data.eos_id)
    return documents


def resume(report: Report, data: Dataset, length: int) -> None:
    """A loader stopped half way goes on with the next block."""
    whole = [_key(batch) for batch in _loader(data, length)]
    first = _loader(data, length)
    half = len(whole) // 2
    seen = []
    for number, batch in enumerate(first):
        seen.append(_key(batch))
        if number + 1 == half:
            state = first.state_dict()
            break
    again = _loader(data, length)
    again.load_state_dict(state)
    seen += [_key(batch) for batch in again]
    report.add("StreamingDataLoader: resume", seen == whole, f"{half} of {len(whole)} batches")


def _loader(data: Dataset, length: int) -> StreamingDataLoader:
    return StreamingDataLoader(stream(data, length, shuffle=True), batch_size=BATCH)


def _key(batch: object) -> bytes:
    return batch.numpy().tobytes()


def combined(work: Work, report: Report, length: int) -> None:
    """Weights are of blocks, drawn at random."""
    sets = [work.dataset(f"litdata-{domain}") for domain in work.domains]
    owner = {}
    for number, data in enumerate(sets):
        for block in stream(data, length):
            owner[block.numpy().tobytes()] = number
    weights = list(work.weights.values())
    mixed = CombinedStreamingDataset(
        [stream(data, length) for data in sets], weights=weights, seed=1, iterate_over_all=False
    )
    count = np.zeros(len(sets))
    for block in mixed:
        count[owner[block.numpy().tobytes()]] += 1
    drawn = count.sum()
    share = np.array(weights)
    worst = float((np.abs(count - drawn * share) / np.sqrt(drawn * share * (1 - share))).max())
    report.add(
        "CombinedStreamingDataset: share", worst < 4,
        f"{drawn:.0f} blocks, furthest {worst:.1f} standard deviations; random by design",
    )  # fmt: skip


def litgpt(work: Work, data: Dataset) -> None:
    """Blocks of its sequence length and one more, as litgpt asks for."""
    report = Report("litgpt", "litgpt")
    from litgpt.data import LitData

    module = LitData(
        data_path=str(data.directory), split_names=("train", "validation"), num_workers=0
    )
    module.connect(tokenizer=None, batch_size=BATCH, max_seq_length=work.sequence_tokens)
    rows = [row for batch in module.train_dataloader() for row in batch.numpy()]
    starts = windows_of(data, work.sequence_tokens + 1, work.sequence_tokens + 1)
    place = {data.stream[start:][: work.sequence_tokens + 1].tobytes(): start for start in starts}
    shown = [place.get(row.astype(data.stream.dtype).tobytes()) for row in rows]
    whole = len(starts) // BATCH * BATCH
    fine = None not in shown and len(set(shown)) == len(shown) == whole
    report.add(
        "LitData: each block once, in whole batches", fine,
        f"{len(rows):,} of {len(starts):,} blocks, shuffled; a last batch of fewer than {BATCH} "
        "is dropped by litgpt",
    )  # fmt: skip
    validation = sum(len(batch) for batch in module.val_dataloader())
    report.add("LitData: validation", validation > 0, f"{validation} blocks")


def own_mixture(work: Work, report: Report, length: int) -> None:
    """`trainer/combined.json`; an epoch ends with the first folder that is used up."""
    data = work.dataset("litdata-apart")
    promise = mixtures.promised(data, "litdata CombinedStreamingDataset")
    settings = mixtures.configuration(data, "combined.json")
    folders = settings.pop("folders")
    owners = mixtures.Owners(data)
    with contextlib.chdir(data.directory):
        sets = [  # a loader for each: it keeps what it has mapped
            StreamingDataset(one, item_loader=TokensLoader(block_size=length), shuffle=True)
            for one in folders
        ]
        mixed = CombinedStreamingDataset(sets, **settings)
        first = [block.numpy() for block in itertools.islice(mixed, promise.samples)]
        mixed.set_epoch(2)
        second = [block.numpy() for block in itertools.islice(mixed, promise.samples)]
    mixtures.keeps(report, promise, owners.sort(first))
    seen = {block.tobytes() for block in first}
    again = sum(block.tobytes() in seen for block in second) / len(second)
    report.add(
        "own mixture file: length of an epoch", len(first) <= promise.samples,
        f"{len(first):,} of {promise.samples:,} blocks, when the first folder is used up; "
        f"{again:.0%} of the next epoch's were in it",
    )  # fmt: skip


if __name__ == "__main__":
    main()
