"""The worked examples: those of the embedded corpus plan, the others say what they lack."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from curate.errors import CurateError
from curate.pipeline.plan import plan_dataset
from curate.pipeline.stages import plan_stages
from curate.recipe import LoadedRecipe, load
from curate.runtime.progress import Observer

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
STAGED = [path for path in RECIPES if load(path).recipe.stages]
EMBEDDED = [
    path for path in RECIPES if "corpus://" in path.read_text("utf-8") and path not in STAGED
]
STAND_INS = ("wiki", "code", "talk", "wiki")
"""Domains of the tests' corpus for those of the embedded one, which takes long to harvest."""


def on_small_data(path: Path, corpus: Path, work: Path) -> LoadedRecipe:
    """The recipe as it stands, but for texts, tokens and directories."""
    names = [domain.name for domain in load(path).recipe.domains]
    domains = [
        {"name": name, "paths": str(corpus / "data" / own / "*")}
        for name, own in zip(names, STAND_INS[: len(names)], strict=True)
    ]
    overrides = [
        f"domains={json.dumps(domains)}", "tokenizer={train: {vocab_size: 400}}",
        "validation.documents=0.05", f"cache={work / 'cache'}", f"output.dir={work / 'out'}",
    ]  # fmt: skip
    stages = load(path).recipe.stages
    overrides += [f"stages.{s.name}.budget_tokens={s.budget_tokens // 100}" for s in stages]
    if any(stage.where for stage in stages):
        overrides.append(f"stages.{stages[-1].name}.where=tokens >= 60")
    overrides += [] if stages else ["budget_tokens=30000"]
    if load(path).recipe.mixture.evidence is not None:
        proxy = "mixture.evidence.proxy"
        overrides += [f"{proxy}.tokens=3072", f"{proxy}.runs=12", f"{proxy}.validation_tokens=400",
                      "mixture.replicates=0"]  # fmt: skip
    return load(path, tuple(overrides))


@pytest.mark.parametrize("path", EMBEDDED, ids=lambda path: path.stem)
def test_recipes_of_the_embedded_corpus_plan(path: Path, corpus: Path, tmp_path: Path) -> None:
    loaded = on_small_data(path, corpus, tmp_path)
    planned = plan_dataset(loaded, 1, Observer())
    assert planned.mixed.mixture.method == load(path).recipe.mixture.method
    assert sum(domain.tokens for domain in planned.plan.domains) == 30_000


@pytest.mark.parametrize("path", STAGED, ids=lambda path: path.stem)
def test_recipes_in_stages_plan(path: Path, corpus: Path, tmp_path: Path) -> None:
    loaded = on_small_data(path, corpus, tmp_path)
    planned = plan_stages(loaded, 1, Observer())
    assert [stage.planned.plan.budget_tokens for stage in planned] == [30_000, 10_000, 2_500]


def test_there_is_one_for_each_way() -> None:
    methods = {load(path).recipe.mixture.method for path in RECIPES}
    assert methods >= {"entropy", "bimix", "regmix", "mde", "mixmin", "manual"}
    assert len(EMBEDDED) >= 5


@pytest.mark.parametrize(
    "path",
    [path for path in RECIPES if path not in (*EMBEDDED, *STAGED)],
    ids=lambda path: path.stem,
)
def test_recipes_of_your_own_data_say_what_is_missing(path: Path, tmp_path: Path) -> None:
    places = (f"cache={tmp_path / 'cache'}", f"output.dir={tmp_path / 'out'}")
    with pytest.raises(CurateError, match=r"^tokenizer .*tokenizer\.json: cannot be read"):
        plan_dataset(load(path, places), 1, Observer())
    first = load(path).recipe.domains[0]
    message = rf"^domains\[{first.name}\]\.paths: '{re.escape(str(first.paths))}' matches no file; "
    loaded = load(path, (*places, "tokenizer={train: {vocab_size: 400}}"))
    with pytest.raises(CurateError, match=message):
        plan_dataset(loaded, 1, Observer())


@pytest.mark.parametrize("name", ["pile", "slimpajama"])
def test_published_weights_are_the_published_ones(name: str) -> None:
    recipe = load(ROOT / "recipes" / f"{name}-like.yaml").recipe
    table = (ROOT / "tests" / "data" / f"bimix_{name}.csv").read_text("utf-8")
    published = [float(row["CE"]) for row in csv.DictReader(table.splitlines())]
    assert recipe.mixture.weights is not None
    assert list(recipe.mixture.weights.values()) == published
    assert list(recipe.mixture.weights) == [domain.name for domain in recipe.domains]
