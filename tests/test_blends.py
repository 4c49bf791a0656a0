"""What trainers' own mixtures draw, against their rules written out once more in plain Python."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import yaml

from curate.errors import RecipeError
from curate.formats import FORMATS
from curate.formats.trainers import config_files, rounding
from curate.formats.trainers.draws import WrittenDomain, WrittenShard
from curate.formats.trainers.mixtures import predict

MIXTURES = {name: row.mixtures for name, row in FORMATS.items() if row.mixtures}

WINDOW = 2048
LENGTHS = (16, 64, 256)


def plain_greedy(weights: list[float], samples: int) -> list[int]:
    """Megatron's and Nanoset's loop, a list at a time."""
    total = float(np.asarray(weights).sum())
    shares = [weight / total for weight in weights]
    drawn = [0] * len(weights)
    for sample in range(samples):
        missing = [
            share * max(sample, 1) - count for share, count in zip(shares, drawn, strict=True)
        ]
        drawn[missing.index(max(missing))] += 1
    return drawn


def plain_block(weights: list[float], block: int) -> list[int]:
    """Levanter's counts in a block."""
    total = float(np.asarray(weights).sum())
    counts = [int(weight / total * block) for weight in weights]
    counts[counts.index(max(counts))] += block - sum(counts)
    return counts


def plain_olmo(domains: list[tuple[int, int]], window: int, batch_tokens: int) -> list[int]:
    """Instances by source of (tokens held in one file, tokens wanted); no source repeats."""
    requested = sum(wanted for _, wanted in domains)
    instances = math.ceil(requested / batch_tokens) * (batch_tokens // window)
    given = [wanted // window for _, wanted in domains]
    free = [held // window - count for (held, _), count in zip(domains, given, strict=True)]
    able = [number for number, room in enumerate(free) if room > 0]
    missing = instances - sum(given)
    if missing > 0 and able:
        for number in able:
            given[number] += min(missing // len(able), free[number])
        missing = instances - sum(given)
        left = [n for n in able if given[n] < domains[n][0] // window]
        left.sort(key=lambda n: (Fraction(domains[n][1] % window, window), n), reverse=True)
        for number in left[:missing]:
            given[number] += 1
    return given


def zipf(domains: int, budget: int, row_tokens: int = 700) -> list[WrittenDomain]:
    """Weights 1 / rank^2, exact to the token."""
    weights = [1 / (rank + 1) ** 2 for rank in range(domains)]
    tokens = rounding.largest_remainder(weights, budget).tolist()
    return [
        WrittenDomain(
            f"d{rank}",
            count,
            (WrittenShard(f"train/d{rank}/shard-00000", count, -(-count // row_tokens)),),
        )
        for rank, count in enumerate(tokens)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_greedy_is_the_trainers_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = (rng.pareto(1, rng.integers(1, 40)) + 1e-6).tolist()
    samples = int(rng.integers(1, 3000))
    drawn = rounding.greedy(weights, samples)
    assert drawn.tolist() == plain_greedy(weights, samples)
    assert drawn.sum() == samples


def test_greedy_at_the_published_numbers() -> None:
    assert rounding.greedy([30, 70], 1000).tolist() == [300, 700]
    many = rounding.greedy([1.0] * 500, 10**6)  # beyond the steps that are gone one by one
    assert many.tolist() == [2000] * 500


def test_greedy_draws_a_tiny_prefix_beside_one_but_not_among_many() -> None:
    """Errors sum to 0 after each step: with two prefixes the tiny one is soon the larger."""
    assert rounding.greedy([0.9999, 0.0001], 100).tolist() == [99, 1]
    drawn = rounding.greedy([1 / rank**2 for rank in range(1, 301)], 1000)
    due = rounding.normalised([1 / rank**2 for rank in range(1, 301)]) * 1000
    assert np.all(np.abs(drawn - due) < 1)
    assert np.all(drawn[due < 0.3] == 0)


@pytest.mark.parametrize("seed", range(8))
def test_levanter_rounds_down_and_gives_the_rest_to_the_largest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = (rng.pareto(0.7, rng.integers(1, 60)) + 1e-9).tolist()
    for block in rounding.LEVANTER_BLOCKS:
        assert rounding.block_counts(weights, block).tolist() == plain_block(weights, block)


def test_levanter_block_is_the_smallest_that_holds_all() -> None:
    weights = [1 / rank**2 for rank in range(1, 101)]  # the least is 1 / 16350
    assert rounding.levanter_block(weights) == 16384
    assert rounding.block_counts(weights, 16384).min() == 1
    assert rounding.block_counts(weights, 2048).min() == 0  # what the default would have lost


@pytest.mark.parametrize("seed", range(20))
def test_olmo_deals_out_instances_as_its_source_mixture(seed: int) -> None:
    rng = np.random.default_rng(seed)
    window = int(rng.choice(LENGTHS))
    wanted = rng.integers(1, 50 * window, rng.integers(1, 30)).tolist()
    domains = [(int(want * rng.uniform(1, 2)) + 1, want) for want in wanted]
    batch = window * int(rng.integers(1, 5))
    instances = math.ceil(sum(wanted) / batch) * (batch // window)
    # The share of a file is rounded up to a token; a wish of whole tokens stays itself.
    paths = [rounding.FileShare(held, want / held) for held, want in domains]
    whole = [math.ceil(path.tokens * path.ratio) for path in paths]
    exact = [(held, count) for (held, _), count in zip(domains, whole, strict=True)]
    if whole == wanted:
        assert rounding.olmo_instances(paths, window, instances) == plain_olmo(exact, window, batch)


def test_olmo_rounds_up_to_whole_batches() -> None:
    """10 000 tokens in windows of 16 and batches of 4: 628 instances for 625."""
    paths = [rounding.FileShare(40_000, 0.1), rounding.FileShare(60_000, 0.1)]
    assert sum(rounding.olmo_instances(paths, 16, 628)) == 628
    assert rounding.olmo_instances(paths, 16, 625) == [250, 375]


def test_olmo_lists_a_repeated_source_again() -> None:
    assert [path.ratio for path in rounding.olmo_paths([100], 250)] == [1.0, 1.0, 0.5]
    assert rounding.olmo_instances(rounding.olmo_paths([160], 400), 16, 25) == [10, 10, 5]


@pytest.mark.parametrize("seed", range(5))
def test_mosaic_proportions_are_rounded_down_and_filled_by_lot(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.001, 1, 30)
    drawn = rounding.proportions(weights, 1000)
    down = [int(1000 * weight / weights.sum()) for weight in weights]
    assert drawn.sum() == 1000
    assert set((drawn - down).tolist()) <= {0, 1}
    assert rounding.proportions([0.3, 0.7], 1000).tolist() == [300, 700]


@pytest.mark.parametrize("weights", [[], [0.0], [-1.0, 2.0], [float("nan")]])
def test_weights_that_are_none_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights must be non-negative and not all zero"):
        rounding.greedy(weights, 10)


RULES: dict[str, Callable[[list[WrittenDomain]], list[float]]] = {
    "Megatron-LM": lambda found: plain_greedy(
        [s.planned_tokens for s in found], sum(s.planned_tokens for s in found) // WINDOW
    ),
    "OLMo-core source mixture": lambda found: plain_olmo(
        [(s.tokens, s.planned_tokens) for s in found], WINDOW, WINDOW
    ),
    "levanter": lambda found: plain_block([s.planned_tokens for s in found], 32768),
    "streaming, choose": lambda found: [max(1, s.rows) for s in found],
}
"""Trainer → samples by source, for domains that are wanted once."""


@pytest.mark.parametrize("budget", [2_000_000, pytest.param(200_000_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MIXTURES)
def test_no_domain_of_300_is_lost_without_a_warning_that_names_it(name: str, budget: int) -> None:
    domains = zipf(300, budget)
    for mixture in MIXTURES[name]:
        found = predict(mixture, domains, WINDOW)
        assert len(found.rows) == 300
        assert math.isclose(sum(row["share"] for row in found.rows.values()), 1.0)
        warned = " ".join(found.warnings)
        for domain, row in found.rows.items():
            if row["samples"] == 0:
                assert f"'{domain}'" in warned, (mixture.trainer, domain)
        if mixture.trainer in RULES:
            expected = RULES[mixture.trainer](domains)
            if mixture.trainer != "levanter" or budget > 32768 * WINDOW:
                zero = {s.name for s, count in zip(domains, expected, strict=True) if count == 0}
                assert all(f"'{domain}'" in warned for domain in zero)
                if mixture.trainer != "levanter":
                    assert [row["samples"] for row in found.rows.values()] == expected


def test_small_budgets_do_lose_domains_so_that_the_warnings_are_not_idle() -> None:
    domains = zipf(300, 2_000_000)
    lost = {
        mixture.trainer: [n for n, row in predict(mixture, domains, WINDOW).rows.items()
                        if row["samples"] == 0]
        for name in MIXTURES for mixture in MIXTURES[name]
    }  # fmt: skip
    assert len(lost["OLMo-core source mixture"]) > 200
    assert len(lost["nanotron Nanoset"]) > 200
    assert len(lost["Megatron-LM"]) > 200
    assert lost["streaming, choose"] == []


def test_choosing_rows_is_nearer_than_proportions() -> None:
    domains = zipf(300, 200_000_000)
    chosen, proportion = (
        predict(mixture, domains, WINDOW).to_json() for mixture in MIXTURES["mds"]
    )
    assert chosen["largest_difference"] < 1e-9
    assert 0 < proportion["largest_difference"] < 1e-3


def test_repeats_beyond_the_plan_are_named() -> None:
    """A domain of 3 tokens gets a window of 2048 from Megatron: 1024 passes where one is meant."""
    files = (WrittenShard("train/a/shard-00000", 10**6, 1000),)
    tiny = (WrittenShard("train/b/shard-00000", 3, 1),)
    domains = [WrittenDomain("a", 10**6, files), WrittenDomain("b", 3, tiny)]
    found = predict(MIXTURES["megatron"][0], domains, WINDOW)
    assert found.rows["b"]["samples"] == 1
    assert found.rows["b"]["epochs"] == 1024
    assert any("repeats more than planned: 'b' (1.02e+03 passes)" in w for w in found.warnings)


def test_nanoset_never_draws_some_windows_of_domains_beside_a_repeated_one() -> None:
    window = 15  # 16 tokens with the label
    domains = [
        WrittenDomain("a", 16_000, (WrittenShard("train/a/shard-00000", 16_000, 10),)),
        WrittenDomain("b", 16_000, (WrittenShard("train/b/shard-00000", 4_000, 10),)),
    ]
    found = predict(MIXTURES["datatrove"][0], domains, window)
    # An epoch has 1000 + 250 windows, half of them of each; a keeps 375 that no epoch shows.
    assert [row["samples"] for row in found.rows.values()] == [625, 625]
    assert found.rows["a"]["unseen"] == 375


@pytest.mark.parametrize(("name", "warns"), [("litdata", True), ("webdataset", True),
                                            ("megatron", False), ("arrow", False)])  # fmt: skip
def test_an_epoch_that_ends_with_a_repeated_domain_is_warned_of(name: str, warns: bool) -> None:
    """b is planned three times over: a third of the plan, and an epoch is over."""
    domains = [
        WrittenDomain("a", 10**6, (WrittenShard("train/a/shard-00000", 10**6, 1000),)),
        WrittenDomain("b", 10**6, (WrittenShard("train/b/shard-00000", 333_000, 333),)),
    ]
    found = predict(MIXTURES[name][0], domains, WINDOW)
    said = [w for w in found.warnings if "ends an epoch when the first folder is used up" in w]
    assert bool(said) == warns
    if warns:
        assert "here 'b' after 33% of the planned" in said[0]
    once = [WrittenDomain(s.name, s.tokens, s.shards) for s in domains]
    assert not any("ends an epoch" in w for w in predict(MIXTURES[name][0], once, WINDOW).warnings)


def test_draws_by_lot_say_what_may_be_missed() -> None:
    found = predict(MIXTURES["litdata"][0], zipf(300, 20_000_000), WINDOW)
    assert not found.exact
    assert any("may never draw" in warning and "'d60'" in warning for warning in found.warnings)


def test_every_format_mixes_or_is_refused() -> None:
    assert set(FORMATS) - set(MIXTURES) == {"npy", "llmc"}


@pytest.mark.parametrize("name", MIXTURES)
def test_the_row_names_the_files_that_a_mixture_writes(name: str) -> None:
    for mixture in MIXTURES[name]:
        made = mixture.config_files(domains_of(zipf(3, 10**6)))
        assert {key.partition(".")[0] for key in made} == set(mixture.config_stems)


def domains_of(domains: list[WrittenDomain], suffix: str = ".parquet") -> config_files.ConfigInputs:
    held_out = {source.name: f"validation/{source.name}" for source in domains[:2]}
    return config_files.ConfigInputs(domains, held_out, WINDOW, suffix)


def test_megatron_files_say_the_same_list_twice() -> None:
    domains = zipf(3, 10**6)
    made = config_files.megatron(domains_of(domains))
    flat = made["blend.txt"].split()
    splits = json.loads(made["blend.json"])
    assert flat == splits["train"]
    assert splits["test"] is None
    weights = [float(weight) for weight in flat[::2]]
    assert weights == [source.planned_tokens / 10**6 for source in domains]
    assert not any(part.replace(".", "").isdigit() for part in flat[1::2])
    assert yaml.safe_load(made["neox.yml"])["train_data_weights"] == weights


def test_a_blend_of_more_prefixes_than_int16_is_refused() -> None:
    files = tuple(WrittenShard(f"train/a/shard-{n:05d}", 10, 1) for n in range(32_768))
    with pytest.raises(RecipeError, match="makes 32768 prefixes, Megatron blends at most 32767"):
        config_files.megatron(domains_of([WrittenDomain("a", 10, files)]))


@pytest.mark.parametrize("planned", [10, 30, 31, 100, 999_999_999])
def test_olmo_may_always_repeat_as_often_as_planned(planned: int) -> None:
    source = WrittenDomain("a", planned, (WrittenShard("train/a/shard-00000", 30, 1),))
    made = yaml.safe_load(config_files.olmo(domains_of([source], ".npy"))["mixture.yaml"])
    allowed = made["sources"][0]["max_repetition_ratio"]
    assert allowed >= 1
    assert int(30 * allowed) >= min(planned, int(planned * made["sources"][0]["target_ratio"]))
    assert made["sources"][0]["paths"] == ["train/a/shard-00000.npy"]


def test_nanotron_and_litdata_leave_out_folders_without_a_window() -> None:
    domains = zipf(300, 2_000_000)
    nanoset = yaml.safe_load(config_files.nanotron(domains_of(domains))["nanoset.yaml"])["dataset"]
    combined = json.loads(config_files.litdata(domains_of(domains))["combined.json"])
    whole = [f"train/{s.name}" for s in domains if s.tokens >= WINDOW + 1]
    assert nanoset["dataset_folder"] == combined["folders"] == whole
    assert len(nanoset["dataset_weights"]) == len(combined["weights"]) == len(whole) < 300


def test_hugging_face_weights_are_of_rows() -> None:
    """Equal tokens in rows of 10 and of 90 tokens: nine rows of the one for each of the other."""
    domains = [
        WrittenDomain("short", 9000, (WrittenShard("train/short/shard-00000", 9000, 900),)),
        WrittenDomain("long", 9000, (WrittenShard("train/long/shard-00000", 9000, 100),)),
    ]
    made = json.loads(config_files.hugging_face(domains_of(domains))["interleave.json"])
    assert made["probabilities"] == [0.9, 0.1]
    assert made["rows"] == 1000
    assert made["stopping_strategy"] == "all_exhausted_without_replacement"
    twice = [WrittenDomain("short", 18000, domains[0].shards), domains[1]]
    made = json.loads(config_files.hugging_face(domains_of(twice))["interleave.json"])
    assert made["stopping_strategy"] == "all_exhausted"


def test_row_forecasts_come_back_to_the_tokens_asked_for() -> None:
    domains = [
        WrittenDomain("short", 9000, (WrittenShard("train/short/shard-00000", 9000, 900),)),
        WrittenDomain("long", 9000, (WrittenShard("train/long/shard-00000", 9000, 100),)),
    ]
    for mixture in (*MIXTURES["mds"], *MIXTURES["webdataset"]):
        rows = predict(mixture, domains, WINDOW).rows
        assert [row["share"] for row in rows.values()] == [0.5, 0.5]
    # What taking shares of tokens for shares of rows would give: a dummy the numbers must beat.
    assert 0.5 * 10 / (0.5 * 10 + 0.5 * 90) == pytest.approx(0.1)
