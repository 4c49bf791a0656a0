"""webdataset over tar shards, and a random mix of them."""

from __future__ import annotations

import webdataset
from expected import Report, Tally, work_from_arguments


def main() -> None:
    work = work_from_arguments()
    report = Report("webdataset", "webdataset")
    data = work.dataset("webdataset")
    tally, wrong = Tally(work, data), 0
    names = [shard.path(".tar") for shard in data.shards]
    for document in webdataset.WebDataset(names, shardshuffle=False).decode():
        tally.add_text(document["txt"])
        known = work.sources.get(document["txt"])
        wrong += known is not None and known[0] != document["json"]["source"]
    tally.report(report, "WebDataset")
    report.add("WebDataset: json.source is the domain", not wrong, f"{wrong} wrong")


if __name__ == "__main__":
    main()
