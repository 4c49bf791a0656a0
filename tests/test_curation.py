"""Documents are removed by masks over the token store, each counted by its reason."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import Listener, make_documents, write_jsonl

import curate
from curate.curation.reasons import REMOVED_FIELDS
from curate.dataset.manifest import DatasetLayout, load_manifest
from curate.dataset.verify import verify
from curate.errors import InputError, RecipeError
from curate.pipeline.build import BuiltDataset, build
from curate.pipeline.read_back import read_back
from curate.pipeline.show import show
from curate.pipeline.tokenize import TokenizedDomains, tokenize_domains
from curate.recipe import load
from curate.runtime.files import read_json
from curate.tokens.domain import DomainTokens

NATURAL = "mixture={method: natural}"


def tokenized(recipe: Path, *overrides: str, workers: int = 1) -> TokenizedDomains:
    return tokenize_domains(load(recipe, overrides), workers, Listener())


def built(recipe: Path, *overrides: str) -> tuple[BuiltDataset, list[str]]:
    heard = Listener()
    dataset = build(load(recipe, (NATURAL, "budget_tokens=6000", *overrides)), 1, heard)
    return dataset, heard.notices


def texts_of(domain: DomainTokens) -> set[str]:
    return {domain.content_hash(number) for number in range(len(domain))}


def check_sums(row: dict[str, Any]) -> None:
    amounts = row["amounts"]
    for key in ("documents", "bytes", "tokens"):
        assert amounts["read"][key] == sum(
            amounts[reason][key] for reason in amounts if reason != "read"
        )


@pytest.fixture
def listed(recipe: Path) -> Path:
    """Identifiers, a content hash of a text that occurs twice, and names of nothing."""
    whole = tokenized(recipe).domains[0]
    (twice,) = [whole.content_hash(int(n)) for n in whole.with_identifier("wiki-0")]
    path = recipe.parent / "ids.txt"
    lines = ["wiki-3", "code-7", "", twice.upper(), "nobody", "wiki-3", " wiki-4"]
    path.write_bytes("\r\n".join(lines).encode())
    return path


def test_stats_of_other_documents_than_the_dataset_says_that_nothing_is_written(
    recipe: Path, listed: Path
) -> None:
    dataset, _ = built(recipe, "exclude=ids.txt")
    before = (dataset.directory / "stats.json").read_bytes()
    said = f"{dataset.directory} holds a dataset made from other documents: its artifacts are kept"

    def notices_of(function: Callable[..., Any]) -> str:
        heard = Listener()
        overrides = (NATURAL, "budget_tokens=6000", "exclude=ids.txt")
        function(load(recipe, overrides), workers=1, progress=heard)
        return "\n".join(heard.notices)

    assert said not in notices_of(curate.stats)
    listed.write_text("wiki-3\nwiki-9\n", "utf-8")
    for function in (curate.stats, curate.mix, curate.plan):
        assert said in notices_of(function)
    assert (dataset.directory / "stats.json").read_bytes() == before


@pytest.mark.usefixtures("own_store")
def test_listed_documents_are_removed_counted_and_unmatched_lines_said(
    recipe: Path, listed: Path
) -> None:
    dataset, notices = built(recipe, "exclude=ids.txt")
    assert f"exclude: 2 of 5 lines in {listed} match no document: 'nobody', ' wiki-4'" in notices
    rows = read_json(dataset.directory / "certificate.json")["domains"]
    stats = read_json(dataset.directory / "stats.json")["domains"]
    removed = {name: row["amounts"]["excluded"]["documents"] for name, row in rows.items()}
    assert removed == {"wiki": 3, "code": 1, "talk": 0}  # wiki-0 has a copy, wiki-9
    for name, row in rows.items():
        check_sums(row)
        check_sums(stats[name])
        read = {"wiki": 300, "code": 200, "talk": 100}[name]
        assert row["amounts"]["read"]["documents"] == read
        assert stats[name]["documents"] == read - removed[name]
    assert dataset.certificate["ok"]
    assert (
        built(recipe, "exclude=ids.txt")[1].count(
            f"exclude: 2 of 5 lines in {listed} match no document: 'nobody', ' wiki-4'"
        )
        == 1
    ), "said again when nothing is decided anew"


def test_a_list_without_names_and_a_very_long_name_are_said(recipe: Path) -> None:
    path = recipe.parent / "ids.txt"
    path.write_text("\n \n")
    heard = Listener()
    tokenize_domains(load(recipe, ("exclude=ids.txt",)), 1, heard)
    assert f"exclude: {path} names no document" in heard.notices
    path.write_text("x" * 10_000)
    tokenize_domains(load(recipe, ("exclude=ids.txt",)), 1, heard)
    line = f"exclude: 1 of 1 line in {path} match no document: '{'x' * 80}'"
    assert line in heard.notices


def test_what_is_removed_equals_a_corpus_without_it(recipe: Path, listed: Path) -> None:
    """Documents, counts, shards: all but provenance of lines is as if it had never been there."""
    curated, _ = built(recipe, "exclude=ids.txt", "output={dir: a}", f"tokenizer={TOKENIZER}")
    data = recipe.parent / "data"
    for name, count in (("wiki", 300), ("code", 200), ("talk", 100)):
        gone = {"wiki-0", "wiki-3", "wiki-9", "code-7"}
        rows = [row for row in make_documents(name, count) if row["id"] not in gone]
        write_jsonl(data / name / "all.jsonl", rows)
    domains = ", ".join(f"{{name: {n}, paths: data/{n}}}" for n in ("wiki", "code", "talk"))
    plain, _ = built(recipe, f"domains=[{domains}]", "output={dir: b}", f"tokenizer={TOKENIZER}")
    shards = sorted(path.relative_to(plain.directory) for path in plain.directory.glob("*/*.npy"))
    assert shards
    for shard in shards:
        assert (curated.directory / shard).read_bytes() == (plain.directory / shard).read_bytes()
    for name, row in plain.stats["domains"].items():
        assert curated.stats["domains"][name]["entropy"] == row["entropy"]
        assert curated.stats["domains"][name]["bigrams_used"] == row["bigrams_used"]
    assert texts_of(plain.tokenized.domains[0]) == texts_of(curated.tokenized.domains[0])


TOKENIZER = "{path: tokenizer.json, eos: '<|endoftext|>'}"


@pytest.fixture(autouse=True)
def tokenizer(recipe: Path, bpe: dict[str, Any]) -> None:
    (recipe.parent / "tokenizer.json").write_text(json.dumps(bpe))


@pytest.mark.parametrize("eos", ["'<|endoftext|>'", "null"])
def test_counts_of_the_rest_equal_those_of_all_its_tokens(
    recipe: Path, listed: Path, eos: str
) -> None:
    tokenizer = f"tokenizer={{path: tokenizer.json, eos: {eos}}}"
    rest = tokenized(recipe, "exclude=ids.txt", tokenizer)
    domain = rest.domains[0]
    assert len(domain) == 297
    pairs: dict[tuple[int, int], int] = {}
    end = rest.tokenizer.end_symbol
    for number in range(len(domain)):
        ids = domain.document(number).tolist() + ([end] if rest.tokenizer.eos_id is None else [])
        for pair in zip(ids, ids[1:], strict=False):
            pairs[pair] = pairs.get(pair, 0) + 1
    assert rest.stats[0].entropies.bigrams_used == len(pairs)
    assert rest.stats[0].entropies.tokens == sum(pairs.values())


@pytest.mark.usefixtures("own_store")
def test_nothing_is_decided_or_tokenised_twice(recipe: Path, listed: Path) -> None:
    first = tokenized(recipe, "exclude=ids.txt")
    assert first.curation is not None
    (state,) = first.curation.states
    times = {path: path.stat().st_mtime_ns for path in state.iterdir()}
    again = tokenized(recipe, "exclude=ids.txt", workers=2)
    assert again.tokenised_bytes == 0
    assert {path: path.stat().st_mtime_ns for path in state.iterdir()} == times
    assert again.content_hash == first.content_hash
    listed.write_text("wiki-5\n")
    changed = tokenized(recipe, "exclude=ids.txt")
    assert changed.tokenised_bytes == 0
    assert len(changed.domains[0]) == 299


@pytest.mark.usefixtures("own_store")
def test_damaged_decisions_are_made_again(recipe: Path, listed: Path) -> None:
    first = tokenized(recipe, "exclude=ids.txt")
    assert first.curation is not None
    state = first.curation.states[-1]
    kept = {path.name: path.read_bytes() for path in state.iterdir()}
    assert {"0.removals", "details.parquet", "state.json"} <= kept.keys()
    for name, whole in kept.items():
        path = state / name
        content = bytearray(whole)
        content[len(content) // 2] ^= 1
        for damage in (bytes(content), None):
            path.unlink()
            if damage is not None:
                path.write_bytes(damage)
            heard = Listener()
            again = tokenize_domains(load(recipe, ("exclude=ids.txt",)), 1, heard)
            assert any("is damaged: decided again" in notice for notice in heard.notices), name
            assert again.content_hash == first.content_hash
            assert {path.name: path.read_bytes() for path in state.iterdir()} == kept


def test_files_cut_otherwise_give_the_same(recipe: Path, listed: Path, corpus: Path) -> None:
    first = tokenized(recipe, "exclude=ids.txt")
    data = recipe.parent / "again"
    for name in ("wiki", "code", "talk"):
        parts = [(corpus / "data" / name / f"part-{n}.jsonl").read_text() for n in (1, 0)]
        write = "".join(parts).splitlines(keepends=True)
        (data / name).mkdir(parents=True)
        for start in range(0, len(write), 40):
            (data / name / f"{start:04}.jsonl").write_text("".join(write[start : start + 40]))
    domains = ", ".join(f"{{name: {n}, paths: again/{n}}}" for n in ("wiki", "code", "talk"))
    other = tokenized(recipe, f"domains=[{domains}]", "exclude=ids.txt", workers=2)
    assert [domain.fingerprint for domain in other.domains] == [
        domain.fingerprint for domain in first.domains
    ]
    assert [row.removed for row in other.stats] == [row.removed for row in first.stats]


@pytest.mark.usefixtures("own_store")
def test_a_dataset_is_read_back_and_looked_up(recipe: Path, listed: Path) -> None:
    dataset, _ = built(recipe, "exclude=ids.txt")
    again = read_back(DatasetLayout(dataset.directory), None, 1, Listener())
    assert again.ok and again.json["tokens_compared_with_store"]
    shown = show(dataset.directory, "wiki-5")
    assert shown.documents[0].line == 6
    (gone,) = show(dataset.directory, "wiki-3").removed
    assert (gone.reason, gone.detail, gone.line) == ("excluded", "wiki-3", 4)
    text = make_documents("wiki", 300)[0]["text"]
    by_text = show(dataset.directory, text)
    assert by_text.by == "text"
    assert sorted(row.id for row in by_text.removed) == ["wiki-0", "wiki-9"]
    assert not by_text.documents
    by_hash = show(dataset.directory, gone.content)
    assert [row.id for row in by_hash.removed] == ["wiki-3"]
    table = pl.read_parquet(dataset.directory / "removed.parquet")
    assert sorted(table["id"]) == ["code-7", "wiki-0", "wiki-3", "wiki-9"]
    assert table["tokens"].sum() == sum(
        row["amounts"]["excluded"]["tokens"] for row in dataset.stats["domains"].values()
    )
    with pytest.raises(InputError, match="no position, hash, identifier or part of a text"):
        show(dataset.directory, "nobody-at-all")
    shutil.rmtree(recipe.parent / ".curate" / "curation")
    heard = Listener()
    assert read_back(DatasetLayout(dataset.directory), None, 1, heard).ok
    assert any("compared by hash only" in notice for notice in heard.notices)


def test_a_domain_without_rest_names_the_reasons(recipe: Path) -> None:
    (recipe.parent / "ids.txt").write_text("".join(f"talk-{n}\n" for n in range(100)))
    with pytest.raises(InputError, match=r"domain 'talk': no document is left, of 100 \(excluded"):
        tokenized(recipe, "exclude=ids.txt")


@pytest.mark.usefixtures("own_store")
def test_a_missing_list_ends_the_run_before_data_is_read(recipe: Path) -> None:
    with pytest.raises(RecipeError, match=r"^exclude: .*ids.txt is no file; name a text file"):
        tokenized(recipe, "exclude=ids.txt")
    assert not (recipe.parent / ".curate").exists()


def test_recipes_that_remove_nothing_name_no_reasons(recipe: Path) -> None:
    dataset, _ = built(recipe)
    manifest = read_json(dataset.directory / "manifest.json")
    assert "selections" not in manifest
    for row in read_json(dataset.directory / "stats.json")["domains"].values():
        assert not set(REMOVED_FIELDS) & set(row["amounts"])
        check_sums(row)
    assert not (recipe.parent / ".curate" / "curation").exists()


def test_everything_at_once_adds_up_and_says_why(recipe: Path, listed: Path, corpus: Path) -> None:
    """Each reason has planted documents, so that a dummy that removes nothing fails."""
    data = recipe.parent / "data"
    for name, count in (("wiki", 300), ("code", 200)):
        rows = make_documents(name, count)
        write_jsonl(data / f"{name}.jsonl", rows)
    with (data / "code.jsonl").open("a") as file:
        file.write("{}\n")
    evaluation = make_documents("wiki", 300)[20]["text"]
    write_jsonl(recipe.parent / "eval.jsonl", [{"text": evaluation}])
    domains = [
        {"name": "wiki", "paths": "data/wiki.jsonl", "where": "tokens > 20"},
        {"name": "code", "paths": "data/code.jsonl", "split": {"by": "tokens", "quantiles": 3}},
    ]
    overrides = (
        f"domains={json.dumps(domains)}",
        "exclude=ids.txt",
        "duplicates={exact: text}",
        "decontaminate={sets: {test: eval.jsonl}, action: remove}",
        "max_epochs=9",
    )
    dataset, _ = built(recipe, *overrides)
    assert dataset.certificate["ok"]
    sums = dict.fromkeys(["read", "bad", *REMOVED_FIELDS], 0)
    for row in dataset.certificate["domains"].values():
        check_sums(row)
        for key in sums:
            sums[key] += row["amounts"][key]["documents"]
    assert sums["read"] == 501 and sums["bad"] == 1
    table = pl.read_parquet(dataset.directory / "removed.parquet")
    counted = {key: len(part) for (key,), part in table.group_by("reason")}
    assert counted == {key: sums[key] for key in REMOVED_FIELDS}
    assert all(sums[key] for key in sums)
    again, _ = built(recipe, *overrides)
    assert again.reused and again.tokenized.tokenised_bytes == 0
    clusters = pl.read_parquet(dataset.directory / "clusters.parquet")
    assert len(clusters.filter(pl.col("kind") != "kept")) == sums["copies"]
    spans = pl.read_parquet(dataset.directory / "spans.parquet")
    assert len(spans) == sums["contaminated"]
    listed_files = {file.path for file in load_manifest(dataset.directory).files}
    assert listed_files >= {"clusters.parquet", "spans.parquet", "removed.parquet"}
    filtered = table.filter(pl.col("reason") == "filtered")
    assert set(filtered["detail"]) == {"tokens > 20"}
    shown = show(dataset.directory, filtered["id"][0]).removed
    assert (shown[0].reason, shown[0].detail) == ("filtered", "tokens > 20")
    path = dataset.directory / "clusters.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    problems = verify(DatasetLayout(dataset.directory), None, 1)["problems"]
    assert any("clusters.parquet" in problem for problem in problems)


def test_recipes_without_curation_import_no_table_library(recipe: Path) -> None:
    """Importing them takes as long as a warm run."""
    code = (
        "import sys, curate; curate.stats(sys.argv[1], workers=1);"
        "print(sorted({'polars', 'pyarrow', 'datasets'} & set(sys.modules)))"
    )
    tokenized(recipe)
    run = subprocess.run(
        [sys.executable, "-c", code, str(recipe)], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
