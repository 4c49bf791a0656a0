"""Shares that a trainer changes while a run goes through stages: accounts, caps, resumption."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import RECIPE

import curate
from curate.errors import InfeasiblePlan, RecipeError, ShardError
from curate.loader import StagedSequences

FIELDS = ("samples", "domains")
STAGES: list[dict[str, Any]] = [
    {"name": "pretrain", "budget_tokens": 12_000, "sequence_length": 32},
    {"name": "mid", "budget_tokens": 6_000, "sequence_length": 32},
    {"name": "anneal", "budget_tokens": 3_000, "sequence_length": 64},
]
SHARES = {"pretrain": (5, 3, 2), "mid": (1, 1, 1), "anneal": (1, 0, 3)}
NAMES = ("wiki", "code", "talk")
ANNEAL_ONLY = {"wiki": 1.0, "code": 0.0, "talk": 0.0}

Open = Callable[..., StagedSequences]


@pytest.fixture
def opened(corpus: Path, tmp_path: Path, cache: Path) -> Open:
    """Opens three stages, from a build or from the recipe, with weights."""

    def open_stages(kind: str, weights: Any = "planned", **changes: Any) -> StagedSequences:
        value: dict[str, Any] = yaml.safe_load(RECIPE.format(data=corpus / "data"))
        del value["budget_tokens"], value["mixture"]
        value["stages"] = [
            stage
            | {
                "mixture": {
                    "method": "manual",
                    "weights": dict(zip(NAMES, SHARES[stage["name"]], strict=True)),
                }
            }
            for stage in STAGES
        ]
        value |= {"cache": str(cache), "output": {"format": "npy", "dir": str(tmp_path / "out")}}
        path = tmp_path / "staged.yaml"
        path.write_text(yaml.safe_dump(value | changes), "utf-8")
        if kind == "directory" and not (tmp_path / "out").exists():
            assert curate.build(path).ok
        place = tmp_path / "out" if kind == "directory" else path
        data = curate.load(place, fields=FIELDS, weights=weights)
        assert isinstance(data, StagedSequences)
        return data

    return open_stages


def run(loader: Any, steps: int | None = None) -> list[tuple[str, list[int]]]:
    """Return the stage and the samples of each step."""
    rows: list[tuple[str, list[int]]] = []
    batches = iter(loader)
    while steps is None or len(rows) < steps:
        stage = loader.stage
        batch = next(batches, None)
        if batch is None:
            break
        rows.append((stage, batch["samples"].tolist()))
    return rows


@pytest.mark.parametrize("kind", ["directory", "recipe"])
def test_weights_hold_until_the_end_of_their_stage(opened: Open, kind: str) -> None:
    loader = opened(kind).loader(8)
    run(loader, 10)
    before = loader.drawn["pretrain"]
    loader.set_weights({"talk": 3, "wiki": 1})
    assert loader.weights == {"wiki": 0.25, "code": 0, "talk": 0.75}
    run(loader, 5)
    after = loader.drawn["pretrain"]
    assert after["talk"].sequences - before["talk"].sequences == pytest.approx(30, abs=1)
    run(loader, len(loader.loaders["pretrain"]))
    assert loader.stage == "mid"
    assert loader.weights == pytest.approx(dict.fromkeys(NAMES, 1 / 3))  # planned once more
    loader.set_weights({"code": 3, "wiki": 1})
    run(loader)
    drawn = loader.drawn
    mid = {name: row.sequences for name, row in drawn["mid"].items()}
    assert mid["talk"] == 0 and mid["code"] + mid["wiki"] == 187
    for stage, budget in (("pretrain", 375), ("mid", 187), ("anneal", 46)):
        assert sum(row.sequences for row in drawn[stage].values()) == budget
    tokens = {name: sum(rows[name].tokens for rows in drawn.values()) for name in NAMES}
    assert sum(tokens.values()) == 375 * 32 + 187 * 32 + 46 * 64
    supply = loader._draws.supply_tokens
    assert loader.passes == {name: tokens[name] / supply[name] for name in NAMES}


def test_a_recipe_and_its_build_allow_the_same(opened: Open) -> None:
    accounts = []
    for kind in ("directory", "recipe"):
        loader = opened(kind, {"wiki": 1, "talk": 5}).loader(8)
        run(loader)
        accounts.append(loader.drawn)
    assert accounts[0] == accounts[1]
    row = accounts[0]["pretrain"]["talk"]
    assert row.asked_sequences == pytest.approx(375 * 5 / 6)


@pytest.mark.parametrize("kind", ["directory", "recipe"])
def test_caps_hold_over_all_stages(opened: Open, kind: str) -> None:
    """Each stage holds all of talk at least once, and four passes are allowed to all of them."""
    mixture = {"method": "manual", "weights": {"wiki": 0, "code": 0, "talk": 1}}
    supply = opened("recipe").loader(8)._draws.supply_tokens["talk"]
    stages = [stage | {"budget_tokens": supply + 200, "mixture": mixture} for stage in STAGES]
    loader = opened(kind, stages=stages, max_epochs=4).loader(8)
    run(loader, len(loader.loaders["pretrain"]))
    assert loader.passes["talk"] == pytest.approx(1, abs=0.03)
    for row, length in ((loader.drawn["mid"]["talk"], 32), (loader.drawn["anneal"]["talk"], 64)):
        left = row.left_sequences * length / supply
        assert left == pytest.approx(4 - loader.passes["talk"], abs=length / supply)
    for _ in range(2):  # further epochs of all stages
        with contextlib.suppress(InfeasiblePlan):
            run(loader)
    used_up = r"^stages\[\w+\]: weights: every domain with a weight is used up \(talk\)"
    with pytest.raises(InfeasiblePlan, match=used_up):
        run(loader)
    assert 4 - 8 * 64 / supply < loader.passes["talk"] <= 4


@pytest.mark.parametrize("kind", ["directory", "recipe"])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_resumed_run_draws_what_the_whole_one_draws(opened: Open, kind: str, ranks: int) -> None:
    data = opened(kind)
    pretrain = -(-375 // 12)

    def changed(loader: Any, step: int) -> None:
        """Change weights in the middle of a stage, and for the next at its border."""
        if step == 7:
            loader.set_weights({"wiki": 1, "talk": 1})
        if step == pretrain:
            loader.set_weights({"code": 1, "talk": 2})

    def steps(loader: Any, first: int, stop: int | None) -> list[int]:
        numbers, batches = [], iter(loader)
        for step in itertools.count(first):
            if stop is not None and step == stop:
                break
            changed(loader, step)
            batch = next(batches, None)
            if batch is None:
                break
            numbers += batch["samples"].tolist()
        return numbers

    whole = data.loader(12)
    expected = [*steps(whole, 0, None), *run_flat(whole, 5)]
    for cut in (3, 8, pretrain, pretrain + 1, pretrain + 16, pretrain + 18):
        first = data.loader(12)
        before = steps(first, 0, cut)
        if cut == pretrain:
            changed(first, cut)
        state = json.loads(json.dumps(first.state_dict()))
        resumed = [data.loader(12 // ranks, rank, ranks) for rank in range(ranks)]
        parts = []
        for loader in resumed:
            loader.load_state_dict(state)
            parts.append(iter(loader))
        after = []
        for step in itertools.count(cut):
            for loader in resumed:
                changed(loader, step)
            batches = [next(part, None) for part in parts]
            if batches[0] is None:
                break
            after += [n for batch in batches for n in batch["samples"].tolist()]
        again = [list(itertools.islice(loader, 5)) for loader in resumed]
        after += [n for step in zip(*again, strict=True) for b in step for n in b["samples"]]
        assert before + after == expected, cut
        assert resumed[0].drawn == whole.drawn


def run_flat(loader: Any, steps: int) -> list[int]:
    """Return the samples of the next steps."""
    return [number for _, numbers in run(loader, steps) for number in numbers]


def test_a_function_is_asked_in_every_stage(opened: Open) -> None:
    asked: list[str] = []

    def controller(loader: Any) -> dict[str, float] | None:
        asked.append(loader.stage)
        return ANNEAL_ONLY if loader.stage == "anneal" else None

    loader = opened("recipe", controller).loader(8)
    steps = len(loader)
    run(loader)
    assert len(asked) == steps and list(dict.fromkeys(asked)) == list(SHARES)
    shares = {
        stage: [row.sequences / sum(r.sequences for r in rows.values()) for row in rows.values()]
        for stage, rows in loader.drawn.items()
    }
    assert shares["pretrain"] == pytest.approx([0.5, 0.3, 0.2], abs=0.01)
    assert shares["mid"] == pytest.approx([1 / 3] * 3, abs=0.01)
    assert shares["anneal"] == [1, 0, 0]


def test_weights_of_stages_that_are_wrong_are_refused(opened: Open) -> None:
    with pytest.raises(RecipeError, match="there is no domain 'wkii'; did you mean 'wiki'"):
        opened("recipe", {"wkii": 1})
    loader = opened("recipe").loader(8)
    for weights, message in (({"wiki": -1}, "at least 0"), ({"wiki": 0}, "all are 0")):
        with pytest.raises(RecipeError, match=message):
            loader.set_weights(weights)
    plain = opened("recipe", None).loader(8)
    for ask in (lambda: plain.set_weights({"wiki": 1}), lambda: plain.drawn, lambda: plain.passes):
        with pytest.raises(RecipeError, match=r'open the data with curate.load.*weights="planned"'):
            ask()
    run(loader, 2)
    with pytest.raises(ShardError, match="saved by a loader with weights"):
        plain.load_state_dict(loader.state_dict())
    with pytest.raises(ShardError, match="not made by state_dict"):
        loader.load_state_dict({**loader.state_dict(), "weights_set": {"later": 0}})
    with pytest.raises(ShardError, match="not made by state_dict"):
        loader.load_state_dict({**loader.state_dict(), "weights_set": {"pretrain": "0"}})


def test_torch_batches_follow_the_weights(opened: Open) -> None:
    pytest.importorskip("torch")
    data = opened("directory")
    loaders = data.loader(8), data.torch_loader(8)
    for loader in loaders:
        loader.set_weights({"wiki": 1, "talk": 3})
    for plain, batch in zip(*loaders, strict=True):
        assert np.array_equal(plain["samples"], batch["samples"].numpy())
    assert loaders[0].drawn == loaders[1].drawn
