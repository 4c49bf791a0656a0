"""webdataset over tar shards, and a random mix of them."""

from __future__ import annotations

import contextlib
import itertools
import random

import mixtures
import webdataset
from expected import Report, Tally, Work, work_from_arguments


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
    own_mix(work, report)


def own_mix(work: Work, report: Report) -> None:
    """`trainer/random_mix.json`: shards that start again, at the probabilities."""
    data = work.dataset("webdataset-apart")
    promise = mixtures.promised(data, "webdataset.RandomMix, energon")
    settings = mixtures.configuration(data, "random_mix.json")
    random.seed(1)
    drawn: mixtures.Drawn = {}
    with contextlib.chdir(data.directory):
        sets = [
            webdataset.WebDataset(urls, shardshuffle=False).repeat().decode()
            for urls in settings.pop("urls")
        ]
        for row in itertools.islice(webdataset.RandomMix(sets, **settings), promise.samples):
            domain, own = work.sources.get(row["txt"], (None, 0))
            if domain is None:  # one that was cut
                domain, own = row["json"]["source"], len(work.tokenizer.encode(row["txt"]).ids) + 1
            drawn.setdefault(domain, []).append(own)
    mixtures.keeps(report, promise, drawn)


if __name__ == "__main__":
    main()
