"""datatrove's windows over .ds files, which nanotron's Nanoset wraps and weights.

The stages of nanotron are read folder by folder, at the sequence length of each.
"""

from __future__ import annotations

import mixtures
import numpy as np
import yaml
from datatrove.utils.dataset import DatatroveFileDataset, DatatroveFolderDataset
from expected import Report, Tally, Work, windows_of, work_from_arguments


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
    stages(work, report)


def stages(work: Work, report: Report) -> None:
    """`nanotron_stages.yaml`: each folder at its stage's length, and the step a stage begins at."""
    sets = {name: work.dataset(f"datatrove-stages/{name}") for name in work.stages}
    root = next(iter(sets.values())).directory.parent
    text = (root / "trainer" / "nanotron_stages.yaml").read_text("utf-8")
    listed = yaml.safe_load(text)["data_stages"]
    names = [stage["name"] for stage in listed]
    report.add("own file of stages: in order", names == list(work.stages), ", ".join(names))
    start = 1
    for stage, (name, data) in zip(listed, sets.items(), strict=True):
        promised = mixtures.promised(data, "nanotron Nanoset").window_tokens
        length, dataset = stage["sequence_length"], stage["data"]["dataset"]
        wrong = windows = 0
        held = {}
        for path in dataset["dataset_folder"]:
            folder = DatatroveFolderDataset(
                str(root / path), length, token_size=data.dtype.itemsize
            )
            shards = [one for one in data.shards if one.stem.parent == root / path]
            starts = [
                one.start + first
                for one in shards
                for first in range(0, one.tokens - length, length + 1)
            ]
            domain = mixtures.folder_of(path)
            wrong += len(folder) != len(starts)
            for number, first in enumerate(starts):
                window = folder[number]["input_ids"].numpy().astype(np.int64)
                wrong += not np.array_equal(window, data.stream[first : first + length + 1])
                wrong += data.domains[data.domain_of[first]] != domain
            held[domain] = len(starts)
            windows += len(starts)
        report.add(
            f"own file of stages, {name}: windows of each folder are the domain's",
            windows > 0 and not wrong and length == promised,
            f"{windows:,} windows of {length} and one token, {wrong} wrong",
        )
        weights = dict(zip(held, dataset["dataset_weights"], strict=True))
        off = max(abs(weights.get(key, 0) - w) for key, w in work.stage_weights[name].items())
        report.add(f"own file of stages, {name}: shares of the plan", off < 1e-6, f"{off:.1e} off")
        report.add(
            f"own file of stages, {name}: begins where the one before ends",
            stage["start_training_step"] == start,
            f"step {stage['start_training_step']}, of {work.batch_sequences} sequences",
        )
        start += work.stages[name] // length // work.batch_sequences


if __name__ == "__main__":
    main()
