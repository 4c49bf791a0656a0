"""Commands of one recipe run in any order in one directory, and the dataset stays whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import RECIPE, slow_if

import curate

PROXY = (
    "{preset: nano, runs: 12, tokens: 256, sequence_length: 32, batch: 4, checkpoints: 1,"
    " validation_tokens: 200}"
)

COMMANDS: dict[str, Callable[[Any, Path], object]] = {
    "tokenize": lambda recipe, out: curate.tokenize(recipe, workers=1),
    "mix": lambda recipe, out: curate.mix(recipe, workers=1),
    "plan": lambda recipe, out: curate.plan(recipe, workers=1),
    "build": lambda recipe, out: curate.build(recipe, workers=1),
    "design": lambda recipe, out: curate.design(recipe, count=2, workers=1),
    "proxy": lambda recipe, out: curate.proxy(recipe, workers=1),
    "experts": lambda recipe, out: curate.experts(recipe, workers=1),
    "validate": lambda recipe, out: curate.validate(recipe, seeds=2, workers=1),
    "fit": lambda recipe, out: curate.fit(
        out.parent / "runs.csv", laws=["ridge"], directory=out, workers=1
    ),
    "mix --runs": lambda recipe, out: curate.mix(
        runs=out.parent / "runs.csv", method="ridge", directory=out, workers=1
    ),
}

NEED_TORCH = ("proxy", "experts", "validate")


@pytest.fixture(scope="module")
def after(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that runs a command in a directory of its own, once, and returns it."""
    root = tmp_path_factory.mktemp("orders")
    (root / "recipe.yaml").write_text(RECIPE.format(data=corpus / "data") + f"proxy: {PROXY}\n")
    (root / "runs.csv").write_text(
        "run,w_wiki,w_code,w_talk,loss_wiki,loss_code,loss_talk\n"
        + "\n".join(f"r{n},.{n},.{9 - n},.1,{3 - n / 20},{2 + n / 20},2.5" for n in range(1, 9))
    )
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            made[name] = root / name.replace(" ", "")
            made[name].mkdir()
            COMMANDS[name](load(root, made[name]), made[name])
        return made[name]

    return run


def load(root: Path, out: Path) -> Any:
    return curate.load_recipe(root / "recipe.yaml", {"output.dir": str(out)})


@pytest.mark.parametrize("first", slow_if(lambda name: name != "build", COMMANDS))
def test_any_command_may_follow_any_other(after: Callable[[str], Path], first: str) -> None:
    pytest.importorskip("torch")
    before = after(first)
    for second in COMMANDS:
        out = before.with_name("pair")
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(before, out)
        if second in NEED_TORCH:  # what it has trained already; a run takes seconds
            shutil.copytree(after(second), out, dirs_exist_ok=True, ignore=_not_trained)
        recipe = load(before.parent, out)
        COMMANDS[second](recipe, out)
        built = curate.build(recipe, workers=1)
        assert built.ok, (first, second, built.problems)
        COMMANDS[first](recipe, out)
        assert curate.verify(out, workers=1).ok, (first, second)


def _not_trained(directory: str, names: list[str]) -> list[str]:
    """Leave out what belongs to no swarm."""
    swarm = ("runs.csv", "proxy.json", "curves", "experts", "experts.parquet", "validation_runs")
    inside = any(name in directory for name in ("curves", "experts", "validation_runs"))
    return [] if inside else [name for name in names if name not in swarm]
