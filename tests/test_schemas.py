"""Every file that curate writes has the fields of its JSON Schema, and no others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from conftest import RECIPE, small_searches, write_jsonl
from warm import run_curate

import curate
from curate.errors import RecipeError
from curate.report.schemas import ARTIFACT_SCHEMAS, artifact_schema

PROXY = "{preset: nano, runs: 6, tokens: 4096, sequence_length: 32, batch: 4, checkpoints: 3}"


@pytest.fixture(scope="module")
def written(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Run commands of every kind, and return what they wrote by the name of the file."""
    root = tmp_path_factory.mktemp("schemas")
    with small_searches():
        run_commands(root, corpus)
    files: dict[str, list[Any]] = {}
    for path in sorted(root.rglob("*.json")):
        if path.stem in ARTIFACT_SCHEMAS and ".curate" not in path.parts:
            files.setdefault(path.stem, []).append(json.loads(path.read_bytes()))
    lines = (root / "bad" / "quarantine.jsonl").read_bytes().splitlines()
    files["quarantine"] = list(map(json.loads, lines))
    return files


def run_commands(root: Path, corpus: Path) -> None:
    """Run commands that write every kind of file."""
    recipe = root / "recipe.yaml"
    recipe.write_text(RECIPE.format(data=corpus / "data"), "utf-8")
    changes = [
        ["output.dir=plain"],
        ["output.dir=rows", "sequence_length=64", "packing=best-fit", "output.format=input_ids"],
        ["output.dir=apart", "output.shape=per-domain"],
    ]
    for overrides in changes:
        assert curate.build(curate.load_recipe(recipe, overrides), workers=1).ok
    write_jsonl(root / "bad.jsonl", [{"text": "good words " * 400}, {"body": "no text"}])
    bad = ["domains=[{name: web, paths: bad.jsonl}]", "limits={lost_share: 1}", "output.dir=bad",
           "mixture.method=natural", "budget_tokens=100", "validation.documents=0",
           "tokenizer.train.vocab_size=262"]  # fmt: skip
    assert curate.build(curate.load_recipe(recipe, bad), workers=1).ok
    loaded = curate.load_recipe(recipe, ["output.dir=measured"])
    curate.stats(loaded, intervals=True, compare=True, workers=1)
    curate.compare(loaded, workers=1)
    if torch_is_here():
        proxies = [f"proxy={PROXY}", "output.dir=trained"]
        runs = curate.proxy(curate.load_recipe(recipe, proxies), workers=1).path
        laws = ["bimix", "joint", "mean"]
        curate.fit(runs, laws=laws, folds=2, directory=root / "trained", workers=1)
        for method, few in (("bimix", "replicates: 40, "), ("joint", "")):
            evidence = [f"mixture={{method: {method}, {few}evidence: {{runs: {runs}}}}}"]
            curate.mix(curate.load_recipe(recipe, [*evidence, f"output.dir={method}"]), workers=1)
        curate.mix(runs=runs, directory=root / "table")
        curate.front(runs=runs, groups=["wiki", "code"], points=3, directory=root / "table",
                     overrides={"mixture.method": "bimix"})  # fmt: skip
        validated = curate.load_recipe(recipe, [*proxies, "mixture.method=natural"])
        curate.validate(validated, seeds=2, workers=1)


def torch_is_here() -> bool:
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


def validator(name: str) -> Any:
    fields = artifact_schema(name)
    jsonschema.Draft202012Validator.check_schema(fields)
    return jsonschema.Draft202012Validator(fields)


@pytest.mark.parametrize("name", ARTIFACT_SCHEMAS)
def test_files_have_the_fields_of_their_schema(written: dict[str, list[Any]], name: str) -> None:
    if name not in written and not torch_is_here():
        pytest.skip("needs runs of small models")
    check = validator(name)
    for value in written[name]:
        assert [error.message for error in check.iter_errors(value)] == []
        for place in objects_in(value):
            place["another"] = 1
            assert not check.is_valid(value)
            del place["another"]
    for key in artifact_schema(name)["$defs"][ARTIFACT_SCHEMAS[name].__name__]["required"]:
        value = dict(written[name][0])
        del value[key]
        assert not check.is_valid(value)


def objects_in(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects whose keys a schema must know: the file's, and its first domain's."""
    yield value
    domains = value.get("domains")
    if isinstance(domains, dict) and "amounts" in next(iter(domains.values()), {}):
        yield next(iter(domains.values()))
        yield next(iter(domains.values()))["lost"]


def test_the_command_prints_each_schema() -> None:
    assert json.loads(run_curate("schema", "stats").stdout) == artifact_schema("stats")
    assert "Recipe" in json.loads(run_curate("schema").stdout)["$defs"]
    wrong = run_curate("schema", "stat")
    assert wrong.returncode == 2
    assert "did you mean 'stats'" in wrong.stderr
    with pytest.raises(RecipeError, match="no artifact is called 'x'"):
        artifact_schema("x")
