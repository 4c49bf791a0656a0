"""What gives no document is named and counted, and a run that loses too much stops."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import re
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard
from conftest import END, Listener, make_documents, write_jsonl
from rich.console import Console
from rich.table import Table

from curate.errors import InputError, RecipeError
from curate.pipeline.build import BuiltDataset, build
from curate.pipeline.tokenize import TokenizedDomains, tokenize_domains
from curate.recipe import load
from curate.report.tables import result_table, stats_table
from curate.runtime.files import read_json
from curate.tokens.tokenizer import from_json

pytestmark = pytest.mark.usefixtures("own_store")

ANY_LOSS = "limits={lost_share: 1}"
SMALL = "tokenizer.train.vocab_size=280"


def render(table: Table) -> str:
    console = Console(width=250, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def texts(count: int, seed: int = 1) -> list[str]:
    return [row["text"] for row in make_documents("wiki", count, seed)]


def over(recipe: Path, *overrides: str, paths: str = "in") -> TokenizedDomains:
    """Tokenise one domain."""
    domain = f"domains=[{{name: web, paths: {paths}}}]"
    return tokenize_domains(load(recipe, (domain, SMALL, *overrides)), 1, Listener())


def heard_over(recipe: Path, *overrides: str) -> list[str]:
    """Tokenise one domain, and return the notices."""
    heard = Listener()
    domain = "domains=[{name: web, paths: in}]"
    tokenize_domains(load(recipe, (domain, SMALL, *overrides)), 1, heard)
    return heard.notices


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
        "damaged_files": 0,
        "unknown_share": 0.0,
        "damaged": [],
        "shrunk_files": 0,
        "shrunk_documents": 0,
        "shrunk_bytes": 0,
        "shrunk_share": 0.0,
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
        "documents whose text is in another domain too, and counts in both: 'a' 30 (96.77%), "
        "'b' 30 (75.00%)"
    ) in heard.notices


@pytest.mark.parametrize("kind", ["jsonl.gz", "jsonl.zst", "parquet"])
def test_a_file_beside_its_compressed_or_converted_copy_is_named(
    recipe: Path, source: Path, kind: str
) -> None:
    rows = [{"text": f"{number} {text}"} for number, text in enumerate(texts(121))]
    plain = write_jsonl(source / "a.jsonl", rows[:60]).read_bytes()
    write_jsonl(source / "b.jsonl", rows[60:])
    copy = source / f"a.{kind}"
    if kind == "parquet":
        pl.DataFrame(rows[:60]).write_parquet(copy)
    else:
        copy.write_bytes((gzip if "gz" in kind else zstandard).compress(plain))
    domain = "domains=[{name: web, paths: in}]"
    settings = (domain, "mixture.method=natural", "budget_tokens=2000", SMALL)
    dataset, notices = built(recipe, *settings)
    second, first = sorted((copy, source / "a.jsonl"), reverse=True)
    assert (
        "domain 'web': 1 file with the same documents as another of the domain, counted again "
        f"({second} holds those of {first})"
    ) in notices
    assert (
        "documents whose text another of their domain has, and counts again: 'web' 60 (33.15%)"
    ) in notices
    stats = read_json(dataset.directory / "stats.json")
    certificate = read_json(dataset.directory / "certificate.json")
    for fields in (stats, certificate):
        copies = fields["domains"]["web"]["copies_in_domain"]
        assert copies["documents"] == 60 and copies["tokens"] > 60
        assert fields["domains"]["web"]["copies_in_other_domains"]["documents"] == 0
    for table in (stats_table(stats), result_table(certificate, None)):
        headings = [str(column.header) for column in table.columns]
        assert "copies" in headings and "in others" not in headings


def test_copies_within_one_file_are_counted_and_no_file_is_named(
    recipe: Path, source: Path
) -> None:
    rows = [{"text": f"{number} {text}"} for number, text in enumerate(texts(30))]
    write_jsonl(source / "a.jsonl", [*rows, *rows[:10]])
    notices = heard_over(recipe)
    assert [line for line in notices if "copies" in line or "counts again" in line] == [
        "documents whose text another of their domain has, and counts again: 'web' 10 (25.00%)"
    ]
    assert not any("same documents" in line for line in notices)


def test_a_table_without_the_column_stops_the_run_before_others_are_tokenised(
    recipe: Path, source: Path
) -> None:
    pl.DataFrame({"id": range(600), "content": texts(600)}).write_parquet(source / "a.parquet")
    pl.DataFrame({"text": texts(100)}).write_parquet(source / "b.parquet")
    said = message(recipe)
    assert said.startswith(
        f"domains[web]: {source}/a.parquet: no column 'text' (columns: id int64, content "
    )
    assert "set text to the key or column that holds the text, as in text: content" in said
    assert "lost_share: 0." in said and not (recipe.parent / ".curate" / "tokens").exists()
    pl.DataFrame({"text": range(600)}).write_parquet(source / "a.parquet")
    assert "'text' is int64, not a string" in message(recipe)


def test_files_of_three_kinds(recipe: Path, source: Path) -> None:
    pl.DataFrame({"content": texts(600)}).write_parquet(source / "a.parquet")
    pl.DataFrame({"text": texts(100)}).write_parquet(source / "b.parquet")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts(500, 2))
    (source / "c.jsonl.bz2").write_bytes(bz2.compress(lines.encode()))
    assert f"{source}/a.parquet: no column 'text'" in message(recipe)
    stats = over(recipe, ANY_LOSS).stats[0]
    assert (stats.documents, stats.losses.lost_records) == (600, 600)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "many", "csv", "json"])
def test_a_key_that_the_first_records_lack_stops_the_run(
    recipe: Path, source: Path, kind: str
) -> None:
    rows = [{"id": str(number), "content": text} for number, text in enumerate(texts(400))]
    lines = [json.dumps(row) for row in rows]
    if kind == "many":
        for number, line in enumerate(lines):
            (source / f"{number}.jsonl").write_text(line)
    elif kind == "csv":
        pl.DataFrame(rows).write_csv(source / "a.csv")
    elif kind == "json":
        (source / "a.json").write_text(json.dumps(rows, indent=1))
    else:
        content = "\n".join(lines).encode()
        (source / f"a.{kind}").write_bytes(gzip.compress(content) if "gz" in kind else content)
    said = message(recipe)
    assert "no field 'text' (fields: id, content)" in said or "no column 'text'" in said
    assert said.startswith("domains[web]: ") and "as in text: content" in said
    domain = "domains=[{name: web, paths: in, text: content}]"
    stats = tokenize_domains(load(recipe, (domain, SMALL)), 1, Listener()).stats
    assert stats[0].documents == 400


OPENED_WARM = """
import sys
from pathlib import Path
from conftest import Listener
from curate.pipeline.tokenize import tokenize_domains
from curate.recipe import load

recipe = load(Path(sys.argv[1]), sys.argv[2:])
source, opened = str(Path(sys.argv[1]).parent / "in"), []
sys.addaudithook(
    lambda event, arguments: event == "open" and source in str(arguments[0])
    and Path(arguments[0]).is_file() and opened.append(Path(arguments[0]).name)
)
tokenize_domains(recipe, 1, Listener())
print(*sorted(set(opened)))
"""


def test_only_files_that_are_not_in_the_store_or_hold_bad_records_are_looked_at(
    recipe: Path, source: Path, bpe: dict[str, Any]
) -> None:
    def write(name: str, *lines: str) -> None:
        (source / name).write_text("".join(f"{line}\n" for line in lines))
        os.utime(source / name, (1, 1))  # else it is read again, as it could still change

    (recipe.parent / "t.json").write_text(json.dumps(bpe))
    lines = [json.dumps({"text": f"{number} {'word ' * 400}"}) for number in range(1100)]
    write("good.jsonl", *lines)
    write("bad.jsonl", "{}", *lines)
    write("small.jsonl", *lines[:10])
    tokenizer = f"tokenizer={{path: t.json, eos: '{END}'}}"
    overrides = ("domains=[{name: web, paths: in}]", tokenizer)
    tokenize_domains(load(recipe, overrides), 1, Listener())
    write("good.csv", "text", *lines[:10])
    write("none.csv", "body", *("line" for _ in range(900_000)))
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    run = partial(
        subprocess.run, [sys.executable, "-c", OPENED_WARM, str(recipe), *overrides],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "none.csv: no column 'text'" in run().stderr
    (source / "none.csv").unlink()
    opened = [run().stdout for _ in range(2)]
    assert opened == ["bad.jsonl good.csv\n", "bad.jsonl\n"]


def test_a_small_file_without_the_key_is_told_and_does_not_stop_the_run(
    recipe: Path, source: Path
) -> None:
    write_jsonl(source / "a.jsonl", [{"body": "x"}])
    write_jsonl(source / "b.jsonl", [{"text": text} for text in texts(500)])
    heard = Listener()
    tokenize_domains(load(recipe, ("domains=[{name: web, paths: in}]", SMALL)), 1, heard)
    assert any("1 of 2 files gave no document" in notice for notice in heard.notices)


def test_tables_win_over_loose_text(recipe: Path, source: Path) -> None:
    (source / "data").mkdir()
    pl.DataFrame({"text": texts(100)}).write_parquet(source / "data/train.parquet")
    (source / "README.md").write_text("# A card\n" * 900)
    (source / "LICENSE").write_text("Do as you like.\n")
    (source / "state.json").write_text('{"_data_files": []}')
    heard = Listener()
    for paths in ("in", '"in/**"', '"in/*"'):
        domain = f"domains=[{{name: web, paths: {paths}}}]"
        (stats,) = tokenize_domains(load(recipe, (domain, SMALL)), 1, heard).stats
        assert (stats.documents, stats.bad_records, stats.files) == (100, 0, 1)
    size_bytes = 9 * 900 + 16 + 19
    assert heard.notices[0].startswith(
        f"domain 'web': loose text beside tables is not read: 3 files, {size_bytes:,} bytes ("
    )
    named = over(recipe, paths="[in/data, in/LICENSE]").stats[0]
    assert named.documents == 101, "what is named is read"
    (source / "README.md").unlink()
    for number, text in enumerate(texts(300)):
        (source / f"{number}.txt").write_text(text * 9)
    assert "300 of plain text" in message(recipe) and "say which to read" in message(recipe)
    assert over(recipe, 'domains.web.glob="*.txt"').stats[0].documents == 300


def test_an_archive_beside_tables_is_not_called_text(recipe: Path, source: Path) -> None:
    write_jsonl(source / "a.jsonl", [{"text": text} for text in texts(40)])
    with zipfile.ZipFile(source / "b.zip", "w") as archive:
        archive.write(source / "a.jsonl")
    size_bytes = (source / "b.zip").stat().st_size
    assert heard_over(recipe)[0] == (
        "domain 'web': what is packed otherwise beside tables is not read: 1 file, "
        f"{size_bytes:,} bytes ({source / 'b.zip'}); unpack what holds data"
    )


def test_a_cache_that_is_a_file_is_named_and_a_wrong_path_leaves_no_cache(
    recipe: Path, source: Path, bpe: dict[str, Any]
) -> None:
    (recipe.parent / "t.json").write_text(json.dumps(bpe))
    domain, tokenizer = "domains=[{name: web, paths: nowhere}]", f"{{path: t.json, eos: '{END}'}}"
    with pytest.raises(InputError, match="nowhere"):
        loaded = load(recipe, (domain, f"tokenizer={tokenizer}", "cache=new"))
        tokenize_domains(loaded, 1, Listener())
    assert not (recipe.parent / "new").exists()
    write_jsonl(source / "a.jsonl", [{"text": "words"}])
    with pytest.raises(RecipeError, match=r"^cache: .*recipe.yaml is no directory; name another"):
        over(recipe, "cache=recipe.yaml")


def test_text_wins_over_records_that_hold_none(recipe: Path, source: Path) -> None:
    for number, text in enumerate(texts(300)):
        (source / f"{number}.py").write_text(text)
    (source / "package.json").write_text('{\n "name": "x"\n}')
    assert over(recipe).stats[0].documents == 300


def shrinking(source: Path) -> tuple[str, ...]:
    """Write two domains of 200 and 100 documents, and return the settings that read them."""
    for name in ("a", "b"):
        write_jsonl(source / f"{name}.jsonl", make_documents("wiki", 100, ord(name)))
    write_jsonl(source / "talk/c.jsonl", make_documents("talk", 100))
    domains = '{name: web, paths: "in/*.jsonl"}, {name: talk, paths: in/talk}'
    return f"domains=[{domains}]", "mixture.method=natural", "budget_tokens=2000", SMALL


def test_sources_that_shrink_stop_the_run_and_are_counted_where_that_is_allowed(
    recipe: Path, source: Path
) -> None:
    settings = shrinking(source)
    first, notices = built(recipe, *settings)
    _, again = built(recipe, *settings)
    assert not any("shrunk" in notice or "is gone" in notice for notice in notices + again)
    lost = first.stats["domains"]["web"]["lost"]
    assert lost["shrunk_files"] == lost["shrunk_documents"] == lost["shrunk_share"] == 0
    assert "shrunk" not in render(stats_table(first.stats))
    before = {path.name: path.read_bytes() for path in first.directory.glob("*.json")}
    (source / "b.jsonl").unlink()
    text = (
        r"^domain 'web' has shrunk by (\d+\.\d)% since the last run in .*, more than "
        r"limits.lost_share \(0.01\): 100 documents and [\d,]+ bytes of text fewer; now 100 and "
        rf"[\d,]+; 1 file gone: {source}/b.jsonl; restore them, accept this with --set "
        r"limits.lost_share=0.\d+, or leave that dataset as it is with --out DIR$"
    )
    with pytest.raises(InputError, match=text) as caught:
        built(recipe, *settings)
    assert {path.name: path.read_bytes() for path in first.directory.glob("*.json")} == before
    remedy = re.search(r"limits.lost_share=0.\d+", str(caught.value))
    assert remedy
    dataset, notices = built(recipe, *settings, remedy[0])
    assert any(
        notice.startswith("domain 'web' has shrunk since the last run") for notice in notices
    )
    fields = dataset.certificate["domains"]["web"]["lost"]
    size_bytes = first.stats["domains"]["web"]["bytes"] - dataset.stats["domains"]["web"]["bytes"]
    counts = {key: fields[f"shrunk_{key}"] for key in ("files", "documents", "bytes")}
    assert counts == {"files": 1, "documents": 100, "bytes": size_bytes}
    assert fields["shrunk_share"] == max(0.5, size_bytes / first.stats["domains"]["web"]["bytes"])
    assert dataset.stats["domains"]["web"]["lost"] == fields
    assert dataset.certificate["domains"]["talk"]["lost"]["shrunk_documents"] == 0
    share = f"{fields['shrunk_share']:.2%}"
    assert share in render(stats_table(dataset.stats))
    assert share in render(result_table(dataset.certificate, None))
    # The same again is allowed without a word, and gives the same files.
    after = {path.name: path.read_bytes() for path in dataset.directory.glob("*.json")}
    _, notices = built(recipe, *settings)
    assert not any("shrunk" in notice for notice in notices)
    assert {path.name: path.read_bytes() for path in dataset.directory.glob("*.json")} == after
    # What is restored is no loss, and neither is a smaller recipe.
    write_jsonl(source / "b.jsonl", make_documents("wiki", 100, ord("b")))
    whole, _ = built(recipe, *settings)
    assert whole.certificate["domains"]["web"]["lost"]["shrunk_documents"] == 0
    heard = Listener()
    fewer = load(recipe, ('domains=[{name: web, paths: "in/a.jsonl"}]', *settings[1:]))
    smaller = build(fewer, 1, heard, overwrite=True)
    said = [notice for notice in heard.notices if "shrunk" in notice or "is gone" in notice]
    assert said[0] == "domain 'talk' is gone: it had 100 documents at the last run here"
    assert said[1].endswith(f"1 file gone: {source}/b.jsonl")
    assert smaller.certificate["domains"]["web"]["lost"]["shrunk_documents"] == 100


def test_damaged_counts_of_the_last_build_are_no_loss(recipe: Path, source: Path) -> None:
    settings = shrinking(source)
    dataset, _ = built(recipe, *settings)
    path = dataset.directory / "stats.json"
    path.write_text(path.read_text().replace('"documents": 200', '"documents": 900'))
    write_jsonl(source / "d.jsonl", make_documents("wiki", 10, 7))
    _, notices = built(recipe, *settings)
    assert not any("shrunk" in notice for notice in notices)
    assert json.loads(path.read_bytes())["domains"]["web"]["lost"]["shrunk_documents"] == 0


def test_a_header_inside_joined_csv_is_counted_but_is_no_loss(recipe: Path, source: Path) -> None:
    rows = "".join(f"{text.strip()},{number}\n" for number, text in enumerate(texts(40)))
    (source / "a.csv").write_text(2 * f"text,id\n{rows}")
    stats = over(recipe).stats[0]
    assert (stats.documents, stats.bad_records, stats.losses.lost_records) == (80, 1, 0)
    assert stats.losses.lost_share == 0


def test_a_single_document_is_not_held_out_and_the_card_says_so(recipe: Path, source: Path) -> None:
    (source / "input.txt").write_text(" ".join(texts(100)))
    dataset, notices = built(
        recipe, "domains=[{name: web, paths: in/input.txt}]", "mixture.method=natural",
        "budget_tokens=2000", "output.format=llmc", "output.options={variant: nanogpt}", SMALL,
    )  # fmt: skip
    assert any(notice.startswith("no validation set for 'web'") for notice in notices)
    card = (dataset.directory / "README.md").read_text()
    assert "There is no validation set: no document is held out." in card
    assert "validation/" not in card and "val.bin" not in card


def test_few_held_out_tokens_are_told(recipe: Path, source: Path) -> None:
    write_jsonl(source / "a.jsonl", make_documents("wiki", 300))
    _, notices = built(
        recipe, "domains=[{name: web, paths: in}]", "mixture.method=natural", "budget_tokens=2000"
    )
    assert any(notice.startswith("few held-out tokens") for notice in notices)
    _, quiet = built(
        recipe, "domains=[{name: web, paths: in}]", "mixture.method=natural", "budget_tokens=2000",
        "validation.documents=0", "output.dir=out/other",
    )  # fmt: skip
    assert not any("held" in notice for notice in quiet)


def test_a_start_token_that_is_left_out_is_told(bpe: dict[str, Any]) -> None:
    template = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
    }
    start = {"id": 400, "content": "<|begin_of_text|>", "special": True}
    for processor in (template, {"type": "Sequence", "processors": [template]}):
        changed = bpe | {"post_processor": processor, "added_tokens": [*bpe["added_tokens"], start]}
        tokenizer = from_json(json.dumps(changed).encode(), END, "llama")
        assert tokenizer.notices == (
            "tokenizer: its template adds '<|begin_of_text|>' to every text, which is left out: "
            f"documents only end with '{END}'",
        )
    assert from_json(json.dumps(bpe).encode(), END, "plain").notices == ()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl.gz", gzip.compress, "the gzip data is cut short"),
        ("a.jsonl.xz", lzma.compress, "the xz data is cut short"),
        ("a.json", lambda data: b"[" + data.strip().replace(b"\n", b",") + b"]", "not closed"),
    ],
)
def test_a_file_that_is_cut_short_is_named(
    recipe: Path, source: Path, name: str, content: Any, reason: str
) -> None:
    write_jsonl(source / "whole.jsonl", [{"text": text} for text in texts(2000, 2)])
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts(400))
    data = content(lines.encode())
    (source / name).write_bytes(data[: len(data) // 2])
    notices = heard_over(recipe, ANY_LOSS)
    (notice,) = [line for line in notices if "cut short" in line]
    start = "domain 'web': 1 of 2 files damaged or cut short, so that more may be missing than is"
    assert notice.startswith(start)
    assert f"{source / name}:" in notice
    assert notice.endswith(reason)


def test_a_file_that_is_cut_short_stops_a_run_that_it_is_much_of(
    recipe: Path, source: Path
) -> None:
    for name in "bc":
        write_jsonl(source / f"{name}.jsonl", [{"text": text} for text in texts(400, ord(name))])
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts(4000))
    data = gzip.compress(lines.encode())
    cut = source / "a.jsonl.gz"
    cut.write_bytes(data[: len(data) // 2])
    said = message(recipe)
    assert said.startswith("domain 'web' may lack up to 33.3% of its bytes, more than limits")
    assert "1 file cut short, and nothing says what followed: " in said and f"{cut}:" in said
    allowed = f"limits.lost_share={said.rpartition('lost_share: ')[2].rstrip('}')}"
    assert over(recipe, allowed).stats[0].documents > 800

    cut.write_bytes(data[:200])
    (loss,) = (stats.losses for stats in over(recipe, ANY_LOSS).stats)
    assert loss.unknown_share == pytest.approx(1 / 3)
    domain = "domains=[{name: web, paths: in}]"
    settings = (domain, "mixture.method=natural", "budget_tokens=2000", SMALL, ANY_LOSS)
    dataset, _ = built(recipe, *settings)
    for name in ("stats", "certificate"):
        fields = read_json(dataset.directory / f"{name}.json")
        lost = fields["domains"]["web"]["lost"]
        assert (lost["damaged_files"], lost["unknown_share"]) == (1, loss.unknown_share)
        (damage,) = lost["damaged"]
        assert damage.startswith(f"{cut}:") and damage.endswith("the gzip data is cut short")
        table = stats_table(fields) if name == "stats" else result_table(fields, None)
        column = next(column for column in table.columns if column.header == "lost")
        assert next(iter(column.cells)).startswith("≥")


@pytest.mark.parametrize("kept", [0.995, 0.3])
def test_a_frame_that_states_its_length_gives_the_exact_loss(
    recipe: Path, source: Path, kept: float
) -> None:
    letters = random.Random(0)
    rows = [{"text": "".join(letters.choices("abcdefgh ", k=999)) + "x"} for _ in range(3000)]
    plain = "".join(json.dumps(row) + "\n" for row in rows).encode()
    data = zstandard.compress(plain, 1)
    path = source / "a.jsonl.zst"
    path.write_bytes(data[: int(len(data) * kept)])
    heard = Listener()
    domain = "domains=[{name: web, paths: in}]"
    loaded = load(recipe, (domain, SMALL, ANY_LOSS))
    (stats,) = tokenize_domains(loaded, 1, heard).stats
    loss = stats.losses
    (damage,) = loss.to_json()["damaged"]
    missing_bytes = int(damage.rpartition("short, ")[2].partition(" of")[0].replace(",", ""))
    assert damage.endswith(f" of {len(plain):,} bytes are missing")
    assert missing_bytes == pytest.approx((1 - kept) * len(plain), abs=200_000)
    lost_bytes = len(plain) - sum(len(json.dumps(row)) + 1 for row in rows[: loss.documents])
    assert loss.bytes_share == pytest.approx(lost_bytes / len(plain), abs=1e-4)
    assert loss.unknown_share == 0 and not any("may be missing" in note for note in heard.notices)


@pytest.mark.parametrize("size", ["small", pytest.param("large", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (b'{"text": "half a rec', "the file ends inside this record"),
        (b'{"text"', "the file ends inside this record"),
        (bytes(512), "the file ends in 512 NUL bytes, as after a crash"),
        (b'{"text": "x' + bytes(5), "the file ends in 5 NUL bytes, as after a crash"),
    ],
)
def test_lines_that_end_inside_a_record_are_cut_short(
    recipe: Path, source: Path, end: bytes, reason: str, size: str
) -> None:
    count = 100 if size == "small" else 9000
    rows = [{"text": f"{number} {text}"} for number, text in enumerate(texts(count))]
    path = write_jsonl(source / "a.jsonl", rows)
    with path.open("ab") as file:
        file.write(end)
    write_jsonl(source / "b.jsonl", [{"text": "another file"}, {"txt": "no text, no line end"}])
    (source / "b.jsonl").write_bytes((source / "b.jsonl").read_bytes().rstrip(b"\n"))
    assert "may lack up to" in message(recipe, "limits.lost_share=0.5")
    (loss,) = (stats.losses for stats in over(recipe, ANY_LOSS).stats)
    assert loss.to_json()["damaged"] == [f"{path}:{count + 1}: not valid JSON: {reason}"]


def test_an_open_quote_loses_the_share_of_its_lines(recipe: Path, source: Path) -> None:
    lines = texts(400)
    lines[100] = '"' + lines[100]
    (source / "a.csv").write_text("text\n" + "\n".join(lines) + "\n")
    assert "loses 74." in message(recipe)
    assert "not valid CSV: unexpected end of data" in message(recipe)


def test_hidden_records_are_told(recipe: Path, source: Path) -> None:
    for name in ("a.jsonl", ".b.jsonl.gz", ".gitattributes"):
        write_jsonl(source / name, [{"text": text} for text in texts(40)])
    notices = heard_over(recipe)
    assert [line for line in notices if "hidden" in line] == [
        f"not read, hidden: {source / '.b.jsonl.gz'}"
    ]
