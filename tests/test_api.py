"""The Python functions: what they return, that they write what commands write, and silence."""

from __future__ import annotations

import csv
import inspect
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from conftest import Listener
from mixing_laws import PowerLaw, table_of

import curate
from curate.cli import cli
from curate.errors import RecipeError
from curate.pipeline.results import DesignResult, MixtureResult

HOSTILE = '<script>alert("x")</script>'


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    weights = np.random.default_rng(0).dirichlet(np.full(2, 1.5), 12)
    table = table_of(PowerLaw(np.array([2.0, 3.0]), np.array([0.12, 0.05])), weights, 0.001,
                     names=("a", "b"))  # fmt: skip
    path = tmp_path / "runs.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["run", "w_a", "w_b", "loss_a", "loss_b"])
        for name, shares, losses in zip(table.runs, table.weights, table.losses, strict=True):
            writer.writerow([name, *shares, *losses])
    return path


def command(*arguments: object) -> None:
    done = CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_dir_lists_every_function() -> None:
    assert set(curate.__all__) <= set(dir(curate))
    assert [name for name in dir(curate) if name[0] != "_"] == sorted(
        set(curate.__all__) - {"__version__"}
    )
    for name in set(curate.__all__) - {"__version__", "plots"}:
        function = getattr(curate, name)
        assert inspect.isfunction(function) and function.__doc__, name
    with pytest.raises(AttributeError, match="'curate' has no attribute 'nothing'"):
        _ = curate.nothing  # type: ignore[attr-defined]


def test_functions_share_names_with_packages() -> None:
    from curate.stats.entropy import table_entropies

    assert "curate.stats" in sys.modules and inspect.isfunction(curate.stats)
    assert pickle.loads(pickle.dumps(table_entropies)) is table_entropies
    curate.something = 1  # type: ignore[attr-defined]
    assert curate.something == 1  # type: ignore[attr-defined]
    del curate.something  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import curate; print('numpy' in sys.modules)", "False"),
        ("import curate; curate.load_recipe; print('numpy' in sys.modules)", "False"),
        ("import curate, curate.stats.entropy; print(curate.stats.__module__)", "curate.pipeline"),
        ("import curate; curate.plan; import curate.plan.budget; print(curate.plan)", "function"),
    ],
)
def test_imports_are_lazy_and_in_any_order(code: str, expected: str) -> None:
    command = [sys.executable, "-c", f"import sys; {code}"]
    assert expected in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_recipe_is_a_path_a_mapping_or_loaded(recipe: Path, monkeypatch) -> None:
    loaded = curate.load_recipe(recipe, {"mixture.method": "uniform", "seed": 3})
    assert loaded.recipe.mixture.method == "uniform" and loaded.recipe.seed == 3
    same = curate.load_recipe(str(recipe), ["mixture.method=uniform", "seed=3"])
    assert same.hash == loaded.hash
    monkeypatch.chdir(recipe.parent)
    fields = {
        "name": "mapped",
        "tokenizer": {"path": Path("tokenizer.json"), "eos": None},
        "domains": [{"name": "wiki", "paths": "wiki/*"}],
        "budget_tokens": 1e4,
    }
    assert curate.load_recipe(fields).base == recipe.parent
    counted = curate.load_recipe(
        fields, {"budget_tokens": np.int64(3), "mixture.kl": np.float32(1)}
    )
    assert counted.recipe.budget_tokens == 3 and counted.recipe.mixture.kl == 1
    one = curate.load_recipe(fields, "seed=3")
    assert one.recipe.seed == 3
    with pytest.raises(RecipeError, match="unknown key 'budget'"):
        curate.load_recipe({**fields, "budget": 3})
    with pytest.raises(RecipeError, match="not set; use text, numbers, lists"):
        curate.load_recipe({**fields, "name": {1}})


@pytest.mark.usefixtures("own_store")
def test_each_function_writes_what_its_command_writes(
    recipe: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = recipe.parent / "out" / "tiny"
    written = {}
    for name, call in {
        "stats.json": lambda: curate.tokenize(recipe, workers=1),
        "mixture.json": lambda: curate.mix(recipe, workers=1),
        "plan.json": lambda: curate.plan(recipe, workers=1),
        "certificate.json": lambda: curate.build(curate.load_recipe(recipe), workers=1),
    }.items():
        before = sorted(path.name for path in out.glob("*")) if out.exists() else []
        result = call()
        assert name not in before, "each stage writes its own file only"
        written[name] = (out / name).read_bytes()
        assert result.to_json().items() <= json.loads(written[name]).items()
        frame = result.to_polars()
        assert isinstance(frame, pl.DataFrame) and len(frame) == 3
        assert "wiki" in result._repr_html_()
    assert curate.verify(out, workers=1).ok
    assert capfd.readouterr() == ("", "")
    for name in ("tokenize", "mix", "plan", "build"):
        command(name, recipe, "--workers", 1, "--quiet")
    for name, content in written.items():
        assert (out / name).read_bytes() == content, name


def test_stats_and_comparison(recipe: Path) -> None:
    result = curate.stats(recipe, workers=1)
    assert {"shannon_nats", "documents"} <= set(result.to_polars().columns)
    methods = curate.compare(recipe, workers=1, overrides={"mixture.method": "natural"})
    assert {"natural", "unimax"} <= set(methods.to_polars()["method"])
    mixture = curate.mix(curate.load_recipe(recipe), method="uniform", workers=1)
    assert mixture.weights == pytest.approx(dict.fromkeys(mixture.weights, 1 / 3))


@pytest.mark.usefixtures("own_store")
def test_progress_goes_to_the_observer(recipe: Path, capsys) -> None:
    listener = Listener()
    curate.tokenize(recipe, workers=1, progress=listener)
    assert "count" in listener.begun and capsys.readouterr().out == ""
    curate.tokenize(recipe, workers=1, progress="terminal")
    assert "count" in capsys.readouterr().out


def test_a_run_table_needs_no_recipe(runs: Path, tmp_path: Path, capfd) -> None:
    settings = {"mixture.replicates": 0}
    mixture = curate.mix(runs=runs, method="bimix", overrides=settings, directory=tmp_path / "api")
    assert sum(mixture.weights.values()) == pytest.approx(1)
    assert set(mixture.to_polars()["supply_tokens"]) == {None}
    design = curate.design(runs=[runs], count=2, directory=tmp_path / "api")
    fit = curate.fit(runs, laws=["bimix"], folds=3, directory=tmp_path / "api", workers=1)
    assert "bimix" in fit.to_polars()["law"].to_list()
    assert capfd.readouterr() == ("", "")
    command("mix", "--runs", runs, "--method", "bimix", "--set", "mixture.replicates=0",
            "--out", tmp_path / "cli", "--quiet")  # fmt: skip
    command("design", "--runs", runs, "-n", 2, "--out", tmp_path / "cli", "--quiet")
    for name in ("mixture.json", "design.csv"):
        assert (tmp_path / "cli" / name).read_bytes() == (tmp_path / "api" / name).read_bytes()
    assert design.to_polars().columns == ["run", "w_a", "w_b"]
    nothing = curate.design(runs=runs, count=2)
    assert nothing.path is None and nothing.json == design.json

    supply = {"a": 1e6, "b": 1e6}
    capped = curate.mix(
        runs=runs, method="bimix", supply=supply, budget_tokens=1.5e6, overrides=settings
    )
    assert max(capped.weights.values()) <= 2 / 3 + 1e-9
    with pytest.raises(RecipeError, match="RECIPE and --runs exclude each other"):
        curate.mix("recipe.yaml", runs=runs)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("stats", {"recipe": 3}, "recipe: expected a path or a mapping, got int"),
        ("stats", {"workers": 0}, "workers: 0; expected a whole number, at least 1, or None"),
        ("stats", {"progress": True}, "progress: True; expected None, .terminal. or an Observer"),
        ("mix", {"max_epochs": 2}, "set it in the recipe, max_epochs: 2"),
        ("mix", {"directory": "out"}, "set it in the recipe, output: {dir: out}"),
        ("mix", {"budget_tokens": 0}, "RECIPE and --budget exclude each other"),
        ("proxy", {"engine": "locl"}, "no engine is called 'locl'; did you mean 'local'"),
        ("design", {"count": 0}, "design: 0 mixtures are too few; propose at least 1"),
    ],
)
def test_arguments_that_a_recipe_or_a_machine_cannot_take(
    recipe: Path, function: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        getattr(curate, function)(**{"recipe": recipe, **arguments})


def test_arguments_of_a_run_table(runs: Path) -> None:
    for budget in (float("nan"), float("inf"), "many"):
        with pytest.raises(RecipeError, match="budget_tokens: .* is not a positive number"):
            curate.mix(runs=runs, supply={"a": 1e6, "b": 1e6}, budget_tokens=budget)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="--max-epochs caps nothing while supply is unknown"):
        curate.mix(runs=runs, max_epochs=2)
    for epochs in (0, -1, float("nan")):
        with pytest.raises(RecipeError, match="max_epochs: .* is not a positive number"):
            curate.mix(runs=runs, supply={"a": 1e6, "b": 1e6}, budget_tokens=1e6, max_epochs=epochs)
    by_name = curate.fit(runs, laws="bimix", folds=3, workers=1)
    assert "bimix" in by_name.json["laws"]


def test_tables_escape_names() -> None:
    fields = {"method": "natural", "weights": {HOSTILE: 1.0}, "unconstrained": {HOSTILE: 1.0},
              "epochs": {HOSTILE: None}, "low": None, "high": None}  # fmt: skip
    shown = MixtureResult(fields, {HOSTILE: 1234567})._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "1,234,567" in shown
    heading = DesignResult({"runs": {"r": {HOSTILE: 0.5}}}, None)._repr_html_()
    assert "<script>" not in heading
    text = repr(MixtureResult(fields, {HOSTILE: None}))
    assert text.startswith("MixtureResult: mixture;") and "alert" in text
    assert "unconstrained': {" not in text, "the table is printed, not the JSON"
