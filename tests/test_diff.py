"""Comparisons of recipes, mixtures and datasets, and the runs that a change strands."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import make_documents, write_jsonl

import curate
from curate.cli import cli
from curate.dataset.differences import Change
from curate.dataset.manifest import load_manifest, read_provenance
from curate.errors import InputError, RecipeError
from curate.report.differences import _shortened

TABLE = """run,w_wiki,w_code,w_talk,loss_wiki,loss_code
a,0.5,0.5,0,3.0,3.0
b,0.3,0.3,0.4,3.0,2.0
c,0.2,0.2,0.6,2.0,3.0
"""


def changed(recipe: Path, name: str, *replacements: tuple[str, str]) -> Path:
    text = recipe.read_text("utf-8")
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    path = recipe.with_name(name)
    path.write_text(text, "utf-8")
    return path


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(cli, ["diff", *map(str, arguments)])
    assert result.exit_code == 0, result.exception
    return result.output


def test_one_line_when_nothing_differs(recipe: Path, tmp_path: Path) -> None:
    curate.build(recipe, workers=1)
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "out" / "tiny", copy)
    # The same recipe in other words: defaults spelled out, an alias.
    other = changed(recipe, "other.yaml", ("domains:", "seed: 42\nsources:"))
    pairs = [
        (recipe, other, "recipes"),
        (tmp_path / "out" / "tiny", copy, "datasets"),
        (copy / "mixture.json", tmp_path / "out" / "tiny" / "mixture.json", "mixtures"),
        (copy, other, "recipes"),
        (copy / "mixture.json", copy, "mixtures"),
    ]
    for a, b, kind in pairs:
        assert curate.diff(a, b).same
        assert run(a, b) == f"no difference between these {kind}\n"
    (copy / "mixture.json").write_bytes(b"")
    output = " ".join(run(copy, tmp_path / "out" / "tiny").split())
    assert output.startswith("no difference between these datasets, as far as they were compared ")
    assert "note mixtures are not compared: " in output


def test_recipes_key_by_key(recipe: Path) -> None:
    other = changed(
        recipe,
        "other.yaml",
        ("max_epochs: 4", "max_epochs: 2\nseed: 3"),
        ("name: wiki,", "name: wiki, max_epochs: 5,"),
        ("name: talk", "name: chat"),
    )
    result = curate.diff(recipe, other)
    assert set(result.changes) == {Change("max_epochs", 4.0, 2.0), Change("seed", 42, 3)}
    by_name = {domain.domain: domain for domain in result.domains}
    kinds = {name: domain.kind for name, domain in by_name.items()}
    assert kinds == {"wiki": "changed", "talk": "removed", "chat": "added"}
    assert by_name["wiki"].changes == (Change("max_epochs", None, 5.0),)
    assert result.stranded == ()
    assert result.notices == (
        "B seems to have renamed 'talk' to 'chat', which reads the same files: to keep its runs, "
        "keep the name, or rename the columns w_talk and loss_talk of the run table",
    )


def test_a_recipe_elsewhere_reads_other_files(recipe: Path, tmp_path: Path) -> None:
    """Relative paths are compared as they are read, not as they are written."""
    (tmp_path / "elsewhere").mkdir()
    relative = changed(recipe, "relative.yaml", (str(tmp_path.parent), "."))
    moved = tmp_path / "elsewhere" / "relative.yaml"
    shutil.copy(relative, moved)
    result = curate.diff(relative, moved)
    assert [change.key for domain in result.domains for change in domain.changes] == ["paths"] * 3


@pytest.mark.parametrize(
    ("replacements", "stranded"),
    [
        ([("seed: 1", "seed: 2")], {}),
        ([("name: talk", "name: chat")],
         {"abc": "trained without 'chat', which B adds", "bc": "trained on 'talk', which B lacks"}),
        ([("/talk/*", "/talk/part-0*")], {"bc": "trained on other text of 'talk'"}),
        ([("vocab_size: 400", "vocab_size: 500")],
         {"abc": "losses are per token of another tokenizer"}),
    ],
)  # fmt: skip
def test_runs_that_a_change_strands(
    recipe: Path,
    tmp_path: Path,
    replacements: list[tuple[str, str]],
    stranded: dict[str, str],
) -> None:
    (tmp_path / "table.csv").write_text(TABLE)
    with recipe.open("a", encoding="utf-8") as file:
        file.write("seed: 1\n")
    before = changed(
        recipe,
        "before.yaml",
        ("method: entropy, estimator: plugin", "method: bimix, evidence: {runs: table.csv}"),
    )
    after = changed(before, "after.yaml", *replacements)
    result = curate.diff(before, after)
    assert {"".join(one.stranded): one.reason for one in result.stranded} == stranded
    assert all(one.runs == 3 for one in result.stranded)
    output = run(before, after)
    assert ("stranded" in output) == bool(stranded)
    (tmp_path / "table.csv").unlink()
    notices = curate.diff(before, after).notices
    assert ["runs are not compared" in notice for notice in notices].count(True) == 1
    assert "runs are not compared" in notices[-1]


def test_datasets_by_tokens_and_texts(recipe: Path, corpus: Path, tmp_path: Path) -> None:
    """Tokens and texts of each domain are those that the provenance of both holds."""
    shutil.copytree(corpus / "data", tmp_path / "data")
    write_jsonl(tmp_path / "data" / "talk" / "part-2.jsonl", make_documents("talk", 20, seed=9))
    other = changed(
        recipe,
        "other.yaml",
        (str(corpus / "data"), str(tmp_path / "data")),
        ("estimator: plugin", "estimator: plugin, caps: {wiki: 0.2}"),
        ("name: tiny", "name: other"),
    )
    directories = []
    for path in (recipe, other):
        assert curate.build(path, workers=1).ok
        directories.append(path.parent / "out" / ("tiny" if path == recipe else "other"))
    (directories[0] / "runs.csv").write_text(TABLE)
    result = curate.diff(*directories)
    assert result.kind == "dataset"
    by_name = {domain.domain: domain for domain in result.domains}
    texts: dict[str, list[set[int]]] = {"wiki": [], "code": [], "talk": []}
    for side, directory in enumerate(directories):
        manifest = load_manifest(directory)
        tokens = dict.fromkeys(texts, 0)
        held: dict[str, set[int]] = {name: set() for name in texts}
        for shard in manifest.shards:
            if shard.split != "train":
                continue
            rows = read_provenance(directory / shard.provenance.path, shard, manifest)
            for row in rows:
                name = manifest.domains[row["domain"]]
                tokens[name] += int(row["tokens"])
                held[name].add(int(row["content"]))
        for name in texts:
            texts[name].append(held[name])
            shown = (by_name[name].before, by_name[name].after)[side]
            assert shown is not None
            assert (shown.tokens, shown.documents) == (tokens[name], len(held[name]))
    for name, (a, b) in texts.items():
        assert by_name[name].documents_in_both == len(a & b)
    weights = json.loads((directories[1] / "mixture.json").read_text())["weights"]
    wiki = by_name["wiki"].after
    assert wiki is not None
    assert wiki.weight == pytest.approx(weights["wiki"])
    assert weights["wiki"] == pytest.approx(0.2)
    sources = [change for change in by_name["talk"].changes if change.key == "sources"]
    assert sources[0].before.startswith("2 files")
    assert sources[0].after.startswith("3 files")
    assert {one.reason: one.stranded for one in result.stranded}[
        "trained on other text of 'talk'"
    ] == ("b", "c")
    output = run(*directories)
    assert "…" not in output
    assert max(map(len, output.splitlines())) <= 120


def test_what_cannot_be_compared(recipe: Path, tmp_path: Path) -> None:
    mixture = tmp_path / "mixture.json"
    mixture.write_text(json.dumps({"weights": {"wiki": 1.0}}))
    with pytest.raises(InputError, match="a recipe and a mixture have nothing to compare"):
        curate.diff(recipe, mixture)
    with pytest.raises(InputError, match="not there; name a recipe, a mixture.json, or"):
        curate.diff(recipe, tmp_path / "gone")
    mixture.write_text("[]")
    with pytest.raises(InputError, match="no mixture that curate mix wrote"):
        curate.diff(mixture, mixture)
    broken = changed(recipe, "broken.yaml", ("name: tiny", "nam: tiny"))
    with pytest.raises(RecipeError, match="nam"):
        curate.diff(recipe, broken)
    assert CliRunner().invoke(cli, ["diff", "x"]).exit_code == 2


def test_many_changes_are_summed_up_and_equal_domains_counted(tmp_path: Path) -> None:
    def mixture(name: str, weights: dict[str, float]) -> Path:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"weights": weights}), "utf-8")
        return path

    names = [f"d{number:02}" for number in range(72)]
    even = dict.fromkeys(names, 1 / 72)
    moved = {name: share * (1 + number / 1e4) for number, (name, share) in enumerate(even.items())}
    a, b = mixture("a", even), mixture("b", moved)
    few = mixture("few", {**even, "d05": 0.5, "d40": 0.1})
    assert curate.diff(a, few).equal_domains == 70
    output = run(a, few)
    assert "70 domains are the same in both" in output and "d06" not in output
    output = run(a, b)
    assert "20 of 71, those whose share changes most; --csv lists all" in " ".join(output.split())
    assert "d71" in output and "d01" not in output and "1 domain is the same" in output
    with (tmp_path / "rows.csv").open("w+", encoding="utf-8") as file:
        file.write(run(a, b, "--csv"))
        file.seek(0)
        rows = list(csv.DictReader(file))
    assert len(rows) == 71 and rows[0] == {
        "domain": "d01", "key": "weight", "a": repr(even["d01"]), "b": repr(moved["d01"]),
    }  # fmt: skip
    assert run(a, b, "--markdown").startswith("| domain | key | a | b |\n| --- ")
    assert run(a, b, "-q") == ""


def test_many_keys_of_a_section_are_summed_up() -> None:
    changes = [Change(f"mixture.weights.d{number:02}", None, 0.1) for number in range(72)]
    shown = _shortened([Change("seed", 1, 2), *changes])
    assert len(shown) == 22 and shown[0].key == "seed"
    assert shown[-1] == Change("mixture.weights.…", "52 keys more", "--csv lists all")
