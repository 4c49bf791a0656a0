"""datatrove's windows over .ds files, which nanotron's Nanoset wraps and weights."""

from __future__ import annotations

import numpy as np
from datatrove.utils.dataset import DatatroveFileDataset, DatatroveFolderDataset
from expected import Report, Tally, windows_of, work_from_arguments


def main() -> None:
    work = work_from_arguments()
    report = Report("datatrove", "datatrove")
    data = work.dataset("datatrove")
    token_bytes = data.dtype.itemsize
    window_tokens = work.sequence_tokens + 1
    folder = DatatroveFolderDataset(
        str(data.directory / "train"), work.sequence_tokens, token_size=token_bytes
    )
    windows = [folder[number]["input_ids"].numpy() for number in range(len(folder))]
    starts = windows_of(data, window_tokens, window_tokens)
    report.windows("DatatroveFolderDataset: windows are the source's", data, windows, starts)

    tally = Tally(work, data)
    stops = np.cumsum(data.lengths)
    cut_ends = stops[data.stream[stops - 1] != data.eos_id]
    differ = cut_windows = 0
    for shard in data.shards:
        longest = DatatroveFileDataset(shard.path(".ds"), shard.tokens - 1, token_bytes)
        ends = np.fromfile(shard.path(".ds.index"), "<u8").astype(np.int64)
        for document in np.split(longest[0]["input_ids"].numpy(), ends[:-1]):
            tally.add_tokens(document)
        by_index, by_end = (
            DatatroveFileDataset(
                shard.path(".ds"), work.sequence_tokens, token_bytes, return_positions=True,
                positions_from_eos_token_id=eos_id,
            )
            for eos_id in (None, data.eos_id)
        )  # fmt: skip
        for number in range(len(by_index)):
            positions = by_index[number]["positions"], by_end[number]["positions"]
            differ += not np.array_equal(*(found.numpy() for found in positions))
        offsets = cut_ends - shard.start
        inside = offsets[(offsets > 0) & (offsets < len(by_index) * window_tokens)]
        cut_windows += len({at // window_tokens for at in inside.tolist() if at % window_tokens})
    tally.report(report, "DatatroveFileDataset, cut by .index")
    report.add(
        "positions by .index are those by end tokens, but in windows with a cut document's end",
        differ == cut_windows,
        f"{differ} windows differ, {cut_windows} hold a cut document's end",
    )


if __name__ == "__main__":
    main()
