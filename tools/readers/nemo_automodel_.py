"""nemo-automodel's reader of flat .bin files, with llm.c's header and with its own.

The end token stands before each document there, so what is read is put back behind it.
"""

from __future__ import annotations

import numpy as np
from expected import Report, Tally, Work, split_documents, work_from_arguments
from nemo_automodel.components.datasets.llm.nanogpt_dataset import NanogptDataset, load_bin_shard


def main() -> None:
    work = work_from_arguments()
    report = Report("nemo-automodel", "nemo-automodel")
    for name in ("llmc", "nemo"):
        reason = work.refused(name)
        if reason is not None:
            report.unable(f"{name}: not written, as it must be", reason)
            continue
        shards(work, report, name)
        windows(work, report, name)


def shards(work: Work, report: Report, name: str) -> None:
    """Documents of whole shards."""
    data = work.dataset(name)
    tally, alike = Tally(work, data), True
    stops = np.cumsum(data.lengths)
    cut = stops[data.stream[stops - 1] != data.eos_id]
    for shard in data.shards:
        tokens = load_bin_shard(shard.path(".bin")).numpy()
        alike &= int(tokens[0]) == data.eos_id
        behind = np.append(tokens[1:], tokens[0])[: shard.tokens]
        inside = cut[(cut > shard.start) & (cut < shard.start + shard.tokens)] - shard.start
        for piece in np.split(behind, inside):
            for document in split_documents(piece, data.eos_id):
                tally.add_tokens(document)
    report.add(f"load_bin_shard, {name}: end token first", alike, f"{len(data.shards)} shards")
    tally.report(report, f"load_bin_shard, {name}")


def windows(work: Work, report: Report, name: str) -> None:
    """Windows of L and one more, one file after the other; the certificate's of llm.c overlap."""
    data = work.dataset(name)
    length = work.sequence_tokens
    pattern = str(data.directory / "train" / "*.bin")
    dataset = iter(NanogptDataset(pattern, length))
    wrong = count = missing = 0
    for shard in data.shards:
        held = len(load_bin_shard(shard.path(".bin")))
        stream = data.stream[shard.start : shard.start + shard.tokens]
        front = np.append(np.uint32(data.eos_id), stream)[:held]
        for start in range(0, held - length, length + 1):
            sample = next(dataset)
            tokens = np.append(np.asarray(sample["input_ids"]), np.asarray(sample["labels"])[-1])
            wrong += not np.array_equal(tokens, front[start : start + length + 1])
            count += 1
        missing += held % (length + 1)
    report.add(
        f"NanogptDataset, {name}: windows are the source's",
        not wrong and (name == "llmc" or missing == data.lost_tokens),
        f"{count:,} windows, {wrong} wrong; {missing:,} tokens not shown "
        f"(certificate: {data.lost_tokens})",
    )  # fmt: skip


if __name__ == "__main__":
    main()
