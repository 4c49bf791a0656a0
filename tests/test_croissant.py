"""`croissant.json`: files, hashes, licences and columns are those of the dataset."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import forge_manifest

import curate
from curate.dataset.manifest import CARDS, load_manifest
from curate.report import croissant

LICENCE = 'CC-BY-4.0 <b>"&\u202e'


def build(recipe: Path, *overrides: str) -> tuple[Path, dict[str, Any]]:
    """Build the recipe; the directory, and what it says of itself."""
    loaded = curate.load_recipe(recipe, ["mixture.method=natural", *overrides])
    assert curate.build(loaded, workers=1).ok
    content = (loaded.output_dir / "croissant.json").read_text("utf-8")
    return loaded.output_dir, json.loads(content)


def parts(description: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    every = [*description["distribution"], *description["recordSet"]]
    return [one for one in every if one["@type"] == kind]


@pytest.mark.parametrize("form", ["npy", "megatron", "mds", "parquet"])
def test_every_file_has_its_hash_and_size(recipe: Path, form: str) -> None:
    directory, description = build(recipe, f"output.format={form}")
    files = {one["@id"]: one for one in parts(description, "cr:FileObject")}
    listed = {file.path for file in load_manifest(directory).listed}
    assert set(files) == listed - set(CARDS)
    for path, one in files.items():
        content = (directory / path).read_bytes()
        assert one["sha256"] == hashlib.sha256(content).hexdigest()
        assert one["contentUrl"] == path and one["contentSize"] == f"{len(content)} B"
    assert bool(parts(description, "cr:FileSet")) == (form == "parquet")


@pytest.mark.parametrize("shape", ["mixed", "per-domain"])
@pytest.mark.parametrize(("form", "variant"), [("parquet", None), ("jsonl", "plain"),
                                               ("jsonl", "dolma"), ("jsonl", "zstd")])  # fmt: skip
def test_columns_of_text_are_in_the_files_that_are_named(
    recipe: Path, form: str, variant: str | None, shape: str
) -> None:
    options = [] if variant is None else [f"output.options.variant={variant}"]
    directory, description = build(
        recipe, f"output.format={form}", f"output.shape={shape}", *options
    )
    sets = {one["@id"]: one for one in parts(description, "cr:FileSet")}
    records = {one["@id"]: one for one in parts(description, "cr:RecordSet")}
    assert set(records) == {"domains", "train", "validation"}
    shards = load_manifest(directory).shards
    for split in ("train", "validation"):
        (source,) = {field["source"]["fileSet"]["@id"] for field in records[split]["field"]}
        every = [file.path for shard in shards for file in shard.files]
        matched = fnmatch.filter(every, sets[source]["includes"])
        assert matched == [
            file.path for shard in shards if shard.split == split for file in shard.files
        ]
        columns = [field["source"]["extract"]["column"] for field in records[split]["field"]]
        path = directory / matched[0]
        if form == "parquet":
            assert pl.read_parquet(path).columns == columns
        elif variant == "plain":
            assert list(json.loads(path.read_bytes().splitlines()[0])) == columns


def test_domains_have_licences_and_shares(recipe: Path) -> None:
    licence = f"domains.wiki.license={json.dumps(LICENCE)}"
    directory, description = build(recipe, licence, "output.format=npy")
    (domains,) = (one for one in description["recordSet"] if one["@id"] == "domains")
    rows = {row["domains/name"]: row for row in domains["data"]}
    certificate = json.loads((directory / "certificate.json").read_text("utf-8"))
    assert list(rows) == ["wiki", "code", "talk"]
    assert rows["wiki"]["domains/license"] == LICENCE and description["license"] == [LICENCE]
    assert rows["code"]["domains/license"] == "not stated"
    for name, row in rows.items():
        realised = certificate["domains"][name]
        assert row["domains/train_tokens"] == realised["realised_tokens"]
        assert row["domains/train_share"] == realised["realised_share"]
    assert {key for row in rows.values() for key in row} == {
        field["@id"] for field in domains["field"]
    }


def test_references_lead_somewhere(recipe: Path) -> None:
    _, description = build(recipe, "output.format=parquet")
    names: list[str] = []
    references: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, list):
            for one in value:
                walk(one)
        elif isinstance(value, dict):
            if "@id" in value:
                (names if "@type" in value else references).append(value["@id"])
            for key, one in value.items():
                if key not in ("@context", "data"):
                    walk(one)

    walk(description)
    assert len(names) == len(set(names)) and set(references) <= set(names) and references
    assert description["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert description["@context"]["conformsTo"] == "dct:conformsTo"


def test_it_is_verified_made_again_and_the_same(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, _ = build(recipe)
    path = directory / "croissant.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"sha256", b"sha257"))
    problems = curate.verify(directory, workers=1).problems
    assert len(problems) == 1 and "croissant.json: content differs" in problems[0]
    build(recipe)
    assert path.read_bytes() == whole and curate.verify(directory, workers=1).ok

    def refuse(*_: object) -> str:
        raise AssertionError("shards at rest are hashed again")

    monkeypatch.setattr(croissant, "_sha256", refuse)
    build(recipe)
    assert path.read_bytes() == whole


def test_datasets_of_earlier_versions_are_whole_and_get_one(recipe: Path) -> None:
    directory, _ = build(recipe)
    whole = (directory / "croissant.json").read_bytes()

    def leave_out(manifest: dict[str, Any]) -> None:
        files = manifest["files"]
        manifest["files"] = [one for one in files if one["path"] != "croissant.json"]

    (directory / "croissant.json").unlink()
    forge_manifest(directory, leave_out)
    assert curate.verify(directory, workers=1).ok
    build(recipe)
    assert (directory / "croissant.json").read_bytes() == whole


def test_a_strangers_description_is_not_trusted_with_its_shape(recipe: Path) -> None:
    directory, _ = build(recipe)
    whole = (directory / "croissant.json").read_bytes()
    for content in (b"[]", b'{"distribution": [3, {"@id": [], "sha256": 4}]}'):
        (directory / "croissant.json").write_bytes(content)

        def sign(manifest: dict[str, Any], content: bytes = content) -> None:
            from curate.runtime.files import hash_file

            for one in manifest["files"]:
                if one["path"] == "croissant.json":
                    one["bytes"] = len(content)
                    one["xxh3"] = hash_file(directory / "croissant.json")

        forge_manifest(directory, sign)
        build(recipe)
        assert (directory / "croissant.json").read_bytes() == whole


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of rdflib
def test_mlcroissant_finds_no_error_and_reads_the_rows(recipe: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    directory, description = build(recipe, "output.format=parquet")
    dataset = mlcroissant.Dataset(jsonld=str(directory / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    row = next(iter(dataset.records(record_set="train")))
    assert set(row) == {f"train/{column}" for column in croissant.COLUMNS}
    assert description["name"] == dataset.metadata.name
