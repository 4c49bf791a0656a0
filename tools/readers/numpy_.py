"""NumPy, as training loops use it: nanoGPT's memmap of train.bin and val.bin, and .npy files."""

from __future__ import annotations

import numpy as np
from expected import Report, Tally, Work, split_documents, work_from_arguments


def main() -> None:
    work = work_from_arguments()
    report = Report("NumPy", "numpy")
    data = work.dataset("npy")
    stream = np.concatenate([np.load(one.path(".npy"), mmap_mode="r") for one in data.shards])
    documents(work, report, "npy", stream, "load, npy")
    reason = work.refused("nanogpt")
    if reason is not None:
        report.unable("nanogpt: not written, as it must be", reason)
        return
    data = work.dataset("nanogpt")
    folder, eos_id = data.directory / "trainer", data.eos_id
    stream = np.memmap(folder / "train.bin", dtype=np.uint16, mode="r")
    documents(work, report, "nanogpt", stream, "memmap, nanoGPT's train.bin")
    held_out = np.memmap(folder / "val.bin", dtype=np.uint16, mode="r")
    texts = [
        work.tokenizer.decode(one[:-1].tolist(), False) for one in split_documents(held_out, eos_id)
    ]
    unknown = sum(text not in work.sources for text in texts)
    report.add(
        "memmap, nanoGPT's val.bin", not unknown and len(texts) > 0, f"{len(texts)} documents"
    )


def documents(work: Work, report: Report, name: str, stream: np.ndarray, check: str) -> None:
    """A stream, cut at end tokens and at the ends of cut documents."""
    data = work.dataset(name)
    stops = np.cumsum(data.lengths)
    tally = Tally(work, data)
    for piece in np.split(stream, stops[data.stream[stops - 1] != data.eos_id]):
        for document in split_documents(piece, data.eos_id):
            tally.add_tokens(document)
    tally.report(report, check)


if __name__ == "__main__":
    main()
