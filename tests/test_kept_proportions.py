"""Domains that keep their proportions: one coordinate of the search, whatever the law."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import Listener, slow_if

import curate
from curate.errors import CurateError, RecipeError
from curate.laws.law import RunTable
from curate.mixture import (
    METHODS,
    DomainSupply,
    Evidence,
    MixtureOptions,
    MixtureRequest,
    SearchOptions,
    mix,
)
from curate.mixture.design import next_runs, runs_needed
from curate.mixture.search.kept_proportions import coordinates, spread_of
from curate.mixture.search.objective import Problem, value_at
from curate.mixture.search.optimise import optimise
from curate.mixture.search.simplex_box import whole
from curate.mixture.search.trust_region import hellinger

pytestmark = pytest.mark.usefixtures("small_search")

NAMES = ("a", "b", "c", "d")


def planted_runs(count: int = 48) -> RunTable:
    rng = np.random.default_rng(0)
    weights, ones = rng.dirichlet(np.ones(4), count), np.ones(count)
    losses = 2 + np.exp(-weights @ np.array([[1.0, 2.0], [3.0, 0.5], [0.5, 2.0], [1.5, 2.5]]))
    runs = tuple(f"r{run}" for run in range(count))
    return RunTable(NAMES, ("a", "b"), runs, weights, 1e8 * ones, 1e6 * ones, losses)


RUNS = planted_runs()


def request_of(
    method: str, keep: dict[str, float], max_epochs: float = 4.0, **search: object
) -> MixtureRequest:
    domains = tuple(DomainSupply(name, 10**9, max_epochs) for name in NAMES)
    fields = {"keep": keep, "replicates": 0, **search}
    options = MixtureOptions(search=SearchOptions(**fields))  # type: ignore[arg-type]
    return MixtureRequest(domains, 10**9, method, options, Evidence(RUNS))


SLOW = ("joint", "gaussian", "boosted", "regmix")


@pytest.mark.parametrize(
    "method",
    slow_if(
        SLOW.__contains__,
        [
            name
            for name, row in METHODS.items()
            if "keep" in row.keys and not name.endswith("_mde") and name != "law"
        ],
    ),
)
def test_every_law_keeps_the_proportions_and_is_free_elsewhere(method: str) -> None:
    law = {"law": "exponential"} if method == "law" else {}
    kept = mix(request_of(method, {"b": 3, "d": 1}, **law))
    weights = kept.weights
    assert weights["b"] == pytest.approx(3 * weights["d"], rel=1e-6)
    assert sum(weights.values()) == pytest.approx(1)
    assert kept.details["kept"] == {
        "share": pytest.approx(weights["b"] + weights["d"]),
        "proportions": {"b": 0.75, "d": 0.25},
    }
    scaled = mix(request_of(method, {"d": 0.125, "b": 0.375}, **law))
    assert scaled.weights == weights
    free = mix(request_of(method, {}, **law))
    assert "kept" not in free.details
    assert free.weights["b"] != pytest.approx(3 * free.weights["d"], rel=1e-2)


def test_the_optimum_is_that_of_all_mixtures_with_the_proportions() -> None:
    kept = mix(request_of("dml", {"b": 3, "d": 1}, trust_region=False))
    gap = kept.details["optimality_gap"]
    assert 0 <= gap < 1e-6
    grid = np.random.default_rng(1).dirichlet(np.ones(3), 3000)
    law = METHODS["dml"].prefer
    free = mix(request_of("dml", {}, trust_region=False)).predicted_loss
    assert law is not None and kept.predicted_loss is not None and free is not None
    assert kept.predicted_loss > free
    from curate.laws import LAWS

    fitted = LAWS["exponential"].fit(RUNS)
    spread = spread_of(np.array([np.nan, 0.75, np.nan, 0.25]))
    rows = grid @ spread
    ones = np.ones(len(rows))
    losses = fitted.predict(rows, 1e8 * ones, 1e6 * ones).mean(axis=1)
    assert kept.predicted_loss <= losses.min() + 1e-9
    assert kept.predicted_loss == pytest.approx(losses.min(), rel=5e-3)


def test_coordinates_keep_hellinger_distances() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        count = int(rng.integers(3, 8))
        proportions = np.where(np.arange(count) < 2, rng.random(count), np.nan)
        proportions /= np.nansum(proportions)
        spread = spread_of(proportions)
        inside = rng.dirichlet(np.ones(len(spread)), 5)
        anything = rng.dirichlet(np.ones(count), 6)
        assert coordinates(inside @ spread, proportions) == pytest.approx(inside)
        assert hellinger(inside, coordinates(anything, proportions)) == pytest.approx(
            hellinger(inside @ spread, anything)
        )


def test_a_pull_and_discounted_repeats_count_domains_not_coordinates() -> None:
    """The search in coordinates minimises what the objective says of whole mixtures."""

    class Flat:
        def predict(self, weights: np.ndarray, *_: object) -> np.ndarray:
            return np.ones((len(weights), 1))

        def gradient(self, weights: np.ndarray, *_: object) -> np.ndarray:
            return np.zeros((len(weights), 1, weights.shape[1]))

    prior = np.array([0.1, 0.2, 0.3, 0.4])
    proportions = np.array([0.5, 0.5, np.nan, np.nan])
    problem = Problem(Flat(), whole(4), np.ones((1, 1)), kl=1.0, prior=prior, convex=True,
                      proportions=proportions)  # fmt: skip
    best = optimise(problem)
    others = np.random.default_rng(0).dirichlet(np.ones(3), 4000) @ spread_of(proportions)
    assert best.weights[0] == pytest.approx(best.weights[1])
    assert best.value == pytest.approx(value_at(problem, best.weights[None])[0])
    assert best.value <= value_at(problem, others).min() + 1e-9
    repeats = mix(request_of("dml", {"a": 1, "b": 1}, 50.0, discount_repeats=True, kl="auto"))
    assert repeats.weights["a"] == pytest.approx(repeats.weights["b"], rel=1e-6)


def test_caps_and_floors_hold_for_kept_domains() -> None:
    capped = request_of("dml", {"b": 3, "d": 1}, 0.3)
    weights = mix(capped).weights
    assert weights["b"] == pytest.approx(3 * weights["d"], rel=1e-6)
    assert max(weights.values()) <= 0.3 + 1e-9
    floors = dataclasses.replace(capped.options, floors={"d": 0.2})
    with pytest.raises(RecipeError, match=r"mixture.keep: no mixture with these .*\(b, d\)"):
        mix(dataclasses.replace(capped, options=floors))
    none = request_of("dml", {"b": 3, "d": 1, "a": 0})
    floor = dataclasses.replace(none.options, floors={"a": 0.1})
    with pytest.raises(RecipeError, match=r"mixture.keep: no mixture with these .*\(b, d, a\)"):
        mix(dataclasses.replace(none, options=floor))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"b": 1}, "mixture.keep: b alone has a share"),
        ({"b": 0, "a": 0}, "mixture.keep: no domain alone has a share"),
        (dict.fromkeys(NAMES, 1), "mixture.keep: names every domain"),
        ({"b": 1, "bb": 1}, "mixture.keep: unknown name 'bb'"),
    ],
)
def test_proportions_that_leave_nothing_are_refused(keep: dict[str, float], message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        mix(request_of("dml", keep))


def test_intervals_stay_at_the_proportions() -> None:
    done = mix(request_of("dml", {"b": 3, "d": 1}, replicates=None))
    assert done.low is not None and done.high is not None
    assert done.low["b"] <= done.weights["b"] <= done.high["b"]
    assert done.high["b"] == pytest.approx(3 * done.high["d"], rel=1e-4)


def test_proposed_runs_keep_the_proportions_and_are_fewer() -> None:
    keep = {"a": 2.0, "b": 1.0, "c": 1.0}
    asked = dataclasses.replace(request_of("dml", keep), evidence=None)
    design = next_runs(asked, None)
    assert design.needed == len(design.mixtures) == runs_needed(2) == 9
    assert design.kept == 3 and design.domains == NAMES
    shares = design.mixtures
    assert shares.sum(axis=1) == pytest.approx(np.ones(9))
    assert shares[:, 0] == pytest.approx(2 * shares[:, 1]) == 2 * shares[:, 2]
    assert np.ptp(shares[:, 3]) > 0.5
    again = next_runs(asked, None)
    assert np.array_equal(shares, again.mixtures)
    with pytest.raises(RecipeError, match="strategy entropy proposes mixtures of its own"):
        next_runs(asked, "entropy")
    earlier = dataclasses.replace(RUNS, weights=RUNS.weights * [1, 1, 1, 0])
    earlier = dataclasses.replace(
        earlier,
        weights=earlier.weights / earlier.weights.sum(axis=1, keepdims=True),
        earlier=np.ones(len(RUNS.runs), bool),
    )
    beside = next_runs(dataclasses.replace(asked, evidence=Evidence(earlier)), None)
    assert beside.reuse is not None and beside.reuse.earlier == len(RUNS.runs)
    assert len(beside.mixtures) <= 9 and beside.existing == len(RUNS.runs)


RUN_TABLE = "run,params,tokens,w_a,w_old,w_c,loss_x\n" + "".join(
    f"r{number},1e6,1e8,{a},{b},{1 - a - b:g},{3 - a * b - 0.1 * a}\n"
    for number, (a, b) in enumerate(
        [(0.2, 0.3), (0.5, 0.25), (0.1, 0.8), (0.6, 0.1), (0.3, 0.3), (0.25, 0.6), (0.4, 0.5)]
    )
)


def test_an_earlier_mixture_is_kept_under_the_names_of_today(tmp_path: Path) -> None:
    table, earlier = tmp_path / "runs.csv", tmp_path / "earlier.json"
    table.write_text(RUN_TABLE)
    earlier.write_text(json.dumps({"weights": {"a": 0.4, "old": 0.2, "gone": 0.4}}))
    settings = {"mixture.method": "ridge", "mixture.keep": str(earlier),
                "mixture.evidence.became": {"old": "b"}}  # fmt: skip
    mixed = curate.mix(runs=table, overrides=settings)
    assert mixed.weights["a"] == pytest.approx(2 * mixed.weights["b"], rel=1e-6)
    assert mixed.json["kept"]["proportions"] == pytest.approx({"a": 2 / 3, "b": 1 / 3})
    listener = Listener()
    design = curate.design(runs=table, overrides=settings, count=4, progress=listener)
    for shares in design.json["runs"].values():
        assert shares["a"] == pytest.approx(2 * shares["b"])
    assert any("2 of which keep their proportions" in text for text in listener.notices)
    divided = {**settings, "mixture.evidence.became": {"old": {"b": 0.5, "b2": 0.5}}}
    with pytest.raises(RecipeError, match="mixture.keep: a alone has a share"):
        curate.mix(runs=table, overrides=divided)
    with pytest.raises(RecipeError, match=r"mixture.keep: .* is no mixture.json"):
        curate.mix(runs=table, overrides={**settings, "mixture.keep": str(table)})
    earlier.write_text('{"weights": {"gone": 1}}')
    with pytest.raises(RecipeError, match=r"earlier.json has no domain of today \(a, b, c\); say"):
        curate.mix(runs=table, overrides=settings)
    with pytest.raises(RecipeError, match="design: --flops does not read mixture.keep"):
        curate.design(
            runs=table,
            flops=1e20,
            sizes="1e6:1e8,1e7:1e9",
            overrides={"mixture.keep": {"a": 1, "c": 1}},
        )


def test_a_recipe_names_the_earlier_mixture(tmp_path: Path) -> None:
    for name in "abc":
        lines = [json.dumps({"text": f"{name} words {number} {name * 3}"}) for number in range(60)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "runs.csv").write_text(RUN_TABLE.replace("w_old", "w_b"))
    (tmp_path / "earlier.json").write_text('{"weights": {"a": 0.75, "b": 0.25}}')
    recipe = {
        "name": "kept",
        "base": str(tmp_path),
        "tokenizer": {"train": {"vocab_size": 300}},
        "domains": [{"name": name, "paths": f"{name}.jsonl", "max_epochs": 9} for name in "abc"],
        "mixture": {"method": "ridge", "replicates": 0, "keep": "earlier.json",
                    "evidence": {"runs": "runs.csv"}},
        "budget_tokens": 1500,
        "output": {"dir": "out"},
        "cache": "cache",
    }  # fmt: skip
    mixed = curate.mix(recipe)
    assert mixed.weights["a"] == pytest.approx(3 * mixed.weights["b"], rel=1e-6)
    before = json.loads((tmp_path / "out/mixture.json").read_text())["inputs"]["keep"]
    (tmp_path / "earlier.json").write_text('{"weights": {"a": 0.5, "b": 0.5}}')
    again = curate.mix(recipe)
    assert again.weights["a"] == pytest.approx(again.weights["b"], rel=1e-6)
    assert json.loads((tmp_path / "out/mixture.json").read_text())["inputs"]["keep"] != before


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("gone.json", "gone.json"),
        ({"a": 1, "b": 0}, "mixture.keep: a alone has a share"),
        ({"a": 1, "b": 1, "c": 0}, "mixture.keep: names every domain"),
    ],
)
def test_proportions_are_refused_before_anything_is_tokenised(
    keep: object, message: str, tmp_path: Path
) -> None:
    (tmp_path / "runs.csv").write_text(RUN_TABLE)
    recipe = {
        "name": "kept",
        "base": str(tmp_path),
        "tokenizer": {"train": {"vocab_size": 300}},
        "domains": [{"name": name, "paths": f"{name}.jsonl"} for name in "abc"],  # no such files
        "mixture": {"method": "ridge", "keep": keep, "evidence": {"runs": "runs.csv"}},
        "budget_tokens": 1500,
        "output": {"dir": "out"},
        "cache": "cache",
    }
    with pytest.raises(CurateError, match=re.escape(message)):
        curate.mix(recipe)
    assert not (tmp_path / "cache").exists()


def test_a_mixture_says_when_proportions_are_better_kept_or_free() -> None:
    kept = mix(request_of("dml", {"b": 3, "d": 1}))
    assert any(
        " runs have other proportions than mixture.keep, enough for a law of 4 domains (15, 3 "
        in text
        for text in kept.warnings
    )
    free = request_of("dml", {})
    assert not any("mixture.keep" in text for text in mix(free).warnings)
    spread = spread_of(np.array([np.nan, 0.75, np.nan, 0.25]))
    tied = np.random.default_rng(0).dirichlet(np.ones(3), 48) @ spread
    of_tied = dataclasses.replace(RUNS, weights=tied)
    again = mix(
        dataclasses.replace(request_of("dml", {"b": 3, "d": 1}), evidence=Evidence(of_tied))
    )
    assert not any("mixture.keep" in text for text in again.warnings)
    few = dataclasses.replace(RUNS, earlier=np.arange(48) >= 14)
    many = dataclasses.replace(RUNS, earlier=np.arange(48) >= 15)
    said = [
        [text for text in mix(dataclasses.replace(free, evidence=Evidence(runs))).warnings
         if "mixture.keep" in text]
        for runs in (few, many)
    ]  # fmt: skip
    assert said[0][0].startswith("14 mixtures of today's 4 domains beside runs on earlier ones, ")
    assert said[1] == []


def test_proportions_that_runs_of_today_keep_are_kept_beside_earlier_ones() -> None:
    spread = spread_of(np.array([np.nan, 0.75, np.nan, 0.25]))
    tied = np.random.default_rng(0).dirichlet(np.ones(3), 24) @ spread
    runs = dataclasses.replace(
        RUNS,
        weights=np.vstack([RUNS.weights[:24] * [0, 1, 0, 1], tied]),
        earlier=np.arange(48) < 24,
    )
    weights = runs.weights / runs.weights.sum(axis=1, keepdims=True)
    runs = dataclasses.replace(runs, weights=weights)
    free = request_of("dml", {})
    unsaid = dataclasses.replace(free.options.search, keep=None)
    asked = dataclasses.replace(
        free,
        options=dataclasses.replace(free.options, search=unsaid),
        evidence=Evidence(runs),
    )
    kept = mix(asked)
    assert kept.weights["b"] == pytest.approx(3 * kept.weights["d"], rel=1e-6)
    assert kept.details["kept"]["proportions"] == pytest.approx({"b": 0.75, "d": 0.25})
    assert any("all keep the proportions of 2 domains" in text for text in kept.warnings)
    freed = mix(dataclasses.replace(free, evidence=Evidence(runs)))
    assert "kept" not in freed.details
    without_earlier = dataclasses.replace(runs, earlier=None)
    assert "kept" not in mix(dataclasses.replace(asked, evidence=Evidence(without_earlier))).details
    for decimals in (4, 6):
        rounded = np.round(weights, decimals)
        rounded /= rounded.sum(axis=1, keepdims=True)
        table = dataclasses.replace(runs, weights=rounded)
        of_rounded = mix(dataclasses.replace(asked, evidence=Evidence(table)))
        assert of_rounded.details["kept"]["proportions"]["b"] == pytest.approx(0.75, abs=1e-4)
    varied = weights.copy()
    varied[-1] = [0.25, 0.25, 0.25, 0.25]
    others = dataclasses.replace(runs, weights=varied)
    assert "kept" not in mix(dataclasses.replace(asked, evidence=Evidence(others))).details
    capped = tuple(dataclasses.replace(d, max_epochs=0.3) for d in asked.domains)
    bound = dataclasses.replace(asked.options, floors={"d": 0.2})
    loose = mix(dataclasses.replace(asked, domains=capped, options=bound))
    assert "kept" not in loose.details  # no mixture within the bounds has these proportions
