"""Every key of `proxy` and `mixture.evidence.proxy`: it changes the swarm, or it is refused.

A swarm is judged by its settings, which decide every number of `runs.csv`, so nothing is trained.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from curate.errors import RecipeError
from curate.mixture.keys import UNREAD_BY_EXPERTS, check_keys
from curate.mixture.methods import METHODS
from curate.pipeline.proxies import swarm_runs
from curate.pipeline.proxy_devices import Job
from curate.pipeline.proxy_setup import prepare
from curate.proxy.device import device_names
from curate.proxy.experts import expert_runs
from curate.recipe import LoadedRecipe, load
from curate.recipe.structs import ProxyRecipe
from curate.runtime.progress import Observer

BASE = {
    "preset": "nano", "runs": 3, "tokens": 2048, "sequence_length": 32, "batch": 4,
    "learning_rate": 0.001, "device": "cpu",
}  # fmt: skip
VALUES: dict[str, Any] = {
    "preset": "micro",
    "runs": 4,
    "mixtures": "mixtures.csv",
    "seeds": 2,
    "tokens": 4096,
    "sequence_length": 16,
    "batch": 2,
    "learning_rate": 0.002,
    "schedule": "cosine",
    "checkpoints": 3,
    "spacing": "even",
    "validation_tokens": 100,
    "repetition": "fresh",
    "tied": True,
    "tokenizer": {"train": {"vocab_size": 300}},
    "device": "cpu,cpu",
    "engine": "ray",
    "models": 1,
    "tensorboard": "boards",
}
"""A value for every key that is not its default, nor that of `BASE`."""

PLACES = {
    "proxy": "proxy={}",
    "mixture.evidence.proxy": "mixture={{method: dml, evidence: {{proxy: {}}}}}",
}


@pytest.fixture
def recipe(recipe: Path) -> Path:
    (recipe.parent / "mixtures.csv").write_text("wiki,code,talk\n.2,.3,.5\n.5,.3,.2\n")
    return recipe


def loaded(recipe: Path, place: str, keys: dict[str, Any]) -> LoadedRecipe:
    return load(recipe, (place.format(json.dumps(keys)),))


def swarm_of(recipe: LoadedRecipe, experts: bool = False) -> tuple[Any, ...]:
    """All that decides what a swarm trains, where, and what it writes beside `runs.csv`."""
    prepared = prepare(recipe, None, 1, Observer())
    runs = expert_runs(prepared.swarm.names) if experts else swarm_runs(recipe, prepared)
    swarm = Job(recipe, tuple(runs), recipe.output_dir).swarm(prepared)
    work = (swarm.group, swarm.tensorboard, device_names(recipe.proxies.device))
    trained = [(run.name, run.fingerprint) for run in swarm.runs]
    return swarm.settings_hash, trained, *work, recipe.proxies.engine


def test_every_key_has_a_value_here() -> None:
    assert list(VALUES) == [field.name for field in msgspec.structs.fields(ProxyRecipe)]


@pytest.mark.parametrize("place", PLACES)
def test_every_key_changes_the_swarm(recipe: Path, place: str) -> None:
    plain = swarm_of(loaded(recipe, PLACES[place], BASE))
    assert swarm_of(loaded(recipe, PLACES[place], {**BASE, "schedule": "constant"})) == plain
    for key, value in VALUES.items():
        keys = {**BASE, key: value}
        if key == "mixtures":
            del keys["runs"]
        assert swarm_of(loaded(recipe, PLACES[place], keys)) != plain, key


def test_every_key_changes_the_experts_or_is_refused(recipe: Path) -> None:
    place = "mixture={{method: mde, evidence: {{proxy: {}}}}}"
    base = {key: value for key, value in BASE.items() if key != "runs"}
    plain = swarm_of(loaded(recipe, place, base), experts=True)
    for key, value in VALUES.items():
        changed = loaded(recipe, place, {**base, key: value})
        if key in UNREAD_BY_EXPERTS:
            message = f"mixture.evidence.proxy.{key}: method mde does not read it"
            with pytest.raises(RecipeError, match=re.escape(message)):
                check_keys(changed.recipe.mixture, METHODS["mde"])
        else:
            check_keys(changed.recipe.mixture, METHODS["mde"])
            assert swarm_of(changed, experts=True) != plain, key


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"runs": 4, "mixtures": "mixtures.csv"},
            "PLACE.runs: no mixture is drawn, since PLACE.mixtures names a file with a row for",
        ),
        (
            {"checkpoints": 1, "spacing": "even"},
            "PLACE.spacing: a single checkpoint is at the end of a run, however they are spaced",
        ),
    ],
)
def test_keys_that_others_make_idle_are_refused(
    recipe: Path, place: str, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=re.escape(message.replace("PLACE", place))):
        loaded(recipe, PLACES[place], keys)
