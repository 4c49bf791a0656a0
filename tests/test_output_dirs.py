"""What a directory may hold before a command, and what it holds afterwards."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import Listener
from warm import run_curate

import curate
from curate.errors import ShardError
from curate.recipe import load
from curate.recipe.effective import effective_text
from curate.runtime.artifact_names import MARK

UNIFORM = ("mixture.method=uniform",)


def tree(directory: Path) -> dict[str, bytes]:
    """Content of every file, by path."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def shards(directory: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(directory).items() if name.startswith("train/")}


def test_the_kept_recipe_gives_the_same_shards_from_elsewhere(
    recipe: Path, corpus: Path, tmp_path: Path
) -> None:
    text = recipe.read_text().replace("budget_tokens", "max_tokens")  # an alias
    shutil.copytree(corpus / "data", tmp_path / "data")
    recipe.write_text(text.replace(f"{corpus}/", ""))  # paths from the recipe's directory
    loaded = load(recipe, ("mixture.method=uniform", "seed=7", "domains.wiki.metadata={a: no}"))
    directory = curate.build(loaded, workers=1).directory
    kept = directory / "recipe.yaml"
    assert yaml.safe_load(kept.read_text())["base"] == str(tmp_path)
    assert curate.build(kept, workers=1, progress=(heard := Listener())).ok
    assert "built already: reading it back" in heard.notices
    elsewhere = tmp_path / "elsewhere"
    done = run_curate("build", kept, "--out", elsewhere, "--quiet", cwd=directory)
    assert (done.returncode, done.stderr) == (0, "")
    assert shards(elsewhere) == shards(directory) != {}


def test_the_kept_recipe_is_the_one_that_was_read(recipe: Path) -> None:
    odd = {
        "domains.wiki.metadata": {"no": "1e3", "y": [1.5, None, True, "null", 2020], "ü": "\x07"},
        "domains.wiki.license": "yes",
        "mixture": {"method": "manual", "weights": {"wiki": 1, "code": 0.5, "talk": 1e-9}},
        "tokenizer": {"hub": "a/b", "eos": None},
        "output": {"format": "npy", "dir": "3"},
        "proxy": {"preset": "micro"},
        "decontaminate": {"sets": {"a": "a.jsonl", "b": {"path": "b.jsonl", "text": "no"}}},
    }
    loaded = curate.load_recipe(recipe, odd)
    copy = recipe.parent / "deep" / "copy.yaml"
    copy.parent.mkdir()
    copy.write_text(effective_text(loaded), "utf-8")
    again = load(copy)
    assert again.recipe == curate.load_recipe(recipe, {**odd, "base": str(recipe.parent)}).recipe
    assert (again.base, again.output_dir) == (loaded.base, loaded.output_dir)


def test_the_kept_recipe_has_no_secrets(recipe: Path) -> None:
    paths = [
        "s3://key:hidden@bucket/part-?.jsonl",
        "https://host/a.jsonl?page=2&X-Amz-Signature=hidden&X-Amz-Credential=hidden#x",
    ]
    text = effective_text(curate.load_recipe(recipe, {"domains.wiki.paths": paths}))
    assert "hidden" not in text
    assert "s3://key@bucket/part-?.jsonl" in text and "?page=2&X-Amz-Signature=REMOVED" in text


def test_a_dataset_of_another_recipe_is_replaced_only_when_told(recipe: Path) -> None:
    directory = curate.build(recipe, workers=1).directory
    before = tree(directory)
    command = ["build", recipe, "--set", *UNIFORM, "--quiet"]
    done = run_curate(*command)
    assert done.returncode == 2 and tree(directory) == before
    assert done.stderr == (
        f"curate: {directory}: holds a dataset of another recipe, with 30,000 tokens; give another "
        "directory with --out DIR, or replace the dataset with --overwrite\n"
    )
    done = run_curate(*command, "--overwrite")
    assert (done.returncode, done.stderr) == (0, "")
    replaced = tree(directory)
    with pytest.raises(ShardError, match=r"another recipe.*--out DIR.*--overwrite"):
        curate.build(recipe, workers=1)
    assert tree(directory) == replaced
    assert curate.build(recipe, overwrite=True, workers=1).ok
    assert tree(directory) == before


def test_the_same_recipe_replaces_its_dataset(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other documents and another version of curate do not make another recipe."""
    data = tmp_path / "more" / "wiki.jsonl"
    data.parent.mkdir()
    data.write_text('{"text": "the river city"}\n' * 3000)
    loaded = load(recipe, (f"domains.wiki.paths={data}", "max_epochs=100"))
    built = curate.build(loaded, workers=1)
    data.write_text('{"text": "the north king"}\n' * 3000)
    again = curate.build(loaded, workers=1)
    assert again.ok and again.json["build_hash"] != built.json["build_hash"]
    monkeypatch.setattr("curate.pipeline.artifacts.__version__", "9.9")
    newer = curate.build(load(recipe, (f"domains.wiki.paths={data}", "max_epochs=100",
                                       "counting.memory_mb=64")), workers=2)  # fmt: skip
    assert newer.ok and newer.json["build_hash"] != again.json["build_hash"]


def test_other_commands_leave_a_dataset_as_it_is(recipe: Path) -> None:
    directory = curate.build(recipe, workers=1).directory
    before = tree(directory)
    curate.stats(recipe, intervals=True, workers=1)
    for overrides in ((), UNIFORM):
        loaded = load(recipe, overrides)
        curate.tokenize(loaded, workers=1)
        curate.mix(loaded, workers=1)
        curate.compare(loaded, workers=1)
        curate.plan(loaded, workers=1)
    after = tree(directory)
    assert after.keys() - before.keys() == {"entropy_report.json", "mixtures.json"}
    assert {name: after[name] for name in before} == before
    heard = Listener()
    assert curate.build(recipe, workers=1, progress=heard).ok
    assert "built already: reading it back" in heard.notices


def test_bad_records_are_told_again(recipe: Path, tmp_path: Path) -> None:
    """Also where they are listed already, beside a finished dataset."""
    data = tmp_path / "more.jsonl"
    data.write_text('{"text": "the river city"}\n' * 3000 + "not JSON\n")
    loaded = load(recipe, (f"domains.wiki.paths={data}", "max_epochs=100"))
    for _ in range(2):
        curate.build(loaded, workers=1, progress=(heard := Listener()))
        assert any(notice.startswith("1 bad record") for notice in heard.notices)


def test_a_mixture_of_runs_is_not_written_into_a_dataset(recipe: Path, tmp_path: Path) -> None:
    directory = curate.build(recipe, workers=1).directory
    before = tree(directory)
    runs = tmp_path / "runs.csv"
    rows = [f"r{n},{n / 9},{1 - n / 9},{3 - n / 20},{2 + n / 20}" for n in range(10)]
    runs.write_text("run,w_a,w_b,loss_a,loss_b\n" + "\n".join(rows))
    curate.mix(runs=runs, method="ridge", directory=directory, progress=(heard := Listener()))
    assert tree(directory) == before
    assert any("mixture.json is kept, and nothing is written" in line for line in heard.notices)


def test_stale_temporary_files_are_swept(recipe: Path) -> None:
    directory = curate.build(recipe, workers=1).directory
    code = "from pathlib import Path; import sys; from curate.runtime.files import begin_directory"
    code += "; begin_directory(Path(sys.argv[1]) / 'stats.json')"
    subprocess.run([sys.executable, "-c", code, directory], check=True)
    assert list(directory.glob(".stats.json.*.tmp"))
    curate.build(recipe, workers=1)
    assert not list(directory.glob(".*.tmp"))


@pytest.mark.parametrize("lost", ["train/.curate", MARK, "manifest.json", "manifest.json train"])
def test_a_dataset_is_recognised_by_whatever_is_left(recipe: Path, lost: str) -> None:
    """Marks of earlier versions lie in each folder; a killed one may have lost any of them."""
    directory = curate.build(recipe, workers=1).directory
    before = tree(directory)
    for name in lost.split():
        path = directory / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    assert curate.build(recipe, overwrite=True, workers=1).ok
    assert shards(directory) == {n: data for n, data in before.items() if n.startswith("train/")}
