"""The main job, as the command line runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Listener, forge_manifest, make_documents, write_jsonl
from warm import run_curate

from curate.dataset.manifest import load_manifest
from curate.errors import InfeasiblePlan, InputError, RecipeError, ShardError
from curate.formats import FORMATS, find
from curate.pipeline.build import build
from curate.pipeline.tokenize import find_files
from curate.recipe import load
from curate.runtime.locks import DIRECTORY_LOCK, directory_lock
from curate.runtime.progress import Observer
from curate.tokens import store


def make(recipe: Path, *overrides: str, workers: int = 1) -> Any:
    return build(load(recipe, overrides), workers, Observer(), overwrite=True)


def shard_bytes(directory: Path) -> dict[str, bytes]:
    return {
        file.path: (directory / file.path).read_bytes()
        for shard in load_manifest(directory).shards
        for file in shard.files
    }


def documents_of(directory: Path) -> list[tuple[int, ...]]:
    """Training documents of a megatron dataset, in order."""
    manifest = load_manifest(directory)
    chosen = find("megatron")
    found = []
    for shard in manifest.shards:
        if shard.split == "train":
            for batch in chosen.read(directory / shard.stem, np.dtype(manifest.dtype)):
                found += np.split(batch.tokens, np.cumsum(batch.lengths)[:-1])
    return [tuple(document.tolist()) for document in found]


def test_command_builds_and_certifies(recipe: Path) -> None:
    done = run_curate("build", recipe, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "ok: true" in done.stdout
    directory = recipe.parent / "out" / "tiny"
    certificate = json.loads((directory / "certificate.json").read_text())
    plan = json.loads((directory / "plan.json").read_text())
    assert certificate["ok"] and certificate["problems"] == []
    assert certificate["tokens_compared_with_store"]
    assert certificate["train_validation_overlap_documents"] == 0
    assert sum(row["tokens"] for row in plan["domains"].values()) == 30000
    for name, row in certificate["domains"].items():
        assert row["planned_tokens"] == row["realised_tokens"] == plan["domains"][name]["tokens"]
    card = (directory / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["size_categories"] and front["pretty_name"] == "tiny"


def test_files_that_hold_the_same_are_named(recipe: Path, corpus: Path, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        shutil.copy(corpus / "data" / "wiki" / "part-0.jsonl", tmp_path / name)
    (tmp_path / "other").symlink_to(tmp_path / "two")
    os.link(tmp_path / "two", tmp_path / "ttt")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "void").write_bytes(b"")
    domain = f'domains=[{{name: wiki, paths: "{tmp_path}/[otev]*"}}]'
    heard = Listener()
    built = build(load(recipe, (domain, "validation.documents=0")), 1, heard)
    assert sum(len(found) for found in built.tokenized.domains) == 3 * 150
    (said,) = [notice for notice in heard.notices if "counted again" in notice]
    assert said.startswith("domain 'wiki': 2 files equal to another of the domain")
    assert f"({tmp_path}/three is the same as {tmp_path}/one)" in said


def test_a_file_of_two_domains_is_named(recipe: Path, corpus: Path) -> None:
    heard = Listener()
    domains = (
        f'domains=[{{name: wiki, paths: "{corpus}/data/wiki"}}, '
        f'{{name: part, paths: "{corpus}/data/wiki/part-0.jsonl"}}]'
    )
    build(load(recipe, (domains, "mixture.method=natural")), 1, heard)
    (said,) = [notice for notice in heard.notices if "also in domain" in notice]
    assert said == (
        "domain 'part': 1 file also in domain 'wiki', counted in both "
        f"({corpus}/data/wiki/part-0.jsonl)"
    )


def test_output_and_cache_are_never_input(recipe: Path, corpus: Path) -> None:
    shutil.copytree(corpus / "data", recipe.parent / "data")
    domains = 'domains=[{name: wiki, paths: ., glob: "*.jsonl"}, {name: talk, paths: "**/*.jsonl"}]'
    settings = (domains, "mixture.method=natural", "output.format=jsonl", "cache=cached")
    first = make(recipe, *settings)
    heard = Listener()
    for name, cache in (("tiny", "cached"), ("second", "cached2")):
        again = build(load(recipe, (*settings, f"name={name}", f"cache={cache}")), 1, heard)
        assert again.tokenized.content_hash == first.tokenized.content_hash
        assert again.reused == (name == "tiny") and again.certificate["ok"]
    output = recipe.parent / "out/tiny"
    assert f"not read, the output directory: {output}" in heard.notices
    assert f"not read, a dataset of curate: {output}" in heard.notices
    cache = recipe.parent / "cached"
    assert f"not read, a cache, says its CACHEDIR.TAG: {cache}" in heard.notices


def test_what_any_command_writes_beside_sources_is_never_input(recipe: Path) -> None:
    output = recipe.parent / "sources"
    for name in (
        "text.jsonl", "validation_runs/nano/runs.csv", "validation_runs/nano/proxy.json",
        "mixtures.partial/0a1b.json", "claims/lock", "claims/0a1b.json", "curves/0a1b.jsonl",
    ):  # fmt: skip
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text('{"text": "one"}\n')
    settings = ("domains=[{name: wiki, paths: sources}]", "output.dir=sources")
    plans = find_files(load(recipe, settings), heard := Listener())
    files = [Path(file.path).name for plan in plans[0] for file in plan.files]
    assert files == ["text.jsonl"]
    first = f"not read, written by this recipe: {output / 'claims'}, {output / 'curves'}"
    assert any(notice.startswith(first) for notice in heard.notices)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_exact(recipe: Path, name: str) -> None:
    built = make(recipe, f"output.format={name}", "output.shard_tokens=9000")
    assert built.certificate["ok"], built.certificate["problems"]
    assert built.certificate["realised_tokens"] == 30000
    assert sum(shard.split == "train" for shard in load_manifest(built.directory).shards) == 4


def test_text_formats_hold_the_source_text(recipe: Path, corpus: Path) -> None:
    built = make(recipe, "output.format=jsonl", workers=2)
    sources = {
        row["id"]: row
        for path in sorted(corpus.glob("data/*/*.jsonl"))
        for row in map(json.loads, path.read_text("utf-8").splitlines())
    }
    chosen = find("jsonl")
    whole = cut = 0
    for shard in load_manifest(built.directory).shards:
        for batch in chosen.read(built.directory / shard.stem):
            for text, name, domain, metadata in zip(
                batch.texts, batch.ids, batch.domains, batch.metadata, strict=True
            ):
                assert name.startswith(domain) and json.loads(metadata) == {"lang": "xx"}
                assert sources[name]["text"].startswith(text)
                whole += sources[name]["text"] == text
                cut += sources[name]["text"] != text
    assert whole > 100 and cut <= 6


@pytest.mark.usefixtures("own_store")
def test_remixing_tokenises_nothing(recipe: Path) -> None:
    assert make(recipe).tokenized.tokenised_bytes > 0
    again = make(recipe, "mixture.method=uniform", "budget_tokens=20000", "name=other")
    assert again.tokenized.tokenised_bytes == 0 and again.certificate["ok"]


def test_a_fresh_dataset_is_only_read_back(recipe: Path) -> None:
    first = make(recipe)
    manifest = (first.directory / "manifest.json").stat().st_mtime_ns
    assert make(recipe).reused
    assert (first.directory / "manifest.json").stat().st_mtime_ns == manifest
    assert not make(recipe, "seed=43").reused


def test_workers_do_not_change_a_byte(recipe: Path) -> None:
    one = shard_bytes(make(recipe, "output.shard_tokens=9000", "cache=one", workers=1).directory)
    two = make(recipe, "output.shard_tokens=9000", "cache=two", "output.dir=two", workers=2)
    assert one == shard_bytes(two.directory)


def test_cutting_files_otherwise_does_not_change_a_byte(recipe: Path, tmp_path: Path) -> None:
    one = make(recipe)
    text = recipe.read_text()
    moved = tmp_path / "moved"
    for domain, documents in (("wiki", 300), ("code", 200), ("talk", 100)):
        rows = make_documents(domain, documents)
        for number in range(7):
            write_jsonl(moved / domain / f"{6 - number}.jsonl", rows[number::7])
    other = tmp_path / "other.yaml"
    data = text.split('paths: "')[1].split("/wiki")[0]
    other.write_text(text.replace(data, str(moved)))
    again = make(other, "cache=other", "output.dir=other")
    assert shard_bytes(one.directory) == shard_bytes(again.directory)


def test_smaller_budget_is_a_subset(recipe: Path) -> None:
    by_hand = "mixture={method: manual, weights: {wiki: 0.5, code: 0.3, talk: 0.2}}"
    small = make(recipe, by_hand, "budget_tokens=2000", "name=small", "max_epochs=1")
    large = make(recipe, by_hand, "budget_tokens=8000", "name=large", "max_epochs=1")
    inside, outside = documents_of(small.directory), documents_of(large.directory)
    starts = {document[:12] for document in outside}
    cut = [document for document in inside if document not in set(outside)]
    assert len(cut) <= 3  # the last of each domain
    assert all(document[:12] in starts for document in cut if len(document) >= 12)
    other = make(recipe, by_hand, "budget_tokens=2000", "name=seeded", "seed=7", "max_epochs=1")
    assert sum(d not in set(outside) for d in documents_of(other.directory)) > 3  # not by chance


def test_repeats_are_whole_passes_then_a_fraction(recipe: Path) -> None:
    plan = make(recipe).plan
    supply = {domain.name: domain.supply_tokens for domain in plan.domains}["talk"]
    budget = int(2.3 * supply)
    only = "mixture={method: manual, weights: {wiki: 0, code: 0, talk: 1}}"
    built = make(recipe, only, f"budget_tokens={budget}", "name=repeats")
    documents = documents_of(built.directory)
    times = {document: documents.count(document) for document in set(documents)}
    whole = [document for document in times if document[-1] == 0]
    tokens_thrice = sum(len(d) for d in documents) - 2 * supply
    assert tokens_thrice == budget - 2 * supply
    assert min(times[document] for document in whole) >= 2


@pytest.mark.usefixtures("own_store")
def test_only_a_changed_file_is_tokenised_again(recipe: Path, corpus: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(corpus / "data", copy)
    recipe.write_text(recipe.read_text().replace(str(corpus / "data"), str(copy)))
    first = make(recipe)
    (first.directory / "tokenizer.json").rename(tmp_path / "kept.json")
    text = recipe.read_text().replace(
        "{train: {vocab_size: 400, sample_bytes: 60000}}",
        '{path: kept.json, eos: "<|endoftext|>"}',
    )
    recipe.write_text(text)
    make(recipe)
    added = make_documents("wiki", 20, seed=9)
    write_jsonl(copy / "wiki" / "part-2.jsonl", added)
    (copy / "code" / "part-0.jsonl").rename(copy / "code" / "renamed.jsonl")
    again = make(recipe)
    unique_bytes = sum(len(row["text"].encode()) for row in added)
    assert again.tokenized.tokenised_bytes == unique_bytes
    stats = json.loads((again.directory / "stats.json").read_text())
    assert stats["domains"]["wiki"]["documents"] == 320
    fresh = make(recipe, "cache=fresh", "output.dir=fresh")
    assert json.loads((fresh.directory / "stats.json").read_text()) == stats


@pytest.mark.usefixtures("own_store")
def test_killed_run_goes_on_and_ends_the_same(recipe: Path, tmp_path: Path) -> None:
    big = tmp_path / "big"
    for number in range(12):
        write_jsonl(big / f"{number}.jsonl", make_documents("wiki", 4000, seed=number))
    recipe.write_text(
        recipe.read_text().replace(
            '{name: wiki, paths: "', f'{{name: big, paths: "{big}"}}\n  - {{name: wiki, paths: "'
        )
    )
    make(recipe, "budget_tokens=1000", "cache=whole", "output.dir=whole")
    command = [sys.executable, "-m", "curate.cli", "build", str(recipe), "--quiet",
               "--set", "budget_tokens=1000"]  # fmt: skip
    process = subprocess.Popen(command, start_new_session=True)
    store = recipe.parent / ".curate" / "tokens"
    deadline = time.monotonic() + 60
    while not list(store.glob("*/part-*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (recipe.parent / "out" / "tiny" / "manifest.json").exists()
    resumed = make(recipe, "budget_tokens=1000")
    whole = recipe.parent / "whole"
    assert shard_bytes(resumed.directory) == shard_bytes(whole)
    assert (resumed.directory / "stats.json").read_text() == (whole / "stats.json").read_text()


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "plan", "weight", "swap"])
def test_verify_finds_damage(recipe: Path, damage: str) -> None:
    directory = make(recipe, "output.shard_tokens=9000").directory
    shard = directory / "train" / "shard-00000.bin"
    other = directory / "train" / "shard-00001.bin"
    content = bytearray(shard.read_bytes())
    if damage == "flip":
        content[100] ^= 1
        shard.write_bytes(content)
    elif damage == "truncate":
        shard.write_bytes(content[:-2])
    elif damage == "remove":
        shard.unlink()
    elif damage == "swap":
        shard.write_bytes(other.read_bytes())
        other.write_bytes(content)
    else:
        plan = json.loads((directory / "plan.json").read_text())
        plan["domains"]["wiki"]["tokens" if damage == "plan" else "weight"] += 1
        (directory / "plan.json").write_text(json.dumps(plan))
    done = run_curate("verify", directory)
    assert done.returncode == 1
    assert json.loads((directory / "certificate.json").read_text())["ok"] is False
    assert done.stderr.startswith("curate: ")


def test_verify_compares_tokens_not_only_hashes(recipe: Path) -> None:
    """A shard rewritten together with its hash is still found to differ from its documents."""
    from curate.dataset.manifest import record_file

    directory = make(recipe).directory
    shard = directory / "train" / "shard-00000.bin"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)

    def change(manifest: dict[str, Any]) -> None:
        record = manifest["shards"][0]["files"][0]
        assert record["path"] == "train/shard-00000.bin"
        record["xxh3"] = record_file(shard, directory).xxh3

    forge_manifest(directory, change)
    done = run_curate("verify", directory)
    assert done.returncode == 1 and "differs from its document" in done.stderr


@pytest.mark.usefixtures("own_store")
def test_verify_without_the_store(recipe: Path) -> None:
    directory = make(recipe).directory
    shutil.rmtree(recipe.parent / ".curate")
    done = run_curate("verify", directory)
    assert done.returncode == 0, done.stderr
    certificate = json.loads((directory / "certificate.json").read_text())
    assert certificate["ok"] and not certificate["tokens_compared_with_store"]
    assert "note the token store is missing; tokens are compared by hash only" in done.stdout
    lines = done.stdout.splitlines()
    headings = next(line for line in lines if " bad " in line).split("┃")
    row = next(line for line in lines if line.startswith("│ talk ")).split("│")
    bad = row[[heading.strip() for heading in headings].index("bad")]
    assert bad.strip() == "-", "nobody can tell how many bad records there were"


def test_infeasible_plan_writes_nothing_and_says_what_to_type(recipe: Path) -> None:
    with pytest.raises(InfeasiblePlan) as caught:
        make(recipe, "mixture={method: manual, weights: {wiki: 0.1, code: 0.1, talk: 0.8}}",
             "max_epochs=1", "output.dir=none")  # fmt: skip
    message = str(caught.value)
    assert "talk" in message and "budget_tokens: " in message and "weights: {" in message
    assert not (recipe.parent / "none" / "train").exists()
    budget = int(message.split("budget_tokens: ")[1].split(" ")[0].replace("_", ""))
    feasible = make(recipe, "mixture={method: manual, weights: {wiki: 0.1, code: 0.1, talk: 0.8}}",
                    "max_epochs=1", f"budget_tokens={budget}")  # fmt: skip
    assert feasible.certificate["ok"]
    mixture = yaml.safe_load("{" + message.split("mixture: ", 1)[1].split("}}")[0].lstrip("{")
                             + "}}")  # fmt: skip
    again = make(recipe, f"mixture={json.dumps(mixture)}", "max_epochs=1")
    assert again.certificate["ok"]


def test_names_are_resolved_before_data_is_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    text = """
name: a
tokenizer: {path: none.json, eos: null}
domains: [{name: a, paths: none.jsonl}]
budget_tokens: 1
"""
    for change, expected in (
        ("mixture: {method: entrpy}", "did you mean 'entropy'"),
        ("mixture: {method: entropy, measure: join}", "did you mean 'joint'"),
        ("output: {format: megatrn}", "did you mean 'megatron'"),
        ("sequence_length: 8", "sequence_length"),
    ):
        path.write_text(text + change)
        with pytest.raises(RecipeError, match=expected):
            make(path)
    path.write_text(text.replace("paths: none.jsonl", "paths: none.jsonl, reader: jsnl"))
    with pytest.raises(RecipeError, match="reader"):
        make(path)


def test_bad_records_are_quarantined_and_counted(recipe: Path, corpus: Path) -> None:
    data = recipe.parent / "bad.jsonl"
    good = (corpus / "data" / "wiki" / "part-0.jsonl").read_text("utf-8")
    data.write_text(good + '{"text": 3}\n\n{"text": "a"\n' + '{"id": "x"}\n')
    recipe.write_text(recipe.read_text().replace(f'{corpus}/data/wiki/*"', f'{data}"'))
    built = make(recipe, "budget_tokens=9000", "limits.lost_share=0.02")
    stats = json.loads((built.directory / "stats.json").read_text())
    assert stats["domains"]["wiki"]["bad_records"] == 3
    rows = [json.loads(r) for r in (built.directory / "quarantine.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rows] == [151, 153, 154]
    assert all(row["file"] == str(data) and row["reason"] for row in rows)
    with pytest.raises(InputError, match=r"bad.jsonl:151: .*not a string"):
        make(recipe, "on_bad_record=error")
    with pytest.raises(InputError, match=r"bad.jsonl:151: .*not a string"):
        make(recipe, "on_bad_record=error", "cache=empty")


def test_foreign_files_are_not_touched(recipe: Path) -> None:
    directory = make(recipe).directory
    (directory / "train" / "thesis.txt").write_text("mine")
    with pytest.raises(ShardError, match=r"thesis\.txt"):
        make(recipe, "seed=1")
    assert (directory / "train" / "thesis.txt").read_text() == "mine"
    assert load_manifest(directory).seed == 42


def test_text_trees_are_documents(recipe: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for number in range(50):
        path = tree / f"d{number % 3}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"document number {number} " * 20)
    recipe.write_text(
        recipe.read_text().replace("domains:", f"domains:\n  - {{name: tree, paths: {tree}}}")
    )
    first = make(recipe, "budget_tokens=3000")
    stats = json.loads((first.directory / "stats.json").read_text())["domains"]["tree"]
    assert stats["documents"] == stats["files"] == 50
    (tree / "d0" / "0.txt").write_text("another text")
    tokenizer = first.tokenized.tokenizer.fingerprint
    again = make(recipe, "budget_tokens=3000", "output.format=jsonl")
    if again.tokenized.tokenizer.fingerprint == tokenizer:
        assert again.tokenized.tokenised_bytes == len("another text")
    assert again.certificate["ok"], again.certificate["problems"]


@pytest.mark.slow
def test_shared_dev_small_builds(tmp_path: Path) -> None:
    shared = Path(__file__).parents[2] / "shared"
    if not shared.is_dir():
        pytest.skip("no shared directory beside the project")
    domains = [
        {"name": path.name.split(".")[0], "paths": str(path)}
        for path in sorted((shared / "corpora" / "dev_small").glob("*.jsonl.zst"))
    ]
    tokenizer = {"path": str(shared / "tokenizers/gpt-neox-20b/tokenizer.json"),
                 "eos": "<|endoftext|>"}  # fmt: skip
    value = {"name": "dev", "tokenizer": tokenizer, "domains": domains, "budget_tokens": 500_000,
             "mixture": {"method": "entropy"}, "sequence_length": 512,
             "output": {"format": "npy"}}  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(value))
    built = make(path, workers=2)
    assert built.certificate["ok"], built.certificate["problems"]


@pytest.mark.usefixtures("own_store")
@pytest.mark.parametrize("name", ["tokens.bin", "documents.bin", "part.json"])
@pytest.mark.parametrize("kept", [0.5, pytest.param(None, marks=pytest.mark.slow)])
def test_a_damaged_part_is_made_again(recipe: Path, name: str, kept: float | None) -> None:
    first = shard_bytes(make(recipe).directory)
    path = next((recipe.parent / ".curate" / "tokens").glob("*/part-*")) / name
    content = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(content[: int(len(content) * kept)])
    again = make(recipe, "output.dir=again")
    assert again.tokenized.tokenised_bytes > 0 and again.certificate["ok"]
    assert shard_bytes(again.directory) == first


@pytest.mark.usefixtures("own_store")
def test_a_damaged_count_table_is_made_again(recipe: Path) -> None:
    make(recipe)
    stats = (recipe.parent / "out" / "tiny" / "stats.json").read_text()
    for table in (recipe.parent / ".curate" / "counts").glob("*/wiki-*"):
        (table / "count.bin").write_bytes((table / "count.bin").read_bytes()[:-1])
    make(recipe, "output.dir=again")
    again = (recipe.parent / "again" / "stats.json").read_text()
    assert json.loads(again)["domains"] == json.loads(stats)["domains"]


def test_one_file_in_two_domains(recipe: Path, corpus: Path) -> None:
    extra = f'domains:\n  - {{name: again, paths: "{corpus}/data/wiki/part-0.jsonl"}}'
    recipe.write_text(recipe.read_text().replace("domains:", extra))
    built = make(recipe)
    assert built.certificate["ok"], built.certificate["problems"]
    stats = json.loads((built.directory / "stats.json").read_text())["domains"]
    assert (stats["again"]["documents"], stats["wiki"]["documents"]) == (150, 300)


def test_the_same_text_in_two_domains_never_leaks_into_training(recipe: Path, corpus: Path) -> None:
    rows = (corpus / "data" / "wiki" / "part-0.jsonl").read_text("utf-8").splitlines()[:9]
    few = recipe.parent / "few.jsonl"
    few.write_text("".join(f"{row}\n" for row in rows))
    recipe.write_text(
        recipe.read_text().replace("domains:", f'domains:\n  - {{name: few, paths: "{few}"}}')
    )
    built = make(recipe, "validation.documents=0.01", "mixture.method=natural")
    assert built.certificate["ok"], built.certificate["problems"]


@pytest.mark.usefixtures("own_store")
@pytest.mark.parametrize("name", ["tokens.bin", "documents.bin", "ids.bin"])
def test_a_store_damaged_in_place_is_mended_by_the_next_build(recipe: Path, name: str) -> None:
    make(recipe)
    clean = make(recipe, "seed=5", "output.dir=clean")
    part = next((recipe.parent / ".curate" / "tokens").glob("*/part-*"))
    content = bytearray((part / name).read_bytes())
    content[50:60] = bytes(10)
    (part / name).write_bytes(content)
    verified = run_curate("verify", clean.directory)
    assert verified.returncode == 0
    assert "is damaged: tokens are compared by hash only" in " ".join(verified.stdout.split())
    listener = Listener()
    built = build(load(recipe, ["seed=5"]), 1, listener, overwrite=True)
    notice = f"{part / name} is damaged: what no other part holds is tokenised again"
    assert notice in listener.notices
    assert built.certificate["ok"]
    assert built.certificate["shards"] == clean.certificate["shards"]


def test_planning_leaves_a_built_dataset_as_it_is(recipe: Path) -> None:
    directory = make(recipe).directory
    done = run_curate("plan", recipe, "--set", "budget_tokens=10000")
    assert done.returncode == 0 and "kept" in done.stdout
    assert run_curate("verify", directory).returncode == 0


def test_another_tokenizer_json_is_noticed(recipe: Path) -> None:
    directory = make(recipe).directory
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-1]
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    done = run_curate("verify", directory)
    assert done.returncode == 1 and "tokenizer.json: " in done.stderr


def test_a_damaged_shard_is_written_again(recipe: Path) -> None:
    directory = make(recipe).directory
    shard = directory / "train" / "shard-00000.bin"
    content = bytearray(shard.read_bytes())
    content[10] ^= 1
    shard.write_bytes(content)
    assert make(recipe).certificate["ok"]


def test_two_builds_into_one_directory_are_kept_apart(recipe: Path) -> None:
    directory = recipe.parent / "out" / "tiny"
    with (
        directory_lock(directory),
        pytest.raises(ShardError, match=rf"process {os.getpid()} of .* has locked it; .*--out"),
    ):
        make(recipe)
    assert not (directory / DIRECTORY_LOCK).exists()
    assert make(recipe).certificate["ok"]


@pytest.mark.usefixtures("own_store")
def test_a_store_of_another_version_is_left_alone(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(recipe)
    monkeypatch.setattr(store, "SCHEMA", store.SCHEMA + 1)
    again = make(recipe, "seed=7")
    assert again.certificate["ok"]
    assert again.tokenized.tokenised_bytes == first.tokenized.tokenised_bytes
