"""Domains written apart: every format, its own mixture file, read back and certified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from conftest import Listener

import curate
from curate.cli import cli
from curate.dataset.manifest import QUARANTINE, DatasetLayout, load_manifest
from curate.dataset.verify import verify
from curate.errors import InfeasiblePlan, RecipeError, ShardError
from curate.formats import FORMATS, find
from curate.pipeline.build import build
from curate.pipeline.plan import plan_dataset
from curate.pipeline.read_back import reopen
from curate.recipe import load
from curate.runtime.artifact_names import ARTIFACTS
from curate.runtime.progress import Observer

APART = "output.shape=per-domain"


def make(recipe: Path, *overrides: str, workers: int = 1) -> Any:
    return build(load(recipe, (APART, *overrides)), workers, Observer(), overwrite=True)


def strings(value: Any) -> list[str]:
    """Every text inside a JSON or YAML value."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [found for part in parts for found in strings(part)]


def check_mixture_files(directory: Path) -> None:
    """Every file in `trainer/` is in the manifest, and names files that are there."""
    listed = {file.path for file in load_manifest(directory).folder_files}
    files = [path for path in (directory / "trainer").iterdir() if path.name != ".curate"]
    assert files
    for path in files:
        assert f"trainer/{path.name}" in listed
        if path.suffix == ".txt":
            found = path.read_text().split()
        else:
            parse = json.loads if path.suffix == ".json" else yaml.safe_load
            found = strings(parse(path.read_text()))
        paths = [text for text in found if text.startswith(("train/", "validation/"))]
        assert len([text for text in paths if text.startswith("train/")]) >= 3
        for text in paths:
            stem = directory / text
            assert stem.exists() or list(stem.parent.glob(f"{stem.name}.*")), (path.name, text)


@pytest.mark.parametrize("name", [row.name for row in FORMATS.values() if row.mixtures])
def test_every_format_with_a_mixture_is_written_apart(recipe: Path, name: str) -> None:
    built = make(recipe, f"output.format={name}", "output.shard_tokens=9000")
    certificate = built.certificate
    assert certificate["ok"], certificate["problems"]
    manifest = load_manifest(built.directory)
    plan = json.loads((built.directory / "plan.json").read_text())
    on_disk = dict.fromkeys(manifest.domains, 0)
    for shard in manifest.shards:
        if shard.split == "train":
            _, domain, number = shard.stem.split("/")
            assert number.startswith("shard-0")
            on_disk[domain] += shard.tokens
    for domain, row in plan["domains"].items():
        assert on_disk[domain] == min(row["tokens"], row["supply_tokens"]) == row["written_tokens"]
        assert certificate["domains"][domain]["realised_tokens"] == on_disk[domain]
    assert sum(row["tokens"] for row in plan["domains"].values()) == 30000
    assert [found["trainer"] for found in certificate["trainer_mixture"]] == [
        mixture.trainer for mixture in find(name).mixtures if not mixture.one_length
    ]
    assert certificate["trainer_mixture"] == plan["trainer_mixture"]
    first = certificate["trainer_mixture"][0]
    assert first["largest_difference"] < 0.1
    for domain, row in certificate["domains"].items():
        assert row["realised_share"] == first["domains"][domain]["share"]
    check_mixture_files(built.directory)


@pytest.mark.parametrize(
    ("overrides", "mixes"),
    [
        (["sequence_length=64"], True),
        (["sequence_length=64", "packing=best-fit"], True),
        (["sequence_length=64", "packing=whole"], False),
        ([], False),
    ],
)
def test_levanter_mixes_token_rows_only_of_one_length(
    recipe: Path, overrides: list[str], mixes: bool
) -> None:
    built = make(recipe, "output.format=input_ids", *overrides)
    trainers = [found["trainer"] for found in built.certificate["trainer_mixture"]]
    assert trainers == ["levanter"] * mixes + ["datasets.interleave_datasets"]
    assert (built.directory / "trainer" / "levanter.yaml").exists() == mixes
    assert built.certificate["ok"]


def test_repeated_domains_are_written_once_and_repeated_by_the_trainer(recipe: Path) -> None:
    built = make(recipe, "output.options={window_tokens: 16}")
    plan = json.loads((built.directory / "plan.json").read_text())
    repeated = {n: r for n, r in plan["domains"].items() if r["tokens"] > r["supply_tokens"]}
    assert repeated  # talk is short
    for name, row in repeated.items():
        certified = built.certificate["domains"][name]
        assert certified["realised_tokens"] == row["supply_tokens"]
        assert certified["epochs"] == pytest.approx(row["epochs"], rel=0.02)
        assert certified["realised_share"] == pytest.approx(row["weight"], abs=0.001)
    assert built.certificate["realised_tokens"] < built.certificate["budget_tokens"] == 30000


def test_a_domain_apart_holds_the_documents_of_the_mixed_one(recipe: Path) -> None:
    """Selection does not depend on the shape, only where documents go."""
    overrides = ("max_epochs=1", "budget_tokens=12000")
    mixed = build(load(recipe, (*overrides, "name=mixed")), 1, Observer(), overwrite=True)
    apart = build(load(recipe, (*overrides, APART, "name=apart")), 1, Observer(), overwrite=True)
    found = []
    for built in (mixed, apart):
        manifest = load_manifest(built.directory)
        documents = []
        for shard in manifest.shards:
            if shard.split == "train":
                for batch in find("megatron").read(
                    built.directory / shard.stem, np.dtype(manifest.dtype)
                ):
                    cuts = np.cumsum(batch.lengths)[:-1]
                    documents += [tuple(d.tolist()) for d in np.split(batch.tokens, cuts)]
        found.append(sorted(documents))
    assert found[0] == found[1]


def test_workers_do_not_change_a_byte(recipe: Path) -> None:
    one = make(recipe, "output.format=mds", "output.shard_tokens=4000", "name=one", workers=1)
    two = make(recipe, "output.format=mds", "output.shard_tokens=4000", "name=two", workers=2)
    for path in sorted((one.directory / "train").rglob("*.mds")):
        assert path.read_bytes() == (two.directory / path.relative_to(one.directory)).read_bytes()
    assert (one.directory / "trainer" / "streams.yaml").read_bytes() == (
        two.directory / "trainer" / "streams.yaml"
    ).read_bytes()


def test_changing_the_shape_clears_the_other(recipe: Path) -> None:
    first = make(recipe, "name=same")
    assert (first.directory / "train" / "wiki" / "shard-00000.bin").exists()
    mixed = build(load(recipe, ("name=same",)), 1, Observer(), overwrite=True)
    assert mixed.certificate["ok"] and not mixed.reused
    assert not (first.directory / "train" / "wiki").exists()
    assert not (first.directory / "trainer").exists()
    again = make(recipe, "name=same")
    assert again.certificate["ok"] and not again.reused
    assert make(recipe, "name=same").reused
    assert not list((first.directory / "train").glob("shard-*"))


@pytest.mark.parametrize("name", [*ARTIFACTS, QUARANTINE])
def test_files_of_an_artifacts_name_are_not_touched(recipe: Path, name: str) -> None:
    foreign = load(recipe, ()).output_dir / name
    foreign.parent.mkdir(parents=True)
    foreign.write_text('{"mine": 1}')
    beside = foreign.with_name("README.md")
    beside.write_text("mine")
    with pytest.raises(ShardError, match=rf"1 file that curate did not write \({name}"):
        make(recipe)
    assert (foreign.read_text(), beside.read_text()) == ('{"mine": 1}', "mine")
    foreign.unlink()
    with pytest.raises(ShardError, match=r"did not write \(README.md\)"):
        make(recipe)
    beside.unlink()
    assert make(recipe).certificate["ok"]


@pytest.mark.parametrize("where", ["train/wiki/mine.txt", "train/wiki/deep/shard-00000.bin",
                                   "train/other/shard-00000.bin", "trainer/mine.txt"])  # fmt: skip
def test_foreign_files_in_folders_are_not_touched(recipe: Path, where: str) -> None:
    built = make(recipe)
    foreign = built.directory / where
    foreign.parent.mkdir(parents=True, exist_ok=True)
    foreign.write_text("mine")
    assert (
        f"{where}: not in the manifest"
        in verify(DatasetLayout(built.directory), None, 1)["problems"]
    )
    with pytest.raises(ShardError, match="holds 1 file that curate did not write"):
        make(recipe, "seed=7")
    assert foreign.read_text() == "mine"


@pytest.mark.parametrize(
    "damage", ["train/code/shard-00000.bin", "trainer/blend.json", "trainer/blend.txt"]
)
def test_verify_finds_damage(recipe: Path, damage: str) -> None:
    built = make(recipe)
    path = built.directory / damage
    path.write_bytes(path.read_bytes()[:-2])
    domains = reopen(load_manifest(built.directory), 1, Observer())
    certificate = verify(DatasetLayout(built.directory), domains, 1)
    assert not certificate["ok"]
    assert any(problem.startswith(f"{damage}: ") for problem in certificate["problems"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["output.format=npy"], "readers of npy have no mixture of their own; set output.shape"),
        (["output.format=llmc"], "readers of llmc have no mixture"),
        (["output.format=parquet", "output.options={variant: nanochat}"],
         r"readers of parquet \(variant nanochat\) have no mixture"),
        (["output.shape=domains"], "output.shape: cannot be 'domains'.*known: mixed, per-domain"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_apart_is_refused(
    recipe: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        make(recipe, *overrides)
    assert not (recipe.parent / "out").exists()


def test_more_than_a_share_lost_at_the_ends_of_domains_is_refused(recipe: Path) -> None:
    message = "drop 6627 of 26627 tokens at the ends of 3 domains .*windows of 4000.*mixed"
    with pytest.raises(InfeasiblePlan, match=message):
        make(recipe, "output.format=olmo", "output.options={window_tokens: 4000}")


def test_domains_apart_of_which_a_trainer_draws_nothing_are_refused(recipe: Path) -> None:
    message = "litdata CombinedStreamingDataset would find no window of 20000 tokens in any of the"
    with pytest.raises(InfeasiblePlan, match=message):
        make(recipe, "output.format=litdata", "sequence_length=20000")


def test_the_plan_tells_what_trainers_will_lose(recipe: Path) -> None:
    listener = Listener()
    overrides = (APART, "output.format=olmo", "sequence_length=null")
    weights = "mixture={method: manual, weights: {wiki: 0.9, code: 0.0999, talk: 0.0001}}"
    loaded = load(recipe, (*overrides, weights, "budget_tokens=12000"))
    planned = plan_dataset(loaded, 1, listener)
    assert planned.shaped.predictions[0].rows["talk"]["samples"] == 0
    assert any("gives no window of 2048 tokens to" in told and "'talk'" in told
               for told in listener.notices)  # fmt: skip


def test_the_terminal_shows_what_trainers_will_do(recipe: Path) -> None:
    overrides = ["--set", APART, "--set", "output.format=olmo"]
    done = CliRunner().invoke(cli, ["plan", str(recipe), *overrides])
    assert done.exit_code == 0, done.output
    assert "OLMo-core source mixture will draw 15 windows" in done.output
    assert "readers leave out at most" in done.output and "windows of 2,048" in done.output
    done = CliRunner().invoke(cli, ["plan", str(recipe), *overrides, "--json"])
    assert json.loads(done.stdout)["trainer_mixture"][0]["trainer"] == "OLMo-core source mixture"


def test_the_loader_reads_the_recipe_not_the_folders(recipe: Path) -> None:
    built = make(recipe)
    with pytest.raises(RecipeError, match="shards with domains apart, which are for trainers"):
        curate.load(built.directory, 64)
    apart = recipe.with_name("apart.yaml")
    apart.write_text(recipe.read_text() + "output: {shape: per-domain}\n")
    assert len(curate.load(apart, 64)) == len(curate.load(recipe, 64)) == 30000 // 64


def test_card_configs_match_the_folders(recipe: Path) -> None:
    built = make(recipe, "output.format=parquet")
    card = (built.directory / "README.md").read_text()
    paths = yaml.safe_load(card.split("---")[1])["configs"][0]["data_files"]
    assert [entry["path"] for entry in paths] == ["train/*/*.parquet", "validation/*.parquet"]
    assert all(list(built.directory.glob(entry["path"])) for entry in paths)
    assert "`trainer/` holds the trainer's own" in card
