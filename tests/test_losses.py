"""What gives no document is named and counted, and a run that loses too much stops."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from pathlib import Path

import polars as pl
import pytest
import zstandard
from conftest import Listener, make_documents, write_jsonl

from curate.errors import InputError
from curate.pipeline.build import BuiltDataset, build
from curate.pipeline.tokenize import TokenizedDomains, tokenize_domains
from curate.recipe import load
from curate.runtime.files import read_json

ANY_LOSS = "limits={lost_share: 1}"
SMALL = "tokenizer.train.vocab_size=280"


def texts(count: int, seed: int = 1) -> list[str]:
    return [row["text"] for row in make_documents("wiki", count, seed)]


def over(recipe: Path, *overrides: str, paths: str = "in") -> TokenizedDomains:
    """Tokenise one domain."""
    domain = f"domains=[{{name: web, paths: {paths}}}]"
    return tokenize_domains(load(recipe, (domain, SMALL, *overrides)), 1, Listener())


def message(recipe: Path, *overrides: str, paths: str = "in") -> str:
    with pytest.raises(InputError) as caught:
        over(recipe, *overrides, paths=paths)
    return str(caught.value)


def built(recipe: Path, *overrides: str) -> tuple[BuiltDataset, list[str]]:
    heard = Listener()
    return build(load(recipe, overrides), 1, heard), heard.notices


@pytest.fixture
def source(recipe: Path) -> Path:
    directory = recipe.parent / "in"
    directory.mkdir()
    return directory


def test_bad_records_of_a_file_are_a_share_of_records_and_of_bytes(
    recipe: Path, source: Path
) -> None:
    rows = [{"text": text} for text in texts(200)]
    path = write_jsonl(source / "a.jsonl", rows)
    whole_bytes = path.stat().st_size
    with path.open("a") as file:
        file.write("{broken}\n{}\n")
    (loss,) = (stats.losses for stats in over(recipe).stats)
    assert (loss.lost_records, loss.records_share) == (2, 2 / 202)
    assert loss.bytes_share == pytest.approx(10 / path.stat().st_size, abs=1 / whole_bytes)

    with path.open("a") as file:
        file.write('"' + "x" * whole_bytes + '"\n')  # one record, half of the bytes
    said = message(recipe)
    assert said.startswith("domain 'web' loses 50.0% of its bytes and 1.5% of its records")
    assert f"{path} (3 of 203 records" in said and f"first: {path}:201: not valid JSON" in said
    assert said.endswith("allow the loss with limits: {lost_share: 0.51}")
    assert over(recipe, "limits.lost_share=0.51").stats[0].bad_records == 3


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_what_follows_damage_is_lost(recipe: Path, source: Path, suffix: str) -> None:
    letters = random.Random(0)
    rows = [{"text": "".join(letters.choices("abcdefgh ", k=999)) + "x"} for _ in range(3000)]
    plain = "".join(json.dumps(row) + "\n" for row in rows).encode()
    blocks = zstandard.ZstdCompressor(level=1).compress(plain)
    content = bytearray(gzip.compress(plain, 1) if suffix == "gz" else blocks)
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    (source / f"a.jsonl.{suffix}").write_bytes(content)
    (loss,) = (stats.losses for stats in over(recipe, ANY_LOSS).stats)
    assert 0.4 < loss.bytes_share < 0.6
    assert loss.documents == pytest.approx(1500, rel=0.1)


def test_amounts_add_up(recipe: Path, corpus: Path) -> None:
    shutil.copytree(corpus / "data", recipe.parent / "data")
    with (recipe.parent / "data/code/part-0.jsonl").open("a") as file:
        file.write("{}\n")
    data = [f"{{name: {name}, paths: data/{name}}}" for name in ("wiki", "code", "talk")]
    dataset, _ = built(recipe, f"domains=[{', '.join(data)}]", "mixture.method=natural")
    certificate = read_json(dataset.directory / "certificate.json")["domains"]
    stats = read_json(dataset.directory / "stats.json")["domains"]
    assert stats["code"]["lost"]["records"] == 1
    for name, row in certificate.items():
        amounts = row["amounts"]
        assert list(amounts) == ["read", "bad", "held_out", "used", "unused"]
        for key in ("documents", "bytes", "tokens"):
            parts = [amounts[reason][key] for reason in list(amounts)[1:]]
            assert amounts["read"][key] == sum(parts) and min(parts) >= 0
            assert stats[name]["amounts"]["read"][key] == amounts["read"][key]
            assert stats[name]["amounts"]["train"][key] == sum(parts[2:])
        assert amounts["held_out"]["tokens"] == row["validation_tokens"]
        assert amounts["used"]["tokens"] == row["realised_tokens"]
        assert amounts["bad"]["documents"] == (name == "code")
        assert amounts["bad"]["tokens"] == 0
    assert certificate["wiki"]["amounts"]["unused"]["documents"] > 0
    for key in ("lost", "copies_in_other_domains"):
        assert certificate["code"][key] == stats["code"][key]


def test_repeated_domains_are_used_once(recipe: Path) -> None:
    dataset, _ = built(recipe, "mixture.method=uniform", "max_epochs=9", "budget_tokens=60000")
    certificate = read_json(dataset.directory / "certificate.json")["domains"]
    row = certificate["talk"]
    assert row["epochs"] > 2
    assert row["amounts"]["unused"] == {"documents": 0, "bytes": 0, "tokens": 0}


def test_a_file_that_gives_nothing_is_named(recipe: Path, source: Path) -> None:
    pl.DataFrame({"content": texts(600)}).write_parquet(source / "a.parquet")
    pl.DataFrame({"text": texts(100)}).write_parquet(source / "b.parquet")
    domain = "domains=[{name: web, paths: in}]"
    settings = (domain, "mixture.method=natural", "budget_tokens=3000", ANY_LOSS)
    dataset, notices = built(recipe, *settings)
    size_bytes = (source / "a.parquet").stat().st_size
    assert (
        f"domain 'web': 1 of 2 files gave no document: {source}/a.parquet (600 records, "
        f"{size_bytes:,} bytes); first: {source}/a.parquet: no column 'text' (columns: content "
    ) in "\n".join(notices)
    lost = read_json(dataset.directory / "stats.json")["domains"]["web"]["lost"]
    assert lost == {
        "records": 600,
        "bytes": size_bytes,
        "records_share": 6 / 7,
        "bytes_share": size_bytes / (size_bytes + (source / "b.parquet").stat().st_size),
        "files_without_document": 1,
    }


@pytest.mark.parametrize("kind", ["arrow", "csv"])
def test_rows_of_a_table_without_the_column_are_counted(
    recipe: Path, source: Path, kind: str
) -> None:
    table = pl.DataFrame({"content": ["plain words"] * 60})
    if kind == "arrow":
        table.write_ipc(source / "a.arrow")
    else:
        table.write_csv(source / "a.csv")
    write_jsonl(source / "b.jsonl", [{"text": text} for text in texts(20)])
    assert over(recipe, ANY_LOSS).stats[0].losses.lost_records == 60


def test_an_empty_file_loses_nothing(recipe: Path, source: Path) -> None:
    for number, text in enumerate(texts(50)):
        (source / f"{number}.py").write_text(text)
        (source / f"{number}_init.py").write_bytes(b"")
    stats = over(recipe).stats[0]
    assert stats.bad_records == 50 and stats.losses.records_share == 0
    assert stats.losses.barren == ()


def test_documents_of_two_domains_are_counted(recipe: Path, source: Path) -> None:
    shared = texts(30)
    write_jsonl(source / "a/a.jsonl", [{"text": text} for text in [*shared, "only here"]])
    write_jsonl(source / "b/b.jsonl", [{"text": text} for text in [*texts(10, 2), *shared]])
    write_jsonl(source / "c/c.jsonl", [{"text": text} for text in texts(10, 3)])
    names = ", ".join(f"{{name: {name}, paths: in/{name}}}" for name in "abc")
    heard = Listener()
    stats = tokenize_domains(load(recipe, (f"domains=[{names}]", SMALL)), 1, heard).stats
    assert [row.copies.documents for row in stats] == [30, 30, 0]
    assert stats[0].copies.tokens == stats[1].copies.tokens > 30
    assert stats[0].to_json()["copies_in_other_domains"]["documents"] == 30
    assert (
        "documents whose text is in another domain, too, and counts in both: 'a' 30 (96.77%), "
        "'b' 30 (75.00%)"
    ) in heard.notices
