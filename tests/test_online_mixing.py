"""ODM and ADO from `recipes/`, by hand, on planted curves, and on the nano model."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import make_documents, write_jsonl

import curate

torch = pytest.importorskip("torch")

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "recipes" / "online_mixing.py"
NAMES = ("text", "noise", "easy")
STEPS = 150


@pytest.fixture(scope="module")
def online() -> ModuleType:
    spec = importlib.util.spec_from_file_location("online_mixing", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text, random letters that cannot be learnt, and one sentence over and over."""
    root = tmp_path_factory.mktemp("online")
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz0123456789"))
    noise = ["".join(rng.choice(letters, 600)) for _ in range(200)]
    easy = ["the same words once more and " * 20 + str(number) for number in range(200)]
    texts = {
        "text": [row["text"] for row in make_documents("wiki", 600)],
        "noise": noise,
        "easy": easy,
    }
    for name, rows in texts.items():
        write_jsonl(root / f"{name}.jsonl", [{"text": text} for text in rows])
    path = root / "recipe.yaml"
    domains = "".join(f"  - {{name: {name}, paths: {name}.jsonl, weight: 1}}\n" for name in NAMES)
    path.write_text(
        "name: online\ntokenizer: {train: {vocab_size: 300}}\nmixture: {method: manual}\n"
        f"domains:\n{domains}budget_tokens: 70_000\nmax_epochs: 20\n"
    )
    return path


def trainer(online: ModuleType, recipe: Path, controller: Any) -> Any:
    fields = ("tokens", "labels", "domains", "samples")
    data = curate.load(recipe, 48, fields=fields, weights="planned")
    torch.manual_seed(0)
    return online.Trainer(data, controller, 8)


# By hand.


def test_odm_is_algorithm_1(online: ModuleType) -> None:
    odm = online.Odm(("a", "b"), smoothing=0.9)
    assert odm(None) == {"a": 0.5, "b": 0.5}  # e_1 = 1 / K: all is exploration
    odm.observe({"a": 4.0, "b": 2.0})
    assert odm.rewards == pytest.approx({"a": 0.1 * 4 / 0.5, "b": 0.1 * 2 / 0.5})
    odm.observe({"a": 4.0})
    rewards = {"a": 0.9 * 0.8 + 0.1 * 8, "b": 0.4}
    assert odm.rewards == pytest.approx(rewards)
    shares = odm(None)
    now, before = math.sqrt(math.log(2) / 6), 0.5  # e_3; e_2 = sqrt(ln 2 / 4) is below 1 / 2
    before = math.sqrt(math.log(2) / 4)
    scores = {name: math.exp(before * reward) for name, reward in rewards.items()}
    for name in "ab":
        expected = (1 - 2 * now) * scores[name] / sum(scores.values()) + now
        assert shares[name] == pytest.approx(expected)


def test_the_law_of_a_planted_curve_is_recovered(online: ModuleType) -> None:
    counts = np.arange(8, 8000, 8)
    for floor, scale, power in ((2.0, 8.0, 0.4), (1.0, 5.0, 0.2), (3.0, 30.0, 0.7)):
        fitted = online.fit_law(counts, floor + scale * counts**-power)
        curve = fitted[0] + fitted[1] * counts ** -fitted[2]
        assert np.abs(curve - floor - scale * counts**-power).max() < 0.02
        slope = fitted[1] * fitted[2] * counts[-1] ** -fitted[2]
        assert slope == pytest.approx(scale * power * counts[-1] ** -power, rel=0.1)


def test_ado_prefers_what_still_falls(online: ModuleType) -> None:
    """Planted losses: `fast` still falls, `flat` does not; the shares follow the formula."""
    ado = online.Ado({"fast": 1.0, "flat": 1.0}, warmup_steps=20, update_steps=20)
    drawn = {"fast": 0, "flat": 0}
    shares = {}
    rng = np.random.default_rng(0)
    for _ in range(120):
        rows = {name: SimpleNamespace(sequences=count) for name, count in drawn.items()}
        shares = ado(SimpleNamespace(drawn=rows))
        for name in drawn:
            drawn[name] += round(20 * shares[name])
        fast = 2 + 20 * max(1, drawn["fast"]) ** -0.5
        ado.observe({"fast": fast + rng.normal(0, 0.01), "flat": 4 + rng.normal(0, 0.01)})
    assert shares["fast"] > 0.8 and shares["flat"] >= 0.005
    assert sum(shares.values()) == pytest.approx(1)
    counts = np.array(ado.counts[-1])
    floor, scale, power = ado.laws.T
    speed = 0.5 * np.sqrt(ado.history) * power * scale * counts**-power / counts
    expected = np.maximum(speed / speed.sum(), 0.01)
    assert ado._preference(counts) == pytest.approx(expected / expected.sum())
    assert floor[0] == pytest.approx(2, abs=0.5)


# On the nano model.


@pytest.mark.parametrize("method", ["odm", pytest.param("ado", marks=pytest.mark.slow), "planned"])
def test_a_controller_moves_the_shares_of_a_run(
    online: ModuleType, recipe: Path, method: str
) -> None:
    controller = {
        "odm": lambda: online.Odm(NAMES),
        "ado": lambda: online.Ado(dict.fromkeys(NAMES, 1.0), 20, 20),
        "planned": lambda: None,
    }[method]()
    run = trainer(online, recipe, controller)
    history = run.train(STEPS)
    last = history[-1]
    assert last["noise"] > 3 > last["easy"] and history[0]["easy"] > 3
    rows = run.loader.drawn
    assert sum(row.sequences for row in rows.values()) == STEPS * 8
    for row in rows.values():  # weights changed in every step
        assert abs(row.asked_sequences - row.sequences) < 1 and row.moved_sequences == 0
    share = {name: row.sequences / (STEPS * 8) for name, row in rows.items()}
    if method == "odm":
        assert share["noise"] > 0.36 > 0.31 > share["easy"]
    elif method == "ado":
        assert share["noise"] < 0.31 and run.loader.weights["noise"] < 0.3
    else:  # the dummy
        assert max(share.values()) - min(share.values()) < 0.001


@pytest.mark.parametrize("method", ["odm", pytest.param("ado", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    online: ModuleType, recipe: Path, method: str, tmp_path: Path
) -> None:
    def make() -> Any:
        if method == "odm":
            return trainer(online, recipe, online.Odm(NAMES))
        return trainer(online, recipe, online.Ado(dict.fromkeys(NAMES, 1.0), 10, 10))

    straight = make()
    whole = straight.train(60)
    first = make()
    part = first.train(33)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = make()
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    part += second.train(27)
    assert part == whole
    assert second.loader.state_dict() == straight.loader.state_dict()
    assert second.loader.drawn == straight.loader.drawn


def test_the_script_prints_what_was_drawn(recipe: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(recipe), "--steps", "5", "--length", "32"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["domain", "asked", "drawn", "share", "passes", "last", "loss"]
    assert sum(int(line.split()[2]) for line in lines[1:]) == 40
