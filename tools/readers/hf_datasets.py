"""Hugging Face datasets: load_dataset on the folder with its card, streaming, load_from_disk."""

from __future__ import annotations

import contextlib
from collections import Counter

import mixtures
import numpy as np
from datasets import (
    IterableDataset,
    interleave_datasets,
    load_dataset,
    load_from_disk,
)
from expected import Report, Tally, Work, work_from_arguments

OWN = (
    ("parquet", "parquet", "text"),
    ("jsonl", "json", "text"),
    ("arrow", "arrow", "text"),
    ("input_ids", "parquet", "input_ids"),
)
"""Dataset, the loader's name for its files, its column."""


def main() -> None:
    work = work_from_arguments()
    report = Report("datasets", "datasets")
    for name in ("parquet", "jsonl", "webdataset"):
        data = work.dataset(name)
        loaded = load_dataset(str(data.directory), split="train")
        rows = list(loaded)
        _tally(work, report, name, f"load_dataset, {name} with card", _texts(rows))
        rows = list(load_dataset(str(data.directory), split="train", streaming=True))
        _tally(work, report, name, f"streaming, {name} with card", _texts(rows))
    streaming_resume(work, report)
    data = work.dataset("arrow")
    rows = list(load_from_disk(str(data.directory / "train")))
    _tally(work, report, "arrow", "load_from_disk", _texts(rows))
    validation_rows(work, report)

    data = work.dataset("input_ids")
    tally = Tally(work, data)
    for row in load_dataset(str(data.directory), split="train"):
        tally.add_tokens(np.array(row["input_ids"]))
    tally.report(report, "load_dataset, input_ids with card")
    interleave(work, report)
    for name, kind, column in OWN:
        own_interleave(work, report, name, kind, column)


def _texts(rows: list[dict]) -> list[str]:
    return [
        row["txt"] if "txt" in row else row["text"] for row in rows
    ]  # webdataset's fields are suffixes


def _tally(work: Work, report: Report, name: str, check: str, texts: list[str]) -> None:
    tally = Tally(work, work.dataset(name))
    for text in texts:
        tally.add_text(text)
    tally.report(report, check)


def streaming_resume(work: Work, report: Report) -> None:
    """A stream stopped after some rows goes on with the next."""
    data = work.dataset("parquet")
    rows: IterableDataset = load_dataset(str(data.directory), split="train", streaming=True)
    everything = [row["id"] for row in rows]
    half = len(everything) // 2
    iterator = iter(rows)
    first = [next(iterator)["id"] for _ in range(half)]
    state = rows.state_dict()
    again = load_dataset(str(data.directory), split="train", streaming=True)
    again.load_state_dict(state)
    rest = [row["id"] for row in again]
    report.add("streaming: resume", first + rest == everything, f"{half:,} of {len(everything):,}")


def validation_rows(work: Work, report: Report) -> None:
    """The card's validation split holds every domain."""
    rows = load_dataset(str(work.dataset("parquet").directory), split="validation")
    found = Counter(rows["source"])
    report.add("validation split", set(found) == set(work.domains), str(dict(found)))


def interleave(work: Work, report: Report) -> None:
    """Probabilities are of rows: shares of tokens over mean tokens a row, then random draws."""
    sets, mean_tokens = [], []
    for domain in work.domains:
        data = work.dataset(f"parquet-{domain}")
        sets.append(load_dataset(str(data.directory), split="train"))
        mean_tokens.append(data.tokens[domain] / len(sets[-1]))
    wanted = np.array(list(work.weights.values()))
    rows = wanted / np.array(mean_tokens)
    rows /= rows.sum()
    mixed = interleave_datasets(
        sets, probabilities=rows.tolist(), seed=1, stopping_strategy="all_exhausted"
    )
    draws = len(mixed)
    drawn = Counter(mixed["source"])
    count = np.array([drawn[domain] for domain in work.domains])
    spread = np.sqrt(draws * rows * (1 - rows))
    worst = float(np.abs((count - draws * rows) / spread).max())
    report.add(
        "interleave_datasets: rows as drawn", worst < 4,
        f"{draws} rows, furthest {worst:.1f} standard deviations; random by design",
    )  # fmt: skip


def own_interleave(work: Work, report: Report, name: str, kind: str, column: str) -> None:
    """`trainer/interleave.json`, each key as the argument of that name."""
    data = work.dataset(f"{name}-apart")
    promise = mixtures.promised(data, "datasets.interleave_datasets")
    settings = mixtures.configuration(data, "interleave.json")
    names, files = settings.pop("names"), settings.pop("data_files")
    rows = settings.pop("rows")
    with contextlib.chdir(data.directory):
        sets = [load_dataset(kind, data_files=paths, split="train") for paths in files]
    lengths = [_tokens(work, one[column]) for one in sets]
    sets = [
        one.select_columns([column]).add_column("place", [[number, at] for at in range(len(one))])
        for number, one in enumerate(sets)
    ]
    drawn: mixtures.Drawn = {}
    for number, at in interleave_datasets(sets, **settings)["place"]:
        drawn.setdefault(names[number], []).append(int(lengths[number][at]))
    mixtures.keeps(report, promise, drawn, name)
    once = settings["stopping_strategy"].endswith("without_replacement")
    total = sum(map(len, drawn.values()))
    fine = total == rows if once else total >= rows * 0.9
    report.add(f"own mixture file: rows until its end ({name})", fine, f"{total:,} for {rows:,}")


def _tokens(work: Work, rows: list) -> np.ndarray:
    """Tokens of each row; a text's with its end token."""
    if isinstance(rows[0], str):
        return np.array([
            work.sources[text][1] if text in work.sources
            else len(work.tokenizer.encode(text).ids) + 1 for text in rows
        ])  # fmt: skip
    return np.array([len(row) for row in rows])


if __name__ == "__main__":
    main()
