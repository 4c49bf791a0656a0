"""What every statistic keeps, whoever wrote it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from conftest import write_jsonl

from curate import recipe as recipes
from curate.pipeline.tokenize import tokenize_domains
from curate.runtime.progress import Observer
from curate.stats import Statistic
from curate.stats.sampling import sample_plan
from curate.stats.statistic import DomainSample, Measurement

TEXTS = [f"the {word} of {number} and {number % 7} more words in a row" * (1 + number % 3)
         for number, word in enumerate(["cat", "law", "run", "tree", "sum"] * 30)]  # fmt: skip


def measured(statistic: Statistic, folder: Path, files: int = 2, seed: int = 5) -> Measurement:
    """The statistic on one domain of `TEXTS`, dealt to so many files in order."""
    each = -(-len(TEXTS) // files)
    for number in range(files):
        rows = [{"text": text} for text in TEXTS[number * each : (number + 1) * each]]
        write_jsonl(folder / str(files) / f"{number}.jsonl", rows)
    path = folder / f"{files}.yaml"
    path.write_text(
        "{name: tiny, tokenizer: {train: {vocab_size: 300}}, budget_tokens: 100, "
        f"domains: [{{name: only, paths: '{folder}/{files}/*.jsonl'}}]}}",
        "utf-8",
    )
    tokenized = tokenize_domains(recipes.load(path), 1, Observer())
    plan, _ = sample_plan(tokenized.domains, seed)
    return statistic.measure(DomainSample(tokenized.domains[0], tokenized.tokenizer, plan))


def numbers(value: Any) -> Iterator[float]:
    """Every number in a piece of JSON."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def row_says_what_it_is(statistic: Statistic, folder: Path) -> None:
    assert all((statistic.summary, statistic.unit, statistic.estimator, statistic.paper))


def numbers_are_finite_and_not_negative(statistic: Statistic, folder: Path) -> None:
    value = measured(statistic, folder).json
    json.dumps(value, allow_nan=False)
    assert all(math.isfinite(number) and number >= 0 for number in numbers(value))


def an_entropy_has_an_interval_around_it(statistic: Statistic, folder: Path) -> None:
    measurement = measured(statistic, folder)
    assert (measurement.estimate is not None) == statistic.entropy
    if measurement.estimate is not None:
        estimate = measurement.estimate
        assert estimate.low is not None and estimate.high is not None
        assert estimate.low <= estimate.nats <= estimate.high
        assert estimate.estimator == statistic.estimator
        assert measurement.json["nats"] == estimate.nats


def the_same_seed_gives_the_same_value(statistic: Statistic, folder: Path) -> None:
    assert measured(statistic, folder).json == measured(statistic, folder).json


def file_layout_plays_no_part(statistic: Statistic, folder: Path) -> None:
    assert measured(statistic, folder, files=1).json == measured(statistic, folder, files=3).json


def tables_find_every_column(statistic: Statistic, folder: Path) -> None:
    value = measured(statistic, folder).json
    for column in statistic.shown:
        number: Any = value
        for key in column.path:
            number = number[key]
        assert number is not None


CONTRACT: tuple[Callable[[Statistic, Path], None], ...] = (
    row_says_what_it_is,
    numbers_are_finite_and_not_negative,
    an_entropy_has_an_interval_around_it,
    the_same_seed_gives_the_same_value,
    file_layout_plays_no_part,
    tables_find_every_column,
)
